# SPDX-License-Identifier: Apache-2.0
"""Tiles and entry bundles (C2SP tlog-tiles): how a log is laid out as files that never change.

A tile holds up to 256 hashes of one level; level l of tiles is level 8·l of the tree. A bundle holds the entries of one
tile of level 0, each with its length in two bytes, so an entry has at most 65535.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.merkle import HASH_SIZE, MAX_SIZE, HashSource, node_hash

__all__ = [
    "ENTRIES",
    "MAX_BUNDLE",
    "MAX_ENTRY",
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "TilePath",
    "entries_path",
    "format_bundle",
    "parse_bundle",
    "parse_path",
    "parse_tile",
    "tile_hash",
    "tile_path",
    "tile_source",
    "tiles_between",
    "width_at",
]

TILE_HEIGHT = 8  # levels of the tree in a tile
TILE_WIDTH = 256  # hashes in a full tile, entries in a full bundle
MAX_ENTRY = 65535  # bytes; the length before an entry has 16 bits
MAX_BUNDLE = TILE_WIDTH * (2 + MAX_ENTRY)  # bytes
MAX_LEVEL = 63  # of a tile, as C2SP writes it; a tree of MAX_SIZE has no tile above level 7
ENTRIES = -1  # the "level" of entry bundles in a TilePath
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, slots=True)
class TilePath:
    """What a path names: `level` is ENTRIES for a bundle; `width` is 256 when full."""

    level: int
    index: int
    width: int


def _number(index: int) -> str:
    if not 0 <= index <= MAX_SIZE:
        raise LocalError("no such tile", code="tile-index")
    parts = [f"{index % 1000:03d}"]
    while index := index // 1000:
        parts.append(f"x{index % 1000:03d}")
    return "/".join(reversed(parts))


def _path(kind: str, index: int, width: int) -> str:
    if not 1 <= width <= TILE_WIDTH:
        raise LocalError("a tile has 1 to 256 hashes", code="tile-width")
    return f"tile/{kind}/{_number(index)}" + ("" if width == TILE_WIDTH else f".p/{width}")


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """`tile/<L>/<N>[.p/<W>]`, below the log's prefix, without a slash before it."""
    if not 0 <= level <= MAX_LEVEL:
        raise LocalError("no such level of tiles", code="tile-level")
    return _path(str(level), index, width)


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """`tile/entries/<N>[.p/<W>]`."""
    return _path("entries", index, width)


def parse_path(path: str) -> TilePath:
    """The inverse of `tile_path` and `entries_path`. Raises MalformedError."""
    match = _PATH.fullmatch(path) if len(path) <= 64 else None
    if match is None:
        raise MalformedError("not the path of a tile", code="tile-path")
    kind, number, partial = match.groups()
    level = ENTRIES if kind == "entries" else int(kind)
    index = int(number.replace("/", "").replace("x", ""))
    width = int(partial) if partial else TILE_WIDTH
    if level > MAX_LEVEL or index > MAX_SIZE or (partial and width >= TILE_WIDTH) or number != _number(index):
        raise MalformedError("not the path of a tile", code="tile-path")
    return TilePath(level, index, width)


def width_at(level: int, index: int, size: int) -> int:
    """Hashes of tile (level, index) in a tree of `size` leaves: 0 (not there) to 256. Bundles are as level 0."""
    complete = size >> (TILE_HEIGHT * max(level, 0))
    return min(max(complete - index * TILE_WIDTH, 0), TILE_WIDTH)


def tiles_between(old: int, new: int) -> Iterator[TilePath]:
    """Every tile of the tree of `new` leaves that is not in that of `old` leaves or is narrower there; no bundles."""
    level = 0
    while new >> (TILE_HEIGHT * level):
        first = (old >> (TILE_HEIGHT * level)) // TILE_WIDTH
        last = ((new >> (TILE_HEIGHT * level)) - 1) // TILE_WIDTH
        for index in range(first, last + 1):
            width = width_at(level, index, new)
            if width > width_at(level, index, old):
                yield TilePath(level, index, width)
        level += 1


def parse_tile(data: bytes, width: int) -> tuple[bytes, ...]:
    """The `width` hashes of a tile. Raises MalformedError."""
    if len(data) != width * HASH_SIZE:
        raise MalformedError("a tile has the wrong length", code="tile-length")
    return tuple(data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))


def tile_hash(hashes: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes that stand side by side."""
    row = list(hashes)
    if not row or len(row) & (len(row) - 1):
        raise LocalError("a complete subtree has a power of two of hashes", code="tile-width")
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def tile_source(read: Callable[[TilePath], bytes], size: int) -> HashSource:
    """A source of hashes over the tiles of a tree of `size` leaves; `read` gets a tile's bytes and may keep them.

    What comes is as true as the tiles: whoever takes a proof or a root from it verifies that.
    """

    def source(level: int, index: int) -> bytes:
        tile_level, inside = divmod(level, TILE_HEIGHT)
        start = index << inside
        tile, offset = divmod(start, TILE_WIDTH)
        width = width_at(tile_level, tile, size)
        if offset + (1 << inside) > width:
            raise LocalError("no such subtree in a tree of this size", code="index-out-of-range")
        hashes = parse_tile(read(TilePath(tile_level, tile, width)), width)
        return tile_hash(hashes[offset : offset + (1 << inside)])

    return source


def format_bundle(entries: Sequence[bytes]) -> bytes:
    """1 to 256 entries, each with its length before it. Raises LocalError."""
    if not 1 <= len(entries) <= TILE_WIDTH or any(len(entry) > MAX_ENTRY for entry in entries):
        raise LocalError("a bundle has 1 to 256 entries of at most 65535 bytes", code="bundle")
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


def parse_bundle(data: bytes) -> list[bytes]:
    """The entries of a bundle. Raises MalformedError."""
    if len(data) > MAX_BUNDLE:
        raise MalformedError("document too large", code="document-too-large")
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise MalformedError("a bundle is cut", code="bundle")
        (length,) = struct.unpack_from(">H", data, at)
        at += 2
        if at + length > len(data) or len(entries) == TILE_WIDTH:
            raise MalformedError("a bundle is cut, or has too many entries", code="bundle")
        entries.append(bytes(data[at : at + length]))
        at += length
    if not entries:
        raise MalformedError("a bundle is empty", code="bundle")
    return entries
