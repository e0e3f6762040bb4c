# SPDX-License-Identifier: Apache-2.0
"""What is written down about a running platform, and which ones this user started."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teehouse.local.layout import Layout, default_dir, user_state_dir, write_private
from teehouse.local.lock import holder
from teehouse_core.errors import LocalError

__all__ = ["Running", "find_running", "forget", "last_dir", "remember"]

_NOTES = "local.json"
_MOST = 16  # folders noted


@dataclass(frozen=True, slots=True)
class Running:
    """A platform that runs now: its supervisor holds the folder's lock."""

    layout: Layout
    supervisor: int
    state: dict[str, Any] | None  # the ready file's content; None while it is starting

    @property
    def endpoint(self) -> str | None:
        return self.state["endpoints"].get("demo") if self.state else None


def remember(root: Path) -> None:
    """Note `root` as this user's newest platform."""
    _write([root, *(path for path in _known() if path != root)][:_MOST])


def forget(root: Path) -> None:
    """Drop `root` from the notes."""
    known = _known()
    if root in known:
        _write([path for path in known if path != root])


def last_dir() -> Path | None:
    """The folder of the newest platform that runs, else the one noted last, else None."""
    known = _known()
    running = (path for path in known if holder(Layout(path).lock) is not None)
    return next(running, known[0] if known else None)


def _known() -> list[Path]:
    try:
        said = json.loads((user_state_dir() / _NOTES).read_text(encoding="utf-8"))
        return [Path(path) for path in said["dirs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write(known: list[Path]) -> None:
    folder = user_state_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / _NOTES, json.dumps({"version": 1, "dirs": [str(path) for path in known]}) + "\n")


def find_running(root: Path | None = None) -> Running | None:
    """The platform running in `root`, or else the newest one of this user that runs.

    Raises `LocalError` (`dir-not-private`) when somebody else owns the folder: its files name a server to talk to.
    """
    layout = Layout(root if root is not None else last_dir() or default_dir())
    supervisor = holder(layout.lock)
    if supervisor is None:
        return None
    try:
        if layout.root.stat().st_uid != os.getuid():
            raise LocalError(f"{layout.root} belongs to somebody else", code="dir-not-private")
        state = json.loads(layout.state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = None
    return Running(layout, supervisor, state if isinstance(state, dict) else None)
