# SPDX-License-Identifier: Apache-2.0
"""The llama.cpp engine with a real model: every answer here was generated."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from teehouse_core.errors import OperatorError
from teehouse_enclave.engine import Engine, EngineError, EngineSpec, make_engine
from teehouse_enclave.engine._worker import QUEUE_CHUNKS, NativeStream
from teehouse_enclave.engine.llamacpp import LlamaCppEngine

pytestmark = [pytest.mark.anyio, pytest.mark.model]

CONTEXT = 1024
SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NEVER_ENDING = {"messages": [{"role": "user", "content": "Tell a long story."}], "logit_bias": {"2": -100, "0": -100}}


def spec(path: Path, **more: Any) -> EngineSpec:
    raw = {"kind": "llamacpp", "name": "smollm2", "path": str(path), "context": CONTEXT, "parallel": 4, "queue": 4}
    return EngineSpec.parse(raw | more)


@pytest.fixture(scope="module")
async def engine(model_path: Path, anyio_backend: str) -> AsyncIterator[Engine]:
    engine = make_engine(spec(model_path))
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
async def narrow(model_path: Path, anyio_backend: str) -> AsyncIterator[Engine]:
    """One slot, room for one in the queue."""
    engine = make_engine(spec(model_path, parallel=1, queue=1))
    await engine.start()
    yield engine
    await engine.close()


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **more}


async def chunks_of(engine: Engine, body: dict[str, Any]) -> list[dict[str, Any]]:
    return [chunk async for chunk in engine.chat(body, tenant=b"t", request_id="r")]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def reason_of(chunks: list[dict[str, Any]]) -> str:
    (reason,) = {c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]}
    return str(reason)


async def refusal(engine: Engine, body: dict[str, Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await chunks_of(engine, body)
    return caught.value


async def test_chunks_are_openais_and_leak_nothing(engine: Engine, model_path: Path) -> None:
    chunks = await chunks_of(engine, ask("Say hello."))
    assert len(chunks) > 4
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"smollm2"}
    (name,) = {chunk["id"] for chunk in chunks}
    assert name.startswith("chatcmpl-")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in c["delta"] for chunk in chunks[1:] for c in chunk["choices"])
    assert all(set(chunk) <= {"id", "object", "created", "model", "choices", "usage"} for chunk in chunks)
    assert "/proc" not in json.dumps(chunks)
    assert model_path.name not in json.dumps(chunks)
    assert reason_of(chunks) in ("stop", "length")
    usage = chunks[-1]["usage"]
    assert chunks[-1]["choices"] == []
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 24
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}


async def test_same_seed_same_answer_other_seed_other_answer(engine: Engine) -> None:
    warm = ask("Invent a name for a tea house.", temperature=1.5, max_tokens=32)
    one, same, other = [text_of(await chunks_of(engine, warm | {"seed": seed})) for seed in (7, 7, 8)]
    assert one == same
    assert one != other
    greedy = [text_of(await chunks_of(engine, ask("What is water?"))) for _ in range(2)]
    assert greedy[0] == greedy[1]
    assert greedy[0]


async def test_a_repeated_prompt_is_not_cached(engine: Engine) -> None:
    """The second time must cost the whole prefill again, or timing tells who asked the same before."""
    for _ in range(3):
        chunks = await chunks_of(engine, ask("tea " * 200, max_tokens=1))
        assert chunks[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_parallel_streams_do_not_mix(engine: Engine) -> None:
    """Four questions at once. Batched arithmetic may round differently, so subjects are compared, not whole texts."""
    topics = {"cat": "cats", "sea": "the sea", "bread": "bread", "winter": "winter"}
    bodies = [ask(f"Write one sentence about {topic}.") for topic in topics.values()]
    together = await asyncio.gather(*(chunks_of(engine, body) for body in bodies))
    assert len({chunk["id"] for chunks in together for chunk in chunks}) == 4
    for word, chunks in zip(topics, together, strict=True):
        text = text_of(chunks).lower()
        assert word in text
        assert not any(other in text for other in set(topics) - {word})


async def test_parallel_streams_keep_their_own_grammar(engine: Engine) -> None:
    wanted = [f"{word} {word} {word} {number}" for number, word in enumerate(("one", "two", "three", "four"))]
    schemas = [{"type": "json_schema", "json_schema": {"name": "w", "schema": {"const": text}}} for text in wanted]
    together = await asyncio.gather(
        *(chunks_of(engine, ask("Speak.", response_format=schema, temperature=1)) for schema in schemas)
    )
    assert [json.loads(text_of(chunks)) for chunks in together] == wanted


async def test_stop_strings(engine: Engine) -> None:
    whole = text_of(await chunks_of(engine, ask("Count from one to ten.", max_tokens=60)))
    stop = whole[10:14]
    chunks = await chunks_of(engine, ask("Count from one to ten.", max_tokens=60, stop=[stop]))
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert reason_of(chunks) == "stop"


async def test_max_tokens_is_the_smaller_of_its_two_names(engine: Engine) -> None:
    chunks = await chunks_of(engine, ask("Tell a story.", max_tokens=9, max_completion_tokens=5))
    assert chunks[-1]["usage"]["completion_tokens"] == 5
    assert reason_of(chunks) == "length"


async def test_json_schema_output_parses(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
            "kind": {"enum": ["cat", "dog"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "pet", "schema": schema}}
    chunks = await chunks_of(engine, ask("Describe a pet.", max_tokens=120, response_format=shape))
    pet = json.loads(text_of(chunks))
    assert set(pet) == {"name", "age", "kind"}
    assert len(pet["name"]) <= 12
    assert 1 <= pet["age"] <= 99
    assert pet["kind"] in ("cat", "dog")


async def test_json_object_output_begins_as_one(engine: Engine) -> None:
    chunks = await chunks_of(engine, ask("A pet as JSON.", response_format={"type": "json_object"}))
    assert text_of(chunks).lstrip().startswith("{")


async def test_logprobs(engine: Engine) -> None:
    chunks = await chunks_of(engine, ask("Say hello.", max_tokens=3, logprobs=True, top_logprobs=2))
    given = [c["logprobs"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert len(given) >= 3
    token = given[0]["content"][0]
    assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
    assert len(token["top_logprobs"]) == 2


async def test_context_overflow(engine: Engine) -> None:
    error = await refusal(engine, ask("secretword " * 2000))
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    assert error.type == "invalid_request_error"
    assert "secretword" not in str(error.openai())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_required_parameter"),
        ({"messages": []}, "empty_array"),
        ({"messages": "hi"}, "invalid_type"),
        (ask("x", tools=[{"type": "function", "function": {"name": "f"}}]), "tools_unsupported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "image_unsupported",
        ),
        (ask("x", n=2), "unsupported_parameter"),
        (ask("x", id_slot=0), "unsupported_parameter"),
        (ask("x", cache_prompt=True), "unsupported_parameter"),
    ],
)
async def test_bad_requests_are_refused_before_the_engine(engine: Engine, body: dict[str, Any], code: str) -> None:
    error = await refusal(engine, body)
    assert (error.status, error.code) == (400, code)


async def test_a_native_refusal_is_translated_without_its_text(engine: Engine) -> None:
    """A schema that passes our own check and not llama.cpp's: a reference to nowhere."""
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/$defs/secretname"}}}
    error = await refusal(engine, ask("x", response_format=shape))
    assert (error.status, error.code, error.param) == (400, "schema_unsupported", "response_format")
    assert "secretname" not in str(error.openai())
    assert error.__cause__ is None
    assert error.__suppress_context__


async def test_cancelling_frees_the_only_slot_within_a_second(narrow: Engine) -> None:
    stream = narrow.chat(NEVER_ENDING, tenant=b"t", request_id="r")
    async with aclosing(stream):
        for _ in range(8):
            await anext(stream)
    began = time.monotonic()
    assert text_of(await chunks_of(narrow, ask("Say hello.", max_tokens=2)))
    assert time.monotonic() - began < 1.0


async def test_cancelling_a_prefill_frees_the_slot(narrow: Engine) -> None:
    long = asyncio.create_task(chunks_of(narrow, ask("tea " * (CONTEXT - 100), max_tokens=1)))
    await asyncio.sleep(0.3)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    began = time.monotonic()
    assert await chunks_of(narrow, ask("Say hello.", max_tokens=1))
    # One or two steps of 64 tokens, and the short answer itself; the whole prefill would take several seconds.
    assert time.monotonic() - began < 2.0


async def test_overload_is_refused_and_the_queue_is_served(narrow: Engine) -> None:
    first = narrow.chat(NEVER_ENDING, tenant=b"t", request_id="1")
    async with aclosing(first):
        await anext(first)
        queued = asyncio.create_task(chunks_of(narrow, ask("Say hello.", max_tokens=2)))
        await asyncio.sleep(0.05)
        error = await refusal(narrow, ask("x"))
        assert (error.status, error.code, error.type) == (503, "engine-overloaded", "server_error")
        assert not queued.done()
    assert await queued


async def test_closing_ends_a_running_answer(model_path: Path) -> None:
    engine = make_engine(spec(model_path, parallel=1))
    info = await engine.start()
    assert info.weights_sha256 == SMOLLM2
    assert (info.engine, info.context, info.modalities) == ("llamacpp", CONTEXT, frozenset({"text"}))
    assert "tools" not in info.features
    assert await engine.ready() == {"engine": True}
    stream = engine.chat(NEVER_ENDING, tenant=b"t", request_id="r")
    await anext(stream)
    await engine.close()
    with pytest.raises(EngineError):
        async for _ in stream:
            pass
    assert await engine.ready() == {"engine": False}
    assert (await refusal(engine, ask("x"))).code == "engine-not-started"
    await engine.close()


async def test_wrong_weights_are_refused(model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        await make_engine(spec(model_path, weights_sha256="0" * 64)).start()
    assert caught.value.code == "weights-mismatch"
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(OperatorError) as caught:
        await make_engine(spec(junk)).start()
    assert caught.value.code == "engine-start-failed"
    junk.write_bytes(b"not a model")
    with pytest.raises(OperatorError) as caught:
        await make_engine(spec(junk)).start()
    assert caught.value.code == "weights-unreadable"


async def test_more_context_than_the_model_has_is_refused(model_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        await make_engine(spec(model_path, context=16_384, parallel=1)).start()
    assert caught.value.code == "engine-start-failed"


# ── what the process shows to the outside ────────────────────────────────────────────────────────────────────────


def own_listeners() -> set[str]:
    """Local addresses of this process's listening TCP sockets."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_no_tcp_listener_and_no_door(model_path: Path) -> None:
    before = own_listeners()
    with socket.create_server(("127.0.0.1", 0)):
        assert len(own_listeners()) == len(before) + 1  # the check can fail
    engine = make_engine(spec(model_path, parallel=1))
    assert isinstance(engine, LlamaCppEngine)
    await engine.start()
    assert own_listeners() == before
    address = engine._server.listening_address
    assert address.startswith("unix://")
    door = Path(address.removeprefix("unix://"))
    assert not door.parent.exists()
    with socket.socket(socket.AF_UNIX) as link, pytest.raises(OSError):
        link.connect(str(door))
    await engine.close()


QUIET = textwrap.dedent(
    """
    import asyncio, logging, sys
    from teehouse_enclave.engine import EngineError, EngineSpec, make_engine
    from teehouse_enclave.engine import request
    logging.basicConfig(stream=sys.stderr)
    async def main():
        engine = make_engine(EngineSpec.parse({"kind": "llamacpp", "name": "m", "path": sys.argv[1], "context": 512}))
        await engine.start()
        # Past our own check on purpose: llama.cpp writes a grammar that it cannot parse to descriptor 2.
        request.check_schema = lambda schema, param: None
        for more in ({"minLength": 10**9, "title": "canaryword"}, {"pattern": "((canaryword"}):
            schema = {"type": "string", **more}
            body = {"messages": [{"role": "user", "content": "canaryword"}], "max_tokens": 3,
                    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}
            try:
                async for _ in engine.chat(body, tenant=b"", request_id=""):
                    pass
            except EngineError as exc:
                logging.warning("refused %s", exc.code)
        await engine.close()
        print("python still prints")
    asyncio.run(main())
    """
)


async def test_nothing_native_is_printed_and_python_still_logs(model_path: Path) -> None:
    for unbuffered in ("", "1"):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", QUIET, str(model_path)],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout == "python still prints\n"
        assert done.stderr == "WARNING:root:refused schema_unsupported\n"


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def circle(colour: tuple[int, int, int]) -> str:
    """A 64×64 PNG as a data URI: a circle at the top left, on grey."""
    rows = b""
    for y in range(64):
        rows += b"\x00"
        for x in range(64):
            rows += bytes(colour if (x - 18) ** 2 + (y - 18) ** 2 < 144 else (128, 128, 128))

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
    png += part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def look(uri: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "Describe this image."}]
    return {"messages": [{"role": "user", "content": parts}], "temperature": 0, "max_tokens": 40}


@pytest.fixture(scope="module")
async def seeing(model_path: Path, anyio_backend: str) -> AsyncIterator[Engine]:
    catalogue = pytest.importorskip("teehouse.local.catalogue")
    entry = catalogue.find_model("smollm2-135m-instruct+vision-demo")
    engine = make_engine(spec(model_path, parallel=1, mmproj=str(entry.adapter.path)))
    info = await engine.start()
    assert info.modalities == {"text", "image"}
    assert info.weights_sha256 == entry.weights_sha256
    yield engine
    await engine.close()


async def test_the_model_looks_at_the_picture(seeing: Engine) -> None:
    red = text_of(await chunks_of(seeing, look(circle((220, 30, 30)))))
    blue = text_of(await chunks_of(seeing, look(circle((40, 70, 220)))))
    assert "red circle" in red
    assert "blue circle" in blue


async def test_bad_pictures_are_refused(seeing: Engine) -> None:
    whole = circle((1, 2, 3))
    cut = "data:image/png;base64," + base64.b64encode(base64.b64decode(whole.partition(",")[2])[:60]).decode()
    for uri, code in (
        ("http://example.org/x.png", "image_url_unsupported"),
        ("file:///etc/passwd", "image_url_unsupported"),
        ("data:image/png;base64,AAAA", "invalid_image"),
        (cut, "invalid_image"),  # our check reads only the header; the decoder says no
    ):
        assert (await refusal(seeing, look(uri))).code == code


# ── the bridge between the threads ───────────────────────────────────────────────────────────────────────────────


class Pool:
    def submit(self, work: Any) -> None:
        import threading

        threading.Thread(target=work, daemon=True).start()


async def drain(stream: NativeStream) -> list[Any]:
    got = []
    while (chunk := await stream.next()) is not None:
        got.append(chunk)
    return got


async def test_the_bridge_is_bounded_and_in_order() -> None:
    done = asyncio.Event()
    sent = 0

    def call(callback: Any) -> None:
        nonlocal sent
        for number in range(3 * QUEUE_CHUNKS):
            if callback({"n": number}):
                return
            sent += 1

    stream = NativeStream(call, done.set)
    stream.start(Pool())  # type: ignore[arg-type]
    await asyncio.sleep(0.3)
    assert sent == QUEUE_CHUNKS  # it waits for the reader
    assert [one["n"] for one in await drain(stream)] == list(range(3 * QUEUE_CHUNKS))
    await asyncio.wait_for(done.wait(), 1)


async def test_the_bridge_reports_failures_and_cancels_a_waiting_callback() -> None:
    done = asyncio.Event()

    def broken(callback: Any) -> None:
        callback({"n": 0})
        raise RuntimeError("secret")

    stream = NativeStream(broken, done.set)
    stream.start(Pool())  # type: ignore[arg-type]
    assert await stream.next() == {"n": 0}
    with pytest.raises(RuntimeError):
        await stream.next()

    await asyncio.wait_for(done.wait(), 1)

    gone = asyncio.Event()
    stopped = []

    def endless(callback: Any) -> None:
        while not callback({}):
            pass
        stopped.append(True)

    stream = NativeStream(endless, gone.set)
    stream.start(Pool())  # type: ignore[arg-type]
    await asyncio.sleep(0.2)  # by now the queue is full and the callback waits
    stream.cancel()
    await asyncio.wait_for(gone.wait(), 1)
    assert stopped


def test_the_digest_of_the_file_is_what_is_published(model_path: Path) -> None:
    assert hashlib.sha256(model_path.read_bytes()).hexdigest() == SMOLLM2
