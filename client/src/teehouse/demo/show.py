# SPDX-License-Identifier: Apache-2.0
"""How the demo looks: five titled parts; a question beside the bytes that the gateway saw of it."""

from __future__ import annotations

import textwrap
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from teehouse.cli.output import safe
from teehouse.demo.attacks import Outcome
from teehouse.demo.windows import WINDOW, Search

__all__ = ["attack_line", "headline", "hexdump", "next_steps", "part", "receipt_table", "side_by_side", "window_line"]

_ROWS: Final = 12  # lines of hex
_NARROW: Final = 100  # columns below which hex is shown eight bytes to a line


def headline(engine: str) -> RenderableType:
    """What this is, and what it is not."""
    model = "a real model, " if engine != "echo" else "(but for the echo engine, which is no model) "
    text = Text.assemble(
        ("Teehouse demo", "title"),
        "  ",
        (" SIMULATED ", "bold black on yellow"),
        "\n",
        f"Everything here is real except the hardware: {model}real evidence formats, real sealing. ",
        ("Simulated hardware gives no protection at all: its root key is public.", "warn"),
    )
    return Panel(text, border_style="yellow", padding=(0, 1))


def part(letter: str, title: str) -> RenderableType:
    """A heading."""
    return Group("", Rule(Text.assemble((f"{letter} ", "key"), (title, "title")), style="dim", align="left"))


def hexdump(data: bytes, width: int, *, offset: int = 0, rows: int = _ROWS) -> Text:
    """Real bytes, as hex and as the text that they are not."""
    out = Text()
    for row in range(rows):
        piece = data[row * width : (row + 1) * width]
        if not piece:
            break
        digits = " ".join(f"{byte:02x}" for byte in piece).ljust(width * 3 - 1)
        letters = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in piece)
        out.append(f"{offset + row * width:05x} ", style="dim")
        out.append(f"{digits}  ")
        out.append(f"{letters}\n", style="dim")
    out.rstrip()
    return out


def side_by_side(console: Console, question: str, sealed: bytes, header: str, offset: int) -> RenderableType:
    """The question on the left, the sealed bytes of it on the right."""
    wide = console.width >= _NARROW
    width = 16 if wide else 8
    right_width = 6 + width * 4 + 1 + 4
    left_width = max(20, console.width - right_width)
    shown = textwrap.shorten(safe(question).replace("\n", " "), 600, placeholder=" …")
    left = Panel(Text(shown), title="you typed", title_align="left", border_style="green", width=left_width)
    right = Panel(
        hexdump(sealed, width, offset=offset),
        title="the gateway saw",
        title_align="left",
        border_style="red",
        width=right_width,
    )
    grid = Table.grid()
    grid.add_column()
    grid.add_column()
    grid.add_row(left, right)
    note = Text.assemble(("it may read your API key and the header: ", "dim"), (safe(header), "dim"))
    return Group(grid, note)


def window_line(found: Search, what: str, control: int) -> Text:
    """The computed claim about captured bytes."""
    if not found.windows:
        return Text.assemble(("– ", "dim"), f"{what} is shorter than {WINDOW} characters: too little to look for")
    good = found.found == 0 and control > 0
    return Text.assemble(
        ("✓ " if good else "✗ ", "good" if good else "bad"),
        f"{found.found} of {found.windows:,} windows of {WINDOW} characters of {what} occur in "
        f"{found.bytes_searched:,} captured bytes",
        (f"  (in clear, JSON, hex, base64, UTF-16; the same search finds {control:,} in the unsealed text)", "dim"),
    )


def receipt_table(record: Any, node: str) -> RenderableType:
    """What was checked about the receipt; a record exists only when every one of these held."""
    receipt = record.receipt
    rows = (
        ("signature", f"Ed25519 by key {receipt.kid[:16]}… of the attested keyset"),
        ("keyset", f"{receipt.keyset_sha256[:16]}…, the one of {safe(node)} that was appraised"),
        ("request", f"transcript {receipt.th.hex()[:16]}… and commitment to my exact request"),
        ("answer", f"commitment {receipt.response_commit.hex()[:16]}… to every byte that came"),
        ("model", f"{safe(receipt.model.name)}, weights sha256 {receipt.model.weights_sha256[:16]}…"),
        (
            "usage",
            f"{receipt.usage.input_tokens} tokens in, {receipt.usage.output_tokens} out, ended by {receipt.finish}",
        ),
    )
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="good", width=1)
    grid.add_column(style="key", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row("✓", name, text)
    return grid


def attack_line(outcome: Outcome) -> RenderableType:
    """One attack and how it ended."""
    mark = ("✓ ", "good") if outcome.refused else ("✗ ", "bad")
    word = ("refused", "good") if outcome.refused else ("NOT REFUSED", "bad")
    return Group(
        Text.assemble(mark, outcome.attack.title),
        Text.assemble("  ", word, (f" [{outcome.code}]", "key"), f"  {safe(outcome.detail)}"),
    )


def next_steps(state: dict[str, Any] | None) -> RenderableType:
    """What to try next."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="key", no_wrap=True)
    grid.add_column(overflow="fold")
    if state is None:
        grid.add_row('teehouse demo --ask "…"', "ask your own question")
        grid.add_row("teehouse demo --keep", "leave it running when the demo is over")
        grid.add_row("teehouse up", "a platform to use; then `teehouse chat`, `verify`, `status`, `down`")
    else:
        grid.add_row("OPENAI_BASE_URL", state["openai_base_url"])
        grid.add_row("OPENAI_API_KEY", state["openai_api_key"])
        grid.add_row("model", state["model"])
        grid.add_row("teehouse chat", "in another terminal")
        grid.add_row("teehouse verify -v", "every check with its clause")
        grid.add_row("Ctrl-C", "stops it all")
    return grid
