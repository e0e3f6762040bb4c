# SPDX-License-Identifier: Apache-2.0
"""Whether any piece of a text occurs in captured bytes, in clear or in an encoding that a relay could undo."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

__all__ = ["WINDOW", "Search", "search"]

WINDOW = 12  # characters; shorter pieces would occur by chance


@dataclass(frozen=True, slots=True)
class Search:
    """What was looked for and found. `windows` counts distinct byte strings, over all encodings."""

    windows: int
    found: int
    bytes_searched: int
    encodings: tuple[str, ...]


def search(text: str, captured: bytes) -> Search:
    """Look for every 12-character window of `text`; in a shorter text there is nothing to look for."""
    forms = _encodings(text)
    wanted = {window for form in forms.values() for window in _windows(form)}
    found = sum(window in captured for window in wanted)
    return Search(len(wanted), found, len(captured), tuple(forms))


def _encodings(text: str) -> dict[str, bytes]:
    plain = text.encode()
    json_text = json.dumps(text)[1:-1].encode()
    forms = {
        "utf-8": plain,
        "json": json_text,
        "hex": plain.hex().encode(),
        "HEX": plain.hex().upper().encode(),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
    }
    for shift in range(3):  # base64 reads three bytes at a time, so a text has three faces
        part = plain[shift:]
        part = part[: len(part) - len(part) % 3]
        forms[f"base64+{shift}"] = base64.b64encode(part)
        forms[f"base64url+{shift}"] = base64.urlsafe_b64encode(part)
    return forms


def _windows(data: bytes) -> set[bytes]:
    return {data[i : i + WINDOW] for i in range(len(data) - WINDOW + 1)}
