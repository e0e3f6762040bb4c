# SPDX-License-Identifier: Apache-2.0
"""What every `verify_artifact` answers, and the one place that turns a sheet of checks into a result.

A module per technology offers
`verify_artifact(raw, *, chain, collateral, nonce, report_data, policy, now) -> ArtifactVerdict`
(`chain` PEM or DER bytes, `collateral` file name to bytes). It raises `MalformedError` when `raw` is no such artifact,
`LocalError` for a wrong argument, and nothing else. An `ArtifactVerdict` yields no sealing key, ever.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, not_applicable, passed, skipped
from teehouse_core.appraise.verdict import Check, Tier
from teehouse_core.errors import LocalError

__all__ = ["ArtifactResult", "ArtifactVerdict", "conclude", "expected_report_data", "report_data_outcome"]

REPORT_DATA: Final = 64  # bytes, in TDX quotes and SNP reports alike

ArtifactResult = Literal["accepted", "refused", "unsupported"]


@dataclass(frozen=True, slots=True)
class ArtifactVerdict:
    """The checks of one artifact under one policy at one time; `unsupported` means that this version cannot tell."""

    result: ArtifactResult
    tier: Tier
    checks: tuple[Check, ...]
    claims: Mapping[str, Any]
    newest: Newest = field(default_factory=dict, repr=False)

    @property
    def refusing(self) -> tuple[Check, ...]:
        """The checks that refuse, in order."""
        return tuple(check for check in self.checks if check.refuses)

    def to_json(self) -> dict[str, Any]:
        """`{"result","tier","checks":[…],"claims":{…}}`, JSON-ready; equal inputs give equal output."""
        return {
            "result": self.result,
            "tier": self.tier,
            "checks": [check.to_json() for check in self.checks],
            "claims": dict(self.claims),
        }


def conclude(
    sheet: Sheet,
    *,
    floor: Set[str],
    tier: Tier,
    claims: Mapping[str, Any],
    supported: bool = True,
    newest: Newest | None = None,
) -> ArtifactVerdict:
    """Accepted only if every check of `floor` passed, no written check refuses, and the tier is not `none`.

    A floor check that nobody wrote is added as skipped, so that a forgotten check refuses and shows. The tier is the
    chain's, as in `Verdict`: genuine hardware can be refused.
    """
    checks = sheet.finish(floor, only=True)
    good = all(sheet.state(check_id) == "passed" for check_id in floor) and tier != "none"
    accepted = good and bool(floor) and not any(check.refuses for check in checks)
    result: ArtifactResult = "accepted" if accepted else "refused"
    return ArtifactVerdict(result if supported else "unsupported", tier, checks, claims, newest or {})


def expected_report_data(nonce: bytes | None, report_data: bytes | None) -> bytes | None:
    """What the caller expects: 64 bytes of report data, or a nonce of up to 64 padded with zeros, or nothing.

    Raises `LocalError` (`report-data-size`, `nonce-size`).
    """
    if report_data is not None and len(report_data) != REPORT_DATA:
        raise LocalError(f"report data has {REPORT_DATA} bytes", code="report-data-size")
    if nonce is not None and not 0 < len(nonce) <= REPORT_DATA:
        raise LocalError(f"a nonce has 1 to {REPORT_DATA} bytes", code="nonce-size")
    padded = nonce.ljust(REPORT_DATA, b"\0") if nonce is not None else None
    if padded is not None and report_data is not None and padded != report_data:
        raise LocalError("nonce and report data name different values", code="report-data-size")
    return report_data if report_data is not None else padded


def report_data_outcome(claimed: bytes, expected: bytes | None, policy: Policy) -> Outcome:
    """The outcome of `artifact.report-data`; with nothing expected it refuses where the policy demands freshness."""
    if expected is None:
        if policy.freshness_required:
            return skipped("supply the expected report data or nonce: the policy demands freshness", claimed)
        return not_applicable(f"nothing to compare with was given; it holds {claimed.hex()}")
    if hmac.compare_digest(claimed, expected):
        return passed(claimed, expected)
    return failed("the report was made for other report data: replayed, or for somebody else", claimed, expected)
