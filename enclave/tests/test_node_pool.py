# SPDX-License-Identifier: Apache-2.0
"""A node takes pool keys and data keys from the key service it appraised, and from no other."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from node_support import ENDPOINT, LAST, Node, ScriptedEngine, chunk, running_node
from pool_support import EVALUATE, KEY, RING, SERVICE_POLICY, TENANT, KeyServiceStandIn, edit_json, reply

from teehouse_core.appraise.policy_pool import PoolPolicy
from teehouse_core.appraise.policy_references import References
from teehouse_core.appraise.pool import appraise_pool
from teehouse_core.appraise.verdict import Accepted
from teehouse_core.errors import LocalError, OperatorError, RefusedError, TeehouseError
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.pool import SignedPool, pool_keyset_message
from teehouse_enclave.node.config import KeyServiceConfig, NodeConfig, PoolConfig
from teehouse_enclave.node.pool import PoolKeys
from teehouse_enclave.node.release import KeyServiceClient

pytestmark = pytest.mark.anyio
ANSWER = [chunk("pooled"), LAST]
CONFIG = KeyServiceConfig("http://tks.test", SERVICE_POLICY)
POOL = PoolConfig(TENANT, RING, KEY)


def engine() -> ScriptedEngine:
    return ScriptedEngine(ANSWER)


def key_client(node: Node, service: KeyServiceStandIn, config: KeyServiceConfig = CONFIG) -> KeyServiceClient:
    keys = node.keys
    return KeyServiceClient(
        service.client(), config, node.app._evidence, keys._identity, keys.sign_key, lambda: node.app._room.now()
    )


def pool_keys(node: Node, service: KeyServiceStandIn, config: PoolConfig = POOL) -> PoolKeys:
    client = key_client(node, service)
    return PoolKeys(client, config, node.keys.ring, ENDPOINT, node.keys.sign_key, lambda: node.app._room.now())


@contextlib.asynccontextmanager
async def pooled() -> AsyncIterator[tuple[Node, KeyServiceStandIn, PoolKeys]]:
    service = KeyServiceStandIn(ENDPOINT, "ab" * 32)
    async with running_node(engine()) as node:
        yield node, service, pool_keys(node, service)


def accept_pool(service: KeyServiceStandIn) -> Accepted:
    """What a client does: the key service's evidence, the pool, a policy that lists the release policy."""
    nonce = secrets.token_bytes(32)
    bundle = service.answer("GET", "/v1/evidence", {"challenge": b64u(nonce)}, b"")
    policy = replace(
        EVALUATE,
        roles=("node", "pool"),
        pool=PoolPolicy((service.release_policy.sha256,), False),
        key_service=References(image_sha256=SERVICE_POLICY.references.image_sha256),
    )
    verdict = appraise_pool(service.pool.encode(), bundle, policy, int(time.time()), endpoint=ENDPOINT, nonce=nonce)
    return verdict.accept()


async def test_a_node_fetches_the_pool_key_and_answers_for_the_pool() -> None:
    async with pooled() as (node, service, pool):
        assert await pool.tick()
        assert pool.held
        assert not await pool.tick()  # nothing new
        accepted = accept_pool(service)
        answer = await node.ask({"messages": [{"role": "user", "content": "x"}], "stream": True}, accepted=accepted)
        assert answer.texts() == "pooled"
        assert answer.end is not None
        assert answer.end.receipt.keyset_sha256 == accepted.keyset.sha256
        assert answer.end.receipt.kid == node.keys.sign_kid
        assert service.released == ["node-t"]
        ready = (await node.http.get(f"{node.url}/readyz")).json()
        assert set(ready["keysets"]) == {accepted.keyset.sha256, node.keys.keyset.sha256}


async def test_two_nodes_share_the_key_and_either_answers() -> None:
    service = KeyServiceStandIn(ENDPOINT, "ab" * 32)
    async with running_node(engine()) as one, running_node(engine()) as two:
        for node in (one, two):
            assert await pool_keys(node, service).tick()
        accepted = accept_pool(service)
        for node in (two, one):
            answer = await node.ask({"messages": [], "stream": True}, accepted=accepted)
            assert answer.end is not None
            assert answer.end.receipt.kid == node.keys.sign_kid


async def test_rotation_overlaps_and_the_old_keyset_is_served_to_its_end() -> None:
    async with pooled() as (node, service, pool):
        await pool.tick()
        old = accept_pool(service)
        service.next_epoch()
        assert await pool.tick()
        new = accept_pool(service)
        assert len(new.keyset.hpke) == 2
        for accepted in (old, new):
            answer = await node.ask({"messages": [], "stream": True}, accepted=accepted)
            assert answer.end is not None
            assert answer.end.receipt.keyset_sha256 == accepted.keyset.sha256


async def test_a_restart_of_the_key_service_and_of_the_node() -> None:
    async with pooled() as (node, service, pool):
        await pool.tick()
        old = accept_pool(service)
        service.restart()
        assert await pool.tick()
        for accepted in (old, accept_pool(service)):
            assert (await node.ask({"messages": [], "stream": True}, accepted=accepted)).end is not None
    async with running_node(engine()) as again:
        assert await pool_keys(again, service).tick()
        answer = await again.ask({"messages": [], "stream": True}, accepted=accept_pool(service))
        assert answer.end is not None


@pytest.mark.parametrize("path", ["/v1/evidence", f"/v1/pools/{ENDPOINT}", "/v1/release/challenge", "/v1/release"])
async def test_failures_never_evict_a_good_key(path: str) -> None:
    async with pooled() as (node, service, pool):
        await pool.tick()
        accepted = accept_pool(service)
        service.fail.add(path)
        service.restart()
        service.next_epoch()
        with pytest.raises(OperatorError) as failed:
            await pool.tick()
        assert failed.value.code == "tks-unavailable"
        assert pool.held
        assert (await node.ask({"messages": [], "stream": True}, accepted=accepted)).end is not None
        service.fail.clear()
        assert await pool.tick()


async def test_a_key_service_that_does_not_satisfy_the_measured_policy_is_refused() -> None:
    strict = replace(SERVICE_POLICY, references=References(image_sha256=("00" * 32,)))
    async with pooled() as (node, service, _):
        client = key_client(node, service, KeyServiceConfig("http://tks.test", strict))
        with pytest.raises(RefusedError) as refused:
            await client.release(tenant=TENANT, ring=RING, key=KEY, version="1")
        assert refused.value.code == "evidence-refused"
        assert "/v1/release" not in service.asked


async def test_a_simulated_key_service_is_refused_by_a_hardware_node(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pooled() as (node, _, pool):
        monkeypatch.setattr(type(node.app._evidence), "platform_type", "tdx")
        with pytest.raises(RefusedError) as refused:
            await pool.tick()
        assert refused.value.code == "tks-simulated"


async def test_a_node_is_no_key_service() -> None:
    async with pooled() as (node, service, pool):
        nonce_of: dict[str, str] = {}

        def other(request: httpx2.Request) -> httpx2.Response:
            if request.url.path == "/v1/evidence":
                nonce_of["it"] = request.url.params["challenge"]
                body = node.app._evidence.bundle(node.keys.keyset, unb64u(nonce_of["it"], 32), time.monotonic())
                return reply(200, body)
            return service.handle(request)

        pool._client._http = httpx2.AsyncClient(transport=httpx2.MockTransport(other))
        with pytest.raises(RefusedError):
            await pool.tick()
        assert nonce_of


def foreign_signature(body: bytes) -> bytes:
    signed = SignedPool.parse(body)
    stranger = Ed25519PrivateKey.generate()
    digest = Keyset.parse(signed.keyset).digest
    return SignedPool(signed.keyset, stranger.sign(pool_keyset_message(digest)), signed.policy).encode()


def flipped(member: str) -> Callable[[bytes], bytes]:
    def change(document: dict[str, Any]) -> None:
        raw = bytearray(unb64u(document[member]))
        raw[-1] ^= 1
        document[member] = b64u(bytes(raw))

    return edit_json(change)


def without_member(body: bytes) -> bytes:
    return edit_json(lambda document: document.update(member="", member_sig=""))(body)


@pytest.mark.parametrize(
    ("path", "spoil", "code"),
    [
        (f"/v1/pools/{ENDPOINT}", foreign_signature, "pool-signature"),
        ("/v1/release", flipped("sig"), "grant-signature"),
        ("/v1/release", flipped("grant"), "grant-signature"),
        ("/v1/release", flipped("sealed"), "envelope"),
        ("/v1/release", flipped("member_sig"), "pool-member-signature"),
        ("/v1/release", flipped("member"), "pool-member-signature"),
        ("/v1/release", without_member, "pool-key"),
        (
            "/v1/release/challenge",
            edit_json(lambda d: d.update(tks_keyset_sha256="00" * 32)),
            "tks-keyset",
        ),
        ("/v1/release/challenge", edit_json(lambda d: d.update(challenge=b64u(bytes(32)))), "tks-refused"),
        ("/v1/release", lambda _: b"x" * 300_000, "document-too-large"),
    ],
)
async def test_a_lying_path_gets_no_key_into_the_ring(path: str, spoil: Callable[[bytes], bytes], code: str) -> None:
    async with pooled() as (node, service, pool):
        service.spoil = lambda at, body: spoil(body) if at == path else body
        with pytest.raises(TeehouseError) as refused:
            await pool.tick()
        assert refused.value.code == code
        assert not pool.held
        assert node.keys.ring.keysets(int(time.time())) == [node.keys.keyset.sha256]
        service.spoil = lambda _at, body: body
        assert await pool.tick()


async def test_an_answer_to_another_request_is_refused() -> None:
    """The path gives this node the grant of an earlier release."""
    async with pooled() as (_, service, pool):
        await pool.tick()
        old: list[bytes] = []
        service.spoil = lambda at, body: old.append(body) or body if at == "/v1/release" else body
        service.next_epoch()
        assert await pool.tick()
        service.spoil = lambda at, body: old[0] if at == "/v1/release" else body
        service.next_epoch()
        with pytest.raises(RefusedError) as refused:
            await pool.tick()
        assert refused.value.code == "grant-other-request"


@pytest.mark.parametrize("config", [PoolConfig(TENANT, "ring-2", KEY), PoolConfig(TENANT, RING, "key-2")])
async def test_a_pool_that_the_configuration_does_not_name_is_refused(config: PoolConfig) -> None:
    service = KeyServiceStandIn(ENDPOINT, "ab" * 32)
    async with running_node(engine()) as node:
        with pytest.raises(RefusedError) as refused:
            await pool_keys(node, service, config).tick()
        assert refused.value.code == "pool-other"


async def test_a_pool_keyset_that_is_over_is_refused() -> None:
    async with pooled() as (node, _, pool):
        node.shift[0] = 901
        with pytest.raises(TeehouseError):
            await pool.tick()
        assert not pool.held


async def test_a_data_key_is_released_and_checked() -> None:
    async with pooled() as (node, service, _):
        client = key_client(node, service)
        released = await client.get_data_key(TENANT, "data", "weights", "1")
        assert released.key == service.data_key.secret
        assert released.grant.algorithm == "aes256"
        assert released.member is None


async def test_evidence_that_the_release_policy_refuses_gets_nothing() -> None:
    async with pooled() as (_, service, pool):
        service.release_policy = replace(
            service.release_policy,
            appraisal=replace(
                service.release_policy.appraisal, references=References(weights_sha256=("ab" * 32,), release=("other",))
            ),
        )
        service.publish()
        with pytest.raises(RefusedError) as refused:
            await pool.tick()
        assert (refused.value.code, refused.value.hint) == ("tks-refused", "evidence-refused")


def node_config(**changes: Any) -> dict[str, Any]:
    base = {"endpoint": ENDPOINT, "node": "n", "release": "r", "image_sha256": "00" * 32, "engine": {"kind": "echo"}}
    return {**base, **changes}


SERVICE = {"url": "http://127.0.0.1:1", "policy": {"base": "evaluate", "roles": ["key-service"]}}


async def test_the_policy_of_the_key_service_is_measured_and_its_address_is_not() -> None:
    plain = NodeConfig.parse(node_config())
    one = NodeConfig.parse(node_config(key_service=SERVICE))
    moved = NodeConfig.parse(node_config(key_service={**SERVICE, "url": "http://127.0.0.1:2"}))
    other = {"base": "evaluate", "roles": ["key-service"], "max_evidence_age": 60}
    looser = NodeConfig.parse(node_config(key_service={**SERVICE, "policy": other}))
    assert one.config_sha256 == moved.config_sha256
    assert len({plain.config_sha256, one.config_sha256, looser.config_sha256}) == 3
    pool = {"tenant": TENANT, "ring": RING, "key": KEY}
    in_pool = NodeConfig.parse(node_config(key_service=SERVICE, pool=pool))
    assert in_pool.pool == POOL
    assert in_pool.config_sha256 != one.config_sha256


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"key_service": {"url": "http://127.0.0.1:1"}}, "key-service-policy"),
        ({"key_service": {**SERVICE, "policy": {"base": "evaluate"}}}, "config-value"),
        ({"key_service": {**SERVICE, "url": "file:///x"}}, "config-value"),
        ({"key_service": {**SERVICE, "token": "x"}}, "config-unknown"),
        ({"pool": {"tenant": "t", "ring": "r", "key": "k"}}, "key-service-policy"),
        ({"key_service": SERVICE, "pool": {"tenant": "t", "ring": "r"}}, "config-value"),
        ({"key_service": SERVICE, "ledger": {"url": "http://127.0.0.1:1", "every_s": 601}}, "config-value"),
        ({"ledger": {"url": "http://127.0.0.1:1"}}, "key-service-policy"),
    ],
)
async def test_a_key_service_without_a_policy_is_no_configuration(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as refused:
        NodeConfig.parse(node_config(**changes))
    assert refused.value.code == code
