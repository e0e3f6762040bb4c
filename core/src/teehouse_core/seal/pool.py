# SPDX-License-Identifier: Apache-2.0
"""Who answers for a pool: member certificates in the head of an answer (PROTOCOL §6, spec/01-keyset.md §9.7, §9.8).

The content key of a pool is shared, so a certificate shows who signed the receipt, not that no other member read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.keyset import Keyset, SignKey, key_id
from teehouse_core.wire.pool import (
    MEMBER_HEADER,
    MEMBER_SIG_HEADER,
    SIGNATURE,
    MemberCertificate,
    pool_member_message,
)

__all__ = ["MemberProof", "check_member", "member_of", "signed_by"]

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MemberProof:
    """A member certificate as the key service gave it to this node, with its signature."""

    certificate: bytes = field(repr=False)
    sig: bytes = field(repr=False)

    def headers(self) -> Headers:
        """The two head headers that every answer of a pool member has."""
        return ((MEMBER_HEADER, b64u(self.certificate)), (MEMBER_SIG_HEADER, b64u(self.sig)))


def signed_by(service: Keyset, message: bytes, sig: bytes) -> bool:
    """Whether one of the `sign` keys of `service` made `sig` over `message`."""
    for key in service.sign:
        try:
            Ed25519PublicKey.from_public_bytes(key.pk).verify(sig, message)
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


def check_member(proof: MemberProof, *, service: Keyset, pool: Keyset, at: int) -> MemberCertificate:
    """The certificate, when `service` signed it for this pool keyset and it has not ended at `at` (Unix seconds).

    Raises MalformedError (`pool-member`, `pool-member-signature`, or as its form is wrong).
    """
    if not signed_by(service, pool_member_message(proof.certificate), proof.sig):
        raise MalformedError("the key service did not sign this member certificate", code="pool-member-signature")
    certificate = MemberCertificate.parse(proof.certificate)
    if certificate.pool_keyset_sha256 != pool.sha256 or at >= certificate.not_after:
        raise MalformedError("the member certificate is of another pool keyset, or over", code="pool-member")
    return certificate


def member_of(headers: Headers, *, service: Keyset | None, pool: Keyset, at: int) -> tuple[SignKey | None, Headers]:
    """The key that signs receipts of the member that answers, and the other headers.

    `service` is None when the keyset that answers is a node's own: then there is no certificate, and none may be there.
    Raises MalformedError as `check_member`.
    """
    names = (MEMBER_HEADER, MEMBER_SIG_HEADER)
    found = [[value for name, value in headers if name == wanted] for wanted in names]
    rest = tuple((name, value) for name, value in headers if name not in names)
    if service is None:
        if any(found):
            raise MalformedError("a node that is no pool member shows a member certificate", code="pool-member")
        return None, rest
    if [len(values) for values in found] != [1, 1]:
        raise MalformedError("a pool member must show its certificate, once", code="pool-member")
    proof = MemberProof(unb64u(found[0][0]), unb64u(found[1][0], SIGNATURE))
    pk = check_member(proof, service=service, pool=pool, at=at).sign_pk
    return SignKey(key_id("ed25519", pk), "ed25519", pk), rest
