# SPDX-License-Identifier: Apache-2.0
"""Typed reading of a parsed JSON object: every member exactly once, nothing unknown, nothing missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import unb64u

__all__ = ["ENDPOINT", "Fields", "HEX16", "HEX32", "HEX64", "NAME"]

ENDPOINT = re.compile(r"[A-Za-z0-9-]{1,64}")  # ARCHITECTURE §4
NAME = re.compile(r"[ -~]{0,256}")  # printable ASCII, short enough to show
HEX16 = re.compile(r"[0-9a-f]{16}")  # 8 bytes
HEX32 = re.compile(r"[0-9a-f]{32}")  # 16 bytes
HEX64 = re.compile(r"[0-9a-f]{64}")  # 32 bytes


class Fields:
    """Takes members out of one object by name; `done()` refuses what is left over. Raises MalformedError."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, Mapping):
            raise MalformedError(f"{what} is not an object", code="wrong-type")
        self._left: dict[str, Any] = dict(value)
        self._what = what

    def take(self, name: str, kind: type) -> Any:
        """The member `name`, of exactly this JSON type (a boolean is no integer)."""
        if name not in self._left:
            raise MalformedError(f"{self._what} lacks {name}", code="missing-member")
        value = self._left.pop(name)
        if type(value) is not kind:
            raise MalformedError(f"{self._what}.{name} has the wrong type", code="wrong-type")
        return value

    def has(self, name: str) -> bool:
        return name in self._left

    def text(self, name: str, pattern: re.Pattern[str] = NAME) -> str:
        value: str = self.take(name, str)
        if not pattern.fullmatch(value):
            raise MalformedError(f"{self._what}.{name} has the wrong form", code="wrong-form")
        return value

    def one_of(self, name: str, *allowed: str) -> str:
        value: str = self.take(name, str)
        if value not in allowed:
            raise MalformedError(f"{self._what}.{name} has an unknown value", code="unknown-value")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value: int = self.take(name, int)
        if not low <= value <= high:
            raise MalformedError(f"{self._what}.{name} is out of range", code="out-of-range")
        return value

    def boolean(self, name: str) -> bool:
        value: bool = self.take(name, bool)
        return value

    def octets(self, name: str, length: int | None = None) -> bytes:
        """A b64u member decoded."""
        return unb64u(self.take(name, str), length)

    def items(self, name: str, low: int, high: int) -> list[Any]:
        value: list[Any] = self.take(name, list)
        if not low <= len(value) <= high:
            raise MalformedError(f"{self._what}.{name} has the wrong number of items", code="out-of-range")
        return value

    def fields(self, name: str) -> Fields:
        return Fields(self.take(name, dict), f"{self._what}.{name}")

    def done(self) -> None:
        if self._left:
            raise MalformedError(f"{self._what} has unknown members", code="unknown-member")
