# SPDX-License-Identifier: Apache-2.0
"""The official SDK over the sealed transport: answers, streams, errors as its own classes, and no way around."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from client_support import (
    API_KEY,
    CUT,
    ENDPOINT,
    MODEL,
    Canned,
    Gateway,
    Node,
    Script,
    chunk,
    completion,
    problem,
    settings_for,
    stream_script,
    text_chunk,
    text_stream,
)
from pydantic import BaseModel

import teehouse
from teehouse.transport import EXTENSION, AsyncSealedTransport, SealedTransport, op_of_url
from teehouse_core import errors

TOOL = chunk(
    {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
)


def text_of(chunks: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def collect(chunks: Any, seen: list[Any]) -> None:
    """Keep what came also when the stream breaks."""
    for item in chunks:
        seen.append(item)


def test_chat(driver: Any, gateway: Gateway, node: Node) -> None:
    assert driver.chat(temperature=0).choices[0].message.content == "hello there"
    assert node.bodies[0]["model"] == ENDPOINT
    assert node.bodies[0]["temperature"] == 0
    record = driver.client.teehouse.last_receipt
    assert record.receipt.model == MODEL
    assert gateway.evidence_asked == 1


def test_nothing_of_the_sdk_travels_but_the_body(
    driver: Any, gateway: Gateway, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.chat(extra_headers={"x-mine": "a secret header"}, extra_query={"q": "a secret query"})
    assert gateway.headers[0]["authorization"] == f"Bearer {API_KEY}"
    assert not any(name.startswith("x-stainless") for name in gateway.headers[0])
    assert "secret" not in str(gateway.headers)
    inner = dict(node.opened[0].read()[0].headers)
    assert set(inner) == {"content-type", "accept", "teehouse-shape", "teehouse-flush-ms"}


def test_stream(driver: Any, gateway: Gateway) -> None:
    gateway.script = text_stream("one ", "two ", "three")
    chunks = list(driver.stream())
    assert text_of(chunks) == "one two three"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert driver.client.teehouse.last_receipt is not None


def test_stream_gives_text_before_the_end(driver: Any, gateway: Gateway) -> None:
    go = threading.Event()
    gateway.script = text_stream("one", "two")
    gateway.script.pause = lambda index: None if index < 2 else go.wait(5) and None
    stream = driver.stream()
    assert next(stream).choices[0].delta.role == "assistant"
    assert next(stream).choices[0].delta.content == "one"
    go.set()
    assert text_of(stream) == "two"


def test_leaving_a_stream_stops_the_node(driver: Any, gateway: Gateway) -> None:
    gateway.script = text_stream(*["word "] * 300)
    gateway.script.pause = lambda index: time.sleep(0.05) if index > 2 else None
    assert len(driver.part_of_stream(2)) == 2
    assert gateway.client_left.wait(5)


def test_cut_streams_raise_after_the_text(driver: Any, gateway: Gateway) -> None:
    gateway.script = text_stream("one ", "two")
    gateway.mangle = lambda chunks: [*chunks[:-1], CUT]
    seen: list[Any] = []
    with pytest.raises(errors.TruncatedStream) as caught:
        collect(driver.stream(), seen)
    assert text_of(seen) == "one two"
    assert isinstance(caught.value, openai.APIError)
    assert caught.value.code == "truncated-stream"
    assert caught.value.body["type"] == "teehouse_protocol"  # type: ignore[index]


def test_cut_streams_never_show_how_they_finished(driver: Any, gateway: Gateway) -> None:
    """Everything has come but the trailer: neither `[DONE]` nor the finish reason may be shown."""
    gateway.script = text_stream("one ", "two")
    gateway.mangle = lambda chunks: chunks[:-1]
    seen: list[Any] = []
    with pytest.raises(openai.APIError):
        collect(driver.stream(), seen)
    assert text_of(seen) == "one two"
    assert all(c.choices[0].finish_reason is None for c in seen)


def test_flipped_streams(driver: Any, gateway: Gateway) -> None:
    def flip(chunks: list[bytes]) -> list[bytes]:
        chunks[2] = chunks[2][:-1] + bytes([chunks[2][-1] ^ 1])
        return chunks

    gateway.script = text_stream("one ", "two")
    gateway.mangle = flip
    with pytest.raises(errors.MalformedError) as caught:
        list(driver.stream())
    assert isinstance(caught.value, openai.APIError)
    assert not isinstance(caught.value, openai.APIConnectionError)


def test_tool_calls_wait_for_the_trailer(driver: Any, gateway: Gateway) -> None:
    gateway.script = stream_script(text_chunk("let me see"), TOOL, chunk({}, "tool_calls"))
    assert any(c.choices[0].delta.tool_calls for c in driver.stream())
    gateway.mangle = lambda chunks: [*chunks[:-1], CUT]
    seen: list[Any] = []
    with pytest.raises(errors.TruncatedStream):
        collect(driver.stream(), seen)
    assert text_of(seen) == "let me see"
    assert not any(c.choices[0].delta.tool_calls for c in seen)


def test_done_of_the_node_ends_nothing(driver: Any, gateway: Gateway) -> None:
    gateway.script = text_stream("one ", "two")
    gateway.script.pieces.insert(2, b"data: [DONE]\n\n")
    assert text_of(driver.stream()) == "one two"


def test_parsed_objects_wait_for_the_trailer(gateway: Gateway) -> None:
    class Town(BaseModel):
        name: str

    gateway.script = stream_script(text_chunk('{"name":'), text_chunk('"Paris"}'), chunk({}, "stop"))
    with teehouse.OpenAI(settings=settings_for(gateway)) as client:
        messages: Any = [{"role": "user", "content": "where?"}]
        with client.chat.completions.stream(model=ENDPOINT, messages=messages, response_format=Town) as stream:
            kinds = [e.type for e in stream]
        assert "content.done" in kinds
        gateway.mangle = lambda chunks: chunks[:-1]
        kinds = []
        with (
            pytest.raises(errors.TruncatedStream),
            client.chat.completions.stream(model=ENDPOINT, messages=messages, response_format=Town) as stream,
        ):
            kinds.extend(e.type for e in stream)
        assert "content.done" not in kinds


@pytest.mark.parametrize(
    ("canned", "kind", "code"),
    [
        (problem("unavailable", status=401, reason="api-key-unknown"), openai.AuthenticationError, "api-key-unknown"),
        (problem("unavailable", status=403, reason="endpoint-forbidden"), openai.PermissionDeniedError, None),
        (problem("unavailable", status=404, reason="endpoint-unknown"), openai.NotFoundError, "endpoint-unknown"),
        (problem("malformed"), openai.BadRequestError, "malformed"),
        (problem("expired"), openai.BadRequestError, "expired"),
        (problem("over-limit"), openai.RateLimitError, "over-limit"),
        (problem("unavailable"), openai.InternalServerError, "unavailable"),
        (Canned(408, "text/html", b""), openai.APIStatusError, "unavailable"),
        (Canned(409, "text/html", b""), openai.ConflictError, "unavailable"),
        (Canned(500, "text/html", b""), openai.InternalServerError, "unavailable"),
        (Canned(302, "text/html", b""), openai.InternalServerError, "unavailable"),
    ],
)
def test_the_sdks_own_classes(
    driver: Any, gateway: Gateway, canned: Canned, kind: type[openai.APIStatusError], code: str | None
) -> None:
    gateway.canned = [canned]
    with pytest.raises(kind) as caught:
        driver.chat()
    if code is not None:
        assert caught.value.code == code
    assert caught.value.type == "teehouse_unauthenticated"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, openai.BadRequestError), (404, openai.NotFoundError), (500, openai.InternalServerError)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_inside_the_seal(
    driver: Any, gateway: Gateway, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    body = b'{"error":{"message":"the context is too long","type":"invalid","code":"context-length","param":null}}'
    gateway.script = Script(status=status, pieces=[body])
    with pytest.raises(kind) as caught:
        driver.chat(stream=stream)
    assert caught.value.code == "context-length"
    assert caught.value.request_id


def test_an_engine_that_fails_after_the_head(driver: Any, gateway: Gateway) -> None:
    body = b'{"error":{"message":"the engine failed","type":"server_error","code":"engine-failed","param":null}}'
    gateway.script = Script(pieces=[body], final_status=500, finish="error")
    with pytest.raises(openai.InternalServerError):
        driver.chat()
    gateway.script = Script(
        content_type="text/event-stream", pieces=[b"data: " + body + b"\n\n"], final_status=500, finish="error"
    )
    with pytest.raises(openai.APIError) as caught:
        list(driver.stream())
    assert caught.value.code == "engine-failed"


def test_refusals_are_both_ours_and_the_sdks(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    driver = make_driver(policy="strict")
    with pytest.raises(errors.EvidenceRefused) as caught:
        driver.chat()
    error = caught.value
    assert isinstance(error, openai.APIError)
    assert error.code == "evidence-refused"
    assert error.verdict.result == "refused"
    assert "policy.platform" in {check["id"] for check in error.body["checks"]}  # type: ignore[attr-defined]
    assert gateway.frames == []


@pytest.mark.parametrize(
    "canned", [Canned(200, "application/json", b"{}"), Canned(200, "text/event-stream", b"data: {}\n\n")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_clear_answers_are_not_handed_out_nor_retried(gateway: Gateway, canned: Canned, stream: bool) -> None:
    gateway.canned = [canned] * 5
    with teehouse.OpenAI(settings=settings_for(gateway), max_retries=3) as client:
        with pytest.raises(errors.MalformedError) as caught:
            client.chat.completions.create(model=ENDPOINT, messages=[{"role": "user", "content": "hi"}], stream=stream)
        assert isinstance(caught.value, openai.APIError)
    assert len(gateway.frames) == 1


@pytest.mark.parametrize(
    ("canned", "sent"),
    [
        (problem("over-limit"), 2),
        (problem("unavailable"), 2),
        (problem("malformed"), 1),
        (problem("expired"), 1),
        (Canned(408, "text/plain", b""), 1),
        (Canned(409, "text/plain", b""), 1),
        (Canned(500, "text/plain", b""), 1),
    ],
)
def test_only_429_and_503_are_sent_again_and_sealed_anew(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, canned: Canned, sent: int
) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    gateway.canned = [canned]
    with teehouse.OpenAI(settings=settings_for(gateway), max_retries=1) as client:
        outcome = pytest.raises(openai.APIStatusError) if sent == 1 else contextlib.nullcontext()
        with outcome as caught:
            client.chat.completions.create(model=ENDPOINT, messages=[{"role": "user", "content": "hi"}])
        if caught is not None:
            assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(gateway.frames) == sent
    assert len(set(gateway.frames)) == sent


def test_a_network_that_fails_is_the_sdks_matter(make_driver: Callable[..., Any]) -> None:
    driver = make_driver(base_url="http://127.0.0.1:1")
    with pytest.raises(openai.APIConnectionError) as caught:
        driver.chat()
    assert isinstance(caught.value.__cause__, httpx2.ConnectError)


def test_callers_timeouts_count(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    driver = make_driver()
    driver.verify()
    gateway.script.pause = lambda _index: time.sleep(0.7)
    with pytest.raises(errors.TruncatedStream) as caught:
        driver.chat(timeout=0.3)
    assert caught.value.code == "idle-timeout"


def test_models_come_from_verified_keysets(driver: Any, gateway: Gateway, node: Node) -> None:
    model = driver.models().data[0]
    assert model.id == ENDPOINT
    assert model.teehouse["tier"] == "simulated"
    assert model.teehouse["keysets"] == [node.keyset.sha256]
    assert driver.call(lambda client: client.models.retrieve(ENDPOINT)).teehouse["model"] == MODEL.name
    with pytest.raises(openai.NotFoundError):
        driver.call(lambda client: client.models.retrieve("gpt-4o"))
    assert gateway.frames == []


def test_what_is_no_operation_is_never_sent(driver: Any, gateway: Gateway) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda c: c.files.create(file=b"secret", purpose="assistants"),
        lambda c: c.images.generate(prompt="secret"),
        lambda c: c.moderations.create(input="secret"),
        lambda c: c.audio.speech.create(input="secret", model="m", voice="v"),
        lambda c: c.models.delete("ep-1"),
        lambda c: c.post("/v1/secret", cast_to=object, body={"secret": 1}),
    ]
    for call in calls:
        with pytest.raises(openai.APIStatusError) as caught:
            driver.call(call)
        assert caught.value.status_code in (404, 405)
    assert gateway.frames == []
    assert gateway.evidence_asked == 0


def test_other_operations(driver: Any, gateway: Gateway, node: Node) -> None:
    gateway.script = Script(
        pieces=[b'{"object":"list","model":"m","data":[],"usage":{"prompt_tokens":1,"total_tokens":1}}']
    )
    driver.call(lambda c: c.embeddings.create(model=ENDPOINT, input="x", encoding_format="float"))
    driver.call(lambda c: c.completions.create(model=ENDPOINT, prompt="x"))
    driver.call(lambda c: c.responses.create(model=ENDPOINT, input="x"))
    assert [o.header.op for o in node.opened] == ["embeddings", "completions", "responses"]


def test_the_endpoint_is_the_model_or_the_setting(
    make_driver: Callable[..., Any], gateway: Gateway, node: Node
) -> None:
    driver = make_driver(endpoint=None)
    assert driver.chat().choices[0].message.content == "hello there"
    with pytest.raises(errors.LocalError) as caught:
        driver.chat(model="gpt-4o")
    assert caught.value.code == "endpoint-missing"
    assert isinstance(caught.value, openai.APIError)
    assert make_driver().chat(model=MODEL.name).model == MODEL.name
    assert node.opened[-1].header.endpoint == ENDPOINT


def test_copies_share_the_session_and_cannot_leave_it(gateway: Gateway) -> None:
    with teehouse.OpenAI(settings=settings_for(gateway)) as client:
        copy = client.with_options(timeout=5, max_retries=0)
        assert copy.teehouse is client.teehouse
        copy.chat.completions.create(model=ENDPOINT, messages=[])
        for change in (
            {"api_key": "other"},
            {"base_url": "https://api.openai.com/v1"},
            {"http_client": httpx2.Client()},
        ):
            with pytest.raises(errors.LocalError) as caught:
                client.with_options(**change)  # type: ignore[arg-type]
            assert caught.value.code == "sdk-argument"
    with pytest.raises(errors.LocalError):
        teehouse.OpenAI(settings=settings_for(gateway), http_client=httpx2.Client())
    with pytest.raises(errors.LocalError):
        teehouse.OpenAI(settings=settings_for(gateway), data_residency="eu")


def test_the_sdks_own_addresses_lead_nowhere(gateway: Gateway) -> None:
    with teehouse.OpenAI(settings=settings_for(gateway)) as client:
        assert client.base_url.host.endswith(".invalid")
        assert httpx2.URL(client.websocket_base_url or "").host.endswith(".invalid")
        assert API_KEY not in str(vars(client))
        client.base_url = "http://127.0.0.1:1/v1"
        client.chat.completions.create(model=ENDPOINT, messages=[])  # still sealed, still to the gateway
    assert len(gateway.frames) == 1


def test_the_transport_alone(gateway: Gateway) -> None:
    settings = settings_for(gateway)
    with httpx2.Client(transport=SealedTransport(settings)) as http:
        client = openai.OpenAI(api_key="unused", http_client=http)
        assert client.chat.completions.create(model=ENDPOINT, messages=[]).choices
        answer = http.post("http://anything/v1/chat/completions", json={"model": ENDPOINT})
        assert answer.extensions[EXTENSION].receipt is not None
        assert answer.headers["x-teehouse-tier"] == "simulated"
        assert answer.headers["x-teehouse-keyset"] == gateway.nodes[0].keyset.sha256
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-request-id"]
        assert http.post("http://anything/chat/completions", content=b"not json").status_code == 200


@pytest.mark.anyio
async def test_the_async_transport_alone(gateway: Gateway) -> None:
    async with httpx2.AsyncClient(transport=AsyncSealedTransport(settings_for(gateway))) as http:
        client = openai.AsyncOpenAI(api_key="unused", http_client=http)
        assert (await client.chat.completions.create(model=ENDPOINT, messages=[])).choices


@pytest.mark.parametrize(
    ("path", "op"),
    [
        ("/v1/chat/completions", "chat.completions"),
        ("/chat/completions", "chat.completions"),
        ("/api/v1/chat/completions/", "chat.completions"),
        ("/v1/completions", "completions"),
        ("/v1/responses", "responses"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/models", "models"),
        ("/v1/models/ep-1", "models/ep-1"),
        ("/v1/v1/models", "models"),
        ("/v1/chat", None),
        ("/v1/models/a/b", None),
        ("/other/chat/completions", None),
        ("/v2/chat/completions", None),
        ("/", None),
        ("", None),
    ],
)
def test_paths(path: str, op: str | None) -> None:
    assert op_of_url(path) == op


def test_no_text_and_no_key_in_logs(driver: Any, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    gateway.script = completion("a private answer")
    driver.chat()
    gateway.script = text_stream("a private", " answer")
    list(driver.stream())
    gateway.mangle = lambda chunks: chunks[:-1]
    with pytest.raises(openai.APIError) as caught:
        driver.chat()
    text = caplog.text + str(caught.value) + repr(caught.value)
    for secret in ("capital of France", "private", API_KEY):
        assert secret not in text


def test_errors_without_the_sdk_are_plain(gateway: Gateway) -> None:
    """In a process that never loads `openai`, the transport raises our own errors and needs no SDK."""
    code = (
        "import sys, httpx2\n"
        "from teehouse import SealedTransport, Settings\n"
        "from teehouse_core.errors import EvidenceRefused\n"
        f"s = Settings.load(environ={{}}, base_url={gateway.url!r}, api_key={API_KEY!r}, endpoint={ENDPOINT!r})\n"
        "http = httpx2.Client(transport=SealedTransport(s))\n"
        "try:\n    http.post('http://x/v1/chat/completions', json={})\n"
        "except EvidenceRefused as error:\n    assert type(error) is EvidenceRefused\n"
        "else:\n    raise SystemExit('not refused')\n"
        "assert 'openai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_names_of_the_package() -> None:
    assert all(getattr(teehouse, name) is not None for name in teehouse.__all__)
    assert teehouse.TruncatedStream is errors.TruncatedStream


def test_import_reads_no_environment() -> None:
    code = (
        "import os\n"
        "class Env(dict):\n"
        "    def get(self, key, default=None):\n"
        "        assert not key.startswith('TEEHOUSE'), key\n"
        "        return super().get(key, default)\n"
        "os.environ = Env(os.environ)\n"
        "import teehouse, teehouse.settings, teehouse.session, teehouse.transport\n"
        "import teehouse.openai, teehouse.proxy.server\n"
        "assert 'OpenAI' in dir(teehouse)\n"
        "try:\n    teehouse.nothing\nexcept AttributeError:\n    pass\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
