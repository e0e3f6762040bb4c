# SPDX-License-Identifier: Apache-2.0
"""Usage records as nodes signed them. Stored once per (account, th): a repeated one changes nothing.

The signature is kept, not checked: this wheel holds no cipher. Whoever audits a bill checks it against the keyset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, update

from teehouse_cloud.store.database import Database, insert_new
from teehouse_cloud.store.models import Node, UsageRecord
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.receipts import UsageRecord as WireRecord

__all__ = ["SignedUsage", "list_usage", "store_usage"]


@dataclass(frozen=True, slots=True)
class SignedUsage:
    """One record as pulled: its parsed members, its bytes and the signature over them (not checked)."""

    parsed: WireRecord
    record: bytes
    sig: bytes


async def store_usage(
    database: Database,
    *,
    node: str,
    endpoint: str,
    boot: str,
    after: int,
    records: Sequence[SignedUsage],
    now: int,
) -> None:
    """Store what is new of `records` and the cursor (`boot`, `after`) in one transaction."""
    rows = [
        {
            "account": item.parsed.account,
            "request_id": item.parsed.request_id,
            "th": b64u(item.parsed.th),
            "kid": item.parsed.kid,
            "keyset_sha256": item.parsed.keyset_sha256,
            "node": node,
            "endpoint": endpoint,
            "input_tokens": item.parsed.usage.input_tokens,
            "output_tokens": item.parsed.usage.output_tokens,
            "cached_tokens": item.parsed.usage.cached_tokens,
            "status": item.parsed.status,
            "finished_at": item.parsed.finished_at,
            "record": item.record,
            "sig": item.sig,
            "received_at": now,
        }
        for item in records
    ]
    async with database.session() as session:
        if rows:
            await (await session.connection()).execute(insert_new(database, UsageRecord), rows)
        await session.execute(update(Node).where(Node.id == node).values(usage_boot=boot, usage_after=after))


async def list_usage(database: Database, *, after: int, limit: int, account: str | None = None) -> list[UsageRecord]:
    """Up to `limit` records with an id above `after`, oldest first."""
    query = select(UsageRecord).where(UsageRecord.id > after).order_by(UsageRecord.id).limit(limit)
    if account is not None:
        query = query.where(UsageRecord.account == account)
    async with database.session() as session:
        return list((await session.scalars(query)).all())
