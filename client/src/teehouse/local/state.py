# SPDX-License-Identifier: Apache-2.0
"""What is written down about a running platform, and which one this user started last."""

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

_POINTER = "local.json"


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
    """Note `root` as this user's last platform."""
    folder = user_state_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(folder / _POINTER, json.dumps({"version": 1, "dir": str(root)}) + "\n")


def forget(root: Path) -> None:
    """Drop the note if it names `root`."""
    if last_dir() == root:
        (user_state_dir() / _POINTER).unlink(missing_ok=True)


def last_dir() -> Path | None:
    """The folder noted last, or None."""
    try:
        said = json.loads((user_state_dir() / _POINTER).read_text(encoding="utf-8"))
        return Path(said["dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_running(root: Path | None = None) -> Running | None:
    """The platform running in `root`, or else the last one that this user started, if it still runs.

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
