# SPDX-License-Identifier: Apache-2.0
"""The cryptography of attested release: the key service seals one key to one requester, the requester opens it.

Opening makes every check of KEYS §2 (4) before the key is handed out; it does not appraise the key service: the keyset
given here is one that the caller appraised before.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teehouse_core.errors import RefusedError
from teehouse_core.seal.suite import SealingKey, hpke_open, hpke_seal
from teehouse_core.wire.grant import Grant, ReleaseAnswer, ReleaseRequest, grant_info, grant_message
from teehouse_core.wire.keyset import Keyset

__all__ = ["DigestOf", "check_grant", "open_grant", "seal_grant"]

DigestOf = Callable[[str, bytes], str]
"""(algorithm, key bytes) → `public_sha256` of spec 07 §3 in hex. Raises a TeehouseError for bytes of no such key."""


def seal_grant(suite: str, pk: bytes, grant: bytes, key_plain: bytes) -> bytes:
    """The key sealed to the requester's one-time key, bound to this grant. Raises MalformedError for a bad `pk`."""
    return hpke_seal(suite, pk, grant_info(grant), key_plain)


def check_grant(
    answer: ReleaseAnswer,
    *,
    request: bytes,
    requester_keyset_sha256: str,
    evidence_sha256: str,
    key_service: Keyset,
    now: int,
) -> Grant:
    """The grant of an answer, held to its signature, to what was asked, and to the time; the key stays sealed.

    `key_service` is the keyset of the key service as appraised, `evidence_sha256` that of the bundle that was sent.
    Raises RefusedError (`grant-signature`, `grant-other-request`, `grant-over`), MalformedError.
    """
    sign = key_service.sign_key(answer.kid)
    if sign is None:
        raise RefusedError("the grant is signed by no key of the appraised key service", code="grant-signature")
    try:
        Ed25519PublicKey.from_public_bytes(sign.pk).verify(answer.sig, grant_message(answer.grant))
    except (InvalidSignature, ValueError):
        raise RefusedError("the grant's signature is wrong", code="grant-signature") from None
    grant, asked = Grant.parse(answer.grant), ReleaseRequest.parse(request)
    claimed = (
        grant.tks_keyset_sha256,
        grant.request_sha256,
        grant.requester_keyset_sha256,
        grant.evidence_sha256,
        grant.tenant,
        grant.ring,
        grant.key,
        grant.version,
    )
    expected = (
        key_service.sha256,
        hashlib.sha256(request).hexdigest(),
        requester_keyset_sha256,
        evidence_sha256,
        asked.tenant,
        asked.ring,
        asked.key,
        asked.version,
    )
    if claimed != expected or asked.tks_keyset_sha256 != key_service.sha256:
        raise RefusedError("the grant answers another request", code="grant-other-request")
    if now >= grant.not_after:
        raise RefusedError("the grant has ended", code="grant-over", hint="check the clock, then ask again")
    return grant


def open_grant(
    answer: ReleaseAnswer,
    *,
    request: bytes,
    requester_keyset: Keyset,
    evidence_sha256: str,
    key_service: Keyset,
    one_time: SealingKey,
    now: int,
    digest_of: DigestOf,
) -> tuple[Grant, bytes]:
    """The grant and the released key; the caller then destroys `one_time`.

    Raises as `check_grant`, RefusedError (`grant-other-key`), MalformedError (`envelope`).
    """
    grant = check_grant(
        answer,
        request=request,
        requester_keyset_sha256=requester_keyset.sha256,
        evidence_sha256=evidence_sha256,
        key_service=key_service,
        now=now,
    )
    key_plain = hpke_open(one_time, grant_info(answer.grant), answer.sealed)
    if not hmac.compare_digest(digest_of(grant.algorithm, key_plain), grant.public_sha256):
        raise RefusedError("the released key is not the one that the grant names", code="grant-other-key")
    return grant, key_plain
