# SPDX-License-Identifier: Apache-2.0
"""A transport for httpx2 that seals: the OpenAI SDK, or any client with `http_client=`, on top of a session.

It takes the operation and the JSON body from a request and nothing else: not its host, not its headers, not its key.
What is no operation of sealed/1 is answered here with 404 and never sent. A clear-text refusal of the path becomes an
OpenAI-shaped answer, so that the SDK raises its own classes; a failed verification or a broken stream is raised.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Final

import anyio.to_thread
import httpx2

from teehouse.session.aio import LARGE, AsyncSealedAnswer, AsyncSession
from teehouse.session.answer import narrowed
from teehouse.session.errors import Unreachable
from teehouse.session.hold import EventHold
from teehouse.session.shape import error_body, retry_allowed, status_of
from teehouse.session.sync import SealedAnswer, Session
from teehouse.settings import Settings
from teehouse.verify.nodes import NodeVerdict, refuse_set
from teehouse_core.errors import LocalError, TeehouseError, UnauthenticatedError
from teehouse_core.wire.ops import OPS

__all__ = ["EXTENSION", "AsyncSealedTransport", "SealedTransport", "error_response", "op_of_url"]

EXTENSION: Final = "teehouse"
"""`response.extensions[EXTENSION]` is the `SealedAnswer` (its `receipt` is there once the body was read)."""

_PATH: Final = re.compile(r"(?:/.*)?/v1(/.+)|(/.+)")
_ENDPOINT: Final = re.compile(r"ep-[A-Za-z0-9-]{1,61}")
_OPS: Final = {path.removeprefix("/v1"): op for op, path in OPS.items()}
_LOCAL_ANSWERS: Final = frozenset(
    {"api-key-missing", "api-key-form", "too-large", "path-unknown", "method-unknown", "model-unknown"}
)
_Answer = SealedAnswer | AsyncSealedAnswer


def op_of_url(path: str) -> str | None:
    """The operation of an URL path, with or without `/v1` before it; `models` and `models/…` are named so."""
    match = _PATH.fullmatch(path.rstrip("/"))
    if match is None:
        return None
    tail = match.group(1) or match.group(2)
    if tail == "/models" or re.fullmatch(r"/models/[^/]+", tail):
        return tail[1:]
    return _OPS.get(tail)


class SealedTransport(httpx2.BaseTransport):
    """Blocking; makes its own session unless given one, and closes only its own."""

    def __init__(self, settings: Settings | None = None, *, session: Session | None = None) -> None:
        self._own = session is None
        self.session = session if session is not None else Session(settings or Settings.load())

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return self.exchange(request)
        except TeehouseError as error:
            return _answer_or_raise(error, request)

    def close(self) -> None:
        if self._own:
            self.session.close()

    def exchange(self, request: httpx2.Request) -> httpx2.Response:
        """As `handle_request`, but every error is raised, as a TeehouseError."""
        op = _op(request)
        settings = self.session.settings
        if op.startswith("models"):
            endpoint = _listed_endpoint(op, settings)
            return _models(op, endpoint, self.session.verify(endpoint))
        content = request.read()
        limits = narrowed(self.session.timeouts, request.extensions.get("timeout"))
        answer = self.session.request(_endpoint(content, settings), op, content, timeouts=limits)
        if _is_stream(answer):
            return _response(answer, answer.status, stream=_Events(answer, request))
        with answer:
            body = answer.read()
        return _response(answer, _final_status(answer), content=body)


class AsyncSealedTransport(httpx2.AsyncBaseTransport):
    """Async; makes its own session unless given one, and closes only its own."""

    def __init__(self, settings: Settings | None = None, *, session: AsyncSession | None = None) -> None:
        self._own = session is None
        self.session = session if session is not None else AsyncSession(settings or Settings.load())

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self.exchange(request)
        except TeehouseError as error:
            return _answer_or_raise(error, request)

    async def aclose(self) -> None:
        if self._own:
            await self.session.aclose()

    async def exchange(self, request: httpx2.Request) -> httpx2.Response:
        """As `handle_async_request`, but every error is raised, as a TeehouseError."""
        op = _op(request)
        settings = self.session.settings
        if op.startswith("models"):
            endpoint = _listed_endpoint(op, settings)
            return _models(op, endpoint, await self.session.verify(endpoint))
        content = await request.aread()
        limits = narrowed(self.session.timeouts, request.extensions.get("timeout"))
        if len(content) > LARGE:
            endpoint = await anyio.to_thread.run_sync(_endpoint, content, settings)
        else:
            endpoint = _endpoint(content, settings)
        answer = await self.session.request(endpoint, op, content, timeouts=limits)
        if _is_stream(answer):
            return _response(answer, answer.status, stream=_AsyncEvents(answer, request))
        async with answer:
            body = await answer.read()
        return _response(answer, _final_status(answer), content=body)


class _Events(httpx2.SyncByteStream):
    """Server-sent events of one answer, held back where they must wait, with `[DONE]` after the trailer."""

    def __init__(self, answer: SealedAnswer, request: httpx2.Request) -> None:
        self._answer = answer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        hold = EventHold()
        try:
            for piece in self._answer:
                if shown := hold.feed(piece):
                    yield shown
            yield hold.finish()
        except TeehouseError as error:
            raise _for_caller(error, self._request) from error.__cause__
        finally:
            self.close()

    def close(self) -> None:
        self._answer.close()


class _AsyncEvents(httpx2.AsyncByteStream):
    """The same for async readers."""

    def __init__(self, answer: AsyncSealedAnswer, request: httpx2.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        hold = EventHold()
        try:
            async with aclosing(self._answer.__aiter__()) as pieces:
                async for piece in pieces:
                    if shown := hold.feed(piece):
                        yield shown
            yield hold.finish()
        except TeehouseError as error:
            raise _for_caller(error, self._request) from error.__cause__
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        await self._answer.aclose()


def _op(request: httpx2.Request) -> str:
    """Raises LocalError for what is no operation: it is answered here and never sent."""
    op = op_of_url(request.url.path)
    if op is None:
        raise LocalError(
            "this path is no operation of a sealed endpoint, so it was not sent",
            code="path-unknown",
            hint=f"operations are {', '.join(_OPS)} and /models",
        )
    if request.method != ("GET" if op.startswith("models") else "POST"):
        raise LocalError("this path has another method, so nothing was sent", code="method-unknown")
    return op


def _endpoint(content: bytes, settings: Settings) -> str:
    """The endpoint that the body's `model` names, else the one of the settings."""
    try:
        body: Any = json.loads(content)
    except (ValueError, RecursionError):
        body = None  # the node says, inside the seal, what is wrong with it
    model = body.get("model") if isinstance(body, dict) else None
    if isinstance(model, str) and _ENDPOINT.fullmatch(model):
        return model
    return settings.need_endpoint()


def _listed_endpoint(op: str, settings: Settings) -> str:
    name = op.removeprefix("models").removeprefix("/")
    return name if _ENDPOINT.fullmatch(name) else settings.need_endpoint()


def _models(op: str, endpoint: str, verdicts: list[NodeVerdict]) -> httpx2.Response:
    """The models list from verified keysets; nothing that the gateway says stands in it."""
    accepted = [node.accepted for node in verdicts if node.accepted is not None]
    if not accepted:
        raise refuse_set(verdicts)
    first = accepted[0].keyset
    model = {
        "id": endpoint,
        "object": "model",
        "created": min(a.keyset.not_before for a in accepted),
        "owned_by": "teehouse",
        "teehouse": {
            "model": first.model.name,
            "weights_sha256": first.model.weights_sha256,
            "tier": accepted[0].tier,
            "keysets": [a.keyset.sha256 for a in accepted],
        },
    }
    asked = op.removeprefix("models").removeprefix("/")
    if asked not in ("", endpoint, first.model.name):
        raise LocalError("no verified node serves that model", code="model-unknown")
    document = model if asked else {"object": "list", "data": [model]}
    return httpx2.Response(200, json=document, headers={"x-should-retry": "false"})


def _is_stream(answer: _Answer) -> bool:
    kind = _content_type(answer).split(";", 1)[0].strip().lower()
    return answer.status == 200 and kind == "text/event-stream"


def _content_type(answer: _Answer) -> str:
    return next((value for name, value in answer.headers if name.lower() == "content-type"), "application/json")


def _final_status(answer: _Answer) -> int:
    """The trailer's status: an engine that failed after the head was sent says so only there."""
    end = answer.end
    return answer.status if end is None or end.status < 400 else end.status


def _response(
    answer: _Answer,
    status: int,
    *,
    content: bytes | None = None,
    stream: httpx2.SyncByteStream | httpx2.AsyncByteStream | None = None,
) -> httpx2.Response:
    headers = {
        "content-type": _content_type(answer),
        "x-request-id": answer.request_id,
        "x-teehouse-keyset": answer.keyset_sha256,
        "x-teehouse-tier": answer.tier,
    }
    retry_after = next((value for name, value in answer.headers if name.lower() == "retry-after"), None)
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 3:
        headers["retry-after"] = retry_after
    if not retry_allowed(status):
        headers["x-should-retry"] = "false"
    return httpx2.Response(status, headers=headers, content=content, stream=stream, extensions={EXTENSION: answer})


def error_response(error: TeehouseError) -> httpx2.Response:
    """An error of ours as an OpenAI-shaped answer."""
    status = status_of(error)
    headers = {} if retry_allowed(status) else {"x-should-retry": "false"}
    if isinstance(error, UnauthenticatedError) and error.retry_after is not None:
        headers["retry-after"] = f"{error.retry_after:.0f}"
    return httpx2.Response(status, json=error_body(error), headers=headers)


def _answer_or_raise(error: TeehouseError, request: httpx2.Request) -> httpx2.Response:
    """Codes of the path become answers; refusals and broken protocol are raised."""
    if isinstance(error, UnauthenticatedError) or (isinstance(error, LocalError) and error.code in _LOCAL_ANSWERS):
        return error_response(error)
    if isinstance(error, Unreachable) and isinstance(error.__cause__, httpx2.TransportError):
        # The SDK's own retries and classes for a network that fails.
        raise type(error.__cause__)(error.message, request=request) from error
    raise _for_caller(error, request) from error.__cause__


def _for_caller(error: TeehouseError, request: httpx2.Request) -> TeehouseError:
    """The error as its caller can catch it: where the OpenAI SDK is loaded, also as one of its own."""
    if "openai" not in sys.modules:
        return error
    from teehouse.session.sdk_errors import as_sdk_error

    return as_sdk_error(error, request)
