# SPDX-License-Identifier: Apache-2.0
"""The node over real HTTP: answers, refusals, cancellation, rotation; each driven by the real client machine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from typing import Any

import pytest
from node_support import ACCOUNT, ENDPOINT, LAST, Node, ScriptedEngine, chunk, running_node

from teehouse_core.errors import EvidenceRefused
from teehouse_core.seal.client import AnswerEnd
from teehouse_core.seal.inner import InnerOptions
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.receipts import UsageRecord
from teehouse_enclave.engine.base import EngineError
from teehouse_enclave.node import coalesce

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
STREAM = {**HELLO, "stream": True}
STEPS = [chunk("one "), chunk("two "), chunk("three"), chunk(finish="stop"), LAST]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def usage_records(node: Node) -> list[UsageRecord]:
    page = (await node.http.get(f"{node.url}/v1/usage", params={"after": "0"})).json()
    return [UsageRecord.parse(unb64u(one["record"])) for one in page["records"]]


def end_of(end: AnswerEnd | None) -> AnswerEnd:
    assert end is not None
    return end


@pytest.mark.parametrize("armored", [False, True])
@pytest.mark.parametrize("shape", ["off", "pad", "constant"])
async def test_streamed_answer_with_receipt(armored: bool, shape: Any) -> None:
    engine = ScriptedEngine(STEPS)
    async with running_node(engine) as node:
        reply = await node.ask(STREAM, armored=armored, options=InnerOptions(shape, 5))
    assert (reply.status, reply.texts()) == (200, "one two three")
    receipt = end_of(reply.end).receipt
    assert (receipt.finish, receipt.usage.input_tokens, receipt.usage.output_tokens) == ("stop", 2, 3)
    assert receipt.model.name == "scripted"
    assert b"[DONE]" not in reply.body


async def test_whole_answer_is_one_chat_completion() -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        reply = await node.ask(HELLO)
    document = json.loads(reply.body)
    assert document["object"] == "chat.completion"
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "one two three", "refusal": None}
    assert document["usage"]["total_tokens"] == 5


async def test_tool_call_pieces_are_joined() -> None:
    def call(arguments: str, **first: Any) -> dict[str, Any]:
        step = chunk()
        step["choices"][0]["delta"] = {"tool_calls": [{"index": 0, "function": {"arguments": arguments, **first}}]}
        return step

    steps = [call('{"city"', name="weather"), call(':"Bern"}'), chunk(finish="tool_calls"), LAST]
    async with running_node(ScriptedEngine(steps)) as node:
        document = json.loads((await node.ask(HELLO)).body)
    choice = document["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Bern"}'}
    assert choice["finish_reason"] == "tool_calls"


async def test_usage_is_streamed_only_when_asked_for() -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        without = await node.ask(STREAM)
        with_usage = await node.ask({**STREAM, "stream_options": {"include_usage": True}})
    assert b'"usage"' not in without.body
    assert b'"total_tokens":5' in with_usage.body.split(b"\n\n")[-2]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{not json", 400, "invalid-json"),
        (b"[1]", 400, "invalid-json"),
        ({**HELLO, "model": "another"}, 404, "model_not_found"),
    ],
)
async def test_errors_about_content_are_sealed(body: Any, status: int, code: str) -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        reply = await node.ask(body)
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (status, code)
    assert end_of(reply.end).status == status


async def test_unsupported_operation_is_sealed() -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        request = node.seal(await node.accept(), HELLO, op="embeddings")
        response = await node.post(request.frame)
        assert response.status_code == 200
        assert response.content[0] == 1


async def test_engine_error_before_the_first_chunk_is_the_answer() -> None:
    engine = ScriptedEngine([EngineError(400, "context_length_exceeded", "too long")])
    async with running_node(engine) as node:
        reply = await node.ask(STREAM)
    assert (reply.status, json.loads(reply.body)["error"]["code"]) == (400, "context_length_exceeded")


async def test_engine_failure_midway_ends_the_stream_with_an_error_event() -> None:
    engine = ScriptedEngine([chunk("one "), 0.05, RuntimeError("secret prompt words")])
    async with running_node(engine) as node:
        reply = await node.ask(STREAM)
    last = json.loads(reply.body.split(b"\n\n")[-2][6:])
    assert last["error"]["code"] == "engine-failed"
    assert b"secret prompt" not in reply.body
    assert (end_of(reply.end).status, end_of(reply.end).finish) == (500, "error")


async def test_an_engine_that_stops_without_its_last_chunk_failed() -> None:
    async with running_node(ScriptedEngine([chunk("one ")])) as node:
        reply = await node.ask(HELLO)
    assert end_of(reply.end).status == 500


async def test_silence_brings_cover_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "KEEP_ALIVE", 0.05)
    engine = ScriptedEngine([0.4, *STEPS])
    async with running_node(engine) as node:
        reply = await node.ask(STREAM)
    assert reply.texts() == "one two three"
    assert len(reply.raw) > 4  # head, several covers, body, trailer came one after the other


async def test_constant_shape_sends_records_of_one_size() -> None:
    steps = [chunk("x" * 30), 0.03] * 6 + [chunk("y" * 3000), chunk(finish="stop"), LAST]
    async with running_node(ScriptedEngine(steps)) as node:
        reply = await node.ask(STREAM, armored=True, options=InnerOptions("constant", 10))
    lines = b"".join(reply.raw).split(b"\n\n")[2:-2]  # without prefix, head and trailer
    assert len({len(line) for line in lines}) == 1
    assert len(lines) > 10


async def test_fast_tokens_share_records_and_slow_ones_do_not_wait() -> None:
    fast = ScriptedEngine([*[chunk("t ") for _ in range(200)], chunk(finish="stop"), LAST])
    async with running_node(fast) as node:
        reply = await node.ask(STREAM)
    assert len(reply.pieces) < 20
    slow = ScriptedEngine([chunk("a"), 0.1, chunk("b"), 0.1, chunk("c"), chunk(finish="stop"), LAST])
    async with running_node(slow) as node:
        reply = await node.ask(STREAM)
    assert len(reply.pieces) >= 3


async def test_a_client_that_leaves_stops_the_engine_within_a_second() -> None:
    engine = ScriptedEngine([chunk("word "), 0.02], repeat=True)
    async with running_node(engine) as node:
        request = node.seal(await node.accept(), STREAM)
        async with node.http.stream(
            "POST",
            f"{node.url}/sealed/v1/{ENDPOINT}",
            content=request.frame,
            headers={"content-type": "application/vnd.teehouse.sealed-request"},
        ) as response:
            async for _ in response.aiter_raw():
                break
            assert engine.running == 1
        left = time.monotonic()
        await asyncio.wait_for(engine.closed.wait(), 1.0)
        assert time.monotonic() - left < 1.0
        for _ in range(100):
            if records := await usage_records(node):
                break
            await asyncio.sleep(0.01)
        assert (records[0].status, records[0].account) == (499, ACCOUNT)
        assert records[0].usage.output_tokens >= 1
        assert node.app.active == 0


async def test_usage_records_are_signed_and_numbered() -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        await node.ask(HELLO)
        await node.ask(HELLO)
        page = (await node.http.get(f"{node.url}/v1/usage", params={"after": "1"})).json()
        assert [one["seq"] for one in page["records"]] == [2]
        records = await usage_records(node)
    assert len({record.request_id for record in records}) == 2
    assert all(record.usage.output_tokens == 3 for record in records)


@pytest.mark.parametrize("after", ["x", "-1", "9" * 40])
async def test_bad_usage_cursor(after: str) -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        response = await node.http.get(f"{node.url}/v1/usage", params={"after": after})
    assert (response.status_code, response.json()["code"]) == (400, "malformed")


async def test_callers_are_told_apart_by_what_they_sealed_only() -> None:
    engine = ScriptedEngine(STEPS)
    async with running_node(engine) as node:
        accepted = await node.accept()
        for secret in (b"a" * 32, b"a" * 32, b"b" * 32):
            request = node.seal(accepted, HELLO, cache_secret=secret)
            assert (await node.post(request.frame)).status_code == 200
    assert engine.tenants[0] == engine.tenants[1] != engine.tenants[2]


class TestRefusals:
    """What never reaches the engine, and the one word that leaves in clear."""

    async def refuse(self, node: Node, frame: bytes, status: int, code: str) -> None:
        response = await node.post(frame)
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert set(response.json()) <= {"type", "title", "status", "code"}

    async def test_replay(self) -> None:
        engine = ScriptedEngine(STEPS)
        async with running_node(engine) as node:
            frame = node.seal(await node.accept(), HELLO).frame
            assert (await node.post(frame)).status_code == 200
            await self.refuse(node, frame, 400, "replayed")
        assert len(engine.bodies) == 1

    async def test_expired_and_early(self) -> None:
        engine = ScriptedEngine(STEPS)
        async with running_node(engine) as node:
            accepted = await node.accept()
            late, early = node.seal(accepted, HELLO).frame, node.seal(accepted, HELLO, now=int(time.time()) + 70).frame
            await self.refuse(node, early, 400, "expired")
            node.shift[0] = 130
            await self.refuse(node, late, 400, "expired")
        assert engine.bodies == []

    async def test_another_node_of_the_same_endpoint(self) -> None:
        async with running_node(ScriptedEngine(STEPS)) as one, running_node(ScriptedEngine(STEPS)) as other:
            frame = one.seal(await one.accept(), HELLO).frame
            await self.refuse(other, frame, 422, "unknown-key")

    async def test_flipped_bits(self) -> None:
        engine = ScriptedEngine(STEPS)
        async with running_node(engine) as node:
            frame = bytearray(node.seal(await node.accept(), HELLO).frame)
            for at in (0, 5, 40, len(frame) // 2, len(frame) - 1):
                spoiled = bytearray(frame)
                spoiled[at] ^= 1
                assert (await node.post(bytes(spoiled))).status_code in (400, 422)
        assert engine.bodies == []

    async def test_clear_text_requests_find_no_door(self) -> None:
        engine = ScriptedEngine(STEPS)
        async with running_node(engine) as node:
            clear = await node.http.post(f"{node.url}/v1/chat/completions", json=HELLO)
            typed = await node.http.post(f"{node.url}/sealed/v1/{ENDPOINT}", json=HELLO)
        assert clear.status_code == 404
        assert (typed.status_code, typed.json()["code"]) == (400, "malformed")
        assert engine.bodies == []

    async def test_too_many_at_a_time(self) -> None:
        engine = ScriptedEngine([chunk("w "), 0.05], repeat=True)
        async with running_node(engine, max_active=1) as node:
            accepted = await node.accept()
            first = node.seal(accepted, STREAM).frame
            headers = {"content-type": "application/vnd.teehouse.sealed-request"}
            url = f"{node.url}/sealed/v1/{ENDPOINT}"
            async with node.http.stream("POST", url, content=first, headers=headers) as response:
                assert response.status_code == 200
                second = await node.post(node.seal(accepted, STREAM).frame)
                assert (second.status_code, second.json()["code"]) == (429, "over-limit")
                assert second.headers["retry-after"] == "1"

    async def test_full_replay_memory_refuses_and_forgets_nothing(self) -> None:
        async with running_node(ScriptedEngine(STEPS), seen_capacity=1) as node:
            accepted = await node.accept()
            first = node.seal(accepted, HELLO).frame
            assert (await node.post(first)).status_code == 200
            await self.refuse(node, node.seal(accepted, HELLO).frame, 503, "unavailable")
            await self.refuse(node, first, 400, "replayed")

    async def test_draining(self) -> None:
        async with running_node(ScriptedEngine(STEPS)) as node:
            frame = node.seal(await node.accept(), HELLO).frame
            node.app.draining = True
            await self.refuse(node, frame, 503, "unavailable")
            assert (await node.http.get(f"{node.url}/readyz")).status_code == 503

    async def test_concurrent_replays_open_once(self) -> None:
        engine = ScriptedEngine(STEPS)
        async with running_node(engine) as node:
            big = {"messages": [{"role": "user", "content": "x" * (2 << 20)}]}
            frame = node.seal(await node.accept(), big).frame
            answers = await asyncio.gather(*(node.post(frame) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 5
        assert len(engine.bodies) == 1


async def test_a_large_request_is_opened() -> None:
    engine = ScriptedEngine(STEPS)
    content = "x" * (20 << 20)
    async with running_node(engine) as node:
        reply = await node.ask({"messages": [{"role": "user", "content": content}]})
    assert reply.status == 200
    assert engine.bodies[0]["messages"][0]["content"] == content


async def test_evidence_for_bad_challenges_and_at_a_bounded_rate() -> None:
    async with running_node(ScriptedEngine(STEPS), evidence_per_second=1) as node:
        url = f"{node.url}/v1/evidence"
        for challenge in ("", "!!!!", b64u(b"x" * 31), b64u(b"x" * 33)):
            response = await node.http.get(url, params={"challenge": challenge})
            assert (response.status_code, response.json()["code"]) == (400, "malformed")
        codes = [(await node.http.get(url, params={"challenge": b64u(b"x" * 32)})).status_code for _ in range(4)]
    assert codes == [200, 200, 429, 429]


async def test_rotation_overlaps_and_old_keys_end() -> None:
    engine = ScriptedEngine(STEPS)
    async with running_node(engine, key_active_s=100, key_overlap_s=20, key_decrypt_only_s=10) as node:
        before = await node.accept()
        sealed_early = node.seal(before, HELLO, lifetime=300)
        assert not node.keys.tick(int(time.time()) + 79)
        node.shift[0] = 81
        assert node.keys.tick(int(time.time()) + 81)
        after = await node.accept()
        assert after.keyset_digest != before.keyset_digest
        assert [key.kid for key in after.keyset.hpke][1] == before.keyset.hpke[0].kid
        assert (await node.post(sealed_early.frame)).status_code == 200  # old pair, still served
        assert (await node.ask(HELLO, accepted=after)).status == 200
        late = node.seal(before, HELLO, now=int(time.time()) + 95, lifetime=300)
        node.shift[0] = 111
        response = await node.post(late.frame)
        assert response.json()["code"] == "unknown-key"
        assert len(node.keys.ring.keysets(int(time.time()) + 111)) == 1


async def test_strict_policy_refuses_the_simulated_node() -> None:
    from teehouse_core.appraise.policy import Policy

    async with running_node(ScriptedEngine(STEPS)) as node:
        with pytest.raises(EvidenceRefused) as refused:
            await node.accept(policy=Policy.preset("strict"))
    failed = {check.id for check in refused.value.verdict.checks if check.state == "failed"}
    assert "policy.platform" in failed


async def test_metrics_count_and_hold_no_content() -> None:
    async with running_node(ScriptedEngine(STEPS)) as node:
        await node.ask({"messages": [{"role": "user", "content": "canary-words-in-prompt"}]})
        text = (await node.http.get(f"{node.url}/metrics")).text
        assert (await node.http.get(f"{node.url}/healthz")).json() == {"status": "ok"}
    assert 'teehouse_node_requests_total{code="ok"} 1' in text
    assert "canary" not in text


async def test_a_keyset_cannot_claim_what_was_not_measured() -> None:
    engine = ScriptedEngine(STEPS)
    async with running_node(engine) as node:
        identity = node.keys._identity
        other = dataclasses.replace(identity, software=dataclasses.replace(identity.software, image_sha256="00" * 32))
        node.keys._identity = other
        node.keys._publish(int(time.time()))
        with pytest.raises(EvidenceRefused) as refused:
            await node.accept()
    failed = {check.id for check in refused.value.verdict.checks if check.state == "failed"}
    assert "binding.image-sha256" in failed
