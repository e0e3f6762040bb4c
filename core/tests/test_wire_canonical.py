# SPDX-License-Identifier: Apache-2.0
"""Canonical JSON and base64url: what is written is read again, anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seal_support import bounded

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.canonical import MAX_DEPTH, MAX_INTEGER, b64u, encode, parse, unb64u

TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
LEAF = TEXT | st.booleans() | st.integers(0, MAX_INTEGER)
VALUE = st.recursive(LEAF, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=12)
LIMIT = 100_000


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@bounded
@given(st.dictionaries(TEXT, VALUE, max_size=5).filter(lambda v: depth(v) <= MAX_DEPTH))
def test_what_is_written_is_read(value: dict[str, Any]) -> None:
    raw = encode(value)
    assert parse(raw, limit=LIMIT) == value
    assert encode(parse(raw, limit=LIMIT)) == raw


@bounded
@given(st.binary(max_size=300))
def test_any_bytes_give_only_our_error(data: bytes) -> None:
    try:
        value = parse(data, limit=LIMIT)
    except MalformedError:
        return
    assert encode(value) == data


@bounded
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=4),
    ),
    st.booleans(),
)
def test_any_json_gives_only_our_error(value: Any, compact: bool) -> None:
    text = json.dumps(value, separators=(",", ":") if compact else None, sort_keys=compact)
    try:
        assert encode(parse(text.encode(), limit=LIMIT)) == text.encode()
    except MalformedError:
        return


def test_integers_are_never_booleans() -> None:
    assert parse(b'{"a":true}', limit=LIMIT)["a"] is True
    assert type(parse(b'{"a":1}', limit=LIMIT)["a"]) is int


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 200_000, b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"])
def test_deep_nesting_is_refused_without_harm(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(data, limit=1 << 22)


def test_the_limit_comes_first() -> None:
    with pytest.raises(MalformedError) as refused:
        parse(b"x" * 11, limit=10)
    assert refused.value.code == "document-too-large"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"a": None}, "type-not-allowed"),
        ({"a": 1.5}, "type-not-allowed"),
        ({"a": b"x"}, "type-not-allowed"),
        ({"a": -1}, "integer-out-of-range"),
        ({"a": MAX_INTEGER + 1}, "integer-out-of-range"),
        ({"a": "é"}, "string-not-printable-ascii"),
        ({"a": "\x7f"}, "string-not-printable-ascii"),
        ({"é": 1}, "string-not-printable-ascii"),
        ({1: 1}, "string-not-printable-ascii"),
        ({"a": [[[[[[[[]]]]]]]]}, "too-deep"),
    ],
)
def test_what_cannot_be_written(value: Any, code: str) -> None:
    with pytest.raises(LocalError) as refused:
        encode(value)
    assert refused.value.code == code


@bounded
@given(st.binary(max_size=200))
def test_base64url_round_trip(data: bytes) -> None:
    text = b64u(data)
    assert unb64u(text) == unb64u(text, len(data)) == data
    assert "=" not in text


@bounded
@given(st.text(st.sampled_from("AQgw_-+/= \né"), max_size=9))
def test_one_text_per_byte_string(text: str) -> None:
    try:
        data = unb64u(text)
    except MalformedError:
        return
    assert b64u(data) == text


@pytest.mark.parametrize("text", ["A", "AB", "AAB", "AA==", "AA=", "+A", "/A", "A A", "é", "AA\n", "\udc80"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(MalformedError) as refused:
        unb64u(text)
    assert refused.value.code == "not-base64url"


def test_length_is_checked() -> None:
    with pytest.raises(MalformedError) as refused:
        unb64u("AAAA", 4)
    assert refused.value.code == "wrong-length"
