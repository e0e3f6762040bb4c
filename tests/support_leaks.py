# SPDX-License-Identifier: Apache-2.0
"""Search bytes for windows of a text in the encodings that software uses by accident."""

from __future__ import annotations

import base64
import json
import urllib.parse
import zlib
from collections.abc import Iterator

WINDOW = 12  # characters


def _base64_cores(raw: bytes) -> Iterator[bytes]:
    """What stands in base64 of anything that holds `raw`, at each of the three alignments."""
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        core = encoded[4 if shift else 0 : -4]
        yield core
        yield core.replace(b"+", b"-").replace(b"/", b"_")


def encodings(window: str) -> set[bytes]:
    """The forms in which `window` could lie in a byte string."""
    raw = window.encode()
    forms = {
        raw,
        raw[::-1],
        raw.upper(),
        raw.lower(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        window.encode("utf-16-le"),
        window.encode("utf-16-be"),
        window.encode("utf-32-le"),
        json.dumps(window)[1:-1].encode(),
        urllib.parse.quote(window).encode(),
        urllib.parse.quote_plus(window).encode(),
        *_base64_cores(raw),
    }
    return {form for form in forms if len(form) >= 8}


def leaks(haystack: bytes, *texts: str) -> list[str]:
    """Windows of `texts` that `haystack` holds in any encoding; compressed haystacks are opened too."""
    hay = [haystack, *_inflated(haystack)]
    found = []
    for text in texts:
        for at in range(max(1, len(text) - WINDOW + 1)):
            window = text[at : at + WINDOW]
            if any(form in one for form in encodings(window) for one in hay):
                found.append(window)
    return found


def _inflated(data: bytes) -> Iterator[bytes]:
    at = -1
    for _ in range(64):
        at = data.find(b"\x1f\x8b\x08", at + 1)
        if at < 0:
            return
        try:
            yield zlib.decompressobj(31).decompress(data[at:])
        except zlib.error:
            continue
