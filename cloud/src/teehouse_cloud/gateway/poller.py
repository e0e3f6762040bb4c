# SPDX-License-Identifier: Apache-2.0
"""Keeps `Fleet` true: asks every node about once a second how it is, and writes what changed to the database."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from teehouse_cloud.errors import DatabaseError, UpstreamFailed
from teehouse_cloud.gateway.fleet import DOWN, DRAINING, NOT_READY, READY, WRONG, Fleet, NodeView
from teehouse_cloud.gateway.harvest import Harvest
from teehouse_cloud.gateway.metrics import Metrics
from teehouse_cloud.gateway.outbound import get_json
from teehouse_cloud.logs import get_logger
from teehouse_cloud.settings import Settings
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.nodes import update_node
from teehouse_core.wire.fields import HEX64

__all__ = ["Poller"]

MAX_HEALTH = 64 * 1024  # bytes of a /readyz answer
MAX_KEYSETS = 64  # keysets a node may hold at once; two is usual (one active, one in its last minutes)
MISSES_UNTIL_DOWN = 2  # polls without an answer in time; a refused connection counts at once
SEEN_WRITE_SECONDS = 15.0  # last_seen in the database is this exact
MIN_POLL_NOW_SECONDS = 0.3  # pause between polls forced by requests, so that bad requests cannot flood the nodes


class Poller:
    """Runs until `stop`."""

    def __init__(
        self, settings: Settings, database: Database, fleet: Fleet, session: aiohttp.ClientSession, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._database = database
        self._fleet = fleet
        self._session = session
        self._metrics = metrics
        self._harvest = Harvest(settings, database, session, metrics)
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._harvests: dict[str, asyncio.Task[None]] = {}
        self._forced: dict[str, float] = {}
        self._loop_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the registry, ask every node once, then go on in the background."""
        await self._fleet.refresh()
        await self._poll_all(list(self._fleet.nodes.values()))
        self._loop_task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop asking; what runs is cancelled."""
        tasks = [*self._polls.values(), *self._harvests.values()]
        if self._loop_task is not None:
            tasks.append(self._loop_task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def poll_now(self, endpoint: str) -> None:
        """Ask the endpoint's nodes at once, because a request names a keyset that none of them is known to hold."""
        now = time.monotonic()
        if now - self._forced.get(endpoint, 0.0) >= MIN_POLL_NOW_SECONDS:
            self._forced[endpoint] = now
            await self._fleet.refresh()
            await self._poll_all(self._fleet.of(endpoint))

    def suspect(self, node: NodeView) -> None:
        """A request just failed on this node: use it no more until it has answered a poll, which starts now."""
        if node.state == READY:
            node.state = DOWN
            self._count_ready()
            self._start_poll(node)

    async def changed(self) -> None:
        """The registry was changed through this process: take it over without waiting for the next round."""
        await self._fleet.refresh()
        await self._poll_all([node for node in self._fleet.nodes.values() if node.state == "new"])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                await self._fleet.refresh()
            except DatabaseError as exc:
                get_logger().error("registry-read-failed", code=exc.code)  # go on with what is known
            for node in self._fleet.nodes.values():
                self._start_poll(node)
            self._count_ready()

    async def _poll_all(self, nodes: list[NodeView]) -> None:
        await asyncio.gather(*(asyncio.shield(self._start_poll(node)) for node in nodes), return_exceptions=True)
        self._count_ready()

    def _start_poll(self, node: NodeView) -> asyncio.Task[None]:
        task = self._polls.get(node.id)
        if task is None or task.done():
            task = self._polls[node.id] = asyncio.create_task(self._poll(node))
        return task

    async def _poll(self, node: NodeView) -> None:
        before = node.state
        try:
            status, answer = await get_json(
                self._session,
                f"{node.url}/readyz",
                limit=MAX_HEALTH,
                seconds=self._settings.poll_timeout_seconds,
            )
        except UpstreamFailed as exc:
            node.failures += 1
            if exc.code != "timeout" or node.failures >= MISSES_UNTIL_DOWN:
                node.state = DOWN
        else:
            node.failures = 0
            _take_over(node, status, answer)
            self._start_harvest(node)
        if node.state != before:
            get_logger().info("node-state", node=node.id, endpoint=node.endpoint, state=node.state, was=before)
        self._count_ready()
        try:
            await self._write(node)
        except DatabaseError as exc:
            get_logger().error("node-write-failed", node=node.id, code=exc.code)

    def _start_harvest(self, node: NodeView) -> None:
        task = self._harvests.get(node.id)
        if node.state in (READY, DRAINING) and (task is None or task.done()) and self._harvest.due(node):
            self._harvests[node.id] = asyncio.create_task(self._harvest.run(node))

    async def _write(self, node: NodeView) -> None:
        facts = (node.state, node.boot, node.keysets)
        now = time.monotonic()
        if facts == node.written and (node.failures or now - node.written_at < SEEN_WRITE_SECONDS):
            return
        values: dict[str, Any] = {"state": node.state, "boot": node.boot, "keysets": sorted(node.keysets)}
        if not node.failures:
            values["last_seen"] = int(time.time())
        await update_node(self._database, node.id, **values)
        node.written, node.written_at = facts, now

    def _count_ready(self) -> None:
        counts = dict.fromkeys(self._fleet.endpoints, 0)
        for node in self._fleet.nodes.values():
            if node.state == READY and node.endpoint in counts:
                counts[node.endpoint] += 1
        for endpoint, count in counts.items():
            self._metrics.nodes_ready.labels(endpoint).set(count)


def _take_over(node: NodeView, status: int, answer: dict[str, Any]) -> None:
    """Believe a health answer: it only decides where ciphertext goes."""
    if answer.get("node") != node.id or answer.get("endpoint") != node.endpoint:
        node.state, node.keysets = WRONG, frozenset()
        return
    keysets, boot = answer.get("keysets"), answer.get("boot")
    if not isinstance(keysets, list) or not isinstance(boot, str) or len(boot) > 128:
        node.state, node.keysets = NOT_READY, frozenset()
        return
    node.boot = boot
    node.keysets = frozenset(k for k in keysets[:MAX_KEYSETS] if isinstance(k, str) and HEX64.fullmatch(k))
    if answer.get("draining") is True:
        node.state = DRAINING
    else:
        node.state = READY if status == 200 and answer.get("ready") is True else NOT_READY
