# SPDX-License-Identifier: Apache-2.0
"""Fields, keyset, header, frame, receipts, problems, API keys, bindings: form, limits, codes, any bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seal_support import ENDPOINT, NOW, bounded, make_keyset, make_node, seal

from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.wire import binding
from teehouse_core.wire.apikey import account_of, make_api_key
from teehouse_core.wire.canonical import encode, parse
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.frame import MAX_FRAME, MAX_HEADER, RequestFrame, frame_prefix, parse_prefix
from teehouse_core.wire.header import MAX_BODY, RequestHeader, transcript
from teehouse_core.wire.keyset import MAX_KEYSET, Keyset, Member, Model, key_id
from teehouse_core.wire.labels import L, hash_label
from teehouse_core.wire.ops import OPS, op_of_path
from teehouse_core.wire.problem import CODES, MAX_PROBLEM, REASONS, parse_problem, problem_body
from teehouse_core.wire.receipts import Receipt, Usage, UsageRecord
from teehouse_core.wire.suites import DEFAULT_SUITE, HIGH_SUITE, SUITES

ALPHA = make_node("alpha")
REQUEST = seal([ALPHA, make_node("beta")])
RECEIPT = Receipt(
    kid="ab" * 16,
    th=b"t" * 32,
    request_id="AAAAAAAAAAAAAAAAAAAAAA",
    request_commit=b"a" * 32,
    response_commit=b"b" * 32,
    model=Model("demo", "cd" * 32),
    keyset_sha256="ef" * 32,
    usage=Usage(1, 2, 3),
    status=200,
    finish="stop",
    started_at=NOW,
    finished_at=NOW + 1,
)
RECORD = UsageRecord("ab" * 16, b"t" * 32, "AAAAAAAAAAAAAAAAAAAAAA", "0" * 16, "ef" * 32, Usage(), 499, NOW)
PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "keyset": (Keyset.parse, ALPHA.keyset.raw),
    "header": (RequestHeader.parse, REQUEST.header_bytes),
    "frame": (RequestFrame.parse, REQUEST.frame),
    "prefix": (parse_prefix, REQUEST.frame[:9]),
    "receipt": (Receipt.parse, RECEIPT.encode()),
    "usage": (UsageRecord.parse, RECORD.encode()),
}


@pytest.mark.parametrize("name", PARSERS)
@bounded
@given(data=st.binary(max_size=2000))
def test_any_bytes_give_only_our_error(name: str, data: bytes) -> None:
    with pytest.raises(MalformedError):
        PARSERS[name][0](data)


@pytest.mark.parametrize("name", PARSERS)
@bounded
@given(at=st.integers(0, 1 << 20), byte=st.integers(0, 255), cut=st.booleans())
def test_spoilt_documents_give_only_our_error(name: str, at: int, byte: int, cut: bool) -> None:
    parser, good = PARSERS[name]
    at %= len(good)
    data = good[:at] + (b"" if cut else bytes([byte]) + good[at + 1 :])
    try:
        parser(data)
    except TeehouseError:
        return
    assert not cut or name == "prefix"


@pytest.mark.parametrize("name", ["keyset", "header", "receipt", "usage"])
@bounded
@given(data=st.data())
def test_any_member_replaced_gives_only_our_error(name: str, data: st.DataObject) -> None:
    parser, good = PARSERS[name]
    document = json.loads(good)
    member = data.draw(st.sampled_from([*sorted(document), "extra"]))
    leaf = st.booleans() | st.integers(0, 2**53 - 1) | st.text(st.characters(codec="ascii", categories=("L", "N")))
    document[member] = data.draw(st.recursive(leaf, lambda v: st.lists(v) | st.dictionaries(st.just("kid"), v)))
    raw = encode(document)
    try:
        parser(raw)
    except MalformedError:
        return
    assert encode(parse(raw, limit=1 << 20)) == raw


def test_documents_are_written_as_they_are_read() -> None:
    assert RequestHeader.parse(REQUEST.header_bytes) == REQUEST.header
    assert REQUEST.header.encode() == REQUEST.header_bytes
    assert Receipt.parse(RECEIPT.encode()) == RECEIPT
    assert UsageRecord.parse(RECORD.encode()) == RECORD
    assert transcript(REQUEST.header_bytes) == REQUEST.th


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(MalformedError) as error:
        call()
    return error.value.code


def test_fields() -> None:
    fields = Fields({"a": 1, "b": True, "c": "x", "d": [], "e": {}, "f": "AA"}, "thing")
    assert fields.has("a")
    assert not fields.has("z")
    assert refused(lambda: fields.boolean("a")) == "wrong-type"
    assert fields.boolean("b") is True
    assert refused(lambda: fields.text("b")) == "missing-member"  # taken already
    assert refused(lambda: fields.items("d", 1, 2)) == "out-of-range"
    assert fields.octets("f") == b"\0"
    assert refused(fields.done) == "unknown-member"
    assert refused(lambda: Fields([], "thing")) == "wrong-type"


def test_a_message_names_the_member_and_not_its_value() -> None:
    with pytest.raises(MalformedError) as error:
        Fields({"secret": "my prompt"}, "thing").integer("secret", 0, 1)
    assert "my prompt" not in str(error.value)
    assert "thing.secret" in str(error.value)


def test_keyset() -> None:
    keyset = ALPHA.keyset
    assert Keyset.parse(keyset.raw) == keyset
    assert keyset.digest == hashlib.sha256(keyset.raw).digest()
    assert keyset.sha256 == keyset.digest.hex()
    assert keyset.hpke_key(keyset.hpke[0].kid) == keyset.hpke[0]
    assert keyset.sign_key(keyset.sign[0].kid) == keyset.sign[0]
    assert keyset.hpke_key("00" * 16) is None
    assert keyset.sign_key(keyset.hpke[0].kid) is None


def test_keyset_roles() -> None:
    members = [Member("m1", "11" * 32), Member("m2", "22" * 32)]
    group = make_keyset("g", [ALPHA.key], ALPHA.sign, role="group", group="ab" * 16, members=members)
    assert group.members == tuple(members)
    with pytest.raises(MalformedError) as error:
        make_keyset("g", [ALPHA.key], ALPHA.sign, role="group", group="ab" * 16, members=members[:1] * 2)
    assert error.value.code == "role-mismatch"
    with pytest.raises(MalformedError):
        make_keyset("g", [ALPHA.key], ALPHA.sign, role="key-service", endpoint="ep.demo")
    assert make_keyset("g", [], ALPHA.sign, role="key-service", endpoint="").endpoint == ""


def test_keyset_pool() -> None:
    document = json.loads(ALPHA.keyset.raw) | {"role": "pool", "node": ""}
    document["pool"] = {"tks_keyset_sha256": "1" * 64, "release_policy_sha256": "2" * 64, "ring": "r"}
    document["pool"] |= {"key": "k", "version": "3"}
    pool = Keyset.parse(encode(document)).pool
    assert pool is not None
    assert (pool.ring, pool.key, pool.version) == ("r", "k", "3")
    assert ALPHA.keyset.pool is None


def test_keyset_limits() -> None:
    assert refused(lambda: Keyset.parse(b" " * (MAX_KEYSET + 1))) == "document-too-large"
    key = ALPHA.keyset.hpke[0]
    with pytest.raises(MalformedError) as error:
        make_keyset("x", [ALPHA.key], ALPHA.sign, hpke=[replace(key, not_after=key.not_before)])
    assert error.value.code == "empty-validity"
    with pytest.raises(LocalError):
        make_keyset("é", [ALPHA.key], ALPHA.sign)


def test_kid_is_bound_to_its_suite() -> None:
    pk = bytes(1216)
    assert key_id(DEFAULT_SUITE, pk) != key_id(HIGH_SUITE, pk)
    assert key_id("ed25519", b"x") == hashlib.sha256(L("kid") + b"ed25519\0x").digest()[:16].hex()


def test_frame() -> None:
    frame = RequestFrame.parse(REQUEST.frame)
    assert frame.header == REQUEST.header
    assert len(frame.envelopes) == 2
    assert bytes(frame.body) == REQUEST.parts[-1]
    assert RequestFrame.length(frame.header, len(frame.header_bytes)) == len(REQUEST.frame) < MAX_FRAME
    assert frame_prefix(frame.header_bytes) == REQUEST.frame[:9]
    assert parse_prefix(b"TEEH\x01" + MAX_HEADER.to_bytes(4, "big")) == MAX_HEADER
    assert refused(lambda: parse_prefix(b"TEEH\x01" + (MAX_HEADER + 1).to_bytes(4, "big"))) == "frame-header-length"


def test_a_frame_of_4_gib_is_refused_by_its_first_bytes() -> None:
    huge = replace(REQUEST.header, body_len=MAX_BODY)
    assert RequestFrame.length(huge, 100) <= MAX_FRAME
    assert refused(lambda: RequestHeader.parse(replace(huge, body_len=MAX_BODY + 1).encode())) == "out-of-range"


def test_suite_sizes() -> None:
    assert [SUITES[suite].envelope for suite in (DEFAULT_SUITE, HIGH_SUITE)] == [1232, 1777]


def test_ops() -> None:
    assert all(op_of_path(path) == op for op, path in OPS.items())
    assert op_of_path("/v1/files") is None


def test_labels() -> None:
    assert L("request") == b"teehouse sealed/1 request\0"
    assert hash_label("x", b"a", b"b") == hashlib.sha256(b"teehouse sealed/1 x\0ab").digest()


def test_binding() -> None:
    asked = binding.challenge(binding.INTERACTIVE, b"v" * 32)
    assert asked != binding.challenge(binding.LEDGER, b"v" * 32)
    none, one = binding.devices_digest([]), binding.devices_digest([(binding.GPU, b"r", b"c")])
    assert none != one != binding.devices_digest([(binding.NVSWITCH, b"r", b"c")])
    assert binding.devices_digest([(1, b"rc", b"")]) != binding.devices_digest([(1, b"r", b"c")])
    digest = b"k" * 32
    assert len(binding.report_data(digest, none, asked)) == 64
    assert binding.report_data(digest, none, asked) != binding.report_data(digest, one, asked)
    assert binding.device_nonce(digest, asked) == hash_label("device", digest, asked)


@pytest.mark.parametrize("code", CODES)
def test_problem_codes_come_through(code: str) -> None:
    error = parse_problem(CODES[code], "application/problem+json; charset=utf-8", problem_body(code), "7")
    assert (error.code, error.status, error.retry_after, error.reason) == (code, CODES[code], 7.0, None)
    assert "proves nothing" in str(error)


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_reasons_are_hints(reason: str) -> None:
    error = parse_problem(401, "application/problem+json", problem_body("unavailable", status=401, reason=reason))
    assert (error.code, error.reason) == ("unavailable", reason)


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "application/problem+json", problem_body("expired")),
        (400, "application/json", problem_body("expired")),
        (400, "application/problem+json", b"\xff"),
        (400, "application/problem+json", b"[]"),
        (400, "application/problem+json", b"[" * 8000),
        (400, "application/problem+json", b'{"code":["expired"]}'),
        (400, "application/problem+json", b'{"code":' + b"9" * 5000 + b"}"),
        (400, "application/problem+json", b'{"code":"you are ok","reason":"trust me"}'),
        (400, "application/problem+json", problem_body("expired").ljust(MAX_PROBLEM + 1)),
        (422, "application/problem+json", problem_body("expired")),
        (502, "text/html", b"<html>"),
    ],
)
def test_everything_else_is_unavailable(status: int, kind: str, body: bytes) -> None:
    error = parse_problem(status, kind, body)
    assert (error.code, error.reason) == ("unavailable", None)


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, None), ("5", 5.0), ("61", 60.0), ("-1", None), ("1.5", None), ("²", None),
                          ("9" * 10, None), ("Mon, 23 Nov", None), ("", None)]
)  # fmt: skip
def test_retry_after_is_capped(text: str | None, seconds: float | None) -> None:
    assert parse_problem(503, "", b"", text).retry_after == seconds


@bounded
@given(st.integers(100, 599), st.text(max_size=30), st.binary(max_size=200), st.none() | st.text(max_size=12))
def test_problems_never_raise(status: int, kind: str, body: bytes, after: str | None) -> None:
    error = parse_problem(status, kind, body, after)
    assert error.code in CODES


def test_api_keys() -> None:
    key = make_api_key(bytes(range(40)))
    assert account_of(key) == "0001020304050607"
    assert len(key) == len("sk-th-") + 16 + 1 + 43
    with pytest.raises(LocalError) as error:
        make_api_key(bytes(39))
    assert error.value.code == "wrong-length"
    for bad in ("", key[:-1], key + "A", key + "\n", key.upper(), "Bearer " + key, key.replace("-", "_")):
        with pytest.raises(LocalError) as error:
            account_of(bad)
        assert error.value.code == "api-key-form"
        assert error.value.hint
        assert not bad or bad not in str(error.value)


@bounded
@given(st.text(max_size=80))
def test_any_text_is_no_api_key(text: str) -> None:
    with pytest.raises(LocalError):
        account_of(text)


def test_endpoint_is_what_it_was() -> None:
    assert REQUEST.header.endpoint == ENDPOINT
