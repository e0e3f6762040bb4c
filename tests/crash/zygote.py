# SPDX-License-Identifier: Apache-2.0
"""The parent of all lives of a drill, seen from the drill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support_keys import World

__all__ = ["START_SECONDS", "Zygote", "lives"]

START_SECONDS = 40.0


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Zygote:
    """Starts key services, one at a time, and nodes."""

    world: World
    process: subprocess.Popen[str] = field(init=False)
    pid: int = 0

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("doomed.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.world.environment,
        )

    def start(self, **order: Any) -> None:
        """A key service. `order`: `point` and `hit` of its end, `file_limit`."""
        self.world.keys.ready_file.unlink(missing_ok=True)
        self.pid = self._fork({"config": str(self.world.config_file), "log": str(self.world.keys.log), **order})

    def start_node(self, node: dict[str, Any], **order: Any) -> int:
        """A node; its pid."""
        return self._fork({"node": node, "log": str(self.world.folder / "node.log"), **order})

    def _fork(self, order: dict[str, Any]) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    @property
    def alive(self) -> bool:
        return lives(self.pid)

    def wait_ready(self) -> bool:
        """Whether the service answers; False when it died on the way."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.world.keys.ready_file.exists():
                self.world.keys_url = str(json.loads(self.world.keys.ready_file.read_text())["url"])
                return True
            if not self.alive:
                return False
            time.sleep(0.005)
        raise AssertionError(f"not ready: {self.world.keys.log.read_text()[-3000:]}")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.alive:
            time.sleep(0.002)

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.process.terminate()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
