# SPDX-License-Identifier: Apache-2.0
"""Read JSON that others wrote: strict where laxness is an attack, bounded in time and memory.

For documents that are *not* canonical JSON (the bundle, Intel's TCB info). Refused: repeated members, null, NaN,
fractions, integers of more than 16 digits, bytes that are not UTF-8, too many values, too much depth.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final, NoReturn

from teehouse_core.errors import MalformedError

__all__ = ["MAX_DEPTH", "MAX_VALUES", "b64_text", "load_array", "load_object", "unb64_text"]

MAX_DEPTH: Final = 16  # levels; a group bundle holding members that hold device lists needs 8
MAX_VALUES: Final = 1 << 18  # members and elements in one document; bounds memory to some tens of MiB


def load_object(data: bytes, *, limit: int, what: str) -> dict[str, Any]:
    """Parse a JSON object of at most `limit` bytes.

    Raises `MalformedError` with code `too-large`, `too-many-values`, `not-json`, `repeated-member`, `null-value`,
    `number`, `too-deep` or `not-an-object`.
    """
    value = _load(data, limit, what)
    if not isinstance(value, dict):
        raise MalformedError(f"{what} is not a JSON object", code="not-an-object")
    return value


def load_array(data: bytes, *, limit: int, what: str) -> list[Any]:
    """Parse a JSON array under the same rules. Raises `MalformedError`, with `not-an-array` for anything else."""
    value = _load(data, limit, what)
    if not isinstance(value, list):
        raise MalformedError(f"{what} is not a JSON array", code="not-an-array")
    return value


def _load(data: bytes, limit: int, what: str) -> Any:
    if len(data) > limit:
        raise MalformedError(f"{what} is larger than {limit} bytes", code="too-large")
    # Counting separators before parsing bounds what the parser can allocate: each value needs one of these bytes.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise MalformedError(f"{what} has more than {MAX_VALUES} values", code="too-many-values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_number,
            parse_constant=_number,
            parse_int=_integer,
        )
    except MalformedError:
        raise
    except (ValueError, RecursionError):
        raise MalformedError(f"{what} is not JSON", code="not-json") from None
    if isinstance(value, (dict, list)):
        _walk(value, 1)
    return value


def b64_text(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 §4), the form of every `b64` member of a bundle."""
    return base64.b64encode(data).decode("ascii")


def unb64_text(text: str, *, limit: int, what: str) -> bytes:
    """Decode strict base64: alphabet, padding and spare bits exact. Raises `MalformedError` (`base64`, `too-large`)."""
    if len(text) > 4 * ((limit + 2) // 3):
        raise MalformedError(f"{what} is larger than {limit} bytes", code="too-large")
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise MalformedError(f"{what} is not base64", code="base64") from None
    if b64_text(data) != text:
        raise MalformedError(f"{what} is not canonical base64", code="base64")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a member stands twice", code="repeated-member")
    return members


def _number(_text: str) -> NoReturn:
    raise MalformedError("a number is not an integer", code="number")


def _integer(text: str) -> int:
    if len(text) > 16:
        raise MalformedError("an integer is too long", code="number")
    return int(text)


def _walk(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedError(f"nested deeper than {MAX_DEPTH}", code="too-deep")
    items = value.values() if isinstance(value, dict) else value
    for item in items:
        if item is None:
            raise MalformedError("null has no meaning here", code="null-value")
        if isinstance(item, (dict, list)):
            _walk(item, depth + 1)
