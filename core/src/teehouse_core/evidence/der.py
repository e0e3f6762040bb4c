# SPDX-License-Identifier: Apache-2.0
"""A strict reader for the few DER shapes that vendor certificate extensions use.

Definite minimal lengths only, single-byte tags only, bounded depth by construction (the caller descends by hand).
It does not check that an INTEGER is minimal; the one caller reads small unsigned numbers and compares them.
"""

from __future__ import annotations

from typing import Final

from teehouse_core.errors import MalformedError

__all__ = [
    "BOOLEAN",
    "ENUMERATED",
    "INTEGER",
    "OCTET_STRING",
    "OID",
    "SEQUENCE",
    "children",
    "elements",
    "head",
    "oid_text",
]

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
OID: Final = 0x06
ENUMERATED: Final = 0x0A
SEQUENCE: Final = 0x30

MAX_CHILDREN: Final = 64  # elements in one sequence; the SGX extension has at most 18


def children(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Split `data` into its (tag, content) elements, consuming every byte. Raises `MalformedError` (`der`)."""
    return tuple((tag, content) for tag, content, _ in elements(data))


def elements(data: bytes) -> tuple[tuple[int, bytes, bytes], ...]:
    """As `children`, each with its whole encoding too (tag, content, tag ‖ length ‖ content): what signatures cover."""
    found: list[tuple[int, bytes, bytes]] = []
    at = 0
    while at < len(data):
        if len(found) == MAX_CHILDREN:
            raise MalformedError("too many elements in a DER sequence", code="der")
        tag, start, end = head(data, at)
        found.append((tag, data[start:end], data[at:end]))
        at = end
    return tuple(found)


def oid_text(content: bytes) -> str:
    """Dotted form of an OBJECT IDENTIFIER's content. Raises `MalformedError` (`der`)."""
    if not content or len(content) > 64 or content[-1] & 0x80:
        raise MalformedError("bad object identifier", code="der")
    arcs: list[int] = []
    value = 0
    for byte in content:
        if value == 0 and byte == 0x80:
            raise MalformedError("object identifier is not minimal", code="der")
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(a) for a in (first, arcs[0] - 40 * first, *arcs[1:]))


def head(data: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the element at `at`. Raises `MalformedError` (`der`)."""
    if at + 2 > len(data):
        raise MalformedError("DER element ends early", code="der")
    tag, length = data[at], data[at + 1]
    start = at + 2
    if tag & 0x1F == 0x1F:
        raise MalformedError("multi-byte DER tag", code="der")
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3 or start + size > len(data):
            raise MalformedError("bad DER length", code="der")
        length = int.from_bytes(data[start : start + size], "big")
        if length < 0x80 or length >> 8 * (size - 1) == 0:
            raise MalformedError("DER length is not minimal", code="der")
        start += size
    if start + length > len(data):
        raise MalformedError("DER element ends early", code="der")
    return tag, start, start + length
