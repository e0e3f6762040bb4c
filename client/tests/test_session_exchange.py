# SPDX-License-Identifier: Apache-2.0
"""A sealed exchange over a path that lies, cuts, stalls and rotates."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

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

import teehouse.session.answer
from teehouse.session import Session, Unreachable
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import (
    LocalError,
    MalformedError,
    RefusedError,
    StaleEvidence,
    TeehouseError,
    TruncatedStream,
    UnauthenticatedError,
)
from teehouse_core.wire.frame import RESPONSE_TYPE, RequestFrame
from teehouse_core.wire.suites import HIGH_SUITE

QUESTION = b'{"messages":[{"role":"user","content":"a very secret question"}]}'


def test_answer_receipt_and_one_connection(driver: Any, gateway: Gateway, node: Node) -> None:
    for _ in range(3):
        answer = driver.request(QUESTION)
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "hello there"
    assert answer.receipt.keyset_sha256 == node.keyset.sha256
    assert answer.receipt.bundle_sha256 == driver.verify()[0].verdict.bundle_sha256
    assert answer.receipt.to_json()["usage"] == {"input_tokens": 3, "output_tokens": 2, "cached_tokens": 0}
    assert driver.session.last_receipt == answer.receipt
    assert gateway.connections == 1  # kept open from the evidence through all answers


def test_what_the_gateway_sees(driver: Any, gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    driver.request(QUESTION)
    frame = RequestFrame.parse(gateway.frames[0])
    assert frame.header.endpoint == ENDPOINT
    assert frame.header.account == API_KEY[6:22]
    headers = gateway.headers[0]
    assert headers["authorization"] == f"Bearer {API_KEY}"
    assert headers["x-request-id"] == frame.header.request_id
    assert headers["accept-encoding"] == "identity"
    assert b"secret question" not in gateway.frames[0]
    assert API_KEY.encode() not in gateway.frames[0]
    for secret in ("secret question", "hello there", API_KEY):
        assert secret not in caplog.text


def test_unknown_key_is_followed_once(driver: Any, gateway: Gateway, node: Node) -> None:
    driver.request(QUESTION)
    time.sleep(1.1)  # the new keyset must not be older, in whole seconds
    node.restart()
    assert driver.request(QUESTION).status == 200
    assert gateway.evidence_asked == 2
    first, second = (RequestFrame.parse(f).header for f in gateway.frames[1:])
    assert (first.attempt, second.attempt) == (0, 1)
    assert first.request_id == second.request_id
    assert first.cek_commit != second.cek_commit


def test_rotation_needs_no_second_attempt(driver: Any, gateway: Gateway, node: Node) -> None:
    driver.request(QUESTION)
    node.rotate()
    assert driver.request(QUESTION).status == 200
    assert len(gateway.frames) == 2


def test_unknown_key_without_a_newer_keyset_is_stale(driver: Any, gateway: Gateway) -> None:
    gateway.canned = [problem("unknown-key")]
    with pytest.raises(StaleEvidence):
        driver.request(QUESTION)
    assert len(gateway.frames) == 1


def test_unknown_key_with_an_older_keyset_is_stale(driver: Any, gateway: Gateway, node: Node) -> None:
    driver.request(QUESTION)
    node.restart(started=int(time.time()) - 100)
    with pytest.raises(StaleEvidence):
        driver.request(QUESTION)
    assert len(gateway.frames) == 2


def test_unknown_key_for_ever_is_stale(driver: Any, gateway: Gateway, node: Node) -> None:
    driver.request(QUESTION)
    node.restart()
    gateway.canned = [problem("unknown-key"), problem("unknown-key")]
    with pytest.raises(StaleEvidence):
        driver.request(QUESTION)
    assert len(gateway.frames) == 3


@pytest.mark.parametrize(
    "canned",
    [
        Canned(200, "application/json", b'{"choices":[{"message":{"content":"trust me"}}]}'),
        Canned(200, "text/event-stream", b"data: {}\n\n"),
        Canned(200, "", b""),
        Canned(201, RESPONSE_TYPE, b"x"),
        Canned(204, RESPONSE_TYPE, b""),
    ],
)
def test_a_clear_success_is_refused(driver: Any, gateway: Gateway, canned: Canned) -> None:
    gateway.canned = [canned]
    with pytest.raises(MalformedError) as caught:
        driver.request(QUESTION)
    assert caught.value.code == "clear-answer"
    assert "trust me" not in str(caught.value)


@pytest.mark.parametrize("code", ["expired", "replayed", "malformed", "over-limit", "unavailable"])
def test_codes_of_the_closed_list(driver: Any, gateway: Gateway, code: str) -> None:
    gateway.canned = [problem(code, Retry_After="99999")]
    with pytest.raises(UnauthenticatedError) as caught:
        driver.request(QUESTION)
    assert caught.value.code == code
    assert caught.value.retry_after == 60.0
    assert len(gateway.frames) == 1


@pytest.mark.parametrize(
    "canned",
    [
        Canned(418, "text/html", b"<h1>please update your clock</h1>"),
        Canned(500, "application/problem+json", b"not json"),
        Canned(422, "application/problem+json", b'{"code":"expired"}'),
        Canned(503, "application/problem+json", b'{"code":"unavailable","detail":"' + b"x" * 20000 + b'"}'),
        Canned(307, "text/html", b"", {"Location": "http://127.0.0.1:1/"}),
    ],
)
def test_anything_else_is_unavailable_and_not_quoted(driver: Any, gateway: Gateway, canned: Canned) -> None:
    gateway.canned = [canned]
    with pytest.raises(UnauthenticatedError) as caught:
        driver.request(QUESTION)
    assert (caught.value.code, caught.value.status) == ("unavailable", canned.status)
    assert "clock" not in str(caught.value)


def _flip(chunks: list[bytes], index: int, at: int = -1) -> list[bytes]:
    changed = bytearray(chunks[index])
    changed[at] ^= 1
    chunks[index] = bytes(changed)
    return chunks


@pytest.mark.parametrize(
    ("mangle", "error"),
    [
        (lambda c: c[:-1], TruncatedStream),
        (lambda c: [*c[:-1], CUT], TruncatedStream),
        (lambda c: [CUT], TruncatedStream),
        (lambda c: [c[0][:20], CUT], TruncatedStream),
        (lambda c: [], TruncatedStream),
        (lambda c: [*c[:-1], c[-1][:-1]], TruncatedStream),
        (lambda c: _flip(c, 0), MalformedError),
        (lambda c: _flip(c, 0, 5), MalformedError),
        (lambda c: _flip(c, 1), MalformedError),
        (lambda c: _flip(c, -1), MalformedError),
        (lambda c: [c[0], c[2], c[1], *c[3:]], MalformedError),
        (lambda c: [c[0], c[1], c[1], *c[2:]], MalformedError),
        (lambda c: [c[0], *c[2:]], MalformedError),
        (lambda c: [b"\x02" + c[0][1:], *c[1:]], MalformedError),
        (lambda c: [b"\x01\x07" + c[0][2:], *c[1:]], MalformedError),
        (lambda c: [b"data: hello\n\n" * 20], MalformedError),
    ],
)
def test_changed_answers(
    driver: Any, gateway: Gateway, mangle: Callable[[list[bytes]], list[Any]], error: type[TeehouseError]
) -> None:
    gateway.script = Script(pieces=[b'{"a":', b'"one"', b"}"])
    gateway.mangle = mangle
    with pytest.raises(error):
        driver.request(QUESTION)


def test_bytes_after_the_trailer_are_not_read(driver: Any, gateway: Gateway) -> None:
    gateway.mangle = lambda chunks: [*chunks, b"and more" * 10]
    assert driver.request(QUESTION).body.endswith(b"}")


def test_one_byte_at_a_time(driver: Any, gateway: Gateway) -> None:
    gateway.mangle = lambda chunks: [bytes([b]) for b in b"".join(chunks)]
    assert driver.request(QUESTION).status == 200


def test_another_requests_answer_is_refused(driver: Any, gateway: Gateway) -> None:
    kept: list[list[bytes]] = []

    def keep(chunks: list[bytes]) -> list[bytes]:
        kept.append(chunks)
        return kept[0]

    gateway.mangle = keep
    driver.request(QUESTION)
    with pytest.raises(MalformedError):
        driver.request(QUESTION)


def test_nobody_there(make_driver: Callable[..., Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = make_driver(base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(Unreachable) as caught:
        driver.request(QUESTION)
    assert caught.value.code == "unreachable"


def test_silence_before_and_within_the_answer(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    gateway.script = Script(pieces=[b"a", b"b"], pause=lambda index: time.sleep(0.8) if index == 1 else None)
    driver = make_driver(idle_seconds=0.3)
    with pytest.raises(TruncatedStream) as caught:
        driver.request(QUESTION)
    assert caught.value.code == "idle-timeout"
    gateway.script = Script()
    patient = make_driver(first_byte_seconds=0.2)
    patient.verify()
    gateway.mangle = lambda chunks: time.sleep(0.6) or chunks
    gateway_slow_head(gateway)
    with pytest.raises(Unreachable) as late:
        patient.request(QUESTION)
    assert late.value.code == "timeout"


def gateway_slow_head(gateway: Gateway) -> None:
    """Hold back also the status line."""
    for node in gateway.nodes:
        real = node.answer

        def slow(frame: bytes, script: Script, real: Any = real) -> Any:
            time.sleep(0.6)
            return real(frame, script)

        node.answer = slow  # type: ignore[method-assign]


def test_a_gateway_that_never_ends_does_not_hold_the_caller(driver: Any, gateway: Gateway) -> None:
    def then_wait(chunks: list[bytes]) -> Any:
        yield from chunks
        time.sleep(3)

    gateway.mangle = then_wait
    began = time.monotonic()
    assert driver.request(QUESTION).status == 200
    assert time.monotonic() - began < 2


def test_closing_early_stops_the_node(gateway: Gateway, node: Node) -> None:
    began = threading.Event()

    def pause(index: int) -> None:
        if index:
            began.set()
            time.sleep(0.05)

    gateway.script = Script(content_type="text/event-stream", pieces=[b"data: {}\n\n"] * 200, pause=pause)
    with Session(settings_for(gateway)) as session:
        answer = session.request(None, "chat.completions", QUESTION)
        assert next(iter(answer)) == b"data: {}\n\n"
        assert began.wait(5)
        answer.close()
        assert gateway.client_left.wait(5)
        assert answer.end is None
        assert answer.receipt is None


def test_a_large_question_is_sent_in_pieces(driver: Any, gateway: Gateway, node: Node) -> None:
    content = json.dumps({"messages": [{"role": "user", "content": "x" * 5_000_000}]}).encode()
    assert driver.request(content).status == 200
    assert len(node.bodies[0]["messages"][0]["content"]) == 5_000_000


def test_an_answer_beyond_the_limit(driver: Any, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    import teehouse.session.hold

    monkeypatch.setattr(teehouse.session.hold, "MAX_ANSWER", 100)
    gateway.script = Script(pieces=[b"x" * 60, b"y" * 60])
    with pytest.raises(MalformedError) as caught:
        driver.request(QUESTION)
    assert caught.value.code == "answer-too-large"


def test_wrong_and_missing_keys(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    with pytest.raises(LocalError) as caught:
        make_driver(api_key="sk-th-short").request(QUESTION)
    assert caught.value.code == "api-key-form"
    with pytest.raises(LocalError) as caught:
        Session(settings_for(gateway, api_key=None)).request(None, "chat.completions", QUESTION)
    assert caught.value.code == "api-key-missing"
    assert gateway.frames == []


def test_after_a_dead_node_evidence_is_asked_again(gateway: Gateway, node: Node) -> None:
    shift = [0.0]
    with Session(settings_for(gateway), clock=lambda: time.time() + shift[0]) as session:
        session.verify()
        shift[0] = 20  # fresh evidence is not doubted
        gateway.mangle = lambda chunks: [chunks[0], CUT]
        with (
            pytest.raises(TruncatedStream),
            contextlib.closing(session.request(None, "chat.completions", QUESTION)) as answer,
        ):
            answer.read()
        gateway.mangle = None
        session.request(None, "chat.completions", QUESTION).read()
        assert gateway.evidence_asked == 2


def test_streams_arrive_as_they_are_sealed(gateway: Gateway) -> None:
    go = threading.Event()
    gateway.script = text_stream("one", "two")
    gateway.script.pause = lambda index: go.wait(5) and None if index == 2 else None
    with (
        Session(settings_for(gateway)) as session,
        session.request(None, "chat.completions", b'{"messages":[],"stream":true}') as answer,
    ):
        pieces = iter(answer)
        assert b"assistant" in next(pieces)
        assert b"one" in next(pieces)
        go.set()
        assert b"two" in next(pieces)


def test_the_policy_chooses_the_suite(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    high = Node(suite=HIGH_SUITE)
    gateway.nodes = [high]
    policy = dataclasses.replace(Policy.preset("evaluate"), suites=(HIGH_SUITE,))
    assert make_driver(policy=policy).request(QUESTION).status == 200
    assert high.opened[0].header.suite == HIGH_SUITE
    with pytest.raises(RefusedError):  # both are allowed: the usual one is taken, and this node has none
        make_driver().request(QUESTION)


def test_certificate_authority_file(gateway: Gateway, tmp_path: Any) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("nothing")
    with pytest.raises(LocalError) as caught:
        teehouse.session.answer.client_options(settings_for(gateway, ca_file=str(wrong)))
    assert caught.value.code == "ca-file"
