# SPDX-License-Identifier: Apache-2.0
"""How the steps of a start are drawn: moving lines for a person, plain lines for a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from teehouse.cli.output import safe

__all__ = ["Steps"]

_FRAME = 0.08  # seconds between two turns of a spinner


class Steps:
    """Implements `teehouse.local.events.Reporter`. Use as a context."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._moving = console.is_terminal and not console.quiet
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._drawn = 0.0
        # No thread of its own: children are started from this process while it draws.
        self._spinner = Progress(
            SpinnerColumn(style="key"),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            auto_refresh=False,
            disable=not self._moving,
        )

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spinner.stop()

    def begin(self, step: str, text: str) -> None:
        """A line that turns until `end`."""
        self._began[step] = time.monotonic()
        self._tasks[step] = self._spinner.add_task(safe(text), total=None)
        self._spinner.start()  # only while something turns: other lines would write into it
        self.tick()

    def move(self, step: str, done: int, total: int) -> None:
        """How far a step with a size is."""
        task = self._tasks.get(step)
        if task is not None and total:
            text = self._spinner.tasks[self._spinner.task_ids.index(task)].description.split("  ")[0]
            self._spinner.update(task, description=f"{text}  {_bar(done, total)}")
            self.tick()

    def end(self, step: str, text: str) -> None:
        """A ✓ line that stays."""
        task = self._tasks.pop(step, None)
        if task is not None:
            self._spinner.remove_task(task)
            self._spinner.refresh()
        if not self._tasks:
            self._spinner.stop()
        took = time.monotonic() - self._began.pop(step, time.monotonic())
        self._console.print(
            Text.assemble(("✓ ", "good"), safe(text), (f"  {took:.1f} s" if took >= 0.1 else "", "dim")), soft_wrap=True
        )

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text.assemble(("• ", "warn"), safe(text)), soft_wrap=True)

    def tick(self) -> None:
        """Draw, at most some times a second."""
        now = time.monotonic()
        if self._moving and now - self._drawn >= _FRAME:
            self._drawn = now
            self._spinner.refresh()


def _bar(done: int, total: int) -> str:
    width = 24
    filled = min(width, width * done // total)
    return f"{'━' * filled}{'╌' * (width - filled)} {done / 1e6:.0f} of {total / 1e6:.0f} MB"
