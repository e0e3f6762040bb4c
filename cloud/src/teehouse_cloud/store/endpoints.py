# SPDX-License-Identifier: Apache-2.0
"""Queries over inference endpoints."""

from __future__ import annotations

from sqlalchemy import select

from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import Endpoint

__all__ = ["list_endpoints", "put_endpoint"]


async def put_endpoint(
    database: Database, endpoint: str, name: str, now: int, *, tks_url: str = "", tks_tenant: str = ""
) -> tuple[Endpoint, bool]:
    """Create or change; returns the row and whether it is new. Without `tks_url` the endpoint has no pool."""
    async with database.session() as session:
        row = await session.get(Endpoint, endpoint)
        created = row is None
        if row is None:
            row = Endpoint(id=endpoint, name=name, created_at=now)
            session.add(row)
        row.name, row.tks_url, row.tks_tenant = name, tks_url or None, tks_tenant or None
    return row, created


async def list_endpoints(database: Database) -> list[Endpoint]:
    """All endpoints by id."""
    async with database.session() as session:
        return list((await session.scalars(select(Endpoint).order_by(Endpoint.id))).all())
