# SPDX-License-Identifier: Apache-2.0
"""What this process knows of the nodes, in memory: where they are, which keysets they hold, how busy we keep them.

Everything here is the nodes' own word. It decides where ciphertext is sent, never who can read it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from teehouse_cloud.store.database import Database
from teehouse_cloud.store.endpoints import list_endpoints
from teehouse_cloud.store.nodes import NEW, list_nodes

__all__ = ["DOWN", "DRAINING", "NOT_READY", "READY", "WRONG", "Fleet", "NodeView", "PoolPlace"]

READY = "ready"
NOT_READY = "not-ready"  # answers, and says no
DRAINING = "draining"
DOWN = "down"  # does not answer, or failed under a request
WRONG = "wrong-node"  # another node, or a node of another endpoint, answers at this URL


@dataclass(frozen=True, slots=True)
class PoolPlace:
    """Where an endpoint's pool is published, and whose it is (may be "")."""

    url: str
    tenant: str


@dataclass(slots=True)
class NodeView:
    """One registered node."""

    id: str
    endpoint: str
    url: str
    state: str = NEW
    keysets: frozenset[str] = frozenset()
    boot: str = ""
    in_flight: int = 0
    failures: int = 0  # polls failed in a row
    usage_boot: str = ""
    usage_after: int = 0
    usage_next: float = 0.0  # monotonic time of the next pull
    report_next: float = 0.0  # monotonic time of the next report fetch
    reported: frozenset[str] = frozenset()  # keysets when the stored report was fetched
    written: tuple[object, ...] = field(default=(), repr=False)  # what the database row last got
    written_at: float = 0.0


class Fleet:
    """Endpoints and nodes of the database, with live state."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.nodes: dict[str, NodeView] = {}
        self.endpoints: frozenset[str] = frozenset()
        self.pools: dict[str, PoolPlace] = {}
        self._read_at = 0.0
        self._reading = asyncio.Lock()  # an older reading must not overwrite a newer one

    async def refresh(self) -> None:
        """Take over what the database lists; live state of nodes that did not move is kept."""
        async with self._reading:
            await self._refresh()

    async def _refresh(self) -> None:
        self._read_at = time.monotonic()
        endpoints = await list_endpoints(self._database)
        rows = await list_nodes(self._database)
        self.endpoints = frozenset(row.id for row in endpoints)
        self.pools = {row.id: PoolPlace(row.tks_url, row.tks_tenant or "") for row in endpoints if row.tks_url}
        nodes: dict[str, NodeView] = {}
        for row in rows:
            known = self.nodes.get(row.id)
            if known is not None and (known.endpoint, known.url) == (row.endpoint, row.url):
                nodes[row.id] = known
            else:
                nodes[row.id] = NodeView(
                    row.id, row.endpoint, row.url, usage_boot=row.usage_boot, usage_after=row.usage_after
                )
        self.nodes = nodes

    async def has_endpoint(self, endpoint: str) -> bool:
        """Whether the endpoint exists; an unknown one is looked up at most a few times a second."""
        if endpoint not in self.endpoints and time.monotonic() - self._read_at > 0.25:
            await self.refresh()
        return endpoint in self.endpoints

    def of(self, endpoint: str) -> list[NodeView]:
        """All nodes of an endpoint."""
        return [node for node in self.nodes.values() if node.endpoint == endpoint]

    def ready(self, endpoint: str) -> list[NodeView]:
        """Ready nodes of an endpoint, least busy first."""
        return sorted((n for n in self.of(endpoint) if n.state == READY), key=lambda n: n.in_flight)

    def holders(self, endpoint: str, keysets: Iterable[str]) -> list[NodeView]:
        """Ready nodes that hold one of `keysets`, least busy first; among equals the client's order."""
        ready = self.ready(endpoint)
        found: dict[str, NodeView] = {}
        for keyset in keysets:
            for node in ready:
                if keyset in node.keysets:
                    found.setdefault(node.id, node)
        return sorted(found.values(), key=lambda n: n.in_flight)

    def known_holder(self, endpoint: str, keysets: Iterable[str]) -> bool:
        """Whether any registered node, ready or not, was last seen with one of `keysets`."""
        wanted = set(keysets)
        return any(wanted & node.keysets for node in self.of(endpoint))
