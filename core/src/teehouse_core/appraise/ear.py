# SPDX-License-Identifier: Apache-2.0
"""A verdict as an EAT Attestation Result: draft-ietf-rats-ear-04 with the trust vector of draft-ietf-rats-ar4si.

One submodule per component. A trust vector is computed from the checks alone, component by component, and its tier is
the worst of its members, as AR4SI demands; what no check looked at is left out (no claim). Signing is ES256, optional.
This is for other people's Relying Parties: Teehouse itself believes `Verdict`, never a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from teehouse_core.appraise.verdict import Check, Verdict
from teehouse_core.errors import LocalError
from teehouse_core.wire.canonical import b64u

__all__ = ["PROFILE", "VERIFIER", "ear_of", "sign_ear", "trust_tier", "trust_vector"]

PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
VERIFIER: Final = "Teehouse"

# AR4SI values. 2 to 31 affirm, 32 to 95 warn, 96 to 127 contraindicate; 99 means that cryptography failed.
AFFIRMING: Final = 2
WARNING: Final = 32
CONTRAINDICATED: Final = 96
UNRECOGNIZED: Final = 97
CRYPTO_FAILED: Final = 99
HARDWARE_UNSAFE: Final = 32  # genuine, with known weaknesses

_CRYPTO: Final = ("signature", "signatures", "chain", "attestation-key", "tcb-info", "qe-identity")
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    # member of the vector: beginnings of the ids of the checks that speak about it
    "instance-identity": ("policy.machine", "binding.", "gpu.device.identity", "devices.unique", "artifact."),
    "configuration": ("tdx.td.", "sgx.enclave.", "snp.guest.", "snp.id.", "gpu.mode", "gpu.switch", "policy."),
    "executables": (
        "tdx.reference",
        "workload.",
        "snp.reference",
        "gpu.rim",
        "gpu.driver",
        "gpu.vbios",
        "tpm.",
        "eventlog.",
        "az.",
    ),
    "hardware": (
        "tdx.quote",
        "tdx.qe",
        "tdx.pck",
        "tdx.collateral",
        "tdx.tcb",
        "tdx.module",
        "tdx.dcap",
        "snp.",
        "gpu.report",
        "gpu.certificate",
    ),
}
_SUBMODS: Final[Mapping[str, tuple[str, ...]]] = {
    "cpu0": ("silicon", "quote", "firmware"),
    "workload": ("workload", "binding", "release", "policy"),
}


def trust_tier(value: int) -> str:
    """The tier of one AR4SI value."""
    if value in (0, 1):
        return "none"
    return "affirming" if value < WARNING else "warning" if value < CONTRAINDICATED else "contraindicated"


def trust_vector(checks: Iterable[Check], *, simulated: bool = False) -> dict[str, int]:
    """AR4SI vector of one component's checks; a member that no made check speaks about is absent."""
    mine = [check for check in checks if check.state != "not-applicable"]
    vector: dict[str, int] = {}
    taken: set[str] = set()
    for member, beginnings in _MEMBERS.items():
        about = [c for c in mine if c.id not in taken and c.id.startswith(beginnings)]
        taken |= {c.id for c in about}
        if about:
            vector[member] = _value(member, about)
    if "hardware" in vector and vector["hardware"] < CONTRAINDICATED:
        # Memory of a TD, an SNP guest or a GPU in confidential mode is encrypted, as far as the hardware is genuine.
        vector["runtime-opaque"] = AFFIRMING
    if simulated:  # the root proves nothing, whatever hangs below it
        vector = {member: max(value, WARNING) for member, value in vector.items()}
    return dict(sorted(vector.items()))


def ear_of(verdict: Verdict) -> dict[str, Any]:
    """The claims set of the EAR, JSON-ready; equal verdicts give equal claims."""
    simulated = verdict.tier == "simulated"
    parts = verdict.claims.get("submods", {})
    submods: dict[str, Any] = {}
    for name, claims in parts.items():
        groups = _SUBMODS.get(name)
        own = [c for c in verdict.checks if groups and c.group in groups]
        status = str(claims.get("ear.status", "none"))
        vector = trust_vector(own, simulated=simulated) if groups else _device_vector(status)
        submods[name] = {
            "ear_status": _worst([status, *map(trust_tier, vector.values())]) if groups else status,
            **({"ear_trustworthiness_vector": vector} if vector else {}),
            "ear_appraisal_policy_ids": [f"urn:sha256:{verdict.policy}"],
            "teehouse.claims": {key: value for key, value in claims.items() if key != "ear.status"},
        }
    ear: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": verdict.at,
        "ear_verifier_id": {"developer": VERIFIER, "build": "teehouse-core"},
        "ear_status": "contraindicated" if verdict.result == "refused" else _worst(_statuses(submods)),
        "submods": submods,
        "teehouse.result": verdict.result,
        "teehouse.tier": verdict.tier,
        "teehouse.evidence_sha256": verdict.bundle_sha256,
        "teehouse.keyset_sha256": verdict.claims.get("keyset_sha256", ""),
        "teehouse.checks": [
            {"id": c.id, "state": c.state, "required": c.required, "clause": c.clause} for c in verdict.checks
        ],
    }
    if verdict.result == "accepted":
        ear["exp"] = verdict.not_after
    return ear


def _device_vector(status: str) -> dict[str, int]:
    """A device's checks are folded into one line per id in the verdict; its own status is all there is of its own."""
    value = {"affirming": AFFIRMING, "warning": WARNING, "contraindicated": CONTRAINDICATED}.get(status)
    return {} if value is None else {"hardware": value}


def sign_ear(claims: Mapping[str, Any], key_pem: bytes) -> str:
    """The claims as a compact JWT, ES256 (RFC 7515, RFC 7518 §3.4), by an unencrypted P-256 key in PEM.

    Raises `LocalError` (`sign-key`).
    """
    try:
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError):
        raise LocalError("the signing key does not parse", code="sign-key", hint="a P-256 key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise LocalError("the signing key is not a P-256 key", code="sign-key", hint="ES256 needs a P-256 key in PEM")
    head = b64u(_json({"alg": "ES256", "typ": "JWT"}))
    text = f"{head}.{b64u(_json(claims))}"
    r, s = decode_dss_signature(key.sign(text.encode("ascii"), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{b64u(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _value(member: str, about: list[Check]) -> int:
    refusing = [c for c in about if c.refuses]
    if any(c.state == "failed" and c.id.endswith(_CRYPTO) for c in refusing):
        return CRYPTO_FAILED
    if any(c.state == "failed" for c in refusing):
        known = member == "hardware" and all(c.id in ("tdx.tcb.status", "tdx.tcb.advisories") for c in refusing)
        return HARDWARE_UNSAFE if known else CONTRAINDICATED
    if refusing:
        return UNRECOGNIZED
    if any(c.state in ("failed", "skipped") for c in about):
        return WARNING + 1 if member == "executables" else WARNING
    return AFFIRMING


def _statuses(submods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [str(part["ear_status"]) for part in submods.values()]


def _worst(statuses: list[str]) -> str:
    order = ("affirming", "none", "warning", "contraindicated")
    return max(statuses, key=order.index, default="none")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
