# SPDX-License-Identifier: Apache-2.0
"""The parts of sealing: suites, key schedule, records, Binary HTTP, inner message, replay memory, keyring, answers."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seal_support import ACCOUNT, CONTENT, ENDPOINT, NOW, bounded, make_keyset, make_node, seal

from teehouse_core.errors import LocalError, MalformedError, OperatorError, RequestRefused
from teehouse_core.seal import records as sealed_records
from teehouse_core.seal.answer import Head, Trailer, pad_to, unwrap, wrap
from teehouse_core.seal.bhttp import InnerRequest, _varint, bucket, decode_request, encode_request
from teehouse_core.seal.inner import ContentFacts, InnerOptions, check_inner, facts_of, make_inner
from teehouse_core.seal.keyring import DECRYPT_ONLY, Keyring
from teehouse_core.seal.records import RecordOpener, RecordSealer
from teehouse_core.seal.replay import NodeTime, SeenSet
from teehouse_core.seal.schedule import ExchangeSecrets, body_keys, cache_scope, candidate_commit
from teehouse_core.seal.suite import generate_key, hpke_open, hpke_seal, key_from_seed
from teehouse_core.wire.receipts import Usage
from teehouse_core.wire.records import MAX_PLAINTEXT, Record, RecordReader
from teehouse_core.wire.suites import DEFAULT_SUITE, HIGH_SUITE, SUITES

# ---------------------------------------------------------------- suites


@pytest.mark.parametrize("suite", SUITES)
def test_seal_and_open(suite: str) -> None:
    key = generate_key(suite)
    assert len(key.pk) == SUITES[suite].pk
    sealed = hpke_seal(suite, key.pk, b"info", b"x" * 96)
    assert len(sealed) == SUITES[suite].envelope
    assert hpke_open(key, b"info", sealed) == b"x" * 96
    for info, data in ((b"other", sealed), (b"info", sealed[:-1]), (b"info", sealed + b"\0"), (b"info", b"")):
        with pytest.raises(MalformedError) as refused:
            hpke_open(key, info, data)
        assert refused.value.code == "envelope"
    with pytest.raises(MalformedError):
        hpke_open(generate_key(suite), b"info", sealed)
    assert "private" not in repr(key)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_bit_of_an_envelope_counts(suite: str) -> None:
    key = key_from_seed(bytes(range(96)) + (bytes(16) if suite == HIGH_SUITE else b""), suite)
    sealed = hpke_seal(suite, key.pk, b"info", b"x" * 96)
    step = 1 if suite == DEFAULT_SUITE else 7  # the high suite is slower; seven misses no byte
    for bit in range(0, 8 * len(sealed), step):
        spoilt = bytearray(sealed)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MalformedError):
            hpke_open(key, b"info", bytes(spoilt))


@pytest.mark.parametrize("curve", [bytes(32), b"\1" + bytes(31)])
def test_a_key_of_small_order_is_refused(curve: bytes) -> None:
    """A rogue keyset must not crash its client, nor make it seal under a secret that everybody knows."""
    pk = generate_key().pk[:1184] + curve
    with pytest.raises(MalformedError) as refused:
        hpke_seal(DEFAULT_SUITE, pk, b"", b"x")
    assert refused.value.code == "public-key"


@pytest.mark.parametrize(
    ("suite", "pk"),
    [(DEFAULT_SUITE, b"\xff" * 1216), (HIGH_SUITE, bytes(1665)), (HIGH_SUITE, bytes(1568) + b"\4" + bytes(96))],
)
def test_a_key_that_is_none_is_refused(suite: str, pk: bytes) -> None:
    with pytest.raises(MalformedError) as refused:
        hpke_seal(suite, pk, b"", b"x")
    assert refused.value.code == "public-key"


def test_test_keys() -> None:
    assert key_from_seed(bytes(96)).pk == key_from_seed(bytes(96)).pk
    assert key_from_seed(bytes(111) + b"\1", HIGH_SUITE).suite == HIGH_SUITE
    for seed, suite in ((bytes(95), DEFAULT_SUITE), (bytes(96), HIGH_SUITE), (bytes(96), "other")):
        with pytest.raises(LocalError) as error:
            key_from_seed(seed, suite)
        assert error.value.code == "wrong-length"
    with pytest.raises(LocalError) as error:
        generate_key("other")
    assert error.value.code == "unknown-suite"


def test_every_input_of_the_schedule_counts() -> None:
    base = (b"r" * 32, b"t" * 32, 0, b"n" * 32)
    others = [(b"x" * 32, *base[1:]), (base[0], b"x" * 32, 0, base[3]), (*base[:2], 1, base[3]), (*base[:3], b"x" * 32)]
    made = [ExchangeSecrets(*one) for one in (base, *others)]
    assert len({one.response_keys() for one in made} | {(one.receipt_salt(), b"") for one in made}) == 10
    assert body_keys(b"c" * 32) == body_keys(b"c" * 32) != body_keys(b"d" * 32)
    assert cache_scope(b"s" * 32, b"k" * 32) != cache_scope(b"s" * 32, b"l" * 32)
    assert candidate_commit(b"r" * 32, b"s" * 32) != candidate_commit(b"s" * 32, b"r" * 32)
    assert b"r" * 32 not in repr(made[0]).encode()


# ---------------------------------------------------------------- records

KEY, NONCE = bytes(range(32)), bytes(range(12))


def read(data: bytes) -> list[Record]:
    return list(RecordReader().feed(data))


@bounded
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6))
def test_records_round_trip(pieces: list[bytes]) -> None:
    sealer, opener = RecordSealer(KEY, NONCE), RecordOpener(KEY, NONCE)
    sent = b"".join(sealer.seal(piece, final=i == len(pieces) - 1) for i, piece in enumerate(pieces))
    assert [opener.open(record) for record in read(sent)] == pieces
    with pytest.raises(LocalError) as error:
        sealer.seal(b"more")
    assert error.value.code == "already-final"


def test_no_nonce_comes_twice() -> None:
    counter = RecordSealer(KEY, NONCE)
    nonces = {counter._nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert NONCE in nonces


def test_the_counter_ends_and_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_records, "MAX_RECORDS", 2)
    sealer = RecordSealer(KEY, NONCE)
    records = read(sealer.seal(b"a") + sealer.seal(b"b"))
    with pytest.raises(LocalError) as error:
        sealer.seal(b"c")
    assert error.value.code == "counter-exhausted"
    opener = RecordOpener(KEY, NONCE)
    assert [opener.open(record) for record in records] == [b"a", b"b"]
    with pytest.raises(LocalError):
        opener.open(records[0])


@pytest.mark.parametrize("size", [0, MAX_PLAINTEXT + 1])
def test_a_record_has_its_size(size: int) -> None:
    with pytest.raises(LocalError) as error:
        RecordSealer(KEY, NONCE).seal(bytes(size))
    assert error.value.code == "record-length"


@pytest.mark.parametrize("change", ["order", "repeat", "flag", "key", "nonce", "cut"])
def test_a_moved_record_does_not_open(change: str) -> None:
    sealer = RecordSealer(KEY, NONCE)
    one, two = read(sealer.seal(b"one") + sealer.seal(b"two"))
    key = bytes(32) if change == "key" else KEY
    opener = RecordOpener(key, bytes(12) if change == "nonce" else NONCE)
    wrong = {
        "order": two,
        "flag": one._replace(aad=b"\1" + one.aad[1:]),
        "cut": one._replace(ciphertext=one.ciphertext[:-1]),
    }.get(change, one)
    if change == "repeat":
        assert opener.open(one) == b"one"
    with pytest.raises(MalformedError) as refused:
        opener.open(wrong)
    assert refused.value.code == "record-tag"


# ---------------------------------------------------------------- Binary HTTP

ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80)
INNER = st.builds(
    InnerRequest, ASCII, ASCII, ASCII, ASCII, st.lists(st.tuples(ASCII, ASCII), max_size=16).map(tuple),
    st.binary(max_size=3000),
)  # fmt: skip


def pad(inner: bytes) -> bytes:
    return inner.ljust(bucket(len(inner)), b"\0")


@bounded
@given(INNER)
def test_inner_requests_round_trip(inner: InnerRequest) -> None:
    padded = pad(encode_request(inner))
    assert decode_request(padded) == inner
    for wrong in (padded + b"\0", padded[:-1], padded + bytes(1024)):
        with pytest.raises(MalformedError):
            decode_request(wrong)


@bounded
@given(st.binary(max_size=200), st.booleans())
def test_any_inner_bytes_give_only_our_error(data: bytes, padded: bool) -> None:
    data = pad(data) if padded else data
    try:
        inner = decode_request(data)
    except MalformedError:
        return
    assert pad(encode_request(inner)) == data


@bounded
@given(st.integers(0, 2047), st.integers(0, 255))
def test_one_byte_changed_changes_the_request_or_is_refused(at: int, byte: int) -> None:
    inner = make_inner(ENDPOINT, "chat.completions", CONTENT, facts_of(CONTENT), InnerOptions())
    good = pad(encode_request(inner))
    at %= len(good)
    if good[at] == byte:
        return
    try:
        assert decode_request(good[:at] + bytes([byte]) + good[at + 1 :]) != inner
    except MalformedError:
        return


def test_buckets() -> None:
    sizes = [bucket(n) for n in range(1, 300_000)]
    assert sizes == sorted(sizes)
    assert all(n <= size <= max(1024, n * 1.25 + 1024) for n, size in enumerate(sizes, start=1))
    assert [bucket(n) for n in (0, 1, 1024, 1025, 8192, 8193, 16384, 16385)] == [
        1024, 1024, 1024, 2048, 8192, 10240, 16384, 20480,
    ]  # fmt: skip
    assert bucket(8_000_000) == 8_388_608
    for n in (1025, 8193, 20481, 1 << 20):
        assert bucket(bucket(n)) == bucket(n)


@bounded
@given(st.integers(0, (1 << 62) - 1))
def test_varints_are_shortest(value: int) -> None:
    made = _varint(value)
    assert int.from_bytes(made, "big") & ((1 << (8 * len(made) - 2)) - 1) == value
    assert len(made) == next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size - 2))


def test_what_cannot_be_encoded() -> None:
    with pytest.raises(LocalError):
        _varint(1 << 62)
    with pytest.raises(LocalError) as error:
        encode_request(InnerRequest("POST", "https", "é", "/", (), b""))
    assert error.value.code == "inner-header"


# ---------------------------------------------------------------- inner message


@pytest.mark.parametrize(
    ("content", "stream", "limit"),
    [
        (b"{}", False, 0),
        (b"", False, 0),
        (b"[]", False, 0),
        (b"\xff", False, 0),
        (b"[" * 100_000, False, 0),
        (b'{"stream":true}', True, 0),
        (b'{"stream":1}', False, 0),
        (b'{"stream":"true"}', False, 0),
        (b'{"stream":true,"x":NaN}', False, 0),
        (b'{"stream":true,"x":-Infinity}', False, 0),
        (b'{"stream":false,"stream":true}', True, 0),
        ('{"stream":true}'.encode("utf-16"), False, 0),
        (b'\xef\xbb\xbf{"stream":true}', False, 0),
        (b'{"max_tokens":1}', False, 1),
        (b'{"max_tokens":2}', False, 2),
        (b'{"max_tokens":3}', False, 4),
        (b'{"max_tokens":1024}', False, 1024),
        (b'{"max_tokens":1025}', False, 2048),
        (b'{"max_tokens":99999999}', False, 1 << 20),
        (b'{"max_tokens":' + b"9" * 5000 + b"}", False, 0),
        (b'{"max_tokens":0}', False, 0),
        (b'{"max_tokens":-5}', False, 0),
        (b'{"max_tokens":100.0}', False, 0),
        (b'{"max_tokens":true}', False, 0),
        (b'{"max_tokens":7,"max_completion_tokens":100}', False, 128),
        (b'{"max_tokens":7,"max_completion_tokens":null}', False, 8),
        (b'{"max_output_tokens":100}', False, 128),
    ],
)
def test_facts(content: bytes, stream: bool, limit: int) -> None:
    assert facts_of(content) == ContentFacts(stream, limit)


@bounded
@given(st.binary(max_size=200))
def test_facts_of_anything(content: bytes) -> None:
    facts = facts_of(content)
    assert facts.stream in (True, False)


def test_what_the_product_makes_passes() -> None:
    header = seal([make_node()]).header
    for options in (InnerOptions(), InnerOptions("constant", 0), InnerOptions("off", 1000)):
        inner = make_inner(ENDPOINT, "chat.completions", CONTENT, facts_of(CONTENT), options)
        assert check_inner(header, inner)[0] == options
    bare = replace(inner, headers=())
    assert check_inner(header, bare) == (InnerOptions(), facts_of(CONTENT))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"method": "GET"}, "inner-target"),
        ({"authority": "other"}, "inner-target"),
        ({"path": "/v1/embeddings"}, "op-mismatch"),
        ({"headers": (("authorization", "Bearer x"),)}, "inner-header"),
        ({"headers": (("accept", "a"), ("accept", "a"))}, "inner-header"),
        ({"headers": (("teehouse-shape", "round"),)}, "inner-header"),
        ({"headers": (("teehouse-flush-ms", "1001"),)}, "inner-header"),
        ({"headers": (("teehouse-flush-ms", "x"),)}, "inner-header"),
        ({"content": b"{}"}, "stream-mismatch"),
        ({"content": b'{"stream":true}'}, "max-tokens-mismatch"),
    ],
)
def test_what_contradicts_the_header(changes: dict[str, Any], code: str) -> None:
    inner = make_inner(ENDPOINT, "chat.completions", CONTENT, facts_of(CONTENT), InnerOptions())
    with pytest.raises(MalformedError) as refused:
        check_inner(seal([make_node()]).header, replace(inner, **changes))
    assert refused.value.code == code


# ---------------------------------------------------------------- replay memory and node time


def test_seen_is_refused_until_it_is_over() -> None:
    seen = SeenSet()
    seen.add(b"a", NOW + 10, NOW)
    assert seen.contains(b"a")
    for now in (NOW, NOW + 10):
        with pytest.raises(RequestRefused) as refused:
            seen.add(b"a", NOW + 10, now)
        assert refused.value.wire_code == "replayed"
    seen.add(b"b", NOW + 100, NOW + 11)
    assert not seen.contains(b"a")
    assert len(seen) == 1


def test_a_late_comer_with_an_old_clock_is_refused() -> None:
    """Its time was read before others went by; its entry is gone, and it must not go in again."""
    seen = SeenSet()
    seen.add(b"a", NOW + 10, NOW)
    seen.add(b"b", NOW + 100, NOW + 11)
    with pytest.raises(RequestRefused) as refused:
        seen.add(b"a", NOW + 10, NOW + 10)
    assert refused.value.wire_code == "expired"


def test_a_full_memory_refuses_and_forgets_nobody() -> None:
    seen = SeenSet(2)
    seen.add(b"a", NOW + 10, NOW)
    seen.add(b"b", NOW + 20, NOW)
    with pytest.raises(OperatorError) as error:
        seen.add(b"c", NOW + 30, NOW + 10)
    assert error.value.wire_code == "unavailable"
    assert len(seen) == 2
    assert seen.contains(b"a")
    assert seen.contains(b"b")
    seen.add(b"c", NOW + 30, NOW + 11)
    assert not seen.contains(b"a")
    with pytest.raises(LocalError):
        SeenSet(0)


@bounded
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40), st.integers(-20, 10)), max_size=60), st.integers(1, 5))
def test_nobody_is_let_in_twice(steps: list[tuple[int, int, int]], capacity: int) -> None:
    """Whatever clock readings come, in whatever order, one name and end are let in at most once."""
    seen, let_in, clock = SeenSet(capacity), set(), NOW
    for name, life, step in steps:
        clock += step
        key = (bytes([name]), NOW + life)
        try:
            seen.add(bytes(key[0] + bytes([life])), key[1], clock)
        except (RequestRefused, OperatorError):
            continue
        assert key not in let_in
        let_in.add(key)
        assert len(seen) <= capacity


def test_threads_share_a_memory() -> None:
    seen, wins = SeenSet(), []
    gate = threading.Barrier(8)

    def run() -> None:
        gate.wait()
        for i in range(200):
            try:
                seen.add(i.to_bytes(4, "big"), NOW + 10, NOW)
            except RequestRefused:
                continue
            wins.append(i)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == list(range(200))


def test_node_time_never_goes_back() -> None:
    time = NodeTime(1000.0, 5.0)
    assert time.now(1001.0, 6.0) == 1001
    assert time.now(900.0, 7.0) == 1002  # the wall clock is set back; the monotonic one goes on
    assert time.now(2000.0, 8.0) == 2000
    assert time.now(1500.0, 9.0) == 2000
    assert time.now(0.0, 0.0) == 2000


@bounded
@given(st.lists(st.tuples(st.floats(0, 4e9), st.floats(0, 4e9)), min_size=1, max_size=30))
def test_node_time_is_monotonic(readings: list[tuple[float, float]]) -> None:
    time = NodeTime(*readings[0])
    got = [time.now(*reading) for reading in readings]
    assert got == sorted(got)


# ---------------------------------------------------------------- keyring


def test_pairs_are_served_until_the_key_is_over() -> None:
    alpha, beta = make_node("alpha"), make_node("beta")
    ring = Keyring()
    ring.publish(alpha.keyset, [alpha.key, beta.key])  # beta's key is not listed there
    kid, sha = alpha.keyset.hpke[0].kid, alpha.keyset.sha256
    end = NOW + 3000 + DECRYPT_ONLY
    held = ring.get(kid, sha, end)
    assert held is not None
    assert held.keyset == alpha.keyset
    assert ring.get(kid, sha, end + 1) is None
    assert ring.get(kid, beta.keyset.sha256, NOW) is None
    assert ring.get(beta.keyset.hpke[0].kid, sha, NOW) is None
    assert ring.keysets(end) == [sha]
    assert ring.keysets(end + 1) == []
    ring.drop_expired(end)
    assert ring.get(kid, sha, NOW) is not None
    ring.drop_expired(end + 1)
    assert ring.get(kid, sha, NOW) is None


def test_one_key_in_two_keysets() -> None:
    alpha, beta = make_node("alpha"), make_node("beta")
    newer = make_keyset("alpha", [beta.key, alpha.key], alpha.sign)
    alpha.ring.publish(newer, [beta.key, alpha.key])
    kid = alpha.keyset.hpke[0].kid
    assert alpha.ring.get(kid, alpha.keyset.sha256, NOW) is not None
    assert alpha.ring.get(kid, newer.sha256, NOW) is not None
    assert alpha.ring.keysets(NOW) == sorted([alpha.keyset.sha256, newer.sha256])


# ---------------------------------------------------------------- answers


def test_pad_sizes() -> None:
    assert [pad_to(n) for n in (5, 128, 129, 256, 257, 512, 513, 1024, 1025, 65025, 65536)] == [
        128, 128, 256, 256, 512, 512, 1024, 1024, 1536, 65536, 65536,
    ]  # fmt: skip


@bounded
@given(st.integers(0, 3), st.binary(max_size=300), st.integers(0, 1024))
def test_wrap_and_unwrap(kind: int, data: bytes, size: int) -> None:
    data = b"" if kind == 2 else data
    assert unwrap(wrap(kind, data, size)) == (kind, data)


@bounded
@given(st.binary(max_size=40))
def test_unwrap_anything(plaintext: bytes) -> None:
    try:
        kind, data = unwrap(plaintext)
    except MalformedError as error:
        assert error.code in ("record-content", "record-filling")  # noqa: PT017
        return
    assert wrap(kind, data, len(plaintext)) == plaintext


def test_head_and_trailer_round_trip() -> None:
    head = Head(200, (("content-type", "application/json"), ("x", "")))
    assert Head.parse(head.encode()) == head
    trailer = Trailer(200, "stop", Usage(1, 2, 3), b"{}", bytes(64))
    assert Trailer.parse(trailer.encode()) == trailer
    with pytest.raises(MalformedError) as refused:
        Trailer.parse(replace(trailer, receipt=bytes(8193)).encode())
    assert refused.value.code == "document-too-large"


@bounded
@given(st.binary(max_size=200) | st.dictionaries(st.sampled_from(["status", "headers"]), st.integers() | st.lists(
    st.lists(st.text(max_size=3), max_size=3))).map(lambda d: str(d).replace("'", '"').encode()))  # fmt: skip
def test_any_head_or_trailer_gives_only_our_error(data: bytes) -> None:
    for parser in (Head.parse, Trailer.parse):
        try:
            parser(data)
        except MalformedError:
            continue


@pytest.mark.parametrize(
    "pair", [["A", "b"], ["", "b"], ["a b", "c"], ["a", "b "], ["a", " b"], ["a", "x" * 4097], ["a"], ["a", 1], "ab"]
)
def test_header_pairs_have_a_form(pair: Any) -> None:
    from teehouse_core.wire.canonical import encode

    with pytest.raises(MalformedError) as refused:
        Head.parse(encode({"status": 200, "headers": [pair]}))
    assert refused.value.code == "wrong-form"


def test_account_is_in_the_header() -> None:
    assert seal([make_node()]).header.account == ACCOUNT
