# SPDX-License-Identifier: Apache-2.0
"""A node's cacheable evidence: published once, made over the newest checkpoint, kept while the ledger fails."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace

import httpx2
import pytest
from forge_ledger import LOG, ORIGIN, PINNED, WITNESSES, Tree, filler
from node_support import ENDPOINT, LAST, Node, ScriptedEngine, running_node
from pool_support import EVALUATE, SERVICE_POLICY, KeyServiceStandIn, reply

from teehouse_core.appraise.appraise import appraise
from teehouse_core.errors import MalformedError, OperatorError, TeehouseError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.log.entry import PublicEntry
from teehouse_core.log.note import Note
from teehouse_core.log.signing import cosign, sign_note
from teehouse_core.log.tiles import ENTRIES, format_bundle, parse_path
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_enclave.node.config import KeyServiceConfig, LedgerConfig
from teehouse_enclave.node.ledger import LedgerEvidence
from teehouse_enclave.node.release import KeyServiceClient

pytestmark = pytest.mark.anyio


class PublicLog(KeyServiceStandIn):
    """A key service that publishes, and the ledger that keeps what it publishes."""

    def __init__(self, entries: int = 300) -> None:
        self.leaves = [filler(number) for number in range(entries)]
        self.covered = 0  # entries that the newest checkpoint leaves out
        self.broken: set[str] = set()
        self.lie: Callable[[str, bytes], bytes] = lambda _path, body: body
        super().__init__(ENDPOINT, "ab" * 32)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        if path == "/v1/publish/challenge":
            return json.dumps({"challenge": b64u(bytes(32))}).encode()
        if path == "/v1/publish":
            keyset = Bundle.parse(unb64u(json.loads(body)["bundle"])).keyset
            leaf = PublicEntry(1, "keyset", "ab" * 16, keyset.sha256, keyset.endpoint, keyset.node).to_bytes()
            self.leaves.append(leaf)
            place = {"origin": ORIGIN, "index": len(self.leaves) - 1, "leaf_sha256": hashlib.sha256(leaf).hexdigest()}
            return json.dumps({"entry": place, "checkpoint": ""}).encode()
        return super().answer(method, path, query, body)

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if not path.startswith("/ledger/v1/public/"):
            return super().handle(request)
        name = path.removeprefix("/ledger/v1/public/")
        self.asked.append(name)
        if name.split("/")[0] in self.broken:
            return reply(503, b"")
        return reply(200, self.lie(name, self.ledger(name)))

    def ledger(self, name: str) -> bytes:
        tree = Tree(self.leaves[: len(self.leaves) - self.covered])
        if name == "checkpoint":
            text, now = tree.checkpoint().text(), int(time.time())
            signed = [cosign(text, witness, key, now) for witness, key in WITNESSES.items()]
            return Note(text, (sign_note(text, ORIGIN, LOG), *signed)).to_bytes()
        tile = parse_path(name)
        first = tile.index * 256
        if tile.level == ENTRIES:
            return format_bundle(tree.leaves[first : first + tile.width])
        return b"".join(tree.source(tile.level * 8, first + at) for at in range(tile.width))


def evidence_of(node: Node, log: PublicLog) -> LedgerEvidence:
    http, keys = log.client(), node.keys
    config = KeyServiceConfig("http://tks.test", SERVICE_POLICY)
    client = KeyServiceClient(http, config, node.app._evidence, keys._identity, keys.sign_key, lambda: int(time.time()))
    made = LedgerEvidence(client, http, LedgerConfig("http://ledger.test"), keys, node.app._evidence)
    node.app._ledger = made
    return made


async def cached(node: Node) -> bytes | None:
    response = await node.http.get(f"{node.url}/v1/evidence/cached")
    return response.content if response.status_code == 200 else None


async def test_evidence_over_the_newest_checkpoint_is_accepted_under_pinned_keys() -> None:
    log = PublicLog()
    async with running_node(ScriptedEngine([LAST])) as node:
        made = evidence_of(node, log)
        assert await cached(node) is None
        assert made.due(time.monotonic())
        await made.tick()
        assert not made.due(time.monotonic())
        assert made.due(time.monotonic() + 300)
        bundle = await cached(node)
        assert bundle is not None
        policy = replace(EVALUATE, ledger=PINNED)
        accepted = appraise(bundle, policy, int(time.time()), endpoint=ENDPOINT).accept()
        assert accepted.keyset.raw == node.keys.keyset.raw
        log.leaves.append(filler(900))
        await made.tick()
        assert log.asked.count("/v1/publish") == 1  # once for a keyset
        assert await cached(node) != bundle


async def test_a_new_keyset_is_published_and_attested_at_once() -> None:
    log = PublicLog(3)
    async with running_node(ScriptedEngine([LAST])) as node:
        made = evidence_of(node, log)
        await made.tick()
        node.keys._publish(int(time.time()))
        assert made.due(time.monotonic())
        await made.tick()
        bundle = await cached(node)
        assert bundle is not None
        assert Bundle.parse(bundle).keyset.raw == node.keys.keyset.raw
        assert log.asked.count("/v1/publish") == 2


@pytest.mark.parametrize("broken", ["checkpoint", "tile"])
async def test_a_ledger_that_fails_costs_freshness_only(broken: str) -> None:
    log = PublicLog()
    async with running_node(ScriptedEngine([LAST])) as node:
        made = evidence_of(node, log)
        await made.tick()
        before = await cached(node)
        log.broken.add(broken)
        with pytest.raises(OperatorError):
            await made.tick()
        assert await cached(node) == before


async def test_a_checkpoint_that_does_not_cover_the_keyset_is_waited_for() -> None:
    log = PublicLog(5)
    log.covered = 1
    async with running_node(ScriptedEngine([LAST])) as node:
        made = evidence_of(node, log)
        with pytest.raises(OperatorError) as behind:
            await made.tick()
        assert behind.value.code == "ledger-behind"
        log.covered = 0
        await made.tick()
        assert await cached(node) is not None


def other_entry(name: str, body: bytes) -> bytes:
    return format_bundle([filler(77)] * 45) if name.startswith("tile/entries") else body


def other_tiles(name: str, body: bytes) -> bytes:
    return bytes(len(body)) if name.startswith("tile/") and "entries" not in name else body


@pytest.mark.parametrize("lie", [other_entry, other_tiles])
async def test_a_lying_ledger_makes_no_evidence(lie: Callable[[str, bytes], bytes]) -> None:
    log = PublicLog()
    log.lie = lie
    async with running_node(ScriptedEngine([LAST])) as node:
        made = evidence_of(node, log)
        with pytest.raises((MalformedError, TeehouseError)):
            await made.tick()
        assert await cached(node) is None
