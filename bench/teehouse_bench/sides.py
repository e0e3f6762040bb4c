# SPDX-License-Identifier: Apache-2.0
"""Rounds in turns: one side, then the other, the order turned around each time, until there are enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from teehouse_bench.results import Budget, Case
from teehouse_bench.stats import Spread, differences, ratios

__all__ = ["DISTURBED", "Sides", "turns"]

DISTURBED = 0.15  # share of the machine that others used or the host took, above which a round is called disturbed


def turns(
    case: Case, budget: Budget, sides: Sequence[str], rounds: int, measure: Callable[[str], dict[str, Any]]
) -> Iterator[None]:
    """`rounds` rounds of every side, A B then B A; fewer when the budget ends, which the case then says."""
    longest = 0.0
    for number in range(rounds):
        if number and budget.left < longest * 1.1:
            case.notes.append(f"only {number} of {rounds} rounds: the time budget ended")
            return
        began = time.monotonic()
        for side in sides if number % 2 == 0 else tuple(reversed(sides)):
            report = measure(side)
            case.rounds.append({"round": number, **report, "side": side})
        longest = max(longest, time.monotonic() - began)
        yield


class Sides:
    """The rounds of a case by side, and what is said about them."""

    def __init__(self, case: Case, ours: str, theirs: str, cores: int) -> None:
        self._case = case
        self.ours = [one for one in case.rounds if one["side"] == ours]
        self.theirs = [one for one in case.rounds if one["side"] == theirs]
        disturbed = sum(_foreign(one, cores) > DISTURBED for one in case.rounds)
        if disturbed:
            case.notes.append(
                f"{disturbed} of {len(case.rounds)} rounds disturbed: others took more than "
                f"{DISTURBED:.0%} of the machine"
            )
        failed = sum(one.get("failed", 0) for one in case.rounds)
        if failed:
            kinds = sorted({error for one in case.rounds for error in one.get("errors", ())})
            case.notes.append(f"{failed} answers were not whole: {', '.join(kinds) or 'no error was raised'}")
        self.failed = failed

    def values(self, of: Callable[[dict[str, Any]], float]) -> tuple[list[float], list[float]]:
        """One number of each round: ours, theirs."""
        return [of(one) for one in self.ours], [of(one) for one in self.theirs]

    def compare(self, name: str, of: Callable[[dict[str, Any]], float]) -> tuple[Spread, Spread, Spread, Spread]:
        """Ours, theirs, difference and ratio of neighbouring rounds; also written into the summary."""
        ours, theirs = self.values(of)
        found = (
            Spread.of(ours),
            Spread.of(theirs),
            Spread.of(differences(ours, theirs)),
            Spread.of(ratios(ours, theirs)),
        )
        keys = ("ours", "theirs", "difference", "ratio")
        self._case.summary[name] = {key: spread.to_json() for key, spread in zip(keys, found, strict=True)}
        return found


def _foreign(one: dict[str, Any], cores: int) -> float:
    """Share of the machine that went to neither side of the bench while this round ran."""
    known = sum(one["cpu"].values()) + one.get("client_cpu", 0.0) + one.get("sink_cpu", 0.0)
    return float((one["machine_cpu"] - known + one["stolen"]) / (one["wall"] * cores))
