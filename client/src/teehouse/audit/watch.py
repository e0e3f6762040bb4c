# SPDX-License-Identifier: Apache-2.0
"""`teehouse audit watch`: look again and again; every new entry is checked, every contradiction is an alarm."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from teehouse.audit import leaves
from teehouse.audit.check import EntryCheck
from teehouse.audit.errors import LogRefused
from teehouse.audit.ledger import Ledger, Row
from teehouse.audit.memory import Memory
from teehouse.audit.pins import Head, Pins
from teehouse.audit.read import blame, head_of
from teehouse_core.log.entry import AuditEntry, PublicEntry
from teehouse_core.log.merkle import Frontier, leaf_hash

__all__ = ["Look", "Watcher"]

_SKEW = 300  # seconds that a witness's clock may be ahead of this one
KEPT = 1000  # entries that one look hands out, the last ones


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `new` are the entries that came; only the last `KEPT` of very many are held."""

    head: Head
    before: int
    new: tuple[tuple[Row, AuditEntry | PublicEntry], ...]
    count: int


class Watcher:
    """Watches one log. Each look opens its memory anew, so that other commands can use it in between."""

    def __init__(self, ledger: Ledger, pins: Pins, origin: str, *, max_age: int | None = None) -> None:
        self._ledger, self._pins, self._origin = ledger, pins, origin
        self._max_age = max_age
        self._frontier: Frontier | None = None  # of the leaf hashes in memory, so that they are not read at each look

    def look(self, memory: Memory, now: int) -> Look:
        """Fetch the newest checkpoint and all that is new. Raises `LogRefused` (alarm), `OperatorError`, …"""
        head = head_of(self._ledger, self._pins, memory, self._origin)
        self._fresh(head, now)
        known = memory.known()
        if self._frontier is None or self._frontier.size != known:
            self._frontier = memory.frontier()
        with memory.scratch() as folder:
            round_ = _Round(self._ledger, head, memory, self._frontier, folder / "fresh")
            round_.fetch()
            round_.judge()
            if head.size > known:
                memory.append(folder / "fresh")
        memory.remember(head)
        self._frontier = round_.frontier
        return Look(head, known, tuple(round_.kept), head.size - known)

    def _fresh(self, head: Head, now: int) -> None:
        if self._max_age is None:
            return
        at = head.quorum.completed_at
        if at is None or not -_SKEW <= now - at <= self._max_age:
            age = "of unknown age: no witness signed it" if at is None else f"{now - at} s old by its witnesses' clocks"
            raise LogRefused(
                f"the checkpoint is {age}",
                code="log-stale",
                hint="An idle log makes no new checkpoint; a ledger that hides new entries shows an old one.",
            )


class _Round:
    """The entries between what memory holds and a head."""

    def __init__(self, ledger: Ledger, head: Head, memory: Memory, frontier: Frontier, fresh: Path) -> None:
        self._ledger, self._head, self._memory, self._path = ledger, head, memory, fresh
        self._check = EntryCheck(head.checkpoint.origin)
        self._odd: LogRefused | None = None
        self._seen = memory.checkpoint()
        self._known = frontier.size
        self._at_seen = frontier.root() if self._seen is not None and self._seen.size == frontier.size else b""
        self.frontier = frontier
        self.kept: deque[tuple[Row, AuditEntry | PublicEntry]] = deque(maxlen=KEPT)

    def fetch(self) -> None:
        expected, size = self.frontier.size, self._head.size
        with self._path.open("wb") as file:
            for row in self._ledger.rows(expected, size):
                if row.index != expected:
                    break
                expected += 1
                value = leaf_hash(row.leaf)
                file.write(value)
                self.frontier = self.frontier.append(value)
                if self._seen is not None and expected == self._seen.size:
                    self._at_seen = self.frontier.root()
                try:
                    self.kept.append((row, self._check.entry(row.index, row.leaf, row.opening)))
                except LogRefused as error:
                    self._odd = self._odd or error
        if expected < size:
            raise LogRefused(
                f"the ledger does not give entry {expected}, which the signed tree covers",
                code="log-hidden",
                index=expected,
            )

    def judge(self) -> None:
        """Raises `LogRefused`."""
        head, memory = self._head, self._memory
        if self.frontier.root() != head.checkpoint.root:
            with memory.scratch() as folder:
                mine = folder / "mine"
                with mine.open("wb") as file:
                    for source, end in ((memory.leaves, self._known), (self._path, head.size - self._known)):
                        for chunk in leaves.read(source, 0, end) if end else ():
                            file.write(b"".join(chunk))
                blame(self._ledger, head, memory, mine)
        memory.continues(head, self._at_seen, where=None)
        if self._odd is not None:
            raise self._odd
        self._check.done()
