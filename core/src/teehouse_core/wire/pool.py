# SPDX-License-Identifier: Apache-2.0
"""Pool keysets and member certificates as documents (PROTOCOL §6, spec/01-keyset.md §9).

A pool keyset has no evidence of its own: the key service signs it. With the key it gives each node a member
certificate, which the node shows in every answer. Only forms and the bytes to sign are here; signatures are checked in
`teehouse_core.appraise.pool` (keyset) and `teehouse_core.seal.pool` (member).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse, unb64u
from teehouse_core.wire.fields import HEX64, Fields
from teehouse_core.wire.keyset import (
    ED25519_PK,
    Capabilities,
    HpkeKey,
    Keyset,
    Model,
    Pool,
    Software,
    build_keyset,
)
from teehouse_core.wire.labels import VERSION, L

__all__ = [
    "MAX_CERTIFICATE",
    "MAX_POLICY_TEXT",
    "MEMBER_HEADER",
    "MEMBER_SIG_HEADER",
    "POOL_ACTIVE",
    "POOL_LIFETIME",
    "SIGNATURE",
    "MemberCertificate",
    "SignedPool",
    "build_pool_keyset",
    "pool_keyset_message",
    "pool_member_message",
]

POOL_ACTIVE: Final = 900  # seconds that a pool key may be sealed to, at most (PROTOCOL §6: 15 min)
POOL_LIFETIME: Final = 120  # seconds between sent_at and expires_at, at most: replay is refused per node only
MAX_CERTIFICATE: Final = 2048  # bytes; it travels in a head header, whose value has at most 4096 characters
MAX_POLICY_TEXT: Final = 64 * 1024  # bytes of the release policy that comes with a pool
MAX_SIGNED: Final = 512 * 1024  # bytes of a signed pool as JSON: keyset, policy and their base64
SIGNATURE: Final = 64  # bytes of an Ed25519 signature
MEMBER_HEADER: Final = "teehouse-pool-member"
MEMBER_SIG_HEADER: Final = "teehouse-pool-member-sig"


def pool_keyset_message(keyset_digest: bytes) -> bytes:
    """What a `sign` key of the key service signs for a pool: L("pool keyset") ‖ keyset_digest."""
    return L("pool keyset") + keyset_digest


def pool_member_message(certificate: bytes) -> bytes:
    """What a `sign` key of the key service signs for a member: L("pool member") ‖ SHA-256(certificate)."""
    return L("pool member") + hashlib.sha256(certificate).digest()


def build_pool_keyset(
    *,
    endpoint: str,
    pool: Pool,
    hpke: Sequence[HpkeKey],
    model: Model,
    software: Software,
    capabilities: Capabilities,
    not_before: int,
    not_after: int,
) -> bytes:
    """Canonical bytes of a pool keyset: no node, no signing key, no key that is active for longer than 15 minutes.

    Raises LocalError for keys that live too long or are none, MalformedError on unfit parts.
    """
    if not hpke or any(key.not_after - key.not_before > POOL_ACTIVE for key in hpke):
        raise LocalError("a pool key is active for at most 15 minutes", code="pool-lifetime")
    return build_keyset(
        role="pool",
        endpoint=endpoint,
        node="",
        hpke=hpke,
        sign=(),
        model=model,
        software=software,
        capabilities=capabilities,
        not_before=not_before,
        not_after=not_after,
        pool=pool,
    )


@dataclass(frozen=True, slots=True)
class MemberCertificate:
    """The key service's word that `node`, with its own keyset, was given the key of one pool keyset.

    `not_after` is in Unix seconds; receipts of that node are taken from `sign_pk` alone.
    """

    pool_keyset_sha256: str
    node: str
    keyset_sha256: str
    sign_pk: bytes
    not_after: int

    def encode(self) -> bytes:
        return encode(
            {
                "v": VERSION,
                "pool_keyset_sha256": self.pool_keyset_sha256,
                "node": self.node,
                "keyset_sha256": self.keyset_sha256,
                "sign_pk": b64u(self.sign_pk),
                "not_after": self.not_after,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> MemberCertificate:
        """Strict parse of canonical JSON, ≤ MAX_CERTIFICATE bytes. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_CERTIFICATE), "pool member")
        top.one_of("v", VERSION)
        certificate = cls(
            pool_keyset_sha256=top.text("pool_keyset_sha256", HEX64),
            node=top.text("node"),
            keyset_sha256=top.text("keyset_sha256", HEX64),
            sign_pk=top.octets("sign_pk", ED25519_PK),
            not_after=top.integer("not_after", 0, MAX_INTEGER),
        )
        top.done()
        if certificate.node == "":
            raise MalformedError("a pool member has a name", code="wrong-form")
        return certificate


@dataclass(frozen=True, slots=True)
class SignedPool:
    """What the key service publishes about one pool: keyset, its signature, and the text of the release policy.

    All three are bytes as published; whether they belong together is for `appraise_pool` to say.
    """

    keyset: bytes = field(repr=False)
    sig: bytes = field(repr=False)
    policy: bytes = field(repr=False)

    def encode(self) -> bytes:
        return encode({"v": "pool/1", "keyset": b64u(self.keyset), "sig": b64u(self.sig), "policy": b64u(self.policy)})

    @classmethod
    def parse(cls, data: bytes) -> SignedPool:
        """Strict parse of canonical JSON; the keyset parses and has the role `pool`. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_SIGNED), "pool")
        top.one_of("v", "pool/1")
        signed = cls(top.octets("keyset"), unb64u(top.take("sig", str), SIGNATURE), top.octets("policy"))
        top.done()
        if len(signed.policy) > MAX_POLICY_TEXT:
            raise MalformedError("the release policy is too large", code="document-too-large")
        if Keyset.parse(signed.keyset).role != "pool":
            raise MalformedError("the keyset of a pool has another role", code="role-mismatch")
        return signed
