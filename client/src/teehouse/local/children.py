# SPDX-License-Identifier: Apache-2.0
"""One supervised process: started in its own process group, watched, started again with growing pauses, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teehouse.local.layout import LOG_LIMIT
from teehouse.local.programs import child_environment
from teehouse_core.errors import OperatorError

__all__ = ["Child", "last_words"]

FIRST_PAUSE = 0.25  # seconds before the first restart
LONGEST_PAUSE = 15.0  # seconds
SETTLED = 30.0  # seconds of life after which a death counts as the first again


@dataclass(slots=True)
class Child:
    """A process by name. `command` is asked anew at each start, so that a restart can use the port it had before."""

    name: str
    command: Callable[[], Sequence[str]]
    log: Path
    ready_file: Path
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] | None = None  # what its ready file says, of this life
    deaths: int = 0  # in a row
    lives: int = 0
    last_exit: int | None = None
    _started: float = 0.0
    _due: float = field(default=0.0)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def alive(self) -> bool:
        return not self._exited()

    def start(self) -> None:
        """Start it now; its output goes to the log, which holds no content by rule of the house."""
        self.ready_file.unlink(missing_ok=True)
        self.ready = None
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.process = subprocess.Popen(  # noqa: S603  our own list, no shell
                list(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops them in order
            )
        except OSError as exc:
            raise OperatorError(f"cannot start {self.name}: {exc.strerror}", code="child-start") from exc
        finally:
            os.close(descriptor)
        self._started = time.monotonic()
        self.lives += 1

    def watch(self) -> str | None:
        """Look once: "died", "ready" (for the first time in this life), "restarted", or None for nothing new."""
        now = time.monotonic()
        if self.process is None:
            if now < self._due:
                return None
            self.start()
            return "restarted"
        if self._exited():
            self._sweep()
            self.last_exit = self.process.wait()
            self.deaths = 1 if now - self._started > SETTLED else self.deaths + 1
            self._due = now + min(FIRST_PAUSE * 2 ** (self.deaths - 1), LONGEST_PAUSE)
            self.process, self.ready = None, None
            return "died"
        if self.ready is None and (said := self._read_ready()) is not None:
            self.ready = said
            return "ready"
        return None

    def _read_ready(self) -> dict[str, Any] | None:
        try:
            said = json.loads(self.ready_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        # A file of an earlier life that came back from the dead names another process.
        if not isinstance(said, dict) or said.get("pid", self.pid) != self.pid:
            return None
        return said

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.process is not None and not self._exited():
            os.kill(self.process.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Whether it is gone within that time."""
        end = time.monotonic() + seconds
        while not self._exited():
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def finish(self) -> None:
        """Kill what is left of its process group and reap it."""
        self._sweep()
        if self.process is not None:
            self.process.wait()
            self.process = None
        self.ready_file.unlink(missing_ok=True)

    def _exited(self) -> bool:
        """Whether it ended, without reaping it: as long as nobody does, its group's number belongs to nobody else."""
        if self.process is None or self.process.returncode is not None:
            return True
        if sys.platform == "darwin":  # waitid is missing there before Python 3.13
            return self.process.poll() is not None
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _sweep(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)


def last_words(log: Path, limit: int = 300) -> str:
    """The last line of a child's log, shortened: it says why the child died, and logs hold no content."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    line = lines[-1] if lines else ""
    try:
        entry = json.loads(line)
        line = " ".join(str(entry[k]) for k in ("event", "message", "error", "code", "hint") if entry.get(k))
    except (ValueError, TypeError, AttributeError):
        pass
    return line[:limit]
