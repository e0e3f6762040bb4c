# SPDX-License-Identifier: Apache-2.0
"""`GET /sealed/v1/{endpoint}/evidence`: relay the client's challenge to nodes and hand back their bundles unread."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qs

import aiohttp

from teehouse_cloud.errors import DatabaseError, UpstreamFailed
from teehouse_cloud.gateway.asgi import Receive, Refusal, Scope, Send, request_id, send_json, send_refusal
from teehouse_cloud.gateway.fleet import Fleet, NodeView
from teehouse_cloud.gateway.harvest import EVIDENCE_SECONDS, MAX_BUNDLE
from teehouse_cloud.gateway.limits import RateLimit
from teehouse_cloud.gateway.metrics import Metrics
from teehouse_cloud.gateway.outbound import get_bytes
from teehouse_cloud.gateway.poller import Poller
from teehouse_cloud.gateway.pools import Pools
from teehouse_cloud.logs import get_logger
from teehouse_cloud.settings import Settings
from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import unb64u
from teehouse_core.wire.frame import EVIDENCE_TYPE
from teehouse_core.wire.header import MAX_CANDIDATES
from teehouse_core.wire.problem import MAX_PROBLEM

__all__ = ["EvidenceDoor"]

DEFAULT_NODES = 2  # candidates a client seals to by default (PROTOCOL §3.1)
MAX_RELAYS = 64  # evidence requests relayed at once; each may hold MAX_CANDIDATES bundles in memory
MAX_QUERY = 512  # bytes of query string


class EvidenceDoor:
    """Bare ASGI callable; needs no API key, since evidence is public and the challenge is the client's."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        poller: Poller,
        session: aiohttp.ClientSession,
        metrics: Metrics,
    ) -> None:
        self._pools = Pools(fleet, session, metrics)
        self._fleet = fleet
        self._poller = poller
        self._session = session
        self._metrics = metrics
        self._rate = RateLimit(settings.evidence_rpm)
        self._relays = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send, endpoint: str) -> None:
        """Answer one request."""
        rid = request_id(scope)
        status, label = 200, ""
        try:
            client = scope.get("client")
            if wait := self._rate.hit(str(client[0]) if client else ""):
                raise Refusal("over-limit", retry_after=wait)
            challenge, count, cacheable = _query(scope)
            if not await self._fleet.has_endpoint(endpoint):
                raise Refusal("unavailable", status=404, reason="endpoint-unknown")
            label = endpoint
            bundles, pool = await self._everything(endpoint, challenge, count, cacheable)
            answer: dict[str, Any] = {
                "v": "evidence-set/1",
                "endpoint": endpoint,
                "bundles": [base64.b64encode(bundle).decode("ascii") for bundle in bundles],
            }
            if pool is not None:
                answer["pools"] = [pool]
            await send_json(send, 200, answer, [(b"x-request-id", rid.encode())])
        except (Refusal, MalformedError, DatabaseError) as exc:
            refusal = _as_refusal(exc)
            status = refusal.status
            await send_refusal(receive, send, refusal, rid, body_ended=True)
        finally:
            self._metrics.requests.labels(label, str(status)).inc()
            get_logger().info("evidence", request_id=rid, endpoint=label, status=status)

    async def _everything(
        self, endpoint: str, challenge: str, count: int, cacheable: bool
    ) -> tuple[list[bytes], dict[str, str] | None]:
        """Nodes' bundles and the endpoint's pool; a pool stands in where no node answers (scale to zero)."""
        nodes, pool = await asyncio.gather(
            self._gather(endpoint, challenge, count, cacheable),
            self._pools.relay(endpoint, challenge),
            return_exceptions=True,
        )
        if isinstance(pool, BaseException):
            raise pool
        if not isinstance(nodes, BaseException):
            return nodes, pool
        if isinstance(nodes, Refusal) and pool is not None:
            return [], pool
        raise nodes

    async def _gather(self, endpoint: str, challenge: str, count: int, cacheable: bool) -> list[bytes]:
        """Bundles of up to `count` ready nodes. Raises `Refusal` when there is none."""
        if self._relays >= MAX_RELAYS:
            raise Refusal("unavailable", retry_after=1)
        self._relays += 1
        try:
            nodes = self._fleet.ready(endpoint)
            if not nodes:
                await self._poller.poll_now(endpoint)
                nodes = self._fleet.ready(endpoint)
            bundles: list[bytes] = []
            limited = False
            while nodes and len(bundles) < count:
                wave, nodes = nodes[: count - len(bundles)], nodes[count - len(bundles) :]
                for result in await asyncio.gather(*(self._fetch(node, challenge, cacheable) for node in wave)):
                    if isinstance(result, bytes):
                        bundles.append(result)
                    else:
                        limited = limited or result == "over-limit"
            if not bundles:
                raise Refusal("over-limit" if limited else "unavailable", retry_after=1)
            return bundles
        finally:
            self._relays -= 1

    async def _fetch(self, node: NodeView, challenge: str, cacheable: bool) -> bytes | str:
        """One node's bundle, or the word for why there is none; one made earlier where the client takes that too."""
        if cacheable:
            found = await self._ask(node, f"{node.url}/v1/evidence/cached")
            if isinstance(found, bytes):
                return found
        return await self._ask(node, f"{node.url}/v1/evidence?challenge={challenge}")

    async def _ask(self, node: NodeView, url: str) -> bytes | str:
        try:
            status, kind, body = await get_bytes(self._session, url, limit=MAX_BUNDLE, seconds=EVIDENCE_SECONDS)
        except UpstreamFailed as exc:
            if exc.code in ("connect", "reset"):
                self._poller.suspect(node)
            reason = exc.code
        else:
            if status == 200 and kind.split(";", 1)[0].strip().lower() == EVIDENCE_TYPE:
                return body
            reason = _node_word(status, body)
        self._metrics.upstream_failures.labels(node.endpoint, reason).inc()
        return reason


def _query(scope: Scope) -> tuple[str, int, bool]:
    """challenge (b64u of 32 bytes), n (1…MAX_CANDIDATES), cacheable (1 or not there). Raises `MalformedError`."""
    raw: bytes = scope["query_string"]
    if len(raw) > MAX_QUERY:
        raise MalformedError("query too long")
    try:
        query = parse_qs(raw.decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        raise MalformedError("query not readable") from None
    challenges, counts = query.get("challenge", []), query.get("n", [str(DEFAULT_NODES)])
    if len(challenges) != 1 or len(counts) != 1:
        raise MalformedError("challenge or n missing or repeated")
    unb64u(challenges[0], 32)
    if counts[0] not in {str(n) for n in range(1, MAX_CANDIDATES + 1)}:
        raise MalformedError("n out of range")
    return challenges[0], int(counts[0]), query.get("cacheable") == ["1"]


def _as_refusal(exc: Refusal | MalformedError | DatabaseError) -> Refusal:
    if isinstance(exc, Refusal):
        return exc
    if isinstance(exc, MalformedError):
        return Refusal("malformed")
    get_logger().error("database-failed", code=exc.code)
    return Refusal("unavailable", retry_after=1)


def _node_word(status: int, body: bytes) -> str:
    """`over-limit` when the node says so in the closed list, else `bad-answer`."""
    if status == 429 and len(body) <= MAX_PROBLEM:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and document.get("code") == "over-limit":
            return "over-limit"
    return "bad-answer"
