# SPDX-License-Identifier: Apache-2.0
"""Evidence is fetched and appraised once per set and policy, and again when it must be."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from client_support import ENDPOINT, Canned, Gateway, Node, problem, settings_for

from teehouse.session import Session
from teehouse.verify import VerifiedCache, parse_evidence_set
from teehouse_core.errors import (
    EvidenceRefused,
    LocalError,
    MalformedError,
    PeerError,
    RefusedError,
    UnauthenticatedError,
)

QUESTION = b'{"messages":[]}'


def evidence_set(*bundles: bytes, endpoint: str = ENDPOINT) -> Canned:
    document = {
        "v": "evidence-set/1",
        "endpoint": endpoint,
        "bundles": [base64.b64encode(b).decode() for b in bundles],
    }
    return Canned(200, "application/json", json.dumps(document).encode())


def test_once_for_many_requests(driver: Any, gateway: Gateway) -> None:
    for _ in range(5):
        driver.request(QUESTION)
    verdicts = driver.verify()
    assert gateway.evidence_asked == 1
    assert [v.verdict.result for v in verdicts] == ["accepted"]
    assert verdicts[0].accepted.tier == "simulated"
    assert driver.verify(fresh=True)[0].verdict.at >= verdicts[0].verdict.at
    assert gateway.evidence_asked == 2


def test_many_at_once_share_one_verification(gateway: Gateway) -> None:
    with Session(settings_for(gateway)) as session, ThreadPoolExecutor(16) as pool:

        def ask(_: int) -> bytes:
            with session.request(None, "chat.completions", QUESTION) as answer:
                return answer.read()

        assert len(set(pool.map(ask, range(16)))) == 1
    assert gateway.evidence_asked == 1


@pytest.mark.parametrize("passed", [3500, 4000])
def test_again_when_the_acceptance_ends(gateway: Gateway, node: Node, passed: int) -> None:
    import time

    shift = [0.0]
    with Session(settings_for(gateway), clock=lambda: time.time() + shift[0]) as session:
        assert session.verify()[0].accepted is not None
        shift[0] = passed
        session.verify()
    assert gateway.evidence_asked == (2 if passed > 3600 else 1)


def test_key_about_to_end_is_verified_anew(gateway: Gateway, node: Node, make_driver: Callable[..., Any]) -> None:
    node.life = 8  # seconds: less than what is kept as a margin
    node.restart()
    driver = make_driver()
    driver.request(QUESTION)
    driver.request(QUESTION)
    assert gateway.evidence_asked == 2


def test_strict_refuses_simulated_evidence_and_sends_nothing(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    driver = make_driver(policy="strict")
    with pytest.raises(EvidenceRefused) as caught:
        driver.request(QUESTION)
    assert caught.value.verdict.check("policy.platform").state == "failed"
    assert gateway.frames == []
    assert driver.verify(fresh=True)[0].accepted is None  # a verdict, not an error


def test_evidence_for_another_challenge_is_refused(driver: Any, gateway: Gateway, node: Node) -> None:
    old = node.bundle(bytes(32))
    gateway.evidence_from = lambda _value: [old]
    with pytest.raises(EvidenceRefused):
        driver.request(QUESTION)
    assert gateway.frames == []


def test_other_nodes_keyset_under_good_evidence_is_refused(driver: Any, gateway: Gateway, node: Node) -> None:
    other = Node("node-9")

    def swapped(value: bytes) -> list[bytes]:
        bundle = json.loads(node.bundle(value))
        bundle["keyset"] = json.loads(other.keyset.raw)
        return [json.dumps(bundle).encode()]

    gateway.evidence_from = swapped
    with pytest.raises(EvidenceRefused):
        driver.request(QUESTION)
    assert gateway.frames == []


def test_one_bad_bundle_does_not_spoil_a_good_one(driver: Any, gateway: Gateway, node: Node) -> None:
    gateway.evidence_from = lambda value: [b"{}", node.bundle(value)]
    assert driver.request(QUESTION).status == 200
    driver.verify(fresh=True)
    gateway.evidence_from = lambda _value: [b"{}", b"nothing"]
    with pytest.raises(MalformedError):
        driver.verify(fresh=True)


def test_the_same_keyset_twice_counts_once(driver: Any, gateway: Gateway, node: Node) -> None:
    gateway.evidence_from = lambda value: [node.bundle(value)] * 2
    assert driver.request(QUESTION).status == 200
    assert len(driver.verify()) == 1


def test_a_node_that_borrows_a_key_is_left_out(driver: Any, gateway: Gateway, node: Node) -> None:
    rogue = Node("rogue")
    rogue.ring = node.ring
    borrowed = json.loads(node.keyset.raw)
    from teehouse_core.wire.canonical import encode
    from teehouse_core.wire.keyset import Keyset

    rogue.keyset = Keyset.parse(encode({**borrowed, "node": "rogue"}))
    gateway.evidence_from = lambda value: [node.bundle(value), rogue.bundle(value)]
    assert driver.request(QUESTION).status == 200
    assert len(driver.verify()) == 2
    assert len(node.opened[0].header.candidates) == 1


def test_two_nodes_are_two_candidates(driver: Any, gateway: Gateway, node: Node) -> None:
    gateway.nodes = [Node("node-1"), node]
    answer = driver.request(QUESTION)
    assert answer.answer.keyset_sha256 == gateway.nodes[0].keyset.sha256
    assert len(gateway.nodes[0].opened[0].header.candidates) == 2


@pytest.mark.parametrize(
    ("canned", "error", "code"),
    [
        (problem("over-limit"), UnauthenticatedError, "over-limit"),
        (problem("unavailable"), UnauthenticatedError, "unavailable"),
        (problem("unavailable", status=404, reason="endpoint-unknown"), UnauthenticatedError, "unavailable"),
        (
            Canned(302, "text/html", b"go there", {"Location": "http://127.0.0.1:1/"}),
            UnauthenticatedError,
            "unavailable",
        ),
        (Canned(200, "application/json", b"not json"), MalformedError, "evidence-set"),
        (Canned(200, "application/json", b"[]"), MalformedError, "evidence-set"),
        (evidence_set(), MalformedError, "evidence-set"),
        (evidence_set(b"a", b"b", b"c"), MalformedError, "evidence-set"),
        (evidence_set(b"a", endpoint="ep-other"), MalformedError, "evidence-set"),
    ],
)
def test_answers_that_are_no_evidence(
    driver: Any, gateway: Gateway, canned: Canned, error: type[PeerError], code: str
) -> None:
    gateway.canned_evidence = [canned]
    with pytest.raises(error) as caught:
        driver.verify()
    assert caught.value.code == code
    assert gateway.frames == []


def test_a_set_that_is_too_large_is_not_read_to_its_end(
    driver: Any, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    import teehouse.session.flow
    import teehouse.verify.nodes

    monkeypatch.setattr(teehouse.session.flow, "MAX_EVIDENCE_SET", 1000)
    monkeypatch.setattr(teehouse.verify.nodes, "MAX_EVIDENCE_SET", 1000)
    with pytest.raises(MalformedError) as caught:
        driver.verify()
    assert caught.value.code == "document-too-large"


def test_base64_is_strict() -> None:
    document = {"v": "evidence-set/1", "endpoint": ENDPOINT, "bundles": ["!!"]}
    with pytest.raises(MalformedError):
        parse_evidence_set(json.dumps(document).encode(), endpoint=ENDPOINT, most=2)
    document["bundles"] = [5]
    with pytest.raises(MalformedError):
        parse_evidence_set(json.dumps(document).encode(), endpoint=ENDPOINT, most=2)


def test_a_session_keeps_its_tier(gateway: Gateway) -> None:
    with Session(settings_for(gateway)) as session:
        verdicts = session.verify()
        cache = VerifiedCache()
        cache.tier = "hardware"
        now = verdicts[0].verdict.at
        cache.put(ENDPOINT, "p", verdicts, now)
        with pytest.raises(RefusedError) as caught:
            cache.usable(ENDPOINT, "p", now)
        assert caught.value.code == "tier-changed"


def test_no_endpoint_and_odd_ones(make_driver: Callable[..., Any], gateway: Gateway) -> None:
    driver = make_driver()
    with pytest.raises(LocalError) as caught:
        driver.request(QUESTION, endpoint="../models")
    assert caught.value.code == "endpoint-form"
    with pytest.raises(LocalError) as caught:
        driver.request(QUESTION, op="files")
    assert caught.value.code == "op-unknown"
    assert gateway.evidence_asked == 0
