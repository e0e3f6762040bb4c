# SPDX-License-Identifier: Apache-2.0
"""`/ledger/v1/{log}/…`: the HTTP surface of the ledger, bare ASGI.

    GET  (nothing)                  {"log", "size", "checkpoint_size"}                                      reader
    POST entries                    {"first", "entries": [{"leaf", "opening", "private"}]} -> {"size"}      writer
    GET  entries?after=&limit=&op=  {"entries": [{"index", "leaf", "opening"}], "next", "size"}             reader
    GET  records?after=&limit=      {"records": [{"index", "leaf", "opening", "private"}], "next", "size"}  writer
    PUT  checkpoint, GET checkpoint a signed note                                                    writer, reader
    GET  tile/<L>/<N>[.p/<W>], tile/entries/<N>[.p/<W>]     C2SP tlog-tiles                                 reader
    PUT, GET, DELETE snapshots/<name>                       bytes                                           writer

`GET /ledger/v1` lists all logs to a writer of all logs: {"logs": [{"log", "size", "checkpoint_size"}]}.

`after` is a position: rows from it on, 0 (the default) for all. `next` is the `after` of the page that follows, null
when there was nothing more; then `size` is where to go on later. A reader holds an audit token of the log, or the
writer's; the log `public` is open to everybody.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable

from teehouse_cloud.errors import ClientGone, ConflictError, DatabaseError, NotFoundError
from teehouse_cloud.gateway.asgi import Receive, Scope, Send
from teehouse_cloud.ledger.answers import LedgerRefusal, as_refusal, send_answer, send_ledger_refusal
from teehouse_cloud.ledger.checkpoints import MAX_NOTE, get_checkpoint, put_checkpoint
from teehouse_cloud.ledger.entries import FILTERS, Page, append, get_log, list_logs, read_page
from teehouse_cloud.ledger.forms import (
    MAX_APPEND,
    THREAD_BYTES,
    Body,
    cursor_of,
    filters_of,
    parse_append,
    parse_query,
)
from teehouse_cloud.ledger.guard import LedgerGuard
from teehouse_cloud.ledger.metrics import LedgerMetrics
from teehouse_cloud.ledger.snapshots import MAX_SNAPSHOT, delete_snapshot, get_snapshot, put_snapshot
from teehouse_cloud.ledger.tiles import read_bundle, read_tile
from teehouse_cloud.ledger.tokens import ANY_LOG, LOG_NAME, PUBLIC
from teehouse_cloud.logs import get_logger
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import LedgerLog
from teehouse_core.errors import MalformedError
from teehouse_core.log.tiles import ENTRIES, parse_path
from teehouse_core.wire.canonical import b64u

__all__ = ["LedgerDoor"]

PAGE, MAX_PAGE = 100, 1000  # rows of a page unless asked otherwise, and at most
MAX_RECORDS = 4096  # rows of a page of records: TKS reads its whole log at start
READS, WRITES = 8, 4  # calls at work at once; each may hold some 40 MiB, the rest wait
FOREVER = 365 * 24 * 3600  # seconds a tile may be cached: its hashes never change
MOMENT = 5  # seconds a checkpoint may be cached
JSON = b"application/json"
OCTETS = b"application/octet-stream"
TEXT = b"text/plain; charset=utf-8"
_ALL = "/ledger/v1"
_PATH = re.compile(
    r"/ledger/v1/([A-Za-z0-9._-]{1,80})(?:/(entries|records|checkpoint|tile|snapshots)(?:/(.{1,128}))?)?"
)
_SNAPSHOT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PARTED = frozenset({"tile", "snapshots"})  # what has a further path behind it
_METHODS = {
    "": {"GET"},
    "entries": {"GET", "POST"},
    "records": {"GET"},
    "checkpoint": {"GET", "PUT"},
    "tile": {"GET"},
    "snapshots": {"GET", "PUT", "DELETE"},
}


class LedgerDoor:
    """Bare ASGI callable for every path below `/ledger/`."""

    def __init__(self, database: Database, guard: LedgerGuard, metrics: LedgerMetrics, body_seconds: float) -> None:
        self._database = database
        self._guard = guard
        self._metrics = metrics
        self._body_seconds = body_seconds
        self._reads = asyncio.Semaphore(READS)
        self._writes = asyncio.Semaphore(WRITES)
        self._routes: dict[tuple[str, str], Callable[[_Call], Awaitable[None]]] = {
            ("GET", ""): self._about,
            ("GET", "logs"): self._logs,
            ("POST", "entries"): self._append,
            ("GET", "entries"): self._entries,
            ("GET", "records"): self._records,
            ("GET", "checkpoint"): self._get_checkpoint,
            ("PUT", "checkpoint"): self._put_checkpoint,
            ("GET", "tile"): self._tile,
            ("GET", "snapshots"): self._get_snapshot,
            ("PUT", "snapshots"): self._put_snapshot,
            ("DELETE", "snapshots"): self._delete_snapshot,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every outcome is counted once."""
        body = Body(receive)
        body.ended = scope["method"] == "GET"
        noun, status = "none", 200
        try:
            try:
                call = _route(scope, body, send)
                noun = call.noun or "log"
                await self._routes[scope["method"], call.noun](call)
            except (MalformedError, ConflictError, NotFoundError, DatabaseError) as exc:
                if isinstance(exc, DatabaseError):
                    get_logger().error("database-failed", code=exc.code)
                raise as_refusal(exc) from None
        except LedgerRefusal as refusal:
            status = refusal.status
            await send_ledger_refusal(receive, send, refusal, body_ended=body.ended)
        except ClientGone:
            status = 499
        finally:
            self._metrics.requests.labels(scope["method"] if noun != "none" else "", noun, str(status)).inc()

    async def _about(self, call: _Call) -> None:
        await self._guard.may_read(call.scope, call.log)
        row = await get_log(self._database, call.log)
        await call.json(_about(row))

    async def _logs(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, ANY_LOG)
        await call.json({"logs": [_about(row) for row in await list_logs(self._database)]})

    async def _append(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, call.log)
        started = time.monotonic()
        async with self._writes:
            raw = await call.body.read(call.scope, MAX_APPEND, self._body_seconds)
            first, entries = await parse_append(raw)
            size, new = await append(self._database, call.log, first, entries, int(time.time()))
        self._metrics.appended.inc(new)
        self._metrics.append_seconds.observe(time.monotonic() - started)
        await call.json({"size": size})

    async def _entries(self, call: _Call) -> None:
        await self._guard.may_read(call.scope, call.log)
        query = parse_query(call.scope, ("after", "limit", *FILTERS))
        after, limit = cursor_of(query, usual=PAGE, most=MAX_PAGE)
        async with self._reads:
            page = await read_page(self._database, call.log, after=after, limit=limit, only=filters_of(query))
            await call.json_bytes(await _document("entries", page, private=False))

    async def _records(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, call.log)
        query = parse_query(call.scope, ("after", "limit"))
        after, limit = cursor_of(query, usual=MAX_PAGE, most=MAX_RECORDS)
        async with self._reads:
            page = await read_page(self._database, call.log, after=after, limit=limit, only={}, private=True)
            await call.json_bytes(await _document("records", page, private=True))

    async def _get_checkpoint(self, call: _Call) -> None:
        await self._guard.may_read(call.scope, call.log)
        note = await get_checkpoint(self._database, call.log)
        await call.send(TEXT, note, call.cache(MOMENT))

    async def _put_checkpoint(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, call.log)
        note = await call.body.read(call.scope, MAX_NOTE, self._body_seconds)
        await call.json({"size": await put_checkpoint(self._database, call.log, note, int(time.time()))})

    async def _tile(self, call: _Call) -> None:
        await self._guard.may_read(call.scope, call.log)
        path = parse_path(f"tile/{call.rest}")
        async with self._reads:
            if path.level == ENTRIES:
                data = await read_bundle(self._database, call.log, path.index, path.width)
            else:
                data = await read_tile(self._database, call.log, path.level, path.index, path.width)
            await call.send(OCTETS, data, call.cache(FOREVER))

    async def _get_snapshot(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, call.log)
        async with self._reads:
            await call.send(OCTETS, await get_snapshot(self._database, call.log, call.rest))

    async def _put_snapshot(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, call.log)
        async with self._writes:
            data = await call.body.read(call.scope, MAX_SNAPSHOT, self._body_seconds)
            await put_snapshot(self._database, call.log, call.rest, data, int(time.time()))
        await call.json({"bytes": len(data)})

    async def _delete_snapshot(self, call: _Call) -> None:
        await self._guard.may_write(call.scope, call.log)
        await call.body.read(call.scope, 0, self._body_seconds)
        await delete_snapshot(self._database, call.log, call.rest)
        await call.json({})


class _Call:
    """One request, taken apart."""

    def __init__(self, scope: Scope, body: Body, send: Send, log: str, noun: str, rest: str) -> None:
        self.scope = scope
        self.body = body
        self._send = send
        self.log = log
        self.noun = noun
        self.rest = rest

    def cache(self, seconds: int) -> bytes:
        """A tenant's log may be kept by the reader's own cache, the public one by any."""
        who = "public" if self.log == PUBLIC else "private"
        return f"{who}, max-age={seconds}{', immutable' if seconds == FOREVER else ''}, no-transform".encode()

    async def send(self, kind: bytes, body: bytes, cache: bytes | None = None) -> None:
        await send_answer(self._send, 200, kind, body, *([cache] if cache else []))

    async def json(self, value: dict[str, object]) -> None:
        await self.json_bytes(json.dumps(value, separators=(",", ":")).encode())

    async def json_bytes(self, body: bytes) -> None:
        await self.send(JSON, body)


def _route(scope: Scope, body: Body, send: Send) -> _Call:
    """Raises `LedgerRefusal` 404, 405."""
    if scope["path"] == _ALL and scope["method"] == "GET":
        return _Call(scope, body, send, ANY_LOG, "logs", "")
    match = _PATH.fullmatch(scope["path"])
    log, noun, rest = (part or "" for part in match.groups()) if match else ("", "", "")
    if match is None or (noun in _PARTED) != bool(rest) or (noun == "snapshots" and not _SNAPSHOT.fullmatch(rest)):
        raise LedgerRefusal(404, "not-found", "there is no such path")
    if scope["method"] not in _METHODS[noun]:
        raise LedgerRefusal(405, "method-not-allowed", "this path has no such method")
    if not LOG_NAME.fullmatch(log):
        raise LedgerRefusal(404, "log-unknown", "there is no such log", "public or tenant-<tenant id>")
    return _Call(scope, body, send, log, noun, rest)


def _about(row: LedgerLog) -> dict[str, object]:
    return {"log": row.name, "size": row.size, "checkpoint_size": row.checkpoint_size}


async def _document(noun: str, page: Page, *, private: bool) -> bytes:
    """The JSON of a page; a large one is written beside the event loop."""
    if sum(len(row.leaf) + len(row.private) for row in page.rows) > THREAD_BYTES:
        return await asyncio.to_thread(_write, noun, page, private)
    return _write(noun, page, private)


def _write(noun: str, page: Page, private: bool) -> bytes:
    rows = []
    for row in page.rows:
        # an opening is JSON text that was checked when it came: it goes out as it is stored
        opening = row.opening if row.opening is not None else "null"
        secret = f',"private":"{b64u(row.private)}"' if private else ""
        rows.append(f'{{"index":{row.index},"leaf":"{b64u(row.leaf)}","opening":{opening}{secret}}}')
    following = "null" if page.next is None else str(page.next)
    return f'{{"{noun}":[{",".join(rows)}],"next":{following},"size":{page.size}}}'.encode()
