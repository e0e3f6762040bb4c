# SPDX-License-Identifier: Apache-2.0
"""The pool relay: what the key service publishes goes to the client unread, with evidence; any holder is offered."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from typing import Any

import pytest
from aiohttp import web

from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import EVIDENCE_TYPE
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, Pool, Software, key_id
from teehouse_core.wire.pool import SignedPool, build_pool_keyset
from teehouse_core.wire.suites import DEFAULT_SUITE

pytestmark = pytest.mark.anyio


def signed_pool(endpoint: str, version: str, service: str = "aa" * 32) -> tuple[bytes, str]:
    """A pool that parses and that nobody signed: nothing here judges it."""
    now, pk = int(time.time()), hashlib.shake_256(version.encode()).digest(1216)
    raw = build_pool_keyset(
        endpoint=endpoint,
        pool=Pool(service, "bb" * 32, "ring", "key", version),
        hpke=[HpkeKey(key_id(DEFAULT_SUITE, pk), DEFAULT_SUITE, pk, now, now + 900)],
        model=Model("m", "cc" * 32),
        software=Software("", "", ""),
        capabilities=Capabilities("none", "none", "", ()),
        not_before=now,
        not_after=now + 900,
    )
    return SignedPool(raw, bytes(64), b"{}").encode(), Keyset.parse(raw).sha256


class FakeService:
    """A scripted key service."""

    def __init__(self) -> None:
        self.pool: bytes | None = None
        self.bundle: bytes | None = b'{"v":"evidence/1"}'
        self.asked: list[str] = []
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1/pools/{endpoint}", self._pool)
        app.router.add_get("/v1/evidence", self._evidence)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _pool(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        return web.Response(body=self.pool) if self.pool else web.Response(status=404, body=b"{}")

    async def _evidence(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["challenge"])
        if self.bundle is None:
            return web.Response(status=503)
        return web.Response(body=self.bundle, content_type=EVIDENCE_TYPE)


async def put_pool(world: Any, endpoint: str, url: str, tenant: str = "") -> None:
    wish = {"name": "demo", "tks_url": url, "tks_tenant": tenant}
    headers = {"Authorization": f"Bearer {world.operator_token}"}
    async with world.http.put(f"{world.url}/api/v1/endpoints/{endpoint}", json=wish, headers=headers) as response:
        assert response.status == 200


async def ask(world: Any, endpoint: str, challenge: str = "") -> tuple[int, dict[str, Any]]:
    url = f"{world.url}/sealed/v1/{endpoint}/evidence?challenge={challenge or b64u(os.urandom(32))}"
    async with world.http.get(url) as response:
        return response.status, json.loads(await response.read())


async def test_the_pool_comes_with_the_key_services_evidence_untouched(world: Any, endpoint: str) -> None:
    service = FakeService()
    await service.start()
    service.pool, sha256 = signed_pool(endpoint, "1")
    node = await world.node("node-a")
    node.keysets.append(sha256)
    await world.start()
    assert "pools" not in (await ask(world, endpoint))[1]
    await put_pool(world, endpoint, service.url, "t-1")
    challenge = b64u(os.urandom(32))
    status, answer = await ask(world, endpoint, challenge)
    assert status == 200
    assert len(answer["bundles"]) == 1
    (pool,) = answer["pools"]
    assert base64.b64decode(pool["pool"]) == service.pool
    assert base64.b64decode(pool["bundle"]) == service.bundle
    assert service.asked == [f"/v1/pools/{endpoint}?tenant=t-1", challenge]
    await service.stop()
    assert "pools" not in (await ask(world, endpoint))[1]  # its evidence cannot be had: nothing to believe it by


async def test_no_node_is_up_and_the_pool_is_still_offered(world: Any, endpoint: str) -> None:
    service = FakeService()
    await service.start()
    service.pool, _ = signed_pool(endpoint, "1")
    await world.start()
    await put_pool(world, endpoint, service.url)
    status, answer = await ask(world, endpoint)
    assert (status, answer["bundles"], len(answer["pools"])) == (200, [], 1)
    service.pool, service.bundle = None, None
    assert (await ask(world, endpoint))[0] == 503
    await service.stop()


async def test_a_rotation_is_offered_when_a_node_holds_it(
    world: Any, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teehouse_cloud.gateway.pools.REFRESH_SECONDS", 0.0)
    service = FakeService()
    await service.start()
    old, old_sha256 = signed_pool(endpoint, "1")
    new, new_sha256 = signed_pool(endpoint, "2")
    restarted, _ = signed_pool(endpoint, "2", "dd" * 32)
    node = await world.node("node-a")
    node.keysets.append(old_sha256)
    await world.start()
    await put_pool(world, endpoint, service.url)

    async def offered() -> bytes:
        return base64.b64decode((await ask(world, endpoint))[1]["pools"][0]["pool"])

    service.pool = old
    assert await offered() == old
    service.pool = new
    assert await offered() == old
    node.keysets.append(new_sha256)
    await world.gateway.poller.poll_now(endpoint)
    assert await offered() == new
    service.pool = restarted  # evidence is of the new process: an older pool would not fit it
    assert await offered() == restarted
    service.pool = b"rubbish"
    assert await offered() == restarted
    await service.stop()
