# SPDX-License-Identifier: Apache-2.0
"""The request frame: "TEEH" ‖ 01 ‖ u32 header_len ‖ header ‖ envelopes ‖ body (PROTOCOL §3.1)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from teehouse_core.errors import MalformedError
from teehouse_core.wire.header import MAX_BODY, MAX_HEADER, RequestHeader
from teehouse_core.wire.suites import SUITES

__all__ = [
    "EVIDENCE_TYPE",
    "MAX_BODY",
    "MAX_FRAME",
    "MAX_HEADER",
    "PREFIX_LEN",
    "REQUEST_TYPE",
    "RESPONSE_TYPE",
    "RequestFrame",
    "frame_prefix",
    "parse_prefix",
]

REQUEST_TYPE = "application/vnd.teehouse.sealed-request"
RESPONSE_TYPE = "application/vnd.teehouse.sealed-response"
EVIDENCE_TYPE = "application/vnd.teehouse.evidence+json"
_MAGIC = b"TEEH\x01"
PREFIX_LEN = 9  # bytes: magic, version, header_len
MAX_FRAME = PREFIX_LEN + MAX_HEADER + 4 * max(sizes.envelope for sizes in SUITES.values()) + MAX_BODY  # bytes


def parse_prefix(data: bytes) -> int:
    """header_len from the first PREFIX_LEN bytes. Raises MalformedError."""
    if len(data) < PREFIX_LEN or data[:5] != _MAGIC:
        raise MalformedError("not a sealed request", code="frame-magic")
    (length,) = struct.unpack_from(">I", data, 5)
    if not 2 <= length <= MAX_HEADER:
        raise MalformedError("header length out of range", code="frame-header-length")
    return int(length)


def frame_prefix(header_bytes: bytes) -> bytes:
    """Magic, version and header_len before `header_bytes`."""
    return _MAGIC + struct.pack(">I", len(header_bytes))


@dataclass(frozen=True, slots=True)
class RequestFrame:
    """One frame cut into its parts; nothing in it has been authenticated."""

    header: RequestHeader
    header_bytes: bytes = field(repr=False)
    envelopes: tuple[bytes, ...] = field(repr=False)
    body: memoryview = field(repr=False)

    @staticmethod
    def length(header: RequestHeader, header_len: int) -> int:
        """Total bytes of the frame that `header` announces; lets a gateway refuse before it reads the body."""
        return PREFIX_LEN + header_len + len(header.candidates) * SUITES[header.suite].envelope + header.body_len

    @classmethod
    def parse(cls, data: bytes) -> RequestFrame:
        """Cut a whole frame; its length must be exactly what the header says. Raises MalformedError."""
        header_end = PREFIX_LEN + parse_prefix(data)
        header_bytes = bytes(data[PREFIX_LEN:header_end])
        if len(data) < header_end:
            raise MalformedError("frame is cut", code="frame-length")
        header = RequestHeader.parse(header_bytes)
        if len(data) != cls.length(header, len(header_bytes)):
            raise MalformedError("frame is not as long as its header says", code="frame-length")
        size = SUITES[header.suite].envelope
        body_start = header_end + len(header.candidates) * size
        envelopes = tuple(bytes(data[at : at + size]) for at in range(header_end, body_start, size))
        return cls(header, header_bytes, envelopes, memoryview(data)[body_start:])
