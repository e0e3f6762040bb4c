# SPDX-License-Identifier: Apache-2.0
"""Medians, percentiles and spread. Few numbers, plainly made: no outlier is dropped, no curve is fitted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Spread", "differences", "percentile", "ratios"]


@dataclass(frozen=True, slots=True)
class Spread:
    """One number per round: their median, smallest and largest."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if not values:
            return cls(float("nan"), float("nan"), float("nan"), 0)
        return cls(statistics.median(values), min(values), max(values), len(values))

    def agrees(self, aim: float) -> bool:
        """Whether all rounds stand on one side of `aim`."""
        return (self.low <= aim) == (self.high <= aim)

    def to_json(self) -> dict[str, Any]:
        return {"median": self.median, "min": self.low, "max": self.high, "rounds": self.rounds}


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of one round's samples; `share` from 0 to 1."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Neighbouring rounds subtracted, so that slow drift of the machine falls out."""
    return [a - b for a, b in zip(ours, theirs, strict=False)]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Neighbouring rounds divided."""
    return [a / b for a, b in zip(ours, theirs, strict=False) if b]
