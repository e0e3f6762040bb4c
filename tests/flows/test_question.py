# SPDX-License-Identifier: Apache-2.0
"""A question walks the house: SDK, proxy and CLI ask a real platform, on the echo engine and on the real model."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import os
import subprocess
import time
import zlib
from typing import Any

import httpx2
import openai
import pytest
from support_platform import TEEHOUSE, Platform

import teehouse
from teehouse_core.errors import TruncatedStream

WORDS = [{"role": "user", "content": "Name three colours of the rainbow."}]


def sdk(platform: Platform, **changes: Any) -> teehouse.OpenAI:
    settings = {
        "base_url": platform.gateway,
        "api_key": platform.api_key,
        "endpoint": platform.endpoint,
        "policy": platform.policy,
        "max_retries": 0,
        **changes,
    }
    return teehouse.OpenAI(**settings)


def through_proxy(platform: Platform) -> openai.OpenAI:
    ready = platform.ready
    return openai.OpenAI(base_url=ready["openai_base_url"], api_key=ready["openai_api_key"], max_retries=0)


def clients(platform: Platform) -> list[openai.OpenAI]:
    return [sdk(platform), through_proxy(platform)]


def test_whole_answers(either: Platform) -> None:
    for client in clients(either):
        with client:
            answer = client.chat.completions.create(
                model=either.endpoint, messages=WORDS, max_tokens=24, temperature=0, seed=1
            )
        assert answer.object == "chat.completion"
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason in ("stop", "length")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_answers_equal_whole_ones(either: Platform) -> None:
    arguments: dict[str, Any] = {
        "model": either.endpoint,
        "messages": WORDS,
        "max_tokens": 24,
        "temperature": 0,
        "seed": 1,
    }
    for client in clients(either):
        with client:
            whole = client.chat.completions.create(**arguments).choices[0].message.content
            chunks = list(client.chat.completions.create(**arguments, stream=True))
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == whole
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_async_answers(either: Platform) -> None:
    async def run() -> tuple[str, str]:
        async with teehouse.AsyncOpenAI(
            base_url=either.gateway, api_key=either.api_key, endpoint=either.endpoint, policy=either.policy
        ) as client:
            answer = await client.chat.completions.create(model=either.endpoint, messages=WORDS, max_tokens=8)  # type: ignore[arg-type]
            stream: Any = await client.chat.completions.create(
                model=either.endpoint,
                messages=WORDS,  # type: ignore[arg-type]
                max_tokens=8,
                stream=True,
            )
            text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
            return answer.choices[0].message.content or "", text

    whole, streamed = asyncio.run(run())
    assert whole
    assert streamed


def test_stop_and_usage_in_streams(either: Platform) -> None:
    with sdk(either) as client:
        chunks: list[Any] = list(
            client.chat.completions.create(
                model=either.endpoint,
                messages=WORDS,
                max_tokens=16,
                stop=["z9z9"],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert chunks[-1].usage.completion_tokens > 0


def test_receipt_names_the_model_and_the_node(either: Platform) -> None:
    with sdk(either) as client:
        client.chat.completions.create(model=either.endpoint, messages=WORDS, max_tokens=8)
        record = client.teehouse.last_receipt
        verdicts = client.teehouse.verify(either.endpoint)
    assert record is not None
    receipt = record.receipt
    accepted = [node.accepted for node in verdicts if node.accepted is not None]
    assert receipt.keyset_sha256 in {one.keyset.sha256 for one in accepted}
    assert receipt.model == accepted[0].keyset.model
    assert receipt.usage.output_tokens > 0
    assert {one.tier for one in accepted} == {"simulated"}


def test_models_are_listed_from_verified_keysets(either: Platform) -> None:
    for client in clients(either):
        with client:
            assert [model.id for model in client.models.list()] == [either.endpoint]


def test_json_schema_on_the_real_model(model_platform: Platform) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"type": "string", "maxLength": 20}, "count": {"type": "integer"}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    with sdk(model_platform) as client:
        answer = client.chat.completions.create(
            model=model_platform.endpoint,
            messages=[{"role": "user", "content": "Give me a colour and a count as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": "pair", "schema": schema}},
            max_tokens=80,
            temperature=0,
        )
    document = json.loads(answer.choices[0].message.content or "")
    assert isinstance(document["colour"], str)
    assert isinstance(document["count"], int)


def test_tools_are_sealed_and_come_whole(platform: Platform) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    messages: Any = [{"role": "user", "content": 'call weather {"city": "Bern"}'}]
    for client in clients(platform):
        with client:
            answer = client.chat.completions.create(model=platform.endpoint, messages=messages, tools=tools)
            calls = answer.choices[0].message.tool_calls
            assert calls is not None
            assert calls[0].function.name == "weather"  # type: ignore[union-attr]
            chunks: Any = client.chat.completions.create(
                model=platform.endpoint, messages=messages, tools=tools, stream=True
            )
            pieces = [c for chunk in chunks if chunk.choices for c in chunk.choices[0].delta.tool_calls or ()]
        assert json.loads("".join(piece.function.arguments or "" for piece in pieces)) == {"city": "Bern"}


def png(size: int) -> bytes:
    """A red square, drawn by hand."""
    rows = b"".join(b"\0" + b"\xd0\x10\x10" * size for _ in range(size))

    def part(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = size.to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")


def test_images_are_sealed_too(platform: Platform) -> None:
    picture = "data:image/png;base64," + base64.b64encode(png(64)).decode()
    content: Any = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": picture}}]
    for client in clients(platform):
        with client:
            answer = client.chat.completions.create(
                model=platform.endpoint, messages=[{"role": "user", "content": content}]
            )
        assert "image" in (answer.choices[0].message.content or "")


class TestBadInput:
    """Errors a user makes come back as the SDK's own classes, made by the node inside the seal or by the client."""

    def test_empty_messages(self, either: Platform) -> None:
        for client in clients(either):
            with client, pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model=either.endpoint, messages=[])
            assert refused.value.param == "messages"

    def test_a_prompt_longer_than_the_context(self, either: Platform) -> None:
        long = [{"role": "user", "content": "word " * 12_000}]
        for client in clients(either):
            with client, pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(model=either.endpoint, messages=long)  # type: ignore[arg-type]
            assert refused.value.code == "context_length_exceeded"

    def test_unknown_endpoint(self, platform: Platform) -> None:
        for client in clients(platform):
            with client, pytest.raises(openai.OpenAIError) as refused:
                client.chat.completions.create(model="ep-20200101000000-nobody", messages=WORDS)
            assert "rainbow" not in str(refused.value)

    def test_wrong_api_key(self, platform: Platform) -> None:
        key = platform.api_key[:-4] + ("AAAA" if platform.api_key[-4:] != "AAAA" else "BBBB")
        with sdk(platform, api_key=key) as client, pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=platform.endpoint, messages=WORDS)

    def test_key_of_another_form_is_refused_here(self, platform: Platform) -> None:
        with pytest.raises((openai.OpenAIError, ValueError, teehouse.LocalError)):
            sdk(platform, api_key="sk-something-else").chat.completions.create(model=platform.endpoint, messages=WORDS)

    def test_wrong_proxy_token(self, platform: Platform) -> None:
        with (
            openai.OpenAI(base_url=platform.ready["openai_base_url"], api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.chat.completions.create(model=platform.endpoint, messages=WORDS)

    def test_unsupported_operation(self, either: Platform) -> None:
        for client in clients(either):
            with client, pytest.raises(openai.NotFoundError) as refused:
                client.embeddings.create(model=either.endpoint, input="x", encoding_format="float")
            assert refused.value.code == "unsupported-operation"

    def test_a_path_that_is_no_operation_is_not_sent(self, platform: Platform) -> None:
        for client in clients(platform):
            with client, pytest.raises(openai.NotFoundError):
                client.files.list()

    def test_another_model(self, platform: Platform) -> None:
        for client in clients(platform):
            with client:
                answer = client.chat.completions.create(model=platform.endpoint, messages=WORDS)
                assert answer.choices
                with pytest.raises(openai.NotFoundError) as refused:
                    client.chat.completions.create(model="gpt-nonsense", messages=WORDS)
                assert refused.value.code == "model_not_found"

    def test_invalid_json_through_the_proxy(self, platform: Platform) -> None:
        response = httpx2.post(
            platform.ready["openai_base_url"] + "/chat/completions",
            content=b'{"messages": [',
            headers={"authorization": f"Bearer {platform.ready['openai_api_key']}", "content-type": "application/json"},
            timeout=30,
        )
        assert response.status_code == 400
        assert response.json()["error"]["code"]

    def test_an_image_of_20_mb(self, either: Platform) -> None:
        picture = "data:image/png;base64," + base64.b64encode(os.urandom(20_000_000)).decode()
        content: Any = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": picture}}]
        for client in clients(either):
            with client, pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(model=either.endpoint, messages=[{"role": "user", "content": content}])
            eyes = "echo" in str(either.root)  # the demo model has none
            assert refused.value.status_code == (413 if eyes else 400)
            assert refused.value.code == ("image_too_large" if eyes else "image_unsupported")

    def test_images_from_the_network_are_never_fetched(self, platform: Platform) -> None:
        content: Any = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]
        for client in clients(platform):
            with client, pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model=platform.endpoint, messages=[{"role": "user", "content": content}])


def test_fifty_streams_without_cross_talk(either: Platform) -> None:
    def one(number: int) -> tuple[int, str]:
        text = f"voice {number:04d} says " + f"w{number:04d} " * 10
        stream: Any = client.chat.completions.create(
            model=either.endpoint,
            messages=[{"role": "user", "content": text}],
            max_tokens=40,
            stream=True,
            temperature=0,
        )
        return number, "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

    count = 50
    with sdk(either, timeout=170) as client, concurrent.futures.ThreadPoolExecutor(count) as pool:
        answers = dict(pool.map(one, range(count)))
    assert len(answers) == count
    for number, text in answers.items():
        others = [n for n in range(count) if n != number and (f"w{n:04d}" in text or f"{n:04d} says" in text)]
        assert others == [], f"answer {number} holds words of {others}"
    if either.ready["data_dir"].startswith(str(either.root)) and "echo" in str(either.root):
        assert all(f"voice {number:04d} says" in text for number, text in answers.items())


def active(platform: Platform) -> int:
    return sum(httpx2.get(node["url"] + "/readyz", timeout=5).json()["active"] for node in platform.nodes())


@pytest.mark.parametrize("engine", ["echo", pytest.param("llamacpp", marks=pytest.mark.model)])
def test_a_client_that_leaves_frees_the_slot_within_a_second(engine: str, request: pytest.FixtureRequest) -> None:
    platform: Platform = request.getfixturevalue("paced_platform" if engine == "echo" else "model_platform")
    text = "count 2000" if engine == "echo" else "Tell me a very long story."
    for client in clients(platform):
        with client:
            stream: Any = client.chat.completions.create(
                model=platform.endpoint, messages=[{"role": "user", "content": text}], stream=True, max_tokens=1500
            )
            next(iter(stream))
            assert active(platform) == 1
            stream.close()
            left = time.monotonic()
            while active(platform) and time.monotonic() < left + 5:
                time.sleep(0.02)
            assert time.monotonic() - left < 1.0


def test_the_command_line_asks(either: Platform) -> None:
    done = subprocess.run(
        [TEEHOUSE, "chat", "-m", "Say hello.", "--json"],
        env={
            **os.environ,
            "TEEHOUSE_BASE_URL": either.gateway,
            "TEEHOUSE_API_KEY": either.api_key,
            "TEEHOUSE_ENDPOINT": either.endpoint,
            "TEEHOUSE_POLICY": either.policy,
        },
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["receipt"]["tier"] == "simulated"


def usage_rows(platform: Platform) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with platform.operator() as api:
        while page := api.get("/api/v1/usage", params={"after": rows[-1]["id"] if rows else 0}).json()["records"]:
            rows += page
    return rows


def test_usage_reaches_the_operator_once(platform: Platform) -> None:
    asked: set[str] = set()
    with sdk(platform) as client:
        for _ in range(3):
            client.chat.completions.create(model=platform.endpoint, messages=WORDS)
            record = client.teehouse.last_receipt
            assert record is not None
            asked.add(record.receipt.request_id)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ids = [row["request_id"] for row in usage_rows(platform)]
        if asked <= set(ids):
            break
        time.sleep(0.2)
    assert asked <= set(ids)
    assert len(ids) == len(set(ids))


def test_truncated_stream_is_the_error_of_a_killed_node(tmp_path: Any) -> None:
    """kill -9 of a node mid-stream: the reader knows, the next request is answered elsewhere, the platform heals."""
    from support_platform import running_platform

    with running_platform(tmp_path, "--engine", "echo", "--nodes", "2", "--pace", "50") as own, sdk(own) as client:
        stream: Any = client.chat.completions.create(
            model=own.endpoint, messages=[{"role": "user", "content": "count 2000"}], stream=True
        )
        chunks = iter(stream)
        next(chunks)
        busy = [node for node in own.nodes() if httpx2.get(node["url"] + "/readyz", timeout=5).json()["active"]]
        assert len(busy) == 1
        name = busy[0].get("node") or busy[0]["id"]
        os.kill(own.ready["pids"][name], 9)
        with pytest.raises(TruncatedStream) as cut:
            for _ in chunks:
                pass
        assert isinstance(cut.value, openai.APIError)
        answer = client.chat.completions.create(model=own.endpoint, messages=WORDS)
        assert answer.choices[0].message.content
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            states = [httpx2.get(n["url"] + "/readyz", timeout=5).status_code if _up(n) else 0 for n in own.nodes()]
            if states == [200, 200]:
                break
            time.sleep(0.1)
        assert states == [200, 200]
        for _ in range(4):
            assert client.chat.completions.create(model=own.endpoint, messages=WORDS).choices


def _up(node: dict[str, Any]) -> bool:
    try:
        httpx2.get(node["url"] + "/healthz", timeout=1)
    except httpx2.HTTPError:
        return False
    return True
