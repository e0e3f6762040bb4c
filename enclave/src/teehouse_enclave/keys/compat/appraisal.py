# SPDX-License-Identifier: Apache-2.0
"""Appraise evidence in the attestation agent's dialect under one release policy (KEYS §2, B §2.5).

What a policy must say for this dialect to count at all: `dialect` is `coco-aa`, the kind of TEE is in `coco.tees`, and
`coco.unbound_key` is true. The last is the dialect's weakness put into words: the evidence answers our nonce and does
not cover the key that we seal to, so whoever stands between exporter and service can put its own key there.
`sample` evidence is signed by nobody. It is SIMULATED, and only a policy that allows simulated evidence takes it.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.artifacts import snp, tdx
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import MalformedError
from teehouse_enclave.keys.compat.coco import CocoEvidence
from teehouse_enclave.keys.policy import COCO, ReleasePolicy

__all__ = ["CocoVerdict", "appraise_coco", "appraise_report"]

_SHOWN: Final = frozenset({"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "measurement", "host_data"})
"""References that a bare quote or report can show; there is no workload log in this dialect."""


@dataclass(frozen=True, slots=True)
class CocoVerdict:
    """`failed` are the ids of the checks that refuse, `coco.…` or of the catalogue of `core.appraise`."""

    accepted: bool
    tier: str
    failed: tuple[str, ...]
    claims: Mapping[str, Any]

    @property
    def simulated(self) -> bool:
        return self.tier == "simulated"


def appraise_coco(
    evidence: CocoEvidence,
    policy: ReleasePolicy,
    nonce: str,
    now: int,
    collateral: Mapping[str, bytes],
) -> CocoVerdict:
    """Every check of `evidence` for the challenge `nonce` (the ASCII text that the agent was asked with)."""
    failed = []
    if policy.dialect != COCO:
        failed.append("coco.dialect")
    if evidence.tee not in policy.coco_tees:
        failed.append("coco.tee")
    if not policy.unbound_key:
        failed.append("coco.exporter-key")
    asked = nonce.encode("ascii")
    if evidence.tee == "sample":
        appraisal = policy.appraisal
        if not appraisal.simulated_allowed or "simulated" not in appraisal.platforms:
            failed.append("coco.sample")
        if not hmac.compare_digest(evidence.report_data.rstrip(b"\0"), asked):
            failed.append("coco.nonce")
        if appraisal.required_references:
            failed.append("coco.references")
        claims: dict[str, Any] = {"tee": "sample", "simulated": True}
        return CocoVerdict(not failed, "simulated", tuple(failed), claims)
    report_data = asked.ljust(64, b"\0")
    found = appraise_report(evidence, policy.appraisal, report_data, now, collateral)
    failed += found.failed
    return dataclasses.replace(found, accepted=found.accepted and not failed, failed=tuple(failed))


def appraise_report(
    evidence: CocoEvidence,
    appraisal: Policy,
    report_data: bytes,
    now: int,
    collateral: Mapping[str, bytes],
) -> CocoVerdict:
    """The quote or report by itself, over exactly these 64 bytes; `sample` has none and is refused."""
    failed = []
    wanted = [name for name in appraisal.required_references if name not in _SHOWN]
    if wanted:
        failed.append("coco.references")
    if appraisal.devices:
        failed.append("coco.devices")
    mine = tuple(name for name in appraisal.required_references if name in _fitting(evidence.tee))
    policy = dataclasses.replace(appraisal, required_references=mine, freshness_required=True)
    files = {**collateral, **evidence.collateral}
    try:
        if evidence.tee == "tdx":
            verdict = tdx.verify_artifact(
                evidence.report,
                chain=None,
                collateral=files,
                nonce=None,
                report_data=report_data,
                policy=policy,
                now=now,
            )
        elif evidence.tee == "snp":
            files |= {f"cert-{n}": der for n, der in enumerate(evidence.certificates)}
            verdict = snp.verify_artifact(
                evidence.report,
                chain=None,
                collateral=files,
                nonce=None,
                report_data=report_data,
                policy=policy,
                now=now,
            )
        else:
            return CocoVerdict(False, "none", ("coco.tee", *failed), {"tee": evidence.tee})
    except MalformedError as error:
        return CocoVerdict(False, "none", (f"coco.format.{error.code}", *failed), {"tee": evidence.tee})
    failed += [check.id for check in verdict.refusing]
    if verdict.result == "unsupported":
        failed.append("policy.supported")
    accepted = verdict.result == "accepted" and not failed
    claims = {"tee": evidence.tee, "simulated": verdict.tier == "simulated", **verdict.claims}
    return CocoVerdict(accepted, verdict.tier, tuple(dict.fromkeys(failed)), claims)


def _fitting(tee: str) -> frozenset[str]:
    """A policy for both kinds of machine demands of each what that kind has."""
    return (
        frozenset({"measurement", "host_data"})
        if tee == "snp"
        else frozenset({"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"})
    )
