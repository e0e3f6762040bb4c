# SPDX-License-Identifier: Apache-2.0
"""Tiles (C2SP tlog-tiles) out of stored hashes: a full tile is written once, when its last hash is known.

Nothing here recomputes a tree: a partial tile reads at most 255 stored hashes, whatever the size of the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Row, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from teehouse_cloud.errors import NotFoundError
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import LedgerEntry, LedgerLog, LedgerTile
from teehouse_core.log.merkle import HASH_SIZE
from teehouse_core.log.tiles import TILE_WIDTH, format_bundle, tile_hash, width_at

__all__ = ["complete_tiles", "read_bundle", "read_tile"]

MAX_LEVEL = 7  # the highest level with a hash in a log of fewer than 2^63 entries


async def complete_tiles(session: AsyncSession, log_id: int, size: int, hashes: Sequence[bytes]) -> None:
    """Write the tiles that become full when `hashes` are appended to a log of `size` entries, on every level."""
    new, below = list(hashes), size
    for level in range(MAX_LEVEL + 1):
        first = below // TILE_WIDTH
        if (below + len(new)) // TILE_WIDTH == first:
            return
        pending = await _hashes(session, log_id, level, first * TILE_WIDTH, below % TILE_WIDTH)
        run = [*pending, *new]
        tiles = [run[start : start + TILE_WIDTH] for start in range(0, len(run) - len(run) % TILE_WIDTH, TILE_WIDTH)]
        roots = [tile_hash(tile) for tile in tiles]
        rows = [
            {"log": log_id, "level": level, "position": first + i, "hashes": b"".join(tile), "root": root}
            for i, (tile, root) in enumerate(zip(tiles, roots, strict=True))
        ]
        await session.execute(insert(LedgerTile.__table__), rows)  # type: ignore[arg-type]
        new, below = roots, first


async def _hashes(session: AsyncSession, log_id: int, level: int, first: int, count: int) -> Sequence[bytes]:
    """Hashes `first` … of a level, from the entries or from the full tiles one level below."""
    if count == 0:
        return []
    if level == 0:
        query = select(LedgerEntry.leaf_hash).where(LedgerEntry.log == log_id).order_by(LedgerEntry.position)
        query = query.where(LedgerEntry.position >= first, LedgerEntry.position < first + count)
    else:
        query = select(LedgerTile.root).where(LedgerTile.log == log_id, LedgerTile.level == level - 1)
        query = query.where(LedgerTile.position >= first, LedgerTile.position < first + count)
        query = query.order_by(LedgerTile.position)
    return (await session.scalars(query)).all()


async def read_tile(database: Database, log: str, level: int, index: int, width: int) -> bytes:
    """The first `width` (1…256) hashes of a tile. Raises `NotFoundError` (log-unknown, tile-unknown)."""
    async with database.session() as session:
        row = await _log(session, log)
        if width_at(level, index, row.size) < width:
            raise _unknown()
        stored = await session.get(LedgerTile, (row.id, level, index))
        if stored is not None:
            return stored.hashes[: width * HASH_SIZE]
        found = await _hashes(session, row.id, level, index * TILE_WIDTH, width)
    if len(found) != width:
        raise _unknown()
    return b"".join(found)


async def read_bundle(database: Database, log: str, index: int, width: int) -> bytes:
    """The first `width` (1…256) entries of a bundle. Raises `NotFoundError` (log-unknown, tile-unknown)."""
    first = index * TILE_WIDTH
    async with database.session() as session:
        row = await _log(session, log)
        if width_at(0, index, row.size) < width:
            raise _unknown()
        query = select(LedgerEntry.leaf).where(LedgerEntry.log == row.id).order_by(LedgerEntry.position)
        query = query.where(LedgerEntry.position >= first, LedgerEntry.position < first + width)
        leaves = (await session.scalars(query)).all()
    if len(leaves) != width:
        raise _unknown()
    return format_bundle(leaves)


async def _log(session: AsyncSession, log: str) -> Row[int, int]:
    row = (await session.execute(select(LedgerLog.id, LedgerLog.size).where(LedgerLog.name == log))).one_or_none()
    if row is None:
        raise NotFoundError("there is no such log", code="log-unknown")
    return row


def _unknown() -> NotFoundError:
    hint = "ask for one that a checkpoint covers"
    return NotFoundError("the log has no such tile yet", code="tile-unknown", hint=hint)
