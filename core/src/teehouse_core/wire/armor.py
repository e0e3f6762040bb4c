# SPDX-License-Identifier: Apache-2.0
"""The sealed response as server-sent events: one event is one `data:` line of b64u (PROTOCOL §4)."""

from __future__ import annotations

from collections.abc import Iterator

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.records import MAX_CIPHERTEXT, PREFIX

__all__ = ["EVENT_STREAM", "MAX_LINE", "ArmorReader", "armor"]

EVENT_STREAM = "text/event-stream"
MAX_LINE = 16 + (MAX_CIPHERTEXT + PREFIX + 2) * 4 // 3  # bytes: one armoured record, its field name, a line end


def armor(piece: bytes) -> bytes:
    """One event that carries the response prefix or exactly one record."""
    return b"data: " + b64u(piece).encode("ascii") + b"\n\n"


class ArmorReader:
    """Takes event-stream bytes, gives the pieces inside; comments are skipped, any other field is an error."""

    __slots__ = ("_buffer", "_piece", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._piece: bytes | None = None
        self._searched = 0  # bytes at the front of the buffer that hold no line end

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces of the events that `data` completes. Raises MalformedError.

        Lazy, so that cutting the same bytes differently yields the same pieces before the same error; iterate it to
        its end, or never feed again.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        while (end := buffer.find(b"\n", max(at, self._searched))) >= 0:
            if end - at > MAX_LINE:
                break
            line = bytes(buffer[at:end]).removesuffix(b"\r")
            at = end + 1
            if line:
                self._line(line)
            elif self._piece is not None:
                piece, self._piece = self._piece, None
                yield piece
        del buffer[:at]
        self._searched = len(buffer)
        if len(buffer) > MAX_LINE:
            raise MalformedError("event line too long", code="armor-line-length")

    def _line(self, line: bytes) -> None:
        if line.startswith(b":"):
            return
        if not line.startswith(b"data:"):
            raise MalformedError("event has a field that is not data", code="armor-field")
        if self._piece is not None:
            raise MalformedError("event has two data lines", code="armor-two-lines")
        try:
            text = line[5:].removeprefix(b" ").decode("ascii")
        except UnicodeDecodeError:
            raise MalformedError("event is not ASCII", code="armor-not-ascii") from None
        self._piece = unb64u(text)
