# SPDX-License-Identifier: Apache-2.0
"""What the poller brings home from a healthy node: its newest evidence report and its signed usage records.

Neither is judged here. A report is stored as bytes; a usage record is stored with its signature, unchecked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from typing import Any

import aiohttp

from teehouse_cloud.errors import DatabaseError, UpstreamFailed
from teehouse_cloud.gateway.fleet import NodeView
from teehouse_cloud.gateway.metrics import Metrics
from teehouse_cloud.gateway.outbound import get_bytes, get_json
from teehouse_cloud.logs import get_logger
from teehouse_cloud.settings import Settings
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.reports import store_report
from teehouse_cloud.store.usage import SignedUsage, store_usage
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.canonical import b64u, encode, unb64u
from teehouse_core.wire.frame import EVIDENCE_TYPE
from teehouse_core.wire.receipts import UsageRecord

__all__ = ["EVIDENCE_SECONDS", "MAX_BUNDLE", "Harvest", "bundle_keyset"]

MAX_BUNDLE = 16 * 1024 * 1024  # bytes of one evidence bundle; a 256-member group with chains stays below
EVIDENCE_SECONDS = 15.0  # a quote takes a TDX host tens of milliseconds; a queue of them may take seconds
MAX_USAGE = 4 * 1024 * 1024  # bytes of one usage page
MAX_PAGES = 16  # usage pages of one node in one pull; the rest comes with the next
USAGE_SECONDS = 5.0
RETRY_SECONDS = 10.0  # pause after a report could not be had
MAX_SEQ = 2**53  # sequence numbers are JSON integers


class Harvest:
    """Fetches reports and usage when they are due."""

    def __init__(
        self, settings: Settings, database: Database, session: aiohttp.ClientSession, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._database = database
        self._session = session
        self._metrics = metrics

    def due(self, node: NodeView) -> bool:
        """Whether there is anything to fetch from `node` now."""
        return time.monotonic() >= node.usage_next or self._report_due(node)

    def _report_due(self, node: NodeView) -> bool:
        now = time.monotonic()
        return bool(node.keysets) and (now >= node.report_next or (node.keysets != node.reported and not _waits(node)))

    async def run(self, node: NodeView) -> None:
        """Fetch what is due. A node that fails here is only logged; its health is the poller's matter."""
        try:
            if time.monotonic() >= node.usage_next:
                node.usage_next = time.monotonic() + self._settings.usage_seconds
                await self.pull_usage(node)
            if self._report_due(node):
                await self.fetch_report(node)
        except (UpstreamFailed, DatabaseError) as exc:
            get_logger().warning("harvest-failed", node=node.id, code=exc.code)

    async def fetch_report(self, node: NodeView) -> None:
        """Ask for evidence over a challenge of our own (kind 1) and store the answer. Raises `UpstreamFailed`."""
        keysets = node.keysets
        node.report_next, node.reported = time.monotonic() + RETRY_SECONDS, frozenset()
        challenge = b64u(secrets.token_bytes(32))
        status, kind, bundle = await get_bytes(
            self._session,
            f"{node.url}/v1/evidence?challenge={challenge}",
            limit=MAX_BUNDLE,
            seconds=EVIDENCE_SECONDS,
        )
        if status != 200 or kind.split(";", 1)[0].strip().lower() != EVIDENCE_TYPE:
            raise UpstreamFailed("no evidence", code="no-evidence")
        # in a thread: parsing 16 MiB here would hold up every stream
        keyset_sha256 = await asyncio.to_thread(bundle_keyset, bundle)
        await store_report(self._database, node.id, bundle, keyset_sha256, int(time.time()))
        node.report_next, node.reported = time.monotonic() + self._settings.report_seconds, keysets

    async def pull_usage(self, node: NodeView) -> None:
        """Store what the node signed since the last pull; a restarted node begins anew. Raises `UpstreamFailed`."""
        for _ in range(MAX_PAGES):
            status, page = await get_json(
                self._session,
                f"{node.url}/v1/usage?after={node.usage_after}",
                limit=MAX_USAGE,
                seconds=USAGE_SECONDS,
            )
            boot, items = page.get("boot"), page.get("records")
            if status != 200 or not isinstance(boot, str) or len(boot) > 128 or not isinstance(items, list):
                raise UpstreamFailed("no usage page", code="bad-answer")
            if boot != node.usage_boot and node.usage_after != 0:
                node.usage_boot, node.usage_after = boot, 0  # its numbers begin at the start again: read from there
                continue
            after, records = _read_page(node, items)
            if after == node.usage_after and boot == node.usage_boot:
                return
            await store_usage(
                self._database,
                node=node.id,
                endpoint=node.endpoint,
                boot=boot,
                after=after,
                records=records,
                now=int(time.time()),
            )
            self._metrics.usage_records.inc(len(records))
            node.usage_boot, node.usage_after = boot, after
            if not items:
                return


def _waits(node: NodeView) -> bool:
    """A report fetch failed a moment ago and is not to be repeated yet."""
    return not node.reported and time.monotonic() < node.report_next


def _read_page(node: NodeView, items: list[Any]) -> tuple[int, list[SignedUsage]]:
    """The new cursor and the records that parse; one that does not is skipped and logged, never waited for."""
    after, records = node.usage_after, []
    for item in items:
        seq = item.get("seq") if isinstance(item, dict) else None
        if not isinstance(seq, int) or not 0 <= seq < MAX_SEQ:
            raise UpstreamFailed("usage page without sequence numbers", code="bad-answer")
        after = max(after, seq)
        try:
            record, sig = unb64u(item["record"]), unb64u(item["sig"], 64)
            records.append(SignedUsage(UsageRecord.parse(record), record, sig))
        except (MalformedError, KeyError, TypeError, AttributeError):
            get_logger().warning("usage-record-malformed", node=node.id, seq=seq)
    return after, records


def bundle_keyset(bundle: bytes) -> str:
    """The digest (hex) of the keyset inside a bundle, "" when there is none to read. A label for listing, no check."""
    try:
        keyset = json.loads(bundle)["keyset"]
        raw = encode(keyset) if isinstance(keyset, dict) else unb64u(keyset)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, LocalError, MalformedError):
        return ""
    return hashlib.sha256(raw).hexdigest()
