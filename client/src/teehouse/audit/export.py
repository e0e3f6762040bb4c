# SPDX-License-Identifier: Apache-2.0
"""`teehouse audit export`: the whole log into a folder, verified while it streams; memory does not grow with the log.

A log that lies is exported all the same, as evidence, and then refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from teehouse.audit import leaves
from teehouse.audit.check import EntryCheck
from teehouse.audit.errors import LogRefused
from teehouse.audit.files import ABOUT, CHECKPOINT, EXPORT, LEAVES, EntryWriter
from teehouse.audit.ledger import Ledger
from teehouse.audit.memory import Memory
from teehouse.audit.pins import Head
from teehouse.audit.read import blame
from teehouse_core.errors import LocalError
from teehouse_core.log.entry import AuditEntry, PublicEntry
from teehouse_core.log.merkle import Frontier, leaf_hash

__all__ = ["FILTERS", "Progress", "Selection", "export"]

FILTERS: Final = ("op", "ring", "key", "decision")
Progress = Callable[[int, int], None]
_STEP: Final = 1000  # entries between two movements of the bar, and hashed at once


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are written. Chosen here, out of all of them, so the ledger cannot hide one by a filter."""

    equal: Mapping[str, str] = field(default_factory=dict)
    since: int = 0
    until: int | None = None

    def takes(self, entry: AuditEntry | PublicEntry) -> bool:
        if entry.time < self.since or (self.until is not None and entry.time >= self.until):
            return False
        return all(
            (getattr(entry, name, None) or (getattr(entry, "kind", "") if name == "op" else "")) == value
            for name, value in self.equal.items()
        )

    def to_json(self) -> dict[str, Any]:
        times = {"since": self.since} if self.since else {}
        return {**self.equal, **times, **({"until": self.until} if self.until is not None else {})}


def export(
    ledger: Ledger,
    head: Head,
    memory: Memory,
    folder: Path,
    *,
    form: str,
    selection: Selection,
    now: int,
    progress: Progress = lambda _done, _all: None,
) -> int:
    """Write the export of `head` into the new folder; returns how many entries were written.

    Raises `LogRefused` (the folder stays, as evidence), `LocalError`, `OperatorError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=False)
    except FileExistsError:
        raise LocalError(
            f"{folder} exists", code="file-exists", hint="An export is never mixed with another."
        ) from None
    except OSError as error:
        raise LocalError(f"cannot write {folder}: {error.strerror}", code="file-unwritable") from None
    (folder / CHECKPOINT).write_bytes(head.note)
    run = _Run(ledger, head, memory, folder, selection)
    try:
        run.stream(form, progress)
    except OSError as error:
        raise LocalError(f"cannot write {folder}: {error.strerror}", code="file-unwritable") from None
    finally:
        about = {
            "v": EXPORT,
            "log": ledger.log,
            "origin": head.checkpoint.origin,
            "size": head.size,
            "format": form,
            "entries": run.written,
            "filter": selection.to_json(),
            "exported_at": now,
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    run.judge()
    memory.remember(head, folder / LEAVES)
    return run.written


class _Run:
    def __init__(self, ledger: Ledger, head: Head, memory: Memory, folder: Path, selection: Selection) -> None:
        self._ledger, self._head, self._memory, self._selection = ledger, head, memory, selection
        self._leaves = folder / LEAVES
        self._folder = folder
        self._check = EntryCheck(head.checkpoint.origin)
        self._seen = memory.checkpoint()
        self._frontier = Frontier.empty()
        self._root_at_seen = self._frontier.root() if self._seen is not None and self._seen.size == 0 else b""
        self._odd: LogRefused | None = None  # the first entry that is wrong by itself; the tree is judged first
        self.written = 0

    def stream(self, form: str, progress: Progress) -> None:
        size, expected = self._head.size, 0
        writer = EntryWriter(self._folder, form)
        pending: list[bytes] = []
        try:
            with self._leaves.open("wb") as file:
                for row in self._ledger.rows(0, size):
                    if row.index != expected:
                        break
                    value = leaf_hash(row.leaf)
                    pending.append(value)
                    file.write(value)
                    expected += 1
                    self._entry(writer, row)
                    if (self._seen is not None and expected == self._seen.size) or len(pending) == _STEP:
                        self._absorb(pending)
                        progress(expected, size)
                self._absorb(pending)
        finally:
            writer.close()
        progress(expected, size)
        if expected < size:
            raise LogRefused(
                f"the ledger does not give entry {expected}, which the signed tree covers",
                code="log-hidden",
                index=expected,
                hint=f"What it gave is in {self._folder}.",
            )

    def _absorb(self, pending: list[bytes]) -> None:
        self._frontier = self._frontier.extend(pending)
        pending.clear()
        if self._seen is not None and self._frontier.size == self._seen.size:
            self._root_at_seen = self._frontier.root()

    def _entry(self, writer: EntryWriter, row: Any) -> None:
        try:
            entry = self._check.entry(row.index, row.leaf, row.opening)
        except LogRefused as error:
            self._odd = self._odd or error
            return
        if self._selection.takes(entry):
            writer.write(row, entry)
            self.written += 1

    def judge(self) -> None:
        """Raises `LogRefused`."""
        head, memory = self._head, self._memory
        before = leaves.first_difference(memory.leaves, self._leaves, min(memory.known(), head.size))
        if self._frontier.root() != head.checkpoint.root:
            blame(self._ledger, head, memory, self._leaves)
        memory.continues(head, self._root_at_seen, where=before)
        if self._odd is not None:
            raise self._odd
        self._check.done()
