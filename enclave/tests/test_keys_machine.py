# SPDX-License-Identifier: Apache-2.0
"""Random commands against one tenant: a refused one changes nothing, the accepted ones replay to the same state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from keys_support import (
    NOTHING_SEALED,
    House,
    good_policy,
    key_args,
    new_house,
    pool_args,
    ring_args,
    rotate_args,
    sealed_args,
)

from teehouse_core.wire.canonical import b64u
from teehouse_enclave.keys import commands
from teehouse_enclave.keys.codec import decode_state, encode_state
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.fold import fold_all
from teehouse_enclave.keys.model import DESTROYED, NO_END
from teehouse_enclave.keys.policy import preset

RINGS = ("r", "s", "t")
enough = st.sampled_from([(1, 2), (2, 3), (1, 2, 3)])
signers = enough | enough | enough | st.sampled_from([(1,), (), (1, 9), (1, 1)])
names = st.sampled_from(["k", "k", "l"])
rings = st.sampled_from(["r", "r", "s", "s", "t"])
POLICIES = ("", b64u(good_policy().raw), b64u(preset("strict", "other", "ep-1").raw), "AAAA")


class Tenant(RuleBasedStateMachine):
    house: House

    @initialize()
    def start(self) -> None:
        self.house = new_house()
        self.house.do("ring.create", ring_args("r"))
        self.house.do("ring.create", ring_args("s", "session"))
        self.house.do("key.create", key_args("k"), ring="r")
        self.house.do("key.create", key_args("k", "mlkem768x25519"), ring="s")

    def attempt(self, op: str, args: dict[str, Any], **how: Any) -> None:
        house = self.house
        before, slots, deltas = house.state, dict(house.slots), len(house.deltas)
        request = house.request(op, args, **how)
        try:
            house.commit(house.decide(request))
        except KeysError:
            assert house.state == before
            assert house.slots == slots
            assert len(house.deltas) == deltas
            return
        assert len(set(how["by"])) >= 2, "accepted with too few signatures"
        assert len(house.deltas) == deltas + 1
        with pytest.raises(KeysError) as caught:
            house.decide(request)
        assert caught.value.code == "replayed"

    @rule(name=st.sampled_from(RINGS), usage=st.sampled_from(["data", "session", "compat"]), by=signers)
    def ring(self, name: str, usage: str, by: tuple[int, ...]) -> None:
        self.attempt("ring.create", ring_args(name, usage), by=by)

    @rule(
        ring=rings,
        key=names,
        algorithm=st.sampled_from(["aes256", "aes128", "mlkem768x25519"]),
        policy=st.sampled_from(POLICIES),
        by=signers,
    )
    def create(self, ring: str, key: str, algorithm: str, policy: str, by: tuple[int, ...]) -> None:
        self.attempt("key.create", key_args(key, algorithm, policy=policy), ring=ring, by=by)

    @rule(
        ring=rings,
        key=names,
        op=st.sampled_from(["key.disable", "key.enable", "key.destroy", "key.cancel-destroy"]),
        by=signers,
    )
    def step(self, ring: str, key: str, op: str, by: tuple[int, ...]) -> None:
        self.attempt(op, {"key": key}, ring=ring, by=by)

    @rule(
        ring=rings,
        key=names,
        overlap=st.sampled_from([0, 1, 86400]),
        keep=st.booleans(),
        by=signers,
    )
    def rotate(self, ring: str, key: str, overlap: int, keep: bool, by: tuple[int, ...]) -> None:
        self.attempt("key.rotate", rotate_args(key, overlap, keep=keep, **NOTHING_SEALED), ring=ring, by=by)

    @rule(ring=rings, key=names, policy=st.sampled_from(POLICIES), by=signers)
    def policy(self, ring: str, key: str, policy: str, by: tuple[int, ...]) -> None:
        self.attempt("key.policy", {"key": key, "policy": policy}, ring=ring, by=by)

    @rule(
        ring=rings,
        key=names,
        secret=st.sampled_from([bytes(range(32)), bytes(range(16)), bytes(32)]),
        rotate=st.booleans(),
        by=signers,
    )
    def bring(self, ring: str, key: str, secret: bytes, rotate: bool, by: tuple[int, ...]) -> None:
        members, payload = sealed_args(self.house, ring, key, "aes256", secret)
        op, args = ("key.rotate", rotate_args(key)) if rotate else ("key.import", key_args(key))
        self.attempt(op, {**args, **members}, ring=ring, by=by, payload=payload)

    @rule(ring=rings, key=names, end=st.booleans(), by=signers)
    def pool(self, ring: str, key: str, end: bool, by: tuple[int, ...]) -> None:
        if end:
            self.attempt("pool.delete", {"endpoint": "ep-1"}, ring=ring, by=by)
        else:
            self.attempt("pool.create", pool_args(key=key), ring=ring, by=by)

    @rule()
    def next_epoch(self) -> None:
        """What the service does by itself takes no seq."""
        state = self.house.state
        assert state is not None
        for endpoint, pool in state.pools.items():
            before = state.rings[pool.ring]
            if before.keys[pool.key].state != "active":
                continue
            self.house.commit(commands.rotate_pool(state, endpoint, self.house.now, self.house.tools))
            after = self.house.state.rings[pool.ring]
            assert (after.seq, after.last_command) == (before.seq, before.last_command)
            assert after.keys[pool.key].newest == before.keys[pool.key].newest + 1

    @rule(seconds=st.sampled_from([1, 3600, 8 * 86400]))
    def wait(self, seconds: int) -> None:
        house = self.house
        house.now += seconds
        assert house.state is not None
        for change in commands.due(house.state, house.now):
            house.commit(change)
        assert commands.due(house.state, house.now) == []

    def teardown(self) -> None:
        """The journal alone gives the state, and so does a snapshot from any point of it with the rest."""
        house = self.house
        assert house.state is not None
        assert fold_all(house.deltas) == house.state
        assert decode_state(encode_state(house.state)) == house.state
        half = len(house.deltas) // 2
        snapshot = fold_all(house.deltas[: half + 1])
        assert snapshot is not None
        assert fold_all(house.deltas[half + 1 :], decode_state(encode_state(snapshot))) == house.state

    @invariant()
    def living_versions_open_and_dead_ones_are_gone(self) -> None:
        state = self.house.state
        assert state is not None
        living = set()
        for ring, key in state.all_keys():
            for version in key.versions:
                if not version.destroyed:
                    living.add(version.slot)
                    assert len(self.house.secret(ring.id, key.id, version.number)) in (16, 32)
                else:
                    assert version.wrapped == b""
            if key.state == DESTROYED:
                assert all(version.destroyed for version in key.versions)
                assert not any((pool.ring, pool.key) == (ring.id, key.id) for pool in state.pools.values())
            else:
                assert key.current is not None
                assert key.current.opens_until == NO_END
        assert living == set(self.house.slots)


Tenant.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTenant = Tenant.TestCase
