# SPDX-License-Identifier: Apache-2.0
"""One attempt to have one node answer a sealed request, up to its first answer byte; and the copying after that."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp

from teehouse_cloud.errors import UpstreamFailed, UpstreamLost
from teehouse_cloud.gateway.asgi import Headers, Send
from teehouse_cloud.gateway.fleet import NodeView
from teehouse_cloud.gateway.outbound import NODE_ERRORS, read_bounded
from teehouse_cloud.settings import Settings
from teehouse_core.wire.frame import REQUEST_TYPE
from teehouse_core.wire.problem import CODES, MAX_PROBLEM, PROBLEM_TYPE

__all__ = ["RETRYABLE", "Answer", "NodeProblem", "Progress", "SealedRequest", "ask", "copy"]

RETRYABLE = frozenset({"unavailable", "unknown-key", "over-limit"})  # another candidate may still say yes
_CONTENT_TYPE = re.compile(r"[ -~]{1,200}")
_DIGITS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request taken in whole, kept until some node has begun to answer."""

    chunks: Sequence[bytes] = field(repr=False)
    size: int  # bytes
    accept: str | None
    request_id: str


@dataclass(slots=True)
class Answer:
    """A 200 of a node whose first bytes have come. Must be closed."""

    response: aiohttp.ClientResponse
    first: bytes = field(repr=False)
    headers: Headers

    def close(self) -> None:
        """Drop the connection unless the answer was read to its end; tells the node to stop."""
        self.response.close()


@dataclass(frozen=True, slots=True)
class NodeProblem:
    """A clear-text refusal of a node, from the closed list; `body` is passed on as it came."""

    code: str
    status: int
    body: bytes = field(repr=False)
    retry_after: str | None


async def ask(
    session: aiohttp.ClientSession, node: NodeView, request: SealedRequest, settings: Settings
) -> Answer | NodeProblem:
    """Send the request and wait for the first answer byte.

    Raises `UpstreamFailed` with code connect, timeout, reset, bad-answer or too-large: no answer byte was taken, so
    the caller may ask another candidate.
    """
    headers = {
        "Content-Type": REQUEST_TYPE,
        "Content-Length": str(request.size),
        "X-Request-Id": request.request_id,
    }
    if request.accept is not None:
        headers["Accept"] = request.accept
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_seconds, sock_read=settings.idle_seconds)
    try:
        async with asyncio.timeout(settings.first_byte_seconds):
            response = await session.post(
                f"{node.url}/sealed/v1/{node.endpoint}",
                data=request.chunks[0] if len(request.chunks) == 1 else _pieces(request.chunks),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            )
            try:
                return await _open(response)
            except BaseException:
                response.close()
                raise
    except aiohttp.ClientConnectorError as exc:
        raise UpstreamFailed("no connection", code="connect") from exc
    except aiohttp.ConnectionTimeoutError as exc:
        raise UpstreamFailed("no connection in time", code="connect") from exc
    except TimeoutError as exc:
        raise UpstreamFailed("no answer in time", code="timeout") from exc
    except NODE_ERRORS as exc:
        raise UpstreamFailed("connection lost before an answer", code="reset") from exc


async def _pieces(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Hand a large body over piece by piece: aiohttp waits for the socket between pieces."""
    for chunk in chunks:
        yield chunk


async def _open(response: aiohttp.ClientResponse) -> Answer | NodeProblem:
    kind = response.headers.get("Content-Type", "")
    if response.status != 200:
        body = await read_bounded(response, MAX_PROBLEM)
        response.release()
        code = _problem_code(response.status, kind, body)
        if code is None:
            raise UpstreamFailed("an answer no node gives", code="bad-answer")
        retry = response.headers.get("Retry-After")
        return NodeProblem(code, response.status, body, retry if retry and _DIGITS.fullmatch(retry) else None)
    length = response.headers.get("Content-Length")
    chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if not chunked and (length is None or not _DIGITS.fullmatch(length)):
        # It would end when the connection closes, and a dead node would look like a finished one.
        raise UpstreamFailed("an answer without framing", code="bad-answer")
    if not _CONTENT_TYPE.fullmatch(kind) or "Content-Encoding" in response.headers:
        raise UpstreamFailed("an answer of no usable type", code="bad-answer")
    first = await response.content.readany()
    headers: Headers = [
        (b"content-type", kind.encode("ascii")),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]
    if not chunked and length is not None:
        headers.append((b"content-length", length.encode("ascii")))
    return Answer(response, first, headers)


def _problem_code(status: int, kind: str, body: bytes) -> str | None:
    if kind.split(";", 1)[0].strip().lower() != PROBLEM_TYPE:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, str) and CODES.get(code) == status else None


class Progress:
    """How far a copy has come; read by the watchdog that frees streams whose client takes no bytes."""

    __slots__ = ("sent", "waiting_since")

    def __init__(self) -> None:
        self.sent = 0  # bytes handed to the client's connection
        self.waiting_since = 0.0  # monotonic time since when one send has been waiting; 0 when none is


async def copy(answer: Answer, send: Send, progress: Progress) -> None:
    """Pass the body on as it comes, one send per read; the read pauses while the client's socket is full.

    Returns after the last byte, with the client's response still open. Raises `UpstreamLost` when the node's answer
    breaks off: the caller must then leave the response unfinished.
    """
    read = answer.response.content.readany
    chunk = answer.first
    clock = time.monotonic
    while chunk:
        progress.waiting_since = clock()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        progress.waiting_since = 0.0
        progress.sent += len(chunk)
        try:
            chunk = await read()
        except TimeoutError as exc:
            raise UpstreamLost("node fell silent", code="timeout") from exc
        except NODE_ERRORS as exc:
            raise UpstreamLost("node vanished", code="reset") from exc
