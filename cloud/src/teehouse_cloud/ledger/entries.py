# SPDX-License-Identifier: Apache-2.0
"""Appending to a log and reading pages of it.

One call appends a group in one transaction. The position of an entry is chosen by TKS, so a call may be repeated: what
is there already must be the same leaf, what is not there must follow without a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse_cloud.errors import ConflictError, NotFoundError
from teehouse_cloud.ledger.tiles import complete_tiles
from teehouse_cloud.store.database import Database, insert_new
from teehouse_cloud.store.models import LedgerEntry, LedgerLog
from teehouse_core.log.merkle import leaf_hash

__all__ = [
    "FILTERS",
    "NewEntry",
    "Page",
    "Row",
    "append",
    "forget_opening",
    "get_log",
    "list_logs",
    "lock_log",
    "read_page",
]

FILTERS = ("op", "ring", "key", "decision")
PAGE_BYTES = 8 * 1024 * 1024  # leaves, openings and private parts of one page; one row always fits
_COMPARE = 1000  # stored hashes fetched at once when a call repeats entries
_LABEL_SOURCES = {"op": ("op", "kind"), "ring": ("ring",), "key": ("key",), "decision": ("decision",)}
_LABEL_LENGTHS = {"op": 64, "ring": 128, "key": 128, "decision": 16}


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry as TKS sends it. `opening` is JSON text, or None when the leaf hides no name."""

    leaf: bytes
    opening: str | None
    private: bytes


@dataclass(frozen=True, slots=True)
class Row:
    """A stored entry. `private` is b"" unless it was asked for."""

    index: int
    leaf: bytes
    opening: str | None
    private: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """Rows from a cursor on; `next` is the cursor of the page that follows, None when there was nothing more."""

    rows: Sequence[Row]
    next: int | None
    size: int


async def append(database: Database, log: str, first: int, entries: Sequence[NewEntry], now: int) -> tuple[int, int]:
    """Store `entries` at positions `first` …; returns the size of the log and how many of them are new.

    Raises `ConflictError`: `gap` when `first` lies beyond the end, `leaf-conflict` when another leaf is stored at one
    of the positions. Then nothing of the call is stored.
    """
    hashes = [leaf_hash(entry.leaf) for entry in entries]
    async with database.session() as session:
        log_id, size = await lock_log(database, session, log, now)
        if first > size:
            raise ConflictError(f"the log ends at {size}, before {first}", code="gap", size=size)
        known = min(size - first, len(entries))
        await _compare(session, log_id, first, hashes[:known], size)
        new = entries[known:]
        if not new:
            return size, 0
        rows = [
            {
                "log": log_id,
                "position": size + i,
                "leaf_hash": digest,
                "leaf": entry.leaf,
                "opening": entry.opening,
                "private": entry.private,
                "weight": len(entry.leaf) + len(entry.opening or "") + len(entry.private),
                **_labels(entry.leaf),
            }
            for i, (entry, digest) in enumerate(zip(new, hashes[known:], strict=True))
        ]
        await session.execute(insert(LedgerEntry.__table__), rows)  # type: ignore[arg-type]
        await complete_tiles(session, log_id, size, hashes[known:])
        await session.execute(
            update(LedgerLog).where(LedgerLog.id == log_id).values(size=size + len(new), updated_at=now)
        )
    return size + len(new), len(new)


async def lock_log(database: Database, session: AsyncSession, log: str, now: int) -> tuple[int, int]:
    """Id and size of the log, made when it is new; until the transaction ends no other can append to it.

    An UPDATE that changes nothing takes the row lock of PostgreSQL and the write lock of SQLite alike. It comes first,
    so SQLite never has to turn a reading transaction into a writing one, which fails at once beside another writer.
    """
    lock = (
        update(LedgerLog)
        .where(LedgerLog.name == log)
        .values(size=LedgerLog.size)
        .returning(LedgerLog.id, LedgerLog.size)
        .execution_options(synchronize_session=False)
    )
    row = (await session.execute(lock)).one_or_none()
    if row is None:
        made = {
            "name": log,
            "size": 0,
            "checkpoint": b"",
            "checkpoint_origin": "",
            "checkpoint_size": 0,
            "checkpoint_root": b"",
            "created_at": now,
            "updated_at": now,
        }
        await session.execute(insert_new(database, LedgerLog), [made])
        row = (await session.execute(lock)).one()
    return row.id, row.size


async def _compare(session: AsyncSession, log_id: int, first: int, hashes: Sequence[bytes], size: int) -> None:
    for start in range(0, len(hashes), _COMPARE):
        given = hashes[start : start + _COMPARE]
        stored = await _hashes(session, log_id, first + start, len(given))
        for i, (ours, theirs) in enumerate(zip(stored, given, strict=True)):
            if ours != theirs:
                at = first + start + i
                raise ConflictError(f"another leaf is stored at {at}", code="leaf-conflict", size=size, index=at)


async def _hashes(session: AsyncSession, log_id: int, first: int, count: int) -> Sequence[bytes]:
    query = (
        select(LedgerEntry.leaf_hash)
        .where(LedgerEntry.log == log_id, LedgerEntry.position >= first, LedgerEntry.position < first + count)
        .order_by(LedgerEntry.position)
    )
    return (await session.scalars(query)).all()


def _labels(leaf: bytes) -> dict[str, str]:
    """What lists can be narrowed by. A leaf of another form has none; it is stored all the same."""
    try:
        value = json.loads(leaf)
    except (ValueError, RecursionError):
        value = None
    found = dict.fromkeys(FILTERS, "")
    if isinstance(value, dict):
        for name, sources in _LABEL_SOURCES.items():
            text = next((value[source] for source in sources if source in value), "")
            if isinstance(text, str) and len(text) <= _LABEL_LENGTHS[name] and text.isascii() and text.isprintable():
                found[name] = text
    return found


async def get_log(database: Database, log: str) -> LedgerLog:
    """The row of a log. Raises `NotFoundError` (log-unknown)."""
    async with database.session() as session:
        return await _find(session, log)


async def _find(session: AsyncSession, log: str) -> LedgerLog:
    row = (await session.scalars(select(LedgerLog).where(LedgerLog.name == log))).one_or_none()
    if row is None:
        raise NotFoundError("there is no such log", code="log-unknown")
    return row


async def list_logs(database: Database) -> list[LedgerLog]:
    """All logs by name."""
    async with database.session() as session:
        return list((await session.scalars(select(LedgerLog).order_by(LedgerLog.name))).all())


async def read_page(
    database: Database, log: str, *, after: int, limit: int, only: Mapping[str, str], private: bool = False
) -> Page:
    """At most `limit` rows and about `PAGE_BYTES` from position `after` on, narrowed by the labels in `only`.

    Raises `NotFoundError` (log-unknown).
    """
    columns: list[Any] = [LedgerEntry.position, LedgerEntry.leaf, LedgerEntry.opening]
    if private:
        columns.append(LedgerEntry.private)
    async with database.session() as session:
        row = await _find(session, log)
        # the weights first: how much memory a page takes must be known before it is read
        query = select(LedgerEntry.position, LedgerEntry.weight).where(
            LedgerEntry.log == row.id, LedgerEntry.position >= after, LedgerEntry.position < row.size
        )
        for name, value in only.items():
            query = query.where(getattr(LedgerEntry, name) == value)
        weights = (await session.execute(query.order_by(LedgerEntry.position).limit(limit))).all()
        chosen = _within_budget([(found.position, found.weight) for found in weights])
        rows: list[Row] = []
        if chosen:
            wanted = select(*columns).where(LedgerEntry.log == row.id).order_by(LedgerEntry.position)
            if only:
                wanted = wanted.where(LedgerEntry.position.in_(chosen))
            else:  # without a filter the positions are a run
                wanted = wanted.where(LedgerEntry.position >= chosen[0], LedgerEntry.position <= chosen[-1])
            rows = [
                Row(found.position, found.leaf, found.opening, found.private if private else b"")
                for found in (await session.execute(wanted)).all()
            ]
    more = len(chosen) < len(weights) or len(weights) == limit
    return Page(rows, chosen[-1] + 1 if chosen and more else None, row.size)


def _within_budget(weights: Sequence[tuple[int, int]]) -> list[int]:
    chosen: list[int] = []
    left = PAGE_BYTES
    for position, weight in weights:
        left -= weight
        if chosen and left < 0:
            break
        chosen.append(position)
    return chosen


async def forget_opening(database: Database, log: str, index: int) -> None:
    """Delete the names that belong to an entry; the leaf and every proof stay as they are.

    One that is gone already is no error. Raises `NotFoundError` (log-unknown, entry-unknown).
    """
    async with database.session() as session:
        row = await _find(session, log)
        at = (LedgerEntry.log == row.id) & (LedgerEntry.position == index)
        forget = update(LedgerEntry).where(at).values(opening=None).returning(LedgerEntry.position)
        found = await session.execute(forget.execution_options(synchronize_session=False))
        if found.one_or_none() is None:
            raise NotFoundError("the log has no such entry", code="entry-unknown")
    await database.settle()
