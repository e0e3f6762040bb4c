# SPDX-License-Identifier: Apache-2.0
"""An OpenAI chat request, checked once: past this wall the engines see only members they honour.

Three fates for a member: honoured (checked and kept), harmless (dropped: a label, a hint about cost), or refused,
because the answer would mean something else without it. A member this list does not know is refused too: engines
have private members that reach into other tenants' state (slots, caches, adapters, debug echoes of the prompt).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from teehouse_enclave.engine.base import EngineError
from teehouse_enclave.engine.images import Image
from teehouse_enclave.engine.messages import check_messages, check_utf8, invalid, refused
from teehouse_enclave.engine.schema import check_schema

__all__ = ["Ability", "ChatRequest", "parse_chat"]

MAX_DEPTH = 64  # levels of JSON; converters behind this wall recurse
MAX_NODES = 200_000  # JSON values; bounds the walk below
MAX_TOKENS = 1 << 24  # tokens; larger numbers are mistakes
MAX_TOOLS = 128  # OpenAI's own ceiling
MAX_TOOLS_BYTES = 65_536  # bytes of JSON of all tools; they become part of prompt and grammar

_FUNCTION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    # Not OpenAI's, but what every open engine calls them.
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 10),
}
_HARMLESS = frozenset(
    [
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "reasoning_effort",
        "verbosity",
        "prediction",
        "stream",
        "stream_options",
        "model",
    ]
)
# Refused unless they say what is so anyway.
_FIXED: Mapping[str, tuple[Any, ...]] = {"n": (1,), "store": (False,), "modalities": (["text"],)}


@dataclass(frozen=True, slots=True)
class Ability:
    """What an engine can honour beyond plain text."""

    tools: bool = False
    images: bool = False
    json_schema: bool = False
    logprobs: bool = False
    check_schema: bool = True  # False where the engine behind enforces schemas by its own rules


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request. Holds plaintext: never print or log one, its repr is cut off for that reason."""

    messages: list[dict[str, Any]]
    sampling: dict[str, Any]  # numbers: temperature, top_p, seed, logit_bias, …
    max_tokens: int | None
    stop: tuple[str, ...]
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any] | None
    parallel_tool_calls: bool
    response_format: dict[str, Any] | None
    logprobs: bool
    top_logprobs: int
    images: tuple[Image, ...]

    def __repr__(self) -> str:
        return f"ChatRequest({len(self.messages)} messages)"


def parse_chat(body: object, ability: Ability) -> ChatRequest:
    """Check a request body. Raises EngineError 400 or 413 with `param`; bounded time for any JSON value."""
    if not isinstance(body, dict):
        raise invalid("the request body must be a JSON object", None, code="invalid_type")
    _check_json(body)
    given = {key: value for key, value in body.items() if value is not None}
    sampling: dict[str, Any] = {}
    for key, value in given.items():
        if key in _RANGES:
            sampling[key] = _number(key, value)
        elif key == "seed":
            sampling[key] = _integer(key, value, -(2**63), 2**63 - 1)
        elif key == "top_k":
            sampling[key] = _integer(key, value, -1, 1_000_000)
        elif key == "logit_bias":
            sampling[key] = _logit_bias(value)
        elif key in _FIXED:
            if not any(value == fixed and type(value) is type(fixed) for fixed in _FIXED[key]):
                raise refused(f"{key!r} can only be {json.dumps(_FIXED[key][0])} here", key)
        elif key not in _HARMLESS and key not in _PARSED:
            raise _unknown(key)
    messages, images = check_messages(given.get("messages"), images=ability.images, tools=ability.tools)
    tools, tool_choice = _tools(given, ability)
    logprobs, top = _logprobs(given, ability)
    return ChatRequest(
        messages=messages,
        sampling=sampling,
        max_tokens=_max_tokens(given),
        stop=_stop(given.get("stop")),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=_flag(given, "parallel_tool_calls", True),
        response_format=_response_format(given.get("response_format"), ability),
        logprobs=logprobs,
        top_logprobs=top,
        images=images,
    )


_PARSED = frozenset(
    [
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "parallel_tool_calls",
    ]
)


def _check_json(body: dict[str, Any]) -> None:
    """Depth, size, finite numbers and encodable text, without recursion."""
    stack: list[tuple[Any, int]] = [(body, 0)]
    nodes = 0
    while stack:
        value, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise invalid("the request is nested too deeply or has too many parts", None)
        if isinstance(value, str):
            check_utf8(value)
        elif isinstance(value, dict):
            for key, one in value.items():
                if not isinstance(key, str):
                    raise invalid("the request has a key that is not a string", None, code="invalid_type")
                check_utf8(key)
                stack.append((one, depth + 1))
        elif isinstance(value, list):
            stack.extend((one, depth + 1) for one in value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise invalid("the request has a number that is not finite", None)
        elif value is not None and not isinstance(value, int):
            raise invalid("the request has a value that JSON does not know", None, code="invalid_type")


def _number(key: str, value: object) -> float:
    low, high = _RANGES[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid(f"{key!r} must be a number", key, code="invalid_type")
    if not low <= value <= high:
        raise invalid(f"{key!r} must be from {low:g} to {high:g}", key)
    return value


def _integer(key: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(f"{key!r} must be a whole number", key, code="invalid_type")
    if not low <= value <= high:
        raise invalid(f"{key!r} is out of range", key)
    return value


def _flag(given: Mapping[str, Any], key: str, default: bool) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise invalid(f"{key!r} must be true or false", key, code="invalid_type")
    return value


def _logit_bias(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > 1024:
        raise invalid("'logit_bias' must be an object of at most 1024 tokens", "logit_bias", code="invalid_type")
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise invalid("'logit_bias' must be keyed by token ids", "logit_bias")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise invalid("'logit_bias' values must be from -100 to 100", "logit_bias")
    return dict(value)


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    limits = [
        _integer(key, given[key], 1, MAX_TOKENS) for key in ("max_tokens", "max_completion_tokens") if key in given
    ]
    return min(limits) if limits else None


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(one, str) for one in stops):
        raise invalid("'stop' must be a string or a list of at most 16 strings", "stop", code="invalid_type")
    if not all(0 < len(one) <= 1024 for one in stops):
        raise invalid("each 'stop' must have 1 to 1024 characters", "stop")
    return tuple(stops)


def _logprobs(given: Mapping[str, Any], ability: Ability) -> tuple[bool, int]:
    wanted = _flag(given, "logprobs", False)
    top = _integer("top_logprobs", given.get("top_logprobs", 0), 0, 20)
    if top and not wanted:
        raise invalid("'top_logprobs' needs 'logprobs': true", "top_logprobs")
    if wanted and not ability.logprobs:
        raise refused("this engine gives no log probabilities", "logprobs")
    return wanted, top


def _tools(given: Mapping[str, Any], ability: Ability) -> tuple[list[dict[str, Any]], str | dict[str, Any] | None]:
    raw, choice = given.get("tools"), given.get("tool_choice")
    if raw is None or raw == []:
        if choice not in (None, "none", "auto"):
            raise invalid("'tool_choice' needs 'tools'", "tool_choice")
        return [], None
    if not isinstance(raw, list) or len(raw) > MAX_TOOLS:
        raise invalid(f"'tools' must be a list of at most {MAX_TOOLS}", "tools", code="invalid_type")
    tools = [_tool(one, f"tools[{index}]") for index, one in enumerate(raw)]
    if len(json.dumps(tools)) > MAX_TOOLS_BYTES:
        raise invalid(f"'tools' may have {MAX_TOOLS_BYTES} bytes together", "tools")
    names = {one["function"]["name"] for one in tools}
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if choice.get("type") != "function" or name not in names:
            raise invalid("'tool_choice' must name one of 'tools'", "tool_choice")
        choice = {"type": "function", "function": {"name": name}}
    elif choice not in (None, "none", "auto", "required"):
        raise invalid("'tool_choice' must be none, auto, required or a function", "tool_choice")
    if choice == "none":
        return [], None
    if not ability.tools:
        raise EngineError(400, "tools_unsupported", "the chat template of this model has no tool calls", param="tools")
    return tools, choice


def _tool(raw: object, param: str) -> dict[str, Any]:
    function = raw.get("function") if isinstance(raw, dict) and raw.get("type") == "function" else None
    if not isinstance(function, dict):
        raise invalid("a tool must be of type function", param, code="invalid_type")
    name, described, parameters = function.get("name"), function.get("description"), function.get("parameters")
    if not isinstance(name, str) or not _FUNCTION.fullmatch(name):
        raise invalid("a function's name must have 1 to 64 of a-z, A-Z, 0-9, _ and -", f"{param}.function.name")
    kept: dict[str, Any] = {"name": name}
    if described is not None:
        if not isinstance(described, str):
            raise invalid("a function's description must be a string", f"{param}.function", code="invalid_type")
        kept["description"] = described
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise invalid("a function's parameters must be a JSON schema", f"{param}.function", code="invalid_type")
        kept["parameters"] = parameters
    return {"type": "function", "function": kept}


def _response_format(raw: object, ability: Ability) -> dict[str, Any] | None:
    if raw is None:
        return None
    kind = raw.get("type") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or kind not in ("text", "json_object", "json_schema"):
        raise invalid("'response_format' must have type text, json_object or json_schema", "response_format")
    if kind == "text":
        return None
    if not ability.json_schema:
        raise refused("this engine cannot constrain the answer to JSON", "response_format")
    if kind == "json_object":
        return {"type": "json_object"}
    wrapper = raw.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
    if not isinstance(wrapper, dict) or not isinstance(schema, dict):
        raise invalid("'response_format' needs json_schema.schema", "response_format.json_schema")
    if ability.check_schema:
        check_schema(schema, "response_format.json_schema.schema")
    name = wrapper.get("name")
    if not isinstance(name, str) or not _FUNCTION.fullmatch(name):
        name = "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _unknown(key: str) -> EngineError:
    return EngineError(
        400,
        "unsupported_parameter",
        "the request has a parameter this service does not honour",
        param=key,
        hint="leave it out",
    )
