# SPDX-License-Identifier: Apache-2.0
"""`/healthz` (the process lives), `/readyz` (it can serve), `/metrics`."""

from __future__ import annotations

from teehouse_cloud.errors import DatabaseError
from teehouse_cloud.gateway.asgi import Send, send_json, send_whole
from teehouse_cloud.gateway.fleet import READY, Fleet
from teehouse_cloud.gateway.metrics import METRICS_TYPE, Metrics
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.migrate import current_revision, head_revision

__all__ = ["HealthDoor"]


class HealthDoor:
    """Answers for probes and scrapers."""

    def __init__(self, database: Database, fleet: Fleet, metrics: Metrics) -> None:
        self._database = database
        self._fleet = fleet
        self._metrics = metrics
        self._head = head_revision()
        self.draining = False

    async def healthz(self, send: Send) -> None:
        """Alive: nothing is asked of anybody."""
        await send_json(send, 200, {"status": "ok"})

    async def readyz(self, send: Send) -> None:
        """200 when database and schema are in order, some node is ready and we are not shutting down; else 503."""
        try:
            revision: str | None = await current_revision(self._database)
        except DatabaseError:
            revision = None
        ready_nodes = sum(1 for node in self._fleet.nodes.values() if node.state == READY)
        report = {
            "database": revision is not None,
            "migrations": revision == self._head,
            "nodes_ready": ready_nodes,
            "nodes": len(self._fleet.nodes),
            "draining": self.draining,
        }
        ready = report["database"] and report["migrations"] and ready_nodes > 0 and not self.draining
        await send_json(send, 200 if ready else 503, {"ready": ready, **report})

    async def metrics(self, send: Send) -> None:
        """Prometheus text."""
        await send_whole(send, 200, METRICS_TYPE, self._metrics.render())
