# SPDX-License-Identifier: Apache-2.0
"""The witness over HTTP: `POST /add-checkpoint` (C2SP tlog-witness), `GET /newest`, `/healthz`, `/metrics`.

Bare ASGI. Decisions wait for a disk, so they run in threads; nobody is authenticated, as the protocol has it: what
counts is the log's signature on the checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

import anyio
from starlette.types import Receive, Scope, Send

from teehouse.witness.errors import OtherSize, StateError, WitnessRefusal
from teehouse.witness.state import State
from teehouse.witness.witness import Statement, Witness
from teehouse_core.errors import MalformedError
from teehouse_core.log.note import Signature
from teehouse_core.log.witness import MAX_ADD_CHECKPOINT, NONCE_SIZE
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.problem import PROBLEM_TYPE

__all__ = ["LOGGER", "WitnessApp"]

LOGGER: Final = logging.getLogger("teehouse.witness")
THREADS: Final = 8  # decisions at once; they take turns at the state anyway
BODY_SECONDS: Final = 20.0  # longest time a request may take to arrive
DRAIN: Final = 1024 * 1024  # bytes of a refused body that are read off, so that the refusal arrives
MAX_QUERY: Final = 1024  # bytes
_ROUTES: Final = {
    "/add-checkpoint": "POST",
    "/newest": "GET",
    "/healthz": "GET",
    "/metrics": "GET",
}
_TEXT: Final = "text/plain; charset=utf-8"
_HELP: Final = {
    "teehouse_witness_requests_total": "Requests by path and status",
    "teehouse_witness_refusals_total": "Checkpoints that were not cosigned, by reason",
    "teehouse_witness_cosigned_total": "Checkpoints cosigned",
    "teehouse_witness_statements_total": "Statements of the newest checkpoint signed",
}


class _Answer(Exception):  # noqa: N818  an answer, not a fault
    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        super().__init__(status)
        self.status, self.content_type, self.body = status, content_type, body


class WitnessApp:
    """ASGI callable over one `Witness`."""

    def __init__(self, witness: Witness, state: State, clock: Callable[[], float] = time.time) -> None:
        self._witness = witness
        self._state = state
        self._clock = clock
        self._threads = anyio.CapacityLimiter(THREADS)
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["path"] in _ROUTES else ""
        body = _Body(receive)
        try:
            answer = await self._route(path, scope, body)
        except _Answer as refusal:
            answer = refusal
        except _Gone:
            return
        self._count("teehouse_witness_requests_total", path=path, code=str(answer.status))
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        unread = scope["method"] == "POST" and not body.ended
        if unread:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": unread})
        if unread:
            await body.drain()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _route(self, path: str, scope: Scope, body: _Body) -> _Answer:
        if not path:
            raise _problem(404, "not-found", "there is no such path")
        if scope["method"] != _ROUTES[path]:
            raise _problem(405, "method-not-allowed", f"use {_ROUTES[path]}")
        if path == "/healthz":
            return _json(200, {"status": "ok"})
        if path == "/metrics":
            return _Answer(200, "text/plain; version=0.0.4; charset=utf-8", await self._metrics())
        try:
            return await (self._add(body) if path == "/add-checkpoint" else self._newest(scope))
        except OtherSize as refusal:
            self._refused(refusal.code)
            raise _Answer(409, refusal.content_type, refusal.body) from None
        except WitnessRefusal as refusal:
            self._refused(refusal.code)
            raise _problem(refusal.status, refusal.code, refusal.message) from None
        except MalformedError as error:
            self._refused("malformed")
            raise _problem(400, "malformed", error.message) from None
        except StateError as error:
            self._refused(error.code)
            LOGGER.error("state-failed", extra={"fields": {"code": error.code}})
            raise _problem(503, error.code, "the witness cannot store, so it does not sign") from None

    async def _add(self, body: _Body) -> _Answer:
        data = await body.read()
        signature: Signature = await self._decide(self._witness.add_checkpoint, data)
        self._count("teehouse_witness_cosigned_total")
        return _Answer(200, _TEXT, signature.line().encode())

    async def _newest(self, scope: Scope) -> _Answer:
        query = _query(scope)
        nonce = unb64u(query["nonce"], NONCE_SIZE)
        statement: Statement = await self._decide(self._witness.newest, query["origin"], nonce)
        self._count("teehouse_witness_statements_total")
        return _json(200, {"statement": b64u(statement.statement), "sig": b64u(statement.sig)})

    async def _decide(self, decide: Callable[..., Any], *given: Any) -> Any:
        # not cancellable: a decision that is stored is also answered, or at least ended in order
        return await anyio.to_thread.run_sync(partial(decide, *given, int(self._clock())), limiter=self._threads)

    async def _metrics(self) -> bytes:
        lines: list[str] = []
        for name, text in _HELP.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} counter"]
            found = {labels: count for (of, labels), count in sorted(self._counts.items()) if of == name}
            for labels, count in (found or {(): 0}).items():
                shown = ",".join(f'{label}="{value}"' for label, value in labels)
                lines.append(f"{name}{{{shown}}} {count}" if shown else f"{name} {count}")
        try:
            origins = await anyio.to_thread.run_sync(self._state.count, limiter=self._threads)
            name = "teehouse_witness_origins"
            lines += [f"# HELP {name} Logs with a cosigned checkpoint", f"# TYPE {name} gauge", f"{name} {origins}"]
        except StateError:
            LOGGER.error("state-failed", extra={"fields": {"code": "state"}})
        return ("\n".join(lines) + "\n").encode()

    def _refused(self, reason: str) -> None:
        self._count("teehouse_witness_refusals_total", reason=reason)
        if reason in ("fork", "proof"):  # a log that signs what does not hold together: somebody should look
            LOGGER.warning("log-misbehaves", extra={"fields": {"reason": reason}})

    def _count(self, name: str, **labels: str) -> None:
        self._counts[name, tuple(sorted(labels.items()))] += 1


class _Gone(Exception):  # noqa: N818  nobody is left to tell
    pass


class _Body:
    """A request body, read when it is wanted."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read(self) -> bytes:
        """At most MAX_ADD_CHECKPOINT bytes. Raises `_Answer` 413, 408, `_Gone`."""
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not self.ended:
                    data += await self._more()
                    if len(data) > MAX_ADD_CHECKPOINT:
                        raise _problem(413, "too-large", f"a request has at most {MAX_ADD_CHECKPOINT} bytes")
        except TimeoutError:
            raise _problem(408, "too-slow", "the request took too long to arrive") from None
        return bytes(data)

    async def drain(self) -> None:
        left = DRAIN
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not self.ended and left > 0:
                    left -= len(await self._more())
        except (TimeoutError, _Gone):
            return

    async def _more(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        self.ended = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data


def _query(scope: Scope) -> dict[str, str]:
    """`origin` and `nonce`, each once. Raises MalformedError."""
    raw: bytes = scope["query_string"]
    try:
        found = parse_qs(raw.decode("ascii"), keep_blank_values=True, max_num_fields=4) if len(raw) <= MAX_QUERY else {}
    except ValueError:
        found = {}
    if set(found) != {"origin", "nonce"} or any(len(values) != 1 for values in found.values()):
        raise MalformedError("give origin and nonce, each once")
    return {name: values[0] for name, values in found.items()}


def _problem(status: int, code: str, detail: str) -> _Answer:
    document = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
    return _Answer(status, PROBLEM_TYPE, json.dumps(document).encode())


def _json(status: int, value: dict[str, Any]) -> _Answer:
    return _Answer(status, "application/json", json.dumps(value, separators=(",", ":")).encode())


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
