# SPDX-License-Identifier: Apache-2.0
"""Commands to the key service: who may, what happens, what is refused with which code."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from keys_support import (
    KEYSET,
    NOTHING_SEALED,
    NOW,
    House,
    admin_set,
    good_policy,
    key_args,
    new_house,
    pool_args,
    ring_args,
    rotate_args,
    sealed_args,
    tenant_args,
)

from teehouse_core.appraise.policy import Policy
from teehouse_core.seal.commands import open_export
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.commands import MAX_COMMAND, CommandRequest, tenant_id
from teehouse_enclave.keys import commands, ops
from teehouse_enclave.keys.algorithms import MAX_IMPORT
from teehouse_enclave.keys.codec import decode_state, encode_state
from teehouse_enclave.keys.commands import CompatCall
from teehouse_enclave.keys.errors import CODES, KeysError
from teehouse_enclave.keys.fold import fold_all
from teehouse_enclave.keys.model import GRACE_SECONDS, State
from teehouse_enclave.keys.policy import DENY, ReleasePolicy, preset


def refused(house: House, code: str, op: str, args: dict[str, Any], **how: Any) -> KeysError:
    """The command is refused with this code, and nothing has changed."""
    before, slots, state = list(house.deltas), dict(house.slots), house.state
    with pytest.raises(KeysError) as caught:
        house.do(op, args, **how)
    assert caught.value.code == code
    assert caught.value.status == CODES[code]
    assert (house.deltas, house.slots, house.state) == (before, slots, state)
    return caught.value


def held(house: House) -> State:
    assert house.state is not None
    return house.state


def session_house() -> House:
    house = new_house()
    house.do("ring.create", ring_args("chat", "session"))
    house.do("key.create", key_args("pool", "mlkem768x25519"), ring="chat")
    return house


def test_a_tenant_takes_the_id_that_its_arguments_give() -> None:
    house = new_house()
    assert held(house).tenant == house.tenant
    assert held(house).labels["name"] == "客户甲"
    assert house.changes[0].entry.op == "tenant.create"
    assert len(house.changes[0].entry.actors) == 2
    fresh = House(tenant="t-" + "00" * 16)
    refused(fresh, "tenant-id", "tenant.create", tenant_args())
    fresh.tenant = house.tenant
    refused(fresh, "not-enough-signatures", "tenant.create", tenant_args(), by=(1,))
    refused(fresh, "bad-args", "tenant.create", tenant_args(), seq=2)
    refused(fresh, "unknown-tenant", "ring.create", ring_args("r"))
    refused(house, "tenant-exists", "tenant.create", tenant_args(), seq=1)


@pytest.mark.parametrize("by", [(), (1,), (1, 1), (1, 9), (9, 8)])
def test_fewer_than_m_distinct_admins_command_nothing(by: tuple[int, ...]) -> None:
    house = new_house()
    code = "not-enough-signatures" if 1 in by else "unknown-tenant"
    refused(house, code, "ring.create", ring_args("r"), by=by)


def test_a_signature_holds_for_its_own_bytes_only() -> None:
    house = new_house()
    one = house.request("ring.create", ring_args("r"))
    other = house.request("ring.create", ring_args("r2"))
    with pytest.raises(KeysError, match="unknown-tenant"):
        house.decide(CommandRequest(other.command, one.signatures))


def test_seq_is_exact_in_each_scope_and_a_repeat_is_told_from_a_conflict() -> None:
    house = new_house()
    request = house.request("ring.create", ring_args("r"))
    house.commit(house.decide(request))
    with pytest.raises(KeysError) as caught:
        house.decide(request)
    assert caught.value.code == "replayed"
    assert "next seq is 3" in str(refused(house, "wrong-seq", "ring.create", ring_args("q"), seq=2).hint)
    refused(house, "wrong-seq", "ring.create", ring_args("q"), seq=4)
    house.do("key.create", key_args("k"), ring="r", seq=1)
    refused(house, "wrong-seq", "key.disable", {"key": "k"}, ring="r", seq=1)


def test_a_command_is_for_one_keyset_and_for_a_while() -> None:
    house = new_house()
    refused(house, "unknown-keyset", "ring.create", ring_args("r"), tks_keyset_sha256="cd" * 32)
    refused(house, "expired", "ring.create", ring_args("r"), expires_at=house.now - 1)
    refused(house, "expires-too-late", "ring.create", ring_args("r"), expires_at=house.now + 8 * 86400)
    house.do("ring.create", ring_args("r"), expires_at=house.now)


def test_a_foreign_ring_is_an_unknown_one() -> None:
    house = new_house()
    house.do("ring.create", ring_args("theirs", "data", 1, 4))
    house.do("ring.create", ring_args("ours", "data", 1, 5))
    args = key_args("k")
    one = refused(house, "unknown-ring", "key.create", args, ring="theirs", by=(5,))
    two = refused(house, "unknown-ring", "key.create", args, ring="nowhere", by=(5,))
    assert str(one) == str(two)
    assert one.hint == two.hint
    refused(house, "unknown-tenant", "key.create", args, ring="theirs", by=(9,))
    refused(house, "not-enough-signatures", "key.create", args, ring="theirs", by=(1, 2))  # the tenant sees its rings
    house.do("key.create", args, ring="theirs", by=(4,))


def test_the_old_admins_change_the_set() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    new = {"admins": admin_set(1, 7).to_json()}
    refused(house, "unknown-tenant", "ring.admins", new, ring="r", by=(7,))
    house.do("ring.admins", new, ring="r", by=(1, 3))
    refused(house, "not-enough-signatures", "key.create", key_args("k"), ring="r", by=(1, 2))
    house.do("key.create", key_args("k"), ring="r", by=(7,))
    house.do("tenant.admins", {"admins": admin_set(1, 8).to_json()})
    house.do("ring.create", ring_args("q"), by=(8,))


@pytest.mark.parametrize(
    "admins",
    [
        {"threshold": 0, "keys": []},
        {"threshold": 0, "keys": admin_set(1, 1).to_json()["keys"]},
        {"threshold": 2, "keys": admin_set(1, 1).to_json()["keys"]},
        {"threshold": 1, "keys": admin_set(1, 1).to_json()["keys"] * 2},
        {"threshold": 1, "keys": [{**admin_set(1, 1).to_json()["keys"][0], "kid": "00" * 16}]},
    ],
)
def test_an_admin_set_that_nobody_or_anybody_could_use_is_refused(admins: Any) -> None:
    refused(new_house(), "bad-args", "tenant.admins", {"admins": admins})


@pytest.mark.parametrize("algorithm", ["aes256", "aes128"])
def test_create_rotate_export(algorithm: str) -> None:
    house = new_house()
    house.do("ring.create", ring_args("r", "model-encryption"))
    shown = house.do("key.create", key_args("k", algorithm, exportable=True), ring="r")
    first = house.secret("r", "k")
    assert shown["version"] == 1
    house.do("key.rotate", rotate_args("k", keep=True), ring="r")
    assert house.secret("r", "k", 1) == first != house.secret("r", "k")
    mine = generate_key()
    request = house.request(
        "key.export", {"key": "k", "version": 1, "suite": mine.suite, "pk": b64u(mine.pk)}, ring="r"
    )
    change = house.decide(request)
    answer = house.commit(change)
    assert open_export(mine, unb64u(answer["sealed"]), request.command.sha256) == first
    assert first.hex() not in repr(change) + repr(house.state)
    assert answer["public_sha256"] == shown["public_sha256"]
    house.now += 10 * 365 * 86400
    assert held(house).rings["r"].keys["k"].versions[0].opens(house.now)
    assert commands.due(held(house), house.now) == []


def test_export_is_for_exportable_keys_that_live() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k"), ring="r")
    house.do("key.create", key_args("x", exportable=True), ring="r")
    mine = generate_key()
    to = {"suite": mine.suite, "pk": b64u(mine.pk)}
    refused(house, "not-exportable", "key.export", {"key": "k", "version": 0, **to}, ring="r")
    refused(house, "unknown-version", "key.export", {"key": "x", "version": 2, **to}, ring="r")
    refused(house, "bad-args", "key.export", {"key": "x", "version": 0, **to, "pk": "AAAA"}, ring="r")
    house.do("key.rotate", rotate_args("x", 0), ring="r")
    refused(house, "wrong-state", "key.export", {"key": "x", "version": 1, **to}, ring="r")
    house.do("key.disable", {"key": "x"}, ring="r")
    refused(house, "wrong-state", "key.export", {"key": "x", "version": 0, **to}, ring="r")


def test_rotation_has_an_overlap_and_then_ends_the_old_version() -> None:
    house = session_house()
    key = lambda: held(house).rings["chat"].keys["pool"]  # noqa: E731
    assert key().state_at(house.now) == "active"
    house.do("key.rotate", rotate_args("pool", 600), ring="chat")
    assert key().state_at(house.now) == "rotating"
    assert ops.releasable(held(house), "chat", "pool", 1, house.now + 599)[2].number == 1
    with pytest.raises(KeysError, match="ended"):
        ops.releasable(held(house), "chat", "pool", 1, house.now + 600)
    refused(house, "usage-forbids", "key.rotate", rotate_args("pool", keep=True), ring="chat")
    house.now += 600
    assert key().state_at(house.now) == "active"
    (change,) = commands.due(held(house), house.now)
    assert (change.entry.op, change.entry.version) == ("version.destroyed", "1")
    slot = key().versions[0].slot
    assert slot in house.slots
    house.commit(change)
    assert slot not in house.slots
    assert slot in held(house).destroyed_slots()
    assert commands.due(held(house), house.now) == []
    with pytest.raises(KeysError, match="destroyed"):
        house.secret("chat", "pool", 1)


def test_destruction_has_seven_days_of_grace() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k"), ring="r")
    house.do("key.rotate", rotate_args("k", keep=True), ring="r")
    result = house.do("key.destroy", {"key": "k"}, ring="r")
    assert result["destroy_at"] == house.now + GRACE_SECONDS
    with pytest.raises(KeysError, match="scheduled"):
        ops.releasable(held(house), "r", "k", 0, house.now)
    refused(house, "wrong-state", "key.destroy", {"key": "k"}, ring="r")
    house.now += GRACE_SECONDS - 1
    assert commands.due(held(house), house.now) == []
    house.do("key.cancel-destroy", {"key": "k"}, ring="r")
    assert held(house).rings["r"].keys["k"].state == "disabled"
    house.do("key.enable", {"key": "k"}, ring="r")
    house.do("key.destroy", {"key": "k"}, ring="r")
    house.now += GRACE_SECONDS
    for change in commands.due(held(house), house.now):
        house.commit(change)
    assert held(house).rings["r"].keys["k"].state == "destroyed"
    assert house.slots == {}
    assert all(version.wrapped == b"" for version in held(house).rings["r"].keys["k"].versions)
    for op in ("key.enable", "key.cancel-destroy", "key.destroy", "key.disable"):
        refused(house, "wrong-state", op, {"key": "k"}, ring="r")
    refused(house, "wrong-state", "key.rotate", rotate_args("k"), ring="r")
    refused(house, "key-exists", "key.create", key_args("k"), ring="r")


def pem(key: Any) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return data


def test_import_takes_a_key_sealed_for_its_place_and_nothing_else() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    secret = secrets.token_bytes(32)
    members, payload = sealed_args(house, "r", "k", "aes256", secret)
    refused(house, "import-mismatch", "key.import", key_args("k", **members), ring="r", payload=payload + b"x")
    refused(house, "bad-args", "key.import", key_args("k", **NOTHING_SEALED), ring="r")
    wrong = {**members, "public_sha256": "ab" * 32}
    refused(house, "import-mismatch", "key.import", key_args("k", **wrong), ring="r", payload=payload)
    refused(house, "import-sealed", "key.import", key_args("other", **members), ring="r", payload=payload)
    elsewhere = {**members, "hpke_kid": "00" * 16}
    refused(house, "unknown-keyset", "key.import", key_args("k", **elsewhere), ring="r", payload=payload)
    house.do("key.import", key_args("k", **members), ring="r", payload=payload)
    assert house.secret("r", "k") == secret
    assert held(house).rings["r"].keys["k"].source == "imported"
    refused(house, "bad-args", "key.rotate", rotate_args("k"), ring="r")
    members, payload = sealed_args(house, "r", "k", "aes256", b"\x01" + secret[1:])
    house.do("key.rotate", rotate_args("k", **members), ring="r", payload=payload)
    assert house.secret("r", "k") == b"\x01" + secret[1:]


@pytest.mark.parametrize(
    ("algorithm", "secret", "code"),
    [
        ("aes256", bytes(range(16)), "wrong-algorithm"),
        ("aes256", bytes(32), "weak-key"),
        ("aes128", b"a" * 16, "weak-key"),
        ("aes256", bytes(MAX_IMPORT + 1), "import-too-large"),
        ("p256", b"nonsense", "import-mismatch"),
        ("p256", pem(ec.generate_private_key(ec.SECP384R1())), "wrong-algorithm"),
        ("rsa4096", pem(ec.generate_private_key(ec.SECP256R1())), "wrong-algorithm"),
        ("rsa4096", pem(rsa.generate_private_key(65537, 2048)), "weak-key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_imports_have_a_code_and_show_no_bytes(algorithm: str, secret: bytes, code: str) -> None:
    house = new_house()
    usage = "data" if algorithm.startswith("aes") else "session"
    house.do("ring.create", ring_args("r", usage))
    members, payload = sealed_args(house, "r", "k", algorithm, secret)
    error = refused(house, code, "key.import", key_args("k", algorithm, **members), ring="r", payload=payload)
    assert secret.hex() not in repr(error) + str(error.hint)
    assert repr(secret)[2:-1] not in repr(error) + str(error.hint)


def test_p256_imports_from_any_usual_form() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r", "session"))
    key = ec.generate_private_key(ec.SECP256R1())
    members, payload = sealed_args(house, "r", "k", "p256", pem(key))
    house.do("key.import", key_args("k", "p256", **members), ring="r", payload=payload)
    assert house.secret("r", "k") == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_usages_keep_algorithms_apart() -> None:
    house = new_house()
    house.do("ring.create", ring_args("data", "data"))
    house.do("ring.create", ring_args("chat", "session"))
    refused(house, "usage-forbids", "key.create", key_args("k", "p256"), ring="data")
    refused(house, "usage-forbids", "key.create", key_args("k", "aes256"), ring="chat")
    refused(house, "wrong-algorithm", "key.create", key_args("k", "des"), ring="data")
    refused(house, "usage-forbids", "key.create", key_args("k", "p256", exportable=True), ring="chat")
    house.do("key.create", key_args("k", "p256"), ring="chat")
    refused(house, "usage-forbids", "key.create", key_args("p", "mlkem768x25519"), ring="chat")
    refused(house, "usage-forbids", "ring.create", ring_args("weak", "compat"))
    house.do("ring.create", ring_args("pools", "session"))
    members, payload = sealed_args(house, "pools", "p", "mlkem768x25519", secrets.token_bytes(32))
    args = key_args("p", "mlkem768x25519", **members)
    refused(house, "usage-forbids", "key.import", args, ring="pools", payload=payload)


def test_deny_is_the_default_and_policies_are_whole() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k", policy=""), ring="r")
    key = held(house).rings["r"].keys["k"]
    assert key.policy_sha256 == DENY.sha256
    assert ReleasePolicy.stored(key.policy).denies_all
    coco = ReleasePolicy.build(id="c", appraisal=Policy.preset("evaluate"), dialect="coco-aa", coco_tees=["sample"])
    for policy in (b"{}", b"[]", good_policy().raw.replace(b'"egress"', b'"egres"'), coco.raw, b"x" * 40000):
        refused(house, "bad-policy", "key.policy", {"key": "k", "policy": b64u(policy)}, ring="r")
    house.do("key.policy", {"key": "k", "policy": b64u(good_policy().raw)}, ring="r")
    after = held(house).rings["r"].keys["k"]
    assert after.policy_sha256 == after.versions[0].policy_sha256 == good_policy().sha256
    assert house.changes[-1].entry.policy_sha256 == good_policy().sha256
    refused(house, "wrong-state", "key.policy", {"key": "k", "policy": b64u(good_policy().raw)}, ring="r")


def test_a_sealed_session_key_is_released_under_one_policy_in_its_life() -> None:
    house = session_house()
    other = preset("strict", "fewer", "ep-1")
    house.do("key.policy", {"key": "pool", "policy": b64u(other.raw)}, ring="chat")
    key = held(house).rings["chat"].keys["pool"]
    assert [v.policy_sha256 for v in key.versions] == [good_policy().sha256, other.sha256]
    assert ops.releasable(held(house), "chat", "pool", 0, house.now)[2].number == 2
    with pytest.raises(KeysError):
        ops.releasable(held(house), "chat", "pool", 1, house.now)


def test_a_pool_needs_a_key_that_nobody_outside_can_know() -> None:
    house = session_house()
    for parts in ({"active_seconds": 901}, {"overlap_seconds": 601}, {"active_seconds": 1}, {"ring": "x"}, {"x": 1}):
        refused(house, "bad-args", "pool.create", pool_args(**parts), ring="chat")
    refused(house, "unknown-key", "pool.create", pool_args(key="none"), ring="chat")
    house.do("key.create", key_args("denied", "mlkem768x25519", policy=""), ring="chat")
    refused(house, "wrong-state", "pool.create", pool_args(key="denied"), ring="chat")
    house.do("pool.create", pool_args(), ring="chat")
    refused(house, "pool-exists", "pool.create", pool_args(), ring="chat")
    refused(house, "pool-exists", "pool.create", pool_args(endpoint="ep-2"), ring="chat")
    refused(house, "wrong-state", "key.destroy", {"key": "pool"}, ring="chat")
    change = commands.rotate_pool(held(house), "ep-1", house.now, house.tools)
    house.commit(change)
    assert change.entry.actors == ("service",)
    assert held(house).rings["chat"].keys["pool"].newest == 2
    assert held(house).rings["chat"].seq == 3  # what the service does by itself takes no seq
    refused(house, "unknown-pool", "pool.delete", {"endpoint": "ep-9"}, ring="chat")
    house.do("pool.delete", {"endpoint": "ep-1"}, ring="chat")
    with pytest.raises(KeysError, match="pool"):
        commands.rotate_pool(held(house), "ep-1", house.now, house.tools)
    house.do("key.destroy", {"key": "pool"}, ring="chat")


def test_imported_session_keys_serve_no_pool() -> None:
    house = new_house()
    house.do("ring.create", ring_args("doors", "session"))
    house.do("key.create", key_args("pool", "p256"), ring="doors")
    refused(house, "usage-forbids", "pool.create", pool_args(), ring="doors")


def test_commands_keep_to_their_scope() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    refused(house, "bad-args", "key.create", key_args("k"))
    refused(house, "bad-args", "ring.create", ring_args("q"), ring="r")
    refused(house, "ring-exists", "ring.create", ring_args("r"))
    refused(house, "bad-args", "state.read", {}, seq=2)
    refused(house, "bad-args", "key.create", {**key_args("k"), "more": 1}, ring="r")
    refused(house, "unknown-key", "key.disable", {"key": "k"}, ring="r")


def test_any_one_admin_reads_and_nobody_else() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r", "data", 1, 4))

    def read(**how: Any) -> State:
        request = house.request("state.read", {}, **{"seq": 0, "expires_at": house.now + 60, **how})
        return commands.authorise_read(house.state, request, {KEYSET}, house.now)

    assert read(by=(3,)) is read(by=(4,)) is house.state
    for how, code in (
        ({"by": (9,)}, "unknown-tenant"),
        ({"by": ()}, "unknown-tenant"),
        ({"seq": 1}, "bad-args"),
        ({"expires_at": house.now + 301}, "expires-too-late"),
        ({"expires_at": house.now - 1}, "expired"),
    ):
        with pytest.raises(KeysError) as caught:
            read(**how)
        assert caught.value.code == code


def compat_house() -> House:
    house = House(tenant=commands.compat_tenant_id("2100000001"))
    house.commit(commands.compat_tenant("2100000001", NOW))
    return house


def compat(house: House, op: str, args: dict[str, Any], ring: str = "old", **parts: Any) -> Any:
    call = CompatCall(**{"account": "2100000001", "auth": "v4", "op": op, "ring": ring, "args": args, **parts})
    return house.commit(commands.compat_change(held(house), call, house.now, house.tools))


def test_existing_clients_command_their_own_account_and_all_of_it_is_weak() -> None:
    house = compat_house()
    compat(house, "ring.create", {"ring": "old", "usage": "compat", "labels": {"name": b64u("环".encode())}}, "")
    compat(house, "key.create", key_args("k"))
    compat(house, "key.expect", key_args("later"))
    assert held(house).rings["old"].weak
    with pytest.raises(KeysError, match="no such version"):
        ops.releasable(held(house), "old", "later", 0, house.now)
    secret = secrets.token_bytes(32)
    compat(house, "key.rotate", rotate_args("later"), material=secret)
    assert house.secret("old", "later", 1) == secret
    coco = ReleasePolicy.build(id="c", appraisal=Policy.preset("evaluate"), dialect="coco-aa", coco_tees=["sample"])
    compat(house, "key.policy", {"key": "k", "policy": b64u(coco.raw)})
    assert all(change.entry.reason == "compat, weak" for change in house.changes)
    for parts, code in (
        ({"account": "2100000002"}, "unknown-tenant"),
        ({"op": "key.export"}, "unsigned-not-allowed"),
        ({"op": "pool.create"}, "unsigned-not-allowed"),
        ({"ring": "none"}, "unknown-ring"),
        ({"auth": "cookie"}, "unknown-tenant"),
    ):
        with pytest.raises(KeysError) as caught:
            compat(house, **{"op": "key.disable", "args": {"key": "k"}, **parts})
        assert caught.value.code == code
    with pytest.raises(KeysError, match="no such rings"):
        compat(house, "ring.create", {"ring": "x", "usage": "session", "labels": {}}, "")
    refused(house, "unknown-tenant", "ring.create", ring_args("r"), by=(1, 2, 3))


def test_an_unsigned_call_never_reaches_a_signed_tenant() -> None:
    house = session_house()
    for account in ("", "2100000001"):
        with pytest.raises(KeysError) as caught:
            compat(house, "key.disable", {"key": "pool"}, "chat", account=account)
        assert caught.value.code == "unknown-tenant"


def test_parsing_a_request() -> None:
    house = new_house()
    request = house.request("ring.create", ring_args("r"))
    assert commands.parse_command(request.to_json()) == request
    good = request.to_json()
    for bad in (
        {},
        [],
        None,
        {**good, "more": 1},
        {**good, "command": b64u(request.command.raw[:-1])},
        {**good, "command": b64u(b" " * (MAX_COMMAND + 1))},
        {**good, "signatures": [{"kid": "x", "sig": "y"}]},
        {**good, "payload": b64u(bytes(40000))},
    ):
        with pytest.raises(KeysError) as caught:
            commands.parse_command(bad)
        assert caught.value.code == "malformed"


def test_a_snapshot_is_the_state() -> None:
    house = session_house()
    house.do("pool.create", pool_args(), ring="chat")
    house.do("key.rotate", rotate_args("pool"), ring="chat")
    assert decode_state(encode_state(held(house))) == held(house) == fold_all(house.deltas)


def test_the_specification_lists_every_code_with_its_status() -> None:
    text = (Path(__file__).parents[2] / "spec/07-keys.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", text, re.MULTILINE)
    listed = {code: int(status) for status, codes in rows for code in re.findall(r"`([a-z0-9-]+)`", codes)}
    assert listed == CODES


def test_ids_of_two_tenants_differ_by_their_nonce() -> None:
    one, two = tenant_args(), {**tenant_args(), "nonce": b64u(b"\1" * 16)}
    assert tenant_id(one) != tenant_id(two)
