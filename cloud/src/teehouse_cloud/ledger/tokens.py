# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens of the ledger: `th-lw-…` lets TKS write, `th-la-…` lets an auditor read one log. Stored as SHA-256."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

from sqlalchemy import select

from teehouse_cloud.errors import NotFoundError, SettingsError
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import LedgerToken

__all__ = [
    "ANY_LOG",
    "AUDIT",
    "LOG_NAME",
    "PUBLIC",
    "WRITER",
    "create_ledger_token",
    "find_ledger_token",
    "ledger_token_hash",
    "list_ledger_tokens",
    "revoke_ledger_token",
]

WRITER: Final = "writer"
AUDIT: Final = "audit"
ANY_LOG: Final = "*"
PUBLIC: Final = "public"  # the log that everybody may read
LOG_NAME: Final = re.compile(r"public|tenant-[A-Za-z0-9._-]{1,64}")
_PREFIX = {WRITER: "th-lw-", AUDIT: "th-la-"}


def ledger_token_hash(token: str) -> bytes:
    """SHA-256 of a token, 32 bytes. The input has 256 bits of entropy, so no salt and no slow hash."""
    return hashlib.sha256(token.encode()).digest()


async def create_ledger_token(database: Database, kind: str, log: str, label: str, now: int) -> tuple[str, LedgerToken]:
    """Make a token; returns it (the only time it is seen) and its row. The log need not exist yet.

    Raises `SettingsError`: an audit token is for one log.
    """
    if kind not in _PREFIX:
        raise SettingsError("a ledger token is writer or audit", code="ledger-token-kind")
    if not (LOG_NAME.fullmatch(log) or (log == ANY_LOG and kind == WRITER)):
        raise SettingsError(
            "not the name of a log", code="log-name", hint="public or tenant-<tenant id>; a writer may have *"
        )
    token = _PREFIX[kind] + secrets.token_urlsafe(32)
    row = LedgerToken(
        token_sha256=ledger_token_hash(token), kind=kind, log=log, label=label, created_at=now, revoked_at=None
    )
    async with database.session() as session:
        session.add(row)
    return token, row


async def find_ledger_token(database: Database, token_sha256: bytes) -> LedgerToken | None:
    """The row of a token that is not revoked."""
    query = select(LedgerToken).where(LedgerToken.token_sha256 == token_sha256, LedgerToken.revoked_at.is_(None))
    async with database.session() as session:
        return (await session.scalars(query)).one_or_none()


async def list_ledger_tokens(database: Database) -> list[LedgerToken]:
    """All tokens, oldest first."""
    async with database.session() as session:
        return list((await session.scalars(select(LedgerToken).order_by(LedgerToken.id))).all())


async def revoke_ledger_token(database: Database, token_id: int, now: int) -> LedgerToken:
    """Revoke for good; the first time of revocation stays. Raises `NotFoundError` (ledger-token-unknown)."""
    async with database.session() as session:
        row = await session.get(LedgerToken, token_id)
        if row is None:
            raise NotFoundError(f"there is no ledger token {token_id}", code="ledger-token-unknown")
        if row.revoked_at is None:
            row.revoked_at = now
    return row
