# SPDX-License-Identifier: Apache-2.0
"""What the cases of bench `keys` share: the tests' own processes and servers, made-up entries, a round, a row."""

from __future__ import annotations

import gc
import importlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from teehouse_bench.machine import Busy
from teehouse_bench.results import Case, Row
from teehouse_bench.stats import Spread
from teehouse_core.log.entry import SALT_SIZE, AuditEntry, Opening

__all__ = ["TENANT", "compared", "leaves", "support", "timed"]

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = (ROOT / "tests", ROOT / "cloud" / "tests")
TENANT = "bench"
NOW = 1_800_000_000  # Unix seconds, of made-up entries
NAMED = 10  # every tenth entry is a person's, with an opening beside it; releases name nobody
_ID = "0" * 32


def support(name: str) -> Any:
    """A support module of the tests, which is in no package."""
    for folder in map(str, SUPPORT):
        if folder not in sys.path:
            sys.path.append(folder)
    return importlib.import_module(name)


def leaves(count: int, time_: int = NOW) -> Iterator[tuple[bytes, Opening | None]]:
    """`count` entries as a busy tenant's log has them, each with an id of its own: leaf, and the opening beside it."""
    digest = secrets.token_hex(32)
    opening = Opening(secrets.token_bytes(SALT_SIZE), ("Ada Lovelace",))
    release = AuditEntry(
        time=time_,
        op="key.release",
        id=_ID,
        decision="granted",
        tenant=TENANT,
        ring="data",
        key="disk",
        version="1",
        policy_sha256=digest,
        evidence_sha256=digest,
        keyset_sha256=digest,
        request_sha256=digest,
        tier="simulated",
        witnesses=1,
    )
    command = AuditEntry(
        time=time_,
        op="key.rotate",
        id=_ID,
        decision="done",
        tenant=TENANT,
        ring="data",
        key="disk",
        version="2",
        actor=opening.actor,
        request_sha256=digest,
        witnesses=1,
    )
    plain, named = (entry.to_bytes().split(_ID.encode()) for entry in (release, command))
    for at in range(count):
        head, tail = named if at % NAMED == 0 else plain
        yield head + secrets.token_hex(16).encode() + tail, opening if at % NAMED == 0 else None


def timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """One round: what `work` tells (its `cpu` is of other processes), the clock, our CPU and the machine's."""
    gc.collect()
    busy, cpu, began = Busy.now(), time.process_time(), time.perf_counter()
    told = work()
    wall, own, after = time.perf_counter() - began, time.process_time() - cpu, Busy.now()
    return {
        **told,
        "wall": wall,
        "cpu": {"own": own, **told.get("cpu", {})},
        "machine_cpu": after.used - busy.used,
        "stolen": after.stolen - busy.stolen,
    }


def compared(case: Case, what: str, spreads: Sequence[Spread], form: Callable[[float], str]) -> None:
    """A row of what `Sides.compare` gave: medians, and the ratio with its smallest and largest round."""
    ours, theirs, _, ratio = spreads
    change = f"× {ratio.median:.2f}"
    case.rows.append(Row(what, form(ours.median), form(theirs.median), change, f"× {ratio.low:.2f} … {ratio.high:.2f}"))
