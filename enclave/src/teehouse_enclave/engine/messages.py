# SPDX-License-Identifier: Apache-2.0
"""The `messages` of a chat request: roles, parts and pictures, rebuilt from the members that are known."""

from __future__ import annotations

from typing import Any

from teehouse_enclave.engine.base import EngineError
from teehouse_enclave.engine.images import MAX_IMAGES, Image, parse_data_uri

__all__ = ["check_messages", "check_utf8", "invalid", "refused"]

MAX_MESSAGES = 4096  # per request; a template walks over all of them
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_OTHER_PARTS = {"input_audio": "audio_unsupported", "file": "file_unsupported", "input_file": "file_unsupported"}


def invalid(message: str, param: str | None, *, code: str = "invalid_value") -> EngineError:
    """A member is wrong."""
    return EngineError(400, code, message, param=param)


def refused(message: str, param: str) -> EngineError:
    """A member is right, and cannot be honoured here."""
    return EngineError(400, "unsupported_parameter", message, param=param)


def check_utf8(text: str) -> None:
    """Refuse lone surrogates, which JSON can spell and UTF-8 cannot."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid("the request has text that is not valid Unicode", None) from None


def check_messages(raw: object, *, images: bool, tools: bool) -> tuple[list[dict[str, Any]], tuple[Image, ...]]:
    """Rebuilt messages, and the pictures in them. Raises EngineError 400 or 413."""
    if raw is None:
        raise invalid("'messages' is required", "messages", code="missing_required_parameter")
    if not isinstance(raw, list):
        raise invalid("'messages' must be a list", "messages", code="invalid_type")
    if not 1 <= len(raw) <= MAX_MESSAGES:
        raise invalid(f"'messages' must have 1 to {MAX_MESSAGES} messages", "messages", code="empty_array")
    found: list[Image] = []
    return [_message(one, f"messages[{i}]", found, images=images, tools=tools) for i, one in enumerate(raw)], tuple(
        found
    )


def _message(raw: object, param: str, found: list[Image], *, images: bool, tools: bool) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise invalid("a message must be an object", param, code="invalid_type")
    role = raw.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise invalid("a message's role must be system, developer, user, assistant or tool", f"{param}.role")
    kept: dict[str, Any] = {"role": _ROLES[role]}
    calls = raw.get("tool_calls")
    if calls:
        if role != "assistant":
            raise invalid("only an assistant's message has tool calls", f"{param}.tool_calls")
        kept["tool_calls"] = _tool_calls(calls, f"{param}.tool_calls")
    if (calls or role == "tool") and not tools:
        raise EngineError(400, "tools_unsupported", "the chat template of this model has no tool calls", param=param)
    if role == "tool":
        if not isinstance(raw.get("tool_call_id"), str):
            raise invalid("a tool's message needs 'tool_call_id'", param, code="missing_required_parameter")
        kept["tool_call_id"] = raw["tool_call_id"]
    content = raw.get("content")
    if content is None:
        if role != "assistant":
            raise invalid("a message needs 'content'", f"{param}.content", code="missing_required_parameter")
        kept["content"] = "" if not calls else None
    elif isinstance(content, str):
        kept["content"] = content
    elif isinstance(content, list):
        parts = [_part(one, f"{param}.content[{i}]", role, found, images=images) for i, one in enumerate(content)]
        if not parts:
            raise invalid("a message's content must not be an empty list", f"{param}.content", code="empty_array")
        plain = all(one["type"] == "text" for one in parts)
        kept["content"] = "\n".join(one["text"] for one in parts) if plain else parts
    else:
        raise invalid(
            "a message's content must be a string or a list of parts", f"{param}.content", code="invalid_type"
        )
    return kept


def _part(raw: object, param: str, role: str, found: list[Image], *, images: bool) -> dict[str, Any]:
    kind = raw.get("type") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(kind, str):
        raise invalid("a part of a message must be an object with a type", param, code="invalid_type")
    if kind in ("text", "refusal"):
        text = raw.get(kind)
        if not isinstance(text, str):
            raise invalid("a text part needs a string", param, code="invalid_type")
        return {"type": "text", "text": text}
    if kind == "image_url":
        if role != "user":
            raise invalid("only a user's message may hold images", param)
        if not images:
            raise EngineError(400, "image_unsupported", "this model does not read images", param=param)
        link = raw.get("image_url")
        uri = link.get("url") if isinstance(link, dict) else link
        found.append(parse_data_uri(uri, param))
        if len(found) > MAX_IMAGES:
            raise invalid(f"a request may hold {MAX_IMAGES} images", param)
        return {"type": "image_url", "image_url": {"url": uri}}
    if kind in _OTHER_PARTS:
        raise EngineError(400, _OTHER_PARTS[kind], "this model reads text and images only", param=param)
    raise invalid("a part of a message has an unknown type", f"{param}.type")


def _tool_calls(raw: object, param: str) -> list[dict[str, Any]]:
    if not isinstance(raw, list) or len(raw) > 128:
        raise invalid("'tool_calls' must be a list of at most 128", param, code="invalid_type")
    kept = []
    for one in raw:
        function = one.get("function") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(function, dict):
            raise invalid("a tool call must hold a function", param, code="invalid_type")
        values = (one.get("id"), function.get("name"), function.get("arguments"))
        if not all(isinstance(value, str) for value in values):
            raise invalid("a tool call needs id, name and arguments as strings", param, code="invalid_type")
        kept.append({"id": values[0], "type": "function", "function": {"name": values[1], "arguments": values[2]}})
    return kept
