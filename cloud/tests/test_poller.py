# SPDX-License-Identifier: Apache-2.0
"""What the poller keeps: node state in memory and database, newest reports, and usage counted once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from postgres_support import on_both_databases

from teehouse_cloud.gateway.harvest import bundle_keyset
from teehouse_cloud.store.nodes import delete_node, get_node
from teehouse_cloud.store.reports import get_report
from teehouse_cloud.store.usage import list_usage
from teehouse_core.wire.canonical import b64u, encode

pytestmark = pytest.mark.anyio
Keyset = Callable[[str], str]


async def stored(world: Any, **bounds: Any) -> list[Any]:
    return await list_usage(world.database, **{"after": 0, "limit": 100, **bounds})


async def wait_for_usage(world: Any, count: int) -> list[Any]:
    for _ in range(200):
        if len(rows := await stored(world)) >= count:
            return rows
        await asyncio.sleep(0.02)
    raise AssertionError(f"{len(rows)} usage records, not {count}")


@on_both_databases
async def test_state_reaches_the_database(world: Any, keyset: Keyset) -> None:
    a = await world.node()
    await world.start()
    row = await get_node(world.database, "node-a")
    assert (row.state, row.boot, row.keysets) == ("ready", "boot-1", [keyset("node-a")])
    assert row.last_seen
    a.ready, a.keysets = False, [keyset("x"), "not a digest", 5]  # type: ignore[list-item]
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "not-ready")
    await asyncio.sleep(0.1)
    row = await get_node(world.database, "node-a")
    assert (row.state, row.keysets) == ("not-ready", [keyset("x")])
    a.draining = True
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "draining")
    await a.stop()
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "down")


@on_both_databases
async def test_health_endpoints(world: Any) -> None:
    a = await world.node()
    await world.start()
    async with world.http.get(f"{world.url}/healthz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with world.http.get(f"{world.url}/readyz") as response:
        assert response.status == 200
        assert (await response.json())["nodes_ready"] == 1
    await a.stop()
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "down")
    async with world.http.get(f"{world.url}/readyz") as response:
        assert response.status == 503
        assert await response.json() == {
            "ready": False,
            "database": True,
            "migrations": True,
            "nodes_ready": 0,
            "nodes": 1,
            "draining": False,
        }
    async with world.http.get(f"{world.url}/healthz") as response:
        assert response.status == 200


@pytest.mark.parametrize("answer", [b"[]", b"{", b"[" * 5000, b'{"node":"node-a"}', b"x" * 70_000])
@on_both_databases
async def test_nonsense_from_a_node_is_survived(world: Any, answer: bytes) -> None:
    server = await asyncio.start_server(_say(answer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    node = await world.node(register=False)
    from teehouse_cloud.store.nodes import put_node

    await put_node(world.database, "node-a", node.endpoint, f"http://127.0.0.1:{port}", 1)
    await world.start()
    assert world.gateway.fleet.nodes["node-a"].state in ("down", "wrong-node")
    server.close()
    await server.wait_closed()


def _say(body: bytes) -> Any:
    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    return run


@on_both_databases
async def test_the_newest_report_is_kept_byte_for_byte(world: Any) -> None:
    a = await world.node()
    a.evidence = b'{"keyset":{"n":"one"},"odd" :  "spacing"}'
    await world.start()
    await world.until(lambda: a.challenges)
    await asyncio.sleep(0.1)
    report = await get_report(world.database, "node-a")
    assert report.bundle == a.evidence
    assert report.bundle_sha256 == hashlib.sha256(a.evidence).hexdigest()
    assert report.keyset_sha256 == hashlib.sha256(b'{"n":"one"}').hexdigest()
    assert len(a.challenges) == 1  # and no more until something changes
    a.evidence = b'{"keyset":{"n":"two"}}'
    a.keysets = ["ab" * 32]
    await world.until(lambda: len(a.challenges) == 2)
    await asyncio.sleep(0.1)
    assert (await get_report(world.database, "node-a")).bundle == a.evidence
    assert len(set(a.challenges)) == 2  # a challenge of its own each time


@on_both_databases
async def test_a_report_gets_old(world: Any) -> None:
    a = await world.node()
    await world.start(report_seconds=0.2)
    await world.until(lambda: len(a.challenges) >= 3)


@pytest.mark.parametrize("bundle", [b"", b"{", b"[]", b'{"keyset":7}', b'{"keyset":null}', b"[" * 100_000, b"\xff"])
def test_a_bundle_without_keyset_has_no_digest(bundle: bytes) -> None:
    assert bundle_keyset(bundle) == ""


def test_the_digest_is_over_the_keyset_bytes() -> None:
    raw = encode({"b": 1, "a": "x"})
    assert bundle_keyset(json.dumps({"keyset": {"b": 1, "a": "x"}}).encode()) == hashlib.sha256(raw).hexdigest()
    assert bundle_keyset(json.dumps({"keyset": b64u(raw)}).encode()) == hashlib.sha256(raw).hexdigest()


@on_both_databases
async def test_usage_is_counted_once(world: Any) -> None:
    a = await world.node()
    for seq in range(1, 4):
        a.add_usage(seq, bytes([seq]) * 16)
    await world.start()
    rows = await wait_for_usage(world, 3)
    assert [row.request_id for row in rows] == [b64u(bytes([i]) * 16) for i in (1, 2, 3)]
    assert (rows[0].input_tokens, rows[0].output_tokens, rows[0].node) == (10, 5, "node-a")
    assert rows[0].record == _record(a.usage[0])
    a.add_usage(4, bytes([2]) * 16, tokens=99)  # the same request again
    a.add_usage(5, bytes([5]) * 16)
    rows = await wait_for_usage(world, 4)
    assert [row.output_tokens for row in rows] == [5, 5, 5, 5]


def _record(item: dict[str, Any]) -> bytes:
    from teehouse_core.wire.canonical import unb64u

    return unb64u(item["record"])


@on_both_databases
async def test_usage_survives_a_restart_of_the_node(world: Any) -> None:
    a = await world.node()
    for seq in range(1, 6):
        a.add_usage(seq, bytes([seq]) * 16)
    await world.start()
    await wait_for_usage(world, 5)
    a.boot, a.usage = "boot-2", []
    a.add_usage(1, b"n" * 16)
    a.add_usage(2, b"m" * 16)
    rows = await wait_for_usage(world, 7)
    assert rows[-1].request_id == b64u(b"m" * 16)


@on_both_databases
async def test_usage_survives_a_restart_of_the_gateway(world: Any) -> None:
    a = await world.node()
    a.add_usage(1, b"a" * 16)
    await world.start()
    await wait_for_usage(world, 1)
    await world.until(lambda: a.usage_asked[-1] == 1)
    await world.stop()
    a.usage_asked.clear()
    await world.start()
    await world.until(lambda: a.usage_asked)
    assert a.usage_asked[0] == 1  # goes on where it stood
    assert len(await stored(world)) == 1


@on_both_databases
async def test_a_malformed_usage_record_does_not_hold_up_the_rest(world: Any) -> None:
    a = await world.node()
    a.usage = [{"seq": 1, "record": "!!", "sig": ""}, {"seq": 2}]
    a.add_usage(3, b"c" * 16)
    await world.start()
    assert len(await wait_for_usage(world, 1)) == 1
    await world.until(lambda: a.usage_asked[-1] == 3)


@on_both_databases
async def test_a_deleted_node_is_forgotten(world: Any) -> None:
    await world.node()
    await world.start()
    await delete_node(world.database, "node-a")
    await world.until(lambda: not world.gateway.fleet.nodes)
    async with world.post(world.frame()) as response:
        assert response.status == 422
