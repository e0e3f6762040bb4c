# SPDX-License-Identifier: Apache-2.0
"""What a person asks of `teehouse up`, and what the nodes are told in consequence."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teehouse_core.errors import LocalError

__all__ = ["ENGINES", "HOST", "UpOptions", "free_port", "make_endpoint_id", "need_port", "node_config"]

ENGINES: Final = ("llamacpp", "echo")
HOST: Final = "127.0.0.1"  # a local platform is nobody else's
MAX_PACE: Final = 100_000.0  # tokens per second
MAX_NODES: Final = 8  # each loads the weights anew
DEFAULT_PORT: Final = 7330
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """One start. `port` is the gateway's and `proxy_port` the verifying proxy's; 0 takes a free one."""

    root: Path
    port: int = DEFAULT_PORT
    proxy_port: int | None = None  # None: the one after `port` if it is free
    ready_file: Path | None = None
    engine: str = "llamacpp"
    model: str | None = None  # catalogue name, or path of a GGUF file
    nodes: int = 2
    remember: bool = True  # as this user's last platform, so that `teehouse chat` finds it
    pace: float = 0.0  # tokens per second of the echo engine
    keys: bool = True  # also a key service and a witness

    def check(self) -> None:
        """Raises `LocalError` (`option`)."""
        if self.engine not in ENGINES:
            raise LocalError(f"no engine {self.engine!r}", code="option", hint=f"engines are {', '.join(ENGINES)}")
        if not 1 <= self.nodes <= MAX_NODES:
            raise LocalError(f"--nodes is {self.nodes}", code="option", hint=f"from 1 to {MAX_NODES}")
        if not 0 <= self.pace <= MAX_PACE or (self.pace and self.engine != "echo"):
            raise LocalError("--pace is for the echo engine", code="option", hint=f"0 to {MAX_PACE:.0f} tokens/s")
        if self.engine == "echo" and self.model is not None:
            raise LocalError("the echo engine has no model", code="option", hint="leave out --model or --engine echo")


def make_endpoint_id() -> str:
    """`ep-YYYYMMDDHHMMSS-xxxxx`, in UTC."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime())
    return f"ep-{stamp}-{''.join(secrets.choice(_LETTERS) for _ in range(5))}"


def free_port(port: int) -> bool:
    """Whether one could listen on that loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do: a port in TIME_WAIT counts as free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def need_port(port: int, flag: str) -> None:
    """Raises `LocalError` (`port-taken`)."""
    if port and not free_port(port):
        raise LocalError(
            f"port {port} is taken by another program",
            code="port-taken",
            hint=f"choose another with {flag}; {flag} 0 takes a free one",
        )


def node_config(
    *,
    name: str,
    endpoint: str,
    engine: dict[str, Any],
    release: str,
    image_sha256: str,
    ready_file: Path,
) -> dict[str, Any]:
    """The configuration file of one node."""
    return {
        "endpoint": endpoint,
        "node": name,
        "listen": {"host": HOST, "port": 0},
        "ready_file": str(ready_file),
        "engine": engine,
        "platform": {"type": "simulated"},
        "release": release,
        "image_sha256": image_sha256,
        "limits": {"drain_s": 10},  # seconds; nobody waits longer for a laptop to let go
    }
