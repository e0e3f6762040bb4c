# SPDX-License-Identifier: Apache-2.0
"""Files of leaf hashes, 32 bytes each: all that is needed to recompute a tree, and to say where two trees part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.merkle import HASH_SIZE, Frontier

__all__ = ["CHUNK", "count", "first_difference", "grow", "read"]

CHUNK: Final = 4096  # hashes read at once


def count(path: Path) -> int:
    """Hashes in the file, 0 when it is not there. Raises `LocalError`, `MalformedError`."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
    if size % HASH_SIZE:
        raise MalformedError(f"{path.name} is cut", code="leaf-hashes")
    return size // HASH_SIZE


def read(path: Path, start: int = 0, end: int | None = None) -> Iterator[list[bytes]]:
    """The hashes `start`…`end` in chunks. Raises `LocalError`, `MalformedError` when there are fewer."""
    at, last = start, count(path) if end is None else end
    if at >= last:
        return
    try:
        with path.open("rb") as file:
            file.seek(start * HASH_SIZE)
            while at < last:
                data = file.read(min(CHUNK, last - at) * HASH_SIZE)
                if not data or len(data) % HASH_SIZE:
                    raise MalformedError(f"{path.name} ends at {at}", code="leaf-hashes")
                chunk = [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]
                at += len(chunk)
                yield chunk
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None


def grow(path: Path, end: int, frontier: Frontier | None = None) -> Frontier:
    """The frontier of the first `end` hashes, from that of a smaller tree on."""
    frontier = frontier or Frontier.empty()
    if frontier.size == end:
        return frontier
    for chunk in read(path, frontier.size, end):
        frontier = frontier.extend(chunk)
    return frontier


def first_difference(one: Path, other: Path, end: int) -> int | None:
    """The first of the first `end` places where two files differ; a missing hash differs. None when none does."""
    shared = min(count(one), count(other), end)
    at = 0
    for left, right in zip(read(one, 0, shared), read(other, 0, shared), strict=True):
        if left != right:
            return at + next(i for i, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1])
        at += len(left)
    return shared if shared < end else None
