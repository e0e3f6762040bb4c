# SPDX-License-Identifier: Apache-2.0
"""The whole platform as a user starts it: `teehouse up` in a process of its own, driven through its ready file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

TEEHOUSE = Path(sys.executable).with_name("teehouse")
START_SECONDS = 120


@dataclass(frozen=True)
class Platform:
    """One running platform; `ready` is its ready file."""

    ready: dict[str, Any]
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return str(self.ready["endpoints"]["demo"])

    @property
    def gateway(self) -> str:
        return str(self.ready["gateway"])

    @property
    def api_key(self) -> str:
        return str(self.ready["api_key"])

    @property
    def policy(self) -> str:
        return str(self.ready["policy"])

    def operator(self) -> httpx2.Client:
        token = (self.root / "secrets" / "operator_token").read_text().strip()
        return httpx2.Client(base_url=self.gateway, headers={"authorization": f"Bearer {token}"}, timeout=10)

    def nodes(self) -> list[dict[str, Any]]:
        with self.operator() as api:
            document = api.get("/api/v1/nodes").json()
        return list(document["nodes"] if isinstance(document, dict) and "nodes" in document else document)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_platform(root: Path, *options: str) -> Iterator[Platform]:
    """`teehouse up` in `root` until the block ends; fails if it does not stop cleanly."""
    ready_file = root / "ready.json"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TEEHOUSE_")}
    environment["XDG_STATE_HOME"] = str(root / "state")  # not the user's own last platform
    log = (root / "up.log").open("wb")
    command = [TEEHOUSE, "up", "--dir", root / "p", "--port", str(free_port()), "--ready-file", ready_file, *options]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready_file.exists():
            assert process.poll() is None, (root / "up.log").read_text()
            assert time.monotonic() < deadline, (root / "up.log").read_text()
            time.sleep(0.05)
        yield Platform(json.loads(ready_file.read_text()), root / "p", process)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        log.close()
    assert code == 0, (root / "up.log").read_text()
