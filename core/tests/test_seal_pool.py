# SPDX-License-Identifier: Apache-2.0
"""A pool key in the session: any member answers, shows its certificate, and its receipt is by the certified key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from seal_support import ENDPOINT, NOW, AcceptedStandIn, NodeStandIn, body_of, make_node, read_all, seal

from teehouse_core.errors import LocalError, MalformedError, RequestRefused
from teehouse_core.seal.client import AnswerEnd, AnswerHead, ResponseOpener
from teehouse_core.seal.keyring import Keyring
from teehouse_core.seal.node import OpenedRequest
from teehouse_core.seal.pool import MemberProof
from teehouse_core.seal.suite import SealingKey, generate_key
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.keyset import (
    Capabilities,
    HpkeKey,
    Keyset,
    Model,
    Pool,
    SignKey,
    Software,
    build_keyset,
    key_id,
)
from teehouse_core.wire.pool import MemberCertificate, build_pool_keyset, pool_member_message

TKS = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
KEY = generate_key()
NO_SOFTWARE, CAPABILITIES = Software("", "", ""), Capabilities("none", "none", "none", ())


def service(signer: Ed25519PrivateKey = TKS) -> Keyset:
    pk = signer.public_key().public_bytes_raw()
    raw = build_keyset(
        role="key-service",
        endpoint="",
        node="tks",
        hpke=[],
        sign=[SignKey(key_id("ed25519", pk), "ed25519", pk)],
        model=Model("", ""),
        software=NO_SOFTWARE,
        capabilities=CAPABILITIES,
        not_before=NOW - 60,
        not_after=NOW + 3000,
    )
    return Keyset.parse(raw)


def pool_keyset(key: SealingKey = KEY, version: str = "1") -> Keyset:
    listed = HpkeKey(key_id(key.suite, key.pk), key.suite, key.pk, NOW - 10, NOW + 800)
    raw = build_pool_keyset(
        endpoint=ENDPOINT,
        pool=Pool(service().sha256, "aa" * 32, "ring", "key", version),
        hpke=[listed],
        model=Model("demo", "aa" * 32),
        software=NO_SOFTWARE,
        capabilities=CAPABILITIES,
        not_before=NOW - 10,
        not_after=NOW + 800,
    )
    return Keyset.parse(raw)


POOL = pool_keyset()


def proof(node: NodeStandIn, signer: Ed25519PrivateKey = TKS, **changes: Any) -> MemberProof:
    fields: dict[str, Any] = {
        "pool_keyset_sha256": POOL.sha256,
        "node": node.name,
        "keyset_sha256": node.keyset.sha256,
        "sign_pk": node.keyset.sign[0].pk,
        "not_after": NOW + 1400,
        **changes,
    }
    raw = MemberCertificate(**fields).encode()
    return MemberProof(raw, signer.sign(pool_member_message(raw)))


def member(name: str, given: MemberProof | None = None) -> NodeStandIn:
    """A node that got the pool's key, beside its own."""
    node = make_node(name)
    node.ring.publish(POOL, [KEY], given or proof(node))
    return node


ACCEPTED = AcceptedStandIn(POOL, not_after=NOW + 800, service=service())


def answered(node: NodeStandIn, **fields: Any) -> tuple[OpenedRequest, list[bytes], ResponseOpener]:
    request = seal([ACCEPTED], **fields)
    opened = node.open(request.frame)
    return opened, node.answer(opened, [b"one", b"two"]), ResponseOpener(request)


def test_any_member_answers_and_signs_its_own_receipt() -> None:
    for name in ("alpha", "beta"):
        node = member(name)
        opened, sent, opener = answered(node)
        assert opened.keyset.role == "pool"
        events = read_all(opener, sent)
        head, end = events[0], events[-1]
        assert isinstance(head, AnswerHead)
        assert isinstance(end, AnswerEnd)
        assert head.keyset_sha256 == end.receipt.keyset_sha256 == POOL.sha256
        assert head.member_kid == end.receipt.kid == node.sign_kid
        assert head.headers == (("content-type", "text/event-stream"),)
        assert body_of(events) == b"onetwo"


def test_a_node_of_its_own_shows_no_certificate_and_none_is_taken_from_it() -> None:
    node = make_node("alpha")
    request = seal([node])
    opened = node.open(request.frame)
    with pytest.raises(MalformedError) as refused:
        read_all(ResponseOpener(request), node.answer(replace(opened, member=proof(node)), [b"x"]))
    assert refused.value.code == "pool-member"


@pytest.mark.parametrize(
    ("changes", "signer", "code"),
    [
        ({}, OTHER, "pool-member-signature"),
        ({"pool_keyset_sha256": "00" * 32}, TKS, "pool-member"),
        ({"not_after": NOW}, TKS, "pool-member"),
        ({"sign_pk": bytes(32)}, TKS, "receipt-kid"),
    ],
)
def test_a_foreign_certificate_is_refused(changes: dict[str, Any], signer: Ed25519PrivateKey, code: str) -> None:
    node = make_node("alpha")
    _, sent, opener = answered(member("alpha", proof(node, signer, **changes)))
    with pytest.raises(MalformedError) as refused:
        read_all(opener, sent)
    assert refused.value.code == code


def test_another_members_certificate_does_not_cover_this_members_receipt() -> None:
    _, sent, opener = answered(member("alpha", proof(make_node("beta"))))
    with pytest.raises(MalformedError) as refused:
        read_all(opener, sent)
    assert refused.value.code == "receipt-kid"


def test_a_changed_certificate_does_not_verify() -> None:
    good = proof(make_node("alpha"))
    _, sent, opener = answered(member("alpha", MemberProof(good.certificate.replace(b"alpha", b"omega"), good.sig)))
    with pytest.raises(MalformedError) as refused:
        read_all(opener, sent)
    assert refused.value.code == "pool-member-signature"


def test_an_answer_without_a_certificate_is_refused() -> None:
    node = member("alpha")
    request = seal([ACCEPTED])
    opened = replace(node.open(request.frame), member=None)
    with pytest.raises(MalformedError) as refused:
        read_all(ResponseOpener(request), node.answer(opened, [b"x"]))
    assert refused.value.code == "pool-member"


def test_a_certificate_twice_is_refused() -> None:
    node = member("alpha")
    request = seal([ACCEPTED])
    opened = node.open(request.frame)

    class Twice(MemberProof):
        def headers(self) -> tuple[tuple[str, str], ...]:
            return (*super().headers(), ("teehouse-pool-member", b64u(self.certificate)))

    shown = Twice(opened.member.certificate, opened.member.sig)  # type: ignore[union-attr]
    with pytest.raises(MalformedError) as refused:
        read_all(ResponseOpener(request), node.answer(replace(opened, member=shown), [b"x"]))
    assert refused.value.code == "pool-member"


def test_a_request_to_a_pool_lives_120_seconds_at_most() -> None:
    with pytest.raises(LocalError) as refused:
        seal([ACCEPTED], lifetime=121)
    assert refused.value.code == "lifetime"
    long = seal([AcceptedStandIn(POOL, not_after=NOW + 800)], lifetime=121)  # a client that does not keep to it
    with pytest.raises(RequestRefused) as turned:
        member("alpha").open(long.frame)
    assert turned.value.code == "lifetime"


def test_a_pool_is_the_only_candidate() -> None:
    with pytest.raises(LocalError) as refused:
        seal([ACCEPTED, make_node("alpha")])
    assert refused.value.code == "candidate-pool"


def test_each_member_opens_a_request_once_and_a_stranger_never() -> None:
    request = seal([ACCEPTED])
    for name in ("alpha", "beta"):
        node = member(name)
        node.open(request.frame)
        with pytest.raises(RequestRefused) as again:
            node.open(request.frame)
        assert again.value.code == "replayed"
    with pytest.raises(RequestRefused) as unknown:
        make_node("gamma").open(request.frame)
    assert unknown.value.code == "unknown-key"


def test_a_ring_serves_a_pool_only_with_a_certificate() -> None:
    with pytest.raises(LocalError):
        Keyring().publish(POOL, [KEY])
    with pytest.raises(LocalError):
        Keyring().publish(make_node("alpha").keyset, [KEY], proof(make_node("alpha")))


def test_a_member_certificate_reads_back() -> None:
    given = proof(make_node("alpha")).certificate
    assert MemberCertificate.parse(given).encode() == given
    for spoilt in (given.replace(b'"node":"alpha"', b'"node":""'), given.replace(b"sealed/1", b"sealed/2"), b"{}"):
        with pytest.raises(MalformedError):
            MemberCertificate.parse(spoilt)
