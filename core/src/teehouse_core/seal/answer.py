# SPDX-License-Identifier: Apache-2.0
"""Plaintext of response records: u8 type ‖ u32 n ‖ n bytes ‖ zero bytes (PROTOCOL §4)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import b64u, encode, parse
from teehouse_core.wire.fields import NAME, Fields
from teehouse_core.wire.receipts import MAX_RECEIPT, Usage
from teehouse_core.wire.records import MAX_PLAINTEXT

__all__ = [
    "BODY",
    "COVER",
    "HEAD",
    "MAX_PIECE",
    "RESPONSE_PREFIX",
    "TRAILER",
    "Head",
    "Trailer",
    "pad_to",
    "unwrap",
    "wrap",
]

HEAD, BODY, COVER, TRAILER = 0, 1, 2, 3
RESPONSE_PREFIX = 34  # bytes: 01, candidate index, response nonce
_LEAD = struct.Struct(">BI")
MAX_PIECE = MAX_PLAINTEXT - _LEAD.size  # body bytes that fit one record
_MAX_HEAD = 32 * 1024  # bytes of head or trailer JSON
_HEADER_NAME = re.compile(r"[a-z0-9-]{1,64}")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~]{0,4094}[!-~])?)?")  # no space at either end: an HTTP stack would eat it


def pad_to(length: int) -> int:
    """Padded size of a record plaintext: 128, 256, 512, then multiples of 512, at most 65536."""
    for size in (128, 256, 512):
        if length <= size:
            return size
    return min(-(-length // 512) * 512, MAX_PLAINTEXT)


def wrap(kind: int, data: bytes, size: int | None = None) -> bytes:
    """One record plaintext, filled with zeros up to `size` bytes."""
    return (_LEAD.pack(kind, len(data)) + data).ljust(size or 0, b"\0")


def unwrap(plaintext: bytes) -> tuple[int, bytes]:
    """Type and content of one record plaintext; the filling must be zero. Raises MalformedError."""
    if len(plaintext) < _LEAD.size:
        raise MalformedError("record too short", code="record-content")
    kind, length = _LEAD.unpack_from(plaintext)
    end = _LEAD.size + length
    if kind > TRAILER or end > len(plaintext) or (kind == COVER and length):
        raise MalformedError("record content has the wrong form", code="record-content")
    if plaintext.count(0, end) != len(plaintext) - end:
        raise MalformedError("record filling is not zero", code="record-filling")
    return kind, plaintext[_LEAD.size : end]


@dataclass(frozen=True, slots=True)
class Head:
    """First record: HTTP status and headers of the answer."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def encode(self) -> bytes:
        return encode({"status": self.status, "headers": [[name, value] for name, value in self.headers]})

    @classmethod
    def parse(cls, data: bytes) -> Head:
        """Strict parse. Raises MalformedError."""
        top = Fields(parse(data, limit=_MAX_HEAD), "head")
        status = top.integer("status", 200, 599)
        headers = tuple(_pair(item) for item in top.items("headers", 0, 32))
        top.done()
        return cls(status, headers)


def _pair(item: Any) -> tuple[str, str]:
    if type(item) is list and len(item) == 2 and all(type(part) is str for part in item):
        name, value = item
        if _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value):
            return name, value
    raise MalformedError("head.headers has the wrong form", code="wrong-form")


@dataclass(frozen=True, slots=True)
class Trailer:
    """Final record: how the answer ended, with the receipt's bytes and signature."""

    status: int
    finish: str
    usage: Usage
    receipt: bytes
    sig: bytes

    def encode(self) -> bytes:
        return encode(
            {
                "status": self.status,
                "finish": self.finish,
                "usage": self.usage.to_json(),
                "receipt": b64u(self.receipt),
                "sig": b64u(self.sig),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Trailer:
        """Strict parse. Raises MalformedError."""
        top = Fields(parse(data, limit=_MAX_HEAD), "trailer")
        trailer = cls(
            top.integer("status", 200, 599),
            top.text("finish", NAME),
            Usage.read(top.fields("usage")),
            top.octets("receipt"),
            top.octets("sig", 64),
        )
        top.done()
        if len(trailer.receipt) > MAX_RECEIPT:
            raise MalformedError("receipt too large", code="document-too-large")
        return trailer
