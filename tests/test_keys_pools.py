# SPDX-License-Identifier: Apache-2.0
"""Pool keysets and the public log of a running key service: issued, rotated, kept over a restart, published."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support_keys import ENDPOINT, ORIGIN, POOL_POLICY, Requester, World, key_args, pool_args, running_world

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.pool import appraise_pool
from teehouse_core.log.entry import PublicEntry, leaf_hash
from teehouse_core.log.proof import TlogProof
from teehouse_core.seal.pool import MemberProof, check_member
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u, encode, unb64u
from teehouse_core.wire.keyset import Keyset, key_id
from teehouse_core.wire.pool import SignedPool
from teehouse_enclave.keys.algorithms import sealing_key
from teehouse_enclave.keys.publish import publication_message

PUBLISHER = Ed25519PrivateKey.generate()


@dataclass
class Scene:
    world: World
    tenant: str


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    publish = {"policy": "evaluate", "keys": [b64u(PUBLISHER.public_key().public_bytes_raw())]}
    with running_world(tmp_path_factory.mktemp("pools"), publish=publish) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "session", "session")
        world.new_key(tenant, "session", "pool", algorithm="mlkem768x25519", policy=POOL_POLICY)
        world.do(tenant, "session", 2, "pool.create", pool_args())
        yield Scene(world, tenant)


def published(world: World, tenant: str) -> bytes:
    """What nodes and clients are shown; after a start not before the log has come out."""
    deadline = time.monotonic() + 20
    while True:
        with world.http() as http:
            answer = http.get(f"/v1/pools/{ENDPOINT}", params={"tenant": tenant})
        if answer.status_code == 200 or time.monotonic() > deadline:
            assert answer.status_code == 200, answer.text
            return answer.content
        time.sleep(0.1)


def accepted(world: World, raw: bytes) -> Keyset:
    """The pool's keyset as a client takes it: the service's evidence, its signature, a policy that it lists."""
    nonce = secrets.token_bytes(32)
    with world.http() as http:
        bundle = http.get("/v1/evidence", params={"challenge": b64u(nonce)}).content
    pool = {"release_policies": [POOL_POLICY.sha256]}
    document = {"base": "evaluate", "pool": pool, "roles": ["node", "pool"]}
    policy = Policy.load(encode(document).decode(), "json")
    return appraise_pool(raw, bundle, policy, int(time.time()), endpoint=ENDPOINT, nonce=nonce).accept().keyset


def test_a_member_gets_the_pool_key_and_its_certificate(scene: Scene) -> None:
    world, service, node = scene.world, scene.world.keyset(), Requester()
    pool = accepted(world, published(world, scene.tenant))
    assert pool.pool is not None
    with world.http() as http:
        outcome = node.ask(
            http, service, tenant=scene.tenant, ring="session", key="pool", version=pool.pool.version, pool=pool.sha256
        )
        wrong = node.ask(
            http, service, tenant=scene.tenant, ring="session", key="pool", version=pool.pool.version, pool="ab" * 32
        )
    assert outcome.code == "granted"
    assert outcome.answer is not None
    assert outcome.grant is not None
    key = sealing_key(outcome.key)
    assert pool.hpke_key(key_id(key.suite, key.pk)) is not None
    proof = MemberProof(outcome.answer.member, outcome.answer.member_sig)
    certificate = check_member(proof, service=service, pool=pool, at=int(time.time()))
    assert certificate.sign_pk == node.sign.public_key().public_bytes_raw()
    assert certificate.keyset_sha256 == outcome.grant.requester_keyset_sha256
    assert wrong.failed == ("release.pool-keyset",)


@pytest.mark.slow
def test_epochs_follow_each_other_and_outlive_a_restart(scene: Scene) -> None:
    """A restart signs the same key anew, under the service's new keyset; the next epoch has another key."""
    world = scene.world
    first = Keyset.parse(SignedPool.parse(published(world, scene.tenant)).keyset)
    world.keys.kill()
    world.start_keys()
    again = accepted(world, published(world, scene.tenant))
    assert again.pool is not None
    assert first.pool is not None
    if again.pool.version == first.pool.version:
        assert again.hpke == first.hpke
    assert again.sha256 != first.sha256
    assert again.pool.tks_keyset_sha256 == world.keyset().sha256
    deadline = time.monotonic() + 75
    while time.monotonic() < deadline:
        newest = Keyset.parse(SignedPool.parse(published(world, scene.tenant)).keyset)
        assert newest.pool is not None
        if int(newest.pool.version) > int(again.pool.version):
            break
        time.sleep(0.5)
    else:
        raise AssertionError("no next epoch")
    assert newest.hpke[0].kid != again.hpke[0].kid
    assert newest.not_before < again.not_after, "the epochs overlap"
    assert any(entry.op.endswith(".rotate") for entry in world.entries(scene.tenant))


def test_the_public_log_takes_keysets_with_evidence_and_signed_statements(scene: Scene) -> None:
    world, node = scene.world, Requester()
    with world.http() as http:
        nonce = unb64u(http.post("/v1/publish/challenge").json()["challenge"])
        keyset = node.keyset(generate_key())
        bundle = node.bundle(keyset, nonce, 1)
        answer = http.post("/v1/publish", json={"kind": "keyset", "bundle": b64u(bundle)})
        assert answer.status_code == 200, answer.text
        again = http.post("/v1/publish", json={"kind": "keyset", "bundle": b64u(bundle)})
        assert (again.status_code, again.json()["code"]) == (409, "challenge-used")
        stale = http.post("/v1/publish", json={"kind": "keyset", "bundle": b64u(node.bundle(keyset, bytes(32), 1))})
        assert stale.json()["code"] == "challenge-unknown"
        statement = encode(
            {"v": "publication/1", "kind": "release", "sha256": "ab" * 32, "endpoint": "", "name": "teehouse 1.0"}
        )
        kid = key_id("ed25519", PUBLISHER.public_key().public_bytes_raw())
        signed = {"kind": "statement", "statement": b64u(statement), "kid": kid}
        sig = PUBLISHER.sign(publication_message(statement))
        taken = http.post("/v1/publish", json={**signed, "sig": b64u(sig)})
        assert taken.status_code == 200, taken.text
        forged = http.post("/v1/publish", json={**signed, "sig": b64u(PUBLISHER.sign(statement))})
        assert (forged.status_code, forged.json()["code"]) == (403, "publish-signature")
        wrong = node.keyset(generate_key(), role="member", group="ab" * 16)
        nonce = unb64u(http.post("/v1/publish/challenge").json()["challenge"])
        refused = http.post("/v1/publish", json={"kind": "keyset", "bundle": b64u(node.bundle(wrong, nonce, 1))})
        assert [check["id"] for check in refused.json()["failed_checks"]] == ["binding.role", "binding.group"]
    entries = [PublicEntry.parse(unb64u(row["leaf"])) for row in world.records("public")]
    kinds = {(entry.kind, entry.sha256) for entry in entries}
    assert {("keyset", keyset.sha256), ("keyset", world.keyset().sha256), ("release", "ab" * 32)} <= kinds
    assert wrong.sha256 not in {entry.sha256 for entry in entries}
    proof = TlogProof.parse(unb64u(answer.json()["proof"]))
    leaf = unb64u(world.records("public")[proof.index]["leaf"])
    assert proof.verify_inclusion(leaf_hash(leaf)).origin == f"{ORIGIN}/public"
    assert PublicEntry.parse(leaf).sha256 == keyset.sha256


def test_a_pool_of_an_unknown_tenant_is_unknown(scene: Scene) -> None:
    with scene.world.http() as http:
        answer = http.get(f"/v1/pools/{ENDPOINT}", params={"tenant": "t-" + "00" * 16})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-pool")


def test_an_rsa_key_is_made_beside_the_line_of_decisions(scene: Scene) -> None:
    world = scene.world
    world.do(scene.tenant, "", 3, "ring.create", world.ring_args("doors", "session"))
    answer = world.do(scene.tenant, "doors", 1, "key.create", key_args("door", "rsa4096"))
    assert answer["result"]["version"] == 1
