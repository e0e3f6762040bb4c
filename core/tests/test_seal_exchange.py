# SPDX-License-Identifier: Apache-2.0
"""Client machine against node machine: what goes through, what the other side refuses, and what any spoiling gives."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seal_support import (
    CONTENT,
    ENDPOINT,
    HEADERS,
    NOW,
    AcceptedStandIn,
    Drawer,
    NodeStandIn,
    body_of,
    bounded,
    make_keyset,
    make_node,
    outcome,
    read_all,
    seal,
)

from teehouse_core.errors import (
    LocalError,
    MalformedError,
    RefusedError,
    RequestRefused,
    TeehouseError,
    TruncatedStream,
)
from teehouse_core.seal import node as node_module
from teehouse_core.seal.client import AnswerEnd, AnswerHead, ResponseOpener, choose_key
from teehouse_core.seal.inner import InnerOptions
from teehouse_core.seal.node import CONSTANT_RECORD, ResponseSealer, sign_usage
from teehouse_core.seal.replay import SeenSet
from teehouse_core.wire.frame import RequestFrame
from teehouse_core.wire.header import MAX_BODY
from teehouse_core.wire.keyset import HpkeKey
from teehouse_core.wire.labels import L
from teehouse_core.wire.receipts import Usage, UsageRecord
from teehouse_core.wire.records import RecordReader
from teehouse_core.wire.suites import DEFAULT_SUITE, HIGH_SUITE

NAMES = ("alpha", "beta", "gamma", "delta")


def nodes(count: int = 2) -> list[NodeStandIn]:
    return [make_node(name) for name in NAMES[:count]]


@bounded
@given(
    st.binary(max_size=5000),
    st.integers(1, 4),
    st.integers(0, 3),
    st.lists(st.binary(max_size=700), max_size=5),
    st.sampled_from(["off", "pad", "constant"]),
    st.booleans(),
    st.integers(1, 900),
)
def test_what_is_sealed_is_opened(
    content: bytes, count: int, who: int, body: list[bytes], shape: Any, armored: bool, step: int
) -> None:
    group = nodes(count)
    request = seal(group, content, options=InnerOptions(shape, 3))
    serving = group[who % count]
    opened = serving.open(request.frame)
    inner, options, _ = opened.read()
    assert (inner.content, options) == (content, InnerOptions(shape, 3))
    assert opened.index == who % count
    wire = b"".join(serving.answer(opened, body, shape=shape, armored=armored, cover=True))
    pieces = [wire[at : at + step] for at in range(0, len(wire), step)]
    events = read_all(ResponseOpener(request, armored=armored), pieces)
    assert body_of(events) == b"".join(body)
    assert isinstance(events[0], AnswerHead)
    assert events[0].keyset_sha256 == serving.keyset.sha256
    assert isinstance(events[-1], AnswerEnd)
    assert events[-1].receipt.usage == Usage(3, len(body), 0)


def test_large_content() -> None:
    content = bytes(300_000)
    (node,) = nodes(1)
    opened = node.open(seal([node], content).frame)
    assert opened.read()[0].content == content


def test_the_high_suite() -> None:
    node = make_node("tall", HIGH_SUITE)
    request = seal([node], suite=HIGH_SUITE)
    assert len(RequestFrame.parse(request.frame).envelopes[0]) == 1777
    opened = node.open(request.frame)
    assert body_of(read_all(ResponseOpener(request), node.answer(opened, [b"x"]))) == b"x"
    with pytest.raises(RefusedError) as refused:
        seal([node])
    assert refused.value.code == "no-usable-key"


def test_two_seals_share_nothing() -> None:
    draw = Drawer("two")
    one, two = (seal(nodes(), random=draw) for _ in range(2))
    assert one.th != two.th
    assert one.parts[-1] != two.parts[-1]
    assert set(one.secrets).isdisjoint(two.secrets)
    assert one.header.request_id != two.header.request_id
    assert b"messages" not in one.frame + two.frame
    assert "messages" not in repr(one)


def test_a_retry_keeps_its_id_and_nothing_else() -> None:
    draw = Drawer("retry")
    one, two = (seal(nodes(), random=draw, request_id=bytes(16), attempt=i) for i in range(2))
    assert one.header.request_id == two.header.request_id
    assert (one.header.attempt, two.header.attempt) == (0, 1)
    assert one.header.cek_commit != two.header.cek_commit


def test_scope_depends_on_caller_and_keyset() -> None:
    group = nodes()
    scopes = {
        (node.name, caller): node.open(seal(group, cache_secret=caller, random=Drawer(node.name)).frame).scope
        for node in group
        for caller in (b"a" * 32, b"b" * 32)
    }
    assert len(set(scopes.values())) == 4


def refused_by(node: NodeStandIn, frame: bytes, **fields: Any) -> tuple[str, str]:
    with pytest.raises(TeehouseError) as error:
        node.open(frame, **fields)
    return error.value.code, str(getattr(error.value, "wire_code", None))


def test_a_node_that_was_not_asked_opens_nothing() -> None:
    assert refused_by(make_node("gamma"), seal(nodes()).frame) == ("unknown-key", "unknown-key")


def test_a_request_is_opened_once_by_each_candidate() -> None:
    group = nodes()
    frame = seal(group).frame
    for node in group:
        node.open(frame)
        assert refused_by(node, frame) == ("replayed", "replayed")


def test_a_full_memory_is_unavailable() -> None:
    node = make_node()
    node.seen = SeenSet(1)
    node.open(seal([node], random=Drawer("1")).frame)
    assert refused_by(node, seal([node], random=Drawer("2")).frame) == ("replay-memory-full", "unavailable")


def test_time() -> None:
    node = make_node()
    frame = seal([node]).frame
    assert refused_by(node, frame, now=NOW - 61)[1] == "expired"
    assert refused_by(node, frame, now=NOW + 121)[1] == "expired"
    node.open(frame, now=NOW + 120)


def test_rotation() -> None:
    """A request to the old key opens in the overlap and while the key is decrypt-only, and never after."""
    old, new = make_node("alpha"), make_node("beta")
    node = NodeStandIn("alpha", old.key, old.sign, old.keyset)
    newer = make_keyset("alpha", [new.key, old.key], old.sign)
    node.ring.publish(newer, [new.key, old.key])
    node.open(seal([AcceptedStandIn(old.keyset)]).frame)
    node.open(seal([AcceptedStandIn(newer)], random=Drawer("newer")).frame)
    late = seal([AcceptedStandIn(old.keyset)], now=NOW + 2999, random=Drawer("late"), lifetime=300).frame
    node.open(late, now=NOW + 3000 + 200)
    over = seal([AcceptedStandIn(old.keyset)], now=NOW + 2999, random=Drawer("over")).frame
    assert refused_by(node, over, now=NOW + 3601)[1] == "unknown-key"
    node.ring.drop_expired(NOW + 3601)
    assert refused_by(node, over, now=NOW + 3000)[1] == "unknown-key"


def test_the_newest_key_is_chosen() -> None:
    node, other = make_node("alpha"), make_node("beta")
    keys = [replace(node.keyset.hpke[0], not_before=NOW - 50), other.keyset.hpke[0]]
    both = make_keyset("alpha", [], node.sign, hpke=keys)
    assert choose_key(AcceptedStandIn(both), NOW).kid == keys[0].kid  # type: ignore[arg-type]


@pytest.mark.parametrize("now", [NOW + 3000, NOW + 4000])
def test_acceptance_ends(now: int) -> None:
    with pytest.raises(RefusedError) as refused:
        seal(nodes(), now=now)
    assert refused.value.code == "accepted-expired"


@pytest.mark.parametrize(("begin", "end"), [(NOW + 61, NOW + 100), (NOW - 10, NOW)])
def test_only_a_key_in_its_time_is_sealed_to(begin: int, end: int) -> None:
    node = make_node()
    key: HpkeKey = replace(node.keyset.hpke[0], not_before=begin, not_after=end)
    keyset = make_keyset("alpha", [], node.sign, hpke=[key])
    with pytest.raises(RefusedError) as refused:
        seal([AcceptedStandIn(keyset)])
    assert refused.value.code == "no-usable-key"


@pytest.mark.parametrize(
    ("who", "fields", "code"),
    [
        ([], {}, "candidate-count"),
        ([*NAMES, "epsilon"], {}, "candidate-count"),
        (["alpha", "alpha"], {}, "candidate-repeated"),
        (["alpha"], {"endpoint": "ep-other"}, "candidate-endpoint"),
        (["alpha"], {"lifetime": 301}, "lifetime"),
        (["alpha"], {"lifetime": 0}, "lifetime"),
    ],
)
def test_a_wrong_call(who: list[str], fields: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as error:
        seal([make_node(name) for name in who], **fields)
    assert error.value.code == code


@pytest.mark.parametrize("fields", [{"tier": "hardware"}, {"policy_digest": "22" * 32}])
def test_candidates_of_different_worth_are_not_mixed(fields: dict[str, str]) -> None:
    one, two = (node.accepted for node in nodes())
    with pytest.raises(LocalError) as error:
        seal([one, replace(two, **fields)])
    assert error.value.code == "candidate-mixed"


def test_a_borrowed_key_is_noticed_by_the_client() -> None:
    """The thief's keyset lists alpha's key, as its newest or beside its own: the client cannot tell who is who."""
    alpha, thief = make_node("alpha"), make_node("thief")
    for keys in ([alpha.key], [alpha.key, thief.key]):
        keyset = make_keyset("thief", keys, thief.sign)
        for pair in ([alpha, AcceptedStandIn(keyset)], [AcceptedStandIn(keyset), alpha]):
            with pytest.raises(RefusedError) as refused:
                seal(pair)
            assert refused.value.code == "candidate-key-shared"
    alone = make_keyset("thief", [alpha.key], thief.sign)
    assert refused_by(alpha, seal([AcceptedStandIn(alone)]).frame) == ("unknown-key", "unknown-key")


def test_too_large() -> None:
    with pytest.raises(LocalError) as error:
        seal(nodes(1), bytes(MAX_BODY))
    assert error.value.code == "too-large"


def test_an_envelope_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "hpke_open", lambda *_: bytes(95))
    assert refused_by(make_node(), seal(nodes()).frame)[0] == "envelope"


# ---------------------------------------------------------------- answers

NODE = make_node()
REQUEST = seal([NODE, make_node("beta")])
OPENED = NODE.open(REQUEST.frame)
ANSWER = NODE.answer(OPENED, [b"one", b"two"])
WIRE, ARMORED = b"".join(ANSWER), b"".join(NODE.answer(OPENED, [b"one", b"two"], armored=True))


@bounded
@given(st.booleans(), st.integers(0, 1 << 16), st.integers(0, 255), st.sampled_from(["byte", "cut", "insert"]),
       st.integers(1, 400))  # fmt: skip
def test_a_spoilt_answer_is_an_error_however_it_is_cut(armored: bool, at: int, byte: int, how: str, step: int) -> None:
    good = ARMORED if armored else WIRE
    at %= len(good)
    data = good[:at] + (b"" if how == "cut" else bytes([byte])) + good[at + (how != "insert") :]
    if data == good:
        return
    whole = outcome(lambda: ResponseOpener(REQUEST, armored=armored), [data])
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    assert outcome(lambda: ResponseOpener(REQUEST, armored=armored), pieces) == whole
    right, _ = outcome(lambda: ResponseOpener(REQUEST, armored=armored), [good])
    assert whole[0] == right[: len(whole[0])]  # never a byte that the node did not send
    if not armored:
        assert whole[1] is not None


@bounded
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_as_an_answer(data: bytes, armored: bool) -> None:
    got, code = outcome(lambda: ResponseOpener(REQUEST, armored=armored), [data])
    assert got == []
    assert code


@bounded
@given(st.integers(0, 1 << 16), st.integers(0, 255))
def test_a_spoilt_request_is_refused(at: int, byte: int) -> None:
    frame = REQUEST.frame
    at %= len(frame)
    spoilt = frame[:at] + bytes([byte]) + frame[at + 1 :]
    second = 9 + len(REQUEST.header_bytes) + 1232
    if spoilt == frame or second <= at < second + 1232:  # the envelope of the other candidate is not read
        return
    with pytest.raises((MalformedError, RequestRefused)):
        make_node().open(spoilt)


@bounded
@given(st.binary(max_size=600))
def test_any_bytes_as_a_request(data: bytes) -> None:
    for frame in (data, REQUEST.frame[:9] + data, REQUEST.frame[: len(REQUEST.frame) - len(data)] + data):
        try:
            make_node().open(frame)
        except (MalformedError, RequestRefused):
            continue
        assert frame == REQUEST.frame


@pytest.mark.parametrize("armored", [False, True])
def test_every_place_to_cut_is_noticed(armored: bool) -> None:
    good = ARMORED if armored else WIRE
    for end in range(0, len(good) - 1, 7):
        opener = ResponseOpener(REQUEST, armored=armored)
        opener.feed(good[:end])
        with pytest.raises(TruncatedStream) as error:
            opener.end()
        assert error.value.code == "truncated-stream"


def test_the_error_stays() -> None:
    opener = ResponseOpener(REQUEST)
    spoilt = bytearray(WIRE)
    spoilt[-1] ^= 1
    events = opener.feed(bytes(spoilt))
    assert body_of(events) == b"onetwo"  # authenticated before the bad record came
    for call in (lambda: opener.feed(b""), opener.end, lambda: opener.feed(WIRE)):
        with pytest.raises(MalformedError) as error:
            call()
        assert error.value.code == "record-tag"
    assert not opener.ended


def test_after_the_end_nothing_is_read() -> None:
    opener = ResponseOpener(REQUEST)
    assert isinstance(opener.feed(WIRE + b"garbage")[-1], AnswerEnd)
    assert opener.feed(b"more") == []
    opener.end()


def test_candidates_cannot_answer_for_each_other() -> None:
    alpha, beta = nodes()
    request = seal([alpha, beta])
    wires = [b"".join(node.answer(node.open(request.frame), [b"mine"])) for node in (alpha, beta)]
    for index, wire in enumerate(wires):
        assert outcome(lambda: ResponseOpener(request), [wire])[1] is None
        posing = bytes([1, 1 - index]) + wire[2:]
        assert outcome(lambda: ResponseOpener(request), [posing]) == ([], "record-tag")


def test_an_answer_to_another_request_does_not_open() -> None:
    other = seal([NODE], random=Drawer("other"))
    wire = b"".join(NODE.answer(NODE.open(other.frame), [b"x"]))
    assert outcome(lambda: ResponseOpener(REQUEST), [wire]) == ([], "record-tag")


def test_a_record_cannot_move_between_two_answers_to_one_request() -> None:
    one, two = (NODE.answer(OPENED, [b"aa", b"bb"], nonce=bytes([i]) * 32) for i in range(2))
    assert outcome(lambda: ResponseOpener(REQUEST), [one[0], two[1], *one[2:]])[1] == "record-tag"


def records_of(wire: bytes) -> list[int]:
    return [len(record.ciphertext) - 16 for record in RecordReader().feed(wire[34:])]


def test_the_shape_constant_has_one_size() -> None:
    wire = b"".join(NODE.answer(OPENED, [b"x", b"y" * 507, b"z" * 3000], shape="constant", cover=True))
    sizes = records_of(wire)
    assert set(sizes[:-1]) == {CONSTANT_RECORD}
    assert sizes[-1] % CONSTANT_RECORD == 0
    assert body_of(read_all(ResponseOpener(REQUEST), [wire])) == b"x" + b"y" * 507 + b"z" * 3000


def test_the_shape_pad_hides_lengths() -> None:
    sizes = [records_of(b"".join(NODE.answer(OPENED, [b"x" * n])))[1] for n in (1, 60, 123, 124, 251, 252, 507, 508)]
    assert sizes == [128, 128, 128, 256, 256, 512, 512, 1024]


def test_the_shape_off_pads_nothing() -> None:
    assert records_of(b"".join(NODE.answer(OPENED, [b"x"], shape="off")))[1] == 6


def test_a_long_piece_is_cut_into_records() -> None:
    body = bytes(200_000)
    wire = b"".join(NODE.answer(OPENED, [body]))
    assert max(records_of(wire)) == 65536
    assert body_of(read_all(ResponseOpener(REQUEST), [wire])) == body


def test_nothing_is_sealed_after_the_trailer() -> None:
    sealer = ResponseSealer(OPENED, bytes(32))
    sealer.head(200, HEADERS)
    times = {"started_at": NOW, "finished_at": NOW}
    sealer.trailer(status=200, finish="stop", usage=Usage(), kid=NODE.sign_kid, sign=NODE.sign.sign, **times)
    with pytest.raises(LocalError):
        sealer.cover()


def test_a_receipt_names_request_answer_and_node() -> None:
    end = read_all(ResponseOpener(REQUEST), ANSWER)[-1]
    assert isinstance(end, AnswerEnd)
    receipt = end.receipt
    assert (receipt.th, receipt.request_id) == (REQUEST.th, REQUEST.header.request_id)
    assert (receipt.keyset_sha256, receipt.model) == (NODE.keyset.sha256, NODE.keyset.model)
    NODE.sign.public_key().verify(end.sig, L("receipt") + end.receipt_bytes)
    assert receipt.request_commit != receipt.response_commit


def test_a_usage_record_says_nothing_about_content() -> None:
    raw, sig = sign_usage(
        OPENED, usage=Usage(1, 2, 0), status=499, kid=NODE.sign_kid, sign=NODE.sign.sign, finished_at=NOW
    )
    NODE.sign.public_key().verify(sig, L("usage") + raw)
    record = UsageRecord.parse(raw)
    assert (record.account, record.status) == (REQUEST.header.account, 499)
    assert set(json.loads(raw)) >= {"th", "usage"}
    assert not any("commit" in name for name in json.loads(raw))


def test_bodies_of_one_bucket_have_one_size() -> None:
    lengths = {len(seal([NODE], CONTENT + b" " * n).parts[-1]) for n in range(0, 700, 50)}
    assert len(lengths) == 1


def test_defaults() -> None:
    frame = RequestFrame.parse(REQUEST.frame)
    assert (frame.header.suite, frame.header.endpoint) == (DEFAULT_SUITE, ENDPOINT)
    assert frame.header.expires_at - frame.header.sent_at == 120


def test_an_unknown_operation_is_the_callers_error() -> None:
    with pytest.raises(LocalError) as error:
        seal(nodes(1), op="images.generations")
    assert error.value.code == "op-unknown"
