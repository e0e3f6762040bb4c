# SPDX-License-Identifier: Apache-2.0
"""One right bundle for each technology, with the roots, policy and question under which it is accepted.

For what needs whole evidence and does not care what is in it: fuzzing, benches. The parts come from the forges beside
this; keys and signatures differ between processes.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import forge_nvidia
import forge_snp
import forge_tdx
import forge_tpm
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.appraise.anchors import PINNED, Anchors
from teehouse_core.appraise.appraise import appraise_under
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.appraise.roots import SIMULATED_ROOT_PEM
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.evidence.bundle import build_bundle, device_entry, log_entry
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.evidence.replay import event_digest, host_data, replay, workload_events
from teehouse_core.wire import binding
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, Software, build_keyset, key_id
from teehouse_core.wire.suites import DEFAULT_SUITE
from teehouse_enclave.platform import simulated
from teehouse_enclave.platform.base import InsecurePlatformWarning

__all__ = ["ENDPOINT", "LOG", "NONCE", "NOW", "Scene", "keyset", "nvidia", "snp", "tdx", "tpm"]

NOW = 1_790_000_000  # Unix seconds, as in every forge
ENDPOINT, NODE, NONCE = "ep-1", "node-1", bytes(range(32))
LOG = workload_events(
    release="0.1.0", image_sha256="aa" * 32, config_sha256="bb" * 32, weights_sha256="cc" * 32, model="tiny"
)
DIGESTS = tuple(event_digest(event, content) for event, content in LOG)
CHALLENGE = binding.challenge(binding.INTERACTIVE, NONCE)
STANDARD = replace(Policy.preset("standard"), required_references=())


@dataclass(frozen=True)
class Scene:
    """A bundle and everything that `appraise_under` wants beside it. `extra` holds parts, for whoever compares."""

    name: str
    bundle: bytes
    policy: Policy
    anchors: Anchors = PINNED
    endpoint: str = ENDPOINT
    nonce: bytes = NONCE
    extra: Mapping[str, Any] = field(default_factory=dict)

    def appraise(self) -> Verdict:
        return appraise_under(self.anchors, self.bundle, self.policy, NOW, endpoint=self.endpoint, nonce=self.nonce)


@cache
def keyset() -> bytes:
    public = hashlib.sha512(b"pk").digest() * 19
    return build_keyset(
        role="node",
        endpoint=ENDPOINT,
        node=NODE,
        hpke=[HpkeKey(key_id(DEFAULT_SUITE, public), DEFAULT_SUITE, public, NOW, NOW + 3600)],
        sign=[],
        model=Model("tiny", "cc" * 32),
        software=Software("0.1.0", "aa" * 32, "bb" * 32),
        capabilities=Capabilities("none", "none", "none", ()),
        not_before=NOW,
        not_after=NOW + 3600,
    )


def report_data(devices: Sequence[tuple[int, bytes, bytes]] = ()) -> bytes:
    return binding.report_data(Keyset.parse(keyset()).digest, binding.devices_digest(devices), CHALLENGE)


def bundle(platform: str, report: bytes, collateral: Mapping[str, Any], **more: Any) -> bytes:
    return build_bundle(
        endpoint=ENDPOINT,
        node=NODE,
        keyset=keyset(),
        challenge_kind=binding.INTERACTIVE,
        challenge_value=NONCE,
        platform_type=platform,
        report=report,
        workload_log=[log_entry(event, content) for event, content in LOG],
        collateral=dict(collateral),
        **more,
    )


def tdx(version: int = 4) -> Scene:
    """A TDX quote of version 4 (TD report 1.0) or 5 (1.5) with Intel's collateral, under the simulated root."""

    def bound(report: Any) -> Any:
        return replace(report, report_data=report_data(), rtmr=(*report.rtmr[:3], replay(DIGESTS)))

    forged = forge_tdx.ForgedQuote(version=version, later=version == 5, report=bound)
    root = x509.load_pem_x509_certificate(SIMULATED_ROOT_PEM)
    quote, endorsements = forged.quote(), forged.endorsements()
    return Scene(
        f"tdx-v{version}",
        bundle("tdx", quote, {"intel": endorsements}),
        STANDARD,
        replace(PINNED, intel=lambda _: root),
        extra={"quote": quote, "collateral": endorsements, "root": root},
    )


def snp(product: str = "Genoa", kind: str = "VCEK") -> Scene:
    """An SNP report of version 5 with AMD's chain and list, under a TEST root."""
    forged = forge_snp.Forge(product=product, kind=kind, host_data=host_data(DIGESTS), report_data=report_data())
    report, collateral = forged.report(), forged.collateral()
    return Scene(
        f"snp-{product.lower()}-{kind.lower()}",
        bundle("sev-snp", report, {"amd": collateral.to_dict()}),
        replace(STANDARD, snp=replace(STANDARD.snp, csp_ids=(forged.csp_id,))),
        replace(PINNED, amd=lambda _: forge_snp.TEST_ROOTS),
        extra={"report": report, "collateral": collateral},
    )


def nvidia(gpus: int = 1, switches: int = 0) -> Scene:
    """A simulated machine with so many devices, their manifests and revocation answers, under the simulated roots."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecurePlatformWarning)
        machine = simulated.SimulatedPlatform(clock=lambda: NOW, machine=b"machine-for-test")
    for event, content in LOG:
        machine.extend(event, content)
    devices = forge_nvidia.machine(gpus, switches) if switches else [forge_nvidia.gpu(n) for n in range(gpus)]
    nonce = binding.device_nonce(Keyset.parse(keyset()).digest, CHALLENGE)
    reports = [device.report(nonce) for device in devices]
    parts = [
        (
            binding.GPU if device.kind == forge_nvidia.GPU else binding.NVSWITCH,
            report,
            b"".join(c.public_bytes(Encoding.DER) for c in device.chain),
        )
        for device, report in zip(devices, reports, strict=True)
    ]
    evidence = machine.collect(report_data(parts))
    collateral = NvidiaCollateral(tuple(forge_nvidia.rims(devices)), tuple(forge_nvidia.answers(devices)))
    entries = [device_entry(d.kind, d.arch, report, d.pem) for d, report in zip(devices, reports, strict=True)]
    return Scene(
        f"nvidia-{gpus}-{switches}",
        bundle(
            "simulated",
            evidence.report,
            {**evidence.collateral, "nvidia": collateral.to_dict()},
            devices=entries,
        ),
        Policy.preset("evaluate"),
        extra={"devices": devices, "reports": reports, "collateral": collateral, "nonce": nonce},
    )


def tpm(key: Any = None) -> Scene:
    """A TPM quote with its boot log; the policy names the attestation key and the registers."""
    forged = forge_tpm.TpmBundle(key=key or forge_tpm.ecc_key())
    table = TpmPolicy(references=forged.references, attestation_keys=(forged.pin,))
    return Scene(
        "tpm",
        forged.build(),
        replace(STANDARD, platforms=("tpm",), tpm=table),
        endpoint="ep-1",
        nonce=forged.nonce,
        extra={"forged": forged},
    )
