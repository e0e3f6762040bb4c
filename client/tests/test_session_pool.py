# SPDX-License-Identifier: Apache-2.0
"""Sessions with a pool: accepted by policy alone, answered by any member; no lie of the path gets a prompt."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from client_support import ENDPOINT, MODEL, Canned, Gateway, Node, settings_for
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pool_support import EVALUATE, SERVICE_POLICY, KeyServiceStandIn

from teehouse.session import Session
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_pool import PoolPolicy
from teehouse_core.appraise.policy_references import References
from teehouse_core.errors import EvidenceRefused, MalformedError, StaleEvidence
from teehouse_core.seal.pool import MemberProof
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import RequestFrame
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.pool import MemberCertificate, SignedPool, pool_keyset_message, pool_member_message
from teehouse_enclave.node.evidence import EvidenceMaker

QUESTION = b'{"messages":[]}'
Pair = tuple[bytes, bytes]


def join(node: Node, service: KeyServiceStandIn, signer: Callable[[bytes], bytes] | None = None) -> None:
    """Give a node the pool's newest key, as an attested release would."""
    keyset = Keyset.parse(service.pool.keyset)
    certificate = MemberCertificate(
        keyset.sha256, node.name, node.keyset.sha256, node.sign.pk, int(time.time()) + 1500
    ).encode()
    proof = MemberProof(certificate, (signer or service.keys.sign)(pool_member_message(certificate)))
    node.ring.publish(keyset, [service.sealing(version) for version in service.versions], proof)


def offer(service: KeyServiceStandIn) -> Callable[[bytes], list[Pair]]:
    def pools(value: bytes) -> list[Pair]:
        bundle = service.answer("GET", "/v1/evidence", {"challenge": b64u(value)}, b"")
        return [(service.pool.encode(), bundle)]

    return pools


def policy_for(service: KeyServiceStandIn, *, roles: tuple[str, ...] = ("pool",), **changes: Any) -> Policy:
    fields: dict[str, Any] = {
        "roles": ("node", *roles),
        "pool": PoolPolicy((service.release_policy.sha256,), False),
        "key_service": References(image_sha256=SERVICE_POLICY.references.image_sha256),
        **changes,
    }
    return replace(EVALUATE, **fields)


class World:
    """Two nodes in one pool behind a gateway that shows the pool alone, unless told otherwise."""

    def __init__(self) -> None:
        self.service = KeyServiceStandIn(ENDPOINT, MODEL.weights_sha256)
        self.nodes = [Node("node-a"), Node("node-b")]
        for node in self.nodes:
            join(node, self.service)
        self.gateway = Gateway(*self.nodes)
        self.gateway.evidence_from = lambda _value: []
        self.gateway.pools_from = offer(self.service)

    def session(self, **changes: Any) -> Session:
        policy = changes.pop("policy", None) or policy_for(self.service, **changes)
        return Session(settings_for(self.gateway, policy=policy))


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.gateway.close()


def ask(session: Session) -> Any:
    with session.request(None, "chat.completions", QUESTION) as answer:
        answer.read()
        return answer


def test_a_pool_answers_and_the_verdict_names_no_node(world: World) -> None:
    with world.session() as session:
        answer = ask(session)
        (verdict,) = session.verify()
        assert verdict.pool == world.service.pool.encode()
        assert verdict.verdict.claims["pool"]["statement"] == "pool: any node that satisfies policy members-1"
        assert answer.accepted.keyset.role == "pool"
        assert answer.receipt.receipt.kid == world.nodes[0].sign.kid
        header = RequestFrame.parse(world.gateway.frames[-1]).header
        assert len(header.candidates) == 1
        assert header.expires_at - header.sent_at <= 120


def test_one_of_two_nodes_is_killed_and_the_other_answers(world: World) -> None:
    with world.session() as session:
        first = ask(session)
        world.gateway.nodes.pop(0)
        second = ask(session)
        assert first.keyset_sha256 == second.keyset_sha256
        assert second.receipt.receipt.kid == world.nodes[1].sign.kid
        assert world.gateway.evidence_asked == 1  # no new evidence: the pool's key did not change


def test_all_processes_restart_and_the_session_goes_on(world: World) -> None:
    with world.session() as session:
        ask(session)
        world.service.restart()
        for node in world.nodes:
            node.restart()
            join(node, world.service)
        time.sleep(1.1)  # the new keyset is newer in whole seconds, or as old
        answer = ask(session)
        assert answer.receipt.receipt.kid == world.nodes[0].sign.kid
        assert world.gateway.evidence_asked == 2


def test_rotation_goes_unnoticed(world: World) -> None:
    with world.session() as session:
        old = ask(session)
        world.service.next_epoch()
        for node in world.nodes:
            join(node, world.service)
        assert ask(session).keyset_sha256 == old.keyset_sha256
        session.verify(fresh=True)
        assert ask(session).keyset_sha256 == Keyset.parse(world.service.pool.keyset).sha256


def test_nodes_own_keys_come_before_the_pool(world: World) -> None:
    world.gateway.evidence_from = lambda value: [node.bundle(value) for node in world.nodes]
    with world.session() as session:
        assert ask(session).accepted.keyset.role == "node"
        assert len(session.verify()) == 3
        assert len(RequestFrame.parse(world.gateway.frames[-1]).header.candidates) == 2


@pytest.mark.parametrize("preset", ["strict", "standard", "evaluate"])
def test_a_pool_is_off_by_default(world: World, preset: str) -> None:
    with world.session(policy=Policy.preset(preset)) as session:
        with pytest.raises(EvidenceRefused) as refused:
            ask(session)
        assert {"pool.allowed", "pool.listed"} <= {check.id for check in refused.value.verdict.refusing}
        assert world.gateway.frames == []


def test_without_the_opt_in_a_pool_beside_nodes_is_not_even_looked_at(world: World) -> None:
    world.gateway.evidence_from = lambda value: [node.bundle(value) for node in world.nodes]
    with world.session(policy=EVALUATE) as session:
        assert ask(session).accepted.keyset.role == "node"
        assert all(one.pool is None for one in session.verify())


def foreign_pool(world: World, pair: Pair) -> Pair:
    """A pool of a key service that the gateway runs itself, beside the honest one's evidence."""
    return KeyServiceStandIn(ENDPOINT, MODEL.weights_sha256).pool.encode(), pair[1]


def foreign_service(world: World, pair: Pair) -> Pair:
    """Another machine, measured as a node is, claims the key service's keyset."""
    value = base64.b64decode(json.loads(pair[1])["challenge"]["value"])
    maker = EvidenceMaker(Node("evil").platform, 10)
    return pair[0], maker.bundle(world.service.keys.keyset, value, time.monotonic())


def signed_by_gateway(world: World, pair: Pair) -> Pair:
    signed = SignedPool.parse(pair[0])
    digest = Keyset.parse(signed.keyset).digest
    sig = Ed25519PrivateKey.generate().sign(pool_keyset_message(digest))
    return SignedPool(signed.keyset, sig, signed.policy).encode(), pair[1]


def other_policy_text(world: World, pair: Pair) -> Pair:
    signed = SignedPool.parse(pair[0])
    text = replace(world.service.release_policy, id="members-2").encode()
    return SignedPool(signed.keyset, signed.sig, text).encode(), pair[1]


def looser_pool(world: World, pair: Pair) -> Pair:
    """The key service does give out a pool under a looser policy; the client did not list that one."""
    loose = KeyServiceStandIn(ENDPOINT, MODEL.weights_sha256)
    loose.keys, loose.evidence = world.service.keys, world.service.evidence
    appraisal = replace(loose.release_policy.appraisal, tcb_statuses=("UpToDate", "OutOfDate"))
    loose.release_policy = replace(loose.release_policy, appraisal=appraisal)
    loose.publish()
    return loose.pool.encode(), pair[1]


def expired_pool(world: World, pair: Pair) -> Pair:
    old = KeyServiceStandIn(ENDPOINT, MODEL.weights_sha256, now=lambda: int(time.time()) - 901)
    old.keys, old.evidence = world.service.keys, world.service.evidence
    old.publish()
    return old.pool.encode(), pair[1]


def replayed_evidence(world: World, pair: Pair) -> Pair:
    return pair[0], offer(world.service)(bytes(32))[0][1]


@pytest.mark.parametrize(
    ("lie", "check"),
    [
        (foreign_pool, "pool.service"),
        (foreign_service, "workload.reference.image-sha256"),
        (signed_by_gateway, "pool.signature"),
        (other_policy_text, "pool.policy-text"),
        (looser_pool, "pool.listed"),
        (expired_pool, "pool.validity"),
        (replayed_evidence, "challenge.nonce"),
    ],
)
def test_a_lying_gateway_gets_nothing(world: World, lie: Callable[[World, Pair], Pair], check: str) -> None:
    honest = offer(world.service)
    world.gateway.pools_from = lambda value: [lie(world, honest(value)[0])]
    with world.session() as session:
        with pytest.raises(EvidenceRefused) as refused:
            ask(session)
        assert check in {one.id for one in refused.value.verdict.refusing}
    assert world.gateway.frames == []


def test_a_pool_weaker_than_the_clients_own_policy_is_refused_though_it_is_listed(world: World) -> None:
    with world.session(max_evidence_age=60) as session, pytest.raises(EvidenceRefused) as refused:
        ask(session)
    assert [one.id for one in refused.value.verdict.refusing] == ["pool.policy-strength"]


def test_an_answer_with_a_foreign_member_certificate_is_an_error(world: World) -> None:
    stranger = Ed25519PrivateKey.generate()
    for node in world.nodes:
        join(node, world.service, stranger.sign)
    with world.session() as session, pytest.raises(MalformedError) as refused:
        ask(session)
    assert refused.value.code == "pool-member-signature"


def test_a_stranger_with_the_pool_keyset_opens_nothing(world: World) -> None:
    world.gateway.nodes = [Node("stranger")]
    with world.session() as session, pytest.raises(StaleEvidence):
        ask(session)


@pytest.mark.parametrize(
    "pools", [[{}], [{"pool": "AA=="}], ["x"], {"pool": 1}, [{"pool": "!!", "bundle": "AA=="}] * 3]
)
def test_pools_that_do_not_parse(world: World, pools: Any) -> None:
    document = {"v": "evidence-set/1", "endpoint": ENDPOINT, "bundles": [], "pools": pools}
    world.gateway.canned_evidence.append(Canned(200, "application/json", json.dumps(document).encode()))
    with world.session() as session, pytest.raises(MalformedError):
        ask(session)
