# SPDX-License-Identifier: Apache-2.0
"""The sealed response as server-sent events: one event is one `data:` line of b64u (PROTOCOL §4)."""

from __future__ import annotations

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.records import MAX_CIPHERTEXT, PREFIX

__all__ = ["EVENT_STREAM", "ArmorReader", "armor"]

EVENT_STREAM = "text/event-stream"
_MAX_LINE = 16 + (MAX_CIPHERTEXT + PREFIX + 2) * 4 // 3  # bytes: one armoured record and its field name


def armor(piece: bytes) -> bytes:
    """One event that carries the response prefix or exactly one record."""
    return b"data: " + b64u(piece).encode("ascii") + b"\n\n"


class ArmorReader:
    """Takes event-stream bytes, gives the pieces inside; comments are skipped, any other field is an error."""

    __slots__ = ("_buffer", "_piece")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._piece: bytes | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Give the pieces of the events that `data` completes. Raises MalformedError."""
        pieces: list[bytes] = []
        buffer = self._buffer
        buffer += data
        at = 0
        while (end := buffer.find(b"\n", at)) >= 0:
            line = bytes(buffer[at:end]).removesuffix(b"\r")
            at = end + 1
            if not line:
                if self._piece is not None:
                    pieces.append(self._piece)
                    self._piece = None
            elif line.startswith(b":"):
                continue
            elif not line.startswith(b"data:"):
                raise MalformedError("event has a field that is not data", code="armor-field")
            elif self._piece is not None:
                raise MalformedError("event has two data lines", code="armor-two-lines")
            else:
                try:
                    text = line[5:].removeprefix(b" ").decode("ascii")
                except UnicodeDecodeError:
                    raise MalformedError("event is not ASCII", code="armor-not-ascii") from None
                self._piece = unb64u(text)
        del buffer[:at]
        if len(buffer) > _MAX_LINE:
            raise MalformedError("event line too long", code="armor-line-length")
        return pieces
