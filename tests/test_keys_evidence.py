# SPDX-License-Identifier: Apache-2.0
"""Evidence that is wrong in one thing gets no key: every case of the verifier's own tests, asked of the release desk.

The desk, the service and the SQLite journal are real; the ledger is a list, and nobody countersigns (quorum 0).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge_bundle import ENDPOINT, EVALUATE, NONCE, NOW, Forge, hpke_key, keyset
from keys_support import KEYSET, House, key_args, new_house, ring_args
from test_appraise_mutations import CASES, Case

from teehouse_core.appraise.policy import Policy
from teehouse_core.log.entry import AuditEntry
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.grant import Grant, Release, ReleaseAnswer, ReleaseRequest, challenge_value
from teehouse_core.wire.keyset import HpkeKey, Keyset, Software, key_id
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.challenges import Challenges
from teehouse_enclave.keys.commands import authorise
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.identity import ServiceKeys
from teehouse_enclave.keys.journal import Record, tenant_log
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.model import Change
from teehouse_enclave.keys.outbound import LedgerClient
from teehouse_enclave.keys.policy import ReleasePolicy
from teehouse_enclave.keys.pools import PoolDesk
from teehouse_enclave.keys.release import ReleaseDesk, ReleaseRefused
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.start import log_key_of, open_books
from teehouse_enclave.keys.vault import Vault

pytestmark = pytest.mark.anyio
TENANT_LOG_KEY = Ed25519PrivateKey.generate()
ROLES = ("node", "group", "member")
ASKED = [case for case in CASES if case.nonce == NONCE]


class ListLedger(LedgerClient):
    """Takes everything, remembers sizes."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}

    async def sizes(self, log: str) -> tuple[int, int]:
        return self.held.get(log, 0), 0

    async def append(self, log: str, records: Sequence[Record]) -> int:
        self.held[log] = records[-1].index + 1
        return self.held[log]

    async def publish(self, log: str, note: bytes) -> None:
        assert note


@dataclass
class Bench:
    desk: Desk
    releases: ReleaseDesk
    house: House
    clock: list[int]
    made: int = 0

    async def command(self, op: str, args: dict[str, Any], ring: str = "") -> None:
        state = self.desk.service.state(self.house.tenant)
        self.house.state = state
        request = self.house.request(op, args, ring=ring)
        tools = self.desk.tools(self.house.tenant)

        def propose(at: Any, now: int) -> Change:
            return authorise(at, request, {KEYSET}, now, tools)

        await self.desk.service.commit(self.house.tenant, propose)

    async def key(self, policy: ReleasePolicy) -> str:
        self.made += 1
        name = f"k{self.made}"
        await self.command("key.create", key_args(name, policy=_b64(policy)), ring="data")
        return name

    def body(self, key: str, forge: Forge, pool: str = "") -> tuple[bytes, bytes, bytes]:
        """Body, request and bundle of a release over a fresh challenge."""
        named, drawn = self.releases.challenge()
        forge.kind = 3 if forge.kind == 1 else forge.kind
        forge.value = challenge_value(bytes.fromhex(named), drawn)
        bundle = forge.bytes()
        request = ReleaseRequest(named, self.house.tenant, "data", key, "1", pool).encode()
        return Release(request, bundle).encode(), request, bundle

    def log(self) -> list[AuditEntry]:
        journal, log = self.desk.service.journal, tenant_log(self.house.tenant)
        return [AuditEntry.parse(record.leaf) for record in journal.read(log, 0, 4096)]


def _b64(policy: ReleasePolicy) -> str:
    from teehouse_core.wire.canonical import b64u

    return b64u(policy.raw)


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    clock = [NOW]
    root = Root(secrets.token_bytes(32))
    journal = SqliteJournal(folder / "journal.db")
    log_key = log_key_of(root)
    outside = Outside(ListLedger(), {}, WitnessPolicy.none())
    service = Service(
        origin="tks.example", journal=journal, box=Box(root), log_key=log_key, outside=outside, now=lambda: clock[0]
    )
    await open_books(service, log_key)
    line = asyncio.create_task(service.run())
    keys = ServiceKeys("tks", Software("1", "aa" * 32, "bb" * 32), log_key, NOW, active=10**8)
    desk = Desk(service, keys, Vault(Box(root)), lambda: clock[0], lambda: 0.0)
    releases = ReleaseDesk(desk, PoolDesk(desk, lambda *_: None), Challenges(1000))
    house = new_house()  # for its admins' signatures; its state is the service's
    made = Bench(desk, releases, house, clock)
    try:
        first = house.request("tenant.create", _tenant_args(), seq=1)
        await service.commit(
            house.tenant, lambda at, now: authorise(at, first, {KEYSET}, now, desk.tools(house.tenant))
        )
        await made.command("ring.create", ring_args("data"))
        yield made
    finally:
        line.cancel()
        await asyncio.gather(line, return_exceptions=True)
        service.stop()
        journal.close()


def _tenant_args() -> dict[str, Any]:
    from keys_support import tenant_args

    return tenant_args()


def policy_of(appraisal: Policy, *endpoints: str, roles: Sequence[str] = ROLES) -> ReleasePolicy:
    return ReleasePolicy.build(id="p", appraisal=appraisal, roles=roles, endpoints=endpoints)


def good_keyset(**changes: Any) -> bytes:
    one_time = generate_key()
    listed = HpkeKey(key_id(one_time.suite, one_time.pk), one_time.suite, one_time.pk, NOW, NOW + 300)
    return keyset(hpke=[listed], **changes)


async def refused(at: Bench, key: str, forge: Forge, **how: Any) -> tuple[ReleaseRefused, bytes, bytes]:
    body, request, bundle = at.body(key, forge, **how)
    with pytest.raises(ReleaseRefused) as caught:
        await at.releases.release(body)
    return caught.value, request, bundle


async def test_every_single_wrong_check_is_refused_and_named(tmp_path: Path) -> None:
    """The failed checks of the verdict stand in the reply and in the log, the same ones, and nothing else does."""
    unusable: list[str] = []
    asked = 0
    async with bench(tmp_path) as at:
        for case in ASKED:
            try:
                policy = policy_of(case.policy, case.endpoint)
            except KeysError:
                unusable.append(case.name)  # a policy that contradicts itself can be no release policy at all
                continue
            at.clock[0] = NOW
            key = await at.key(policy)
            at.clock[0] = case.now
            asked += await _one(at, key, case)
        assert len(unusable) <= 3, unusable
        assert asked > 90
        granted = [entry for entry in at.log() if entry.decision == "granted"]
        assert granted == []


async def _one(at: Bench, key: str, case: Case) -> bool:
    forge = case.forge()
    if forge.kind != 1 or forge.value != NONCE:
        return False  # wrong in the challenge alone: below
    before = len(at.log())
    error, request, bundle = await refused(at, key, forge)
    told = {check["id"] for check in error.members["failed_checks"]}
    expected = case.failing - {"challenge.nonce", "challenge.kind"}
    assert expected <= told, case.name
    assert told <= case.failing | {"release.one-time-key"}, case.name
    entries = at.log()
    assert len(entries) == before + 1
    entry = entries[-1]
    assert (entry.op, entry.decision, entry.key) == ("key.release", "refused", key)
    assert entry.reason == error.code == "evidence-refused"
    assert set(entry.failed_checks) == told
    assert entry.request_sha256 == hashlib.sha256(request).hexdigest()
    assert entry.evidence_sha256 == hashlib.sha256(bundle).hexdigest()
    assert error.members["entry"]["index"] == len(entries) - 1
    return True


async def test_good_evidence_is_granted_and_deny_is_the_default(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        key = await at.key(policy_of(EVALUATE, ENDPOINT))
        good = good_keyset()
        answer = await at.releases.release(at.body(key, Forge(keyset=good))[0])
        assert isinstance(answer, ReleaseAnswer)
        assert Grant.parse(answer.grant).requester_keyset_sha256 == Keyset.parse(good).sha256
        await at.command("key.create", {**key_args("nobody"), "policy": ""}, ring="data")
        error, *_ = await refused(at, "nobody", Forge(keyset=good))
        assert {"binding.role", "binding.endpoint"} <= {check["id"] for check in error.members["failed_checks"]}


@pytest.mark.parametrize(
    ("policy", "forge", "check"),
    [
        (policy_of(EVALUATE, "ep-other"), Forge(), "binding.endpoint"),
        (policy_of(EVALUATE), Forge(), "binding.endpoint"),
        (policy_of(EVALUATE, ENDPOINT, roles=("member",)), Forge(), "binding.role"),
        (policy_of(EVALUATE, ENDPOINT, roles=()), Forge(), "binding.role"),
        (policy_of(EVALUATE, ENDPOINT), Forge(keyset=keyset(hpke=[hpke_key(), hpke_key()])), "release.one-time-key"),
        (policy_of(EVALUATE, ENDPOINT), Forge(keyset=keyset(hpke=[hpke_key()])), "release.one-time-key"),
        (policy_of(Policy.preset("strict"), ENDPOINT), Forge(), "policy.platform"),
    ],
)
async def test_what_a_release_policy_adds(tmp_path: Path, policy: ReleasePolicy, forge: Forge, check: str) -> None:
    async with bench(tmp_path) as at:
        error, *_ = await refused(at, await at.key(policy), forge)
        assert check in {failed["id"] for failed in error.members["failed_checks"]}
        assert check in at.log()[-1].failed_checks


async def test_an_unknown_pool_keyset_is_refused_by_name(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        key = await at.key(policy_of(EVALUATE, ENDPOINT))
        error, *_ = await refused(at, key, Forge(keyset=good_keyset()), pool="ab" * 32)
        told = [check["id"] for check in error.members["failed_checks"]]
        assert told == ["release.pool-keyset", "release.sign-key"]
        assert at.log()[-1].failed_checks == tuple(told)


async def test_challenges_are_used_once_and_end(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        key = await at.key(policy_of(EVALUATE, ENDPOINT))
        body, _, _ = at.body(key, Forge(keyset=good_keyset()))
        await at.releases.release(body)
        size = len(at.log())
        for given, code in ((body, "challenge-used"), (at.body(key, Forge(kind=2))[0], "evidence-refused")):
            with pytest.raises(KeysError) as caught:
                await at.releases.release(given)
            assert caught.value.code == code
        assert len(at.log()) == size, "an entry costs a challenge"


async def test_a_disabled_key_is_refused_in_the_log_too(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        key = await at.key(policy_of(EVALUATE, ENDPOINT))
        await at.command("key.disable", {"key": key}, ring="data")
        error, *_ = await refused(at, key, Forge(keyset=good_keyset()))
        assert (error.code, error.status) == ("wrong-state", 409)
        assert (at.log()[-1].decision, at.log()[-1].reason) == ("refused", "wrong-state")


async def test_foreign_objects_look_like_unknown_ones(tmp_path: Path) -> None:
    async with bench(tmp_path) as at:
        key = await at.key(policy_of(EVALUATE, ENDPOINT))
        size, seen = len(at.log()), set()
        for tenant, ring, name in (
            ("t-" + "00" * 16, "data", key),
            (at.house.tenant, "no", key),
            (at.house.tenant, "data", "no"),
        ):
            named, drawn = at.releases.challenge()
            forge = Forge(kind=3, value=challenge_value(bytes.fromhex(named), drawn))
            request = ReleaseRequest(named, tenant, ring, name, "1").encode()
            with pytest.raises(KeysError) as caught:
                await at.releases.release(Release(request, forge.bytes()).encode())
            seen.add((caught.value.code, caught.value.message, caught.value.hint))
        assert seen == {("unknown-key", "no such key", None)}
        assert len(at.log()) == size
