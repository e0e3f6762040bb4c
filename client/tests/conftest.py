# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the client's tests: a node behind a scripted gateway, one driver for blocking and async code."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import anyio.from_thread
import pytest
from client_support import ENDPOINT, Gateway, Node, settings_for

import teehouse.openai
from teehouse.session import AsyncSession, Session
from teehouse.settings import Settings

MESSAGES = [{"role": "user", "content": "what is the capital of France?"}]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes this user's own configuration."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home))
    for name in ("TEEHOUSE_BASE_URL", "TEEHOUSE_API_KEY", "TEEHOUSE_ENDPOINT", "TEEHOUSE_POLICY", "TEEHOUSE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def gateway(node: Node) -> Generator[Gateway, None, None]:
    gateway = Gateway(node)
    yield gateway
    gateway.close()


class Answer:
    """A whole session answer."""

    def __init__(self, answer: Any, body: bytes) -> None:
        self.answer, self.body = answer, body
        self.status, self.receipt = answer.status, answer.receipt


class SyncDriver:
    """The blocking session and SDK."""

    kind = "sync"

    def __init__(self, settings: Settings) -> None:
        self.session = Session(settings)
        self.client = teehouse.openai.OpenAI(settings=settings, max_retries=0)

    def verify(self, **kw: Any) -> Any:
        return self.session.verify(**kw)

    def request(self, content: bytes, op: str = "chat.completions", endpoint: str | None = None) -> Answer:
        with self.session.request(endpoint, op, content) as answer:
            body = answer.read()
        return Answer(answer, body)

    def chat(self, **kw: Any) -> Any:
        return self.client.chat.completions.create(**{"model": ENDPOINT, "messages": MESSAGES, **kw})

    def stream(self, **kw: Any) -> Iterator[Any]:
        yield from self.chat(stream=True, **kw)

    def part_of_stream(self, count: int) -> list[Any]:
        with self.chat(stream=True) as stream:
            return [next(stream) for _ in range(count)]

    def models(self) -> Any:
        return self.client.models.list()

    def call(self, function: Callable[[Any], Any]) -> Any:
        return function(self.client)

    def close(self) -> None:
        self.session.close()
        self.client.close()


class AsyncDriver:
    """The async session and SDK, on a loop of their own."""

    kind = "async"

    def __init__(self, settings: Settings) -> None:
        self._context = anyio.from_thread.start_blocking_portal()
        self._portal = self._context.__enter__()
        self._portal.call(self._make, settings)

    async def _make(self, settings: Settings) -> None:
        self.session = AsyncSession(settings)
        self.client = teehouse.openai.AsyncOpenAI(settings=settings, max_retries=0)

    def verify(self, **kw: Any) -> Any:
        async def run() -> Any:
            return await self.session.verify(**kw)

        return self._portal.call(run)

    def request(self, content: bytes, op: str = "chat.completions", endpoint: str | None = None) -> Answer:
        async def run() -> Answer:
            async with await self.session.request(endpoint, op, content) as answer:
                body = await answer.read()
            return Answer(answer, body)

        return self._portal.call(run)

    def chat(self, **kw: Any) -> Any:
        async def run() -> Any:
            return await self.client.chat.completions.create(**{"model": ENDPOINT, "messages": MESSAGES, **kw})

        return self._portal.call(run)

    def stream(self, **kw: Any) -> Iterator[Any]:
        stream = self.chat(stream=True, **kw)

        async def one() -> Any:
            return await anext(stream, None)

        try:
            while (item := self._portal.call(one)) is not None:
                yield item
        finally:
            self._portal.call(stream.close)

    def part_of_stream(self, count: int) -> list[Any]:
        async def run() -> list[Any]:
            stream = await self.client.chat.completions.create(model=ENDPOINT, messages=MESSAGES, stream=True)  # type: ignore[call-overload]
            async with stream:
                return [await anext(stream) for _ in range(count)]

        return self._portal.call(run)

    def models(self) -> Any:
        async def run() -> Any:
            return await self.client.models.list()

        return self._portal.call(run)

    def call(self, function: Callable[[Any], Any]) -> Any:
        async def run() -> Any:
            return await function(self.client)

        return self._portal.call(run)

    def close(self) -> None:
        self._portal.call(self.session.aclose)
        self._portal.call(self.client.close)
        self._context.__exit__(None, None, None)


Driver = SyncDriver | AsyncDriver


@pytest.fixture(params=[SyncDriver, AsyncDriver], ids=["sync", "async"])
def make_driver(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[Callable[..., Driver]]:
    """Makes a driver for given settings; the default ones talk to `gateway` under the policy `evaluate`."""
    made: list[Driver] = []

    def make(**given: Any) -> Driver:
        driver: Driver = request.param(settings_for(gateway, **given))
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def driver(make_driver: Callable[..., Driver]) -> Driver:
    return make_driver()
