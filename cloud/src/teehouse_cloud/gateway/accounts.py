# SPDX-License-Identifier: Apache-2.0
"""Who a request is from. A key's row is remembered for a few seconds, so a stream of requests costs no query each."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass

from teehouse_cloud.gateway.asgi import Refusal, Scope, header
from teehouse_cloud.gateway.limits import RateLimit
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.keys import ANY_ENDPOINT, get_key, key_hash, mark_used
from teehouse_core.errors import LocalError
from teehouse_core.wire.apikey import account_of

__all__ = ["Account", "Accounts"]

MAX_CACHED = 10_000  # rows, known and unknown together; about 5 MiB
_NOBODY = bytes(32)  # compared against when there is no such account; SHA-256 of no key that anybody has


@dataclass(frozen=True, slots=True)
class Account:
    """An authenticated API key."""

    id: str
    endpoints: frozenset[str]

    def may_use(self, endpoint: str) -> bool:
        """Whether the key opens this endpoint."""
        return endpoint in self.endpoints or ANY_ENDPOINT in self.endpoints


@dataclass(frozen=True, slots=True)
class _Row:
    secret_sha256: bytes
    account: Account | None  # None: unknown or revoked
    fresh_until: float


class Accounts:
    """Authenticates bearer keys against the database."""

    def __init__(self, database: Database, *, cache_seconds: float, failure_rpm: int) -> None:
        self._database = database
        self._cache_seconds = cache_seconds
        self._failures = RateLimit(failure_rpm)
        self._rows: OrderedDict[str, _Row] = OrderedDict()
        self._used: dict[str, int] = {}

    async def authenticate(self, scope: Scope) -> Account:
        """The account of the request's bearer key. Raises `Refusal` 401 or, after many failures, 429."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        value = header(scope, b"authorization")
        if not value:
            raise self._failed(address, "api-key-missing")
        scheme, _, key_bytes = value.partition(b" ")
        try:
            key = key_bytes.strip().decode("ascii")
            account_id = account_of(key)
        except (UnicodeDecodeError, LocalError):
            raise self._failed(address, "api-key-unknown") from None
        if scheme.lower() != b"bearer":
            raise self._failed(address, "api-key-missing")
        row = self._rows.get(account_id)
        if row is None or row.fresh_until < time.monotonic():
            if wait := self._failures.exhausted(address):
                raise Refusal("over-limit", retry_after=wait)
            row = await self._load(account_id)
        # The comparison runs also for nobody, so time does not tell which accounts exist.
        if not hmac.compare_digest(key_hash(key), row.secret_sha256) or row.account is None:
            raise self._failed(address, "api-key-unknown")
        self._used[account_id] = int(time.time())
        return row.account

    def forget(self, account_id: str) -> None:
        """Look again at the next request: the key was revoked or made just now."""
        self._rows.pop(account_id, None)

    async def flush_used(self) -> None:
        """Write last-used times to the database."""
        if self._used:
            used, self._used = self._used, {}
            await mark_used(self._database, used)

    async def _load(self, account_id: str) -> _Row:
        stored = await get_key(self._database, account_id)
        fresh_until = time.monotonic() + self._cache_seconds
        if stored is None:
            row = _Row(_NOBODY, None, fresh_until)
        elif stored.revoked_at is not None:
            row = _Row(stored.secret_sha256, None, fresh_until)
        else:
            row = _Row(stored.secret_sha256, Account(account_id, frozenset(stored.endpoints)), fresh_until)
        self._rows[account_id] = row
        self._rows.move_to_end(account_id)
        while len(self._rows) > MAX_CACHED:
            self._rows.popitem(last=False)
        return row

    def _failed(self, address: str, reason: str) -> Refusal:
        if wait := self._failures.hit(address):
            return Refusal("over-limit", retry_after=wait)
        return Refusal("unavailable", status=401, reason=reason)
