# SPDX-License-Identifier: Apache-2.0
"""What was accepted, for as long as it may be sealed to: appraisal runs once per evidence and policy, not per request.

Belongs to one session: one policy and one tier (EVIDENCE §2). Lives in memory only; `Accepted` cannot leave a process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from teehouse.verify.nodes import NodeVerdict
from teehouse_core.appraise.verdict import Accepted, Tier
from teehouse_core.errors import RefusedError
from teehouse_core.seal.client import choose_key
from teehouse_core.wire.suites import DEFAULT_SUITE

__all__ = ["VerifiedCache"]

MARGIN: Final = 10  # seconds before its end at which a cached key is no longer taken and fresh evidence is asked for
REST: Final = 10  # seconds for which fresh evidence is not doubted again: no loop of questions to a busy endpoint
_RANK: Final[dict[Tier, int]] = {"hardware": 0, "vtpm": 1, "simulated": 2, "none": 3}


@dataclass(slots=True)
class _Entry:
    verdicts: Sequence[NodeVerdict]
    fetched: int
    doubted: bool = False


class VerifiedCache:
    """Verdicts by (endpoint, policy digest). Not locked: the session's shells see to that."""

    def __init__(self, suite: str = DEFAULT_SUITE) -> None:
        self._suite = suite
        self._entries: dict[tuple[str, str], _Entry] = {}
        self.tier: Tier | None = None
        """The tier this session began with; a node of any other is not sealed to."""

    def put(self, endpoint: str, policy_digest: str, verdicts: Sequence[NodeVerdict], now: int) -> None:
        """Replace what is known of an endpoint."""
        self._entries[endpoint, policy_digest] = _Entry(verdicts, now)

    def verdicts(self, endpoint: str, policy_digest: str, now: int, *, margin: int = MARGIN) -> list[NodeVerdict]:
        """All verdicts of the newest set while any of its nodes may be sealed to for `margin` seconds, else none."""
        entry = self._entries.get((endpoint, policy_digest))
        if (
            entry is None
            or entry.doubted
            or not any(self._usable(node.accepted, now, margin) for node in entry.verdicts)
        ):
            return []
        return list(entry.verdicts)

    def usable(
        self, endpoint: str, policy_digest: str, now: int, *, refused: Collection[bytes] = (), margin: int = MARGIN
    ) -> list[Accepted]:
        """Accepted nodes that may be sealed to now, of one tier, none of the `refused` keysets.

        Raises RefusedError (`tier-changed`) when nodes are usable but none has the session's tier.
        """
        known = [node.accepted for node in self.verdicts(endpoint, policy_digest, now, margin=margin)]
        found = [a for a in known if a is not None and self._usable(a, now, margin) and a.keyset_digest not in refused]
        if not found:
            return []
        if self.tier is None:
            best = min(found, key=lambda accepted: _RANK[accepted.tier])
            self.tier = best.tier
        tier = self.tier
        same = [accepted for accepted in found if accepted.tier == tier]
        if not same:
            raise RefusedError(
                f"this session began with {tier} nodes and none is left",
                code="tier-changed",
                hint="make a new session if the nodes now offered are what you want",
            )
        return same

    def doubt(self, endpoint: str, policy_digest: str, now: int) -> None:
        """Something on the path says these nodes do not answer: ask for evidence again before the next request.

        Anybody on the path can cause this; it costs a round trip and changes nothing about what is accepted.
        """
        entry = self._entries.get((endpoint, policy_digest))
        if entry is not None and now - entry.fetched >= REST:
            entry.doubted = True

    def _usable(self, accepted: Accepted | None, now: int, margin: int) -> bool:
        if accepted is None or accepted.not_after <= now + margin:
            return False
        try:
            return choose_key(accepted, now, self._suite).not_after > now + margin
        except RefusedError:
            return False
