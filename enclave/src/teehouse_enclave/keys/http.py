# SPDX-License-Identifier: Apache-2.0
"""Small parts of the key service's bare ASGI door: bounded bodies, queries, answers, problem documents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from teehouse_core.wire.problem import PROBLEM_TYPE
from teehouse_enclave.keys.errors import CODES, KeysError

__all__ = ["Receive", "Scope", "Send", "parse_json", "problem", "query", "read_body", "send_answer", "send_json"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_BODY_TIMEOUT: Final = 60.0  # seconds a caller may take to send its request
_MAX_QUERY: Final = 1024  # bytes


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. Raises KeysError `too-large`, `too-slow`, `malformed` (the caller left)."""
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    if not announced.isdigit() or len(announced) > 12 or int(announced) > limit:
        raise KeysError("too-large", f"this request has at most {limit} bytes")
    parts, got = [], 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise KeysError("malformed", "the caller left")
                parts.append(message.get("body", b""))
                got += len(parts[-1])
                if got > limit:
                    raise KeysError("too-large", f"this request has at most {limit} bytes")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise KeysError("too-slow", "the request took too long to arrive") from None


def parse_json(body: bytes) -> Any:
    """Any JSON. Raises KeysError `malformed`."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise KeysError("malformed", "the body is not JSON") from None


def query(scope: Scope, name: str) -> str:
    """One parameter of the query, empty when it is not there."""
    raw: bytes = scope["query_string"]
    if len(raw) > _MAX_QUERY:
        return ""
    try:
        return parse_qs(raw.decode("latin-1"), max_num_fields=8).get(name, [""])[0]
    except ValueError:  # more fields than any caller of ours sends
        return ""


def problem(
    code: str, title: str = "", hint: str | None = None, members: Mapping[str, Any] | None = None
) -> tuple[int, bytes]:
    """Status and body of a problem document (RFC 9457) with a stable `code`."""
    status = CODES.get(code, 500)
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title or code,
        "status": status,
        "code": code,
        "hint": hint or "",
        **(members or {}),
    }
    return status, json.dumps(document, separators=(",", ":")).encode("ascii")


async def send_problem(send: Send, status: int, body: bytes) -> None:
    extra = [(b"retry-after", b"1")] if status in (429, 503) else []
    await send_answer(send, status, PROBLEM_TYPE.encode(), body, extra)


async def send_json(send: Send, document: Mapping[str, Any], status: int = 200) -> None:
    body = json.dumps(document, separators=(",", ":")).encode("ascii")
    await send_answer(send, status, b"application/json", body)


async def send_answer(
    send: Send, status: int, content_type: bytes, body: bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    """A complete answer of known length."""
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
