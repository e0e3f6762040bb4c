# SPDX-License-Identifier: Apache-2.0
"""The evidence relay: the client's challenge goes out, bundles come back as they are, some missing is no failure."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest

from teehouse_core.wire.canonical import b64u

pytestmark = pytest.mark.anyio


async def ask(world: Any, endpoint: str, query: str) -> tuple[int, dict[str, Any]]:
    async with world.http.get(f"{world.url}/sealed/v1/{endpoint}/evidence?{query}") as response:
        return response.status, json.loads(await response.read())


def fresh() -> str:
    return b64u(os.urandom(32))


async def test_bundles_come_back_untouched(world: Any, endpoint: str) -> None:
    a, b = await world.node("node-a"), await world.node("node-b")
    await world.start()
    challenge = fresh()
    status, answer = await ask(world, endpoint, f"challenge={challenge}&n=4")
    assert status == 200
    assert (answer["v"], answer["endpoint"]) == ("evidence-set/1", endpoint)
    assert {base64.b64decode(x, validate=True) for x in answer["bundles"]} == {a.evidence, b.evidence}
    assert challenge in a.challenges
    assert challenge in b.challenges
    status, answer = await ask(world, endpoint, f"challenge={fresh()}&n=1")
    assert len(answer["bundles"]) == 1
    status, answer = await ask(world, endpoint, f"challenge={fresh()}")
    assert len(answer["bundles"]) == 2


async def test_partial_success_and_none(world: Any, endpoint: str) -> None:
    a, b = await world.node("node-a"), await world.node("node-b")
    c = await world.node("node-c")
    await world.start(poll_seconds=60)
    a.evidence = None
    await b.stop()
    status, answer = await ask(world, endpoint, f"challenge={fresh()}&n=2")
    assert status == 200
    assert [base64.b64decode(x) for x in answer["bundles"]] == [c.evidence]
    c.evidence = None
    assert (await ask(world, endpoint, f"challenge={fresh()}&n=2"))[0] == 503
    a.evidence_status = c.evidence_status = 429
    status, answer = await ask(world, endpoint, f"challenge={fresh()}&n=2")
    assert (status, answer["code"]) == (429, "over-limit")


async def test_no_node_at_all(world: Any, endpoint: str) -> None:
    await world.start()
    status, answer = await ask(world, endpoint, f"challenge={fresh()}")
    assert (status, answer["code"]) == (503, "unavailable")
    status, answer = await ask(world, "ep-none", f"challenge={fresh()}")
    assert (status, answer["reason"]) == (404, "endpoint-unknown")


async def test_an_oversize_bundle_is_dropped(world: Any, endpoint: str) -> None:
    a = await world.node("node-a")
    await world.node("node-b")
    await world.start(poll_seconds=60)
    a.evidence = bytes((16 << 20) + 1)
    status, answer = await ask(world, endpoint, f"challenge={fresh()}&n=2")
    assert (status, len(answer["bundles"])) == (200, 1)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "challenge=",
        "challenge=abc",
        "challenge=" + "A" * 42,
        "challenge=" + "A" * 42 + "B",  # spare bits set
        "challenge=" + "A" * 43 + "=",
        "challenge=" + "A" * 43 + "&challenge=" + "A" * 43,
        "challenge=" + "A" * 43 + "&n=0",
        "challenge=" + "A" * 43 + "&n=5",
        "challenge=" + "A" * 43 + "&n=01",
        "challenge=" + "A" * 43 + "&n=1&n=2",
        "challenge=" + "A" * 43 + "&x=" + "y" * 600,
        "challenge=%00&n=1",
        "&".join(f"a{i}=1" for i in range(20)),
    ],
)
async def test_malformed_queries(world: Any, endpoint: str, query: str) -> None:
    a = await world.node()
    await world.start(poll_seconds=60, report_seconds=600)
    before = len(a.challenges)
    status, answer = await ask(world, endpoint, query)
    assert (status, answer["code"]) == (400, "malformed")
    assert len(a.challenges) <= before + 1  # at most the gateway's own report fetch


async def test_limited_by_client_address(world: Any, endpoint: str) -> None:
    await world.node()
    await world.start(evidence_rpm=2)
    seen = [(await ask(world, endpoint, f"challenge={fresh()}"))[0] for _ in range(3)]
    assert seen == [200, 200, 429]
