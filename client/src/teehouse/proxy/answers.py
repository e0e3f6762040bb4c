# SPDX-License-Identifier: Apache-2.0
"""Answers of the proxy over ASGI, and the reading of bounded request bodies."""

from __future__ import annotations

import json
from typing import Any, Final

import anyio
import httpx2
from starlette.types import Receive, Scope, Send

from teehouse.session.shape import error_body
from teehouse.transport import error_response
from teehouse_core.errors import LocalError, TeehouseError

__all__ = ["MAX_BODY", "ClientGone", "headers_of", "read_body", "send_error", "send_json", "send_whole"]

MAX_BODY: Final = 48 * 1024 * 1024  # bytes; a 20 MiB picture in base64 with room to spare, below the frame's 64 MiB
DRAIN_SECONDS: Final = 5.0  # a refused client may go on sending this long while it reads the refusal
MAX_DRAIN: Final = 2 * MAX_BODY  # bytes read off and thrown away after a refusal
_STATUS: Final = {"host-refused": 421, "origin-refused": 403, "proxy-token": 401}

Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):  # noqa: N818  not a fault
    """The caller left while it was sending."""


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises LocalError (`too-large`) beyond MAX_BODY, ClientGone."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 12 or int(value) > MAX_BODY):
            raise _too_large()
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY:
            raise _too_large()
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large() -> LocalError:
    return LocalError("the request is too large", code="too-large", hint=f"{MAX_BODY >> 20} MiB at most")


def headers_of(response: httpx2.Response) -> Headers:
    """The headers of an answer from inside, with what keeps it out of caches."""
    kept = [(k.lower(), v) for k, v in response.headers.raw if k.lower() not in (b"content-length", b"connection")]
    return [*kept, (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


async def send_whole(send: Send, status: int, headers: Headers, body: bytes, *, more: bool = False) -> None:
    """A complete answer; with `more` its end is still to be sent."""
    length = (b"content-length", str(len(body)).encode("ascii"))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def send_json(send: Send, status: int, value: Any) -> None:
    """A small JSON answer."""
    await send_whole(send, status, [(b"content-type", b"application/json")], json.dumps(value).encode())


async def send_error(receive: Receive, send: Send, error: TeehouseError, *, body_read: bool = False) -> int:
    """An error as an OpenAI error object; returns its status. An unread body is read off, so the answer arrives."""
    response = error_response(error)
    status = _STATUS.get(error.code, response.status_code) if isinstance(error, LocalError) else response.status_code
    headers = headers_of(response)
    if status == 401 and error.code == "proxy-token":
        headers.append((b"www-authenticate", b"Bearer"))
    body = json.dumps(error_body(error), separators=(",", ":")).encode()
    if body_read:
        await send_whole(send, status, headers, body)
        return status
    await send_whole(send, status, [*headers, (b"connection", b"close")], body, more=True)
    with anyio.move_on_after(DRAIN_SECONDS):
        await _read_off(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return status


async def _read_off(receive: Receive) -> None:
    left = MAX_DRAIN
    while left > 0:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
