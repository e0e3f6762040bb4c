# SPDX-License-Identifier: Apache-2.0
"""Cacheable evidence: publish each keyset, wait until a checkpoint covers it, attest over that (PROTOCOL §2, kind 2).

Nothing that the ledger or the key service says here is believed; the client checks log, witnesses and proof under its
own pins. What this node made last is served until the next is made, so a ledger that fails costs freshness only.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Final

import httpx2

from teehouse_core.errors import MalformedError, OperatorError, TeehouseError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import leaf_hash, verify_inclusion
from teehouse_core.log.note import MAX_NOTE, Note
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.tiles import (
    MAX_BUNDLE,
    TILE_WIDTH,
    entries_path,
    parse_bundle,
    tile_path,
    width_at,
)
from teehouse_core.log.walk import inclusion_walk
from teehouse_core.wire.binding import LEDGER
from teehouse_core.wire.keyset import Keyset
from teehouse_enclave.node.config import LedgerConfig
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.keys import NodeKeys
from teehouse_enclave.node.log import log_event
from teehouse_enclave.node.release import KeyServiceClient

__all__ = ["LedgerEvidence"]

MAX_TILE: Final = 256 * 32  # bytes
_BACKOFF: Final = 60.0  # seconds between two tries at most
_KEPT: Final = 4  # keysets whose places in the log are remembered


@dataclass(frozen=True, slots=True)
class _Place:
    index: int
    leaf: bytes


class LedgerEvidence:
    """Keeps `current` a bundle over a recent checkpoint. `tick` makes one, `run` goes on until it is cancelled."""

    def __init__(
        self,
        client: KeyServiceClient,
        http: httpx2.AsyncClient,
        config: LedgerConfig,
        keys: NodeKeys,
        evidence: EvidenceMaker,
    ) -> None:
        self._client = client
        self._http = http
        self._config = config
        self._keys = keys
        self._evidence = evidence
        self._places: dict[str, _Place] = {}
        self._made_for = ""
        self._made_at = float("-inf")
        self.current: bytes | None = None
        self.failures = 0

    def due(self, monotonic: float) -> bool:
        """Whether the keyset is a new one, or the last evidence is old enough."""
        return self._made_for != self._keys.keyset.sha256 or monotonic - self._made_at >= self._config.every_s

    async def tick(self) -> None:
        """Make new evidence for the present keyset. Raises TeehouseError; what is served stays."""
        keyset, began = self._keys.keyset, time.monotonic()
        place = self._places.get(keyset.sha256) or await self._publish(keyset)
        note = await self._get("checkpoint", MAX_NOTE)
        checkpoint = Checkpoint.parse(Note.parse(note).text)
        if checkpoint.size <= place.index:
            raise OperatorError("the newest checkpoint does not cover the keyset yet", code="ledger-behind")
        walk = inclusion_walk(place.index, checkpoint.size)
        tile = next(walk, None)
        hashes: list[bytes] = []
        while tile is not None:
            path = tile_path(tile.level, tile.index, tile.width)
            try:
                tile = walk.send(await self._get(path, MAX_TILE))
            except StopIteration as done:
                hashes, tile = done.value, None
        verify_inclusion(place.index, checkpoint.size, leaf_hash(place.leaf), hashes, checkpoint.root)
        proof = TlogProof(place.index, tuple(hashes), note, place.leaf).to_bytes()
        self.current = self._evidence.bundle(
            keyset, note, time.monotonic(), kind=LEDGER, ledger={"keyset_inclusion": proof}
        )
        self._made_for, self._made_at = keyset.sha256, began

    async def run(self) -> None:
        """Make evidence whenever it is due; after a failure wait longer each time."""
        while True:
            if self.due(time.monotonic()):
                try:
                    await self.tick()
                    self.failures = 0
                    log_event("ledger-evidence", keyset_sha256=self._made_for)
                except TeehouseError as error:
                    self.failures += 1
                    log_event("ledger-failed", code=error.code, failures=self.failures)
            await asyncio.sleep(min(2.0 ** min(self.failures, 6), _BACKOFF))

    async def _publish(self, keyset: Keyset) -> _Place:
        """Put the keyset into the public log, and learn its entry. Raises TeehouseError."""
        index, leaf_sha256 = await self._client.publish(keyset)
        checkpoint = Checkpoint.parse(Note.parse(await self._get("checkpoint", MAX_NOTE)).text)
        width = width_at(0, index // TILE_WIDTH, checkpoint.size)
        if index % TILE_WIDTH >= width:
            raise OperatorError("the newest checkpoint does not cover the keyset yet", code="ledger-behind")
        entries = parse_bundle(await self._get(entries_path(index // TILE_WIDTH, width), MAX_BUNDLE))
        leaf = entries[index % TILE_WIDTH] if index % TILE_WIDTH < len(entries) else b""
        if hashlib.sha256(leaf).hexdigest() != leaf_sha256:
            raise MalformedError("the ledger shows another entry than the key service made", code="ledger-entry")
        self._places[keyset.sha256] = place = _Place(index, leaf)
        while len(self._places) > _KEPT:
            self._places.pop(next(iter(self._places)))
        return place

    async def _get(self, path: str, limit: int) -> bytes:
        parts: list[bytes] = []
        got = 0
        try:
            async with self._http.stream("GET", f"{self._config.url}/ledger/v1/{self._config.log}/{path}") as response:
                async for part in response.aiter_raw():
                    parts.append(part)
                    got += len(part)
                    if got > limit:
                        raise MalformedError("the ledger's answer is too long", code="document-too-large")
                if response.status_code != 200:
                    raise OperatorError("the ledger does not have it", code="ledger-unavailable")
        except httpx2.HTTPError as error:
            raise OperatorError(
                f"the ledger does not answer ({type(error).__name__})", code="ledger-unreachable"
            ) from None
        return b"".join(parts)
