# SPDX-License-Identifier: Apache-2.0
"""The upstream engine: against llama.cpp's own HTTP server with a real model, and against a server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from teehouse_core.errors import LocalError, OperatorError
from teehouse_enclave.engine import Engine, EngineError, EngineSpec, make_engine
from teehouse_enclave.engine.openai_upstream import MAX_EVENT

pytestmark = pytest.mark.anyio

DIGEST = "ab" * 32


def spec(url: str, **more: Any) -> EngineSpec:
    raw = {"kind": "openai-upstream", "name": "public-name", "upstream_model": "inner", "url": url}
    return EngineSpec.parse(raw | {"weights_sha256": DIGEST, "start_timeout": 5} | more)


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24, **more}


async def chunks_of(engine: Engine, body: dict[str, Any], tenant: bytes = b"t") -> list[dict[str, Any]]:
    return [chunk async for chunk in engine.chat(body, tenant=tenant, request_id="r")]


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


async def refusal(engine: Engine, body: dict[str, Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await chunks_of(engine, body)
    return caught.value


# ── a real server ────────────────────────────────────────────────────────────────────────────────────────────────

SERVER = textwrap.dedent(
    """
    import sys, xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.hostnames, params.model_alias = sys.argv[1], [sys.argv[2]], {"inner"}
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_ctx, params.n_parallel, params.verbosity, params.ui = 1024, 1, -1, False
    server = xllamacpp.Server(params)
    sys.stdin.read()  # until the test closes it
    """
)


@pytest.fixture(scope="module")
async def real(model_path: Path, anyio_backend: str) -> AsyncIterator[Engine]:
    with tempfile.TemporaryDirectory() as folder:
        door = f"{folder}/llama.sock"
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model_path), door], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        engine = make_engine(spec(f"unix://{door}", start_timeout=60, parallel=2))
        try:
            info = await engine.start()
            assert (info.engine, info.model, info.weights_sha256) == ("openai-upstream", "public-name", DIGEST)
            yield engine
        finally:
            await engine.close()
            process.communicate()


@pytest.mark.model
async def test_a_real_server_answers(real: Engine) -> None:
    assert await real.ready() == {"upstream": True}
    chunks = await chunks_of(real, ask("Say hello."))
    assert len(chunks) > 4
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["model"] for chunk in chunks} == {"public-name"}
    assert all(set(chunk) <= {"id", "object", "created", "model", "choices", "usage"} for chunk in chunks)
    usage = chunks[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert text_of(chunks)
    assert text_of(chunks) == text_of(await chunks_of(real, ask("Say hello.")))


@pytest.mark.model
async def test_a_real_server_overflows_and_constrains(real: Engine) -> None:
    error = await refusal(real, ask("secretword " * 2000))
    assert (error.status, error.code) == (400, "context_length_exceeded")
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["tea", "coffee"]}}}
    assert json.loads(text_of(await chunks_of(real, ask("Choose.", response_format=shape)))) in ("tea", "coffee")


@pytest.mark.model
async def test_leaving_frees_the_real_servers_only_slot(real: Engine) -> None:
    body = ask("Tell a long story.", max_tokens=900, logit_bias={"2": -100, "0": -100})
    stream = real.chat(body, tenant=b"t", request_id="r")
    async with aclosing(stream):
        for _ in range(5):
            await anext(stream)
    began = time.monotonic()
    assert text_of(await chunks_of(real, ask("Say hello.", max_tokens=2)))
    # The server looks for a closed connection once a second; the whole story would take ten.
    assert time.monotonic() - began < 3.0


# ── a scripted server ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class ScriptedUpstream:
    """A tiny HTTP server that answers a chat with whatever bytes the test wants. It is no model."""

    answer: Callable[[asyncio.StreamWriter], Any] | bytes = b""
    status: int = 200
    models: bytes = b'{"data":[{"id":"inner","max_model_len":777}]}'
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if head.startswith(b"GET /v1/models"):
                self._head(writer, 200, "application/json")
                writer.write(self.models)
            elif head.startswith(b"POST /v1/chat/completions"):
                length = next(
                    int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")
                )
                self.bodies.append(json.loads(await reader.readexactly(length)))
                self._head(writer, self.status, "text/event-stream" if self.status == 200 else "application/json")
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                else:
                    await self.answer(writer)
            else:
                self._head(writer, 404, "application/json")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    @staticmethod
    def _head(writer: asyncio.StreamWriter, status: int, kind: str) -> None:
        where = b"Location: http://192.0.2.1/\r\n" if status == 307 else b""
        writer.write(f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nConnection: close\r\n".encode() + where + b"\r\n")


@asynccontextmanager
async def scripted(upstream: ScriptedUpstream, **more: Any) -> AsyncIterator[Engine]:
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    engine = make_engine(spec(f"http://localhost:{server.sockets[0].getsockname()[1]}", **more))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()
        server.close()
        await server.wait_closed()


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def piece(delta: dict[str, Any], reason: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": reason}
    return event({"id": "inner-id", "model": "/inner/path", "choices": [choice], "prompt_token_ids": [1]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
DONE = event(b"[DONE]")
WHOLE = piece({"role": "assistant", "content": "he"}) + piece({"content": "llo"}) + piece({}, "stop") + USAGE + DONE


async def test_answers_are_rebuilt_and_requests_say_what_they_must() -> None:
    upstream = ScriptedUpstream(b": ping\n\n" + WHOLE)
    async with scripted(upstream, api_key="sesame") as engine:
        chunks = await chunks_of(engine, ask("hi", stop="x", seed=4), tenant=b"one")
        await chunks_of(engine, ask("hi"), tenant=b"one")
        await chunks_of(engine, ask("hi"), tenant=b"two")
        await chunks_of(engine, ask("hi"), tenant=b"")
    assert text_of(chunks) == "hello"
    assert chunks[-1]["usage"]["total_tokens"] == 5
    assert "inner" not in json.dumps(chunks)
    assert "prompt_token_ids" not in json.dumps(chunks)
    sent = upstream.bodies[0]
    assert (sent["model"], sent["stream"], sent["stream_options"]) == ("inner", True, {"include_usage": True})
    assert (sent["stop"], sent["seed"], sent["max_tokens"]) == (["x"], 4, 24)
    salts = [body["cache_salt"] for body in upstream.bodies]
    assert salts[0] == salts[1]
    assert len(set(salts)) == 3
    assert all(len(salt) == 64 for salt in salts)
    assert b"authorization: bearer sesame" in upstream.heads[-1].lower()


async def test_start_reads_the_context_and_may_leave_the_salt_out() -> None:
    upstream = ScriptedUpstream(WHOLE)
    async with scripted(upstream, cache_salt=False) as engine:
        assert (await engine.start()).context == 777
        await chunks_of(engine, ask("hi"))
    assert "cache_salt" not in upstream.bodies[0]


async def test_tool_calls_pass() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "private": 1}
    stream = piece({"role": "assistant", "tool_calls": [call]}) + piece({}, "tool_calls") + USAGE + DONE
    async with scripted(ScriptedUpstream(stream)) as engine:
        chunks = await chunks_of(engine, ask("x", tools=[{"type": "function", "function": {"name": "f"}}]))
    (got,) = chunks[1]["choices"][0]["delta"]["tool_calls"]
    assert got == {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "engine-failed"),
        (piece({"content": "half"}), "engine-failed"),
        (piece({"content": "half"}) + DONE, "engine-failed"),
        (piece({"content": "x"}) + piece({}, "stop") + DONE, "engine-failed"),  # nobody counted
        (piece({"content": "x"}) + USAGE + DONE, "engine-failed"),  # nobody ended
        (event(b"{not json"), "engine-bad-stream"),
        (event(b"[1]"), "engine-bad-stream"),
        (event(b"[" * 100_000), "engine-bad-stream"),
        (piece({"content": "x"}, index=1), "engine-bad-stream"),
        (piece({}, "because"), "engine-bad-stream"),
        (piece({}, "stop") + event({"choices": [], "usage": {"prompt_tokens": "3"}}), "engine-bad-stream"),
        (b"data: " + b"x" * (MAX_EVENT + 10), "engine-bad-stream"),
        (event({"error": {"message": "secretword", "code": 500}}), "engine-failed"),
        (event({"error": {"message": "secretword", "code": 503}}), "engine-overloaded"),
    ],
)  # fmt: skip
async def test_a_misbehaving_server_never_makes_a_whole_answer(answer: bytes, code: str) -> None:
    async with scripted(ScriptedUpstream(answer)) as engine:
        error = await refusal(engine, ask("x"))
    assert error.code == code
    assert error.status in (502, 503)
    assert "secretword" not in str(error.openai())
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"message": "secretword"}, (400, "invalid_value")),
        (400, {"message": "secretword", "code": "context_length_exceeded"}, (400, "context_length_exceeded")),
        (400, {"message": "secretword", "code": 400, "param": "input_tokens"}, (400, "context_length_exceeded")),
        (422, {}, (400, "invalid_value")),
        (429, {}, (503, "engine-overloaded")),
        (503, {}, (503, "engine-overloaded")),
        (401, {}, (502, "engine-misconfigured")),
        (404, {}, (502, "engine-misconfigured")),
        (307, {}, (502, "engine-misconfigured")),  # followed nowhere
        (500, {"message": "secretword"}, (502, "engine-failed")),
    ],
)
async def test_statuses(status: int, error: dict[str, Any], expected: tuple[int, str]) -> None:
    body = json.dumps({"error": error}).encode()
    async with scripted(ScriptedUpstream(body, status=status)) as engine:
        refused = await refusal(engine, ask("x"))
    assert (refused.status, refused.code) == expected
    assert "secretword" not in str(refused.openai())


async def test_leaving_closes_the_connection_and_the_slot() -> None:
    upstream = ScriptedUpstream()

    async def endless(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(piece({"content": "more"}))
            await writer.drain()
            await asyncio.sleep(0.01)

    upstream.answer = endless
    async with scripted(upstream, parallel=1, queue=0) as engine:
        stream = engine.chat(ask("x"), tenant=b"", request_id="1")
        async with aclosing(stream):
            await anext(stream)
            assert (await refusal(engine, ask("x"))).code == "engine-overloaded"
        await asyncio.wait_for(upstream.left.wait(), 1)
        upstream.answer = WHOLE
        assert text_of(await chunks_of(engine, ask("x"))) == "hello"


async def test_silence_ends() -> None:
    upstream = ScriptedUpstream()

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)

    upstream.answer = silent
    async with scripted(upstream, stall_timeout=1) as engine:
        error = await refusal(engine, ask("x"))
        assert (error.status, error.code) == (504, "engine-timeout")


async def test_a_server_that_is_gone() -> None:
    upstream = ScriptedUpstream(WHOLE)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    engine = make_engine(spec(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    await engine.start()
    server.close()
    await server.wait_closed()
    assert await engine.ready() == {"upstream": False}
    assert (await refusal(engine, ask("x"))).code == "engine-unavailable"
    await engine.close()


async def test_start_fails_without_server_or_model(tmp_path: Path) -> None:
    engine = make_engine(spec(f"unix://{tmp_path}/none.sock", start_timeout=0.3))
    with pytest.raises(OperatorError) as caught:
        await engine.start()
    assert caught.value.code == "engine-start-failed"
    await engine.close()
    with pytest.raises(OperatorError):
        async with scripted(ScriptedUpstream(models=b'{"data":[{"id":"other"}]}'), start_timeout=0.3):
            pass


async def test_weights_are_hashed_and_compared(tmp_path: Path) -> None:
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"weights")
    with pytest.raises(OperatorError) as caught:
        async with scripted(ScriptedUpstream(), path=str(weights)):
            pass
    assert caught.value.code == "weights-mismatch"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/v1",
        "http://192.168.0.1/v1",
        "http://0.0.0.0:8000/v1",
        "https://127.0.0.1/v1",
        "http://user@127.0.0.1/v1",
        "http://127.0.0.1@example.org/v1",
        "http://localhost.example.org/v1",
        "http://[::ffff:8.8.8.8]/v1",
        "http://2130706433.example/v1",
        "unix://relative.sock",
        "ftp://127.0.0.1/",
        "127.0.0.1:8000",
        "http://",
    ],
)
async def test_nothing_but_this_machine(url: str) -> None:
    with pytest.raises(LocalError) as caught:
        make_engine(spec(url))
    assert caught.value.code == "engine-not-local"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1/v1", "http://localhost:1/", "unix:///x.sock"])
async def test_this_machine(url: str) -> None:
    await make_engine(spec(url)).close()
