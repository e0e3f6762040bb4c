# SPDX-License-Identifier: Apache-2.0
"""What every `verify_artifact` answers, and the one place that turns a sheet of checks into a result.

A module per technology offers
`verify_artifact(raw, *, chain, collateral, nonce, report_data, policy, now) -> ArtifactVerdict`
(`chain` PEM or DER bytes, `collateral` file name to bytes). It raises `MalformedError` when `raw` is no such artifact,
`LocalError` for a wrong argument, and nothing else. An `ArtifactVerdict` yields no sealing key, ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

from teehouse_core.appraise.sheet import Sheet
from teehouse_core.appraise.verdict import Check, Tier

__all__ = ["ArtifactResult", "ArtifactVerdict", "conclude"]

ArtifactResult = Literal["accepted", "refused", "unsupported"]


@dataclass(frozen=True, slots=True)
class ArtifactVerdict:
    """The checks of one artifact under one policy at one time; `unsupported` means that this version cannot tell."""

    result: ArtifactResult
    tier: Tier
    checks: tuple[Check, ...]
    claims: Mapping[str, Any]

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
    sheet: Sheet, *, floor: Set[str], tier: Tier, claims: Mapping[str, Any], supported: bool = True
) -> ArtifactVerdict:
    """Accepted only if every check of `floor` passed, no written check refuses, and the tier is not `none`.

    A floor check that nobody wrote is added as skipped, so that a forgotten check refuses and shows.
    """
    checks = sheet.finish(floor, only=True)
    good = all(sheet.state(check_id) == "passed" for check_id in floor) and tier != "none"
    accepted = good and bool(floor) and not any(check.refuses for check in checks)
    result: ArtifactResult = "accepted" if accepted else "refused"
    return ArtifactVerdict(result if supported else "unsupported", tier if accepted else "none", checks, claims)
