# SPDX-License-Identifier: Apache-2.0
"""A client of one stream on a bare HTTP/1.1 parser, sealed or plain, for loads under which a whole SDK is in the way.

Hundreds of users have hundreds of machines; here all of them share one process beside node and gateway. The sealed
side is the product's own machine (`seal_request`, `ResponseOpener`) and every record is opened and every receipt
checked; only the HTTP client around it is small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools

from teehouse_core.errors import TeehouseError
from teehouse_core.seal.client import AnswerBody, ResponseOpener
from teehouse_core.wire.frame import REQUEST_TYPE

__all__ = ["LightStream", "request_bytes"]


def request_bytes(path: str, api_key: str, frame: bytes) -> bytes:
    """One HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {REQUEST_TYPE}\r\n"
        f"authorization: Bearer {api_key}\r\ncontent-length: {len(frame)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + frame


class LightStream(asyncio.Protocol):
    """Sends one request, hands body bytes to `take`; `done` says whether the answer was whole."""

    def __init__(
        self, request: bytes, opener: ResponseOpener | None, take: Callable[[bytes], None], done: asyncio.Future[bool]
    ) -> None:
        self._request = request
        self._opener = opener
        self._take = take
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (TeehouseError, httptools.HttpParserError):
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        if self._opener is None:
            self._take(body)
            return
        for event in self._opener.feed(body):
            if isinstance(event, AnswerBody):
                self._take(event.data)

    def on_message_complete(self) -> None:
        sealed = self._opener is None or self._opener.ended
        self._complete = sealed and self._parser.get_status_code() == 200
        self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(self._complete)
