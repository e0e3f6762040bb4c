# SPDX-License-Identifier: Apache-2.0
"""Record framing, without keys: u8 final ‖ u32 ct_len ‖ ciphertext (PROTOCOL §3.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from teehouse_core.errors import MalformedError

__all__ = [
    "MAX_CIPHERTEXT",
    "MAX_PLAINTEXT",
    "MIN_CIPHERTEXT",
    "PREFIX",
    "TAG",
    "Record",
    "RecordReader",
    "cut_records",
    "record_prefix",
]

MAX_PLAINTEXT = 65536  # bytes of plaintext per record; bounds memory per stream
TAG = 16  # bytes, AES-GCM
MIN_CIPHERTEXT, MAX_CIPHERTEXT = 1 + TAG, MAX_PLAINTEXT + TAG
PREFIX = 5  # bytes; they are the record's AAD
_HEAD = struct.Struct(">BI")


class Record(NamedTuple):
    """One framed record; `aad` are its first five bytes."""

    aad: bytes
    final: bool
    ciphertext: bytes | memoryview


def record_prefix(final: bool, ciphertext_len: int) -> bytes:
    """The five bytes before a ciphertext."""
    return _HEAD.pack(1 if final else 0, ciphertext_len)


def cut_records(body: memoryview) -> tuple[list[Record], int]:
    """The records of a body held whole, and where the final one ends; ciphertexts are views, not copies.

    Raises MalformedError: a bad prefix, or no final record.
    """
    records: list[Record] = []
    at = 0
    while len(body) - at >= PREFIX:
        final, end = _next(body, at)
        if end > len(body):
            break
        records.append(Record(bytes(body[at : at + PREFIX]), final, body[at + PREFIX : end]))
        at = end
        if final:
            return records, at
    raise MalformedError("body has no final record", code="body-not-final")


def _next(buffer: bytearray | memoryview, at: int) -> tuple[bool, int]:
    """Flag and end of the record at `at`, by its prefix. Raises MalformedError."""
    final, length = _HEAD.unpack_from(buffer, at)
    if final > 1:
        raise MalformedError("record flag is neither 0 nor 1", code="record-flag")
    if not MIN_CIPHERTEXT <= length <= MAX_CIPHERTEXT:
        raise MalformedError("record length out of range", code="record-length")
    return bool(final), at + PREFIX + length


class RecordReader:
    """Cuts a byte stream into records. After the final one it reads nothing more (`ended`)."""

    __slots__ = ("_buffer", "ended")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.ended = False

    @property
    def pending(self) -> int:
        """Bytes held that do not yet make a record."""
        return len(self._buffer)

    def feed(self, data: bytes | memoryview) -> Iterator[Record]:
        """Take bytes, yield the records they complete. Raises MalformedError at a bad prefix, before its body is held.

        Lazy, so that cutting the same bytes differently yields the same records before the same error; iterate it to
        its end, or never feed again.
        """
        if self.ended:
            return
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while size - at >= PREFIX:
            final, end = _next(buffer, at)
            if size < end:
                break
            record = Record(bytes(buffer[at : at + PREFIX]), final, bytes(buffer[at + PREFIX : end]))
            at = end
            if final:
                self.ended = True
                buffer.clear()
                yield record
                return
            yield record
        del buffer[:at]
