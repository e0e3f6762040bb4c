# SPDX-License-Identifier: Apache-2.0
"""What this user saw last of each log: the newest checkpoint, and the leaf hashes it stands on.

Forks and rollbacks are caught by the checkpoint. The leaf hashes (32 bytes for each entry ever seen) say *which* entry
was rewritten. One folder for each origin, below the user's state folder; a conflict that was met is kept there as
evidence, and never replaces what was seen before.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from teehouse.audit import leaves
from teehouse.audit.errors import LogRefused
from teehouse.audit.pins import Head
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import HASH_SIZE, Frontier
from teehouse_core.log.note import MAX_NOTE, Note

__all__ = ["Memory", "default_state"]

_CHECKPOINT: Final = "checkpoint"
_LEAVES: Final = "leaf-hashes"


def default_state() -> Path:
    """Where memories are kept unless asked otherwise."""
    import platformdirs

    return platformdirs.user_state_path("teehouse") / "audit"


class Memory:
    """The memory of one origin. Use `opened`, which holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.leaves = folder / _LEAVES

    @classmethod
    @contextmanager
    def opened(cls, state: Path, origin: str) -> Iterator[Memory]:
        """The memory of `origin` below `state`, locked against other processes. Raises `LocalError`."""
        folder = state / hashlib.sha256(origin.encode()).hexdigest()[:32]
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                (folder / "origin").write_text(origin + "\n", encoding="utf-8")
                yield cls(folder)
        except OSError as error:
            raise LocalError(
                f"cannot use {folder}: {error.strerror}",
                code="audit-state",
                hint="The last checkpoint seen is kept there; name another folder with --state.",
            ) from None

    def checkpoint(self) -> Checkpoint | None:
        """The newest one seen, None at first. Raises `LocalError`: who lost it must say so, not start anew unseen."""
        path = self.folder / _CHECKPOINT
        try:
            data = path.read_bytes()[: MAX_NOTE + 1]
        except FileNotFoundError:
            return None
        try:
            return Checkpoint.parse(Note.parse(data).text)
        except MalformedError:
            raise LocalError(
                f"{path} is spoilt",
                code="audit-state",
                hint="Restore it from a backup. Removing it forgets what was seen: a fork before now is not noticed.",
            ) from None

    def known(self) -> int:
        """How many leaf hashes are held; at most the checkpoint's size."""
        seen = self.checkpoint()
        return min(leaves.count(self.leaves), seen.size) if seen is not None else 0

    def frontier(self) -> Frontier:
        """Of the leaf hashes held. Raises `LocalError` when they are not those of the checkpoint."""
        seen, known = self.checkpoint(), self.known()
        frontier = leaves.grow(self.leaves, known) if known else Frontier.empty()
        if seen is not None and known == seen.size and frontier.root() != seen.root:
            raise LocalError(f"{self.leaves} is spoilt", code="audit-state", hint="Remove that one file.")
        return frontier

    def remember(self, head: Head, hashes: Path | None = None) -> None:
        """Keep a newer head, and where given all its leaf hashes. The caller has verified that it goes on from this."""
        if hashes is not None:
            _copy(hashes, self.leaves, head.size)
        _write(self.folder / _CHECKPOINT, head.note)

    def append(self, fresh: Path) -> None:
        """Add verified leaf hashes behind those held; `remember` must follow. What is there beyond them goes."""
        known = self.known()
        with self.leaves.open("r+b" if self.leaves.exists() else "w+b") as file:
            file.truncate(known * HASH_SIZE)
            file.seek(0, os.SEEK_END)
            for chunk in leaves.read(fresh):
                file.write(b"".join(chunk))
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder for what is being compared; gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="scratch-", dir=self.folder) as folder:
            yield Path(folder)

    def keep_evidence(self, head: Head) -> Path:
        """Store a checkpoint that contradicts the one seen: with both signatures it convicts the log."""
        name = f"conflict-{head.size}-{hashlib.sha256(head.note).hexdigest()[:16]}"
        _write(self.folder / name, head.note)
        return self.folder / name

    def continues(self, head: Head, root_at: bytes, *, where: int | None) -> None:
        """Refuse a head that does not begin with the one seen.

        `root_at` is the root of the first (size seen) entries under `head`, b"" when `head` is smaller. `where` is the
        first entry that is another one than before, when that is known. Raises `LogRefused`.
        """
        seen = self.checkpoint()
        if seen is None:
            return
        if head.size < seen.size:
            kept = self.keep_evidence(head)
            raise LogRefused(
                f"the log shows {head.size} entries, {seen.size} were there before"
                + (f", and entry {where} is another one" if where is not None and where < head.size else ""),
                code="log-rollback",
                index=where if where is not None else head.size,
                hint=f"Both checkpoints are signed: {self.folder / _CHECKPOINT} and {kept} are the evidence.",
            )
        if root_at != seen.root:
            kept = self.keep_evidence(head)
            text = f"entry {where} is another one" if where is not None else f"one of the first {seen.size} is another"
            raise LogRefused(
                f"this is another history than the one seen before: {text}",
                code="log-fork",
                index=where,
                hint=f"Both checkpoints are signed: {self.folder / _CHECKPOINT} and {kept} are the evidence.",
            )


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".new")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _copy(source: Path, target: Path, size: int) -> None:
    part = target.with_name(target.name + ".new")
    with part.open("wb") as file:
        for chunk in leaves.read(source, 0, size):
            file.write(b"".join(chunk))
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
