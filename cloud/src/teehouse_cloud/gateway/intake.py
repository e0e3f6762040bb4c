# SPDX-License-Identifier: Apache-2.0
"""Taking in a sealed request: prefix and header first, decide, then the rest, of exactly the announced length."""

from __future__ import annotations

from teehouse_cloud.errors import ClientGone
from teehouse_cloud.gateway.asgi import Receive, Refusal
from teehouse_core.errors import MalformedError
from teehouse_core.wire.frame import MAX_FRAME, PREFIX_LEN, RequestFrame, parse_prefix
from teehouse_core.wire.header import RequestHeader

__all__ = ["Intake"]


PIECE = 256 * 1024  # bytes; what trickles in is gathered into pieces of this size, so objects stay few


class Intake:
    """The request body of one ASGI call, read no further than asked for (plus what one receive brings)."""

    __slots__ = ("_receive", "_tail", "chunks", "ended", "size")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._tail = bytearray()
        self.chunks: list[bytes] = []  # complete only after `read_rest`
        self.size = 0
        self.ended = False

    async def read_header(self, content_length: bytes | None) -> tuple[RequestHeader, int]:
        """The parsed header and the length in bytes that the whole frame must have.

        Raises `MalformedError`; `Refusal` when the announced length is beyond what any frame may have; `ClientGone`.
        """
        announced: int | None = None
        if content_length is not None:
            if not content_length.isdigit() or len(content_length) > 18:
                raise MalformedError("content-length is no number", code="frame-length")
            announced = int(content_length)
            if announced > MAX_FRAME:
                raise Refusal("unavailable", status=413, reason="too-large")
        header_len = parse_prefix(await self._head(PREFIX_LEN))
        end = PREFIX_LEN + header_len
        head = await self._head(end)
        if len(head) < end:
            raise MalformedError("request ends inside its header", code="frame-length")
        header = RequestHeader.parse(head[PREFIX_LEN:end])
        length = RequestFrame.length(header, header_len)
        if (announced is not None and announced != length) or self.size > length:
            raise MalformedError("request is not as long as its header says", code="frame-length")
        return header, length

    async def read_rest(self, length: int) -> None:
        """Read to the end, which must come after exactly `length` bytes. Raises `MalformedError`, `ClientGone`."""
        while not self.ended:
            await self._more()
            if self.size > length:
                raise MalformedError("request is longer than its header says", code="frame-length")
        if self.size != length:
            raise MalformedError("request is shorter than its header says", code="frame-length")

    async def _head(self, size: int) -> bytes:
        """The first `size` bytes, or fewer when the request ends before."""
        while self.size < size and not self.ended:
            await self._more()
        return bytes((self.chunks[0] if self.chunks else self._tail)[:size])

    async def _more(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("client left while sending", code="client-gone")
        body = message.get("body", b"")
        self._tail += body
        self.size += len(body)
        self.ended = not message.get("more_body", False)
        if len(self._tail) >= PIECE or (self.ended and self._tail):
            self.chunks.append(bytes(self._tail))
            self._tail.clear()
