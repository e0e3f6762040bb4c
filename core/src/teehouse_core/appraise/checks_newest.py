# SPDX-License-Identifier: Apache-2.0
"""The check `policy.collateral-newest`: is collateral older than what the caller saw before? See `newest`."""

from __future__ import annotations

from datetime import UTC, datetime

from teehouse_core.appraise.newest import GRACE, Newest, Seen, older
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, not_applicable, passed

__all__ = ["check_newest"]


def check_newest(sheet: Sheet, seen: Newest, known: Newest | None, now: int) -> None:
    """Make `policy.collateral-newest`. `known` is None when the caller keeps no numbers."""
    sheet.run("policy.collateral-newest", lambda: _outcome(seen, known, now))


def _outcome(seen: Newest, known: Newest | None, now: int) -> Outcome:
    if known is None:
        return not_applicable("nothing is remembered of collateral seen before")
    comparable = sorted(set(seen) & set(known))
    if not comparable:
        return not_applicable("no collateral of these issuers was seen before")
    for series in comparable:
        mine, newer = seen[series], known[series]
        if older(series, mine, newer) and now - newer.issued > GRACE:
            hint = (
                f"newer collateral of this issuer was seen here ({series}); what the newer one revokes or lowers would "
                "be left out. The node must fetch anew"
            )
            return failed(hint, _shown(mine), f"not before {_shown(newer)}")
    return passed(" ".join(_shown(seen[series]) for series in comparable), "none older than seen before")


def _shown(one: Seen) -> str:
    return f"{one.number} of {datetime.fromtimestamp(one.issued, UTC):%Y-%m-%d}"
