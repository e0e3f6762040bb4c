# SPDX-License-Identifier: Apache-2.0
"""A whole log: appended over HTTP to a ledger of its own, exported and verified by `teehouse audit`, small and large.

Whether memory grows with the log is seen by doing it twice: at a hundredth of the entries, then with all of them. The
checkpoint is signed and cosigned in this process: what is measured is the ledger and the auditor.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teehouse_bench.keys_parts import NOW, TENANT, leaves, timed
from teehouse_bench.keys_proofs import Signer
from teehouse_bench.machine import cpu_seconds
from teehouse_bench.results import Budget, Case, Row
from teehouse_bench.stats import Spread
from teehouse_core.log.merkle import Frontier, leaf_hash
from teehouse_core.wire.canonical import encode
from teehouse_enclave.keys.journal import Record
from teehouse_enclave.keys.outbound import BATCH_ENTRIES, LedgerClient, outside_client

__all__ = ["measure_log"]

LOG = f"tenant-{TENANT}"
BIN = Path(sys.executable).parent
APPEND_SHARE = 0.45  # of the time: export and verification need the rest
LEAST = 10.0  # seconds to append in, however late it is
PATIENCE = 900.0  # seconds for one call of `teehouse audit`
_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")


def measure_log(case: Case, budget: Budget, world: Any) -> None:
    """A hundredth of the entries, then all; fewer when the time would not do, which the case then says."""
    size, small = case.settings["entries"], case.settings["small"]
    world.ledger.stop()
    world.ledger.start()  # anew: what its memory was before is not the log's
    log = _Log(world)
    case.rounds.append({"round": 0, "side": "small", **timed(lambda: log.whole(small, LEAST))})
    left = max(budget.left * APPEND_SHARE, LEAST)
    case.rounds.append({"round": 0, "side": "large", **timed(lambda: log.whole(size, left))})
    if case.rounds[1]["entries"] < size:
        case.notes.append(f"{case.rounds[1]['entries']:,} of {size:,} entries: the time budget ended")
    _rows(case)


@dataclass
class _Log:
    """A log in the ledger of a `World`, and what was appended to it so far."""

    world: Any

    def __post_init__(self) -> None:
        self.folder: Path = self.world.folder
        self._stored_before = self._stored()
        self._signer = Signer()
        self._frontier = Frontier.empty()
        self._url = f"http://127.0.0.1:{self.world.ledger_port}"
        run = (sys.executable, "-W", "ignore", "-m", "teehouse_cloud.main", "ledger", "token")
        command = [*run, "--db", self.world.database, "--log", LOG, "--label", "auditor", "--json"]
        made = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=60, env=self.world.environment
        )
        self._audit = {**self.world.environment, "TEEHOUSE_AUDIT_TOKEN": json.loads(made.stdout)["token"]}
        (self.folder / "pins.json").write_text(json.dumps(self._signer.pins.to_json()))

    def whole(self, size: int, append_seconds: float) -> dict[str, Any]:
        """Append up to `size` entries in at most so many seconds, then export and verify all there are."""
        pid = self.world.ledger.popen.pid
        before, used = self._frontier.size, cpu_seconds(pid)
        spent = asyncio.run(self._append(size, append_seconds))
        count = self._frontier.size
        appended, after = count - before, cpu_seconds(pid)
        out = self.folder / f"export-{count}"
        export, export_peak = self._audit_command("export", out, "--url", f"{self._url}/ledger/v1/{LOG}")
        verify, verify_peak = self._audit_command("verify", out)
        return {
            "entries": count,
            "appended": appended,
            "append_seconds": spent,
            "appends_per_second": appended / spent,
            "ledger_cpu_us": 1e6 * (after - used) / appended,
            "ledger_peak": _peak(pid),
            "database_bytes": self._stored() - self._stored_before,
            "export_bytes": sum(path.stat().st_size for path in out.iterdir()),
            "export_seconds": export,
            "export_peak": export_peak,
            "verify_seconds": verify,
            "verify_peak": verify_peak,
            "cpu": {"ledger": cpu_seconds(pid) - used},
        }

    def _stored(self) -> int:
        return sum(path.stat().st_size for path in self.folder.glob("ledger.db*"))

    async def _append(self, size: int, seconds: float) -> float:
        """As the key service's writer: one call after the other. Seconds in them; making entries is not counted."""
        spent, end = 0.0, time.perf_counter() + seconds
        async with outside_client() as http:
            ledger = LedgerClient(http, self._url, self.world.writer_token)
            while self._frontier.size < size and time.perf_counter() < end:
                first = self._frontier.size
                made = leaves(min(BATCH_ENTRIES, size - first), NOW + first)
                records = [
                    Record(first + at, leaf, encode(shown.to_json()) if shown else b"", b"")
                    for at, (leaf, shown) in enumerate(made)
                ]
                self._frontier = self._frontier.extend(leaf_hash(record.leaf) for record in records)
                began = time.perf_counter()
                await ledger.append(LOG, records)
                spent += time.perf_counter() - began
            await ledger.publish(LOG, self._signer.note(self._frontier.size, self._frontier.root()))
        return spent

    def _audit_command(self, verb: str, *words: object) -> tuple[float, int]:
        """Seconds and peak memory of one `teehouse audit`, which must accept the log."""
        options = ["--pins", self.folder / "pins.json", "--state", self.folder / "auditor", "--json"]
        command = [str(part) for part in (BIN / "teehouse", "audit", verb, *words, *options)]
        peak, began = 0, time.perf_counter()
        log = self.folder / f"audit-{verb}.log"
        with log.open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env=self._audit)
        try:
            while process.poll() is None:
                peak = max(peak, _peak(process.pid))
                if time.perf_counter() - began > PATIENCE:
                    raise RuntimeError(f"teehouse audit {verb} took more than {PATIENCE:.0f} s")
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise RuntimeError(f"teehouse audit {verb} ended with {process.returncode}: {log.read_text()[-600:]}")
        return time.perf_counter() - began, peak


def _peak(pid: int) -> int:
    """Peak resident memory of a process so far, in bytes; 0 once it has ended."""
    try:
        found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else 0


def _rows(case: Case) -> None:
    small, large = case.rounds

    def row(what: str, form: str, ours: float, theirs: float) -> None:
        case.summary[what] = {"ours": Spread.of([ours]).to_json(), "theirs": Spread.of([theirs]).to_json()}
        case.rows.append(Row(what, format(ours, form), format(theirs, form), f"× {ours / theirs:.2f}", ""))

    row("entries", ",d", large["entries"], small["entries"])
    row(f"appends/s over HTTP, {BATCH_ENTRIES:,} in a call", ",.0f", *_each("appends_per_second", large, small))
    row("CPU of the ledger per append, µs", ".1f", *_each("ledger_cpu_us", large, small))
    for verb in ("export", "verify"):
        row(f"`audit {verb}`, whole, s", ".1f", *_each(f"{verb}_seconds", large, small))
        rates = [one["entries"] / one[f"{verb}_seconds"] for one in (large, small)]
        row(f"`audit {verb}`, entries/s with its start", ",.0f", rates[0], rates[1])
    for name, key in (("the ledger", "ledger"), ("`audit export`", "export"), ("`audit verify`", "verify")):
        row(f"peak memory of {name}, MiB", ",.0f", *(one[f"{key}_peak"] / 2**20 for one in (large, small)))
    for name, key in (("database", "database"), ("export", "export")):
        row(f"{name}, bytes per entry", ",.0f", *(one[f"{key}_bytes"] / one["entries"] for one in (large, small)))
    case.notes.append("beside it: the same log at a hundredth; one round, one after the other")
    case.notes.append(f"{os.cpu_count()} cores for writer, ledger and auditor together")


def _each(key: str, large: dict[str, Any], small: dict[str, Any]) -> tuple[float, float]:
    return float(large[key]), float(small[key])
