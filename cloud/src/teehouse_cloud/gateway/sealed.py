# SPDX-License-Identifier: Apache-2.0
"""`POST /sealed/v1/{endpoint}`: check who asks, read the clear header, choose a node, copy bytes both ways.

The gateway reads what the header says in clear and nothing else; envelopes and body are bytes to it. Until the first
answer byte it may ask one candidate after another (PROTOCOL §5); after it, a lost node is shown to the client as a cut
stream, never as an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp

from teehouse_cloud.errors import ClientGone, DatabaseError, UpstreamFailed, UpstreamLost
from teehouse_cloud.gateway.accounts import Accounts
from teehouse_cloud.gateway.asgi import Headers, Receive, Refusal, Scope, Send, abort, header, request_id, send_refusal
from teehouse_cloud.gateway.fleet import Fleet, NodeView
from teehouse_cloud.gateway.intake import Intake
from teehouse_cloud.gateway.limits import BodyBudget, RateLimit, Slots
from teehouse_cloud.gateway.metrics import Metrics
from teehouse_cloud.gateway.once import RelayOnce
from teehouse_cloud.gateway.poller import Poller
from teehouse_cloud.gateway.upstream import RETRYABLE, Answer, NodeProblem, Progress, SealedRequest, ask, copy
from teehouse_cloud.logs import get_logger
from teehouse_cloud.settings import Settings
from teehouse_core.errors import MalformedError
from teehouse_core.wire.frame import MAX_FRAME, REQUEST_TYPE
from teehouse_core.wire.header import RequestHeader
from teehouse_core.wire.problem import PROBLEM_TYPE

__all__ = ["SealedDoor"]

CLIENT_GONE = 499  # status in logs and metrics when nobody was left to answer; never on the wire
RETRY_SECONDS = 1  # Retry-After of our own 503: nodes are polled once a second
MAX_ACCEPT = 256  # bytes of the client's Accept that are passed on
# Which refusal tells the client most, when every candidate refused in its own way.
_TELLING = ("over-limit", "unknown-key", "unavailable")


@dataclass(slots=True)
class _Call:
    """What is counted and logged of one request. Holds no content."""

    rid: str
    endpoint: str = ""  # "" until it is known to exist: labels and logs take no free text from clients
    account: str = ""
    status: int = 0
    bytes_in: int = 0
    cut: str = ""
    started: float = field(default_factory=time.monotonic)
    progress: Progress = field(default_factory=Progress)


class SealedDoor:
    """The data plane's bare ASGI callable; one instance serves all endpoints."""

    def __init__(
        self,
        settings: Settings,
        accounts: Accounts,
        fleet: Fleet,
        poller: Poller,
        session: aiohttp.ClientSession,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._fleet = fleet
        self._poller = poller
        self._session = session
        self._metrics = metrics
        self._rate = RateLimit(settings.key_rpm)
        self._slots = Slots(settings.key_streams)
        self._budget = BodyBudget(settings.inflight_body_bytes, MAX_FRAME)
        self._once = RelayOnce()
        self._open: dict[Progress, asyncio.Task[None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send, endpoint: str) -> None:
        """Answer one request; every outcome is logged and counted once."""
        call = _Call(rid=request_id(scope))
        self._metrics.in_flight.inc()
        intake = Intake(receive)
        try:
            try:
                await self._admit(scope, receive, send, endpoint, call, intake)
            except MalformedError:
                raise Refusal("malformed") from None
            except DatabaseError as exc:
                get_logger().error("database-failed", code=exc.code)
                raise Refusal("unavailable", retry_after=RETRY_SECONDS) from None
        except Refusal as refusal:
            call.status = refusal.status
            call.progress.sent = await send_refusal(receive, send, refusal, call.rid, body_ended=intake.ended)
        except ClientGone:
            call.status = call.status or CLIENT_GONE
        finally:
            self._metrics.in_flight.dec()
            call.bytes_in = intake.size
            self._account_for(call)

    async def _admit(
        self, scope: Scope, receive: Receive, send: Send, endpoint: str, call: _Call, intake: Intake
    ) -> None:
        """Who, where, how often; then read and relay. Raises `Refusal`, `MalformedError`, `ClientGone`."""
        if scope["http_version"] == "1.0":
            # no chunked coding there: a cut stream would look like a finished one
            raise Refusal("unavailable", status=505)
        account = await self._accounts.authenticate(scope)
        call.account = account.id
        if not await self._fleet.has_endpoint(endpoint):
            raise Refusal("unavailable", status=404, reason="endpoint-unknown")
        call.endpoint = endpoint
        if not account.may_use(endpoint):
            raise Refusal("unavailable", status=403, reason="endpoint-forbidden")
        if wait := self._rate.hit(account.id):
            raise Refusal("over-limit", retry_after=wait)
        if not self._slots.take(account.id):
            raise Refusal("over-limit", retry_after=RETRY_SECONDS)
        try:
            await self._take_in(scope, receive, send, call, intake)
        finally:
            self._slots.give(account.id)

    async def _take_in(self, scope: Scope, receive: Receive, send: Send, call: _Call, intake: Intake) -> None:
        """Header, decision, body, relay."""
        kind = header(scope, b"content-type") or b""
        if kind.split(b";", 1)[0].strip().lower() != REQUEST_TYPE.encode():
            raise Refusal("malformed")
        patience = asyncio.get_running_loop().time() + self._settings.body_seconds
        async with _within(patience):
            head, length = await intake.read_header(header(scope, b"content-length"))
        if head.endpoint != call.endpoint:
            raise Refusal("malformed")
        if head.account != call.account:
            raise Refusal("unavailable", status=403, reason="account-mismatch")
        if code := self._budget.room_for(call.account, length):
            raise Refusal(code, retry_after=RETRY_SECONDS)
        self._budget.take(call.account, length)
        self._metrics.body_bytes.set(self._budget.held)
        try:
            nodes = await self._choose(head)
            async with _within(patience):
                await intake.read_rest(length)
            request = SealedRequest(intake.chunks, length, _accept(scope), call.rid)
            if code := self._once.claim(head.account, head.request_id, head.attempt, time.monotonic()):
                raise Refusal(code)
            await self._relay(scope, receive, send, call, head, nodes, request)
        finally:
            self._budget.give(call.account, length)
            self._metrics.body_bytes.set(self._budget.held)

    async def _choose(self, head: RequestHeader) -> list[NodeView]:
        """Nodes to ask, in order. Raises `Refusal` unknown-key or unavailable."""
        keysets = [candidate.keyset_sha256 for candidate in head.candidates]
        nodes = self._fleet.holders(head.endpoint, keysets)
        if not nodes:
            await self._poller.poll_now(head.endpoint)
            nodes = self._fleet.holders(head.endpoint, keysets)
        if not nodes:
            raise self._nobody(head)
        return nodes

    def _nobody(self, head: RequestHeader) -> Refusal:
        """No candidate can answer: send the client for new evidence when that can help, else ask for patience."""
        keysets = [candidate.keyset_sha256 for candidate in head.candidates]
        if self._fleet.ready(head.endpoint) or not self._fleet.known_holder(head.endpoint, keysets):
            return Refusal("unknown-key")
        return Refusal("unavailable", retry_after=RETRY_SECONDS)

    async def _relay(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        call: _Call,
        head: RequestHeader,
        nodes: list[NodeView],
        request: SealedRequest,
    ) -> None:
        """Run the exchange while watching for the client to leave; if it does, the node is told at once."""
        work = asyncio.create_task(self._exchange(send, call, head, nodes, request))
        gone = asyncio.create_task(_until_gone(receive))
        self._open[call.progress] = work
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                if work.cancelled():
                    call.cut = "client-stalled"
                    abort(scope)  # closing would wait for the client to take what is buffered
                    raise ClientGone("client took no bytes", code="client-stalled")
                work.result()
            else:
                call.cut = "client-gone"
                raise ClientGone("client left", code="client-gone")
        finally:
            del self._open[call.progress]
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _exchange(
        self, send: Send, call: _Call, head: RequestHeader, nodes: list[NodeView], request: SealedRequest
    ) -> None:
        """Ask candidates until one answers, then copy. Raises `Refusal` when none does."""
        started = time.monotonic()
        problems: dict[str, NodeProblem] = {}
        for node in nodes:
            node.in_flight += 1
            try:
                try:
                    answer = await ask(self._session, node, request, self._settings)
                except UpstreamFailed as exc:
                    self._metrics.upstream_failures.labels(call.endpoint, exc.code).inc()
                    self._poller.suspect(node)
                    continue
                if isinstance(answer, NodeProblem):
                    if answer.code not in RETRYABLE:
                        await _pass_problem(send, call, answer)
                        return
                    self._metrics.upstream_failures.labels(call.endpoint, answer.code).inc()
                    problems[answer.code] = answer
                    continue
                self._metrics.first_byte.labels(call.endpoint).observe(time.monotonic() - started)
                await self._copy(send, call, node, answer)
                return
            finally:
                node.in_flight -= 1
        for code in _TELLING:
            if code in problems:
                if code == "unknown-key":
                    self._once.answered_unknown_key(head.account, head.request_id)
                await _pass_problem(send, call, problems[code])
                return
        refusal = self._nobody(head)
        if refusal.code == "unknown-key":
            self._once.answered_unknown_key(head.account, head.request_id)
        raise refusal

    async def _copy(self, send: Send, call: _Call, node: NodeView, answer: Answer) -> None:
        call.status = 200
        try:
            headers = [*answer.headers, (b"x-request-id", call.rid.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await copy(answer, send, call.progress)
        except UpstreamLost as exc:
            # The response stays unfinished: the server closes the connection without the last chunk or byte.
            call.cut = f"node-{exc.code}"
            self._poller.suspect(node)
            return
        finally:
            answer.close()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def watch_stalls(self) -> None:
        """Free streams whose client has taken no byte for too long. Runs until cancelled."""
        while True:
            await asyncio.sleep(min(5.0, self._settings.stall_seconds))
            limit = time.monotonic() - self._settings.stall_seconds
            for progress, work in list(self._open.items()):
                if progress.waiting_since and progress.waiting_since < limit:
                    work.cancel()

    def _account_for(self, call: _Call) -> None:
        seconds = time.monotonic() - call.started
        label = call.endpoint
        self._metrics.requests.labels(label, str(call.status)).inc()
        self._metrics.bytes.labels(label, "in").inc(call.bytes_in)
        self._metrics.bytes.labels(label, "out").inc(call.progress.sent)
        if call.cut:
            self._metrics.truncated.labels(label, call.cut).inc()
        get_logger().info(
            "sealed",
            request_id=call.rid,
            endpoint=label,
            account=call.account,
            status=call.status,
            bytes_in=call.bytes_in,
            bytes_out=call.progress.sent,
            seconds=round(seconds, 4),
            cut=call.cut,
        )


@contextlib.asynccontextmanager
async def _within(deadline: float) -> AsyncIterator[None]:
    """Loop time by which the client must have sent what is awaited. Raises `Refusal` 408."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise Refusal("unavailable", status=408) from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _accept(scope: Scope) -> str | None:
    value = header(scope, b"accept")
    if not value or len(value) > MAX_ACCEPT:
        return None
    text = value.decode("latin-1")
    return text if text.isascii() and text.isprintable() else None


async def _pass_problem(send: Send, call: _Call, problem: NodeProblem) -> None:
    """A node's refusal, byte for byte."""
    call.status = problem.status
    headers: Headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(problem.body)).encode()),
        (b"cache-control", b"no-store, no-transform"),
        (b"x-request-id", call.rid.encode()),
    ]
    if problem.retry_after is not None:
        headers.append((b"retry-after", problem.retry_after.encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": problem.body, "more_body": False})
    call.progress.sent = len(problem.body)
