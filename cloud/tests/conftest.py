# SPDX-License-Identifier: Apache-2.0
"""A gateway on an ephemeral loopback port, in this process, with scripted nodes behind it. All HTTP is real."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from postgres_support import PostgresServer

from teehouse_cloud import logs
from teehouse_cloud.gateway.app import App, Gateway
from teehouse_cloud.server import GatewayServer
from teehouse_cloud.settings import Settings
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.endpoints import put_endpoint
from teehouse_cloud.store.keys import create_key
from teehouse_cloud.store.migrate import upgrade
from teehouse_cloud.store.nodes import put_node
from teehouse_cloud.store.operators import create_operator_token
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import EVIDENCE_TYPE, REQUEST_TYPE, RESPONSE_TYPE, RequestFrame, frame_prefix
from teehouse_core.wire.header import Candidate, RequestHeader
from teehouse_core.wire.problem import PROBLEM_TYPE, problem_body
from teehouse_core.wire.receipts import Usage, UsageRecord
from teehouse_core.wire.suites import DEFAULT_SUITE

ENDPOINT = "ep-20261101000000-abcde"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}  # as `teehouse-cloud serve` runs


def keyset_of(name: str) -> str:
    """A made-up keyset digest."""
    return hashlib.sha256(name.encode()).hexdigest()


class FakeNode:
    """A scripted peer that speaks the node's HTTP interface. It holds no key and opens nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.endpoint = ENDPOINT
        self.keysets = [keyset_of(name)]
        self.ready = True
        self.draining = False
        self.boot = "boot-1"
        self.requests: list[tuple[web.Request, bytes]] = []
        self.answer: Answer = self.stream(b"\x01\x00" + bytes(32), b"one", b"two", b"three")
        self.evidence: bytes | None = json.dumps({"v": "evidence/1", "node": name, "keyset": {"n": name}}).encode()
        self.evidence_status = 503
        self.challenges: list[str] = []
        self.usage: list[dict[str, Any]] = []
        self.usage_asked: list[int] = []
        self.polls = 0
        self.left = asyncio.Event()  # the gateway dropped a connection that an answer was running on
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        app = web.Application(client_max_size=128 << 20)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/v1/evidence", self._evidence)
        app.router.add_get("/v1/usage", self._usage)
        app.router.add_post("/sealed/v1/{endpoint}", self._sealed)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def stream(self, *chunks: bytes, pause: float = 0.0, then: str = "end") -> Answer:
        """A script: these chunks, then `end`, `abort` (connection reset) or `hang`."""

        async def run(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": RESPONSE_TYPE})
            response.enable_chunked_encoding()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
                await asyncio.sleep(pause)
            if then == "abort":
                request.transport.abort()  # type: ignore[union-attr]
            elif then == "hang":
                try:
                    await asyncio.sleep(60)
                finally:
                    self.left.set()
            return response

        return run

    def problem(self, code: str, status: int, **headers: str) -> Answer:
        async def run(_request: web.Request) -> web.StreamResponse:
            body = problem_body(code)
            return web.Response(body=body, status=status, headers={"Content-Type": PROBLEM_TYPE, **headers})

        return run

    async def refuse_connection(self, request: web.Request) -> web.StreamResponse:
        """A script: reset before any answer byte."""
        request.transport.abort()  # type: ignore[union-attr]
        return web.Response()

    def add_usage(self, seq: int, request_id: bytes, account: str = "00112233aabbccdd", tokens: int = 5) -> None:
        record = UsageRecord(
            kid="0" * 32,
            th=hashlib.sha256(request_id).digest(),
            request_id=b64u(request_id),
            account=account,
            keyset_sha256=self.keysets[0],
            usage=Usage(10, tokens, 0),
            status=200,
            finished_at=1_790_000_000,
        ).encode()
        self.usage.append({"seq": seq, "record": b64u(record), "sig": b64u(bytes(64))})

    async def _readyz(self, _request: web.Request) -> web.Response:
        self.polls += 1
        document = {
            "node": self.name,
            "endpoint": self.endpoint,
            "ready": self.ready,
            "draining": self.draining,
            "active": 0,
            "keysets": self.keysets,
            "boot": self.boot,
        }
        return web.json_response(document, status=200 if self.ready else 503)

    async def _evidence(self, request: web.Request) -> web.Response:
        self.challenges.append(request.query["challenge"])
        if self.evidence is None:
            code = {429: "over-limit"}.get(self.evidence_status, "unavailable")
            return web.Response(body=problem_body(code), status=self.evidence_status, content_type=PROBLEM_TYPE)
        return web.Response(body=self.evidence, content_type=EVIDENCE_TYPE)

    async def _usage(self, request: web.Request) -> web.Response:
        after = int(request.query["after"])
        self.usage_asked.append(after)
        records = [item for item in self.usage if item["seq"] > after]
        seqs = [item["seq"] for item in records]
        return web.json_response({"v": 1, "boot": self.boot, "next": max(seqs, default=after), "records": records})

    async def _sealed(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        return await self.answer(request)


class World:
    """The gateway under test and what stands around it."""

    def __init__(self, directory: Path, db_url: str) -> None:
        self.directory = directory
        self.db_url = db_url
        self.ready_file = directory / "ready.json"
        self.database = Database(db_url)
        self.nodes: list[FakeNode] = []
        self.log = io.StringIO()
        self.api_key = ""
        self.account = ""
        self.operator_token = ""
        self.url = ""
        self.app: App
        self._server: GatewayServer | None = None
        self._task: asyncio.Task[None] | None = None
        self.http: aiohttp.ClientSession

    @property
    def gateway(self) -> Gateway:
        assert self.app.gateway is not None
        return self.app.gateway

    async def setup(self) -> None:
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        await put_endpoint(self.database, ENDPOINT, "demo", 1)
        self.api_key, row = await create_key(self.database, "test", [ENDPOINT], 1)
        self.account = row.account
        self.operator_token = await create_operator_token(self.database, "test", 1)

    async def node(self, name: str = "node-a", *, register: bool = True) -> FakeNode:
        node = FakeNode(name)
        await node.start()
        self.nodes.append(node)
        if register:
            await put_node(self.database, name, ENDPOINT, node.url, 1)
        return node

    async def start(self, **overrides: Any) -> None:
        logs.configure("debug", self.log)
        values: dict[str, Any] = {"poll_seconds": 0.1, "usage_seconds": 0.1, "drain_seconds": 2.0, **overrides}
        settings = Settings(db=self.db_url, port=0, ready_file=self.ready_file, **values)
        self.app = App(settings, Database(self.db_url))
        self._server = GatewayServer(settings, self.app)
        self._task = asyncio.create_task(self._server.serve())
        await self.until(self.ready_file.exists)
        self.url = json.loads(self.ready_file.read_text())["url"]

    def begin_stop(self) -> None:
        """What SIGTERM does."""
        assert self._server is not None
        self._server.should_exit = True

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = None

    async def close(self) -> None:
        await self.http.close()
        for node in self.nodes:
            for request, _ in node.requests:
                if request.transport is not None:
                    request.transport.abort()
        await self.stop()
        for node in self.nodes:
            await node.stop()
        await self.database.close()

    @staticmethod
    async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            await asyncio.sleep(0.01)

    def header(self, *keysets: str, body_len: int = 40, **changes: Any) -> RequestHeader:
        values: dict[str, Any] = {
            "suite": DEFAULT_SUITE,
            "endpoint": ENDPOINT,
            "op": "chat.completions",
            "stream": True,
            "max_tokens_bucket": 0,
            "request_id": b64u(os.urandom(16)),
            "attempt": 0,
            "account": self.account,
            "sent_at": 1_790_000_000,
            "expires_at": 1_790_000_120,
            "body_len": body_len,
            "body_sha256": "0" * 64,
            "cek_commit": bytes(32),
            "candidates": tuple(Candidate(f"{i:032x}", sha, bytes(32)) for i, sha in enumerate(keysets)),
        }
        return RequestHeader(**{**values, **changes})

    def frame(self, *keysets: str, body_len: int = 40, **changes: Any) -> bytes:
        """A frame whose envelopes and body are random bytes: the gateway must not care."""
        header = self.header(*(keysets or (keyset_of("node-a"),)), body_len=body_len, **changes)
        encoded = header.encode()
        start = frame_prefix(encoded) + encoded
        return start + os.urandom(RequestFrame.length(header, len(encoded)) - len(start))

    def post(
        self, data: Any, *, endpoint: str = ENDPOINT, key: str | None = None, **headers: str
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        sent = {"Authorization": f"Bearer {key or self.api_key}", "Content-Type": REQUEST_TYPE, **headers}
        if isinstance(data, bytes) and len(data) > 1 << 20:
            data = io.BytesIO(data)
        return self.http.post(f"{self.url}/sealed/v1/{endpoint}", data=data, headers=sent)

    def operator(self, method: str, path: str, **kwargs: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.operator_token}"}
        return self.http.request(method, f"{self.url}/api/v1{path}", headers=headers, **kwargs)

    async def metric(self, name: str, **labels: str) -> float:
        if name != "teehouse_gateway_in_flight":
            await self.settled()
        async with self.http.get(f"{self.url}/metrics") as response:
            text = await response.text()
        total = 0.0
        for line in text.splitlines():
            if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    async def settled(self) -> None:
        """A client can have its answer a moment before the gateway has counted and logged it."""
        await self.until(lambda: not self.gateway.metrics.in_flight._value.get())

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture(scope="session")
def template_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest revision; each test works on a copy."""
    path = tmp_path_factory.mktemp("db") / "template.db"

    async def make() -> None:
        database = Database(f"sqlite:///{path}", create=True)
        await upgrade(database)
        await database.close()

    asyncio.run(make())
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of our own, started when the first test asks for it."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """Name of a database at the newest revision; each test works on a copy."""
    postgres.sql("CREATE DATABASE template_teehouse TEMPLATE template0")

    async def make() -> None:
        database = Database(postgres.url("template_teehouse"))
        await upgrade(database)
        await database.close()

    asyncio.run(make())
    return "template_teehouse"


@pytest.fixture
def backend() -> str:
    """Which database a test works on: tests of what stands above the store take SQLite.

    `on_both_databases` (below) makes a test run once on each.
    """
    return "sqlite"


@pytest.fixture
def empty_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database without any table (an SQLite file that is yet to be made)."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'x.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.drop(url)


@pytest.fixture
def db_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of an empty database at the newest revision."""
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("template_db"), tmp_path / "cloud.db")
        yield f"sqlite:///{tmp_path / 'cloud.db'}"
        return
    template: str = request.getfixturevalue("postgres_template")
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create(template)
    yield url
    server.drop(url)


@pytest.fixture
async def world(tmp_path: Path, db_url: str) -> AsyncIterator[World]:
    made = World(tmp_path, db_url)
    await made.setup()
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    yield
    logs.configure("error")


@pytest.fixture
def keyset() -> Callable[[str], str]:
    return keyset_of


@pytest.fixture
def endpoint() -> str:
    return ENDPOINT
