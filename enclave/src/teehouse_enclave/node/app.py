# SPDX-License-Identifier: Apache-2.0
"""The node's HTTP surface as one bare ASGI callable: evidence, sealed requests, health, usage, metrics.

Before a request is open, all that leaves is a code from the closed list of `teehouse_core.wire.problem`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from teehouse_core.errors import MalformedError, OperatorError, RequestRefused
from teehouse_core.seal.node import OpenedRequest, open_request
from teehouse_core.seal.replay import SeenSet
from teehouse_core.wire.armor import EVENT_STREAM
from teehouse_core.wire.canonical import unb64u
from teehouse_core.wire.frame import EVIDENCE_TYPE, MAX_FRAME, REQUEST_TYPE, RESPONSE_TYPE
from teehouse_core.wire.problem import CODES, PROBLEM_TYPE, problem_body
from teehouse_enclave.node.config import Limits
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.exchange import Exchange, Room
from teehouse_enclave.node.ledger import LedgerEvidence
from teehouse_enclave.node.log import log_event
from teehouse_enclave.node.pool import PoolKeys

__all__ = ["NodeApp"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_THREADED = 1 << 20  # bytes of frame above which opening leaves the event loop, so that streams do not stutter
_BODY_TIMEOUT = 60.0  # seconds a caller may take to send its request


class NodeApp:
    """One node's doors. `draining` refuses new requests while those under way end."""

    def __init__(
        self,
        room: Room,
        evidence: EvidenceMaker,
        limits: Limits,
        *,
        boot: str,
        pool: PoolKeys | None = None,
        ledger: LedgerEvidence | None = None,
    ) -> None:
        self._room = room
        self._evidence = evidence
        self._limits = limits
        self._boot = boot
        self._pool = pool
        self._ledger = ledger
        self._seen = SeenSet(limits.seen_capacity)
        self._inflight = 0
        self._counts: dict[str, int] = {}
        self.active = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if method == "POST" and path.startswith("/sealed/v1/"):
            await self._sealed(scope, receive, send)
        elif method == "GET" and path == "/v1/evidence":
            await self._get_evidence(scope, send)
        elif method == "GET" and path == "/v1/evidence/cached":
            await self._get_cached(send)
        elif method == "GET" and path == "/readyz":
            await self._ready(send)
        elif method == "GET" and path == "/healthz":
            await _reply(send, 200, {"status": "ok"})
        elif method == "GET" and path == "/v1/usage":
            await self._get_usage(scope, send)
        elif method == "GET" and path == "/metrics":
            await _raw(send, 200, b"text/plain; version=0.0.4", self._metrics())
        else:
            # Clear-text chat requests end here too: this node has no path that would read one.
            await _raw(send, 404, PROBLEM_TYPE.encode(), problem_body("unavailable", status=404))

    async def _get_evidence(self, scope: Scope, send: Send) -> None:
        try:
            value = unb64u(_query(scope, "challenge"), 32)
            bundle = self._evidence.bundle(self._room.keys.keyset, value, time.monotonic())
        except MalformedError:
            await self._problem(send, "malformed")
        except OperatorError as error:
            await self._problem(send, error.wire_code)
        else:
            await _raw(send, 200, EVIDENCE_TYPE.encode(), bundle)

    async def _get_cached(self, send: Send) -> None:
        """Evidence over a ledger checkpoint, made before anybody asked."""
        bundle = self._ledger.current if self._ledger is not None else None
        if bundle is None:
            await _raw(send, 404, PROBLEM_TYPE.encode(), problem_body("unavailable", status=404))
        else:
            await _raw(send, 200, EVIDENCE_TYPE.encode(), bundle)

    async def _ready(self, send: Send) -> None:
        parts = await self._room.engine.ready()
        ready = not self.draining and all(parts.values())
        keyset = self._room.keys.keyset
        document = {
            "node": keyset.node,
            "endpoint": keyset.endpoint,
            "ready": ready,
            "draining": self.draining,
            "active": self.active,
            "keysets": self._room.keys.ring.keysets(self._room.now()),
            "boot": self._boot,
        }
        await _reply(send, 200 if ready else 503, document)

    async def _get_usage(self, scope: Scope, send: Send) -> None:
        after = _query(scope, "after") or "0"
        if not (after.isascii() and after.isdigit() and len(after) <= 15):
            await self._problem(send, "malformed")
            return
        await _reply(send, 200, self._room.usage.after(int(after)))

    def _metrics(self) -> bytes:
        lines = ["# TYPE teehouse_node_requests_total counter"]
        lines += [f'teehouse_node_requests_total{{code="{code}"}} {n}' for code, n in sorted(self._counts.items())]
        lines += ["# TYPE teehouse_node_active gauge", f"teehouse_node_active {self.active}"]
        lines += ["# TYPE teehouse_node_replay_entries gauge", f"teehouse_node_replay_entries {len(self._seen)}"]
        if self._pool is not None:
            lines += ["# TYPE teehouse_node_pool_held gauge", f"teehouse_node_pool_held {int(self._pool.held)}"]
            lines += ["# TYPE teehouse_node_pool_failures gauge", f"teehouse_node_pool_failures {self._pool.failures}"]
        if self._ledger is not None:
            lines += ["# TYPE teehouse_node_ledger_failures gauge"]
            lines += [f"teehouse_node_ledger_failures {self._ledger.failures}"]
        return ("\n".join(lines) + "\n").encode("ascii")

    def _count(self, code: str) -> None:
        self._counts[code] = self._counts.get(code, 0) + 1

    async def _problem(self, send: Send, code: str) -> None:
        self._count(code)
        extra = [(b"retry-after", b"1")] if CODES[code] in (429, 503) else []
        await _raw(send, CODES[code], PROBLEM_TYPE.encode(), problem_body(code), extra)

    async def _sealed(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        if headers.get(b"content-type") != REQUEST_TYPE.encode() or not (length.isdigit() and len(length) <= 9):
            await self._problem(send, "malformed")
            return
        size = int(length)
        if size > MAX_FRAME:
            await self._problem(send, "malformed")
            return
        if self.draining:
            await self._problem(send, "unavailable")
            return
        if self.active >= self._limits.max_active or self._inflight + size > self._limits.max_inflight_bytes:
            await self._problem(send, "over-limit")
            return
        self.active += 1
        self._inflight += size
        try:
            frame = await _read(receive, size)
            if frame is None:
                await self._problem(send, "malformed")
                return
            opened = await self._open(frame, send)
            del frame
            if opened is not None:
                armored = EVENT_STREAM.encode() in headers.get(b"accept", b"")
                await self._answer(opened, armored, receive, send)
        finally:
            self.active -= 1
            self._inflight -= size

    async def _open(self, frame: bytes, send: Send) -> OpenedRequest | None:
        room = self._room

        def run() -> OpenedRequest:
            return open_request(
                frame, endpoint=room.keys.keyset.endpoint, keyring=room.keys.ring, seen=self._seen, now=room.now()
            )

        try:
            return run() if len(frame) < _THREADED else await asyncio.to_thread(run)
        except (MalformedError, RequestRefused, OperatorError) as error:
            log_event("request-refused", code=error.code)
            await self._problem(send, error.wire_code)
            return None

    async def _answer(self, opened: OpenedRequest, armored: bool, receive: Receive, send: Send) -> None:
        """Run the exchange until its end, or until the caller is gone: then the engine is stopped at once."""
        started = False

        async def forward(data: bytes) -> None:
            nonlocal started
            if not started:
                started = True
                kind = EVENT_STREAM if armored else RESPONSE_TYPE
                await send(
                    {
                        "type": "http.response.start",
                        "status": 200,
                        "headers": [
                            (b"content-type", kind.encode()),
                            (b"cache-control", b"no-store, no-transform"),
                            (b"x-accel-buffering", b"no"),
                        ],
                    }
                )
            await send({"type": "http.response.body", "body": data, "more_body": True})

        exchange = asyncio.create_task(Exchange(self._room, opened, armored=armored).run(forward))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({exchange, gone}, return_when=asyncio.FIRST_COMPLETED)
            if exchange.done():
                exchange.result()
                self._count("ok")
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                self._count("client-left")
                log_event("client-left")
        finally:
            for task in (exchange, gone):
                task.cancel()
            for task in (exchange, gone):
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive, size: int) -> bytes | None:
    """Exactly `size` bytes of request body, or None when they do not come."""
    parts, got = [], 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                parts.append(message.get("body", b""))
                got += len(parts[-1])
                if got > size:
                    return None
                if not message.get("more_body", False):
                    return b"".join(parts) if got == size else None
    except TimeoutError:
        return None


def _query(scope: Scope, name: str) -> str:
    text: str = scope["query_string"].decode("latin-1")
    try:
        return parse_qs(text, max_num_fields=8).get(name, [""])[0]
    except ValueError:  # more fields than any caller of ours sends
        return ""


async def _reply(send: Send, status: int, document: dict[str, Any]) -> None:
    await _raw(send, status, b"application/json", json.dumps(document, separators=(",", ":")).encode("ascii"))


async def _raw(
    send: Send, status: int, content_type: bytes, body: bytes, extra: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *(extra or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
