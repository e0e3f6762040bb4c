# SPDX-License-Identifier: Apache-2.0
"""Bench `stream`: what sealing adds to a paced stream, end to end, beside the same engine in clear.

    sealed   session of the SDK → gateway → node             → echo engine
    plain    httpx2             → gateway → twin of the node → echo engine

One gateway process serves both. The engine is paced at 30 tokens/s per stream, so what is seen is delay and CPU, not
the speed of an engine. From 256 streams on, both sides use the small client of `light.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from teehouse_bench.results import Budget, Case, Result, Row
from teehouse_bench.rig import Rig, Talker, open_rig
from teehouse_bench.sides import Sides, turns
from teehouse_bench.stats import Spread

__all__ = ["PACE", "Load", "open_pair", "run_stream"]

PACE = 30.0  # tokens per second and stream, as one reads
SEALED, PLAIN = "ep-bench-sealed", "ep-bench-plain"
FIRST_AIM = 3.0  # milliseconds added to the first token; issue 2 states it for the real model
TOKEN_AIM = 1.0  # milliseconds added to the median token, our own aim
KEEPING_UP = 0.97  # share of the pace below which a side does not keep up
QUEUE = 150.0  # milliseconds that the median token may be late; beyond, something waits in a queue


@dataclass(frozen=True, slots=True)
class Load:
    """One shape of traffic: `streams` users start over `stagger` seconds, each asks `repeat` times for `tokens`."""

    streams: int
    tokens: int
    repeat: int
    stagger: float
    light: bool = False  # clients of `light.py` instead of the SDK and httpx2

    @property
    def name(self) -> str:
        if self.tokens == 1:
            return f"short answers, {self.streams} users"
        return f"{self.streams} stream" + ("s" if self.streams > 1 else "")

    @property
    def seconds(self) -> float:
        """Of one round of one side."""
        return self.stagger + self.repeat * self.tokens / PACE + 0.3

    def job(self, side: str, pids: list[int]) -> dict[str, Any]:
        body = {"stream": True, "messages": [{"role": "user", "content": f"count {self.tokens}"}]}
        look = self.stagger + self.tokens / PACE * 0.6
        return {
            "side": side,
            "streams": self.streams,
            "repeat": self.repeat,
            "stagger": self.stagger,
            "pace": PACE,
            "light": self.light,
            "look": look,
            "pids": pids,
            "body": body,
        }


@dataclass(frozen=True, slots=True)
class Pair:
    """A node and its twin behind one gateway, and the users."""

    rig: Rig
    node: int
    twin: int
    users: Talker

    @property
    def pids(self) -> list[int]:
        return [self.node, self.twin, self.rig.gateway_pid]

    def server(self, side: str) -> str:
        """Process id, as in reports, of the process that answers `side`."""
        return str(self.node if side == "sealed" else self.twin)


def open_pair(rig: Rig, engine: dict[str, Any]) -> Pair:
    """Start both sides with the same engine settings."""
    node, twin = rig.start_node(SEALED, engine), rig.start_twin(PLAIN, engine)
    users = rig.talker("driver")
    rig.up()
    setup = {"gateway": rig.gateway, "api_key": rig.api_key}
    ends = {"sealed": {"endpoint": SEALED, "node": "node"}, "plain": {"endpoint": PLAIN, "node": "twin"}}
    users.tell({**setup, **ends})
    return Pair(rig, node, twin, users)


def run_stream(result: Result, budget: Budget, *, quick: bool, tiny: bool) -> None:
    """All loads, from one user to as many as the machine carries."""
    if tiny:
        rounds, loads = 2, [Load(1, 6, 2, 0.0), Load(4, 12, 1, 0.2), Load(5, 1, 4, 0.0, light=True)]
    elif quick:
        rounds, loads = (
            2,
            [
                Load(1, 10, 6, 0.0),
                Load(32, 45, 1, 0.5),
                Load(16, 1, 40, 0.0, light=True),
                Load(256, 45, 1, 1.0, light=True),
            ],
        )
    else:
        rounds, loads = 6, [Load(1, 10, 8, 0.0), Load(32, 120, 1, 1.0), Load(16, 1, 80, 0.0, light=True)]
        loads += [Load(256, 120, 1, 2.0, light=True), Load(1000, 120, 1, 4.0, light=True)]
    with open_rig() as rig:
        pair = open_pair(rig, {"kind": "echo", "pace": PACE, "parallel": 4096})
        for side in ("sealed", "plain"):  # connections, evidence and code paths are warm before anything counts
            pair.users.ask(Load(2, 6, 2, 0.0).job(side, pair.pids))
        overloaded = ""
        for load in loads:
            name = load.name
            if overloaded:
                result.skip(name, f"this machine does not keep up with {overloaded}, so more would measure its queue")
                continue
            if budget.left < load.seconds * 2:
                result.skip(name, "the time budget ended")
                continue
            settings = {
                "streams": load.streams,
                "tokens": load.tokens,
                "requests per stream": load.repeat,
                "stagger": load.stagger,
                "light clients": load.light,
                "pace": PACE,
                "rounds": rounds,
                "seconds": rounds * 2 * load.seconds,
            }

            def measure(case: Case, load: Load = load) -> None:
                for _ in turns(
                    case, budget, ("sealed", "plain"), rounds, lambda s: pair.users.ask(load.job(s, pair.pids))
                ):
                    pass
                _tell(case, load, pair)

            case = result.run(name, settings, measure)
            if not case.summary["keeps up"] and not tiny:  # tiny runs show that the bench works and are never published
                overloaded = name


def _tell(case: Case, load: Load, pair: Pair) -> None:
    cores = len(os.sched_getaffinity(0))
    sides = Sides(case, "sealed", "plain", cores)
    gateway = str(pair.rig.gateway_pid)
    unit = "request" if load.tokens == 1 else "token"
    rows = case.rows
    if load.light:
        case.notes.append("light clients: the sealed/1 machine on a bare HTTP parser, as the SDK's would fill a core")

    def cpu(of: str) -> Any:
        def read(one: dict[str, Any]) -> float:
            pid = gateway if of == "gateway" else pair.server(one["side"])
            used = one["client_cpu"] if of == "client" else one["cpu"][pid]
            return float(used / max(one["tokens"], 1) * 1e6)

        return read

    def memory(of: str) -> Any:
        def read(one: dict[str, Any]) -> float:
            pid = gateway if of == "gateway" else pair.server(one["side"])
            return float((one["rss"].get(pid, 0) - one["rss_before"][pid]) / load.streams / 1024)

        return read

    for name, key, aim in (
        ("first token p50", "first_p50", FIRST_AIM),
        ("first token p95", "first_p95", None),
        ("every token p50, against its due time", "late_p50", TOKEN_AIM if load.streams == 1 else None),
        ("every token p99, against its due time", "late_p99", None),
        ("gap between tokens p50", "gap_p50", None),
        ("gap between tokens p99", "gap_p99", None),
    ):
        if load.tokens == 1:
            if not name.startswith("first"):
                continue
            aim = None  # everybody asks again at once: the machine is full, and first tokens wait in a queue
        ours, theirs, added, _ = sides.compare(name, itemgetter(key))
        rows.append(
            Row(
                name,
                f"{ours.median:.2f} ms",
                f"{theirs.median:.2f} ms",
                f"{added.median:+.2f} ms",
                f"{added.low:+.2f} … {added.high:+.2f} ms",
                f"≤ {aim:g} ms added" if aim else "",
                added.median <= aim and not sides.failed if aim else None,
                added.agrees(aim) if aim else True,
            )
        )
    case.summary["keeps up"] = True
    if load.tokens == 1:
        case.notes.append("everybody asks again at once, so first tokens queue: read the CPU per request")
    if load.tokens > 1:
        _tell_pace(case, sides)
    for who in ("node", "gateway", "client"):
        rows.append(_cpu_row(f"CPU per {unit}, {who}", *sides.compare(f"CPU per {unit}, {who}", cpu(who))))
    for who in ("node", "gateway"):
        sides.compare(f"memory per stream, {who}", memory(who))
        if load.streams >= 32:  # fewer streams disappear in what the allocator holds anyway
            rows.append(
                Row(
                    f"memory per stream, {who}, first round",
                    f"{_first(sides.ours, memory(who)):.0f} KiB",
                    f"{_first(sides.theirs, memory(who)):.0f} KiB",
                    "",
                    "grown since the round began; later rounds reuse it",
                )
            )


def _tell_pace(case: Case, sides: Sides) -> None:
    ours, theirs, _, ratio = sides.compare("tokens/s per stream, median", lambda one: one["rate_p50"])
    late = sides.values(itemgetter("late_p50"))
    slow = [
        name
        for name, rate, lateness in (("sealed", ours, late[0]), ("plain", theirs, late[1]))
        if not (rate.median >= KEEPING_UP * PACE and Spread.of(lateness).median < QUEUE)
    ]
    case.summary["keeps up"] = not slow
    if slow:
        case.notes.append(f"{' and '.join(slow)} cannot keep the pace of {PACE:g} tokens/s: delays here are a queue's")
    case.rows.append(
        Row(
            "tokens/s per stream, median",
            f"{ours.median:.2f}",
            f"{theirs.median:.2f}",
            f"× {ratio.median:.3f}",
            f"{ratio.low:.3f} … {ratio.high:.3f}",
            "≥ 0.99 of plain",
            ratio.median >= 0.99 and not sides.failed,
            ratio.agrees(0.99),
        )
    )


def _first(rounds: list[dict[str, Any]], of: Any) -> float:
    return float(of(rounds[0])) if rounds else float("nan")


def _cpu_row(name: str, ours: Spread, theirs: Spread, more: Spread, ratio: Spread) -> Row:
    return Row(
        name,
        f"{ours.median:.0f} µs",
        f"{theirs.median:.0f} µs",
        f"{more.median:+.0f} µs, × {ratio.median:.2f}",
        f"{more.low:+.0f} … {more.high:+.0f} µs",
    )
