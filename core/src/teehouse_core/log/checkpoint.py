# SPDX-License-Identifier: Apache-2.0
"""Checkpoints (C2SP tlog-checkpoint): origin, size and root of a log, as the text of a signed note."""

from __future__ import annotations

from dataclasses import dataclass

from teehouse_core.errors import MalformedError
from teehouse_core.log.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE
from teehouse_core.log.text import b64, decimal, lines_of, unb64

__all__ = ["MAX_ORIGIN", "Checkpoint"]

MAX_ORIGIN = 255  # bytes of UTF-8; what the newer cosignature formats can carry
MAX_EXTENSIONS = 16  # lines
MAX_LINE = 1024  # characters of an extension line


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head. Equal checkpoints have equal texts."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.origin.isprintable() or not 0 < len(self.origin.encode("utf-8", "replace")) <= MAX_ORIGIN:
            raise MalformedError("not an origin", code="origin")
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_SIZE:
            raise MalformedError("not a tree head", code="tree-head")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise MalformedError("an empty tree has only one root", code="tree-head")
        if len(self.extensions) > MAX_EXTENSIONS or not all(
            0 < len(line) <= MAX_LINE and line.isprintable() for line in self.extensions
        ):
            raise MalformedError("not extension lines", code="extensions")

    def text(self) -> str:
        """The note text, with its last newline."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, b64(self.root), *self.extensions))

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Strict parse of a note's text. Raises MalformedError."""
        lines = lines_of(text)
        if len(lines) < 3:
            raise MalformedError("a checkpoint has three lines or more", code="checkpoint-form")
        return cls(lines[0], decimal(lines[1]), unb64(lines[2], HASH_SIZE), tuple(lines[3:]))
