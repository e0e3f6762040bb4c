# SPDX-License-Identifier: Apache-2.0
"""Proofs that stand alone (C2SP tlog-proof): index, inclusion proof and checkpoint in one text.

Offline: with the entry, the log's key and the witness policy nothing else is needed. `extra` is not authenticated.
"""

from __future__ import annotations

from dataclasses import dataclass

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import HASH_SIZE, MAX_PROOF, MAX_SIZE, verify_inclusion
from teehouse_core.log.note import MAX_NOTE, Note
from teehouse_core.log.text import b64, decimal, decode, hash_lines, unb64

__all__ = ["MAX_EXTRA", "MAX_TLOG_PROOF", "TlogProof"]

MAX_EXTRA = 64 * 1024  # bytes
MAX_TLOG_PROOF = MAX_NOTE + 2 * MAX_EXTRA  # bytes; hashes and base64 of the extra data included
_MAGIC = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class TlogProof:
    """`checkpoint_note` are the checkpoint's bytes as they were signed, all signatures included."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint_note: bytes
    extra: bytes = b""

    def to_bytes(self) -> bytes:
        """The text. Raises LocalError when it would not parse."""
        if (
            not 0 <= self.index <= MAX_SIZE
            or len(self.hashes) > MAX_PROOF
            or any(len(item) != HASH_SIZE for item in self.hashes)
            or len(self.extra) > MAX_EXTRA
        ):
            raise LocalError("not a proof", code="tlog-proof-form")
        lines = [_MAGIC]
        if self.extra:
            lines.append(f"extra {b64(self.extra)}")
        lines += [f"index {self.index}", *map(b64, self.hashes), "", ""]
        return "\n".join(lines).encode("ascii") + self.checkpoint_note

    @classmethod
    def parse(cls, data: bytes) -> TlogProof:
        """Strict parse; the checkpoint must parse, but nothing is verified. Raises MalformedError."""
        head, blank, note = decode(data, MAX_TLOG_PROOF).partition("\n\n")
        lines = head.split("\n")
        if not blank or lines[0] != _MAGIC:
            raise MalformedError("not a tlog-proof", code="tlog-proof-form")
        at, extra = 1, b""
        if len(lines) > at and lines[at].startswith("extra "):
            extra = unb64(lines[at].removeprefix("extra "))
            at += 1
            if not 0 < len(extra) <= MAX_EXTRA:
                raise MalformedError("extra data is empty or too long", code="tlog-proof-form")
        if len(lines) <= at or not lines[at].startswith("index "):
            raise MalformedError("a tlog-proof lacks its index", code="tlog-proof-form")
        index = decimal(lines[at].removeprefix("index "))
        note_bytes = note.encode("utf-8")
        Checkpoint.parse(Note.parse(note_bytes).text)
        return cls(index, hash_lines(lines[at + 1 :]), note_bytes, extra)

    @property
    def note(self) -> Note:
        return Note.parse(self.checkpoint_note)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.parse(self.note.text)

    def verify_inclusion(self, leaf: bytes) -> Checkpoint:
        """Prove the leaf hash `leaf` under the checkpoint; its signatures are the caller's to verify. LogProofError."""
        checkpoint = self.checkpoint
        verify_inclusion(self.index, checkpoint.size, leaf, self.hashes, checkpoint.root)
        return checkpoint
