# SPDX-License-Identifier: Apache-2.0
"""What passes between a log and its witnesses (C2SP tlog-witness), and a witness's statement of the newest it knows.

`NewestStatement` is ours: at start a log asks its witnesses, over a fresh nonce, which checkpoint is the newest they
signed, so that a log restored from an old disk is noticed before it answers (spec/04-log.md §8).
"""

from __future__ import annotations

from dataclasses import dataclass

from teehouse_core.errors import MalformedError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import EMPTY_ROOT
from teehouse_core.log.note import MAX_NOTE, Note
from teehouse_core.log.text import b64, decimal, decode, hash_lines
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse, unb64u
from teehouse_core.wire.fields import HEX64, NAME, Fields
from teehouse_core.wire.labels import L

__all__ = [
    "MAX_ADD_CHECKPOINT",
    "MAX_STATEMENT",
    "NEWEST",
    "NONCE_SIZE",
    "SIZE_TYPE",
    "AddCheckpoint",
    "NewestStatement",
    "format_size",
    "parse_size",
]

SIZE_TYPE = "text/x.tlog.size"  # content type of a 409 that says which size the witness knows
MAX_ADD_CHECKPOINT = MAX_NOTE + 4096  # bytes
MAX_STATEMENT = 2 * MAX_NOTE  # bytes; the note in it is base64
NONCE_SIZE = 32  # bytes
NEWEST = "witness-newest/1"


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """The body of `POST /add-checkpoint`: a checkpoint and the proof that it continues the witness's `old` size."""

    old: int
    proof: tuple[bytes, ...]
    note: Note

    def to_bytes(self) -> bytes:
        head = "".join([f"old {self.old}\n", *(f"{b64(item)}\n" for item in self.proof), "\n"])
        return head.encode("ascii") + self.note.to_bytes()

    @classmethod
    def parse(cls, data: bytes) -> AddCheckpoint:
        """Strict parse of form; the checkpoint must parse, and `old` not be above its size. Raises MalformedError."""
        head, blank, note = decode(data, MAX_ADD_CHECKPOINT).partition("\n\n")
        first, *proof = head.split("\n")
        if not blank or not first.startswith("old "):
            raise MalformedError("not an add-checkpoint request", code="add-checkpoint-form")
        request = cls(decimal(first.removeprefix("old ")), hash_lines(proof), Note.parse(note.encode("utf-8")))
        if len(request.proof) > 63:  # hash_lines allows 64
            raise MalformedError("too many hashes", code="proof-too-long")
        if request.old > request.checkpoint.size:
            raise MalformedError("the old size is above the checkpoint's", code="old-size")
        return request

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.parse(self.note.text)


def format_size(size: int) -> bytes:
    """Body of a 409: the size that the witness signed last."""
    return f"{size}\n".encode("ascii")


def parse_size(data: bytes) -> int:
    """The inverse of `format_size`. Raises MalformedError."""
    text = decode(data, 32)
    if not text.endswith("\n"):
        raise MalformedError("the line has no end", code="line-end")
    return decimal(text[:-1])


@dataclass(frozen=True, slots=True)
class NewestStatement:
    """A witness says, over the asker's nonce: of this origin I signed nothing newer than (size, root).

    `note` is that checkpoint with the log's signature and the witness's cosignature; empty when the witness never
    signed one of this origin (then size is 0). Times are the witness's, Unix seconds.
    """

    origin: str
    size: int
    root: bytes
    nonce: bytes
    time: int
    note: bytes = b""

    def to_bytes(self) -> bytes:
        """Canonical JSON, the bytes that `signed` covers."""
        return encode(
            {
                "v": NEWEST,
                "origin": self.origin,
                "size": self.size,
                "root": self.root.hex(),
                "nonce": b64u(self.nonce),
                "time": self.time,
                "note": b64u(self.note),
            }
        )

    def signed(self) -> bytes:
        """What the witness signs (Ed25519): L("witness newest") ‖ the statement."""
        return L("witness newest") + self.to_bytes()

    @classmethod
    def parse(cls, data: bytes) -> NewestStatement:
        """Strict parse; a note in it must be a checkpoint of just this tree head. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_STATEMENT), "statement")
        top.one_of("v", NEWEST)
        statement = cls(
            origin=top.text("origin", NAME),
            size=top.integer("size", 0, MAX_INTEGER),
            root=bytes.fromhex(top.text("root", HEX64)),
            nonce=top.octets("nonce", NONCE_SIZE),
            time=top.integer("time", 0, MAX_INTEGER),
            note=unb64u(top.take("note", str)),
        )
        top.done()
        head = Checkpoint(statement.origin, statement.size, statement.root)
        if not statement.note:
            if statement.size or statement.root != EMPTY_ROOT:
                raise MalformedError("a tree head without its checkpoint", code="statement-note")
        else:
            shown = Checkpoint.parse(Note.parse(statement.note).text)
            if (shown.origin, shown.size, shown.root) != (head.origin, head.size, head.root):
                raise MalformedError("the checkpoint is not the one stated", code="statement-note")
        return statement
