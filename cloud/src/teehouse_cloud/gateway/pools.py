# SPDX-License-Identifier: Apache-2.0
"""Relays an endpoint's pool: what its key service publishes, and evidence over the client's challenge (PROTOCOL §6).

Neither is judged here. The pool keyset relayed is the newest that some node is known to hold, so that a rotation is not
offered before anybody can answer for it; when no node is up, it is the newest of all.
"""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

import aiohttp

from teehouse_cloud.errors import UpstreamFailed
from teehouse_cloud.gateway.fleet import Fleet, PoolPlace
from teehouse_cloud.gateway.harvest import EVIDENCE_SECONDS, MAX_BUNDLE
from teehouse_cloud.gateway.metrics import Metrics
from teehouse_cloud.gateway.outbound import get_bytes
from teehouse_cloud.logs import get_logger
from teehouse_core.errors import MalformedError
from teehouse_core.wire.frame import EVIDENCE_TYPE
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.pool import MAX_SIGNED, SignedPool

__all__ = ["Pools"]

REFRESH_SECONDS = 1.0  # age at which the published pool is looked up anew
POOL_SECONDS = 3.0  # longest wait for it
KEPT = 3  # newest published pools of one endpoint: one in use, one just made, one that was cut short by a restart


@dataclass(frozen=True, slots=True)
class _Published:
    raw: bytes = field(repr=False)
    keyset_sha256: str
    service_sha256: str
    not_after: int


class Pools:
    """What key services published lately, by endpoint."""

    def __init__(self, fleet: Fleet, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._fleet = fleet
        self._session = session
        self._metrics = metrics
        self._known: dict[str, list[_Published]] = {}
        self._looked: dict[str, float] = {}
        self._looking: dict[str, asyncio.Lock] = {}

    async def relay(self, endpoint: str, challenge: str) -> dict[str, str] | None:
        """`{"pool","bundle"}` in base64 for the client's challenge, None when the endpoint has no pool now."""
        place = self._fleet.pools.get(endpoint)
        if place is None:
            return None
        await self._look(endpoint, place)
        chosen = self._choose(endpoint)
        if chosen is None:
            return None
        try:
            url = f"{place.url}/v1/evidence?challenge={challenge}"
            status, kind, bundle = await get_bytes(self._session, url, limit=MAX_BUNDLE, seconds=EVIDENCE_SECONDS)
        except UpstreamFailed as exc:
            self._failed(endpoint, exc.code)
            return None
        if status != 200 or kind.split(";", 1)[0].strip().lower() != EVIDENCE_TYPE:
            self._failed(endpoint, "bad-answer")
            return None
        return {
            "pool": base64.b64encode(chosen.raw).decode("ascii"),
            "bundle": base64.b64encode(bundle).decode("ascii"),
        }

    async def _look(self, endpoint: str, place: PoolPlace) -> None:
        """Learn what is published now; a failure leaves what was known."""
        async with self._looking.setdefault(endpoint, asyncio.Lock()):
            if time.monotonic() - self._looked.get(endpoint, -REFRESH_SECONDS) < REFRESH_SECONDS:
                return
            query = "?" + urlencode({"tenant": place.tenant}) if place.tenant else ""
            try:
                url = f"{place.url}/v1/pools/{endpoint}{query}"
                status, _, raw = await get_bytes(self._session, url, limit=MAX_SIGNED, seconds=POOL_SECONDS)
                if status != 200:
                    raise UpstreamFailed("no pool", code="bad-answer")
                self._take(endpoint, raw)
            except UpstreamFailed as exc:
                self._failed(endpoint, exc.code)
            except MalformedError:
                self._failed(endpoint, "bad-answer")
            self._looked[endpoint] = time.monotonic()

    def _take(self, endpoint: str, raw: bytes) -> None:
        keyset = Keyset.parse(SignedPool.parse(raw).keyset)
        service = keyset.pool.tks_keyset_sha256 if keyset.pool else ""
        known = self._known.setdefault(endpoint, [])
        if all(one.keyset_sha256 != keyset.sha256 for one in known):
            known.append(_Published(raw, keyset.sha256, service, keyset.not_after))
            del known[:-KEPT]

    def _choose(self, endpoint: str) -> _Published | None:
        """The newest one that a ready node holds, among those of the key service's present keyset; else the newest."""
        now = time.time()
        living = [one for one in self._known.get(endpoint, []) if now < one.not_after]
        if not living:
            return None
        newest = living[-1]
        mates = [one for one in living if one.service_sha256 == newest.service_sha256]
        held = {keyset for node in self._fleet.ready(endpoint) for keyset in node.keysets}
        return next((one for one in reversed(mates) if one.keyset_sha256 in held), newest)

    def _failed(self, endpoint: str, code: str) -> None:
        self._metrics.upstream_failures.labels(endpoint, code).inc()
        get_logger().warning("pool-failed", endpoint=endpoint, code=code)
