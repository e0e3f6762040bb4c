# SPDX-License-Identifier: Apache-2.0
"""Known-length Binary HTTP requests (RFC 9292 §3.1, framing indicator 0), with zero padding (§3.8).

Only what sealed/1 needs: one request, complete, no truncation, no trailers. Anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teehouse_core.errors import LocalError, MalformedError

__all__ = ["InnerRequest", "bucket", "decode_request", "encode_padded", "encode_request"]

_FLOOR = 1024  # bytes; shorter messages all look alike
_MAX_FIELD = 4096  # bytes of a name, a value, or a control field
_MAX_HEADERS = 16


@dataclass(frozen=True, slots=True)
class InnerRequest:
    """The request that only the node reads; header names are lower case."""

    method: str
    scheme: str
    authority: str
    path: str
    headers: tuple[tuple[str, str], ...]
    content: bytes = field(repr=False)


def bucket(length: int) -> int:
    """The padded size for `length` bytes (PROTOCOL §3.3): 1024, then steps of an eighth of the next power of two."""
    if length <= _FLOOR:
        return _FLOOR
    step = max(_FLOOR, 1 << ((length - 1).bit_length() - 3))
    return -(-length // step) * step


def _varint(value: int) -> bytes:
    """RFC 9000 §16, shortest form."""
    for prefix, size in ((0, 1), (1, 2), (2, 4), (3, 8)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise LocalError("length too large", code="out-of-range")


def _text(value: str) -> bytes:
    raw = value.encode("ascii")
    return _varint(len(raw)) + raw


def encode_request(request: InnerRequest) -> bytes:
    """Binary HTTP bytes, not yet padded."""
    return b"".join(_parts(request))


def encode_padded(request: InnerRequest) -> bytes:
    """Binary HTTP bytes with zeros up to their bucket, written once: the content may be large."""
    parts = _parts(request)
    length = sum(map(len, parts))
    return b"".join((*parts, bytes(bucket(length) - length)))


def _parts(request: InnerRequest) -> tuple[bytes, ...]:
    try:
        head = b"".join(_text(v) for v in (request.method, request.scheme, request.authority, request.path))
        lines = b"".join(_text(name) + _text(value) for name, value in request.headers)
    except UnicodeEncodeError:
        raise LocalError("inner header is not ASCII", code="inner-header") from None
    return (b"\0", head, _varint(len(lines)), lines, _varint(len(request.content)), request.content, b"\0")


class _Cursor:
    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def varint(self) -> int:
        data, at = self._data, self._at
        if at >= len(data):
            raise MalformedError("inner message is cut", code="inner-cut")
        size = 1 << (data[at] >> 6)
        if at + size > len(data):
            raise MalformedError("inner message is cut", code="inner-cut")
        self._at = at + size
        value = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
        if size > 1 and value < 1 << (8 * (size >> 1) - 2):  # a second spelling of the same length
            raise MalformedError("inner length is not in its shortest form", code="inner-varint")
        return value

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedError("inner message is cut", code="inner-cut")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def text(self) -> str:
        size = self.varint()
        if size > _MAX_FIELD:
            raise MalformedError("inner field too long", code="inner-field")
        raw = self.take(size)
        text = raw.decode("latin-1")
        if not (text.isascii() and text.isprintable()):
            raise MalformedError("inner field is not printable ASCII", code="inner-field")
        return text

    def rest(self) -> bytes:
        return self._data[self._at :]

    @property
    def at(self) -> int:
        return self._at


def decode_request(padded: bytes) -> InnerRequest:
    """Parse a padded message; the padding must be zero and of exactly the bucket's size. Raises MalformedError."""
    cursor = _Cursor(padded)
    if cursor.varint() != 0:
        raise MalformedError("inner message is not a known-length request", code="inner-framing")
    method, scheme, authority, path = (cursor.text() for _ in range(4))
    lines = _Cursor(cursor.take(cursor.varint()))
    headers: list[tuple[str, str]] = []
    while lines.rest():
        if len(headers) == _MAX_HEADERS:
            raise MalformedError("too many inner headers", code="inner-header")
        headers.append((lines.text(), lines.text()))
    content = cursor.take(cursor.varint())
    if cursor.varint() != 0:
        raise MalformedError("inner message has trailers", code="inner-trailers")
    if padded.count(0, cursor.at) != len(padded) - cursor.at:
        raise MalformedError("padding is not zero", code="inner-padding")
    if len(padded) != bucket(cursor.at):
        raise MalformedError("padding has the wrong size", code="inner-padding")
    return InnerRequest(method, scheme, authority, path, tuple(headers), content)
