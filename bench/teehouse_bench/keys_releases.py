# SPDX-License-Identifier: Apache-2.0
"""Releases of a key: many nodes that ask at once, beside one that asks again and again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from teehouse_bench.keys_parts import compared, support, timed
from teehouse_bench.machine import cpu_seconds
from teehouse_bench.results import Budget, Case, Result
from teehouse_bench.sides import Sides, turns
from teehouse_bench.stats import percentile

__all__ = ["measure_releases"]

RING, KEY = "data", "disk"
_COUNTERS = {
    "journal commits": "teehouse_keys_journal_commits_total",
    "checkpoints": "teehouse_keys_checkpoints_published_total",
}


def measure_releases(
    result: Result, budget: Budget, world: Any, *, rounds: int, requesters: int, seconds: float
) -> None:
    """Of a running `World`. Two sides: `many` requesters at once, and `one`. A round lasts `seconds`."""

    def measure(case: Case) -> None:
        nodes = _Nodes(world)
        nodes.ask(requesters, 0.2)  # every path once, and what is made at first use

        def one(side: str) -> dict[str, Any]:
            return timed(lambda: nodes.ask(requesters if side == "many" else 1, seconds))

        for _ in turns(case, budget, ("many", "one"), rounds, one):
            pass
        _rows(case)

    settings = {"requesters": requesters, "round_seconds": seconds, "witnesses": 1}
    result.run(f"releases, {requesters} requesters at once beside one", settings, measure)


class _Nodes:
    """Nodes of one endpoint, threads of this process, each with a connection of its own."""

    def __init__(self, world: Any) -> None:
        self._world = world
        self._tenant = world.new_tenant()
        world.new_ring(self._tenant, RING)
        world.new_key(self._tenant, RING, KEY)
        self._service = world.keyset()
        self._pids = {
            "key service": world.keys.popen.pid,
            "ledger": world.ledger.popen.pid,
            "witness": world.witnesses[0].popen.pid,
        }

    def ask(self, requesters: int, seconds: float) -> dict[str, Any]:
        """Ask for `seconds`; a release that is under way at the end is waited for and counts."""
        gate = threading.Barrier(requesters + 1)
        node = support("support_keys").Requester()

        def run() -> tuple[list[float], list[str]]:
            times: list[float] = []
            errors: list[str] = []
            with self._world.http() as http:
                http.get("/healthz")
                gate.wait(60)
                end = time.perf_counter() + seconds
                while time.perf_counter() < end:
                    began = time.perf_counter()
                    outcome = node.ask(http, self._service, tenant=self._tenant, ring=RING, key=KEY)
                    if outcome.code == "granted" and len(outcome.key) == 32:
                        times.append(time.perf_counter() - began)
                    else:
                        errors.append(outcome.code)
            return times, errors

        with ThreadPoolExecutor(requesters) as pool:
            running = [pool.submit(run) for _ in range(requesters)]
            gate.wait(60)
            before, used, own, began = self._counters(), self._cpu(), time.process_time(), time.perf_counter()
            done = [future.result() for future in running]
            wall = time.perf_counter() - began
        counters, after = self._counters(), self._cpu()
        times = [value for found, _ in done for value in found]
        errors = [value for _, found in done for value in found]
        cpu = {name: after[name] - used[name] for name in used}
        return {
            "releases": len(times),
            "failed": len(errors),
            "errors": sorted(set(errors)),
            "per_second": len(times) / wall,
            "p50_ms": percentile(times, 0.5) * 1e3,
            "p99_ms": percentile(times, 0.99) * 1e3,
            **{name: counters[name] - before[name] for name in _COUNTERS},
            "requesters_cpu": time.process_time() - own,
            "cpu": cpu,
        }

    def _cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def _counters(self) -> dict[str, float]:
        with self._world.http() as http:
            lines = http.get("/metrics").text.splitlines()
        values: Mapping[str, str] = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(values[metric]) for name, metric in _COUNTERS.items()}


def _rows(case: Case) -> None:
    both = Sides(case, "many", "one", os.cpu_count() or 1)

    def row(what: str, form: str, of: Any) -> None:
        compared(case, what, both.compare(what, of), lambda value: format(value, form))

    row("releases/s", ",.0f", lambda one: one["per_second"])
    row("time of one, median, ms", ",.0f", lambda one: one["p50_ms"])
    row("time of one, p99, ms", ",.0f", lambda one: one["p99_ms"])
    row("entries in one checkpoint", ".1f", lambda one: one["releases"] / max(one["checkpoints"], 1))
    for name in ("key service", "ledger", "witness"):
        what = f"CPU of the {name} per release, ms"
        row(what, ".2f", lambda one, name=name: 1e3 * one["cpu"][name] / one["releases"])
    row("CPU of the requesters per release, ms", ".2f", lambda one: 1e3 * one["requesters_cpu"] / one["releases"])
    case.notes.append("requesters, key service, ledger and witness share the machine; the witness is a process here")
