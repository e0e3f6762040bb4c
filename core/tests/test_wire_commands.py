# SPDX-License-Identifier: Apache-2.0
"""Commands to the key service: built, signed, sealed and read by the same lines (spec/07-keys.md §4)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.seal.commands import open_export, seal_import, sign_command, valid_signers
from teehouse_core.seal.suite import generate_key, hpke_open, hpke_seal
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import (
    OPS,
    READ_OP,
    AdminKey,
    AdminSet,
    Command,
    CommandRequest,
    build_command,
    export_info,
    import_info,
    parse_command_request,
    tenant_id,
)
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.keyset import HpkeKey, key_id

ADMINS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(3)]
SET = AdminSet(2, tuple(AdminKey(key.public_key().public_bytes_raw(), f"p{n}") for n, key in enumerate(ADMINS)))


def built(**change: Any) -> bytes:
    parts: dict[str, Any] = {
        "tks_keyset_sha256": "ab" * 32,
        "tenant": "t-1",
        "ring": "r",
        "seq": 1,
        "op": "key.disable",
        "args": {"key": "k"},
        "expires_at": 1_800_000_000,
    }
    return build_command(**{**parts, **change})


def test_a_command_reads_back() -> None:
    raw = built()
    command = Command.parse(raw)
    assert (command.raw, command.op, command.ring, command.seq) == (raw, "key.disable", "r", 1)
    request = CommandRequest(command, tuple(sign_command(raw, key) for key in ADMINS[:2]), b"payload")
    assert parse_command_request(request.to_json()) == request
    document = request.to_json()
    del document["payload"]
    assert parse_command_request(document).payload == b""
    assert "payload" not in repr(request).replace("payload=", "")
    for op in (*OPS, READ_OP):
        assert Command.parse(built(op=op)).op == op


def test_unfit_parts_are_refused_when_building() -> None:
    for change in ({"op": "x"}, {"tenant": "A"}, {"ring": " "}, {"tks_keyset_sha256": ""}):
        with pytest.raises(MalformedError):
            built(**change)
    for change in ({"seq": -1}, {"args": {"k": None}}, {"expires_at": 2**53}):
        with pytest.raises(LocalError):
            built(**change)


def test_only_the_sets_own_valid_signatures_count() -> None:
    raw, other = built(), built(seq=2)
    kids = SET.by_kid()
    stranger = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
    signatures = [
        sign_command(raw, stranger),
        sign_command(other, ADMINS[0]),
        sign_command(raw, ADMINS[1]),
        sign_command(raw, ADMINS[1]),
        sign_command(raw, ADMINS[2]),
    ]
    assert valid_signers(raw, signatures, kids) == {SET.keys[1].kid, SET.keys[2].kid}
    assert valid_signers(raw, signatures, {}) == frozenset()
    broken = {SET.keys[1].kid: b"\xff" * 32}  # no point of the curve
    assert valid_signers(raw, signatures, broken) == frozenset()


def test_admin_sets() -> None:
    assert AdminSet.read(Fields(SET.to_json(), "admins")) == SET
    none = AdminSet(0, ())
    assert AdminSet.read(Fields(none.to_json(), "admins"), empty=True) == none
    with pytest.raises(MalformedError):
        AdminSet.read(Fields(none.to_json(), "admins"))
    with pytest.raises(MalformedError):
        AdminSet.read(Fields({**SET.to_json(), "threshold": 0}, "admins"), empty=True)


def test_a_sealed_key_opens_in_its_place_only() -> None:
    key = generate_key()
    to = HpkeKey(key_id(key.suite, key.pk), key.suite, key.pk, 0, 1)
    sealed = seal_import(to, b"key bytes", tenant="t-1", ring="r", name="k", algorithm="aes256")
    assert hpke_open(key, import_info("t-1", "r", "k", "aes256"), sealed) == b"key bytes"
    for place in (("t-2", "r", "k", "aes256"), ("t-1", "rk", "", "aes256"), ("t-1", "r", "k", "aes128")):
        with pytest.raises(MalformedError):
            hpke_open(key, import_info(*place), sealed)
    digest = Command.parse(built()).sha256
    answer = hpke_seal(key.suite, key.pk, export_info(digest), b"key bytes")
    assert open_export(key, answer, digest) == b"key bytes"
    with pytest.raises(MalformedError):
        open_export(key, answer, "00" * 32)
    with pytest.raises(LocalError):
        export_info("x")


def test_a_tenants_id_follows_from_its_arguments() -> None:
    args = {"admins": SET.to_json(), "nonce": b64u(bytes(16)), "labels": {}}
    assert tenant_id(args) == tenant_id(dict(reversed(args.items()))) != tenant_id({**args, "nonce": b64u(b"1" * 16)})


@given(st.binary(max_size=300))
def test_any_bytes_give_our_errors(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Command.parse(data)
    with pytest.raises(MalformedError):
        parse_command_request({"command": b64u(data), "signatures": []})
