# SPDX-License-Identifier: Apache-2.0
"""Attested release end to end: a real `teehouse-keys`, a real ledger, real witnesses, a node that asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from support_keys import ENDPOINT, Outcome, Requester, World, running_world

from teehouse_core.appraise.policy import Policy
from teehouse_core.log.merkle import leaf_hash
from teehouse_core.log.proof import TlogProof
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.grant import ReleaseRequest, challenge_value, parse_challenge
from teehouse_enclave.keys.policy import ReleasePolicy


@dataclass
class Scene:
    world: World
    tenant: str


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_world(tmp_path_factory.mktemp("keys"), witness_count=2, quorum=2) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        world.new_key(tenant, "data", "disk")
        yield Scene(world, tenant)


def test_a_key_is_released_under_a_cosigned_entry(scene: Scene) -> None:
    world, service, node = scene.world, scene.world.keyset(), Requester()
    with world.http() as http:
        outcome = node.ask(http, service, tenant=scene.tenant, ring="data", key="disk")
    assert (outcome.code, len(outcome.key)) == ("granted", 32)
    assert outcome.answer is not None
    proof = TlogProof.parse(outcome.answer.proof)
    record = world.records(f"tenant-{scene.tenant}")[proof.index]
    checkpoint = proof.verify_inclusion(leaf_hash(unb64u(record["leaf"])))
    assert world.check_note(scene.tenant, proof.note) == checkpoint
    entry = world.entries(scene.tenant)[proof.index]
    assert (entry.op, entry.decision, entry.witnesses, entry.tier) == ("key.release", "granted", 2, "simulated")
    assert entry.evidence_sha256 == outcome.evidence_sha256


def test_decisions_in_the_log_are_what_200_concurrent_requesters_saw(scene: Scene) -> None:
    world, service, tenant = scene.world, scene.world.keyset(), scene.tenant
    before = len(world.entries(tenant))
    nodes = [Requester(), Requester("ep-20260101000000-others", "node-2")]  # the second one is not in the policy
    gate = threading.Barrier(200)

    def one(at: int) -> Outcome:
        changes = {"role": "member", "group": "ab" * 16} if at % 5 == 0 else {}
        key = "missing" if at % 7 == 0 else "disk"
        gate.wait(60)
        with world.http() as http:
            return nodes[at % 2].ask(http, service, tenant=tenant, ring="data", key=key, changes=changes)

    with ThreadPoolExecutor(200) as pool:
        outcomes = list(pool.map(one, range(200)))
    entries = world.entries(tenant)[before:]
    logged = {entry.request_sha256 + entry.evidence_sha256: entry for entry in entries}
    decided = [outcome for outcome in outcomes if outcome.code != "unknown-key"]
    assert len(entries) == len(logged) == len(decided)
    assert {outcome.code for outcome in outcomes} == {"granted", "evidence-refused", "unknown-key"}
    for outcome in decided:
        entry = logged[outcome.request_sha256 + outcome.evidence_sha256]
        assert entry.decision == ("granted" if outcome.code == "granted" else "refused")
        assert entry.failed_checks == outcome.failed
        assert outcome.entry is not None
        assert entries[outcome.entry["index"] - before] == entry
        assert bool(outcome.key) == (outcome.code == "granted")


def test_a_reused_challenge_is_refused(scene: Scene) -> None:
    world, service, node = scene.world, scene.world.keyset(), Requester()
    with world.http() as http:
        _, drawn = parse_challenge(http.post("/v1/release/challenge").content)
        one_time = generate_key()
        keyset = node.keyset(one_time)
        bundle = node.bundle(keyset, challenge_value(service.digest, drawn))
        request = ReleaseRequest(service.sha256, scene.tenant, "data", "disk", "1").encode()
        first = node.send(http, service, request, keyset, bundle, one_time)
        again = node.send(http, service, request, keyset, bundle, one_time)
    assert (first.code, again.code, again.status) == ("granted", "challenge-used", 409)


def test_bad_requests_have_stable_codes(scene: Scene) -> None:
    world = scene.world
    with world.http() as http:
        for response, status, code in (
            (http.post("/v1/release", content=b"{}"), 400, "malformed"),
            (http.post("/v1/commands", content=b"no json"), 400, "malformed"),
            (http.post("/v1/commands", content=b"x" * 300_000), 413, "too-large"),
            (http.get("/v1/evidence", params={"challenge": "AA"}), 400, "malformed"),
            (http.get("/v1/pools/ep-unknown"), 404, "unknown-pool"),
            (http.get("/v1/release"), 405, "method-not-allowed"),
            (http.get("/nothing"), 404, "not-found"),
            (http.post("/v1/publish/challenge"), 403, "publish-off"),
        ):
            document = response.json()
            assert (response.status_code, document["code"], document["status"]) == (status, code, status)
            assert response.headers["content-type"] == "application/problem+json"
        text = http.get("/metrics").text
    assert 'teehouse_keys_requests_total{route="/v1/release",code="malformed"}' in text
    assert scene.tenant not in text
    assert "disk" not in text


def test_a_dry_run_says_who_would_get_a_key_and_why_not(scene: Scene) -> None:
    world, service, tenant = scene.world, scene.world.keyset(), scene.tenant
    good, other = Requester(), Requester("ep-20260101000000-others", "node-9")
    with world.http() as http:
        for node in (good, other):
            node.ask(http, service, tenant=tenant, ring="data", key="disk")
        before = len(world.entries(tenant))
        read = world.command(tenant, "", 0, "state.read", {}).to_json()
        seen = http.post("/v1/dry-run", json={"read": read, "ring": "data", "key": "disk"}).json()
        strict = ReleasePolicy.build(id="s", appraisal=Policy.preset("strict"), roles=("node",), endpoints=(ENDPOINT,))
        bundle = b64u(good.bundle(good.keyset(generate_key()), bytes(32), 1))
        tried = {"read": read, "policy": b64u(strict.raw), "bundles": [bundle, b64u(b"no bundle")]}
        under = http.post("/v1/dry-run", json=tried).json()
        stranger = {**read, "signatures": []}
        refused = http.post("/v1/dry-run", json={"read": stranger, "ring": "data", "key": "disk"})
    by_node = {one["node"]: one for one in seen["results"]}
    assert by_node["node-1"]["would_receive"] is True
    assert [check["id"] for check in by_node["node-9"]["failed_checks"]] == ["binding.endpoint"]
    assert (seen["evidence"], under["evidence"], under["policy"]) == ("last-seen", "given", "s")
    assert "policy.platform" in {check["id"] for check in under["results"][0]["failed_checks"]}
    assert under["results"][1]["failed_checks"][0]["id"] == "bundle"
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown-tenant")
    assert len(world.entries(tenant)) == before
