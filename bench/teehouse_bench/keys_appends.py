# SPDX-License-Identifier: Apache-2.0
"""Durable appends: the key service's journal and the ledger's store beside bare inserts of the same rows.

All sides wait for the disk at each commit: SQLite with WAL and synchronous=FULL, PostgreSQL with fsync and
synchronous_commit. Bare inserts keep leaf, opening and private part under one integer key. Ours also hash, keep the
tree (journal: every node; ledger: full tiles), refuse a gap or another entry, and the ledger keeps four indexes to
look entries up with. A group commit is one transaction: callers who wait share one wait for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from teehouse_bench.keys_parts import compared, leaves, support, timed
from teehouse_bench.results import Budget, Case, Result
from teehouse_bench.sides import Sides, turns
from teehouse_cloud.ledger.entries import NewEntry, append
from teehouse_cloud.store.database import Database
from teehouse_core.log.merkle import Frontier, leaf_hash, new_nodes
from teehouse_core.wire.canonical import encode
from teehouse_enclave.keys.journal import Batch, Record
from teehouse_enclave.keys.journal_sqlite import SqliteJournal

__all__ = ["measure_appends"]

LOG = "tenant-bench"
DURABLE = ("max_connections=20", "listen_addresses=")  # else as PostgreSQL comes: fsync, synchronous_commit on
NEVER_DISTURBED = 10**6  # cores: another process works for these sides, and would look like a neighbour
Commit = Callable[[Sequence[Record]], Awaitable[None]]
_TABLE = "CREATE TABLE bare (idx {1} PRIMARY KEY, leaf {0}, opening {0}, private {0})"
_WORDS = {"journal": "journal", "ledger": "ledger's store"}


def measure_appends(result: Result, budget: Budget, *, rounds: int, sizes: Sequence[int], seconds: float) -> None:
    """For each size of a commit a case on SQLite and one on PostgreSQL; a side of a round lasts `seconds`."""
    bench = _Bench(result, budget, rounds, seconds)
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as name, asyncio.Runner() as runner:
        folder = Path(name)
        with _sqlite(folder, runner) as sides:
            for size in sizes:
                bench.case(runner, "SQLite", size, sides)
        try:
            server = support("postgres_support").PostgresServer(DURABLE)
        except pytest.skip.Exception as missing:
            result.skip("appends to PostgreSQL", str(missing))
            return
        try:
            with _postgres(server.create(), runner) as sides:
                for size in sizes:
                    bench.case(runner, "PostgreSQL", size, sides)
        finally:
            server.stop()


class _Stock:
    """Records without an end, made before they are timed; the same openings come again."""

    def __init__(self, count: int = 2048) -> None:
        self._leaves = [(leaf, encode(shown.to_json()) if shown else b"") for leaf, shown in leaves(count)]
        self.next = 0

    def take(self, count: int) -> list[Record]:
        held = self._leaves
        first, self.next = self.next, self.next + count
        return [Record(at, *held[at % len(held)], b"") for at in range(first, self.next)]


class _Bench:
    def __init__(self, result: Result, budget: Budget, rounds: int, seconds: float) -> None:
        self._result, self._budget, self._rounds, self._seconds = result, budget, rounds, seconds
        self._stocks: dict[int, _Stock] = {}

    def case(self, runner: asyncio.Runner, database: str, size: int, sides: Mapping[str, Commit]) -> None:
        def measure(case: Case) -> None:
            def one(side: str) -> dict[str, Any]:
                return timed(lambda: runner.run(self._round(sides[side], size)))

            for side in sides:
                runner.run(self._round(sides[side], size, seconds=0))
            for _ in turns(case, self._budget, tuple(sides), self._rounds, one):
                pass
            for ours in (name for name in sides if name != "bare"):
                both = Sides(case, ours, "bare", NEVER_DISTURBED)
                what = f"appends/s of the {_WORDS[ours]}, beside bare {database}"
                compared(case, what, both.compare(what, lambda one: float(one["per_second"])), "{:,.0f}".format)

        together = f"{size} in a commit" if size > 1 else "each in a commit of its own"
        settings = {"in a commit": size, "database": database, "round_seconds": self._seconds}
        self._result.run(f"appends to {database}, {together}", settings, measure)

    async def _round(self, commit: Commit, size: int, seconds: float | None = None) -> dict[str, Any]:
        """Commits one after the other, at least one."""
        stock = self._stocks.setdefault(id(commit), _Stock())
        end = time.perf_counter() + (self._seconds if seconds is None else seconds)
        spent, commits = 0.0, 0
        while not commits or time.perf_counter() < end:
            records = stock.take(size)
            began = time.perf_counter()
            await commit(records)
            spent += time.perf_counter() - began
            commits += 1
        return {"commits": commits, "per_second": commits * size / spent, "commit_ms": 1e3 * spent / commits}


@contextlib.contextmanager
def _sqlite(folder: Path, runner: asyncio.Runner) -> Any:
    journal = SqliteJournal(folder / "journal.db")
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            bare.execute(f"PRAGMA {pragma}")
        bare.execute(_TABLE.format("BLOB", "INTEGER"))
        with _ledger(f"sqlite:///{folder / 'ledger.db'}", runner) as ledger:
            yield {"journal": _journal(journal), "bare": _bare_sqlite(bare), "ledger": ledger}
    finally:
        bare.close()
        journal.close()


@contextlib.contextmanager
def _postgres(url: str, runner: asyncio.Runner) -> Any:
    import asyncpg  # type: ignore[import-untyped]

    bare = runner.run(asyncpg.connect(url))
    try:
        runner.run(bare.execute(_TABLE.format("BYTEA", "BIGINT")))
        with _ledger(url, runner) as ledger:
            yield {"ledger": ledger, "bare": _bare_postgres(bare)}
    finally:
        runner.run(bare.close())


@contextlib.contextmanager
def _ledger(url: str, runner: asyncio.Runner) -> Any:
    """The ledger's store as `teehouse-cloud serve` uses it, without HTTP."""
    migrate = [sys.executable, "-W", "ignore", "-m", "teehouse_cloud.main", "migrate", "--db", url]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEEHOUSE_")}
    subprocess.run(migrate, check=True, capture_output=True, timeout=60, env=kept)
    database = Database(url)

    async def commit(records: Sequence[Record]) -> None:
        entries = [NewEntry(one.leaf, one.opening.decode() or None, one.private) for one in records]
        await append(database, LOG, records[0].index, entries, int(time.time()))

    try:
        yield commit
    finally:
        runner.run(database.close())


def _journal(journal: SqliteJournal) -> Commit:
    frontier = Frontier.empty()

    async def commit(records: Sequence[Record]) -> None:  # what `Service` does, in its thread
        nonlocal frontier
        hashes = [leaf_hash(record.leaf) for record in records]
        nodes = list(new_nodes(frontier, hashes))
        journal.append([Batch(LOG, records[0].index, records, nodes)])
        frontier = frontier.extend(hashes)

    return commit


def _bare_sqlite(database: sqlite3.Connection) -> Commit:
    async def commit(records: Sequence[Record]) -> None:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT INTO bare VALUES (?,?,?,?)", _rows(records))
        database.execute("COMMIT")

    return commit


def _bare_postgres(connection: Any) -> Commit:
    async def commit(records: Sequence[Record]) -> None:
        async with connection.transaction():
            await connection.executemany("INSERT INTO bare VALUES ($1,$2,$3,$4)", _rows(records))

    return commit


def _rows(records: Sequence[Record]) -> list[tuple[int, bytes, bytes, bytes]]:
    return [(one.index, one.leaf, one.opening, one.private) for one in records]
