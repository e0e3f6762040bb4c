# SPDX-License-Identifier: Apache-2.0
"""Reading a conformance vector's input: members of the right kind, and byte strings in any of their spellings.

A byte string is base64url without padding, `{"text": "…"}` for bytes that are UTF-8 text, or a list of byte strings,
which are joined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import unb64u

__all__ = ["InputError", "as_bytes", "maybe", "member", "objects", "take", "take_all"]


class InputError(Exception):
    """The input is not what the stage takes; says nothing about the code under test."""


def member(given: Mapping[str, Any], name: str, kind: type) -> Any:
    """The member of that name, which must be of exactly that kind."""
    value = given.get(name)
    if type(value) is not kind:
        raise InputError(f"{name}: expected {kind.__name__}")
    return value


def as_bytes(value: Any, name: str) -> bytes:
    """The bytes that one byte string stands for."""
    if type(value) is dict and set(value) == {"text"} and type(value["text"]) is str:
        text: str = value["text"]
        return text.encode("utf-8")
    if type(value) is list and all(type(part) is not list for part in value):
        return b"".join(as_bytes(part, name) for part in value)
    if type(value) is not str:
        raise InputError(f"{name}: expected base64url, an object with text, or a list of these")
    try:
        return unb64u(value)
    except MalformedError as error:
        raise InputError(f"{name}: {error.message}") from None


def take(given: Mapping[str, Any], name: str) -> bytes:
    """The byte string of that name."""
    return as_bytes(given.get(name), name)


def maybe(given: Mapping[str, Any], name: str) -> bytes | None:
    """The byte string of that name, or None when there is none."""
    return take(given, name) if name in given else None


def take_all(given: Mapping[str, Any], name: str) -> list[bytes]:
    """A list of byte strings."""
    return [as_bytes(item, name) for item in member(given, name, list)]


def objects(given: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects."""
    items: list[dict[str, Any]] = member(given, name, list)
    if any(type(item) is not dict for item in items):
        raise InputError(f"{name}: expected objects")
    return items
