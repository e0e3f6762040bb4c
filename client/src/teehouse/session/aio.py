# SPDX-License-Identifier: Apache-2.0
"""The async shell of a session (asyncio or trio): the same flows over one pooled async HTTP client."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.to_thread
import httpx2

from teehouse.session.answer import (
    DRAIN_SECONDS,
    MAX_DRAIN,
    Opening,
    ReceiptRecord,
    SessionState,
    Timeouts,
    before_answer,
    client_options,
    pieces_of,
    post_headers,
    reply_of,
    within_answer,
)
from teehouse.session.errors import Unreachable
from teehouse.session.flow import (
    Drain,
    Exchange,
    ExchangeFlow,
    Get,
    NeedCandidates,
    Post,
    Reply,
    VerifyFlow,
    exchange_flow,
    verify_flow,
)
from teehouse.session.hold import Gathered
from teehouse.settings import Settings
from teehouse.verify.nodes import NodeVerdict, refuse_set
from teehouse_core.appraise.verdict import Accepted, Tier
from teehouse_core.errors import LocalError, TruncatedStream, UnauthenticatedError
from teehouse_core.seal.client import AnswerEnd
from teehouse_core.seal.inner import InnerOptions

__all__ = ["LARGE", "AsyncSealedAnswer", "AsyncSession"]

LARGE: Final = 256 * 1024  # bytes of content above which parsing and sealing leave the event loop


class AsyncSession:
    """Verified, sealed requests to one platform under one policy. Close it, or use it in an `async with` block."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._state = SessionState(settings, clock=clock, random=random)
        self._http = httpx2.AsyncClient(**client_options(settings))
        self._verifying: dict[str, anyio.Lock] = {}

    @property
    def settings(self) -> Settings:
        return self._state.settings

    @property
    def timeouts(self) -> Timeouts:
        """The settings' limits on silence."""
        return self._state.timeouts

    @property
    def last_receipt(self) -> ReceiptRecord | None:
        """The receipt of the answer that ended last in this session."""
        return self._state.last_receipt

    async def verify(self, endpoint: str | None = None, *, fresh: bool = False) -> list[NodeVerdict]:
        """The verdicts on an endpoint's nodes, from the cache while they last unless `fresh`.

        A refused node is a verdict, not an error. Raises LocalError, PeerError.
        """
        endpoint = endpoint or self.settings.need_endpoint()
        async with self._lock(endpoint):
            state = self._state
            known = [] if fresh else state.cache.verdicts(endpoint, state.policy.digest, state.now())
            return known or await self._fetch(endpoint)

    async def request(
        self,
        endpoint: str | None,
        op: str,
        content: bytes,
        options: InnerOptions | None = None,
        *,
        timeouts: Timeouts | None = None,
    ) -> AsyncSealedAnswer:
        """Seal `content` for verified nodes, send it, return when the answer's head has authenticated.

        Raises LocalError, RefusedError, PeerError; see `teehouse.session.flow.exchange_flow`.
        """
        ask = self._state.ask(endpoint, op, content, options)
        limits = timeouts or self._state.timeouts
        flow = exchange_flow(ask, clock=self._state.now, random=self._state.random)
        response: httpx2.Response | None = None
        try:
            try:
                response, exchange = await self._drive(flow, limits, large=len(content) > LARGE)
            except UnauthenticatedError as error:
                if error.status >= 500:
                    self._state.doubt(ask.endpoint)
                raise
            except Unreachable:
                self._state.doubt(ask.endpoint)
                raise
            answer = AsyncSealedAnswer(self._state, response, exchange, limits)
            await answer._open()
            response = None
            return answer
        finally:
            if response is not None:
                await _aclose(response)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _drive(self, flow: ExchangeFlow, limits: Timeouts, *, large: bool) -> tuple[httpx2.Response, Exchange]:
        response: httpx2.Response | None = None
        try:
            wanted = next(flow)
            while True:
                reply: Reply | list[Accepted]
                if isinstance(wanted, NeedCandidates):
                    reply = await self._candidates(wanted)
                elif isinstance(wanted, Post):
                    response = await self._post(wanted, limits)
                    reply = reply_of(response)
                else:
                    reply = await self._drain(response, wanted)
                    response = None
                step = partial(_step, flow, reply)
                sealing = large and isinstance(wanted, NeedCandidates)
                wanted, done = await anyio.to_thread.run_sync(step) if sealing else step()
                if done is not None:
                    if response is None:
                        raise LocalError("a flow ended without an answer", code="flow-order")
                    kept, response = response, None
                    return kept, done
        finally:
            flow.close()
            if response is not None:
                await _aclose(response)

    async def _candidates(self, need: NeedCandidates) -> list[Accepted]:
        state, digest = self._state, self._state.policy.digest
        found = state.cache.usable(need.endpoint, digest, state.now(), refused=need.refused)
        if found:
            return found
        async with self._lock(need.endpoint):
            found = state.cache.usable(need.endpoint, digest, state.now(), refused=need.refused)
            if found:
                return found
            verdicts = await self._fetch(need.endpoint)
            found = state.cache.usable(need.endpoint, digest, state.now(), refused=need.refused, margin=0)
            if not found and not need.refused:
                raise refuse_set(verdicts)
            return found

    async def _fetch(self, endpoint: str) -> list[NodeVerdict]:
        state = self._state
        flow = verify_flow(
            state.settings.need_base_url(),
            endpoint,
            state.policy,
            count=state.settings.candidates,
            clock=state.now,
            random=state.random,
            seen=state.seen,
            remembered=state.remembered,
        )
        try:
            step: Get | list[NodeVerdict] = next(flow)
            while isinstance(step, Get):
                reply = await self._get(step)
                # Appraisal is a few signature checks per node: long enough to hold up other streams of this loop.
                step = await anyio.to_thread.run_sync(_verify_step, flow, reply)
            verdicts = step
        finally:
            flow.close()
        state.cache.put(endpoint, state.policy.digest, verdicts, state.now())
        return verdicts

    async def _get(self, get: Get) -> Reply:
        limits = self._state.timeouts
        request = self._http.build_request("GET", get.url, headers={"Accept-Encoding": "identity"})
        request.extensions = {**request.extensions, "timeout": limits.extension(limits.idle)}
        try:
            response = await self._http.send(request, stream=True)
            try:
                return reply_of(response, await _read(response, get.limit))
            finally:
                await _aclose(response)
        except httpx2.HTTPError as error:
            raise before_answer(error) from error

    async def _post(self, post: Post, limits: Timeouts) -> httpx2.Response:
        request = self._http.build_request(
            "POST", post.url, headers=post_headers(post), content=_apieces(pieces_of(post.parts))
        )
        request.extensions = {**request.extensions, "timeout": limits.extension(limits.first_byte)}
        try:
            return await self._http.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise before_answer(error) from error

    async def _drain(self, response: httpx2.Response | None, drain: Drain) -> Reply:
        if response is None:
            raise LocalError("a flow drains before it posts", code="flow-order")
        try:
            return reply_of(response, await _read(response, drain.limit))
        except httpx2.HTTPError:
            return reply_of(response)  # the status alone says enough
        finally:
            await _aclose(response)

    def _lock(self, endpoint: str) -> anyio.Lock:
        """One verification at a time per endpoint: the others wait for it and then find the cache filled."""
        return self._verifying.setdefault(endpoint, anyio.Lock())


class AsyncSealedAnswer:
    """One sealed answer. Iterate it for authenticated body bytes; it is whole only if iteration ends by itself.

    Iteration raises TruncatedStream or MalformedError when the answer is cut or changed on the way.
    """

    def __init__(self, state: SessionState, response: httpx2.Response, exchange: Exchange, limits: Timeouts) -> None:
        self._state = state
        self._response = response
        self._opening = Opening(state, exchange)
        self._limits = limits
        self._chunks: AsyncIterator[bytes] | None = None
        self._ready: list[bytes] = []

    @property
    def status(self) -> int:
        return self._opening.need_head().status

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        return self._opening.need_head().headers

    @property
    def keyset_sha256(self) -> str:
        """Which accepted keyset answers."""
        return self._opening.need_head().keyset_sha256

    @property
    def tier(self) -> Tier:
        return self._opening.need_accepted().tier

    @property
    def accepted(self) -> Accepted:
        return self._opening.need_accepted()

    @property
    def request_id(self) -> str:
        return self._opening.request_id

    @property
    def end(self) -> AnswerEnd | None:
        """The trailer with its receipt, once the whole answer has authenticated."""
        return self._opening.end

    @property
    def receipt(self) -> ReceiptRecord | None:
        """The verified receipt, once the whole answer has authenticated."""
        return self._opening.record

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """Body bytes as they authenticate."""
        try:
            while True:
                while self._ready:
                    yield self._ready.pop(0)
                if self._opening.end is not None or not await self._more():
                    return
        except TruncatedStream:
            self._state.doubt(self._opening.endpoint)
            raise
        finally:
            await self.aclose()

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body. Raises MalformedError (`answer-too-large`) beyond `limit` bytes."""
        gathered = Gathered(limit)
        async with aclosing(self.__aiter__()) as pieces:
            async for piece in pieces:
                gathered.add(piece)
        return gathered.whole()

    async def aclose(self) -> None:
        """Close the HTTP stream at once; before the end, that stops the node."""
        response = self._response
        if response.is_closed:
            return
        try:
            if self._opening.end is not None:
                await self._use_up()
        finally:
            with anyio.CancelScope(shield=True):
                if isinstance(self._chunks, AsyncGenerator):
                    await self._chunks.aclose()
                await response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """Read until the head has authenticated. From here on silence is limited, not waiting."""
        self._response.request.extensions["timeout"]["read"] = self._limits.idle
        self._chunks = self._response.aiter_raw()
        try:
            while self._opening.head is None:
                await self._more()
        except TruncatedStream:
            self._state.doubt(self._opening.endpoint)
            raise

    async def _more(self) -> bool:
        """Take one chunk from the path; False at its end, which must come after the final record."""
        if self._chunks is None:
            raise LocalError("the answer is not open", code="flow-order")
        try:
            chunk = await anext(self._chunks, None)
        except httpx2.HTTPError as error:
            raise within_answer(error) from error
        if chunk is None:
            self._opening.finish()
            return False
        self._ready += self._opening.feed(chunk)
        return True

    async def _use_up(self) -> None:
        """Take in the end of the HTTP body, so that the connection can serve again; not for long, and unread."""
        taken = 0
        with anyio.move_on_after(DRAIN_SECONDS):
            try:
                async for chunk in self._response.stream:  # type: ignore[union-attr]
                    taken += len(chunk)
                    if taken > MAX_DRAIN:
                        return
            except httpx2.HTTPError:
                return


def _step(flow: ExchangeFlow, reply: Reply | list[Accepted]) -> tuple[NeedCandidates | Post | Drain, Exchange | None]:
    """One step of a flow; its end comes as a value, since StopIteration does not cross threads."""
    try:
        return flow.send(reply), None
    except StopIteration as done:
        exchange: Exchange = done.value
        return Drain(0), exchange


def _verify_step(flow: VerifyFlow, reply: Reply) -> Get | list[NodeVerdict]:
    """What verification wants next, or its result."""
    try:
        return flow.send(reply)
    except StopIteration as done:
        verdicts: list[NodeVerdict] = done.value
        return verdicts


async def _apieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _aclose(response: httpx2.Response) -> None:
    """Close also when this task is being cancelled: an open stream would keep a node busy."""
    with anyio.CancelScope(shield=True):
        await response.aclose()


async def _read(response: httpx2.Response, limit: int) -> bytes:
    """At most `limit` + 1 bytes of the body, enough to see that there are too many."""
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > limit:
            break
    return bytes(data[: limit + 1])
