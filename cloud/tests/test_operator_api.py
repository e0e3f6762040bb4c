# SPDX-License-Identifier: Apache-2.0
"""The operator API: closed without a token, problem documents, and a key that is seen once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from postgres_support import on_both_databases

from teehouse_cloud.store.usage import SignedUsage, store_usage
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.receipts import Usage, UsageRecord

pytestmark = [pytest.mark.anyio, on_both_databases]


async def call(world: Any, method: str, path: str, **kwargs: Any) -> tuple[int, Any]:
    async with world.operator(method, path, **kwargs) as response:
        body = await response.read()
        if response.status >= 400:
            assert response.headers["Content-Type"] == "application/problem+json"
            assert {"type", "title", "status", "code", "detail"} <= set(json.loads(body))
        return response.status, json.loads(body) if body else None


@pytest.mark.parametrize("path", ["/nodes", "/keys", "/endpoints", "/usage", "/openapi.json", "/nothing", "/nodes/x"])
async def test_closed_without_a_token(world: Any, path: str) -> None:
    await world.start()
    for headers in ({}, {"Authorization": "Bearer th-op-wrong"}, {"Authorization": f"Bearer {world.api_key}"}):
        async with world.http.get(f"{world.url}/api/v1{path}", headers=headers) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert json.loads(await response.read())["code"] == "operator-token"


async def test_guessing_tokens_is_slowed_down(world: Any) -> None:
    await world.start(auth_failure_rpm=2)
    seen = []
    for _ in range(3):
        async with world.http.get(f"{world.url}/api/v1/nodes", headers={"Authorization": "Bearer x"}) as response:
            seen.append(response.status)
    assert seen == [401, 401, 429]
    assert (await call(world, "GET", "/nodes"))[0] == 200


async def test_openapi_is_for_the_operator(world: Any) -> None:
    await world.start()
    status, document = await call(world, "GET", "/openapi.json")
    assert status == 200
    assert "/api/v1/nodes/{node}/report" in document["paths"]


async def test_the_whole_way_of_a_node(world: Any) -> None:
    node = await world.node(register=False)
    await world.start()
    assert await call(world, "PUT", "/endpoints/ep-two", json={"name": "second"}) == (
        201,
        {"id": "ep-two", "name": "second", "created_at": _any(), "tks_url": None, "tks_tenant": None},
    )
    wish = {"name": "second", "tks_url": "http://127.0.0.1:9/", "tks_tenant": "t-1"}
    status, row = await call(world, "PUT", "/endpoints/ep-two", json=wish)
    assert (status, row["tks_url"], row["tks_tenant"]) == (200, "http://127.0.0.1:9", "t-1")
    assert world.gateway.fleet.pools["ep-two"].tenant == "t-1"
    assert (await call(world, "PUT", "/endpoints/ep-two", json={"name": "x", "tks_url": "ftp://h"}))[0] == 422
    assert (await call(world, "PUT", "/endpoints/ep-two", json={"name": "again"}))[0] == 200
    status, listed = await call(world, "GET", "/endpoints")
    assert [row["name"] for row in listed["endpoints"]] == ["demo", "again"]

    status, made = await call(world, "PUT", "/nodes/node-a", json={"endpoint": node.endpoint, "url": node.url + "/"})
    assert (status, made["state"], made["keysets"], made["url"]) == (201, "ready", node.keysets, node.url)
    assert (await call(world, "PUT", "/nodes/node-a", json={"endpoint": node.endpoint, "url": node.url}))[0] == 200
    assert (await call(world, "GET", "/nodes/node-a"))[1]["boot"] == "boot-1"
    assert [row["id"] for row in (await call(world, "GET", "/nodes"))[1]["nodes"]] == ["node-a"]
    async with world.post(world.frame()) as response:
        assert response.status == 200

    await world.until(lambda: node.challenges)
    await asyncio.sleep(0.1)
    async with world.operator("GET", "/nodes/node-a/report") as response:
        assert response.headers["Content-Type"] == "application/vnd.teehouse.evidence+json"
        assert await response.read() == node.evidence
        assert len(response.headers["teehouse-keyset-sha256"]) == 64
    assert (await call(world, "DELETE", "/nodes/node-a"))[0] == 204
    assert (await call(world, "DELETE", "/nodes/node-a"))[0] == 404
    async with world.post(world.frame()) as response:
        assert response.status == 422


def _any() -> Any:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    return Anything()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/nodes/n1", {"endpoint": "ep-missing", "url": "http://127.0.0.1:1"}, 404),
        ("PUT", "/nodes/n1", {"endpoint": "ep-1", "url": "file:///etc/passwd"}, 422),
        ("PUT", "/nodes/n1", {"endpoint": "ep-1", "url": "http://u:p@h:1"}, 422),
        ("PUT", "/nodes/n1", {"endpoint": "ep-1", "url": "http://h:1/path"}, 422),
        ("PUT", "/nodes/n1", {"endpoint": "ep-1", "url": "http://h:99999"}, 422),
        ("PUT", "/nodes/n1", {"endpoint": "ep-1", "url": "http://h:1", "extra": 1}, 422),
        ("PUT", "/nodes/" + "n" * 65, {"endpoint": "ep-1", "url": "http://h:1"}, 422),
        ("PUT", "/endpoints/ep_1", {"name": "x"}, 422),
        ("PUT", "/endpoints/ep-1", {"name": ""}, 422),
        ("PUT", "/endpoints/ep-1", {}, 422),
        ("POST", "/keys", {"label": "x", "endpoints": []}, 422),
        ("POST", "/keys", {"label": "x", "endpoints": ["a b"]}, 422),
        ("DELETE", "/keys/0000000000000000", None, 404),
        ("DELETE", "/keys/zz", None, 422),
        ("GET", "/nodes/none", None, 404),
        ("GET", "/nodes/none/report", None, 404),
        ("GET", "/usage?limit=0", None, 422),
        ("GET", "/nothing", None, 404),
        ("POST", "/nodes", {}, 405),
    ],
)
async def test_wrong_wishes(world: Any, method: str, path: str, body: Any, status: int) -> None:
    await world.start()
    assert (await call(world, method, path, json=body))[0] == status


async def test_no_report_yet(world: Any) -> None:
    node = await world.node()
    node.evidence = None
    await world.start()
    status, answer = await call(world, "GET", "/nodes/node-a/report")
    assert (status, answer["code"]) == (404, "report-unknown")


async def test_bodies_are_bounded(world: Any) -> None:
    await world.start()
    big = b'{"name":"' + b"x" * 70_000 + b'"}'
    assert (await call(world, "PUT", "/endpoints/ep-1", data=big))[0] == 413

    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 10_000

    async with world.operator("PUT", "/endpoints/ep-1", data=endless()) as response:
        assert response.status >= 400


async def test_a_key_is_seen_once(world: Any, endpoint: str, backend: str, request: pytest.FixtureRequest) -> None:
    await world.node()
    await world.start()
    status, made = await call(world, "POST", "/keys", json={"label": "laptop", "endpoints": [endpoint]})
    assert status == 201
    key, account = made["api_key"], made["account"]
    assert key.startswith(f"sk-th-{account}-")
    status, listed = await call(world, "GET", "/keys")
    assert account in [row["account"] for row in listed["keys"]]
    assert "api_key" not in json.dumps(listed)
    async with world.post(world.frame(account=account), key=key) as response:
        assert response.status == 200
    status, gone = await call(world, "DELETE", f"/keys/{account}")
    assert (status, gone["account"]) == (200, account)
    assert gone["revoked_at"]
    async with world.post(world.frame(account=account), key=key) as response:
        assert response.status == 401  # at once in the process that revoked it
    await world.stop()
    secret = key[23:].encode()  # the secret itself, which may contain dashes
    token = world.operator_token.removeprefix("th-op-").encode()
    kept = world.directory
    if backend == "postgresql":
        server = request.getfixturevalue("postgres")
        server.sql("CHECKPOINT")
        kept = server.folder
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert any(b"laptop" in path.read_bytes() for path in files)  # what was stored is in here
    for path in files:
        data = path.read_bytes()
        assert secret not in data, path
        assert token not in data, path
        assert key.encode() not in data, path
    assert key not in world.log.getvalue()
    assert any(row["last_used"] for row in [_row(r) for r in await _keys(world)] if row["account"] == account)


async def _keys(world: Any) -> list[Any]:
    from teehouse_cloud.store.keys import list_keys

    return await list_keys(world.database)


def _row(row: Any) -> dict[str, Any]:
    return {"account": row.account, "last_used": row.last_used}


async def test_usage_pages(world: Any) -> None:
    await world.node()
    await world.start()
    items = []
    for i in range(5):
        parsed = UsageRecord(
            kid="0" * 32,
            th=bytes([i]) * 32,
            request_id=b64u(bytes([i]) * 16),
            account="00112233aabbccdd" if i % 2 else "ffeeddccbbaa9988",
            keyset_sha256="0" * 64,
            usage=Usage(1, 2, 3),
            status=200,
            finished_at=7,
        )
        items.append(SignedUsage(parsed, parsed.encode(), bytes(64)))
    await store_usage(world.database, node="node-a", endpoint="ep-1", boot="b", after=5, records=items, now=8)
    status, page = await call(world, "GET", "/usage?limit=3")
    assert status == 200
    assert [row["output_tokens"] for row in page["records"]] == [2, 2, 2]
    assert page["records"][0]["record"] == b64u(items[0].record)
    status, rest = await call(world, "GET", f"/usage?limit=3&after={page['next']}")
    assert (len(rest["records"]), rest["next"]) == (2, None)
    status, mine = await call(world, "GET", "/usage?account=00112233aabbccdd")
    assert len(mine["records"]) == 2


async def test_the_database_going_away_is_said_not_thrown(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from teehouse_cloud.control import guard
    from teehouse_cloud.errors import DatabaseError
    from teehouse_cloud.gateway import accounts

    await world.node()
    await world.start()

    async def broken(*_args: Any) -> Any:
        raise DatabaseError("gone", code="db-unreachable")

    monkeypatch.setattr(accounts, "get_key", broken)
    monkeypatch.setattr(guard, "operator_hashes", broken)
    async with world.post(world.frame()) as response:
        assert response.status == 503
    status, answer = await call(world, "GET", "/nodes")
    assert (status, answer["code"]) == (503, "db-unreachable")
