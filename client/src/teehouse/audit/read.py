# SPDX-License-Identifier: Apache-2.0
"""Reading single entries from a ledger, each proven under a checkpoint that was verified and continues the one seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from teehouse.audit import leaves
from teehouse.audit.check import EntryCheck
from teehouse.audit.errors import LogRefused
from teehouse.audit.ledger import Ledger, Row
from teehouse.audit.memory import Memory
from teehouse.audit.pins import Head, Pins
from teehouse_core.errors import MalformedError, OperatorError
from teehouse_core.log.entry import AuditEntry, PublicEntry
from teehouse_core.log.errors import LogProofError
from teehouse_core.log.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.tiles import TILE_WIDTH, TilePath, parse_tile, tile_source, width_at

__all__ = ["Proven", "Reader", "blame", "head_of", "proof_file", "rewritten"]


@dataclass(frozen=True, slots=True)
class Proven:
    """An entry that stands in the log: parsed, its opening held against it, its inclusion proven."""

    row: Row
    entry: AuditEntry | PublicEntry
    hashes: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        names = self.row.opening["names"] if self.row.opening is not None else []
        return {"index": self.row.index, **self.entry.to_json(), "names": names}


def head_of(ledger: Ledger, pins: Pins, memory: Memory, origin: str) -> Head:
    """The ledger's newest checkpoint, authenticated. Raises `LogRefused`; `log-rollback` also when it has none now."""
    try:
        head = pins.authenticate(ledger.checkpoint(), origin=origin)
    except OperatorError as error:
        seen = memory.checkpoint()
        if error.code in ("checkpoint-unknown", "log-unknown") and seen is not None and seen.size:
            raise LogRefused(
                f"the ledger shows nothing where {seen.size} entries were before",
                code="log-rollback",
                index=0,
                hint=f"The checkpoint seen before is kept in {memory.folder}.",
            ) from None
        raise
    seen = memory.checkpoint()
    if seen is not None and head.size < seen.size:
        memory.continues(head, b"", where=None)
    return head


def blame(ledger: Ledger, head: Head, memory: Memory, mine: Path | None = None) -> NoReturn:
    """Something does not fit: say what, from the ledger's own lowest tiles. Raises `LogRefused`.

    Tiles that make the signed tree are what the log signed. Then either that tree is not the one seen before (the log
    has two histories), or only what was given beside it is false (`mine`, the hashes of the entries that were given).
    """
    with memory.scratch() as folder:
        theirs = folder / "tiles"
        _fetch_leaves(ledger, head.size, theirs)
        seen, known = memory.checkpoint(), min(memory.known(), head.size)
        before = leaves.first_difference(memory.leaves, theirs, known)
        at_seen = leaves.grow(theirs, min(seen.size, head.size) if seen is not None else 0)
        beside = leaves.first_difference(mine, theirs, head.size) if mine is not None else None
        if leaves.grow(theirs, head.size, at_seen).root() == head.checkpoint.root:
            memory.continues(head, at_seen.root(), where=before)
            raise rewritten(beside, known)
        old = leaves.first_difference(memory.leaves, mine, known) if mine is not None else before
        raise rewritten(old if old is not None else beside, known)


def rewritten(where: int | None, known: int) -> LogRefused:
    """What was given does not make the signed tree. The first `known` entries had been seen before."""
    if where is not None:
        text = f"entry {where} is not the one in the signed tree"
    elif known:
        text = f"this is not the signed tree; the first {known} entries, seen before, are unchanged"
    else:
        text = "this is not the signed tree, and nothing that was seen before says from which entry on"
    return LogRefused(
        text,
        code="log-rewritten",
        index=where if where is not None else known or None,
        hint="Whoever stores the log changed it; the log's writer did not sign this.",
    )


def _fetch_leaves(ledger: Ledger, size: int, target: Path) -> None:
    with target.open("wb") as file:
        for index in range(-(-size // TILE_WIDTH)):
            width = width_at(0, index, size)
            file.write(b"".join(parse_tile(ledger.tile(TilePath(0, index, width)), width)))


class Reader:
    """Entries of one log at one head."""

    def __init__(self, ledger: Ledger, pins: Pins, memory: Memory, origin: str) -> None:
        self._ledger = ledger
        self.head = head_of(ledger, pins, memory, origin)
        self._source = tile_source(ledger.tile, self.head.size)
        self._check = EntryCheck(origin)
        self._agree(memory)

    def _agree(self, memory: Memory) -> None:
        """Prove that this head goes on from the one seen, and remember it."""
        seen, head = memory.checkpoint(), self.head
        if seen is not None:
            try:
                proof = consistency_proof(self._source, seen.size, head.size)
                verify_consistency(seen.size, head.size, seen.root, head.checkpoint.root, proof)
            except MalformedError:  # of the proof or of a tile
                blame(self._ledger, head, memory)
        memory.remember(head)

    def entries(self, start: int, end: int) -> Iterator[Proven]:
        """The entries `start`…`end` of the head, in order. Raises `LogRefused`."""
        expected = start
        for row in self._ledger.rows(start, end):
            if row.index != expected:
                break
            yield self._proven(row)
            expected += 1
        if expected < end:
            raise LogRefused(
                f"the ledger does not give entry {expected}, which the signed tree covers",
                code="log-hidden",
                index=expected,
            )

    def _proven(self, row: Row) -> Proven:
        size, root = self.head.size, self.head.checkpoint.root
        try:
            hashes = inclusion_proof(self._source, row.index, size)
            verify_inclusion(row.index, size, leaf_hash(row.leaf), hashes, root)
        except (LogProofError, MalformedError):
            raise LogRefused(
                f"entry {row.index} is not the one in the signed tree", code="log-rewritten", index=row.index
            ) from None
        return Proven(row, self._check.entry(row.index, row.leaf, row.opening), tuple(hashes))


def proof_file(head: Head, proven: Proven) -> bytes:
    """A C2SP tlog-proof that stands alone: the entry itself is its extra data."""
    return TlogProof(proven.row.index, proven.hashes, head.note, proven.row.leaf).to_bytes()
