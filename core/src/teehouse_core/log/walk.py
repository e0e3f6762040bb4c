# SPDX-License-Identifier: Apache-2.0
"""Proofs out of tiles that have to be fetched: a generator says which tile it wants and is sent its bytes.

Whoever drives it does the I/O, blocking or not. What comes out is as true as the tiles: verify it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from teehouse_core.errors import MalformedError
from teehouse_core.log.merkle import HashSource, consistency_proof, inclusion_proof
from teehouse_core.log.tiles import TilePath, tile_source

__all__ = ["consistency_walk", "inclusion_walk"]

MAX_TILES = 64  # of one proof; a tree of 2^40 leaves needs twelve
_T = TypeVar("_T")


class _Wanted(Exception):  # noqa: N818  a signal within this module
    def __init__(self, path: TilePath) -> None:
        super().__init__(path)
        self.path = path


def inclusion_walk(index: int, size: int) -> Generator[TilePath, bytes, list[bytes]]:
    """The inclusion proof of leaf `index` in the tree of `size`. Raises LocalError, MalformedError."""
    return _walk(lambda source: inclusion_proof(source, index, size), size)


def consistency_walk(old: int, new: int) -> Generator[TilePath, bytes, list[bytes]]:
    """The proof that the tree of `new` leaves continues that of `old`. Raises LocalError, MalformedError."""
    return _walk(lambda source: consistency_proof(source, old, new), new)


def _walk(make: Callable[[HashSource], _T], size: int) -> Generator[TilePath, bytes, _T]:
    tiles: dict[TilePath, bytes] = {}

    def read(path: TilePath) -> bytes:
        if path not in tiles:
            raise _Wanted(path)
        return tiles[path]

    while len(tiles) <= MAX_TILES:
        try:
            return make(tile_source(read, size))
        except _Wanted as wanted:
            path = wanted.path
        tiles[path] = yield path
    raise MalformedError("a proof needs too many tiles", code="proof-too-long")
