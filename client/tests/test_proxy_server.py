# SPDX-License-Identifier: Apache-2.0
"""The proxy over real loopback HTTP: who may talk to it, what it answers, and that it has no other way out."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from client_support import (
    API_KEY,
    CUT,
    ENDPOINT,
    Canned,
    Gateway,
    Node,
    Script,
    problem,
    settings_for,
    text_stream,
)

import teehouse.proxy
import teehouse.proxy.answers
from teehouse.proxy.files import kept_token, make_token, write_private
from teehouse.proxy.server import ProxyServer
from teehouse_core.errors import LocalError

QUESTION = {"model": ENDPOINT, "messages": [{"role": "user", "content": "a very private question"}]}


class Running:
    """One proxy in a thread."""

    def __init__(self, settings: Any, **given: Any) -> None:
        ready = threading.Event()
        self.server = ProxyServer(settings, on_ready=ready.set, **given)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        self.url, self.token = self.server.url, self.server.token
        self.authority = self.url.removeprefix("http://")
        self.http = httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, trust_env=False)

    def post(self, path: str = "/v1/chat/completions", **given: Any) -> httpx2.Response:
        return self.http.post(path, **{"json": QUESTION, **given})

    def stop(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def start(gateway: Gateway) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(**given: Any) -> Running:
        made.append(Running(settings_for(gateway, **given)))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def proxy(start: Callable[..., Running]) -> Running:
    return start()


def code_of(response: httpx2.Response) -> str:
    return str(response.json()["error"]["code"])


def test_chat_stream_and_models_by_the_official_sdk(proxy: Running, gateway: Gateway) -> None:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=proxy.token, max_retries=0) as client:
        messages: Any = QUESTION["messages"]
        assert client.chat.completions.create(model=ENDPOINT, messages=messages).choices[0].message.content
        gateway.script = text_stream("one ", "two")
        chunks = list(client.chat.completions.create(model=ENDPOINT, messages=messages, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == "one two"
        assert client.models.list().data[0].id == ENDPOINT
        assert client.models.retrieve(ENDPOINT).id == ENDPOINT
    assert gateway.evidence_asked == 1
    assert all(b"private question" not in frame for frame in gateway.frames)


def test_answers_say_who_answered(proxy: Running, gateway: Gateway, node: Node) -> None:
    answer = proxy.post()
    assert answer.headers["x-teehouse-keyset"] == node.keyset.sha256
    assert answer.headers["x-teehouse-tier"] == "simulated"
    assert answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-store"
    assert "server" not in answer.headers
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_platforms_key_is_from_settings_never_from_the_request(proxy: Running, gateway: Gateway) -> None:
    proxy.post(headers={"x-api-key": "mine", "openai-organization": "secret org", "cookie": "a=b"})
    assert gateway.headers[0]["authorization"] == f"Bearer {API_KEY}"
    assert "cookie" not in gateway.headers[0]
    assert proxy.token not in str(gateway.headers)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": ""}, 401, "proxy-token"),
        ({"authorization": "Bearer wrong"}, 401, "proxy-token"),
        ({"authorization": f"Bearer {API_KEY}"}, 401, "proxy-token"),
        ({"origin": "https://evil.example"}, 403, "origin-refused"),
        ({"origin": "null"}, 403, "origin-refused"),
        ({"host": "evil.example"}, 421, "host-refused"),
        ({"host": "localhost:{port}"}, 421, "host-refused"),
        ({"host": "127.0.0.1"}, 421, "host-refused"),
        ({"host": "127.1:{port}"}, 421, "host-refused"),
        ({"host": ""}, 421, "host-refused"),
    ],
)
def test_who_is_refused(proxy: Running, gateway: Gateway, headers: dict[str, str], status: int, code: str) -> None:
    port = proxy.authority.split(":")[1]
    sent = {name: value.replace("{port}", port) for name, value in headers.items()}
    answer = proxy.post(headers=sent)
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert gateway.evidence_asked == 0


def test_its_own_origin_is_let_in(proxy: Running) -> None:
    assert proxy.post(headers={"origin": proxy.url}).status_code == 200


def test_repeated_headers_and_preflights_are_refused(proxy: Running, gateway: Gateway) -> None:
    twice = [("authorization", f"Bearer {proxy.token}"), ("authorization", "Bearer x")]
    assert httpx2.post(f"{proxy.url}/v1/chat/completions", headers=twice, json=QUESTION).status_code == 401
    preflight = httpx2.options(
        f"{proxy.url}/v1/chat/completions",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )
    assert preflight.status_code == 403
    assert gateway.evidence_asked == 0


def test_health_needs_no_token_but_the_right_host(proxy: Running) -> None:
    assert httpx2.get(f"{proxy.url}/healthz").json() == {"status": "ok"}
    assert httpx2.get(f"{proxy.url}/healthz", headers={"host": "evil.example"}).status_code == 421
    assert httpx2.get(f"{proxy.url}/v1/models").status_code == 401


def test_unknown_paths_and_methods(proxy: Running, gateway: Gateway) -> None:
    for path in ("/v1/files", "/v1/audio/speech", "/", "/v1/chat/completions/x", "/chat/completions"):
        answer = proxy.post(path)
        assert (answer.status_code, code_of(answer)) == (404, "path-unknown")
    answer = proxy.http.get("/v1/chat/completions")
    assert (answer.status_code, code_of(answer)) == (405, "method-unknown")
    assert gateway.evidence_asked == 0


def test_refused_evidence_is_502_with_the_failed_check(start: Callable[..., Running], gateway: Gateway) -> None:
    answer = start(policy="strict").post()
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (502, "evidence-refused")
    assert error["type"] == "teehouse_verification_refused"
    assert "policy.platform" in {check["id"] for check in error["checks"]}
    assert answer.headers["x-should-retry"] == "false"
    assert gateway.frames == []


@pytest.mark.parametrize(
    ("canned", "status", "code"),
    [
        (Canned(200, "application/json", b'{"choices":[]}'), 502, "clear-answer"),
        (problem("unavailable", status=401, reason="api-key-unknown"), 401, "api-key-unknown"),
        (problem("over-limit", Retry_After="7"), 429, "over-limit"),
        (problem("unavailable"), 503, "unavailable"),
        (problem("malformed"), 400, "malformed"),
    ],
)
def test_what_the_path_answers(proxy: Running, gateway: Gateway, canned: Canned, status: int, code: str) -> None:
    gateway.canned = [canned]
    answer = proxy.post()
    assert (answer.status_code, code_of(answer)) == (status, code)
    assert (answer.headers.get("x-should-retry") == "false") == (status not in (429, 503))
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)


def test_the_gateway_is_gone(start: Callable[..., Running]) -> None:
    answer = start(base_url="http://127.0.0.1:1").post()
    assert (answer.status_code, code_of(answer)) == (503, "unreachable")


def test_errors_of_the_node_come_through(proxy: Running, gateway: Gateway) -> None:
    gateway.script = Script(status=400, pieces=[b'{"error":{"message":"bad","code":"context-length"}}'])
    answer = proxy.post()
    assert (answer.status_code, code_of(answer)) == (400, "context-length")
    assert proxy.post(content=b"not json").status_code == 400


def _keep(pieces: Iterator[str], shown: list[str]) -> Iterator[str]:
    """Remember what came also when the rest does not."""
    for piece in pieces:
        shown.append(piece)
        yield piece


@pytest.mark.parametrize("stream", [False, True])
def test_cut_answers(proxy: Running, gateway: Gateway, stream: bool) -> None:
    gateway.script = text_stream("one ", "two") if stream else gateway.script
    gateway.mangle = lambda chunks: [*chunks[:-1], CUT]
    if not stream:
        answer = proxy.post()
        assert (answer.status_code, code_of(answer)) == (502, "truncated-stream")
        return
    shown: list[str] = []
    with proxy.http.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        pieces = answer.iter_text()
        with pytest.raises(httpx2.RemoteProtocolError):  # the connection is cut, too
            list(_keep(pieces, shown))
    text = "".join(shown)
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]) == "one two"
    assert events[-1]["error"]["code"] == "truncated-stream"
    assert "[DONE]" not in text
    assert 'finish_reason": "stop' not in text


def test_the_official_sdk_sees_the_error_event(proxy: Running, gateway: Gateway) -> None:
    gateway.script = text_stream("one ", "two")
    gateway.mangle = lambda chunks: [*chunks[:-1], CUT]
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=proxy.token, max_retries=0) as client:
        messages: Any = QUESTION["messages"]
        stream = client.chat.completions.create(model=ENDPOINT, messages=messages, stream=True)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "truncated-stream"


def test_a_caller_that_leaves_stops_the_node(proxy: Running, gateway: Gateway) -> None:
    gateway.script = text_stream(*["word "] * 300)
    gateway.script.pause = lambda index: time.sleep(0.05) if index > 2 else None
    with proxy.http.stream("POST", "/v1/chat/completions", json={**QUESTION, "stream": True}) as answer:
        assert next(answer.iter_bytes())
    assert gateway.client_left.wait(5)


def test_a_caller_that_leaves_before_the_head_stops_the_node(proxy: Running, gateway: Gateway, node: Node) -> None:
    gateway.script = Script(pieces=[b"x" * 1000] * 300, pause=lambda _index: time.sleep(0.02))
    with pytest.raises(httpx2.ReadTimeout):
        proxy.post(timeout=0.5)  # not streamed: the proxy gathers, the caller waits for the head
    assert gateway.client_left.wait(5)


def test_large_bodies(proxy: Running, gateway: Gateway, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = {"model": ENDPOINT, "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    assert proxy.post(json=picture).status_code == 200
    monkeypatch.setattr(teehouse.proxy.answers, "MAX_BODY", 1_000_000)
    answer = proxy.post(json=picture)
    assert (answer.status_code, code_of(answer)) == (413, "too-large")
    chunked = proxy.post(json=None, content=iter([b"x" * 600_000] * 3))
    assert (chunked.status_code, code_of(chunked)) == (413, "too-large")
    assert proxy.post().status_code == 200
    assert len(gateway.frames) == 2


def test_http_1_0_is_refused(proxy: Running) -> None:
    host, port = proxy.authority.split(":")
    with socket.create_connection((host, int(port)), 5) as raw:
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.0\r\nHost: {proxy.authority}\r\n"
            f"Authorization: Bearer {proxy.token}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        assert b" 505 " in raw.recv(4096)


def test_logs_hold_no_content(proxy: Running, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    proxy.post()
    gateway.mangle = lambda chunks: chunks[:-1]
    proxy.post()
    for _ in range(100):
        records = [r for r in caplog.records if r.name == "teehouse.proxy"]
        if len(records) == 2:
            break
        time.sleep(0.02)  # the line is written after the answer has gone
    assert [r.fields["status"] for r in records] == [200, 502]  # type: ignore[attr-defined]
    own = [r for r in caplog.records if not r.name.startswith(("httpcore", "httpx"))]  # those are the test's own client
    text = "\n".join(f"{r.getMessage()} {getattr(r, 'fields', '')}" for r in own)
    for secret in ("private question", "hello there", API_KEY, proxy.token):
        assert secret not in text


def test_no_proxy_without_key_or_on_other_addresses(gateway: Gateway) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"api_key": None}, {}, "api-key-missing"),
        ({"base_url": None}, {}, "base-url-missing"),
        ({}, {"host": "0.0.0.0"}, "host-not-loopback"),
        ({}, {"host": "::"}, "host-not-loopback"),
    ]
    for given, more, code in cases:
        with pytest.raises(LocalError) as caught:
            ProxyServer(settings_for(gateway, **given), **more)
        assert caught.value.code == code


def test_unix_socket(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "s"
    running = Running(settings_for(gateway), uds=path)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert running.url == f"unix:{path}"
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as http:
            headers = {"authorization": f"Bearer {running.token}"}
            url = "http://localhost/v1/chat/completions"
            assert http.post(url, json=QUESTION, headers=headers).status_code == 200
            assert http.post(url, json=QUESTION).status_code == 401
    finally:
        running.stop()
    assert not path.exists()


def test_token_files(tmp_path: Path) -> None:
    token, path = make_token(), tmp_path / "deep" / "token"
    write_private(path, token + "\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kept_token(path) == token
    path.chmod(0o640)
    assert kept_token(path) is None
    assert kept_token(tmp_path / "nothing") is None
    link = tmp_path / "link"
    link.symlink_to(path)
    assert kept_token(link) is None
    write_private(path, "something else")
    assert kept_token(path) is None
    with pytest.raises(LocalError):
        write_private(path / "below", "x")


def test_serve_as_a_process(gateway: Gateway, tmp_path: Path) -> None:
    """Ready file, token file, SIGTERM: what `teehouse proxy` and `teehouse up` rely on."""
    token_file, ready_file = tmp_path / "token", tmp_path / "ready.json"
    code = (
        "from pathlib import Path\n"
        "from teehouse.settings import Settings\n"
        "from teehouse.proxy import serve\n"
        f"settings = Settings.load(environ={{}}, base_url={gateway.url!r}, api_key={API_KEY!r},"
        f" endpoint={ENDPOINT!r}, policy='evaluate')\n"
        f"serve(settings, token_file=Path({str(token_file)!r}), ready_file=Path({str(ready_file)!r}),"
        " keep_token=True)\n"
    )

    def run() -> tuple[str, str]:
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
            try:
                for _ in range(300):
                    if ready_file.exists():
                        break
                    time.sleep(0.05)
                ready = json.loads(ready_file.read_text())
                assert (ready["version"], ready["pid"]) == (1, process.pid)
                assert re.fullmatch(r"http://127\.0\.0\.1:\d+", ready["url"])
                token = token_file.read_text().strip()
                assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
                headers = {"authorization": f"Bearer {token}"}
                answer = httpx2.post(f"{ready['url']}/v1/chat/completions", json=QUESTION, headers=headers, timeout=30)
                assert answer.status_code == 200
            finally:
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=15)
            assert process.returncode == 0
            assert not ready_file.exists()
            return token, err

    first, log = run()
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[-1]["event"] == "request"
    assert lines[-1]["status"] == 200
    assert "private" not in log
    second, _ = run()
    assert first == second  # kept
    os.unlink(token_file)
    third, _ = run()
    assert third != first
