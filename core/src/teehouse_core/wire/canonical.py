# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON (RFC 8785 on a small subset) and strict base64url.

The subset of PROTOCOL §1: strings of printable ASCII, integers 0…2⁵³−1, booleans, arrays, objects; no null, no
fraction. On it RFC 8785 is what `json.dumps` writes with sorted keys and no spaces, so no further library is needed.
A receiver re-encodes what it parsed and refuses bytes that differ.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, NoReturn

from teehouse_core.errors import LocalError, MalformedError

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "b64u", "encode", "parse", "unb64u"]

MAX_DEPTH = 8  # levels; deeper nesting has no use here and costs a parser its stack
MAX_INTEGER = 2**53 - 1  # RFC 8785 numbers are IEEE doubles; above this they lose digits
_MAX_DIGITS = 16  # digits of MAX_INTEGER
_B64U = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def _check(value: Any, depth: int) -> str | None:
    """Say why `value` lies outside the subset, or None."""
    if isinstance(value, str):
        return None if value.isascii() and value.isprintable() else "string-not-printable-ascii"
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if 0 <= value <= MAX_INTEGER else "integer-out-of-range"
    if isinstance(value, (dict, list, tuple)):
        if depth >= MAX_DEPTH:
            return "too-deep"
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str) or not (name.isascii() and name.isprintable()):
                    return "string-not-printable-ascii"
        items = value.values() if isinstance(value, dict) else value
        for item in items:
            if why := _check(item, depth + 1):
                return why
        return None
    return "type-not-allowed"


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("ascii")


def encode(value: Any) -> bytes:
    """Canonical bytes of `value`. Raises LocalError when it lies outside the subset."""
    if why := _check(value, 0):
        raise LocalError("value cannot be written as canonical JSON", code=why)
    return _dump(value)


def _refuse_number(_text: str) -> NoReturn:
    raise MalformedError("number is not a plain integer", code="number-not-integer")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise MalformedError("integer out of range", code="integer-out-of-range")
    return int(text)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a member is repeated", code="repeated-member")
    return members


def parse(data: bytes, *, limit: int) -> dict[str, Any]:
    """Parse canonical JSON of at most `limit` bytes whose top level is an object. Raises MalformedError."""
    if len(data) > limit:
        raise MalformedError("document too large", code="document-too-large")
    try:
        value = json.loads(
            data.decode("ascii"),
            object_pairs_hook=_no_repeats,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
            parse_int=_integer,
        )
    except MalformedError:
        raise
    except (ValueError, RecursionError):
        raise MalformedError("not JSON in printable ASCII", code="not-json") from None
    if not isinstance(value, dict):
        raise MalformedError("not a JSON object", code="not-an-object")
    if why := _check(value, 0):
        raise MalformedError("outside the canonical subset", code=why)
    if _dump(value) != data:
        raise MalformedError("not canonical JSON", code="not-canonical")
    return value


def b64u(data: bytes) -> str:
    """base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64u(text: str, length: int | None = None) -> bytes:
    """Decode strict base64url without padding: one text per byte string. Raises MalformedError."""
    try:
        raw = text.encode("ascii")
        if not _B64U.issuperset(raw):
            raise MalformedError("not base64url", code="not-base64url")
        data = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedError("not base64url", code="not-base64url") from None
    if b64u(data) != text:  # spare bits set: a second text for the same bytes
        raise MalformedError("not canonical base64url", code="not-base64url")
    if length is not None and len(data) != length:
        raise MalformedError("wrong length", code="wrong-length")
    return data
