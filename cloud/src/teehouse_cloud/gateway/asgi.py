# SPDX-License-Identifier: Apache-2.0
"""ASGI by hand: the types, header look-up and whole answers of the data plane (no framework per request or chunk)."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from teehouse_core.wire.frame import MAX_FRAME
from teehouse_core.wire.problem import CODES, PROBLEM_TYPE, problem_body

__all__ = [
    "Headers",
    "Message",
    "Receive",
    "Refusal",
    "Scope",
    "Send",
    "ABORT",
    "abort",
    "header",
    "read_off",
    "request_id",
    "send_json",
    "send_refusal",
    "send_whole",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

ABORT = "teehouse.abort"  # ASGI extension of our server: a callable that cuts the connection
DRAIN_SECONDS = 5.0  # a refused client may go on sending this long while it reads the refusal
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")  # what we take over from a client into logs and answers


class Refusal(Exception):  # noqa: N818  an answer, not a fault
    """Ends a request with a problem+json answer; `code` is from the closed list of PROTOCOL §4."""

    def __init__(
        self, code: str, *, status: int | None = None, reason: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status = status or CODES[code]
        self.reason = reason
        self.retry_after = retry_after  # seconds


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of a header, None when it is absent, b"" when it is repeated (no one value can be meant)."""
    found: bytes | None = None
    for key, value in scope["headers"]:
        if key == name:
            if found is not None:
                return b""
            found = value
    return found


def abort(scope: Scope) -> None:
    """Cut the client's connection at once, where the server offers it (see `teehouse_cloud.server`)."""
    cut = (scope.get("extensions") or {}).get(ABORT)
    if cut is not None:
        cut()


def request_id(scope: Scope) -> str:
    """The client's x-request-id when it has the harmless form, else a fresh one."""
    given = header(scope, b"x-request-id")
    if given and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return secrets.token_hex(16)


async def send_whole(
    send: Send, status: int, content_type: bytes, body: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A complete answer of known length."""
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store, no-transform"),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_json(send: Send, status: int, value: Any, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """A JSON answer."""
    await send_whole(send, status, b"application/json", json.dumps(value, separators=(",", ":")).encode(), extra)


async def send_refusal(receive: Receive, send: Send, refusal: Refusal, rid: str, *, body_ended: bool = False) -> int:
    """Answer a refusal, then read off a bounded rest of the request; returns the bytes sent.

    Closing while the client still sends would reset the connection, and the client could lose the answer. So the
    answer goes out whole first, and the connection is given a moment before it is closed.
    """
    body = problem_body(refusal.code, status=refusal.status, reason=refusal.reason)
    headers: Headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-request-id", rid.encode()),
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if not body_ended:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not body_ended})
    if not body_ended:
        await read_off(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    return len(body)


async def read_off(receive: Receive) -> None:
    """Take and drop what a refused client still sends, for a bounded time."""
    left = MAX_FRAME
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return
