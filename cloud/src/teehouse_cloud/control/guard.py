# SPDX-License-Identifier: Apache-2.0
"""In front of the operator API: nothing of a request is parsed before its token is known; bodies are bounded."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterable

from teehouse_cloud.errors import DatabaseError
from teehouse_cloud.gateway.asgi import Message, Receive, Scope, Send, header, send_whole
from teehouse_cloud.gateway.limits import RateLimit
from teehouse_cloud.logs import get_logger
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.operators import operator_hashes, token_hash
from teehouse_core.wire.problem import PROBLEM_TYPE

__all__ = ["OperatorGuard", "problem"]

MAX_BODY = 64 * 1024  # bytes of an operator request
CACHE_SECONDS = 5.0  # how long the list of token hashes is believed


def problem(status: int, code: str, detail: str, hint: str | None = None) -> bytes:
    """A problem document (RFC 9457) of the operator API."""
    document: dict[str, str | int] = {"type": "about:blank", "title": code, "status": status, "code": code}
    document["detail"] = detail
    if hint:
        document["hint"] = hint
    return json.dumps(document).encode()


class OperatorGuard:
    """Wraps an ASGI application."""

    def __init__(self, app: object, database: Database, file_hash: bytes | None, failure_rpm: int) -> None:
        self._app = app
        self._database = database
        self._file_hash = file_hash
        self._failures = RateLimit(failure_rpm)
        self._hashes: list[bytes] = []
        self._fresh_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what comes from the operator."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        try:
            known = await self._is_operator(header(scope, b"authorization") or b"")
        except DatabaseError as exc:
            get_logger().error("database-failed", code=exc.code)
            await _send(send, problem(503, exc.code, "the database does not answer"), 503)
            return
        if not known:
            if wait := self._failures.hit(address):
                extra = [(b"retry-after", str(wait).encode())]
                await _send(send, problem(429, "over-limit", "too many failed attempts"), 429, extra)
                return
            extra = [(b"www-authenticate", b"Bearer")]
            body = problem(401, "operator-token", "no valid operator token", "Authorization: Bearer th-op-…")
            await _send(send, body, 401, extra)
            return
        length = header(scope, b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 9 or int(length) > MAX_BODY):
            await _send(send, problem(413, "too-large", f"a request has at most {MAX_BODY} bytes"), 413)
            return
        await self._app(scope, _bounded(receive), send)  # type: ignore[operator]

    async def _is_operator(self, value: bytes) -> bool:
        scheme, _, token = value.partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            return False
        now = time.monotonic()
        if now >= self._fresh_until:
            self._hashes = await operator_hashes(self._database)
            self._fresh_until = now + CACHE_SECONDS
        given = token_hash(token.strip().decode("latin-1"))
        accepted = [*self._hashes, *([self._file_hash] if self._file_hash else [])]
        matches = [hmac.compare_digest(given, one) for one in accepted]  # no early exit
        return any(matches)


async def _send(send: Send, body: bytes, status: int, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await send_whole(send, status, PROBLEM_TYPE.encode(), body, [*extra, (b"connection", b"close")])


def _bounded(receive: Receive) -> Receive:
    """A receive that ends a body which grows beyond MAX_BODY by reporting the client gone."""
    left = MAX_BODY

    async def read() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return message if left >= 0 else {"type": "http.disconnect"}

    return read
