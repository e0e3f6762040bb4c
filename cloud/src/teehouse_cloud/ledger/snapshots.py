# SPDX-License-Identifier: Apache-2.0
"""Sealed snapshots of TKS state, and whatever else TKS wants kept by name: replaced as a whole, never looked into."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse_cloud.errors import NotFoundError
from teehouse_cloud.ledger.entries import lock_log
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import LedgerLog, LedgerSnapshot

__all__ = ["MAX_SNAPSHOT", "delete_snapshot", "get_snapshot", "put_snapshot"]

MAX_SNAPSHOT = 32 * 1024 * 1024  # bytes; ten thousand keys with their policies stay below


async def put_snapshot(database: Database, log: str, name: str, data: bytes, now: int) -> None:
    """Store or replace. A log is made by it: TKS may need something kept before its first entry."""
    make = sqlite.insert if database.is_sqlite else postgresql.insert
    async with database.session() as session:
        log_id, _ = await lock_log(database, session, log, now)
        new = make(LedgerSnapshot).values(log=log_id, name=name, data=data, updated_at=now)
        await session.execute(
            new.on_conflict_do_update(
                index_elements=["log", "name"], set_={"data": new.excluded.data, "updated_at": new.excluded.updated_at}
            )
        )


async def get_snapshot(database: Database, log: str, name: str) -> bytes:
    """The stored bytes. Raises `NotFoundError` (log-unknown, snapshot-unknown)."""
    async with database.session() as session:
        row = await session.get(LedgerSnapshot, (await _id_of(session, log), name))
    if row is None:
        raise NotFoundError("there is no such snapshot", code="snapshot-unknown")
    return row.data


async def delete_snapshot(database: Database, log: str, name: str) -> None:
    """Remove it; one that is not there is no error. Raises `NotFoundError` (log-unknown)."""
    async with database.session() as session:
        log_id = await _id_of(session, log)
        await session.execute(delete(LedgerSnapshot).where(LedgerSnapshot.log == log_id, LedgerSnapshot.name == name))
    await database.settle()


async def _id_of(session: AsyncSession, log: str) -> int:
    log_id = (await session.scalars(select(LedgerLog.id).where(LedgerLog.name == log))).one_or_none()
    if log_id is None:
        raise NotFoundError("there is no such log", code="log-unknown")
    return log_id
