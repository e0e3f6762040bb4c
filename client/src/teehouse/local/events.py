# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells whoever draws: steps that begin, move and end, and notes in between. No content."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Quiet", "Reporter"]


class Reporter(Protocol):
    """Called from the supervisor's own thread."""

    def begin(self, step: str, text: str) -> None:
        """A step begins; `step` names it for the calls that follow."""
        ...

    def move(self, step: str, done: int, total: int) -> None:
        """A step with a known size, in bytes."""
        ...

    def end(self, step: str, text: str) -> None:
        """A step is done."""
        ...

    def note(self, text: str) -> None:
        """Something happened that a person may want to know, such as a restart."""
        ...

    def tick(self) -> None:
        """Called some times a second, so that a spinner can turn without a thread of its own."""
        ...


class Quiet:
    """Says nothing."""

    def begin(self, step: str, text: str) -> None:
        """Nothing."""

    def move(self, step: str, done: int, total: int) -> None:
        """Nothing."""

    def end(self, step: str, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""
