# SPDX-License-Identifier: Apache-2.0
"""Key bytes at rest: halves that fit each other only, destruction that the root key cannot undo, no bytes in texts."""

from __future__ import annotations

import dataclasses
import json
import traceback

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_support import House, key_args, new_house, ring_args, rotate_args, sealed_args

from teehouse_core.errors import TeehouseError
from teehouse_core.seal.suite import hpke_open, hpke_seal
from teehouse_enclave.keys import commands
from teehouse_enclave.keys.algorithms import Material, generate, read_key_bytes, sealing_key
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.codec import decode_state, encode_state
from teehouse_enclave.keys.errors import KeysError, StorageError
from teehouse_enclave.keys.fold import KEPT_DESTROYED, build_delta, fold
from teehouse_enclave.keys.model import ALGORITHMS, GRACE_SECONDS, MAX_VERSIONS, Version
from teehouse_enclave.keys.vault import Vault

WHERE = ("t-1", "r", "k", 1)


def wrapped(vault: Vault, material: Material, number: int = 1) -> tuple[Version, bytes]:
    sealed, name, slot = vault.wrap((*WHERE[:3], number), material)
    return Version(number, 1, 0, material.public, material.public_sha256, "00" * 32, sealed, name), slot


def test_the_halves_fit_each_other_in_their_place_only() -> None:
    vault = Vault(Box(Root(bytes(32))))
    one, slot = wrapped(vault, material := generate("aes256"))
    two, other = wrapped(vault, generate("aes256"))
    assert vault.unwrap(WHERE, one, slot) == material.secret
    assert material.secret not in one.wrapped + slot
    wrong = [
        (("t-2", "r", "k", 1), one, slot),
        (("t-1", "r", "k", 2), one, slot),
        (WHERE, one, other),
        (WHERE, dataclasses.replace(one, wrapped=two.wrapped), slot),
        (WHERE, dataclasses.replace(one, public_sha256=two.public_sha256), slot),
        (WHERE, dataclasses.replace(one, slot=two.slot), slot),
        (WHERE, one, None),
    ]
    for where, version, given_slot in wrong:
        with pytest.raises(StorageError) as caught:
            vault.unwrap(where, version, given_slot)
        assert caught.value.code == "storage-corrupt"
    with pytest.raises(StorageError):
        Vault(Box(Root(b"\1" * 32))).unwrap(WHERE, one, slot)


def test_after_destruction_the_root_key_and_all_that_is_stored_open_nothing() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k"), ring="r")
    secret, living = house.secret("r", "k"), house.state
    assert living is not None
    version = living.rings["r"].keys["k"].versions[0]
    house.do("key.destroy", {"key": "k"}, ring="r")
    house.now += GRACE_SECONDS
    assert house.state is not None
    for change in commands.due(house.state, house.now):
        house.commit(change)
    stored = b"".join([*house.deltas, *house.slots.values(), encode_state(house.state)])
    assert secret not in stored
    assert b'"wrapped":""' in stored, "the state forgot its copy"
    with pytest.raises(StorageError):  # an old state, the right root key, the whole journal: the slot is what lacks
        house.vault.unwrap((living.tenant, "r", "k", 1), version, house.slots.get(version.slot))


def test_many_rotations_leave_a_bounded_state() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r", "session"))
    house.do("key.create", key_args("k", "mlkem768x25519"), ring="r")
    for _ in range(KEPT_DESTROYED + 20):
        house.do("key.rotate", rotate_args("k", 1), ring="r")
        house.now += 2
        assert house.state is not None
        for change in commands.due(house.state, house.now):
            house.commit(change)
    assert house.state is not None
    key = house.state.rings["r"].keys["k"]
    assert key.newest == KEPT_DESTROYED + 21
    assert len(key.versions) == KEPT_DESTROYED + 1
    assert len(house.slots) == 1
    assert decode_state(encode_state(house.state)) == house.state
    assert len(encode_state(house.state)) < 40_000


def test_a_crash_after_the_entry_leaves_no_slot_unknown() -> None:
    """One entry may end as many versions as a key has: the state then names every slot that must go."""
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k"), ring="r")
    for _ in range(MAX_VERSIONS - 1):
        house.do("key.rotate", rotate_args("k", keep=True), ring="r")
    house.do("key.destroy", {"key": "k"}, ring="r")
    house.now += GRACE_SECONDS
    assert house.state is not None
    slots = set(house.slots)
    (change,) = commands.due(house.state, house.now)
    house.commit(change)
    assert len(slots) == MAX_VERSIONS
    assert set(house.state.destroyed_slots()) == slots


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generated_keys_read_back_as_themselves(algorithm: str) -> None:
    material = generate(algorithm)
    again = read_key_bytes(algorithm, material.secret)
    assert (again.public, again.public_sha256, again.secret) == (
        material.public,
        material.public_sha256,
        material.secret,
    )
    assert material.secret.hex() not in repr(material)
    assert repr(material.secret)[2:12] not in repr(material)


def test_a_seed_gives_a_sealed_session_key() -> None:
    material = generate("mlkem768x25519")
    key = sealing_key(material.secret)
    assert key.pk == material.public
    assert hpke_open(key, b"info", hpke_seal(key.suite, material.public, b"info", b"x")) == b"x"


def test_keys_with_passwords_other_exponents_or_close_primes_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    small = rsa.generate_private_key(3, 4096).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for algorithm, data, code in (
        ("p256", locked, "import-mismatch"),
        ("rsa4096", small, "weak-key"),
        ("ed25519", b"", "wrong-algorithm"),
    ):
        with pytest.raises(KeysError) as caught:
            read_key_bytes(algorithm, data)
        assert caught.value.code == code
    with pytest.raises(KeysError):
        generate("ed25519")


@settings(max_examples=200, deadline=None)
@given(algorithm=st.sampled_from([*ALGORITHMS, "none"]), data=st.binary(max_size=300))
def test_any_bytes_give_our_errors_without_them(algorithm: str, data: bytes) -> None:
    data = b"\x00marker\xff" + data
    try:
        read_key_bytes(algorithm, data)
    except KeysError as error:
        said = "".join(traceback.format_exception(error)) + str(error.hint)
        assert "marker" not in said
        assert data.hex() not in said


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=200) | st.dictionaries(st.text(max_size=5), st.integers()).map(json.dumps).map(str.encode)
)
def test_any_bytes_for_a_delta_or_a_snapshot_are_damage(data: bytes) -> None:
    for read in (lambda: fold(None, data), lambda: decode_state(data)):
        with pytest.raises(StorageError) as caught:
            read()
        assert caught.value.code == "storage-corrupt"


def test_deltas_that_do_not_fit_are_damage() -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k"), ring="r")
    state = house.state
    assert state is not None
    ring, key = house.deltas[1], house.deltas[2]
    misfits = [
        house.deltas[0],
        ring,
        key,
        build_delta("key-state", {"ring": "r", "key": "k", "state": "active", "destroy_at": 0}, None),
        build_delta("key-state", {"ring": "r", "key": "k", "state": "scheduled", "destroy_at": 0}, None),
        build_delta("destroyed", {"ring": "r", "key": "k", "versions": [1]}, None),
        build_delta("destroyed", {"ring": "r", "key": "k", "versions": [2]}, None),
        build_delta("destroyed", {"ring": "r", "key": "k", "versions": []}, None),
        build_delta("policy", {"ring": "q", "key": "k", "policy": ""}, None),
        build_delta("policy", {"ring": "r", "key": "l", "policy": ""}, None),
        build_delta("pool-end", {"endpoint": "ep-1"}, None),
        build_delta("nothing", {"more": 1}, None),
        build_delta("other", {}, None),
    ]
    for delta in misfits:
        with pytest.raises(StorageError):
            fold(state, delta)
    with pytest.raises(StorageError):
        fold(None, ring)


def test_no_object_shows_key_bytes() -> None:
    house: House = new_house()
    house.do("ring.create", ring_args("r"))
    members, payload = sealed_args(house, "r", "k", "aes256", secret := bytes(range(200, 232)))
    request = house.request("key.import", key_args("k", **members), ring="r", payload=payload)
    change = house.decide(request)
    house.commit(change)
    texts = [repr(x) for x in (request, change, house.state, house.vault, house.tools, house.root)]
    for text in texts:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
        assert not any(repr(slot)[2:-1] in text for slot in change.slots.values())


@settings(max_examples=100, deadline=None)
@given(document=st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda c: st.lists(c) | st.dictionaries(
    st.sampled_from(["command", "signatures", "payload", "kid", "sig"]), c), max_leaves=8))  # fmt: skip
def test_any_json_for_a_command_gives_our_errors(document: object) -> None:
    with pytest.raises(TeehouseError):
        commands.parse_command(document)
