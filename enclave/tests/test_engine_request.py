# SPDX-License-Identifier: Apache-2.0
"""Checking requests, schemas, pictures, settings and digests: pure, without any engine."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse_core.errors import LocalError, OperatorError
from teehouse_enclave.engine import EngineError, EngineSpec, weights_digest
from teehouse_enclave.engine.images import MAX_IMAGE_BYTES, parse_data_uri
from teehouse_enclave.engine.request import Ability, parse_chat
from teehouse_enclave.engine.schema import check_schema

ALL = Ability(tools=True, images=True, json_schema=True, logprobs=True)
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def png(width: int = 2, height: int = 2, size: int = 40) -> bytes:
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + bytes(size)


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def refusal(body: object, ability: Ability = ALL) -> EngineError:
    with pytest.raises(EngineError) as caught:
        parse_chat(body, ability)
    return caught.value


def test_a_full_request_is_rebuilt_from_known_members() -> None:
    request = parse_chat(
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": "be brief", "name": "x"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra": 1}
                ]},
                {"role": "tool", "tool_call_id": "1", "content": "4"},
                {"role": "user", "content": [
                    {"type": "image_url", "image_url": {"url": uri(png()), "detail": "low"}},
                    {"type": "text", "text": "what?"},
                ]},
            ],
            "tools": [TOOL | {"x": 1}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "max_tokens": 9, "max_completion_tokens": 7, "stop": "x", "seed": 5, "temperature": 0.5, "user": "me",
            "logit_bias": {"5": -100}, "logprobs": True, "top_logprobs": 3, "n": 1, "store": False, "stream": True,
        },
        ALL,
    )  # fmt: skip
    assert request.messages[0] == {"role": "system", "content": "be brief"}
    assert request.messages[1] == {"role": "user", "content": "a\nb"}
    assert request.messages[2]["tool_calls"] == [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert request.messages[4]["content"][0] == {"type": "image_url", "image_url": {"url": uri(png())}}
    assert request.tools == [TOOL]
    assert request.tool_choice == {"type": "function", "function": {"name": "f"}}
    assert (request.max_tokens, request.stop, request.top_logprobs) == (7, ("x",), 3)
    assert request.sampling == {"seed": 5, "temperature": 0.5, "logit_bias": {"5": -100}}
    assert [(image.kind, image.width) for image in request.images] == [("png", 2)]
    assert "what?" not in repr(request)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (None, "invalid_type", None),
        ([], "invalid_type", None),
        ({}, "missing_required_parameter", "messages"),
        ({"messages": []}, "empty_array", "messages"),
        ({"messages": {}}, "invalid_type", "messages"),
        ({"messages": ["x"]}, "invalid_type", "messages[0]"),
        ({"messages": [{"content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "root", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "invalid_type", "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "empty_array", "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "invalid_type", "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "invalid_value", None),
        ({"messages": HI, "temperature": 3}, "invalid_value", "temperature"),
        ({"messages": HI, "temperature": True}, "invalid_type", "temperature"),
        ({"messages": HI, "temperature": float("nan")}, "invalid_value", None),
        ({"messages": HI, "max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"messages": HI, "max_tokens": 1.5}, "invalid_type", "max_tokens"),
        ({"messages": HI, "stop": ["a"] * 17}, "invalid_type", "stop"),
        ({"messages": HI, "stop": [""]}, "invalid_value", "stop"),
        ({"messages": HI, "n": 2}, "unsupported_parameter", "n"),
        ({"messages": HI, "n": True}, "unsupported_parameter", "n"),
        ({"messages": HI, "store": True}, "unsupported_parameter", "store"),
        ({"messages": HI, "modalities": ["text", "audio"]}, "unsupported_parameter", "modalities"),
        ({"messages": HI, "functions": []}, "unsupported_parameter", "functions"),
        ({"messages": HI, "__verbose": True}, "unsupported_parameter", "__verbose"),
        ({"messages": HI, "what is this?": True}, "unsupported_parameter", None),
        ({"messages": HI, "top_logprobs": 2}, "invalid_value", "top_logprobs"),
        ({"messages": HI, "logit_bias": {"the": 1}}, "invalid_value", "logit_bias"),
        ({"messages": HI, "tools": [{}]}, "invalid_type", "tools[0]"),
        ({"messages": HI, "tools": [TOOL], "tool_choice": "maybe"}, "invalid_value", "tool_choice"),
        ({"messages": HI, "tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"messages": HI, "response_format": {"type": "xml"}}, "invalid_value", "response_format"),
        ({"messages": HI, "response_format": {"type": "json_schema"}}, "invalid_value", "response_format.json_schema"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "audio_unsupported",
            "messages[0].content[0]",
        ),
    ],
)  # fmt: skip
def test_bad_requests(body: object, code: str, param: str | None) -> None:
    error = refusal(body)
    assert (error.status, error.code, error.param, error.type) == (400, code, param, "invalid_request_error")
    assert error.openai()["error"]["message"]


def test_what_an_engine_cannot_do_is_refused_by_name() -> None:
    nothing = Ability()
    assert refusal({"messages": HI, "tools": [TOOL]}, nothing).code == "tools_unsupported"
    assert parse_chat({"messages": HI, "tools": [TOOL], "tool_choice": "none"}, nothing).tools == []
    history = [*HI, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    assert refusal({"messages": history}, nothing).code == "tools_unsupported"
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri(png())}}]}]
    assert refusal({"messages": picture}, nothing).code == "image_unsupported"
    assert refusal({"messages": HI, "logprobs": True}, nothing).param == "logprobs"
    assert refusal({"messages": HI, "response_format": {"type": "json_object"}}, nothing).param == "response_format"


def test_deep_and_wide_requests_end_early() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    assert refusal({"messages": HI, "metadata": deep}).status == 400
    while isinstance(deep, list):  # freed level by level: the interpreter's own recursion is not under test
        deep = deep[0]
    assert refusal({"messages": HI, "metadata": [0] * 300_000}).status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["messages", "tools", "tool_choice", "stop", "response_format", "logit_bias", "seed", "max_tokens", "role",
     "content", "type", "function", "name", "json_schema", "schema", "image_url", "url", "properties", "items"]
)  # fmt: skip
shaped = st.recursive(
    json_values | st.sampled_from(["user", "text", "image_url", "function", "json_schema", "data:image/png;base64,"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=20,
)


@given(shaped, st.booleans())
def test_any_json_gives_a_request_or_an_engine_error(body: object, able: bool) -> None:
    refused = None
    try:
        parse_chat(body, ALL if able else Ability())
    except EngineError as error:
        refused = error
    assert refused is None or (json.dumps(refused.openai()) and 400 <= refused.status < 500)


# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ordinary_schemas_pass() -> None:
    check_schema(
        {
            "$defs": {"pet": {"type": "object", "properties": {"pattern": {"type": "string", "maxLength": 9}}}},
            "type": "object",
            "title": "Pets",
            "properties": {
                "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "minItems": 1, "maxItems": 3},
                "count": {"type": "integer", "minimum": 0, "exclusiveMaximum": 10},
                "kind": {"anyOf": [{"const": "a"}, {"enum": ["b", 1]}, {"type": ["string", "null"]}]},
                "when": {"type": "string", "format": "date"},
            },
            "required": ["pets"],
            "additionalProperties": False,
        },
        "p",
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "zorp"},
        {"type": "string", "pattern": "^a$"},
        {"type": "string", "maxLength": 10**9},
        {"type": "number", "minimum": 3},
        {"not": {"type": "string"}},
        {"$ref": "http://example.org/x"},
        {"$ref": "#"},
        {"anyOf": []},
        {"properties": []},
        {"enum": []},
        {"type": "string", "format": "email"},
        {"items": [{"type": "string"}]},
        {"type": "array", "uniqueItems": True},
        {"enum": ["x" * 20_000]},
    ],
)
def test_schemas_that_would_not_be_enforced_are_refused(schema: dict[str, Any]) -> None:
    for one in (schema, {"type": "object", "properties": {"deeper": {"anyOf": [schema]}}}):
        with pytest.raises(EngineError) as caught:
            check_schema(one, "p")
        assert caught.value.code == "schema_unsupported"


def test_a_deep_schema_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"items": schema}
    with pytest.raises(EngineError):
        check_schema(schema, "p")


# ── pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────

JPEG = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11\x08" + struct.pack(">HH", 20, 30) + bytes(9)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(640, 480), ("png", 640, 480)),
        (b"GIF89a" + struct.pack("<HH", 7, 8) + bytes(9), ("gif", 7, 8)),
        (JPEG, ("jpeg", 30, 20)),
        (b"RIFF0000WEBPVP8X" + bytes(8) + b"\x09\x00\x00\x04\x00\x00", ("webp", 10, 5)),
        (b"RIFF0000WEBPVP8L" + bytes(5) + struct.pack("<I", 9 | 4 << 14), ("webp", 10, 5)),
        (b"RIFF0000WEBPVP8 " + bytes(10) + struct.pack("<HH", 10, 5), ("webp", 10, 5)),
    ],
)
def test_pictures_are_measured(data: bytes, expected: tuple[str, int, int]) -> None:
    image = parse_data_uri(uri(data), "p")
    assert (image.kind, image.width, image.height) == expected
    assert image.size == len(data)


@pytest.mark.parametrize(
    ("link", "status", "code"),
    [
        (None, 400, "invalid_type"),
        ("https://example.org/a.png", 400, "image_url_unsupported"),
        ("data:text/plain;base64,AAAA", 400, "image_url_unsupported"),
        ("data:image/png,AAAA", 400, "invalid_image"),
        ("data:image/png;base64,????", 400, "invalid_image"),
        (uri(b"BM" + bytes(60)), 400, "invalid_image"),
        (uri(png()[:20]), 400, "invalid_image"),
        (uri(JPEG[:11]), 400, "invalid_image"),
        (uri(png(0, 5)), 400, "invalid_image"),
        (uri(png(60_000, 60_000)), 413, "image_too_large"),
        (uri(png(2, 2, MAX_IMAGE_BYTES + 1)), 413, "image_too_large"),
        (uri(bytes(20 << 20)), 413, "image_too_large"),
    ],
)
def test_bad_pictures(link: object, status: int, code: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_data_uri(link, "p")
    assert (caught.value.status, caught.value.code) == (status, code)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF89a", b"RIFF0000WEBPVP8"]))
def test_any_bytes_give_a_picture_or_an_engine_error(data: bytes, start: bytes) -> None:
    try:
        image = parse_data_uri(uri(start + data), "p")
    except EngineError:
        return
    assert image.width * image.height > 0


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_settings() -> None:
    spec = EngineSpec.parse({"kind": "llamacpp", "name": "m", "path": "/x", "parallel": 2, "mmproj": None})
    assert (spec.kind, spec.parallel, spec.context, spec.mmproj) == ("llamacpp", 2, 2048, None)
    echo = EngineSpec.parse({"kind": "echo"})
    assert (echo.name, echo.parallel, echo.images) == ("echo", 1024, True)
    keyed = EngineSpec.parse(
        {"kind": "openai-upstream", "name": "m", "url": "http://127.0.0.1", "path": "/x", "api_key": "sesame"}
    )
    assert "sesame" not in repr(keyed)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ({}, "engine-spec-invalid"),
        ({"kind": "magic"}, "engine-spec-invalid"),
        ({"kind": "echo", "colour": "red"}, "engine-spec-unknown"),
        ({"kind": "echo", "parallel": 0}, "engine-spec-invalid"),
        ({"kind": "echo", "parallel": True}, "engine-spec-invalid"),
        ({"kind": "echo", "pace": -1}, "engine-spec-invalid"),
        ({"kind": "echo", "name": "a b"}, "engine-spec-invalid"),
        ({"kind": "llamacpp", "name": "m"}, "engine-spec-missing"),
        ({"kind": "llamacpp", "path": "/x"}, "engine-spec-missing"),
        ({"kind": "openai-upstream", "name": "m", "url": "http://127.0.0.1"}, "engine-spec-missing"),
        ({"kind": "llamacpp", "name": "m", "path": "/x", "weights_sha256": "AB"}, "engine-spec-invalid"),
    ],
)
def test_bad_settings(raw: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as caught:
        EngineSpec.parse(raw)
    assert caught.value.code == code


# ── digests ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_digest(tmp_path: Path) -> None:
    one, two = tmp_path / "b.bin", tmp_path / "a" / "c.bin"
    one.write_bytes(b"one")
    two.parent.mkdir()
    two.write_bytes(b"two")
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in (("b.bin", b"one"), ("a/c.bin", b"two"))}
    assert weights_digest(one) == sums["b.bin"]
    lines = f"a/c.bin\0{sums['a/c.bin']}\nb.bin\0{sums['b.bin']}\n"
    assert weights_digest(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "link.bin").symlink_to(one)
    assert weights_digest(tmp_path) != hashlib.sha256(lines.encode()).hexdigest()


def test_unreadable_weights(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "link").symlink_to(tmp_path / "empty")
    for path in (tmp_path / "none", tmp_path / "empty", tmp_path / "away"):
        with pytest.raises(OperatorError) as caught:
            weights_digest(path)
        assert caught.value.code == "weights-unreadable"
