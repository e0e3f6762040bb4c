# SPDX-License-Identifier: Apache-2.0
"""The processes of a bench: the product's own gateway and node, unmodified, and the bench's twins beside them.

Everything listens on loopback, keeps its files in one temporary folder and is stopped by its own process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from teehouse.local.operator_api import Operator

__all__ = ["Rig", "Talker", "open_rig"]

BIN = Path(sys.executable).parent
START_SECONDS = 90.0
UNLIMITED = "100000000"  # requests per minute and streams: the benches measure the path, not the limits


class Talker:
    """A helper process that takes one JSON line and gives one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def tell(self, document: dict[str, Any]) -> None:
        pipe = self._pipe(self.process.stdin)
        pipe.write(json.dumps(document).encode() + b"\n")
        pipe.flush()

    def ask(self, document: dict[str, Any]) -> dict[str, Any]:
        self.tell(document)
        line = self._pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError("a helper process of the bench ended; its log is in the rig's folder")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise RuntimeError("no pipe")
        return pipe


class Rig:
    """One gateway, and whatever a bench puts behind it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.gateway = ""
        self.gateway_pid = 0
        self.api_key = ""
        self.urls: dict[str, str] = {}
        self._waiting: list[tuple[str, str, subprocess.Popen[bytes], Path]] = []

    def spawn(self, name: str, *command: object, pipes: bool = False) -> subprocess.Popen[bytes]:
        """Start a process that ends with the rig."""
        log = (self.folder / f"{name}.log").open("wb")
        self._stack.callback(log.close)
        pipe = subprocess.PIPE if pipes else None
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or log,
            stderr=log,
            env=_environment(),
        )
        self._stack.callback(_stop, process)
        return process

    def module(self, name: str, *options: str | Path, pipes: bool = False) -> subprocess.Popen[bytes]:
        """Start a module of this package."""
        return self.spawn(name, sys.executable, "-m", f"teehouse_bench.{name}", *options, pipes=pipes)

    def _wait_ready(self, process: subprocess.Popen[bytes], ready: Path) -> str:
        """The URL in a ready file."""
        end = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                logs = "".join(path.read_text(errors="replace")[-600:] for path in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"{ready.stem} did not start:\n{logs}")
            time.sleep(0.02)
        return str(json.loads(ready.read_text())["url"])

    def start_node(self, endpoint: str, engine: dict[str, Any]) -> int:
        """Start the product's node; gives its process id. The gateway knows it after `up`."""
        return self._node("node", endpoint, engine, BIN / "teehouse-node")

    def start_twin(self, endpoint: str, engine: dict[str, Any]) -> int:
        """Start the plain twin of the node."""
        return self._node("twin", endpoint, engine, sys.executable, "-m", "teehouse_bench.plain_node")

    def start_source(self, endpoint: str) -> int:
        """Start the fast upstream, which the gateway takes for a node; its address is `urls["source"]` after `up`."""
        ready = self.folder / "source.ready"
        process = self.module("source", "--node", "source", "--endpoint", endpoint, "--ready-file", ready)
        self._waiting.append(("source", endpoint, process, ready))
        return process.pid

    def up(self) -> None:
        """Start the product's gateway on SQLite, with one API key that no limit holds back, and register the nodes."""
        database = f"sqlite:///{self.folder / 'cloud.db'}"
        cloud, ready, token = BIN / "teehouse-cloud", self.folder / "cloud.ready", self.folder / "token"
        token.write_text(secrets.token_urlsafe(32))
        subprocess.run(
            [cloud, "migrate", "--db", database], check=True, capture_output=True, env=_environment(), timeout=60
        )
        options = ["--host", "127.0.0.1", "--port", "0", "--ready-file", ready, "--operator-token-file", token]
        limits = ["--key-rpm", UNLIMITED, "--key-streams", UNLIMITED, "--drain-seconds", "1"]
        process = self.spawn("cloud", cloud, "serve", "--db", database, *options, *limits)
        self.gateway = self._wait_ready(process, ready)
        self.gateway_pid = process.pid
        with contextlib.closing(Operator(self.gateway, token.read_text())) as operator:
            self.api_key = operator.create_key("bench", ["*"])
            for node, endpoint, started, node_ready in self._waiting:
                self.urls[node] = self._wait_ready(started, node_ready)
                operator.put_endpoint(endpoint, endpoint)
                operator.put_node(node, endpoint, self.urls[node])
            end = time.monotonic() + START_SECONDS
            while any(row["state"] != "ready" for row in operator.nodes()):
                if time.monotonic() > end:
                    raise RuntimeError("the gateway does not see all nodes as ready")
                time.sleep(0.05)

    def _node(self, name: str, endpoint: str, engine: dict[str, Any], *command: str | Path) -> int:
        ready, config = self.folder / f"{name}.ready", self.folder / f"{name}.json"
        document = {
            "endpoint": endpoint,
            "node": name,
            "listen": {"host": "127.0.0.1", "port": 0},
            "ready_file": str(ready),
            "engine": engine,
            "platform": {"type": "simulated"},
            "release": "bench",
            "image_sha256": "0" * 64,
            "limits": {"drain_s": 1, "max_active": 4096},
        }
        config.write_text(json.dumps(document))
        process = self.spawn(name, *command, "--config", config)
        self._waiting.append((name, endpoint, process, ready))
        return process.pid

    def talker(self, name: str) -> Talker:
        """A helper process of this package that takes jobs."""
        return Talker(self.module(name, pipes=True))


@contextlib.contextmanager
def open_rig() -> Iterator[Rig]:
    """An empty rig in a temporary folder: start nodes, then `up`. All that was started is stopped at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as folder, contextlib.ExitStack() as stack:
        yield Rig(Path(folder), stack)


def _environment() -> dict[str, str]:
    """No setting of the user's own reaches a bench."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEEHOUSE_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def _stop(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
