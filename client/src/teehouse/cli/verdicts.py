# SPDX-License-Identifier: Apache-2.0
"""How a verdict looks: every check with a mark and words, grouped; what failed in full; never colour alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from teehouse.cli.check_titles import GROUPS, title_of
from teehouse.cli.output import safe, simulated_badge

if TYPE_CHECKING:
    from teehouse_core.appraise.verdict import Check, Verdict

__all__ = [
    "MARKS",
    "checks_grid",
    "failures",
    "legend",
    "node_line",
    "print_verdict",
    "refusals",
    "summary_line",
    "verbose_checks",
]

MARKS: Final = {
    "passed": ("✓", "good"),
    "failed": ("✗", "bad"),
    "skipped": ("◌", "warn"),
    "not-applicable": ("–", "dim"),
}
_CELL: Final = 38  # characters of one check in the grid: two columns on 80, three on 120


def legend() -> Text:
    """What the marks mean."""
    return Text.assemble(
        ("✓", "good"),
        " passed   ",
        ("✗", "bad"),
        " failed   ",
        ("◌", "warn"),
        " not made   ",
        ("–", "dim"),
        " not applicable",
    )


def checks_grid(verdict: Verdict, width: int) -> RenderableType:
    """Every check, one cell each, by group."""
    columns = max(1, min(3, (width - 2) // _CELL))
    parts: list[RenderableType] = []
    for group, about in GROUPS.items():
        checks = [check for check in verdict.checks if check.group == group]
        if not checks:
            continue
        parts.append(Text.assemble((group, "title"), ("  " + about, "dim")))
        grid = Table.grid(padding=(0, 1))
        for _ in range(columns):
            grid.add_column(width=_CELL - 1, no_wrap=True, overflow="ellipsis")
        rows = -(-len(checks) // columns)
        for row in range(rows):
            grid.add_row(*(_cell(checks[i]) for i in range(row, len(checks), rows)))
        parts.append(Padding(grid, (0, 0, 0, 2)))
    return Group(*parts)


def _cell(check: Check) -> Text:
    mark, style = MARKS[check.state]
    refused = check.state in ("failed", "skipped") and check.required
    words = "bad" if refused else "dim" if check.state == "not-applicable" else ""
    return Text.assemble((f"{mark} ", "bad" if refused else style), (title_of(check.id), words))


def failures(checks: Iterable[Check]) -> RenderableType:
    """The checks that refuse, with everything that helps."""
    return Group(*(_in_full(check) for check in checks))


def verbose_checks(verdict: Verdict) -> RenderableType:
    """Every check in full, by group."""
    parts: list[RenderableType] = []
    for group, about in GROUPS.items():
        checks = [check for check in verdict.checks if check.group == group]
        if checks:
            parts.append(Text.assemble((group, "title"), ("  " + about, "dim")))
            parts.extend(Padding(_in_full(check), (0, 0, 0, 2)) for check in checks)
    return Group(*parts)


def _in_full(check: Check) -> RenderableType:
    mark, style = MARKS[check.state]
    need = "" if check.required else "  optional"
    head = Text.assemble((f"{mark} ", style), title_of(check.id), (f"  {check.id}{need}", "dim"))
    rows = [("claimed", check.claimed), ("expected", check.expected), ("from", check.source), ("clause", check.clause)]
    rows.append(("hint", check.hint))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", width=8, justify="right")
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(name, Text(safe(value), style="hint" if name == "hint" else ""))
    return Group(head, Padding(grid, (0, 0, 0, 2)))


def summary_line(verdict: Verdict) -> Text:
    """`✓ accepted   SIMULATED   43 passed, 18 not applicable`."""
    counts = {state: sum(check.state == state for check in verdict.checks) for state in MARKS}
    words = {"passed": "passed", "failed": "failed", "skipped": "not made", "not-applicable": "not applicable"}
    told = ", ".join(f"{number} {words[state]}" for state, number in counts.items() if number)
    good = verdict.result == "accepted"
    return Text.assemble(
        ("✓ accepted" if good else "✗ refused", "good" if good else "bad"),
        "  ",
        simulated_badge(verdict.tier),
        ("  protects nothing" if verdict.tier == "simulated" else "", "warn"),
        (f"  {told}", "dim"),
    )


def node_line(verdict: Verdict) -> Table:
    """Who this is about."""
    claims = verdict.claims
    model, software = claims["model"], claims["software"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="key", no_wrap=True)
    grid.add_column(overflow="fold")
    who = claims["pool"]["statement"] if "pool" in claims else claims["node"]
    grid.add_row("pool" if "pool" in claims else "node", f"{safe(who)}  of  {safe(claims['endpoint'])}")
    grid.add_row("model", f"{safe(model['name'])}  sha256 {model['weights_sha256'][:16]}…")
    grid.add_row("software", f"{safe(software['release'])}  image sha256 {software['image_sha256'][:16]}…")
    grid.add_row("keyset", f"sha256 {claims['keyset_sha256'][:16]}…")
    grid.add_row("policy", f"{safe(str(claims['policy']))}")
    if verdict.result == "accepted":
        left = max(0, verdict.not_after - int(time.time()))
        grid.add_row("good for", f"{left // 60} min" if verdict.evidence_time is not None else "reading, not sealing")
    return grid


def print_verdict(console: Console, verdict: Verdict, *, verbose: bool, like: Verdict | None = None) -> None:
    """One node's whole story; its checks are not told again where they ended as those of `like` did."""
    console.print(node_line(verdict))
    same = like is not None and [(c.id, c.state) for c in like.checks] == [(c.id, c.state) for c in verdict.checks]
    if verbose or not same:
        console.print()
        console.print(verbose_checks(verdict) if verbose else checks_grid(verdict, console.width))
    console.print()
    console.print(summary_line(verdict))
    if verbose or not verdict.refusing:
        return
    if same:
        console.print(Text("every check ended as for the node above", style="dim"))
    else:
        console.print(refusals(verdict.refusing))


def refusals(refusing: Sequence[Check]) -> RenderableType:
    """What failed in full, then what could not be made, a line each."""
    skipped = [check for check in refusing if check.state == "skipped"]
    parts: list[RenderableType] = [failures(check for check in refusing if check.state == "failed")]
    if skipped:
        parts.append(Text("required, and not made:", style="dim"))
        for check in skipped:
            line = Text.assemble(("◌ ", "warn"), title_of(check.id), (f"  {check.id}  {safe(check.hint)}", "dim"))
            line.overflow, line.no_wrap = "ellipsis", True
            parts.append(line)
    return Group(*parts)
