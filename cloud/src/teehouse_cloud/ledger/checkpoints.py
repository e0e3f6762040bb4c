# SPDX-License-Identifier: Apache-2.0
"""The newest checkpoint of a log, byte for byte as TKS sent it. Its signatures are not looked at here."""

from __future__ import annotations

from sqlalchemy import select, update

from teehouse_cloud.errors import ConflictError, NotFoundError
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import LedgerLog
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.note import MAX_NOTE, Note

__all__ = ["MAX_NOTE", "get_checkpoint", "put_checkpoint"]


async def put_checkpoint(database: Database, log: str, note: bytes, now: int) -> int:
    """Store a newer checkpoint, or the same one with more cosignatures; returns its size.

    Raises `MalformedError`; `NotFoundError` (log-unknown); `ConflictError`: `checkpoint-ahead` of the stored entries,
    `checkpoint-behind` the stored one, `checkpoint-fork` (another root for the same size), `checkpoint-origin`.
    """
    told = Checkpoint.parse(Note.parse(note).text)
    async with database.session() as session:
        lock = (
            update(LedgerLog)
            .where(LedgerLog.name == log)
            .values(size=LedgerLog.size)
            .returning(
                LedgerLog.size, LedgerLog.checkpoint_origin, LedgerLog.checkpoint_size, LedgerLog.checkpoint_root
            )
            .execution_options(synchronize_session=False)
        )
        row = (await session.execute(lock)).one_or_none()
        if row is None:
            raise NotFoundError("there is no such log", code="log-unknown")
        size, origin, before, root = row
        if told.size > size:
            raise ConflictError(f"the log ends at {size}", code="checkpoint-ahead", size=size)
        if origin and told.origin != origin:
            raise ConflictError("the log has another origin", code="checkpoint-origin", size=size)
        if told.size < before:
            raise ConflictError(f"a checkpoint of {before} is stored", code="checkpoint-behind", size=size)
        if origin and told.size == before and told.root != root:
            raise ConflictError("another root is stored for this size", code="checkpoint-fork", size=size)
        values = {
            "checkpoint": note,
            "checkpoint_origin": told.origin,
            "checkpoint_size": told.size,
            "checkpoint_root": told.root,
            "updated_at": now,
        }
        await session.execute(update(LedgerLog).where(LedgerLog.name == log).values(**values))
    return told.size


async def get_checkpoint(database: Database, log: str) -> bytes:
    """The newest checkpoint. Raises `NotFoundError` (log-unknown, checkpoint-unknown)."""
    async with database.session() as session:
        note = (await session.scalars(select(LedgerLog.checkpoint).where(LedgerLog.name == log))).one_or_none()
    if note is None:
        raise NotFoundError("there is no such log", code="log-unknown")
    if not note:
        raise NotFoundError("the log has no checkpoint yet", code="checkpoint-unknown")
    return note
