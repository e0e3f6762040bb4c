# SPDX-License-Identifier: Apache-2.0
"""Small parts that the line formats of C2SP share: strict base64, decimals, hashes a line."""

from __future__ import annotations

import base64
import binascii
import re

from teehouse_core.errors import MalformedError
from teehouse_core.log.merkle import HASH_SIZE, MAX_PROOF, MAX_SIZE

__all__ = ["b64", "decimal", "decode", "hash_lines", "lines_of", "unb64"]

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")  # no sign, no leading zero; 19 digits hold 2^63 − 1


def b64(data: bytes) -> str:
    """Standard base64 with padding (RFC 4648 §4)."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str, length: int | None = None) -> bytes:
    """Strict standard base64: one text for one byte string. Raises MalformedError."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedError("not base64", code="not-base64") from None
    if b64(data) != text:
        raise MalformedError("not canonical base64", code="not-base64")
    if length is not None and len(data) != length:
        raise MalformedError("wrong length", code="wrong-length")
    return data


def decimal(text: str) -> int:
    """0…2^63−1 in ASCII digits without leading zeroes. Raises MalformedError."""
    if not _DECIMAL.fullmatch(text) or (value := int(text)) > MAX_SIZE:
        raise MalformedError("not a decimal number", code="not-decimal")
    return value


def decode(data: bytes, limit: int) -> str:
    """UTF-8 without ASCII control characters but newline, at most `limit` bytes. Raises MalformedError."""
    if len(data) > limit:
        raise MalformedError("document too large", code="document-too-large")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError("not UTF-8", code="not-utf8") from None
    if any(character < " " and character != "\n" for character in text):
        raise MalformedError("control characters", code="control-character")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text whose last line is ended too. Raises MalformedError."""
    if not text.endswith("\n"):
        raise MalformedError("the last line has no end", code="line-end")
    return text[:-1].split("\n")


def hash_lines(lines: list[str]) -> tuple[bytes, ...]:
    """One 32-byte hash a line, at most MAX_PROOF. Raises MalformedError."""
    if len(lines) > MAX_PROOF:
        raise MalformedError("too many hashes", code="proof-too-long")
    return tuple(unb64(line, HASH_SIZE) for line in lines)
