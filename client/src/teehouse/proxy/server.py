# SPDX-License-Identifier: Apache-2.0
"""Running the proxy: bind loopback, make the token, write the files, serve until told to stop."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import platformdirs
import uvicorn

from teehouse.proxy.app import LOGGER, make_app
from teehouse.proxy.files import kept_token, make_token, write_private, write_ready
from teehouse.proxy.guard import Place
from teehouse.settings import Settings
from teehouse.transport import AsyncSealedTransport
from teehouse_core.errors import LocalError

__all__ = ["LOOPBACK", "Listening", "ProxyServer", "default_token_file", "serve"]

LOOPBACK: Final = "127.0.0.1"  # the only address; other machines have no business here
UNIX_AUTHORITY: Final = "localhost"  # `Host` of callers of a Unix socket, which has no address of its own
GRACE_SECONDS: Final = 5  # how long open answers may go on after SIGTERM


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the proxy listens. `url` is without `/v1`; for a Unix socket it is `unix:` and its path."""

    url: str
    token_file: Path


def default_token_file() -> Path:
    """Where the token is kept when nobody says where."""
    return platformdirs.user_state_path("teehouse") / "proxy_token"


class ProxyServer(uvicorn.Server):
    """One bound proxy; `on_ready` is called when it can answer."""

    def __init__(
        self,
        settings: Settings,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        uds: Path | None = None,
        token: str | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises LocalError: settings without gateway or key, another address than loopback, one that is taken."""
        settings.need_base_url()
        settings.need_api_key()
        self.token = token or make_token()
        self._socket, self.url, authority = _unix(uds) if uds is not None else _tcp(host, port)
        self._uds = uds
        self._on_ready = on_ready
        app = make_app(AsyncSealedTransport(settings), Place(authority, self.token))
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # ours says what happened without addresses and queries
                server_header=False,
                proxy_headers=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM and SIGINT and return from `run`, so that what was written at start is taken away again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until SIGTERM or SIGINT."""
        try:
            super().run(sockets or [self._socket])
        finally:
            self._socket.close()
            if self._uds is not None:
                self._uds.unlink(missing_ok=True)


def serve(
    settings: Settings,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    uds: Path | None = None,
    token_file: Path | None = None,
    ready_file: Path | None = None,
    keep_token: bool = False,
    quiet: bool = False,
    on_ready: Callable[[Listening], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. The token is made anew at each start, unless `keep_token` finds one in its file.

    Raises LocalError before it listens; see `ProxyServer`.
    """
    path = token_file or default_token_file()
    token = (kept_token(path) if keep_token else None) or make_token()

    def ready() -> None:
        if ready_file is not None:
            write_ready(ready_file, server.url)
        if on_ready is not None:
            on_ready(Listening(server.url, path))

    server = ProxyServer(settings, host=host, port=port, uds=uds, token=token, on_ready=ready)
    write_private(path, token + "\n")
    with _logging(quiet=quiet):
        try:
            server.run()
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)


def _tcp(host: str, port: int) -> tuple[socket.socket, str, str]:
    if host != LOOPBACK:
        raise LocalError(
            f"the proxy listens on {LOOPBACK} only",
            code="host-not-loopback",
            hint="other machines run their own proxy: it holds plaintext and the platform's key",
        )
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise LocalError(f"cannot listen on {host}:{port}: {error.strerror}", code="port-taken") from None
    sock.set_inheritable(False)
    authority = f"{host}:{sock.getsockname()[1]}"
    return sock, f"http://{authority}", authority


def _unix(path: Path) -> tuple[socket.socket, str, str]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # the socket is born 0600
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise LocalError(f"cannot listen on {path}: {error.strerror}", code="port-taken") from None
    finally:
        os.umask(mask)
    sock.set_inheritable(False)
    return sock, f"unix:{path}", UNIX_AUTHORITY


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event and the fields that the caller chose."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, separators=(",", ":"))


@contextlib.contextmanager
def _logging(*, quiet: bool) -> Generator[None, None, None]:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    servers = logging.getLogger("uvicorn.error")
    loggers = ((LOGGER, logging.WARNING if quiet else logging.INFO), (servers, logging.WARNING))
    before = [(logger, logger.level, logger.propagate) for logger, _ in loggers]
    for logger, level in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
