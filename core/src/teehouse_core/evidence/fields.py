# SPDX-License-Identifier: Apache-2.0
"""One field of a binary report: where it stands and what it says, for the parsed view and for people.

Every parser of `teehouse_core.evidence` offers `fields(raw) -> list[Field]`; the ranges of the leaves it returns lie
in order, do not overlap, and leave no byte of the report unnamed (reserved and padding bytes are fields too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Field"]


@dataclass(frozen=True, slots=True)
class Field:
    """`path` is dotted (`header.version`), `start` and `end` are byte offsets (end exclusive), `value` a short text."""

    path: str
    start: int
    end: int
    value: str

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "start": self.start, "end": self.end, "value": self.value}
