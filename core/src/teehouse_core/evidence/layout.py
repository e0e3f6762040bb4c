# SPDX-License-Identifier: Apache-2.0
"""Turn a table of (name, size, form) into fields with byte ranges; the tables stand beside the parsers."""

from __future__ import annotations

from collections.abc import Sequence

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.fields import Field

__all__ = ["Part", "show", "walk"]

Part = tuple[str, int, str]
"""Name, size in bytes, and form: `int` (little-endian, decimal), `bits` (little-endian, as 0x…), `hex` or `text`."""

MAX_TEXT = 8192  # characters of a text value; a PEM chain is under 4 KiB


def walk(data: bytes, parts: Sequence[Part], start: int, prefix: str) -> list[Field]:
    """Fields of `parts`, one after another from `start`. Raises `MalformedError` when the data ends before them."""
    found: list[Field] = []
    at = start
    for name, size, form in parts:
        if at + size > len(data):
            raise MalformedError(f"{prefix} ends early", code="truncated")
        found.append(Field(f"{prefix}.{name}" if prefix else name, at, at + size, show(data[at : at + size], form)))
        at += size
    return found


def show(data: bytes, form: str) -> str:
    """The text of one value."""
    if form == "int":
        return str(int.from_bytes(data, "little"))
    if form == "bits":
        return f"0x{int.from_bytes(data, 'little'):0{2 * len(data)}x}"
    if form == "text":
        text = data.decode("ascii", "replace")
        return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)[:MAX_TEXT]
    return data.hex()
