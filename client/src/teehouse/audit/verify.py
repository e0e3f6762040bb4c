# SPDX-License-Identifier: Apache-2.0
"""`teehouse audit verify`: an export, or one proof, held against pins and memory; no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teehouse.audit import leaves
from teehouse.audit.check import EntryCheck
from teehouse.audit.errors import LogRefused
from teehouse.audit.files import CHECKPOINT, LEAVES, cells_of, read_about, read_entries
from teehouse.audit.memory import Memory
from teehouse.audit.pins import Head, Pins
from teehouse.audit.read import rewritten
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.entry import AuditEntry, PublicEntry
from teehouse_core.log.errors import LogProofError
from teehouse_core.log.merkle import Frontier, leaf_hash, verify_inclusion
from teehouse_core.log.note import MAX_NOTE
from teehouse_core.log.proof import MAX_TLOG_PROOF, TlogProof

__all__ = ["Report", "verify_export", "verify_proof"]

Progress = Callable[[int, int], None]
_STEP: Final = 1000  # entries between two movements of the bar


@dataclass(frozen=True, slots=True)
class Report:
    """What was proven. `before` is the size seen last, None when this is the first time."""

    head: Head
    entries: int
    complete: bool
    names: int
    before: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "result": "accepted",
            "checkpoint": self.head.to_json(),
            "entries": self.entries,
            "complete": self.complete,
            "names": self.names,
            "seen_before": self.before,
        }


def verify_export(
    folder: Path,
    pins: Pins,
    state: Path,
    *,
    origin: str | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Report:
    """Verify an export and remember its checkpoint. Raises `LogRefused`, `MalformedError`, `LocalError`."""
    about = read_about(folder)
    head = pins.authenticate(_read(folder / CHECKPOINT, MAX_NOTE), origin=origin)
    with Memory.opened(state, head.checkpoint.origin) as memory:
        seen = memory.checkpoint()
        run = _Run(folder, head, memory)
        if seen is not None and head.size < seen.size:
            before = leaves.first_difference(memory.leaves, folder / LEAVES, min(memory.known(), head.size))
            memory.continues(head, b"", where=before)
        run.entries(about["format"], complete=not about["filter"], progress=progress)
        run.tree()
        memory.remember(head, folder / LEAVES)
    return Report(head, run.count, run.count == head.size, run.check.named, seen.size if seen is not None else None)


class _Run:
    def __init__(self, folder: Path, head: Head, memory: Memory) -> None:
        self._folder, self._head, self._memory = folder, head, memory
        self._leaves = folder / LEAVES
        self.check = EntryCheck(head.checkpoint.origin)
        self.count = 0
        self._odd: LogRefused | None = None  # wrong by itself; where hashes part is told first

    def entries(self, form: str, *, complete: bool, progress: Progress) -> None:
        """Every entry against its leaf hash. Raises `LogRefused` at the first that parts."""
        size, expected = self._head.size, 0
        hashes = (value for chunk in leaves.read(self._leaves) for value in chunk)
        for row, cells in read_entries(self._folder, form):
            if row.index < expected or (complete and row.index != expected) or row.index >= size:
                raise self._misplaced(row.index, expected, complete=complete)
            stored = b""
            while expected <= row.index:
                stored = next(hashes, b"")
                expected += 1
            if leaf_hash(row.leaf) != stored:
                raise LogRefused(f"entry {row.index} is not the one in the tree", code="log-rewritten", index=row.index)
            self.count += 1
            if self._odd is None:
                self._single(row.index, row.leaf, row.opening, cells)
            if self.count % _STEP == 0:
                progress(row.index + 1, size)
        if complete and expected < size:
            raise self._misplaced(size, expected, complete=True)
        progress(size, size)

    def _single(self, index: int, leaf: bytes, opening: Any, cells: dict[str, str] | None) -> None:
        try:
            entry = self.check.entry(index, leaf, opening)
            if cells is not None and cells != cells_of(entry):
                raise LogRefused(
                    f"the cells of entry {index} do not say what its leaf says", code="log-rewritten", index=index
                )
        except LogRefused as error:
            self._odd = error

    def _misplaced(self, index: int, expected: int, *, complete: bool) -> LogRefused:
        if complete or index >= self._head.size:
            text = f"entry {min(expected, index)} is missing or not in its place"
            return LogRefused(text, code="log-hidden", index=min(expected, index))
        return LogRefused(f"entry {index} comes after a later one", code="log-hidden", index=index)

    def tree(self) -> None:
        """The leaf hashes against the signed root and against what was seen. Raises `LogRefused`."""
        head, memory = self._head, self._memory
        if leaves.count(self._leaves) != head.size:
            raise MalformedError("the export does not hold one hash for each entry", code="leaf-hashes")
        seen = memory.checkpoint()
        at_seen = leaves.grow(self._leaves, seen.size) if seen is not None else Frontier.empty()
        root = leaves.grow(self._leaves, head.size, at_seen).root()
        before = leaves.first_difference(memory.leaves, self._leaves, min(memory.known(), head.size))
        if root != head.checkpoint.root:
            raise rewritten(before, min(memory.known(), head.size))
        memory.continues(head, at_seen.root(), where=before)
        if self._odd is not None:
            raise self._odd
        self.check.done()


def verify_proof(path: Path, pins: Pins, *, origin: str | None = None) -> tuple[Head, int, AuditEntry | PublicEntry]:
    """A `.tlog-proof` that carries its entry. Raises `LogRefused`, `MalformedError`, `LocalError`.

    It says nothing about other entries, so memory is neither asked nor changed.
    """
    proof = TlogProof.parse(_read(path, MAX_TLOG_PROOF))
    head = pins.authenticate(proof.checkpoint_note, origin=origin)
    if not proof.extra:
        raise MalformedError("this proof does not carry its entry", code="proof-without-entry")
    leaf = leaf_hash(proof.extra)
    try:
        verify_inclusion(proof.index, head.size, leaf, proof.hashes, head.checkpoint.root)
    except LogProofError as error:
        raise LogRefused(error.message, code="log-rewritten", index=proof.index) from None
    return head, proof.index, EntryCheck(head.checkpoint.origin).entry(proof.index, proof.extra, None)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
    if len(data) > limit:
        raise MalformedError(f"{path.name} is too large", code="too-large")
    return data
