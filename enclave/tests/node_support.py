# SPDX-License-Identifier: Apache-2.0
"""A node on loopback, in this process or its own, and a client that drives it with the real sealed/1 machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Accepted
from teehouse_core.seal.client import AnswerBody, AnswerEnd, AnswerHead, ResponseOpener, SealedRequest, seal_request
from teehouse_core.seal.inner import InnerOptions
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import REQUEST_TYPE
from teehouse_core.wire.keyset import Capabilities, Model, Software
from teehouse_enclave.engine.base import EngineInfo
from teehouse_enclave.node.app import NodeApp
from teehouse_enclave.node.config import Limits
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.exchange import Room
from teehouse_enclave.node.keys import Identity, NodeKeys
from teehouse_enclave.node.usage import UsageRing
from teehouse_enclave.platform.base import InsecurePlatformWarning, measure_workload
from teehouse_enclave.platform.simulated import SimulatedPlatform

ENDPOINT = "ep-20260101000000-tests"
ACCOUNT = "00112233445566ff"


def chunk(text: str | None = None, **extra: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": extra.pop("finish", None)}],
        **extra,
    }


LAST = {**chunk(), "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}}


@dataclass
class ScriptedEngine:
    """Plays a list of steps: a dictionary is a chunk, a number a pause in seconds, an exception is raised."""

    steps: list[Any]
    repeat: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tenants: list[bytes] = field(default_factory=list)
    running: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> EngineInfo:
        return EngineInfo("scripted", "1", "scripted", "ab" * 32, 128, frozenset({"text"}), frozenset())

    async def ready(self) -> Mapping[str, bool]:
        return {"all": True}

    async def chat(
        self, body: dict[str, Any], *, tenant: bytes, request_id: str
    ) -> AsyncGenerator[dict[str, Any], None]:
        self.bodies.append(body)
        self.tenants.append(tenant)
        self.running += 1
        try:
            while True:
                for step in self.steps:
                    if isinstance(step, dict):
                        yield dict(step)
                    elif isinstance(step, BaseException):
                        raise step
                    else:
                        await asyncio.sleep(step)
                if not self.repeat:
                    return
        finally:
            self.running -= 1
            self.closed.set()

    async def close(self) -> None:
        return


@dataclass
class Node:
    """A node under test and the keys, clock and app behind it."""

    url: str
    app: NodeApp
    keys: NodeKeys
    http: httpx2.AsyncClient
    shift: list[int]

    async def accept(self, **changes: Any) -> Accepted:
        nonce = secrets.token_bytes(32)
        response = await self.http.get(f"{self.url}/v1/evidence", params={"challenge": b64u(nonce)})
        assert response.status_code == 200
        verdict = appraise(
            response.content,
            changes.get("policy", Policy.preset("evaluate")),
            int(time.time()) + self.shift[0],
            endpoint=ENDPOINT,
            nonce=nonce,
        )
        return verdict.accept()

    def seal(self, accepted: Accepted, body: Any, **changes: Any) -> SealedRequest:
        content = body if isinstance(body, bytes) else json.dumps({"model": ENDPOINT, **body}).encode()
        arguments: dict[str, Any] = {
            "endpoint": ENDPOINT,
            "op": "chat.completions",
            "content": content,
            "account": ACCOUNT,
            "now": int(time.time()) + self.shift[0],
            "random": secrets.token_bytes,
            "cache_secret": b"c" * 32,
            **changes,
        }
        return seal_request([accepted], **arguments)

    async def post(self, frame: bytes, **headers: str) -> httpx2.Response:
        return await self.http.post(
            f"{self.url}/sealed/v1/{ENDPOINT}", content=frame, headers={"content-type": REQUEST_TYPE, **headers}
        )

    async def ask(
        self, body: Any, *, armored: bool = False, options: InnerOptions | None = None, accepted: Accepted | None = None
    ) -> Reply:
        request = self.seal(accepted or await self.accept(), body, options=options)
        reply = Reply()
        opener = ResponseOpener(request, armored=armored)
        headers = {"content-type": REQUEST_TYPE, **({"accept": "text/event-stream"} if armored else {})}
        async with self.http.stream(
            "POST", f"{self.url}/sealed/v1/{ENDPOINT}", content=request.frame, headers=headers
        ) as response:
            assert response.status_code == 200, await response.aread()
            async for data in response.aiter_raw():
                reply.raw.append(data)
                for event in opener.feed(data):
                    reply.take(event)
        opener.end()
        return reply


@dataclass
class Reply:
    raw: list[bytes] = field(default_factory=list)
    status: int = 0
    pieces: list[bytes] = field(default_factory=list)
    end: AnswerEnd | None = None

    def take(self, event: AnswerHead | AnswerBody | AnswerEnd) -> None:
        if isinstance(event, AnswerHead):
            self.status = event.status
        elif isinstance(event, AnswerBody):
            self.pieces.append(event.data)
        else:
            self.end = event

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def texts(self) -> str:
        """The streamed content joined."""
        events = [json.loads(line[6:]) for line in self.body.split(b"\n\n") if line]
        return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices"))


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def running_node(engine: Any, **limits: int) -> AsyncIterator[Node]:
    """A node with `engine` behind real HTTP on loopback; `shift[0]` moves its clock by seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecurePlatformWarning)
        platform = SimulatedPlatform()
    info = await engine.start()
    measured = {"release": "test", "image_sha256": "cd" * 32, "config_sha256": "ef" * 32}
    measure_workload(platform, **measured, weights_sha256=info.weights_sha256, model=info.model)
    identity = Identity(
        ENDPOINT,
        "node-t",
        Model(info.model, info.weights_sha256),
        Software(measured["release"], measured["image_sha256"], measured["config_sha256"]),
        Capabilities("none", "none", "none", ()),
    )
    shift = [0]

    def now() -> int:
        return int(time.time()) + shift[0]

    ceilings = Limits.parse(limits)
    keys = NodeKeys(identity, ceilings, now())
    room = Room(engine, info.model, keys, UsageRing("b" * 32), now)
    app = NodeApp(room, EvidenceMaker(platform, ceilings.evidence_per_second), ceilings, boot="b" * 32)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, http="httptools")
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        async with httpx2.AsyncClient(timeout=30) as http:
            yield Node(f"http://127.0.0.1:{listener.getsockname()[1]}", app, keys, http, shift)
    finally:
        server.should_exit = True
        await task
        listener.close()
