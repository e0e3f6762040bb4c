# SPDX-License-Identifier: Apache-2.0
"""The HTTP server around the application: uvicorn on uvloop and httptools, with bounds uvicorn lacks, a ready file,
and a SIGTERM that lets open streams finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import tempfile
from asyncio import TimerHandle
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import httptools
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from teehouse_cloud.errors import SettingsError
from teehouse_cloud.gateway.app import App
from teehouse_cloud.gateway.asgi import ABORT
from teehouse_cloud.logs import get_logger
from teehouse_cloud.settings import Settings
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.operators import token_hash

__all__ = ["GatewayServer", "operator_hash_of", "serve"]

MAX_HEAD = 32 * 1024  # bytes of request line and header fields; uvicorn itself sets no bound
HEAD_SECONDS = 20.0  # a connection that has not sent one whole request head by then is closed
KEEPALIVE_SECONDS = 30  # idle client connections
BACKLOG = 2048  # connections waiting to be accepted
MIN_TOKEN = 32  # characters of an operator token taken from a file


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with a bound on the request head in bytes and in time, and a way to cut."""

    _head = 0
    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]
        if self._head_timer is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD:
            raise httptools.HttpParserError("request head too large")  # answered 400 and closed

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class GatewayServer(uvicorn.Server):
    """Serves one `App`; `url` is known once it has started."""

    def __init__(self, settings: Settings, app: App) -> None:
        self._settings = settings
        self._app = app
        self.url = ""
        trusted = settings.forwarded_allow_ips
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted),
            forwarded_allow_ips=trusted or None,
            backlog=BACKLOG,
            timeout_keep_alive=KEEPALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            if self._settings.ready_file is not None:
                write_ready_file(self._settings.ready_file, self.url)
            get_logger().info("serving", url=self.url)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop accepting; streams that are open may finish within `drain_seconds`."""
        if self._app.gateway is not None:
            self._app.gateway.health.draining = True
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """First SIGTERM or SIGINT drains, a second one of either ends at once; the exit status stays 0."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


def write_ready_file(path: Path, url: str) -> None:
    """Write `{"version":1,"url","pid"}` so that no reader ever sees half of it."""
    document = json.dumps({"version": 1, "url": url, "pid": os.getpid()}) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as out:
        out.write(document)
    os.replace(name, path)


def operator_hash_of(path: Path) -> bytes:
    """SHA-256 of the token in a file. Raises `SettingsError`."""
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"cannot read the operator token file {path}", code="settings") from exc
    if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
        raise SettingsError(
            "the operator token file holds no token",
            code="settings",
            hint=f"one line of at least {MIN_TOKEN} random characters",
        )
    return token_hash(token)


async def _serve(settings: Settings, operator_hash: bytes | None) -> None:
    app = App(settings, Database(settings.db), operator_hash)
    server = GatewayServer(settings, app)
    try:
        await server.serve()
    except SystemExit:
        # uvicorn ends the process when start-up fails; say why in our own words
        if app.failure is not None:
            raise app.failure from None
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}", code="settings", hint="is the port taken?"
        ) from None
    finally:
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)


def serve(settings: Settings) -> None:
    """Run until a signal. Raises `OperatorError` when it cannot start."""
    operator_hash = operator_hash_of(settings.operator_token_file) if settings.operator_token_file else None
    if settings.ready_file is not None:
        if not settings.ready_file.parent.is_dir():
            raise SettingsError("the folder of the ready file does not exist", code="settings")
        settings.ready_file.unlink(missing_ok=True)
    _raise_file_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, operator_hash))


def _raise_file_limit() -> None:
    """Each stream takes two sockets; the usual soft limit of 1024 files would end at 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
