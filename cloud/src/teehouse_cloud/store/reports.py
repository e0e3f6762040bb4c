# SPDX-License-Identifier: Apache-2.0
"""The newest evidence bundle of each node, byte for byte. Nothing here judges it."""

from __future__ import annotations

import hashlib

from teehouse_cloud.errors import NotFoundError
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.models import Node, NodeReport

__all__ = ["get_report", "store_report"]


async def store_report(database: Database, node: str, bundle: bytes, keyset_sha256: str, now: int) -> None:
    """Replace the node's newest report; a node deleted meanwhile is no error."""
    async with database.session() as session:
        if await session.get(Node, node) is None:
            return
        row = await session.get(NodeReport, node)
        if row is None:
            row = NodeReport(node=node)
            session.add(row)
        row.bundle, row.keyset_sha256, row.fetched_at = bundle, keyset_sha256, now
        row.bundle_sha256 = hashlib.sha256(bundle).hexdigest()


async def get_report(database: Database, node: str) -> NodeReport:
    """The newest report. Raises `NotFoundError` (node-unknown, report-unknown)."""
    async with database.session() as session:
        if await session.get(Node, node) is None:
            raise NotFoundError(f"there is no node {node}", code="node-unknown")
        row = await session.get(NodeReport, node)
    if row is None:
        raise NotFoundError(f"no report of node {node} is stored yet", code="report-unknown", hint="is the node ready?")
    return row
