# SPDX-License-Identifier: Apache-2.0
"""Release requests, grants and answers: one text per value, strict parsing, and every check of an opened grant."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge_bundle import keyset as node_keyset
from hypothesis import given
from hypothesis import strategies as st

from teehouse_core.errors import MalformedError, RefusedError
from teehouse_core.seal.grant import open_grant, seal_grant
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.grant import (
    Grant,
    LogPlace,
    Release,
    ReleaseAnswer,
    ReleaseRequest,
    grant_message,
    parse_challenge,
)
from teehouse_core.wire.keyset import Keyset, SignKey, key_id

NOW = 1_790_000_000
SIGN = Ed25519PrivateKey.generate()
PK = SIGN.public_key().public_bytes_raw()
SERVICE = Keyset.parse(
    node_keyset(role="key-service", endpoint="", sign=[SignKey(key_id("ed25519", PK), "ed25519", PK)])
)
NODE = Keyset.parse(node_keyset())
ONE_TIME = generate_key()
REQUEST = ReleaseRequest(SERVICE.sha256, "acme", "ring", "key", "1")
KEY = b"\x07" * 32
GRANT = Grant(
    tks_keyset_sha256=SERVICE.sha256,
    request_sha256=hashlib.sha256(REQUEST.encode()).hexdigest(),
    requester_keyset_sha256=NODE.sha256,
    evidence_sha256="ab" * 32,
    tenant="acme",
    ring="ring",
    key="key",
    version="1",
    algorithm="toy",
    public_sha256=hashlib.sha256(b"public" + KEY).hexdigest(),
    policy_sha256="cd" * 32,
    log=LogPlace("tks.example/tenant/acme", 3, "ef" * 32),
    not_after=NOW + 300,
)


def answer(grant: Grant = GRANT, key: bytes = KEY, **changes: Any) -> ReleaseAnswer:
    raw = grant.encode()
    sealed = seal_grant(ONE_TIME.suite, ONE_TIME.pk, raw, key)
    made = ReleaseAnswer(raw, SERVICE.sign[0].kid, SIGN.sign(grant_message(raw)), sealed, b"note\n")
    return dataclasses.replace(made, **changes)


def opened(given: ReleaseAnswer, now: int = NOW) -> tuple[Grant, bytes]:
    return open_grant(
        given,
        request=REQUEST.encode(),
        requester_keyset=NODE,
        evidence_sha256="ab" * 32,
        key_service=SERVICE,
        one_time=ONE_TIME,
        now=now,
        digest_of=lambda _algorithm, key: hashlib.sha256(b"public" + key).hexdigest(),
    )


def test_documents_survive_their_wire() -> None:
    assert ReleaseRequest.parse(REQUEST.encode()) == REQUEST
    assert Grant.parse(GRANT.encode()) == GRANT
    made = answer(proof=b"proof", member=b"{}", member_sig=b"s" * 64)
    assert ReleaseAnswer.parse(made.encode()) == made
    release = Release(REQUEST.encode(), b"bundle")
    assert Release.parse(release.encode()) == release


def test_a_grant_opens_for_its_request() -> None:
    assert opened(answer()) == (GRANT, KEY)


OTHER: dict[str, Any] = {
    "tks_keyset_sha256": "11" * 32,
    "request_sha256": "11" * 32,
    "requester_keyset_sha256": "11" * 32,
    "evidence_sha256": "11" * 32,
    "tenant": "other",
    "ring": "other",
    "key": "other",
    "version": "2",
}


@pytest.mark.parametrize("name", OTHER)
def test_a_grant_for_anything_else_is_refused(name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        opened(answer(dataclasses.replace(GRANT, **{name: OTHER[name]})))
    assert refused.value.code == "grant-other-request"


def test_signature_time_and_key_count() -> None:
    stranger = Ed25519PrivateKey.generate()
    for wrong, code in (
        (answer(sig=stranger.sign(grant_message(GRANT.encode()))), "grant-signature"),
        (answer(sig=SIGN.sign(GRANT.encode())), "grant-signature"),
        (answer(kid="00" * 16), "grant-signature"),
        (answer(key=b"\x08" * 32), "grant-other-key"),
        (answer(dataclasses.replace(GRANT, public_sha256="11" * 32)), "grant-other-key"),
    ):
        with pytest.raises(RefusedError) as refused:
            opened(wrong)
        assert refused.value.code == code
    with pytest.raises(RefusedError) as refused:
        opened(answer(), NOW + 300)
    assert refused.value.code == "grant-over"


def test_a_sealed_key_is_bound_to_its_grant() -> None:
    other = dataclasses.replace(GRANT, log=dataclasses.replace(GRANT.log, index=4))
    with pytest.raises(MalformedError) as refused:
        opened(answer(sealed=answer(other).sealed))
    assert refused.value.code == "envelope"


@pytest.mark.parametrize("name", ["tenant", "ring", "key", "version"])
def test_names_are_not_empty(name: str) -> None:
    with pytest.raises(MalformedError):
        ReleaseRequest.parse(dataclasses.replace(REQUEST, **{name: ""}).encode())


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    for parse in (ReleaseRequest.parse, Grant.parse, Release.parse, ReleaseAnswer.parse, parse_challenge):
        with pytest.raises(MalformedError):
            parse(data)


def test_a_challenge_is_read() -> None:
    body = f'{{"v":1,"tks_keyset_sha256":"{"ab" * 32}","challenge":"{b64u(bytes(32))}"}}'.encode()
    assert parse_challenge(body) == ("ab" * 32, bytes(32))
