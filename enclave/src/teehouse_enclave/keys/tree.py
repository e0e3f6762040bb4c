# SPDX-License-Identifier: Apache-2.0
"""The part of a log's Merkle tree that its writer holds: the frontier at some size, and every node since.

That is enough to prove that any later tree begins with any tree from that size on, and that any later entry is in it.
Older proofs are for whoever stores the tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from teehouse_core.errors import LocalError
from teehouse_core.log.merkle import Frontier, consistency_proof, inclusion_proof, new_nodes

__all__ = ["Tree"]

_TRIM_AT = 65_536  # nodes held, about 10 MiB, before old ones are let go


class Tree:
    """Appends leaf hashes and makes proofs from size `floor` on."""

    def __init__(self, frontier: Frontier | None = None) -> None:
        self.frontier = frontier or Frontier.empty()
        self.floor = self.frontier.size
        self._nodes: dict[tuple[int, int], bytes] = dict(
            zip(_places(self.floor), self.frontier.hashes, strict=True),
        )

    @property
    def size(self) -> int:
        return self.frontier.size

    def append(self, leaves: Sequence[bytes]) -> None:
        """Add leaves, given by their leaf hashes."""
        for level, index, value in new_nodes(self.frontier, leaves):
            self._nodes[(level, index)] = value
        self.frontier = self.frontier.extend(leaves)

    def frontier_at(self, size: int) -> Frontier:
        """The frontier of the first `size` leaves. Raises LocalError (`tree-floor`) for a size that is not held."""
        if not self.floor <= size <= self.size:
            raise LocalError("this part of the tree is not held", code="tree-floor")
        return Frontier(size, tuple(self._source(level, index) for level, index in _places(size)))

    def root_at(self, size: int) -> bytes:
        """The root of the first `size` leaves, 32 bytes. Raises LocalError (`tree-floor`)."""
        return self.frontier_at(size).root()

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Proof that tree `new` begins with tree `old`. Raises LocalError (`tree-floor`) when `old` is too old."""
        return consistency_proof(self._source, old, new)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof that the leaf at `index` is in tree `size`. Raises LocalError (`tree-floor`) when it is too old."""
        return inclusion_proof(self._source, index, size)

    def trim(self, size: int) -> None:
        """Let go of what only trees smaller than `size` need, once there is much of it."""
        if len(self._nodes) < _TRIM_AT or not self.floor < size <= self.size:
            return
        kept = set(_places(size))
        self._nodes = {
            place: value for place, value in self._nodes.items() if place in kept or (place[1] + 1) << place[0] > size
        }
        self.floor = size

    def _source(self, level: int, index: int) -> bytes:
        found = self._nodes.get((level, index))
        if found is None:
            raise LocalError("this part of the tree is not held", code="tree-floor")
        return found


def _places(size: int) -> list[tuple[int, int]]:
    """(level, index) of the maximal complete subtrees of `size` leaves, largest first: as a frontier lists them."""
    places, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            places.append((level, start >> level))
            start += 1 << level
    return places
