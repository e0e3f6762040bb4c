# SPDX-License-Identifier: Apache-2.0
"""One report of an NVIDIA GPU or NVSwitch, under a policy at a time: `verify_artifact`.

A genuine report says which device with which firmware, not in whose machine it sits. Chain, manifests and revocation
answers are separate files, as NVIDIA's tools and services give them; what is missing is a skipped check that refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from teehouse_core.appraise.artifacts.base import ArtifactVerdict, conclude
from teehouse_core.appraise.checks_nvidia import (
    GPU_CHECKS,
    GPU_FLOOR,
    DeviceEvidence,
    check_device,
    device_claims,
)
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.rimshelf import Shelf
from teehouse_core.appraise.roots_nvidia import NvidiaRoots, nvidia_roots_for
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.appraise.verdict import Tier
from teehouse_core.appraise.x509chain import load_pem_chain
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence import der
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.nvidia import parse_report
from teehouse_core.evidence.nvidia_collateral import MAX_CRLS, MAX_OCSP, MAX_RIMS, NvidiaCollateral

__all__ = ["find_collateral", "load_chain", "roots_for", "verify_artifact"]

NONCE_SIZE: Final = 32  # bytes
MAX_CHAIN: Final = 8  # certificates; a device chain has five, with its root
MAX_COLLATERAL: Final = 16 * 1024 * 1024  # bytes of one JSON file


def verify_artifact(
    raw: bytes,
    *,
    chain: bytes | None,
    collateral: Mapping[str, bytes] | None,
    nonce: bytes | None,
    report_data: bytes | None,
    policy: Policy,
    now: int,
    kind: str = "",
) -> ArtifactVerdict:
    """Appraise one report at `now` (Unix seconds).

    `chain`: the device's certificates, PEM or DER, leaf first. `collateral`: files by name, of which manifests (XML),
    OCSP responses and CRLs (DER or PEM) and bundles' `nvidia` collateral (JSON) are read. `nonce`: the 32 bytes that
    the report must carry. `kind`: `nvidia-gpu` or `nvidia-nvswitch` when the caller knows, else empty. Raises
    `MalformedError` when `raw` is no report, `LocalError` for wrong arguments.
    """
    if nonce is not None and len(nonce) != NONCE_SIZE:
        raise LocalError(f"a nonce has {NONCE_SIZE} bytes", code="nonce-size")
    if report_data is not None:
        hint = "a device report carries a nonce of 32 bytes; compare that"
        raise LocalError("a device report has no report data", code="report-data-size", hint=hint)
    certificates = load_chain(chain) if chain is not None else None
    roots, tier = roots_for(certificates, policy)
    shelf = Shelf(find_collateral(collateral or {}), roots, policy, now)
    sheet = Sheet()
    facts = check_device(sheet, DeviceEvidence("device", kind, "", raw, certificates), shelf, nonce, policy)
    if facts.report is None:
        parse_report(raw)  # raises, and says why
    switch = facts.identity is not None and facts.identity.is_switch
    claims: dict[str, Any] = {
        "type": kind or ("nvidia-nvswitch" if switch else "nvidia-gpu"),
        "policy": policy.name,
        **device_claims(facts, sheet),
    }
    proven = sheet.state("gpu.certificate.chain") == "passed"
    floor = GPU_FLOOR | {*GPU_CHECKS} - _optional(sheet)
    return conclude(sheet, floor=floor, tier=tier if proven else "none", claims=claims)


def roots_for(chain: tuple[x509.Certificate, ...] | None, policy: Policy) -> tuple[NvidiaRoots, Tier]:
    """NVIDIA's roots, unless the policy allows simulated evidence and the chain ends in the simulated device root."""
    simulated = nvidia_roots_for("simulated")
    if policy.simulated_allowed and chain and chain[-1] in (simulated.device, simulated.rim):
        return simulated, "simulated"
    return nvidia_roots_for("hardware"), "hardware"


def load_chain(data: bytes) -> tuple[x509.Certificate, ...]:
    """Certificates of PEM text or joined DER, leaf first. Raises `MalformedError` (`certificate-chain`, `der`)."""
    if data.lstrip()[:5] == b"-----":
        return load_pem_chain(data, MAX_CHAIN)
    pieces = [whole for _, _, whole in der.elements(data)]
    if not 1 <= len(pieces) <= MAX_CHAIN:
        raise MalformedError(f"chain has {len(pieces)} certificates", code="certificate-chain")
    try:
        return tuple(x509.load_der_x509_certificate(piece) for piece in pieces)
    except (ValueError, x509.InvalidVersion):
        raise MalformedError("certificate chain does not parse", code="certificate-chain") from None


def find_collateral(files: Mapping[str, bytes]) -> NvidiaCollateral:
    """What of `files` is NVIDIA collateral, by content and in the order of names; other files are passed over."""
    rims: list[bytes] = []
    answers: list[bytes] = []
    crls: list[bytes] = []
    for name in sorted(files):
        data = files[name]
        start = data.lstrip()[:1]
        if start == b"<":
            rims.append(data)
        elif start == b"{":
            found = _from_json(data)
            rims += found.rims
            answers += found.ocsp
            crls += found.crl
        elif _is_ocsp(data):
            answers.append(data)
        elif (crl := _crl(data)) is not None:
            crls.append(crl)
    return NvidiaCollateral(tuple(rims[:MAX_RIMS]), tuple(answers[:MAX_OCSP]), tuple(crls[:MAX_CRLS]))


def _optional(sheet: Sheet) -> set[str]:
    """Checks that may stay open: the ones that do not apply here, and those that the policy does not demand."""
    checks = [sheet.check(check_id) for check_id in GPU_CHECKS]
    return {c.id for c in checks if c is not None and (c.state == "not-applicable" or not c.required)}


def _from_json(data: bytes) -> NvidiaCollateral:
    try:
        value = load_object(data, limit=MAX_COLLATERAL, what="collateral")
        for member in ("collateral", "nvidia"):
            inner = value.get(member)
            value = inner if isinstance(inner, dict) else value
        return NvidiaCollateral.parse(value)
    except MalformedError:
        return NvidiaCollateral()


def _is_ocsp(data: bytes) -> bool:
    try:
        ocsp.load_der_ocsp_response(data)
    except Exception:  # as in Sheet.run: certificate libraries raise more than ValueError on hostile bytes
        return False
    return True


def _crl(data: bytes) -> bytes | None:
    load = x509.load_pem_x509_crl if data.lstrip()[:5] == b"-----" else x509.load_der_x509_crl
    try:
        return load(data).public_bytes(Encoding.DER)
    except Exception:  # as above
        return None
