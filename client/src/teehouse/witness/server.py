# SPDX-License-Identifier: Apache-2.0
"""The witness's HTTP server: uvicorn around `WitnessApp`, a ready file, JSON lines on stderr, an end on SIGTERM."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from typing import Any, Final

import uvicorn

from teehouse.proxy.files import write_private
from teehouse.witness.app import LOGGER, WitnessApp
from teehouse.witness.config import WitnessConfig
from teehouse.witness.key import WitnessKey, load_key
from teehouse.witness.state import State
from teehouse.witness.witness import Witness
from teehouse_core.errors import LocalError

__all__ = ["serve"]

GRACE_SECONDS: Final = 5  # how long open requests may go on after SIGTERM
MAX_CONNECTIONS: Final = 512  # more are answered 503
KEEPALIVE_SECONDS: Final = 75  # logs keep their connections


class WitnessServer(uvicorn.Server):
    """Serves one bound socket; `on_ready` is called when it can answer."""

    def __init__(self, app: WitnessApp, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="on",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEPALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM and SIGINT and return, so that the ready file is taken away again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(config: WitnessConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises LocalError, StateError before it listens."""
    key = load_key(config.key)
    state = State(config.state, key.verifier)
    try:
        bound, url = _bind(config.host, config.port)
        app = WitnessApp(Witness(key, state, config.trust, config.max_origins), state)

        def ready() -> None:
            LOGGER.info("serving", extra={"fields": {"url": url, "name": key.name}})
            if config.ready_file is not None:
                write_private(config.ready_file, json.dumps(_facts(key, url)) + "\n")

        with _logging():
            try:
                WitnessServer(app, ready).run([bound])
            finally:
                bound.close()
                if config.ready_file is not None:
                    config.ready_file.unlink(missing_ok=True)
    finally:
        state.close()


def _facts(key: WitnessKey, url: str) -> dict[str, Any]:
    return {"version": 1, "url": url, "pid": os.getpid(), "name": key.name, "vkey": key.verifier.text}


def _bind(host: str, port: int) -> tuple[socket.socket, str]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise LocalError(
            f"cannot listen on {host}:{port}: {error.strerror}", code="port-taken", hint="give --listen HOST:PORT"
        ) from None
    sock.set_inheritable(False)
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return sock, f"http://{shown}:{sock.getsockname()[1]}"


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, separators=(",", ":"))


@contextlib.contextmanager
def _logging() -> Generator[None, None, None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for logger, level in ((LOGGER, logging.INFO), (logging.getLogger("uvicorn.error"), logging.WARNING)):
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    yield
