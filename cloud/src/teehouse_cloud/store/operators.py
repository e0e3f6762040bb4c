# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens of the operator API: "th-op-" and 43 base64url characters, of which only SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import select

from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import OperatorToken

__all__ = ["create_operator_token", "operator_hashes", "token_hash"]


def token_hash(token: str) -> bytes:
    """SHA-256 of a token, 32 bytes."""
    return hashlib.sha256(token.encode()).digest()


async def create_operator_token(database: Database, label: str, now: int) -> str:
    """Make a token and return it: the only time it is seen."""
    token = "th-op-" + secrets.token_urlsafe(32)
    async with database.session() as session:
        session.add(OperatorToken(token_sha256=token_hash(token), label=label, created_at=now))
    return token


async def operator_hashes(database: Database) -> list[bytes]:
    """Hashes of all tokens."""
    async with database.session() as session:
        return list((await session.scalars(select(OperatorToken.token_sha256))).all())
