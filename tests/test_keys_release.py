# SPDX-License-Identifier: Apache-2.0
"""Attested release end to end: a real `teehouse-keys`, a real ledger, real witnesses, a node that asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support_keys import Requester, World, running_world

from teehouse_core.log.merkle import leaf_hash
from teehouse_core.log.proof import TlogProof
from teehouse_core.wire.canonical import unb64u


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
