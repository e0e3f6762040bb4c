# SPDX-License-Identifier: Apache-2.0

"""Vectors of NVIDIA devices under SIMULATED roots: nodes with GPUs and switches, single reports, single manifests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import forge_nvidia as forge
from cryptography.x509.ocsp import OCSPCertStatus
from evidence_kit import Evidence, sentence, slug
from forge_nvidia import NOW, Device, pki
from test_nvidia_forged import CASES, ENDPOINT, FORMAT, NONCE, Case, flipped, foreign_signer

from teehouse_core.appraise.policy import GpuPolicy, Policy
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral

EVALUATE = Policy.preset("evaluate")
LOOSE = dataclasses.replace(EVALUATE, gpu=GpuPolicy(rim_required=False, revocation_required=False))


def nodes() -> Iterator[Evidence]:
    """The cases of the forge's own tests; one whose failures come together is shown where a check needs it."""
    for case in CASES:
        failing = sorted(case.failing)
        also: tuple[str, ...] = ()
        if case.failing == FORMAT:
            failing = ["gpu.report.format"]
            also = tuple(sorted(FORMAT - {"gpu.report.format"}))
        elif len(failing) > 1:
            continue
        expect = f"reject/{failing[0]}" if failing else "accept"
        what = "Devices"
        description = sentence(what, case.name) if failing else f"{what}: {case.name}."
        yield Evidence(
            id=f"nvidia-node-{slug(case.name)}",
            family="nvidia",
            stage="appraise",
            description=description,
            expect=expect,
            also=also,
            policy=case.policy,
            now=case.now,
            forge=lambda c=case: node(c),
            fixed={"nonce": NONCE, "endpoint": ENDPOINT},
        )


def node(case: Case) -> dict[str, Any]:
    return {"bundle": case.bytes()}


def files(devices: list[Device]) -> dict[str, bytes]:
    parts = NvidiaCollateral(tuple(forge.rims(devices)), tuple(forge.answers(devices)))
    found = {f"{n}.xml": raw for n, raw in enumerate(parts.rims)}
    return found | {f"{n}.der": raw for n, raw in enumerate(parts.ocsp)}


def device(
    name: str,
    expect: str,
    make: Callable[[], Device],
    policy: Policy = EVALUATE,
    *,
    kind: str = forge.GPU,
    spoil: Callable[[bytes], bytes] = lambda raw: raw,
    chain: Callable[[Device], bytes] = lambda d: d.pem.encode(),
    collateral: Callable[[list[Device]], dict[str, bytes]] = files,
    nonce: bytes = NONCE,
    now: int = NOW,
    also: tuple[str, ...] = (),
) -> Evidence:
    def made() -> dict[str, Any]:
        one = make()
        return {"artifact": spoil(one.report(NONCE)), "chain": chain(one), "collateral": collateral([one])}

    what = "Device report"
    description = f"{what}: {name}." if expect == "accept" else sentence(what, name)
    fixed = {"type": kind, "nonce": nonce}
    return Evidence(f"nvidia-{slug(name)}", "nvidia", "artifact", description, expect, policy, now, made, fixed, also)


def reports() -> Iterator[Evidence]:
    kinds: tuple[tuple[str, Callable[[], Device], str], ...] = (
        ("GH100", forge.gpu, forge.GPU),
        ("GB100", lambda: forge.gpu(chip="GB100", mode=1), forge.GPU),
        ("LS10", forge.switch, forge.SWITCH),
    )
    for chip, make, kind in kinds:
        yield device(f"{chip} right", "accept", make, kind=kind)
        yield device(
            f"{chip} without manifests and answers where none are demanded",
            "accept",
            make,
            LOOSE,
            kind=kind,
            collateral=lambda _: {},
        )
        yield device(
            f"{chip} bit flipped in a measurement",
            "reject/gpu.report.signature",
            make,
            LOOSE,
            kind=kind,
            spoil=flipped(45 + 55 * 20 + 20),
            collateral=lambda _: {},
        )
        yield device(
            f"{chip} bit flipped in the signature",
            "reject/gpu.report.signature",
            make,
            kind=kind,
            spoil=flipped(-1 - 40),
        )
        yield device(f"{chip} another nonce", "reject/gpu.report.nonce", make, kind=kind, nonce=bytes(32))
        yield device(
            f"{chip} measurement that no manifest lists",
            "reject/gpu.rim.measurements",
            lambda m=make: dataclasses.replace(m(), measurements={9: bytes(48)}),
            kind=kind,
        )
        yield device(
            f"{chip} under NVIDIA's own roots",
            "reject/gpu.certificate.chain",
            make,
            dataclasses.replace(Policy(), gpu=LOOSE.gpu),
            kind=kind,
            collateral=lambda _: {},
        )
        yield device(
            f"{chip} device revoked",
            "reject/gpu.certificate.revocation",
            make,
            kind=kind,
            collateral=lambda d: (
                files(d) | {"revoked.der": forge.ocsp_response(d[0].chain[1], status=OCSPCertStatus.REVOKED)}
            ),
        )
        yield device(f"{chip} cut by a byte", "malformed", make, kind=kind, spoil=lambda r: r[:-1])
        yield device(f"{chip} a byte too many", "malformed", make, kind=kind, spoil=lambda r: r + b"\0")
    yield device("GPU called a switch", "reject/gpu.device.identity", forge.gpu, kind=forge.SWITCH)
    yield device("switch called a GPU", "reject/gpu.device.identity", forge.switch, kind=forge.GPU)
    yield device(
        "switch not locked",
        "reject/gpu.switch.locked",
        lambda: forge.switch().with_opaque(n25=b"\0\0"),
        kind=forge.SWITCH,
    )
    yield device("chain turned round", "malformed", forge.gpu, chain=lambda _: b"no certificates")
    yield device("report twice", "malformed", forge.gpu, spoil=lambda r: r + r)
    yield device("report of SPDM 1.2", "malformed", forge.gpu, spoil=lambda r: b"\x12" + r[1:])


def manifest(
    name: str,
    expect: str,
    make: Callable[[], bytes],
    policy: Policy = EVALUATE,
    *,
    answers: Callable[[], list[bytes]] | None = None,
    now: int = NOW,
    also: tuple[str, ...] = (),
) -> Evidence:
    def made() -> dict[str, Any]:
        replies = answers() if answers is not None else [forge.ocsp_response(c) for c in signers()]
        return {"artifact": make(), "collateral": {f"{n}.der": raw for n, raw in enumerate(replies)}}

    description = f"Manifest: {name}." if expect == "accept" else sentence("Manifest", name)
    return Evidence(
        f"nvidia-rim-{slug(name)}", "nvidia", "artifact", description, expect, policy, now, made, {"type": "rim"}, also
    )


def signers() -> list[Any]:
    return [pki().rim_signer.certificate, pki().rim_l3.certificate, pki().rim_ca.certificate]


def manifests() -> Iterator[Evidence]:
    def text(old: bytes, new: bytes) -> Callable[[], bytes]:
        return lambda: forge.driver_rim().replace(old, new, 1)

    yield manifest("driver", "accept", forge.driver_rim)
    yield manifest("VBIOS", "accept", forge.vbios_rim)
    yield manifest("switch", "accept", forge.switch_rim)
    yield manifest(
        "golden value changed",
        "reject/gpu.rim.signature",
        text(forge.golden_digest("GH100", 7).hex().encode(), b"0" * 96),
    )
    yield manifest("golden value made inactive", "reject/gpu.rim.signature", text(b'active="True"', b'active="False"'))
    yield manifest("version changed", "reject/gpu.rim.signature", text(b"590.48.01", b"590.48.02"))
    yield manifest(
        "signed by another key",
        "reject/gpu.rim.signature",
        lambda: forge.driver_rim(signer=dataclasses.replace(pki().rim_signer, key=forge.key("x"))),
    )
    foreign = lambda: forge.driver_rim(signer=foreign_signer()[0], chain=foreign_signer()[1])  # noqa: E731
    loose = dataclasses.replace(EVALUATE, gpu=GpuPolicy(revocation_required=False))
    yield manifest("under another root of the same name", "reject/gpu.rim.chain", foreign, loose)
    yield manifest(
        "under NVIDIA's own roots",
        "reject/gpu.rim.chain",
        forge.driver_rim,
        dataclasses.replace(Policy(), gpu=loose.gpu),
    )
    yield manifest("signer over", "reject/gpu.rim.chain", forge.driver_rim, loose, now=NOW + 401 * forge.DAY)
    yield manifest(
        "signer revoked",
        "reject/gpu.rim.revocation",
        forge.driver_rim,
        answers=lambda: [
            forge.ocsp_response(c, status=OCSPCertStatus.REVOKED if n == 0 else OCSPCertStatus.GOOD)
            for n, c in enumerate(signers())
        ],
    )
    yield manifest("no answer for its signer", "reject/gpu.rim.revocation", forge.driver_rim, answers=list)
    for name, make in (
        ("cut", lambda: forge.driver_rim()[:-20]),
        ("with a DOCTYPE", lambda: b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + forge.driver_rim()),
        ("with something behind it", lambda: forge.driver_rim() + b"<x/>"),
        ("without a signature", lambda: forge.driver_rim().replace(b"ds:Signature", b"ds:Other")),
        ("inside another element", lambda: b'<x xmlns="y">' + forge.driver_rim() + b"</x>"),
        ("not XML", lambda: b"RIM"),
    ):
        yield manifest(name, "malformed", make)


def vectors() -> Iterator[Evidence]:
    yield from nodes()
    yield from reports()
    yield from manifests()
