# SPDX-License-Identifier: Apache-2.0
"""Bench `real`: the embedded language model, sealed beside plain, the twin running the same engine class and settings.

The model uses the processor for milliseconds per token, so the aim is about what a user feels: at most 1 % and 3 ms.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from teehouse.local.weights import locate
from teehouse_bench.results import Budget, Case, Result, Row
from teehouse_bench.rig import open_rig
from teehouse_bench.sides import Sides, turns
from teehouse_bench.stats import Spread
from teehouse_bench.stream import Pair, open_pair
from teehouse_core.errors import TeehouseError

__all__ = ["run_real"]

FIRST_SHARE, FIRST_MS, SPEED = 0.01, 3.0, 0.99
PROMPT = (
    "You are a patient teacher. In plain words, and for somebody who has never heard of it, explain why the sky is "
    "blue, why sunsets are red, and what would change on a planet with a thinner atmosphere."
)


def run_real(result: Result, budget: Budget, *, quick: bool, tiny: bool, model: str) -> None:
    """First tokens with short answers, speed with longer ones, one and four users."""
    try:
        weights = locate(model)
    except TeehouseError as error:
        result.skip("model", f"the weights of {model} cannot be had: {error.message} ({error.code})")
        return
    engine = {"context": 2048, "parallel": 4, **weights.engine_spec()}
    firsts, tokens = (4, 24) if tiny else (3, 32) if quick else (12, 96)
    rounds = 2 if tiny or quick else 8
    users = (1,) if tiny else (1, 4)
    with open_rig() as rig:
        pair = open_pair(rig, engine)
        for side in ("sealed", "plain"):
            _ask(pair, side, users[-1], 1, 8)
        for number in users:
            for what, repeat, length in (("first token", firsts, 4), ("speed", 1 if number > 1 else 2, tokens)):
                name = f"{what}, {number} stream" + ("s" if number > 1 else "")
                if budget.left < 2:
                    result.skip(name, "the time budget ended")
                    continue
                settings = {"model": weights.name, "streams": number, "requests per stream": repeat, "tokens": length}
                share = budget.part(1 / (2 * len(users) - len(result.cases)))
                tell = _tell_first if what == "first token" else _tell_speed
                result.run(name, {**settings, "rounds": rounds}, _case(pair, share, rounds, tell))


def _ask(pair: Pair, side: str, streams: int, repeat: int, tokens: int) -> dict[str, Any]:
    body = {
        "stream": True,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "seed": 1,
    }
    stagger = 0.0 if streams == 1 else 0.05
    return pair.users.ask(
        {
            "side": side,
            "streams": streams,
            "repeat": repeat,
            "stagger": stagger,
            "look": 0.3,
            "pids": pair.pids,
            "body": body,
        }
    )


def _case(pair: Pair, budget: Budget, rounds: int, tell: Callable[[Case], None]) -> Callable[[Case], None]:
    def measure(case: Case) -> None:
        one = case.settings

        def side(name: str) -> dict[str, Any]:
            return _ask(pair, name, one["streams"], one["requests per stream"], one["tokens"])

        for _ in turns(case, budget, ("sealed", "plain"), rounds, side):
            pass
        tell(case)

    return measure


def _tell_first(case: Case) -> None:
    sides = Sides(case, "sealed", "plain", len(os.sched_getaffinity(0)))
    for name, key in (("first token p50", "first_p50"), ("first token p95", "first_p95")):
        ours, theirs, added, ratio = sides.compare(name, itemgetter(key))
        aim = key == "first_p50"
        good = added.median <= FIRST_MS and ratio.median <= 1 + FIRST_SHARE and not sides.failed
        case.rows.append(
            Row(
                name,
                f"{ours.median:.2f} ms",
                f"{theirs.median:.2f} ms",
                f"{added.median:+.2f} ms, {ratio.median - 1:+.1%}",
                f"{added.low:+.2f} … {added.high:+.2f} ms",
                f"≤ {FIRST_MS:g} ms and ≤ {FIRST_SHARE:.0%} added" if aim else "",
                good if aim else None,
                added.agrees(FIRST_MS) and ratio.agrees(1 + FIRST_SHARE) if aim else True,
            )
        )
        if aim:
            _noise(case, theirs, FIRST_MS)


def _noise(case: Case, theirs: Spread, limit: float) -> None:
    if theirs.high - theirs.low > 2 * limit:
        case.notes.append(
            f"the plain side alone spreads over {theirs.high - theirs.low:.1f} ms between rounds: "
            f"{limit:g} ms can hardly be told"
        )


def _tell_speed(case: Case) -> None:
    sides = Sides(case, "sealed", "plain", len(os.sched_getaffinity(0)))
    for name, key, aim in (
        ("tokens/s, all streams, first token included", "tokens_per_second", True),
        ("tokens/s per stream after the first token", "rate_p50", False),
    ):
        ours, theirs, _, ratio = sides.compare(name, itemgetter(key))
        case.rows.append(
            Row(
                name,
                f"{ours.median:.1f}",
                f"{theirs.median:.1f}",
                f"{ratio.median - 1:+.1%}",
                f"{ratio.low - 1:+.1%} … {ratio.high - 1:+.1%}",
                f"≥ {SPEED:.0%} of plain" if aim else "",
                ratio.median >= SPEED and not sides.failed if aim else None,
                ratio.agrees(SPEED) if aim else True,
            )
        )
    ours, theirs, _, _ = sides.compare("tokens counted", lambda one: one["tokens"])
    if ours.median != theirs.median:
        case.notes.append(f"the sides wrote different numbers of tokens: {ours.median:g} and {theirs.median:g}")
