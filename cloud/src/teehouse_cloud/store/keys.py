# SPDX-License-Identifier: Apache-2.0
"""API keys. The key is returned once by `create_key` and never stored: only SHA-256 of its 256 random bits is."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence

from sqlalchemy import select, update

from teehouse_cloud.errors import NotFoundError
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import ApiKey
from teehouse_core.wire.apikey import account_of, make_api_key

__all__ = ["ANY_ENDPOINT", "create_key", "get_key", "key_hash", "list_keys", "mark_used", "revoke_key"]

ANY_ENDPOINT = "*"  # in ApiKey.endpoints: every endpoint, now and later


def key_hash(api_key: str) -> bytes:
    """What is stored of a key: SHA-256, 32 bytes. The input has 256 bits of entropy, so no salt and no slow hash."""
    return hashlib.sha256(api_key.encode()).digest()


async def create_key(database: Database, label: str, endpoints: Sequence[str], now: int) -> tuple[str, ApiKey]:
    """Make a key; returns it (the only time it is seen) and its row."""
    api_key = make_api_key(secrets.token_bytes(40))
    row = ApiKey(
        account=account_of(api_key),
        secret_sha256=key_hash(api_key),
        label=label,
        endpoints=sorted(set(endpoints)),
        created_at=now,
        revoked_at=None,
        last_used=None,
    )
    async with database.session() as session:
        session.add(row)
    return api_key, row


async def get_key(database: Database, account: str) -> ApiKey | None:
    """The row of an account, also when revoked."""
    async with database.session() as session:
        return await session.get(ApiKey, account)


async def list_keys(database: Database) -> list[ApiKey]:
    """All keys, oldest first."""
    async with database.session() as session:
        return list((await session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.account))).all())


async def revoke_key(database: Database, account: str, now: int) -> ApiKey:
    """Revoke for good; the first time of revocation stays. Raises `NotFoundError` (key-unknown)."""
    async with database.session() as session:
        row = await session.get(ApiKey, account)
        if row is None:
            raise NotFoundError(f"there is no key of account {account}", code="key-unknown")
        if row.revoked_at is None:
            row.revoked_at = now
    return row


async def mark_used(database: Database, used: Mapping[str, int]) -> None:
    """Write the last-used times gathered since the last call."""
    async with database.session() as session:
        for account, when in sorted(used.items()):
            await session.execute(update(ApiKey).where(ApiKey.account == account).values(last_used=when))
