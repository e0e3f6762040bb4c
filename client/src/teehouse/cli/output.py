# SPDX-License-Identifier: Apache-2.0
"""How commands talk: data on stdout, talk on stderr, colour that never stands alone, text of others made harmless."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from rich.console import Console
from rich.text import Text
from rich.theme import Theme

from teehouse_core.errors import TeehouseError

__all__ = ["THEME", "Output", "fail", "hint", "safe", "say_error", "simulated_badge"]

THEME: Final = Theme(
    {
        "good": "green",
        "bad": "bold red",
        "warn": "bold yellow",  # amber: simulated, weak, loosened
        "dim": "dim",
        "key": "cyan",
        "title": "bold",
        "hint": "cyan",
        "mark": "bold",
    }
)


class Output:
    """The two consoles of one command. `as_json` means: exactly one JSON document on stdout."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.data = Console(theme=THEME, highlight=False, soft_wrap=False)
        self.talk = Console(theme=THEME, highlight=False, stderr=True, quiet=quiet)

    @property
    def interactive(self) -> bool:
        """Whether a person watches the talk, so that lines may move."""
        return self.talk.is_terminal

    def json(self, value: Any) -> None:
        """One JSON document on stdout, unstyled and unwrapped."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def show(self, *renderables: Any) -> None:
        """Data for a person; nothing when JSON was asked for."""
        if not self.as_json:
            self.data.print(*renderables)

    def say(self, *renderables: Any, **options: Any) -> None:
        """Talk, on stderr."""
        self.talk.print(*renderables, **options)


def safe(text: str) -> str:
    """Text of others for a terminal: control characters, which could move the cursor or forge lines, become `�`."""
    return "".join(c if c in "\n\t" or (c.isprintable() or c == " ") else "\N{REPLACEMENT CHARACTER}" for c in text)


def simulated_badge(tier: str) -> Text:
    """The tier as a word; amber where nothing is protected."""
    if tier == "simulated":
        return Text(" SIMULATED ", style="bold black on yellow")
    return Text(
        f" {tier.upper()} ", style="bold black on green" if tier in ("hardware", "vtpm") else "bold white on red"
    )


def hint(text: str) -> Text:
    """A hint line."""
    return Text.assemble(("hint: ", "hint"), safe(text))


def say_error(console: Console, error: TeehouseError) -> None:
    """`error: … [code]` and, where there is one, `hint: …`."""
    console.print(Text.assemble(("error: ", "bad"), safe(error.message), (f" [{error.code}]", "dim")), soft_wrap=True)
    if error.hint:
        console.print(hint(error.hint), soft_wrap=True)


def fail(error: TeehouseError, *, as_json: bool) -> None:
    """Report an error that ends a command: on stderr, and as `{"error": …}` on stdout when JSON was asked for."""
    if as_json:
        told: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        index = getattr(error, "index", None)  # of the first log entry where hashes part
        document = {"error": told if index is None else told | {"index": index}}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    say_error(Console(theme=THEME, highlight=False, stderr=True), error)
