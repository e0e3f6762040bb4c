# SPDX-License-Identifier: Apache-2.0
"""The data plane from the client's side: who may ask, what is refused and how, and that bytes pass untouched."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import aiohttp
import pytest

from teehouse_cloud.store.keys import create_key, revoke_key
from teehouse_core.wire.frame import MAX_BODY, MAX_FRAME, REQUEST_TYPE, RESPONSE_TYPE, frame_prefix

pytestmark = pytest.mark.anyio


async def refused(world: Any, data: Any, **kwargs: Any) -> tuple[int, str, str | None]:
    """Status, code and reason of a refusal, after checking its form."""
    async with world.post(data, **kwargs) as response:
        body = await response.read()
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["X-Request-Id"]
        assert "no-store" in response.headers["Cache-Control"]
        problem = json.loads(body)
        assert problem["status"] == response.status
        assert len(body) <= 8192
        return response.status, problem["code"], problem.get("reason")


async def test_bytes_pass_untouched_both_ways(world: Any) -> None:
    node = await world.node()
    await world.start()
    frame = world.frame(body_len=300_000)
    async with world.post(frame, Accept="text/event-stream", **{"X-Request-Id": "abc.1"}) as response:
        body = await response.read()
    assert response.status == 200
    assert body == b"\x01\x00" + bytes(32) + b"onetwothree"
    assert response.headers["Content-Type"] == RESPONSE_TYPE
    assert response.headers["Cache-Control"] == "no-store, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["X-Request-Id"] == "abc.1"
    request, received = node.requests[0]
    assert received == frame
    assert request.headers["Accept"] == "text/event-stream"
    assert request.headers["Content-Type"] == REQUEST_TYPE
    assert request.headers["X-Request-Id"] == "abc.1"
    assert not {"Authorization", "Cookie", "User-Agent", "Forwarded"} & set(request.headers)


async def test_a_request_sent_in_small_pieces_arrives_whole(world: Any) -> None:
    node = await world.node()
    await world.start()
    frame = world.frame(body_len=2000)

    async def pieces() -> Any:
        for at in range(0, len(frame), 97):
            yield frame[at : at + 97]

    async with world.post(pieces()) as response:
        assert response.status == 200
        await response.read()
    assert node.requests[0][1] == frame


async def test_a_body_of_twenty_megabytes_passes(world: Any) -> None:
    node = await world.node()
    await world.start()
    frame = world.frame(body_len=20 << 20)
    async with world.post(frame) as response:
        assert response.status == 200
    assert node.requests[0][1] == frame
    assert await world.metric("teehouse_gateway_body_bytes") == 0


async def test_who_may_ask(world: Any, endpoint: str) -> None:
    await world.node()
    await world.start()
    frame = world.frame()
    url = f"{world.url}/sealed/v1/{endpoint}"
    async with world.http.post(url, data=frame, headers={"Content-Type": REQUEST_TYPE}) as response:
        assert (response.status, (await response.json(content_type=None))["reason"]) == (401, "api-key-missing")
    assert await refused(world, frame, key="sk-th-short") == (401, "unavailable", "api-key-unknown")
    other = f"sk-th-{world.account}-{'A' * 43}"  # right account, wrong secret
    assert await refused(world, frame, key=other) == (401, "unavailable", "api-key-unknown")
    nobody = f"sk-th-{'0' * 16}-{'A' * 43}"
    assert await refused(world, frame, key=nobody) == (401, "unavailable", "api-key-unknown")
    assert await refused(world, frame, Authorization=f"Basic {world.api_key}") == (
        401,
        "unavailable",
        "api-key-missing",
    )
    assert await refused(world, frame, endpoint="ep-none") == (404, "unavailable", "endpoint-unknown")
    elsewhere, row = await create_key(world.database, "x", ["ep-other"], 1)
    assert await refused(world, frame, key=elsewhere) == (403, "unavailable", "endpoint-forbidden")
    everywhere, row = await create_key(world.database, "x", ["*"], 1)
    assert await refused(world, frame, key=everywhere) == (403, "unavailable", "account-mismatch")
    async with world.post(world.frame(account=row.account), key=everywhere) as response:
        assert response.status == 200


async def test_a_revoked_key_stops_working(world: Any) -> None:
    await world.node()
    await world.start(key_cache_seconds=0.2)
    async with world.post(world.frame()) as response:
        assert response.status == 200
    await revoke_key(world.database, world.account, 2)
    await asyncio.sleep(0.25)
    assert (await refused(world, world.frame()))[2] == "api-key-unknown"


async def test_guessing_keys_is_slowed_down(world: Any) -> None:
    await world.node()
    await world.start(auth_failure_rpm=3, key_cache_seconds=0)
    guesses = [f"sk-th-{i:016x}-{'A' * 43}" for i in range(5)]
    seen = [(await refused(world, world.frame(), key=guess))[0] for guess in guesses]
    assert seen == [401, 401, 401, 429, 429]


async def test_rate_limit_per_key(world: Any) -> None:
    await world.node()
    await world.start(key_rpm=2)
    for _ in range(2):
        async with world.post(world.frame()) as response:
            assert response.status == 200
    async with world.post(world.frame()) as response:
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert (await response.json(content_type=None))["code"] == "over-limit"
    other, row = await create_key(world.database, "other", ["*"], 1)
    async with world.post(world.frame(account=row.account), key=other) as response:
        assert response.status == 200


async def test_open_streams_per_key_are_bounded(world: Any) -> None:
    node = await world.node()
    node.answer = node.stream(b"first", then="hang")
    await world.start(key_streams=1)
    async with world.post(world.frame()) as first:
        assert await first.content.readany() == b"first"
        assert await refused(world, world.frame()) == (429, "over-limit", None)
    node.answer = node.stream(b"again")
    await asyncio.wait_for(node.left.wait(), 2)
    async with world.post(world.frame()) as response:
        assert await response.read() == b"again"


async def test_header_must_name_this_endpoint(world: Any) -> None:
    node = await world.node()
    await world.start()
    assert await refused(world, world.frame(endpoint="ep-other")) == (400, "malformed", None)
    assert await refused(world, world.frame(account="")) == (403, "unavailable", "account-mismatch")
    assert not node.requests


async def test_lengths_must_be_exact(world: Any) -> None:
    node = await world.node()
    await world.start()
    frame = world.frame()

    async def chunked(data: bytes) -> Any:
        yield data

    malformed = (400, "malformed", None)
    assert await refused(world, frame + b"x") == malformed
    assert await refused(world, frame[:-1]) == malformed
    assert await refused(world, chunked(frame + b"x")) == malformed
    assert await refused(world, chunked(frame[:-1])) == malformed
    assert await refused(world, frame[:5]) == malformed
    assert await refused(world, b"") == malformed
    assert await refused(world, frame, **{"Content-Type": "application/json"}) == malformed
    assert not node.requests


async def test_oversize_is_refused_before_the_body_is_read(world: Any, endpoint: str) -> None:
    await world.node()
    await world.start()
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /sealed/v1/{endpoint} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.api_key}\r\n"
        f"Content-Type: {REQUEST_TYPE}\r\nContent-Length: {MAX_FRAME + 1}\r\n\r\n"
    )
    writer.write(head.encode() + b"TEEH")  # the rest never comes; the answer must
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"too-large" in await asyncio.wait_for(reader.readuntil(b"}"), 2)
    writer.close()
    huge = frame_prefix(bytes(20_000)) + bytes(20_000)
    assert await refused(world, huge) == (400, "malformed", None)
    header = world.header("0" * 64).encode().replace(b'"body_len":40', b'"body_len":%d' % (MAX_BODY + 1))
    assert await refused(world, frame_prefix(header) + header) == (400, "malformed", None)


@pytest.mark.parametrize("wrong", ["endpoint", "length"])
async def test_header_alone_decides(world: Any, endpoint: str, wrong: str) -> None:
    """A wrong header is refused while the announced body is still to come."""
    await world.node()
    await world.start()
    frame = world.frame(endpoint="ep-other" if wrong == "endpoint" else endpoint, body_len=1 << 20)
    frame += b"x" if wrong == "length" else b""
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /sealed/v1/{endpoint} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.api_key}\r\n"
        f"Content-Type: {REQUEST_TYPE}\r\nContent-Length: {len(frame)}\r\n\r\n"
    )
    writer.write(head.encode() + frame[:2000])
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 2)
    writer.close()


async def test_memory_for_bodies_is_bounded(world: Any) -> None:
    await world.node()
    await world.start()
    budget = world.gateway.sealed._budget
    budget.take("somebody", budget.total)
    assert await refused(world, world.frame()) == (503, "unavailable", None)
    budget.give("somebody", budget.total)
    budget.take(world.account, budget.total // 4)
    assert await refused(world, world.frame()) == (429, "over-limit", None)
    budget.give(world.account, budget.total // 4)
    async with world.post(world.frame()) as response:
        assert response.status == 200


async def test_a_slow_sender_is_not_waited_for(world: Any) -> None:
    await world.node()
    await world.start(body_seconds=0.2)
    frame = world.frame()

    async def slow() -> Any:
        yield frame[:-1]
        await asyncio.sleep(1)
        yield frame[-1:]

    assert (await refused(world, slow()))[0] == 408


async def test_http_1_0_is_refused(world: Any, endpoint: str) -> None:
    await world.node()
    await world.start()
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST /sealed/v1/{endpoint} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
    assert b" 505 " in await asyncio.wait_for(reader.readline(), 2)
    writer.close()


async def test_a_huge_request_head_is_refused(world: Any) -> None:
    await world.start()
    host, port = world.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\n" + b"x-fill: " + b"a" * 40_000 + b"\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 2)
    writer.close()


async def test_other_methods_and_paths(world: Any, endpoint: str) -> None:
    await world.start()
    for path, status in (
        (f"/sealed/v1/{endpoint}", 405),
        ("/sealed/v1/ep_bad!", 404),
        ("/v1/chat/completions", 404),
        ("/", 404),
        ("/openapi.json", 404),
        ("/docs", 404),
    ):
        async with world.http.get(world.url + path) as response:
            assert response.status == status, path
            assert response.headers["Content-Type"] == "application/problem+json"


async def test_nothing_secret_is_logged(world: Any) -> None:
    node = await world.node()
    marker = b"PLAINTEXT-LOOKALIKE-0123456789"
    node.answer = node.stream(marker)
    await world.start()
    frame = world.frame()[: -len(marker)] + marker
    async with world.post(frame) as response:
        await response.read()
    await world.settled()
    await refused(world, frame, key=f"sk-th-{world.account}-{'B' * 43}")
    await refused(world, frame[:-1])
    node.answer = node.stream(marker, then="abort")
    with pytest.raises(aiohttp.ClientPayloadError):
        async with world.post(world.frame()[: -len(marker)] + marker) as response:
            await response.read()
    await world.settled()
    log = world.log.getvalue()
    assert world.api_key not in log
    assert world.api_key[23:35] not in log
    assert "B" * 12 not in log
    assert marker.decode() not in log
    assert "uthorization" not in log
    lines = [line for line in world.log_lines() if line["event"] == "sealed"]
    assert {
        "event",
        "level",
        "timestamp",
        "request_id",
        "endpoint",
        "account",
        "status",
        "bytes_in",
        "bytes_out",
        "seconds",
        "cut",
    } == set().union(*lines)
    assert [line["status"] for line in lines] == [200, 401, 400, 200]
    assert lines[0]["bytes_in"] == len(frame)
    assert lines[0]["bytes_out"] == len(marker)


async def test_metrics(world: Any, endpoint: str) -> None:
    await world.node()
    await world.start()
    frame = world.frame()
    async with world.post(frame) as response:
        size = len(await response.read())
    await refused(world, frame[:-1])
    await refused(world, frame, endpoint="ep-made-up")
    assert await world.metric("teehouse_gateway_requests_total", endpoint=endpoint, code="200") == 1
    assert await world.metric("teehouse_gateway_requests_total", endpoint=endpoint, code="400") == 1
    assert await world.metric("teehouse_gateway_requests_total", endpoint="", code="404") == 1
    assert await world.metric("teehouse_gateway_bytes_total", direction="in", endpoint=endpoint) >= len(frame)
    assert await world.metric("teehouse_gateway_bytes_total", direction="out", endpoint=endpoint) >= size
    assert await world.metric("teehouse_gateway_first_byte_seconds_count", endpoint=endpoint) == 1
    assert await world.metric("teehouse_gateway_nodes_ready", endpoint=endpoint) == 1
    await world.settled()
    assert await world.metric("teehouse_gateway_in_flight") == 0
    async with world.http.get(f"{world.url}/metrics") as response:
        text = await response.text()
    assert world.account not in text
    assert "ep-made-up" not in text


async def test_concurrent_streams_do_not_mix(world: Any) -> None:
    from aiohttp import web

    node = await world.node()

    async def echo(request: web.Request) -> web.StreamResponse:
        tail = node.requests[-1][1][-16:]
        response = web.StreamResponse(headers={"Content-Type": RESPONSE_TYPE})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(20):
            await response.write(tail)
            await asyncio.sleep(0)
        return response

    node.answer = echo
    await world.start()

    async def one() -> None:
        tail = os.urandom(16)
        async with world.post(world.frame()[:-16] + tail) as response:
            assert await response.read() == tail * 20

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(50)))
    assert time.monotonic() - began < 20


async def test_a_request_id_is_relayed_once_and_its_retry_after_unknown_key_only(world: Any, keyset: Any) -> None:
    node = await world.node()
    await world.start()
    frame = world.frame(request_id="A" * 22)
    async with world.post(frame) as response:
        assert response.status == 200
    for again in (frame, world.frame(request_id="A" * 22), world.frame(request_id="A" * 22, attempt=1)):
        assert (await refused(world, again))[:2] == (400, "replayed")
    assert len(node.requests) == 1
    node.answer = node.problem("unknown-key", 422)
    assert (await refused(world, world.frame(request_id="B" * 21 + "A")))[:2] == (422, "unknown-key")
    node.answer = node.stream(b"now")
    async with world.post(world.frame(request_id="B" * 21 + "A", attempt=1)) as response:
        assert response.status == 200
    assert (await refused(world, world.frame(request_id="B" * 21 + "A", attempt=1)))[:2] == (400, "replayed")
