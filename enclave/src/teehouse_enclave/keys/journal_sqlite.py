# SPDX-License-Identifier: Apache-2.0
"""The journal in one SQLite file of this machine: WAL, synchronous=FULL, one transaction for a group of batches.

`synchronous=FULL` syncs the write-ahead log at each commit, so what `append` returned from survives a power cut. Slots
are deleted with `secure_delete` and the write-ahead log is emptied after it, so their bytes leave both files (what a
disk's firmware keeps, and copies made earlier, nobody can delete from here). The file holds sealed records only.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from teehouse_core.errors import LocalError
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import Batch, Record, check_batch, check_slot, same_record

__all__ = ["SqliteJournal"]

BUSY_SECONDS: Final = 5.0  # one writer is expected; another process on the file is a mistake that shows soon
SCHEMA_VERSION: Final = 1  # PRAGMA user_version
MAX_READ: Final = 4096  # records of one `read`; bounds memory
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
  log TEXT NOT NULL, idx INTEGER NOT NULL, leaf BLOB NOT NULL, opening BLOB NOT NULL, private BLOB NOT NULL,
  PRIMARY KEY (log, idx)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS nodes (
  log TEXT NOT NULL, level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL,
  PRIMARY KEY (log, level, idx)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS snapshots (log TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS slots (
  log TEXT NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (log, name)) WITHOUT ROWID, STRICT;
"""
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
Result = TypeVar("Result")


class SqliteJournal:
    """Implements `Journal`. One connection behind a lock, so any thread may call."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        with _typed():
            made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # SQLite's files take its mode
            os.close(made)
            _sync_folder(self._path.absolute().parent)
            self._db = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        try:
            with _typed():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"):
            self._db.execute(f"PRAGMA {pragma}")
        (mode,) = self._db.execute("PRAGMA journal_mode").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if mode != "wal":
            raise LocalError("this file system cannot hold the journal", code="journal-mode", hint="use a local disk")
        if version not in (0, SCHEMA_VERSION):
            hint = "this file was written by another release"
            raise LocalError(f"journal of format {version}", code="journal-format", hint=hint)
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")

    def logs(self) -> list[str]:
        query = "SELECT log FROM entries WHERE idx=0 ORDER BY log"
        return [row[0] for row in self._ask(lambda: self._db.execute(query).fetchall())]

    def size(self, log: str) -> int:
        return self._ask(lambda: self._size(log))

    def append(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            check_batch(batch)

        def write() -> None:
            with self._transaction():
                for batch in batches:
                    self._append(batch)

        self._ask(write)

    def read(self, log: str, first: int, limit: int) -> list[Record]:
        query = "SELECT idx, leaf, opening, private FROM entries WHERE log=? AND idx>=? ORDER BY idx LIMIT ?"
        rows = self._ask(lambda: self._db.execute(query, (log, first, min(limit, MAX_READ))).fetchall())
        records = [Record(*row) for row in rows]
        if any(record.index != first + at for at, record in enumerate(records)):
            raise StorageError("storage-corrupt", "the journal has a gap", hint="restore the file from its ledger")
        return records

    def node(self, log: str, level: int, index: int) -> bytes:
        query = "SELECT hash FROM nodes WHERE log=? AND level=? AND idx=?"
        row = self._ask(lambda: self._db.execute(query, (log, level, index)).fetchone())
        if row is None:
            raise StorageError("storage-corrupt", "the journal lacks a tree node")
        found: bytes = row[0]
        return found

    def put_snapshot(self, log: str, data: bytes) -> None:
        query = "INSERT INTO snapshots VALUES (?,?) ON CONFLICT (log) DO UPDATE SET data=excluded.data"
        self._ask(lambda: self._db.execute(query, (log, data)))

    def get_snapshot(self, log: str) -> bytes | None:
        row = self._ask(lambda: self._db.execute("SELECT data FROM snapshots WHERE log=?", (log,)).fetchone())
        return None if row is None else row[0]

    def put_slot(self, log: str, name: str, data: bytes) -> None:
        check_slot(data)
        self._ask(lambda: self._put_slot(log, name, data))

    def get_slot(self, log: str, name: str) -> bytes | None:
        query = "SELECT data FROM slots WHERE log=? AND name=?"
        row = self._ask(lambda: self._db.execute(query, (log, name)).fetchone())
        return None if row is None else row[0]

    def shred(self, log: str, names: Sequence[str]) -> None:
        def erase() -> None:
            with self._transaction():
                self._db.executemany("DELETE FROM slots WHERE log=? AND name=?", [(log, name) for name in names])
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StorageError("storage", "a reader holds the old pages of the journal", hint="try again")

        if names:
            self._ask(erase)

    def close(self) -> None:
        with self._lock, _typed():
            self._db.close()

    def _size(self, log: str) -> int:
        row = self._db.execute("SELECT MAX(idx) FROM entries WHERE log=?", (log,)).fetchone()
        return 0 if row[0] is None else int(row[0]) + 1

    def _append(self, batch: Batch) -> None:
        size, records = self._size(batch.log), batch.records
        if batch.first > size:
            raise StorageError("storage-conflict", "an append leaves a gap")
        known = min(size - batch.first, len(records))
        if known:  # a repeat, whole or in its beginning
            query = "SELECT idx, leaf, opening, private FROM entries WHERE log=? AND idx>=? ORDER BY idx LIMIT ?"
            held = [Record(*row) for row in self._db.execute(query, (batch.log, batch.first, known))]
            if len(held) != known or not all(map(same_record, held, records)):
                raise StorageError("storage-conflict", "another entry stands at this index")
        for name, data in batch.slots.items():
            self._put_slot(batch.log, name, data)
        rows = [(batch.log, r.index, r.leaf, r.opening, r.private) for r in records[known:]]
        self._db.executemany("INSERT INTO entries VALUES (?,?,?,?,?)", rows)
        nodes = [(batch.log, level, index, value) for level, index, value in batch.nodes]
        self._db.executemany("INSERT OR IGNORE INTO nodes VALUES (?,?,?,?)", nodes)

    def _put_slot(self, log: str, name: str, data: bytes) -> None:
        query = "INSERT INTO slots VALUES (?,?,?) ON CONFLICT (log, name) DO UPDATE SET data=excluded.data"
        self._db.execute(query, (log, name, data))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have rolled it back already
                self._db.execute("ROLLBACK")
            raise

    def _ask(self, action: Callable[[], Result]) -> Result:
        with self._lock, _typed():
            return action()


def _sync_folder(folder: Path) -> None:
    """SQLite syncs what it makes; that the file has this name is ours to make durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _typed() -> Iterator[Any]:
    """SQLite's and the file system's errors as `StorageError`."""
    try:
        yield
    except sqlite3.Error as error:
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
        if kind in _FULL:
            raise StorageError("storage-full", "no space for the journal", hint="free disk space") from error
        if kind in _DAMAGED:
            text = "the journal's file is damaged"
            raise StorageError("storage-corrupt", text, hint="restore it from the ledger") from error
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        raise StorageError("storage", f"the journal does not take it: {name}", hint="look at the disk") from error
    except OSError as error:
        text = f"the journal cannot be opened: {error.strerror}"
        raise StorageError("storage", text, hint="check the folder and its owner") from error
