# SPDX-License-Identifier: Apache-2.0
"""Readers of policy fields: what a person typed becomes a checked, hashable value, or an error that says what to type.

A reader takes the field's name (for the error) and the item as TOML or JSON gave it. `table` reads a sub-table of a
policy, the same way for every technology.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from teehouse_core.errors import LocalError

__all__ = [
    "Reader",
    "bad",
    "bits",
    "count",
    "digests",
    "flag",
    "names",
    "printable",
    "table",
    "texts",
    "unknown",
    "words",
]

MAX_ITEMS: Final = 1024  # values in one list
_NAME: Final = re.compile(r"[ -~]{1,256}")

Reader = Callable[[str, Any], Any]
_T = TypeVar("_T")


def bad(name: str, want: str) -> LocalError:
    return LocalError(f"policy field {name} has a wrong value", code="policy-value", hint=f"{name} is {want}")


def unknown(name: object, known: tuple[str, ...], what: str) -> LocalError:
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"{what}s are: {', '.join(known)}"
    return LocalError(f"policy has no {what} {name!r}", code="policy-field", hint=hint)


def texts(name: str, item: Any, want: str, good: Callable[[str], object]) -> tuple[str, ...]:
    """A list of texts that are `good`, each once."""
    ok = isinstance(item, list) and len(item) <= MAX_ITEMS and all(isinstance(i, str) and good(i) for i in item)
    if not ok or len(set(item)) != len(item):
        raise bad(name, f"a list of {want}, each once")
    return tuple(item)


def words(*known: str) -> Reader:
    """A list of the known words, or of any short printable texts when none are given."""
    if not known:
        return names("short printable texts")
    return lambda name, item: texts(name, item, " or ".join(known), known.__contains__)


def digests(size: int) -> Reader:
    """A list of digests of `size` bytes in lower-case hex."""
    form = re.compile(rf"[0-9a-f]{{{2 * size}}}")
    return lambda name, item: texts(name, item, f"lower-case hex SHA-{8 * size}", form.fullmatch)


def names(want: str) -> Reader:
    """A list of short printable texts; `want` says of what."""
    return lambda name, item: texts(name, item, want, _NAME.fullmatch)


def printable(name: str, item: Any) -> str:
    if not isinstance(item, str) or not _NAME.fullmatch(item):
        raise bad(name, "a short printable text")
    return item


def flag(name: str, item: Any) -> bool:
    if not isinstance(item, bool):
        raise bad(name, "true or false")
    return item


def count(low: int, high: int) -> Reader:
    """A whole number from `low` to `high`."""

    def read(name: str, item: Any) -> int:
        if type(item) is not int or not low <= item <= high:
            raise bad(name, f"a whole number from {low} to {high}")
        return item

    return read


def bits(name: str, item: Any) -> int:
    if not isinstance(item, str) or not re.fullmatch(r"0x[0-9a-f]{16}", item):
        raise bad(name, 'a text of 64 bits in hex, as "0x0000000010000000"')
    return int(item, 16)


def table(name: str, item: Any, current: _T, readers: Mapping[str, Reader], what: str = "") -> _T:
    """`current`, a frozen dataclass, with the fields that `item` names read by `readers`; `what` names one of them."""
    if not isinstance(item, Mapping):
        raise bad(name, "a table")
    changes: dict[str, Any] = {}
    for key, value in item.items():
        if key not in readers:
            raise unknown(key, tuple(readers), what or f"{name} field")
        changes[key] = readers[key](f"{name}.{key}", value)
    return dataclasses.replace(current, **changes)  # type: ignore[type-var]
