# SPDX-License-Identifier: Apache-2.0
"""The Merkle tree of RFC 6962 §2 and its proofs; verification as in RFC 9162 §2.1.3.2 and §2.1.4.2.

Proofs are made from a `HashSource`: any function that gives the hash of a complete subtree. Whoever makes them need not
be honest; whoever verifies them needs two numbers, two hashes and the proof.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.errors import LogProofError

__all__ = [
    "EMPTY_ROOT",
    "HASH_SIZE",
    "MAX_PROOF",
    "MAX_SIZE",
    "Frontier",
    "HashSource",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "new_nodes",
    "node_hash",
    "root_of",
    "verify_consistency",
    "verify_inclusion",
]

HASH_SIZE = 32  # bytes of SHA-256
MAX_SIZE = 2**63 - 1  # leaves; C2SP numbers are signed 64-bit integers in many implementations
MAX_PROOF = 64  # hashes; a tree of MAX_SIZE leaves needs at most 63 for inclusion and 64 for consistency
EMPTY_ROOT = hashlib.sha256(b"").digest()  # MTH({})

HashSource = Callable[[int, int], bytes]
"""(level, index) → hash of the complete subtree over the leaves [index·2^level, (index+1)·2^level), 32 bytes."""


def leaf_hash(data: bytes) -> bytes:
    """SHA-256(00 ‖ data), 32 bytes."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(01 ‖ left ‖ right), 32 bytes."""
    return hashlib.sha256(b"\1" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """All that must be kept of a tree to append to it: the hashes of its maximal complete subtrees, largest first."""

    size: int
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE or len(self.hashes) != self.size.bit_count():
            raise MalformedError("a frontier has one hash for each bit of its size", code="frontier")
        if any(len(item) != HASH_SIZE for item in self.hashes):
            raise MalformedError("a frontier's hash has the wrong length", code="frontier")

    @classmethod
    def empty(cls) -> Frontier:
        return cls(0, ())

    def append(self, leaf: bytes) -> Frontier:
        """The tree with one more leaf, given by its leaf hash."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """The tree with more leaves, given by their leaf hashes."""
        hashes, size = list(self.hashes), self.size
        for leaf in leaves:
            _push(hashes, size, leaf)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        """MTH of all leaves, 32 bytes."""
        return _fold(self.hashes)

    def to_bytes(self) -> bytes:
        """u64 size ‖ the hashes, largest subtree first."""
        return struct.pack(">Q", self.size) + b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, data: bytes) -> Frontier:
        """The inverse of `to_bytes`. Raises MalformedError."""
        if len(data) < 8 or (len(data) - 8) % HASH_SIZE or len(data) > 8 + 63 * HASH_SIZE:
            raise MalformedError("not a frontier", code="frontier")
        (size,) = struct.unpack_from(">Q", data)
        return cls(size, tuple(data[at : at + HASH_SIZE] for at in range(8, len(data), HASH_SIZE)))


def _push(hashes: list[bytes], size: int, leaf: bytes) -> None:
    """Append to the frontier `hashes` of a tree of `size` leaves."""
    while size & 1:
        leaf = node_hash(hashes.pop(), leaf)
        size >>= 1
    hashes.append(leaf)


def _fold(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def new_nodes(frontier: Frontier, leaves: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """(level, index, hash) of every complete subtree that appending `leaves` (leaf hashes) completes, leaves included.

    A store that keeps them all is a `HashSource`.
    """
    hashes, size = list(frontier.hashes), frontier.size
    for leaf in leaves:
        level, index, value = 0, size, leaf
        yield level, index, value
        while index & 1:
            value = node_hash(hashes.pop(), value)
            level, index = level + 1, index >> 1
            yield level, index, value
        hashes.append(value)
        size += 1


def _check_hash(value: bytes) -> bytes:
    if len(value) != HASH_SIZE:
        raise MalformedError("a hash has the wrong length", code="wrong-length")
    return value


def _range(source: HashSource, start: int, end: int) -> bytes:
    """MTH of the leaves [start, end), where `start` is a multiple of a power of two that is ≥ end − start."""
    parts = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append(_check_hash(source(level, start >> level)))
        start += 1 << level
    return _fold(parts)


def root_of(source: HashSource, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return _range(source, 0, size)


def _split(width: int) -> int:
    """The largest power of two smaller than `width` (≥ 2)."""
    return 1 << ((width - 1).bit_length() - 1)


def inclusion_proof(source: HashSource, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1, leaf's sibling first. Raises LocalError when the leaf is not there."""
    if not 0 <= index < size <= MAX_SIZE:
        raise LocalError("no such leaf in a tree of this size", code="index-out-of-range")
    start, end = 0, size
    proof = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range(source, middle, end))
            end = middle
        else:
            proof.append(_range(source, start, middle))
            start = middle
    return proof[::-1]


def consistency_proof(source: HashSource, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 §2.1.2; empty when old is 0 or new. Raises LocalError when old > new."""
    if not 0 <= old <= new <= MAX_SIZE:
        raise LocalError("the old tree is larger than the new one", code="size-out-of-range")
    if old in (0, new):
        return []
    start, end, whole = 0, new, True
    proof = []
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_range(source, middle, end))
            end = middle
        else:
            proof.append(_range(source, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_range(source, start, end))
    return proof[::-1]


def _same(given: bytes, made: bytes) -> bool:
    return hmac.compare_digest(given, made)


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Prove that the leaf hash `leaf` stands at `index` of the tree (size, root). Raises LogProofError."""
    if not 0 <= index < size <= MAX_SIZE:
        raise LogProofError("no such leaf in a tree of this size")
    if any(len(item) != HASH_SIZE for item in (leaf, root, *proof)):
        raise LogProofError("a hash has the wrong length")
    at, last, value = index, size - 1, leaf
    for item in proof:
        if last == 0:
            raise LogProofError("the inclusion proof is too long")
        if at & 1 or at == last:
            value = node_hash(item, value)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, item)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise LogProofError("the inclusion proof is too short")
    if not _same(root, value):
        raise LogProofError("the leaf is not in this tree")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Prove that the tree (new, new_root) begins with the tree (old, old_root). Raises LogProofError."""
    if not 0 <= old <= new <= MAX_SIZE:
        raise LogProofError("the old tree is larger than the new one")
    if any(len(item) != HASH_SIZE for item in (old_root, new_root, *proof)):
        raise LogProofError("a hash has the wrong length")
    if old in (0, new):
        if proof:
            raise LogProofError("the consistency proof is too long")
        expected = EMPTY_ROOT if old == 0 else new_root
        if not _same(old_root, expected) or (new == 0 and not _same(new_root, EMPTY_ROOT)):
            raise LogProofError("two trees of one size have different roots")
        return
    path = list(proof)
    if old & (old - 1) == 0:  # the old tree is one complete subtree: its root begins the path
        path.insert(0, old_root)
    if not path:
        raise LogProofError("the consistency proof is empty")
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for item in path[1:]:
        if last == 0:
            raise LogProofError("the consistency proof is too long")
        if at & 1 or at == last:
            first, second = node_hash(item, first), node_hash(item, second)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, item)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise LogProofError("the consistency proof is too short")
    if not _same(old_root, first) or not _same(new_root, second):
        raise LogProofError("the larger tree does not begin with the smaller one")
