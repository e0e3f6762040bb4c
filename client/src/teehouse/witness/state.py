# SPDX-License-Identifier: Apache-2.0
"""What a witness must never forget: the largest tree it signed for each origin. SQLite, one fsync per cosignature.

Reading the old size, deciding and writing the new one are one transaction that holds the write lock from its first
statement on. So requests that race, in one process or in several on one file, are decided one after the other.
A state that is not there is never begun silently: a witness that forgot would sign a second history.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teehouse.witness.errors import StateError
from teehouse_core.errors import LocalError
from teehouse_core.log.note import VerifierKey

__all__ = ["Seen", "State", "Writing", "make_state"]

BUSY_SECONDS = 10.0  # how long another process on this file may hold the lock
MAX_FORKS = 16  # notes kept per origin as evidence of two trees of one size
_SCHEMA = """
CREATE TABLE meta (version INTEGER NOT NULL, vkey TEXT NOT NULL);
CREATE TABLE origins (
  origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, time INTEGER NOT NULL, note BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE forks (origin TEXT NOT NULL, size INTEGER NOT NULL, time INTEGER NOT NULL, note BLOB NOT NULL UNIQUE);
"""
VERSION = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest cosigned checkpoint of an origin. `time` is that of its cosignature, Unix seconds."""

    size: int
    root: bytes
    time: int
    note: bytes


def make_state(path: Path, vkey: VerifierKey) -> None:
    """Begin an empty state for the witness `vkey`, mode 0600. Raises LocalError (`file-exists`, `file-unwritable`)."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _pragmas(connection)
            connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
            connection.execute("INSERT INTO meta VALUES (?, ?)", (VERSION, vkey.text))
    except FileExistsError:
        raise LocalError(
            f"{path} exists already", code="file-exists", hint="a witness that forgets what it signed is none"
        ) from None
    except (OSError, sqlite3.Error) as error:
        raise LocalError(f"cannot write {path} ({type(error).__name__})", code="file-unwritable") from error


class State:
    """An opened state. Calls block; they may come from any thread."""

    def __init__(self, path: Path, vkey: VerifierKey | None) -> None:
        """Raises StateError: there is none, it is not readable, or it is another witness's than `vkey`."""
        self._lock = threading.Lock()
        if not path.is_file():
            raise StateError(f"there is no state {path}", hint="make it with: teehouse-witness init")
        try:
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            _pragmas(self._connection)
            row = self._connection.execute("SELECT version, vkey FROM meta").fetchone()
        except sqlite3.Error as error:
            raise StateError(f"{path} is not the state of a witness") from error
        if row is None or row[0] != VERSION:
            raise StateError(f"{path} is of another version")
        self.vkey: str = row[1]
        if vkey is not None and self.vkey != vkey.text:
            raise StateError(f"{path} belongs to another witness key", hint="each key has a state of its own")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writing]:
        """A transaction: durable when the block has ended, without effect when it raised. Raises StateError."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Writing(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def read(self, origin: str) -> Seen | None:
        """The newest of an origin. Raises StateError."""
        with self._lock, self._errors():
            return _read(self._connection, origin)

    def add_fork(self, origin: str, size: int, time: int, note: bytes) -> None:
        """Keep a signed checkpoint that contradicts the one we signed. Raises StateError."""
        with self.writing() as writing:
            writing.add_fork(origin, size, time, note)

    def count(self) -> int:
        """Origins known. Raises StateError."""
        with self._lock, self._errors():
            return int(self._connection.execute("SELECT count(*) FROM origins").fetchone()[0])

    def origins(self) -> list[tuple[str, Seen]]:
        """Everything, by origin. Raises StateError."""
        with self._lock, self._errors():
            rows = self._connection.execute("SELECT origin, size, root, time, note FROM origins ORDER BY origin")
            return [(row[0], Seen(*row[1:])) for row in rows.fetchall()]

    def forks(self) -> list[tuple[str, int, int, bytes]]:
        """Origin, size, time seen, and note of each contradiction. Raises StateError."""
        with self._lock, self._errors():
            return self._connection.execute("SELECT origin, size, time, note FROM forks ORDER BY time").fetchall()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # SQLITE_FULL by its name: the message is for people
            full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
            code = "state-full" if full else "state"
            raise StateError(f"the state cannot be used ({type(error).__name__})", code=code) from error


class Writing:
    """What one transaction may do."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def read(self, origin: str) -> Seen | None:
        return _read(self._connection, origin)

    def count(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM origins").fetchone()[0])

    def write(self, origin: str, seen: Seen) -> None:
        self._connection.execute(
            "INSERT INTO origins (origin, size, root, time, note) VALUES (?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE"
            " SET size = excluded.size, root = excluded.root, time = excluded.time, note = excluded.note",
            (origin, seen.size, seen.root, seen.time, seen.note),
        )

    def add_fork(self, origin: str, size: int, time: int, note: bytes) -> None:
        (held,) = self._connection.execute("SELECT count(*) FROM forks WHERE origin = ?", (origin,)).fetchone()
        if held < MAX_FORKS:
            self._connection.execute("INSERT OR IGNORE INTO forks VALUES (?, ?, ?, ?)", (origin, size, time, note))


def _read(connection: sqlite3.Connection, origin: str) -> Seen | None:
    row = connection.execute("SELECT size, root, time, note FROM origins WHERE origin = ?", (origin,)).fetchone()
    return None if row is None else Seen(*row)


def _pragmas(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")  # COMMIT returns when the disk has it
