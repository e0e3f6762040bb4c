# SPDX-License-Identifier: Apache-2.0
"""The proxy as an ASGI application: every operation goes through one sealed session, or is refused.

There is no other way out: the application holds a sealing transport and no HTTP client. The platform's key comes from
settings, never from a request; verification that fails is answered 502 with the check that failed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx2
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from teehouse.proxy.answers import ClientGone, headers_of, read_body, send_error, send_whole
from teehouse.proxy.guard import Guard, Place
from teehouse.session.hold import error_event
from teehouse.session.shape import error_body
from teehouse.transport import AsyncSealedTransport
from teehouse_core.errors import LocalError, OperatorError, TeehouseError
from teehouse_core.wire.ops import OPS

__all__ = ["LOGGER", "make_app"]

LOGGER: Final = logging.getLogger("teehouse.proxy")
LEFT: Final = 499  # status in the log when the caller left; never on the wire


@dataclass(slots=True)
class _Call:
    """What is logged of one request: no content, no header of the caller's."""

    path: str
    status: int = LEFT
    code: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    request_id: str = ""
    started: float = field(default_factory=time.monotonic)


def make_app(transport: AsyncSealedTransport, place: Place) -> Starlette:
    """The application for one bound address and one token; closes `transport` when the server stops."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await transport.aclose()

    routes = [
        *(Route(path, _Door(transport, path), methods=["POST"]) for path in OPS.values()),
        Route("/v1/models", _Door(transport, "/v1/models"), methods=["GET"]),
        Route("/v1/models/{model}", _Door(transport, "/v1/models/"), methods=["GET"]),
        Route("/healthz", _healthz, methods=["GET"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, place)],
        exception_handlers={404: _not_here, 405: _not_here},
        lifespan=lifespan,
    )


async def _healthz(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _not_here(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    code = "method-unknown" if status == 405 else "path-unknown"
    hint = f"the proxy knows {', '.join(OPS.values())} and /v1/models"
    return JSONResponse(
        error_body(LocalError("no such operation here, so nothing was sent", code=code, hint=hint)),
        status_code=status,
        headers={"x-should-retry": "false"},
    )


class _Door:
    """One path, as a bare ASGI callable: an answer streams without a queue between node and caller."""

    def __init__(self, transport: AsyncSealedTransport, path: str) -> None:
        self._transport = transport
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _Call(self._path)
        try:
            await self._serve(scope, receive, send, call)
        except ClientGone:
            call.status = LEFT
        finally:
            _log(call)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, call: _Call) -> None:
        try:
            if scope["http_version"] == "1.0":
                # without chunks a cut answer would look like a finished one
                raise LocalError("HTTP/1.0 cannot tell a cut answer from a whole one", code="http-version")
            body = await read_body(scope, receive)
        except LocalError as error:
            call.code = error.code
            call.status = await send_error(receive, send, error)
            return
        call.bytes_in = len(body)
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()  # closes the sealed stream at once, so the node stops

            tasks.start_soon(leave)
            await self._answer(scope, body, receive, send, call)
            tasks.cancel_scope.cancel()

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send, call: _Call) -> None:
        request = httpx2.Request(scope["method"], httpx2.URL("http://proxy", path=scope["path"]), content=body)
        try:
            response = await self._transport.exchange(request)
        except TeehouseError as error:
            call.code = error.code
            call.status = await send_error(receive, send, error, body_read=True)
            return
        except Exception as error:
            # The type only: whatever it is, its text could hold content.
            LOGGER.error("unexpected", extra={"kind": type(error).__name__})
            call.code = "proxy-failed"
            failed = OperatorError("the proxy failed", code="proxy-failed")
            call.status = await send_error(receive, send, failed, body_read=True)
            return
        call.request_id = response.headers.get("x-request-id", "")
        call.status = response.status_code
        if isinstance(response.stream, httpx2.ByteStream):
            content = response.content
            call.bytes_out = len(content)
            await send_whole(send, response.status_code, headers_of(response), content)
            return
        await self._stream(response, send, call)

    async def _stream(self, response: httpx2.Response, send: Send, call: _Call) -> None:
        """Pass events on as they come. A broken answer ends with an error event and a cut connection."""
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers_of(response)})
        try:
            async for piece in response.stream:  # type: ignore[union-attr]
                call.bytes_out += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TeehouseError as error:
            call.code = error.code
            # Left unfinished on purpose: the server closes the connection without the last chunk.
            await send({"type": "http.response.body", "body": error_event(error_body(error)), "more_body": True})
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()


def _log(call: _Call) -> None:
    fields: dict[str, Any] = {
        "path": call.path,
        "status": call.status,
        "code": call.code,
        "bytes_in": call.bytes_in,
        "bytes_out": call.bytes_out,
        "request_id": call.request_id,
        "seconds": round(time.monotonic() - call.started, 4),
    }
    LOGGER.info("request", extra={"fields": fields})
