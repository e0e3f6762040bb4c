# SPDX-License-Identifier: Apache-2.0
"""The ASGI application of the process: routes by path, builds everything at start-up, tears it down at the end."""

from __future__ import annotations

import asyncio
import re

import aiohttp

from teehouse_cloud.control.api import build_api
from teehouse_cloud.control.guard import OperatorGuard
from teehouse_cloud.errors import DatabaseError
from teehouse_cloud.gateway.accounts import Accounts
from teehouse_cloud.gateway.asgi import Receive, Refusal, Scope, Send, request_id, send_refusal
from teehouse_cloud.gateway.evidence import EvidenceDoor
from teehouse_cloud.gateway.fleet import Fleet
from teehouse_cloud.gateway.health import HealthDoor
from teehouse_cloud.gateway.metrics import Metrics
from teehouse_cloud.gateway.outbound import open_session
from teehouse_cloud.gateway.poller import Poller
from teehouse_cloud.gateway.sealed import SealedDoor
from teehouse_cloud.ledger.door import LedgerDoor
from teehouse_cloud.ledger.guard import LedgerGuard
from teehouse_cloud.ledger.metrics import LedgerMetrics
from teehouse_cloud.logs import get_logger
from teehouse_cloud.settings import Settings
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.migrate import is_current

__all__ = ["App", "Gateway"]

FLUSH_SECONDS = 10.0  # how exact ApiKey.last_used is
_SEALED = re.compile(r"/sealed/v1/([A-Za-z0-9-]{1,64})")
_EVIDENCE = re.compile(r"/sealed/v1/([A-Za-z0-9-]{1,64})/evidence")


class Gateway:
    """The running parts, made in the event loop that serves."""

    def __init__(self, settings: Settings, database: Database, operator_hash: bytes | None) -> None:
        self.settings = settings
        self.database = database
        self.metrics = Metrics()
        self.fleet = Fleet(database)
        self.accounts = Accounts(
            database, cache_seconds=settings.key_cache_seconds, failure_rpm=settings.auth_failure_rpm
        )
        self.session: aiohttp.ClientSession = open_session()
        self.poller = Poller(settings, database, self.fleet, self.session, self.metrics)
        self.sealed = SealedDoor(settings, self.accounts, self.fleet, self.poller, self.session, self.metrics)
        self.evidence = EvidenceDoor(settings, self.fleet, self.poller, self.session, self.metrics)
        self.health = HealthDoor(database, self.fleet, self.metrics)
        ledger_guard = LedgerGuard(
            database,
            cache_seconds=settings.key_cache_seconds,
            failure_rpm=settings.auth_failure_rpm,
            open_rpm=settings.ledger_rpm,
        )
        ledger_metrics = LedgerMetrics(self.metrics.registry)
        self.ledger = LedgerDoor(database, ledger_guard, ledger_metrics, settings.body_seconds)
        api = build_api(database, self.accounts, self.poller, ledger_guard)
        self.operator = OperatorGuard(api, database, operator_hash, settings.auth_failure_rpm)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Know the nodes before the first request. Raises `DatabaseError` (db-not-migrated)."""
        if not await is_current(self.database):
            raise DatabaseError(
                "the database schema is not the one this version needs",
                code="db-not-migrated",
                hint="run: teehouse-cloud migrate",
            )
        await self.poller.start()
        self._tasks = [asyncio.create_task(self._flush()), asyncio.create_task(self.sealed.watch_stalls())]

    async def stop(self) -> None:
        """End background work and connections; open streams have ended before."""
        await self.poller.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self.accounts.flush_used()
        except DatabaseError as exc:
            get_logger().error("last-used-not-written", code=exc.code)
        await self.session.close()
        await self.database.close()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.accounts.flush_used()
            except DatabaseError as exc:
                get_logger().error("last-used-not-written", code=exc.code)


class App:
    """Bare ASGI callable. Only the operator API goes through a framework."""

    def __init__(self, settings: Settings, database: Database, operator_hash: bytes | None = None) -> None:
        self._settings = settings
        self._database = database
        self._operator_hash = operator_hash
        self.gateway: Gateway | None = None
        self.failure: Exception | None = None  # why start-up failed, for the command line to show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch one ASGI connection."""
        if scope["type"] == "http" and self.gateway is not None:
            await self._http(self.gateway, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def _http(self, gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if method == "POST" and (match := _SEALED.fullmatch(path)):
            await gateway.sealed(scope, receive, send, match.group(1))
        elif method == "GET" and (match := _EVIDENCE.fullmatch(path)):
            await gateway.evidence(scope, receive, send, match.group(1))
        elif path.startswith("/ledger/"):
            await gateway.ledger(scope, receive, send)
        elif path.startswith("/api/"):
            await gateway.operator(scope, receive, send)
        elif method == "GET" and path == "/healthz":
            await gateway.health.healthz(send)
        elif method == "GET" and path == "/readyz":
            await gateway.health.readyz(send)
        elif method == "GET" and path == "/metrics":
            await gateway.health.metrics(send)
        else:
            known = _SEALED.fullmatch(path) or _EVIDENCE.fullmatch(path) or path in ("/healthz", "/readyz", "/metrics")
            refusal = Refusal("unavailable", status=405 if known else 404)
            await send_refusal(receive, send, refusal, request_id(scope))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                gateway = Gateway(self._settings, self._database, self._operator_hash)
                try:
                    await gateway.start()
                except DatabaseError as exc:
                    self.failure = exc
                    await gateway.stop()
                    await send({"type": "lifespan.startup.failed", "message": exc.code})
                    return
                self.gateway = gateway
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self.gateway is not None:
                    await self.gateway.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return
