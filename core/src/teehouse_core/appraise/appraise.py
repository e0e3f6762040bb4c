# SPDX-License-Identifier: Apache-2.0
"""`appraise`: bundle bytes, a policy and a time give a verdict. No clock, no I/O, no early stop.

(1) parse the bundle, (2) the platform's own checks, (3) the workload, (4) the binding, (5) the devices, (6) what the
policy demands of capabilities, (7) every check of the catalogue is on the sheet, then the verdict. It does not decide
what to do.
"""

from __future__ import annotations

from typing import Any, Final

from teehouse_core.appraise.anchors import PINNED, Anchors
from teehouse_core.appraise.checks_binding import check_binding, check_capabilities, usable_keys
from teehouse_core.appraise.checks_devices import DevicesFacts, check_devices
from teehouse_core.appraise.checks_ledger import KnownCheckpoint, check_ledger
from teehouse_core.appraise.checks_newest import check_newest
from teehouse_core.appraise.checks_workload import check_workload
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Sheet, failed, one_of, passed
from teehouse_core.appraise.technologies import TECHNOLOGIES, UNSUPPORTED_HINT, check_ids
from teehouse_core.appraise.verdict import _TOKEN, Check, Tier, Verdict
from teehouse_core.errors import LocalError
from teehouse_core.evidence.bundle import CHALLENGE_INTERACTIVE, CHALLENGE_KEY_RELEASE, CHALLENGE_LEDGER, Bundle

__all__ = ["NONCE_SIZE", "RELEASE_CHALLENGE_SIZE", "appraise", "appraise_release"]

NONCE_SIZE: Final = 32  # bytes of the caller's own randomness (PROTOCOL §2, challenge kind 1)
RELEASE_CHALLENGE_SIZE: Final = 64  # bytes: the key service's keyset_digest ‖ 32 random bytes (challenge kind 3)
MAX_NOW: Final = 253_402_300_799  # Unix seconds, the last second of the year 9999


def appraise(
    bundle_bytes: bytes,
    policy: Policy,
    now: int,
    *,
    endpoint: str | None = None,
    nonce: bytes | None = None,
    known: KnownCheckpoint | None = None,
    newest: Newest | None = None,
) -> Verdict:
    """Appraise one bundle at `now` (Unix seconds) under `policy`.

    `endpoint` is the one the caller asked for; `nonce` the 32 bytes it drew for this evidence. Without a nonce only a
    ledger checkpoint that the policy's witnesses signed (challenge kind 2) shows an age; other evidence has unknown age
    then, and the verdict's `accept()` never yields `Accepted`. `known` is the newest checkpoint of that log seen
    here, `newest` what is known of collateral seen before, None when nothing is kept.
    Raises `MalformedError` when the bytes are no bundle, `LocalError` for a bad nonce or time, nothing else.
    """
    return appraise_under(PINNED, bundle_bytes, policy, now, endpoint=endpoint, nonce=nonce, known=known, newest=newest)


def appraise_release(
    bundle_bytes: bytes, policy: Policy, now: int, *, endpoint: str | None = None, challenge: bytes | None = None
) -> Verdict:
    """Appraise evidence made for a key release: challenge kind 3 here, and no other kind (KEYS §2).

    `challenge` is the key service's own keyset_digest followed by the 32 bytes it drew; everything else is as in
    `appraise`. Only the key service calls this: evidence made for it proves nothing to a client.
    """
    return appraise_under(
        PINNED, bundle_bytes, policy, now, endpoint=endpoint, nonce=challenge, place=CHALLENGE_KEY_RELEASE
    )


def appraise_under(
    anchors: Anchors,
    bundle_bytes: bytes,
    policy: Policy,
    now: int,
    *,
    endpoint: str | None = None,
    nonce: bytes | None = None,
    place: int = CHALLENGE_INTERACTIVE,
    known: KnownCheckpoint | None = None,
    newest: Newest | None = None,
) -> Verdict:
    """The same under any roots, for `under_test_roots` alone; `place` is the kind of challenge that is asked for.

    Under other roots than the pinned ones the tier is `simulated` at best, and the verdict yields no `Accepted`.
    """
    size = RELEASE_CHALLENGE_SIZE if place == CHALLENGE_KEY_RELEASE else NONCE_SIZE
    if nonce is not None and len(nonce) != size:
        raise LocalError(f"a nonce of this kind has {size} bytes", code="nonce-size")
    if not 0 <= now <= MAX_NOW:
        raise LocalError("the appraisal time is out of range", code="time-range")
    bundle = Bundle.parse(bundle_bytes)  # (1)
    if place == CHALLENGE_INTERACTIVE and nonce is None and policy.ledger.logs:
        place = bundle.challenge_kind if bundle.challenge_kind == CHALLENGE_LEDGER else place
    sheet = Sheet(anchors)
    kind = bundle.platform.type
    technology = TECHNOLOGIES.get(kind)
    types = " or ".join(TECHNOLOGIES)
    sheet.write("policy.supported", passed(kind, types) if technology else failed(UNSUPPORTED_HINT, kind, types))
    allowed = tuple(p for p in policy.platforms if p != "simulated" or policy.simulated_allowed)
    sheet.write("policy.platform", one_of(kind, allowed, "the policy does not accept this type of platform"))

    facts = technology.check(sheet, bundle, policy, now) if technology else PlatformFacts()  # (2)
    log_register = technology.log_register if technology else None
    register_name = technology.register_name if technology else "a register"
    check_newest(sheet, facts.newest, newest, now)
    measured = check_workload(sheet, bundle, facts.register, log_register, register_name, policy)  # (3)
    check_binding(sheet, bundle, facts.report_data, measured, policy, now, endpoint, nonce, place)  # (4)
    dated = check_ledger(sheet, bundle, policy, now, place, known)
    devices = check_devices(sheet, bundle, policy, now)  # (5)
    check_capabilities(sheet, bundle, policy)  # (6)
    checks = sheet.finish(check_ids(kind))  # (7)

    fresh = sheet.state("challenge.nonce") == "passed"
    # The nonce did not exist earlier than the question that carried it, the checkpoint not before its quorum.
    evidence_time = now if fresh else min(dated, now) if dated is not None else None
    since = now if evidence_time is None else evidence_time
    not_after = _not_after(bundle, policy, (*facts.ends, *devices.ends), now, since)
    proven = technology is not None and sheet.state(technology.chain_check) == "passed"
    pinned = anchors is PINNED
    tier: Tier = (technology.tier if pinned else "simulated") if technology is not None and proven else "none"
    return Verdict(
        _TOKEN,
        checks=checks,
        tier=tier,
        platform=kind,
        policy=policy.digest,
        at=now,
        claims=_claims(bundle, policy, facts, devices, checks, tier, evidence_time, not_after),
        keyset=bundle.keyset,
        bundle_sha256=bundle.sha256,
        evidence_time=evidence_time,
        not_after=not_after,
        pinned_roots=pinned,
        newest=facts.newest,
    )


def _not_after(bundle: Bundle, policy: Policy, ends: tuple[int, ...], now: int, since: int) -> int:
    """The earliest end of keyset, sealing keys, collateral and the policy's ages; a single key ends by itself."""
    keys = [key.not_after for key in usable_keys(bundle.keyset, policy, now)]
    return min(bundle.keyset.not_after, max(keys, default=now), since + policy.max_evidence_age, *ends)


def _claims(
    bundle: Bundle,
    policy: Policy,
    facts: PlatformFacts,
    devices: DevicesFacts,
    checks: tuple[Check, ...],
    tier: Tier,
    evidence_time: int | None,
    not_after: int,
) -> dict[str, Any]:
    keyset = bundle.keyset
    claims: dict[str, Any] = {
        "policy": policy.name,
        "platform": bundle.platform.type,
        "supported": bundle.platform.type in TECHNOLOGIES,
        "bundle_sha256": bundle.sha256,
        "keyset_sha256": keyset.sha256,
        "endpoint": keyset.endpoint,
        "node": keyset.node,
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
        "submods": {
            "cpu0": {"ear.status": _status(checks, ("silicon", "quote", "firmware"), tier), **facts.claims},
            "workload": {"ear.status": _status(checks, ("workload", "binding"), tier)},
            **devices.submods,
        },
    }
    if evidence_time is not None:
        claims["evidence_time"] = evidence_time
    return claims


def _status(checks: tuple[Check, ...], groups: tuple[str, ...], tier: Tier) -> str:
    """The EAR tier of one part: `none` when nothing of it was checked, `warning` for simulated or optional failures."""
    mine = [check for check in checks if check.group in groups]
    if any(check.required and check.state == "failed" for check in mine):
        return "contraindicated"
    if any(check.refuses for check in mine):
        return "none"
    if tier == "simulated" or any(check.state in ("failed", "skipped") for check in mine):
        return "warning"
    return "affirming"
