# SPDX-License-Identifier: Apache-2.0
"""Choice of node, failover before the first byte, and what a client sees when a node dies after it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from teehouse_cloud.store.nodes import put_node
from teehouse_core.wire.frame import RESPONSE_TYPE

pytestmark = pytest.mark.anyio
Keyset = Callable[[str], str]


async def code_of(response: aiohttp.ClientResponse) -> str:
    return str(json.loads(await response.read())["code"])


async def two(world: Any) -> tuple[Any, Any]:
    a, b = await world.node("node-a"), await world.node("node-b")
    b.answer = b.stream(b"from b")
    return a, b


async def test_the_candidate_s_holder_is_asked(world: Any, keyset: Keyset) -> None:
    a, _ = await two(world)
    await world.start()
    for _ in range(3):
        async with world.post(world.frame(keyset("node-b"))) as response:
            assert await response.read() == b"from b"
    assert not a.requests


async def test_the_least_busy_candidate_is_asked_first(world: Any, keyset: Keyset) -> None:
    a, _ = await two(world)
    a.answer = a.stream(b"from a", then="hang")
    await world.start()
    async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as first:
        assert await first.content.readany() == b"from a"
        async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as second:
            assert await second.read() == b"from b"


async def test_unknown_key_after_one_immediate_poll(world: Any, keyset: Keyset) -> None:
    a = await world.node()
    await world.start(poll_seconds=60)
    async with world.post(world.frame(keyset("nobody"))) as response:
        assert (response.status, await code_of(response)) == (422, "unknown-key")
    polls = a.polls
    await asyncio.sleep(0.35)
    a.keysets = [keyset("fresh"), *a.keysets]  # rotated since the last poll
    async with world.post(world.frame(keyset("fresh"))) as response:
        assert response.status == 200
    assert a.polls == polls + 1


async def test_made_up_keysets_cannot_flood_the_nodes(world: Any, keyset: Keyset) -> None:
    a = await world.node()
    await world.start(poll_seconds=60)
    polls = a.polls
    for i in range(10):
        async with world.post(world.frame(keyset(f"nobody-{i}"))) as response:
            assert response.status == 422
    assert a.polls <= polls + 3


async def test_a_node_registered_on_the_database_is_found(world: Any, keyset: Keyset) -> None:
    await world.start()
    c = await world.node("node-c", register=False)
    await put_node(world.database, "node-c", c.endpoint, c.url, 1)
    async with world.post(world.frame(keyset("node-c"))) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "how", ["reset", "unavailable", "over-limit", "unknown-key", "strange-500", "html", "unframed"]
)
async def test_failover_before_the_first_byte(world: Any, keyset: Keyset, how: str) -> None:
    a, b = await two(world)

    async def strange(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="oops")

    async def html(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, text="<html>", content_type="text/html")

    async def unframed(request: web.Request) -> web.StreamResponse:
        request.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\n\r\nwho knows where this ends")  # type: ignore[union-attr]
        request.transport.close()  # type: ignore[union-attr]
        return web.Response()

    a.answer = {
        "reset": a.refuse_connection,
        "unavailable": a.problem("unavailable", 503),
        "over-limit": a.problem("over-limit", 429),
        "unknown-key": a.problem("unknown-key", 422),
        "strange-500": strange,
        "html": html,
        "unframed": unframed,
    }[how]
    await world.start(poll_seconds=60)
    frame = world.frame(keyset("node-a"), keyset("node-b"))
    async with world.post(frame) as response:
        assert (response.status, await response.read()) == (200, b"from b")
    assert [body for _, body in a.requests] == [frame]
    assert [body for _, body in b.requests] == [frame]
    assert await world.metric("teehouse_gateway_upstream_failures_total") == 1


async def test_failover_also_after_headers_but_before_a_byte(world: Any, keyset: Keyset) -> None:
    a, _ = await two(world)
    a.answer = a.stream(then="abort")
    await world.start()
    async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
        assert await response.read() == b"from b"


async def test_a_dead_node_is_left_out_and_comes_back(world: Any, keyset: Keyset) -> None:
    a, _ = await two(world)
    await world.start()
    await a.stop()
    for _ in range(3):
        async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
            assert await response.read() == b"from b"
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "down")
    await a.start()
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "ready")
    async with world.post(world.frame(keyset("node-a"))) as response:
        assert response.status == 200


async def test_only_candidate_dead_sends_the_client_for_new_evidence(world: Any, keyset: Keyset) -> None:
    a, b = await two(world)
    await world.start()
    await a.stop()
    async with world.post(world.frame(keyset("node-a"))) as response:
        assert (response.status, await code_of(response)) == (422, "unknown-key")
    await b.stop()
    await world.until(lambda: world.gateway.fleet.nodes["node-b"].state == "down")
    async with world.post(world.frame(keyset("node-a"))) as response:
        assert (response.status, await code_of(response)) == (503, "unavailable")
        assert response.headers["Retry-After"] == "1"


async def test_a_node_that_failed_is_not_asked_again_before_it_answers_a_poll(world: Any, keyset: Keyset) -> None:
    a, _ = await two(world)
    await world.start(poll_seconds=60)
    await a.stop()
    for _ in range(4):
        async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
            assert await response.read() == b"from b"
    assert await world.metric("teehouse_gateway_upstream_failures_total", reason="connect") == 1


@pytest.mark.parametrize("code", ["expired", "replayed", "malformed"])
async def test_a_node_s_verdict_on_the_request_is_final(world: Any, keyset: Keyset, code: str) -> None:
    a, b = await two(world)
    a.answer = a.problem(code, 400)
    await world.start()
    async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
        assert (response.status, await code_of(response)) == (400, code)
    assert not b.requests


async def test_when_all_refuse_the_most_telling_refusal_is_passed_on(world: Any, keyset: Keyset) -> None:
    a, b = await two(world)
    a.answer = a.problem("over-limit", 429, **{"Retry-After": "7"})
    b.answer = b.problem("unavailable", 503)
    await world.start()
    async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
        assert (response.status, await code_of(response)) == (429, "over-limit")
        assert response.headers["Retry-After"] == "7"


async def test_draining_and_foreign_nodes_are_not_asked(world: Any, keyset: Keyset) -> None:
    a, b = await two(world)
    a.draining = True
    b.endpoint = "ep-something-else"
    await world.start()
    async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
        assert response.status == 503
    assert not a.requests
    assert not b.requests
    assert world.gateway.fleet.nodes["node-b"].state == "wrong-node"


async def test_no_failover_after_the_first_byte_and_the_cut_is_visible(world: Any, keyset: Keyset) -> None:
    a, b = await two(world)
    a.answer = a.stream(b"one", b"two", pause=0.02, then="abort")
    await world.start()
    async with world.post(world.frame(keyset("node-a"), keyset("node-b"))) as response:
        assert response.status == 200
        assert await response.content.readexactly(6) == b"onetwo"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readany()
    assert not b.requests
    assert await world.metric("teehouse_gateway_truncated_total", cause="node-reset") == 1


async def test_the_cut_on_the_wire_has_no_last_chunk(world: Any) -> None:
    a = await world.node()
    a.answer = a.stream(b"one", then="abort")
    await world.start()
    frame = world.frame()
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /sealed/v1/{a.endpoint} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.api_key}\r\n"
        f"Content-Type: application/vnd.teehouse.sealed-request\r\nContent-Length: {len(frame)}\r\n\r\n".encode()
        + frame
    )
    raw = await asyncio.wait_for(reader.read(), 3)  # to the end: the gateway must close
    writer.close()
    assert b"transfer-encoding: chunked" in raw
    assert raw.endswith(b"3\r\none\r\n")


async def test_a_cut_answer_of_known_length_stays_short(world: Any) -> None:
    a = await world.node()

    async def run(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": RESPONSE_TYPE, "Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"four")
        await asyncio.sleep(0.05)
        request.transport.abort()  # type: ignore[union-attr]
        return response

    a.answer = run
    await world.start()
    async with world.post(world.frame()) as response:
        assert response.headers["Content-Length"] == "10"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_silent_node_is_given_up(world: Any) -> None:
    a = await world.node()
    a.answer = a.stream(b"one", then="hang")
    await world.start(idle_seconds=0.2)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with world.post(world.frame()) as response:
            await response.read()
    await asyncio.wait_for(a.left.wait(), 2)

    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    a.answer = never
    await world.until(lambda: world.gateway.fleet.nodes["node-a"].state == "ready")
    async with world.post(world.frame()) as response:
        assert response.status == 503


async def test_chunks_pass_while_the_node_still_streams(world: Any) -> None:
    a = await world.node()
    gate = asyncio.Event()

    async def run(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": RESPONSE_TYPE})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for i in range(5):
            await response.write(b"chunk%d" % i)
            await gate.wait()  # nothing more is sent until the client has this one
            gate.clear()
        return response

    a.answer = run
    await world.start()
    async with world.post(world.frame()) as response:
        for i in range(5):
            sent = time.monotonic()
            assert await asyncio.wait_for(response.content.readany(), 1) == b"chunk%d" % i
            assert time.monotonic() - sent < 0.5
            gate.set()
        assert await response.content.readany() == b""


async def test_a_client_that_leaves_stops_the_node_within_a_second(world: Any) -> None:
    a = await world.node()
    a.answer = a.stream(b"first", then="hang")
    await world.start()
    response = await world.post(world.frame())
    assert await response.content.readany() == b"first"
    assert await world.metric("teehouse_gateway_in_flight") == 1
    left = time.monotonic()
    response.close()
    await asyncio.wait_for(a.left.wait(), 1)
    assert time.monotonic() - left < 1
    await asyncio.sleep(0.05)
    assert await world.metric("teehouse_gateway_in_flight") == 0
    assert world.gateway.fleet.nodes["node-a"].in_flight == 0


async def test_a_client_that_leaves_before_the_first_byte_also_does(world: Any) -> None:
    a = await world.node()

    async def never(_request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.sleep(60)
        finally:
            a.left.set()
        return web.Response()

    a.answer = never
    await world.start()
    task = asyncio.create_task(world.post(world.frame()).__aenter__())
    await world.until(lambda: a.requests)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(a.left.wait(), 1)
    await world.until(lambda: [x for x in world.log_lines() if x["event"] == "sealed" and x["status"] == 499])


async def test_a_client_that_takes_nothing_slows_the_node_and_is_cut(world: Any) -> None:
    a = await world.node()
    written = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Type": RESPONSE_TYPE})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            for _ in range(2000):
                await response.write(bytes(65536))
                written += 65536
        finally:
            a.left.set()
        return response

    a.answer = flood
    await world.start(stall_seconds=0.4)
    host, port = world.url.removeprefix("http://").split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    frame = world.frame()
    head = (
        f"POST /sealed/v1/{a.endpoint} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.api_key}\r\n"
        f"Content-Type: application/vnd.teehouse.sealed-request\r\nContent-Length: {len(frame)}\r\n\r\n"
    )
    await asyncio.get_running_loop().sock_sendall(raw, head.encode() + frame)
    await asyncio.wait_for(a.left.wait(), 3)
    raw.close()
    assert written < 40 << 20  # what socket buffers hold, not the 128 MiB on offer
    await world.until(lambda: not world.gateway.sealed._open)
    assert await world.metric("teehouse_gateway_truncated_total", cause="client-stalled") == 1


async def test_open_streams_finish_when_the_gateway_is_told_to_stop(world: Any) -> None:
    a = await world.node()
    a.answer = a.stream(b"one", b"two", b"three", pause=0.2)
    await world.start(drain_seconds=5)
    async with world.post(world.frame()) as response:
        assert await response.content.readany() == b"one"
        world.begin_stop()
        assert await response.read() == b"twothree"
    await world.stop()
    assert not world.ready_file.exists() or world.ready_file.read_text()
