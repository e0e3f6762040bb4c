# SPDX-License-Identifier: Apache-2.0
"""Whole answers of the ledger and its problem documents, whose codes are stable."""

from __future__ import annotations

import json
from typing import Any

from teehouse_cloud.errors import ConflictError, DatabaseError, NotFoundError
from teehouse_cloud.gateway.asgi import Headers, Receive, Send, read_off
from teehouse_core.errors import MalformedError
from teehouse_core.wire.problem import PROBLEM_TYPE

__all__ = ["LedgerRefusal", "as_refusal", "send_answer", "send_ledger_refusal"]

NO_STORE = b"no-store, no-transform"


class LedgerRefusal(Exception):  # noqa: N818  an answer, not a fault
    """Ends a request with a problem document. `more` are members of it beyond those of every problem."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        hint: str | None = None,
        *,
        retry_after: int | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.retry_after = retry_after  # seconds
        self.more = more or {}


def as_refusal(exc: MalformedError | ConflictError | NotFoundError | DatabaseError) -> LedgerRefusal:
    """How an error of the store is told."""
    if isinstance(exc, ConflictError):
        more = {"size": exc.size} if exc.index is None else {"size": exc.size, "index": exc.index}
        return LedgerRefusal(409, exc.code, exc.message, exc.hint, more=more)
    if isinstance(exc, NotFoundError):
        return LedgerRefusal(404, exc.code, exc.message, exc.hint)
    if isinstance(exc, MalformedError):
        return LedgerRefusal(400, "malformed", exc.message, exc.hint)
    if exc.code == "storage-full":
        return LedgerRefusal(507, exc.code, exc.message, exc.hint, retry_after=10)
    return LedgerRefusal(503, exc.code, "the database does not answer", retry_after=1)


async def send_answer(send: Send, status: int, kind: bytes, body: bytes, cache: bytes = NO_STORE) -> None:
    """A complete answer of known length."""
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", cache),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_ledger_refusal(receive: Receive, send: Send, refusal: LedgerRefusal, *, body_ended: bool) -> None:
    """Answer a refusal, then read off a bounded rest of the request, so that the client can read why."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": refusal.code,
        "status": refusal.status,
        "code": refusal.code,
        "detail": refusal.detail,
        **refusal.more,
    }
    if refusal.hint:
        document["hint"] = refusal.hint
    body = json.dumps(document).encode()
    headers: Headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", NO_STORE),
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if not body_ended:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not body_ended})
    if not body_ended:
        await read_off(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
