# SPDX-License-Identifier: Apache-2.0
"""Who may do what with which log. A log that a token is not for looks like one that does not exist."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from teehouse_cloud.gateway.asgi import Scope, header
from teehouse_cloud.gateway.limits import RateLimit
from teehouse_cloud.ledger.answers import LedgerRefusal
from teehouse_cloud.ledger.tokens import ANY_LOG, PUBLIC, WRITER, find_ledger_token, ledger_token_hash
from teehouse_cloud.store.database import Database

__all__ = ["LedgerGuard"]

MAX_CACHED = 10_000  # tokens, good and bad together; about 3 MiB
MAX_TOKEN = 256  # bytes of an Authorization value


@dataclass(frozen=True, slots=True)
class _Row:
    kind: str  # "" for a token that nobody was given
    log: str
    fresh_until: float


class LedgerGuard:
    """Authenticates bearer tokens against the database; a row is believed for `cache_seconds`."""

    def __init__(self, database: Database, *, cache_seconds: float, failure_rpm: int, open_rpm: int) -> None:
        self._database = database
        self._cache_seconds = cache_seconds
        self._failures = RateLimit(failure_rpm)
        self._open = RateLimit(open_rpm)
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()

    async def may_read(self, scope: Scope, log: str) -> None:
        """Raises `LedgerRefusal`: 401, 404 for a log that the token is not for, 429."""
        if log == PUBLIC and header(scope, b"authorization") is None:
            if wait := self._open.hit(_address(scope)):
                raise LedgerRefusal(429, "over-limit", "too many requests from this address", retry_after=wait)
            return
        row = await self._authenticate(scope)
        if log != PUBLIC and row.log not in (log, ANY_LOG):
            raise LedgerRefusal(404, "log-unknown", "there is no such log")

    async def may_write(self, scope: Scope, log: str) -> None:
        """Raises `LedgerRefusal`: 401, 403 for a token that only reads, 404, 429."""
        row = await self._authenticate(scope)
        if row.log not in (log, ANY_LOG):
            raise LedgerRefusal(404, "log-unknown", "there is no such log")
        if row.kind != WRITER:
            raise LedgerRefusal(403, "ledger-token-kind", "this token only reads", "TKS has a token of kind writer")

    def forget(self) -> None:
        """Look again at the next request: a token was revoked or made just now."""
        self._rows.clear()

    async def _authenticate(self, scope: Scope) -> _Row:
        address = _address(scope)
        value = header(scope, b"authorization") or b""
        scheme, _, token = value.partition(b" ")
        if scheme.lower() != b"bearer" or not token or len(value) > MAX_TOKEN:
            raise self._failed(address)
        digest = ledger_token_hash(token.strip().decode("latin-1"))
        row = self._rows.get(digest)
        if row is None or row.fresh_until < time.monotonic():
            if wait := self._failures.exhausted(address):
                raise LedgerRefusal(429, "over-limit", "too many failed attempts", retry_after=wait)
            row = await self._load(digest)
        if not row.kind:
            raise self._failed(address)
        return row

    async def _load(self, digest: bytes) -> _Row:
        # Found by its hash in an index: how long that takes says nothing about a token of 256 random bits.
        stored = await find_ledger_token(self._database, digest)
        fresh_until = time.monotonic() + self._cache_seconds
        row = _Row(stored.kind, stored.log, fresh_until) if stored else _Row("", "", fresh_until)
        self._rows[digest] = row
        self._rows.move_to_end(digest)
        while len(self._rows) > MAX_CACHED:
            self._rows.popitem(last=False)
        return row

    def _failed(self, address: str) -> LedgerRefusal:
        if wait := self._failures.hit(address):
            return LedgerRefusal(429, "over-limit", "too many failed attempts", retry_after=wait)
        return LedgerRefusal(401, "ledger-token", "no valid ledger token", "Authorization: Bearer th-la-…")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""
