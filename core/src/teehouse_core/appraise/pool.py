# SPDX-License-Identifier: Apache-2.0
"""`appraise_pool`: the key service's evidence and what it signed give a verdict on a pool keyset (PROTOCOL §6).

The verdict says *pool: any node that satisfies policy P*. It names no node, because nobody can say which member reads a
request; which nodes were given the key stands in the key service's audit log.
"""

from __future__ import annotations

from typing import Any, Final

from teehouse_core.appraise.anchors import PINNED, Anchors
from teehouse_core.appraise.appraise import appraise_under
from teehouse_core.appraise.checks_binding import usable_keys
from teehouse_core.appraise.checks_pool import PoolQuestion, check_pool
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.appraise.verdict import _TOKEN, Tier, Verdict
from teehouse_core.errors import MalformedError
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.pool import SignedPool

__all__ = ["appraise_pool"]

_RANK: Final[dict[Tier, int]] = {"hardware": 0, "vtpm": 1, "simulated": 2, "none": 3}


def appraise_pool(
    pool: bytes, bundle_bytes: bytes, policy: Policy, now: int, *, endpoint: str, nonce: bytes | None = None
) -> Verdict:
    """Appraise a pool at `now` (Unix seconds): `pool` as published, `bundle_bytes` of the key service that signed it.

    `endpoint` is the one asked for, `nonce` the 32 bytes drawn for the key service's evidence. The verdict's keyset is
    the pool's. Raises `MalformedError` when pool or bundle do not parse, `LocalError` for a bad nonce or time.
    """
    return appraise_pool_under(PINNED, pool, bundle_bytes, policy, now, endpoint=endpoint, nonce=nonce)


def appraise_pool_under(
    anchors: Anchors,
    pool: bytes,
    bundle_bytes: bytes,
    policy: Policy,
    now: int,
    *,
    endpoint: str,
    nonce: bytes | None = None,
) -> Verdict:
    """The same under any roots, for `under_test_roots` alone."""
    signed = SignedPool.parse(pool)
    keyset = Keyset.parse(signed.keyset)
    if keyset.pool is None:
        raise MalformedError("not a pool keyset", code="role-mismatch")
    service = appraise_under(anchors, bundle_bytes, policy.for_key_service(), now, endpoint="", nonce=nonce)
    sheet = Sheet(anchors)
    release = check_pool(sheet, PoolQuestion(signed, keyset, service.keyset, endpoint), policy, now)
    checks = tuple(sheet.check(check.id) or check for check in service.checks)
    keys = [key.not_after for key in usable_keys(keyset, policy, now)]
    not_after = min(service.not_after, keyset.not_after, max(keys, default=now))
    tier = max((service.tier, _members_tier(release)), key=_RANK.__getitem__)
    return Verdict(
        _TOKEN,
        checks=checks,
        tier=tier,
        platform=service.platform,
        policy=policy.digest,
        at=now,
        claims=_claims(service, keyset, release, policy, not_after),
        keyset=keyset,
        bundle_sha256=service.bundle_sha256,
        evidence_time=service.evidence_time,
        not_after=not_after,
        pinned_roots=service.pinned_roots,
        service=service.keyset,
    )


def _members_tier(release: ReleasePolicy | None) -> Tier:
    """The lowest tier that a member can have: the verdict is worth no more than the weakest node it covers."""
    if release is None:
        return "none"
    if release.appraisal.simulated_allowed:
        return "simulated"
    return "vtpm" if "tpm" in release.appraisal.platforms else "hardware"


def _claims(
    service: Verdict, keyset: Keyset, release: ReleasePolicy | None, policy: Policy, not_after: int
) -> dict[str, Any]:
    pool = keyset.pool
    name = release.id if release else "unreadable"
    return {
        **service.claims,
        "policy": policy.name,
        "keyset_sha256": keyset.sha256,
        "endpoint": keyset.endpoint,
        "node": "",
        "role": keyset.role,
        "model": {"name": keyset.model.name, "weights_sha256": keyset.model.weights_sha256},
        "software": {
            "release": keyset.software.release,
            "image_sha256": keyset.software.image_sha256,
            "config_sha256": keyset.software.config_sha256,
        },
        "capabilities": {
            "egress": keyset.capabilities.egress,
            "content_logging": keyset.capabilities.content_logging,
            "moderation": keyset.capabilities.moderation,
            "doors": list(keyset.capabilities.doors),
        },
        "not_after": not_after,
        "pool": {
            "statement": f"pool: any node that satisfies policy {name}",
            "release_policy": name,
            "release_policy_sha256": pool.release_policy_sha256 if pool else "",
            "ring": pool.ring if pool else "",
            "key": pool.key if pool else "",
            "version": pool.version if pool else "",
        },
        "key_service": {
            "keyset_sha256": service.keyset.sha256,
            "node": service.keyset.node,
            "software": service.claims["software"],
        },
    }
