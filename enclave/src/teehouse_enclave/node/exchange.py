# SPDX-License-Identifier: Apache-2.0
"""One sealed request from its first checked byte to its trailer; whatever goes wrong inside stays inside the seal."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from teehouse_core.errors import MalformedError
from teehouse_core.seal.inner import ContentFacts, InnerOptions
from teehouse_core.seal.node import CONSTANT_RECORD, OpenedRequest, ResponseSealer, sign_usage
from teehouse_core.seal.suite import mac
from teehouse_enclave.engine.base import Engine, EngineError
from teehouse_enclave.node.chat import Answer, answer_chat, error_body
from teehouse_enclave.node.coalesce import Outbox, beats, flushes
from teehouse_enclave.node.keys import NodeKeys
from teehouse_enclave.node.log import log_event
from teehouse_enclave.node.usage import UsageRing

__all__ = ["CLIENT_LEFT", "Exchange", "Room"]

CLIENT_LEFT = 499  # status in the usage record when nobody waited for the end
_JSON = (("content-type", "application/json"),)
_SSE = (("content-type", "text/event-stream"),)

Send = Callable[[bytes], Awaitable[None]]
"""Sends sealed bytes to the gateway; waits while the path is slow."""


@dataclass(frozen=True, slots=True)
class Room:
    """What every exchange of a node shares."""

    engine: Engine
    model: str
    keys: NodeKeys
    usage: UsageRing
    now: Callable[[], int]  # node time, Unix seconds


class Exchange:
    """Answers one opened request."""

    def __init__(self, room: Room, opened: OpenedRequest, *, armored: bool) -> None:
        self._room = room
        self._opened = opened
        self._armored = armored
        self._answer = Answer()
        self._started_at = room.now()

    async def run(self, send: Send) -> None:
        """Send the sealed answer. Cancelling stops the engine; a usage record is made in any case."""
        status = CLIENT_LEFT
        try:
            await self._run(send)
            status = self._answer.status
        finally:
            room, answer = self._room, self._answer
            record = sign_usage(
                self._opened,
                usage=answer.billable(),
                status=status,
                kid=room.keys.sign_kid,
                sign=room.keys.sign,
                finished_at=room.now(),
            )
            room.usage.add(*record)

    async def _run(self, send: Send) -> None:
        options, facts = InnerOptions(), ContentFacts(False, 0)
        refusal: EngineError | None = None
        try:
            _, options, facts = self._opened.read()  # (9), (10)
            self._check(facts)
        except MalformedError as error:
            refusal = EngineError(400, error.code, error.message)
        except EngineError as error:
            refusal = error
        sealer = ResponseSealer(self._opened, secrets.token_bytes(32), shape=options.shape, armored=self._armored)
        if refusal is not None:
            await self._refuse(sealer, refusal, send)
            return
        outbox = Outbox()
        producer = asyncio.create_task(self._produce(facts, outbox))
        try:
            await self._relay(sealer, facts, options, outbox, send)
        finally:
            producer.cancel()
            with suppress(asyncio.CancelledError):
                await producer

    def _check(self, facts: ContentFacts) -> None:
        if facts.body is None:
            raise EngineError(400, "invalid-json", "the request body is not a JSON object")
        if self._opened.header.op != "chat.completions":
            raise EngineError(404, "unsupported-operation", "this endpoint serves chat completions only")
        model = facts.body.get("model")
        if model not in (self._opened.header.endpoint, self._room.model):
            raise EngineError(
                404,
                "model_not_found",
                "this endpoint does not serve that model; name the endpoint's id, or the model's own name",
                param="model",
            )

    async def _produce(self, facts: ContentFacts, outbox: Outbox) -> None:
        room = self._room
        tenant = mac(room.keys.tenant_secret, self._opened.scope)
        body = {**(facts.body or {}), "model": room.model}
        pieces = answer_chat(
            room.engine,
            body,
            stream=facts.stream,
            tenant=tenant,
            request_id=self._opened.header.request_id,
            answer=self._answer,
        )
        error: BaseException | None = None
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    await outbox.put(piece)
        except EngineError as failed:
            error = failed
        except Exception as failed:
            # The type only: an engine's message may quote the prompt.
            log_event("engine-exception", kind=type(failed).__name__)
            error = EngineError(500, "engine-failed", "the engine failed")
        outbox.close(error)

    async def _relay(
        self, sealer: ResponseSealer, facts: ContentFacts, options: InnerOptions, outbox: Outbox, send: Send
    ) -> None:
        await outbox.wait()  # the status is known with the first bytes; a slow prefill is a 200 so far
        error = outbox.error
        if isinstance(error, EngineError) and outbox.empty:
            await self._refuse(sealer, error, send)
            return
        pending = sealer.head(200, _SSE if facts.stream else _JSON)
        async with aclosing(_pieces(options, outbox)) as pieces:
            async for piece in pieces:
                await send(pending + (sealer.body(piece) if piece else sealer.cover()))
                pending = b""
        if isinstance(outbox.error, EngineError):
            failure = error_body(outbox.error)
            pending += sealer.body(b"data: " + failure + b"\n\n" if facts.stream else failure)
            self._answer.status, self._answer.finish = outbox.error.status, "error"
        await send(pending + self._trailer(sealer))

    async def _refuse(self, sealer: ResponseSealer, error: EngineError, send: Send) -> None:
        self._answer.status, self._answer.finish = error.status, "error"
        await send(sealer.head(error.status, _JSON) + sealer.body(error_body(error)) + self._trailer(sealer))

    def _trailer(self, sealer: ResponseSealer) -> bytes:
        room, answer = self._room, self._answer
        usage = answer.billable()
        return sealer.trailer(
            status=answer.status,
            finish=answer.finish or "stop",
            usage=usage,
            kid=room.keys.sign_kid,
            sign=room.keys.sign,
            started_at=self._started_at,
            finished_at=room.now(),
        )


def _pieces(options: InnerOptions, outbox: Outbox) -> AsyncGenerator[bytes, None]:
    if options.shape == "constant":
        return beats(outbox, options.flush_ms, CONSTANT_RECORD - 5, time.monotonic)
    return flushes(outbox, options.flush_ms, time.monotonic)
