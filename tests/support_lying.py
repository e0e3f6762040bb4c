# SPDX-License-Identifier: Apache-2.0
"""`LyingOutside`: a gateway that implements the real HTTP interface and lies in one chosen way.

It sits between a client and an honest gateway. What it does to evidence, requests and answers are plain functions over
bytes, so a test reads as one sentence: this lie, that refusal.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn

RESPONSE_TYPE = "application/vnd.teehouse.sealed-response"


@dataclass(frozen=True)
class Answer:
    """What the lying gateway answers. `cut`: break the connection after the body instead of ending it."""

    body: bytes
    status: int = 200
    content_type: str = RESPONSE_TYPE
    cut: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Context:
    """What a lie can see and use: the honest gateway, and everything that passed before."""

    http: httpx2.AsyncClient
    gateway: str
    requests: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    bundles: list[bytes] = field(default_factory=list)
    authorization: str = ""

    async def forward(self, path: str, frame: bytes) -> bytes:
        """Send a frame to the honest gateway and give the sealed answer."""
        headers = {"content-type": "application/vnd.teehouse.sealed-request", "authorization": self.authorization}
        response = await self.http.post(self.gateway + path, content=frame, headers=headers)
        return response.content if response.status_code == 200 else b""

    async def evidence(self, path: str, challenge: str, count: int = 4) -> list[bytes]:
        url = f"{self.gateway}{path}?challenge={challenge}&n={count}"
        document = (await self.http.get(url)).json()
        return [base64.b64decode(one) for one in document["bundles"]]


Evidence = Callable[[list[bytes], str, Context], "list[bytes] | Answer | Awaitable[list[bytes] | Answer]"]
Request = Callable[[bytes, Context], "bytes | Awaitable[bytes]"]
Response = Callable[[bytes, Context], "bytes | Answer | Awaitable[bytes | Answer]"]


@dataclass(frozen=True)
class Lie:
    """One way of lying; what is None is relayed honestly."""

    evidence: Evidence | None = None
    request: Request | None = None
    response: Response | None = None


HONEST = Lie()


async def _now(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


class LyingOutside:
    """Start as a context; set `lie` before each client call."""

    def __init__(self, gateway: str) -> None:
        self.lie = HONEST
        self._gateway = gateway
        self.context: Context
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(self, lifespan="off", log_config=None, access_log=False, http="h11")
        config.timeout_graceful_shutdown = 5
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),))

    async def _run(self) -> None:
        async with httpx2.AsyncClient(timeout=30) as http:
            self.context = Context(http, self._gateway)
            await self._server.serve([self._listener])

    def __enter__(self) -> LyingOutside:
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        path = scope["path"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if path.endswith("/evidence"):
            answer = await self._evidence(path, scope["query_string"].decode())
        else:
            self.context.authorization = headers.get("authorization", "")
            body = b"".join([piece async for piece in _body(receive)])
            answer = await self._sealed(path, body)
        out = [(b"content-type", answer.content_type.encode())]
        out += [(name.encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": out})
        await send({"type": "http.response.body", "body": answer.body, "more_body": True})
        if answer.cut:
            raise ConnectionAbortedError  # uvicorn closes the socket without the last chunk
        await send({"type": "http.response.body", "body": b""})

    async def _evidence(self, path: str, query: str) -> Answer:
        parts = dict(part.split("=", 1) for part in query.split("&"))
        bundles = await self.context.evidence(path, parts["challenge"], int(parts.get("n", "2")))
        self.context.bundles += bundles
        if self.lie.evidence is not None:
            told = await _now(self.lie.evidence(bundles, parts["challenge"], self.context))
            if isinstance(told, Answer):
                return told
            bundles = told
        endpoint = path.split("/")[3]
        document = {
            "v": "evidence-set/1",
            "endpoint": endpoint,
            "bundles": [base64.b64encode(one).decode() for one in bundles],
        }
        return Answer(json.dumps(document).encode(), content_type="application/json")

    async def _sealed(self, path: str, frame: bytes) -> Answer:
        self.context.requests.append(frame)
        if self.lie.request is not None:
            frame = await _now(self.lie.request(frame, self.context))
        headers = {
            "content-type": "application/vnd.teehouse.sealed-request",
            "authorization": self.context.authorization,
        }
        response = await self.context.http.post(self.context.gateway + path, content=frame, headers=headers)
        kind = response.headers["content-type"]
        if response.status_code != 200:
            return Answer(response.content, response.status_code, kind)
        self.context.answers.append(response.content)
        if self.lie.response is None:
            return Answer(response.content, content_type=kind)
        told = await _now(self.lie.response(response.content, self.context))
        return told if isinstance(told, Answer) else Answer(told)


async def _body(receive: Callable[[], Awaitable[Any]]) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


@contextlib.contextmanager
def lying_outside(gateway: str) -> Iterator[LyingOutside]:
    with LyingOutside(gateway) as outside:
        yield outside


def split_answer(sealed: bytes) -> tuple[bytes, list[bytes]]:
    """Prefix and records of a sealed answer, by their public framing."""
    prefix, at, records = sealed[:34], 34, []
    while at < len(sealed):
        (length,) = struct.unpack_from(">I", sealed, at + 1)
        records.append(sealed[at : at + 5 + length])
        at += 5 + length
    return prefix, records


def split_frame(frame: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    """Header as JSON, envelopes, body."""
    (length,) = struct.unpack_from(">I", frame, 5)
    header = json.loads(frame[9 : 9 + length])
    body_len = int(header["body_len"])
    return header, frame[9 + length : -body_len], frame[-body_len:]


def join_frame(header: dict[str, Any], envelopes: bytes, body: bytes) -> bytes:
    raw = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return b"TEEH\x01" + struct.pack(">I", len(raw)) + raw + envelopes + body
