# SPDX-License-Identifier: Apache-2.0
"""Queries over registered nodes. What a node says of itself is stored as it said it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select, update

from teehouse_cloud.errors import NotFoundError
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import Endpoint, Node, NodeReport

__all__ = ["NEW", "delete_node", "get_node", "list_nodes", "put_node", "update_node"]

NEW = "new"  # state of a node that has not been polled since it was registered


async def put_node(database: Database, node: str, endpoint: str, url: str, now: int) -> tuple[Node, bool]:
    """Register a node or move it; returns the row and whether it is new. Raises `NotFoundError` (endpoint-unknown)."""
    async with database.session() as session:
        if await session.get(Endpoint, endpoint) is None:
            raise NotFoundError(
                f"there is no endpoint {endpoint}",
                code="endpoint-unknown",
                hint="create it first: teehouse-cloud endpoint put",
            )
        row = await session.get(Node, node)
        created = row is None
        if row is None:
            row = Node(id=node, created_at=now, last_seen=None)
            session.add(row)
        if created or (row.endpoint, row.url) != (endpoint, url):
            row.endpoint, row.url, row.state = endpoint, url, NEW
            row.boot, row.keysets, row.usage_boot, row.usage_after = "", [], "", 0
    return row, created


async def get_node(database: Database, node: str) -> Node:
    """One node. Raises `NotFoundError` (node-unknown)."""
    async with database.session() as session:
        row = await session.get(Node, node)
    if row is None:
        raise NotFoundError(f"there is no node {node}", code="node-unknown")
    return row


async def list_nodes(database: Database) -> list[Node]:
    """All nodes by id."""
    async with database.session() as session:
        return list((await session.scalars(select(Node).order_by(Node.id))).all())


async def delete_node(database: Database, node: str) -> None:
    """Forget a node and its report. Raises `NotFoundError` (node-unknown)."""
    async with database.session() as session:
        await session.execute(delete(NodeReport).where(NodeReport.node == node))
        result = await session.execute(delete(Node).where(Node.id == node).returning(Node.id))
        if result.scalar_one_or_none() is None:
            raise NotFoundError(f"there is no node {node}", code="node-unknown")


async def update_node(database: Database, node: str, **values: Any) -> None:
    """Set columns of one node; a node deleted meanwhile is no error."""
    async with database.session() as session:
        await session.execute(update(Node).where(Node.id == node).values(**values))
