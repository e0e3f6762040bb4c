# SPDX-License-Identifier: Apache-2.0
"""The echo engine: what it says, when it says it, and who may ask."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse_enclave.engine import Engine, EngineError, EngineSpec, make_engine
from teehouse_enclave.engine.admission import Admission
from teehouse_enclave.engine.echo import _WORDS, ECHO_WEIGHTS_SHA256, _Stop

pytestmark = pytest.mark.anyio


async def echo(**more: Any) -> Engine:
    engine = make_engine(EngineSpec.parse({"kind": "echo", **more}))
    info = await engine.start()
    assert (info.engine, info.model, info.weights_sha256) == ("echo", "echo", ECHO_WEIGHTS_SHA256)
    return engine


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


async def answer(engine: Engine, body: dict[str, Any]) -> tuple[str, str, dict[str, int], list[dict[str, Any]]]:
    chunks = [chunk async for chunk in engine.chat(body, tenant=b"t", request_id="r")]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return text, choices[-1]["finish_reason"], chunks[-1]["usage"], chunks


async def test_it_repeats_the_last_user_message_word_by_word() -> None:
    engine = await echo()
    text, reason, usage, chunks = await answer(engine, ask("one  two\nthree"))
    assert text == "echo: one  two\nthree"
    assert reason == "stop"
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 4, 7)
    assert len(chunks) == 4 + 3  # role, four words, finish, usage
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    earlier = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "x"}, *ask("new")["messages"]]
    assert (await answer(engine, {"messages": earlier}))[0] == "echo: new"


async def test_limits_and_stops() -> None:
    engine = await echo(context=64)
    assert (await answer(engine, ask("a b c d", max_tokens=3)))[:2] == ("echo: a b", "length")
    assert (await answer(engine, ask("a b c d", max_tokens=5)))[:2] == ("echo: a b c d", "stop")
    assert (await answer(engine, ask("a b c d", stop="b c")))[:2] == ("echo: a ", "stop")
    text, reason, usage, _ = await answer(engine, ask("count 500"))
    assert text.split()[-1] == "62"  # the context is full
    assert (reason, usage["completion_tokens"]) == ("length", 62)
    with pytest.raises(EngineError) as caught:
        await answer(engine, ask("word " * 64))
    assert caught.value.code == "context_length_exceeded"


async def test_count() -> None:
    assert (await answer(await echo(), ask("count 5")))[0] == "1 2 3 4 5"


async def test_tool_calls() -> None:
    engine = await echo()
    tools = [{"type": "function", "function": {"name": "weather"}}]
    _, reason, _, chunks = await answer(engine, ask('call weather {"city": "Paris"}', tools=tools))
    assert reason == "tool_calls"
    (call,) = chunks[1]["choices"][0]["delta"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    for text in ("call other {}", "call weather {nonsense}", "call me"):
        assert (await answer(engine, ask(text, tools=tools)))[0].startswith("echo: call")


async def test_images_are_named_by_size() -> None:
    engine = await echo()
    data = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 2, 2) + bytes(10)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": parts}]}
    assert (await answer(engine, body))[0] == f"echo: look [1 images: {len(data)} bytes]"


async def test_schemas_are_refused() -> None:
    with pytest.raises(EngineError) as caught:
        await answer(await echo(), ask("x", response_format={"type": "json_object"}))
    assert caught.value.param == "response_format"


async def test_pace() -> None:
    engine = await echo(pace=100, first_token_delay=0.1)
    began = time.monotonic()
    await answer(engine, ask("count 21"))
    assert 0.3 <= time.monotonic() - began < 2.0


async def test_many_streams_without_cross_talk() -> None:
    engine = await echo(pace=2000)
    texts = [f"stream {n} " + "word " * 20 + str(n) for n in range(256)]
    answers = await asyncio.gather(*(answer(engine, ask(text)) for text in texts))
    assert [one[0] for one in answers] == [f"echo: {text}" for text in texts]


async def test_cancelling_frees_the_slot_and_the_queue_is_bounded() -> None:
    engine = await echo(parallel=1, queue=1, pace=10)
    stream = engine.chat(ask("count 1000"), tenant=b"", request_id="")
    async with aclosing(stream):
        await anext(stream)
        queued = asyncio.create_task(answer(engine, ask("hi")))
        await asyncio.sleep(0)
        with pytest.raises(EngineError) as caught:
            await answer(engine, ask("hi"))
        assert (caught.value.status, caught.value.code) == (503, "engine-overloaded")
    assert (await queued)[0] == "echo: hi"


async def test_nothing_before_start_or_after_close() -> None:
    engine = make_engine(EngineSpec.parse({"kind": "echo"}))
    assert await engine.ready() == {"engine": False}
    with pytest.raises(EngineError) as caught:
        await answer(engine, ask("x"))
    assert (caught.value.status, caught.value.code) == (503, "engine-not-started")
    await engine.start()
    assert await engine.ready() == {"engine": True}
    await engine.close()
    assert await engine.ready() == {"engine": False}
    with pytest.raises(EngineError):
        await answer(engine, ask("x"))


@given(st.text())
def test_words_lose_nothing(text: str) -> None:
    assert "".join(match[0] for match in _WORDS.finditer(text)) == text


@given(st.lists(st.text(alphabet="abc ", max_size=4), max_size=8), st.lists(st.text("abc ", min_size=1), max_size=3))
def test_stop_strings_cut_as_on_the_whole_text(words: list[str], stops: list[str]) -> None:
    whole = "".join(words)
    found = [at for at in (whole.find(stop) for stop in stops) if at >= 0]
    stop = _Stop(tuple(stops))
    shown = ""
    for word in words:
        shown += stop.feed(word)
        if stop.hit:
            break
    shown += stop.rest()
    # A stop string that ends early wins over one that begins early and ends later: it was complete first.
    assert stop.hit == bool(found)
    assert whole.startswith(shown)
    assert not any(one in shown for one in stops)
    if not found:
        assert shown == whole


# ── admission ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_admission_is_first_come_first_served() -> None:
    door = Admission(1, 3)
    await door.acquire()
    order: list[int] = []

    async def enter(number: int) -> None:
        await door.acquire()
        order.append(number)
        door.release()

    tasks = [asyncio.create_task(enter(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert door.waiting == 3
    with pytest.raises(EngineError):
        await door.acquire()
    door.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert (door.active, door.waiting) == (0, 0)


async def test_a_slot_handed_to_somebody_who_left_is_not_lost() -> None:
    door = Admission(1, 3)
    await door.acquire()
    leaving, staying = asyncio.create_task(door.acquire()), asyncio.create_task(door.acquire())
    await asyncio.sleep(0)
    door.release()  # hands the slot to the first one …
    leaving.cancel()  # … who is cancelled before it could run
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.wait_for(staying, 1)
    door.release()
    assert (door.active, door.waiting) == (0, 0)
    await door.acquire()


async def test_closing_turns_the_waiting_away() -> None:
    door = Admission(1, 3)
    await door.acquire()
    waiting = asyncio.create_task(door.acquire())
    await asyncio.sleep(0)
    door.close()
    for attempt in (waiting, door.acquire()):
        with pytest.raises(EngineError) as caught:
            await attempt
        assert caught.value.code == "engine-closed"
