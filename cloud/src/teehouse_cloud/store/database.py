# SPDX-License-Identifier: Apache-2.0
"""Opening the database: SQLite in WAL mode for one replica, PostgreSQL for several, one code path for both."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from teehouse_cloud.errors import DatabaseError, SettingsError
from teehouse_cloud.store.models import Base

__all__ = ["Database", "database_url", "insert_new"]

# milliseconds a writer waits for another process's write lock (`key create` beside `serve`) before it fails
SQLITE_BUSY_MS = 5000

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


def database_url(written: str) -> URL:
    """Turn what a person writes (`sqlite:///file.db`, `postgresql://…`) into the async driver's URL.

    Raises `SettingsError` for anything else. In-memory SQLite is refused: each connection would see its own.
    """
    try:
        url = make_url(written)
    except ArgumentError as exc:
        raise SettingsError(
            "the database URL cannot be read", code="settings", hint="use sqlite:///path/to/file.db or postgresql://…"
        ) from exc
    driver = _DRIVERS.get(url.drivername)
    if driver is None:
        raise SettingsError(
            f"database kind {url.drivername!r} is not supported",
            code="settings",
            hint="use sqlite:///path/to/file.db or postgresql://user@host/name",
        )
    if driver.startswith("sqlite") and url.database in (None, "", ":memory:"):
        raise SettingsError("the SQLite URL names no file", code="settings", hint="use sqlite:///path/to/file.db")
    return url.set(drivername=driver)


class Database:
    """One engine and its sessions. Makes no tables: see `teehouse_cloud.store.migrate`."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """`create` makes an absent SQLite file; without it an absent file is `DatabaseError` (db-unreachable)."""
        self.url = database_url(url)
        self.is_sqlite = self.url.drivername.startswith("sqlite")
        if self.is_sqlite:
            _require_file(Path(str(self.url.database)), create=create)
        try:
            # hide_parameters: driver errors must not carry values into a log
            self.engine: AsyncEngine = create_async_engine(
                self.url, hide_parameters=True, pool_pre_ping=not self.is_sqlite
            )
        except ModuleNotFoundError as exc:
            raise SettingsError(
                f"the database driver {exc.name} is not installed",
                code="settings",
                hint="pip install 'teehouse-cloud[postgres]'",
            ) from exc
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _sqlite_pragmas)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed at the end, rolled back on any error. Raises `DatabaseError`."""
        try:
            async with self._sessions.begin() as session:
                yield session
        except (SQLAlchemyError, OSError) as exc:
            if _is_full(exc):
                raise DatabaseError(
                    "the database's disk is full", code="storage-full", hint="make room; nothing was changed"
                ) from exc
            raise DatabaseError(
                f"the database refused the operation ({type(exc).__name__})",
                code="db-unreachable",
                hint="is the database up, and its file writable by this user?",
            ) from exc

    async def settle(self) -> None:
        """Let what was just deleted leave the disk: SQLite would keep it in its write-ahead log until later.

        PostgreSQL overwrites it at a time of its own choosing (VACUUM). A reader that is in the way makes SQLite do
        less, which is no error.
        """
        if self.is_sqlite:
            try:
                async with self.engine.connect() as connection:
                    await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
            except (SQLAlchemyError, OSError) as exc:
                raise DatabaseError("the database is busy", code="db-unreachable") from exc

    async def close(self) -> None:
        """Close every pooled connection."""
        await self.engine.dispose()


def insert_new(database: Database, model: type[Base]) -> Any:
    """`INSERT … ON CONFLICT DO NOTHING` in the dialect of `database`; execute it with a list of rows.

    One statement of one shape: with the rows inside it, each page would be compiled anew.
    """
    make = sqlite.insert if database.is_sqlite else postgresql.insert
    return make(model).on_conflict_do_nothing()


def _is_full(exc: Exception) -> bool:
    """Whether the disk had no room: SQLITE_FULL, disk_full of PostgreSQL, or ENOSPC itself."""
    if isinstance(exc, DBAPIError):
        cause = exc.orig
        return getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(cause, "sqlstate", "") == "53100"
    return isinstance(exc, OSError) and exc.errno == errno.ENOSPC


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers never wait for the poller's writes
    cursor.execute("PRAGMA synchronous=FULL")  # what the ledger said it stored must outlive a power cut
    cursor.execute("PRAGMA secure_delete=ON")  # a deleted opening or snapshot is overwritten, not only unlinked
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")
    cursor.close()


def _require_file(path: Path, *, create: bool) -> None:
    """Create the file 0600 before SQLite would create it with the umask; WAL files take over its mode."""
    if path.exists():
        return
    if not create:
        raise DatabaseError(
            f"there is no database file {path}", code="db-unreachable", hint="make it with: teehouse-cloud init"
        )
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise DatabaseError(
            f"cannot create the database file {path} ({exc.strerror})",
            code="db-unreachable",
            hint="does its folder exist, and may this user write there?",
        ) from exc
