# SPDX-License-Identifier: Apache-2.0
"""Checks that tie the keyset to the report, to the question asked, and to what was measured.

The keyset may claim nothing that the measured log does not say. Each kind of challenge is accepted only in its own
place: kind 1 where a client asks, kind 2 where it takes stored evidence and its policy names the ledger, kind 3 where
the key service asks.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from teehouse_core.appraise.checks_workload import Measured
from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, one_of, passed, skipped
from teehouse_core.evidence.bundle import CHALLENGE_INTERACTIVE, CHALLENGE_KEY_RELEASE, CHALLENGE_LEDGER, Bundle
from teehouse_core.wire.keyset import HpkeKey, Keyset, key_id

__all__ = ["EARLY", "check_binding", "check_capabilities", "usable_keys"]

EARLY: Final = (
    60  # seconds; a client seals to a key from not_before − 60 on (PROTOCOL §5), so clocks may differ by that
)

_KINDS: Final = {
    CHALLENGE_INTERACTIVE: "1 interactive",
    CHALLENGE_LEDGER: "2 ledger",
    CHALLENGE_KEY_RELEASE: "3 key release",
}


def check_binding(
    sheet: Sheet,
    bundle: Bundle,
    report_data: bytes | None,
    measured: Measured | None,
    policy: Policy,
    now: int,
    endpoint: str | None,
    nonce: bytes | None,
    place: int,
) -> None:
    """Make the `challenge.…` and `binding.…` checks; all comparisons with the report are in constant time."""
    keyset = bundle.keyset
    sheet.run("challenge.kind", lambda: _kind(bundle, place))
    no_nonce = _no_nonce(policy) if place != CHALLENGE_LEDGER else not_applicable("a checkpoint shows the age")
    sheet.write("challenge.nonce", _nonce(bundle, nonce, place) if nonce is not None else no_nonce)
    sheet.run("binding.report-data", lambda: _report_data(bundle, report_data), needs=(report_data,))
    sheet.run("binding.endpoint", lambda: _endpoint(keyset, endpoint))
    sheet.run("binding.names", lambda: _names(bundle))
    hint = "the keyset's role is none that the policy allows"
    sheet.run("binding.role", lambda: one_of(keyset.role, policy.roles, hint))
    sheet.run("binding.group", lambda: _group(bundle))
    sheet.run("binding.kids", lambda: _kids(keyset))
    sheet.run("binding.validity", lambda: _validity(keyset, now))
    sheet.run("binding.suites", lambda: _suites(keyset, policy, now))
    for event, claim in _claims(keyset).items():
        check_id = f"binding.{event.replace('_', '-')}"
        sheet.run(check_id, _compare(event, claim, measured), needs=(measured,))


def check_capabilities(sheet: Sheet, bundle: Bundle, policy: Policy) -> None:
    """Make the checks of what the policy demands of capabilities; `binding.…` says if they are measured."""
    claims = bundle.keyset.capabilities
    sheet.run("policy.doors", lambda: _doors(claims.doors, policy))
    hint = "the endpoint may send data elsewhere than the policy allows"
    sheet.run("policy.egress", lambda: one_of(claims.egress, policy.egress, hint))
    hint = "the endpoint logs content in a way that the policy does not allow"
    sheet.run("policy.content-logging", lambda: one_of(claims.content_logging, policy.content_logging, hint))
    sheet.run("policy.moderation", lambda: _moderation(claims.moderation, policy))
    statement = skipped("release statements are not supported in this version") if bundle.has_release else None
    sheet.write("release.statement", statement or not_applicable("the bundle carries no release statement"))


def usable_keys(keyset: Keyset, policy: Policy, now: int) -> tuple[HpkeKey, ...]:
    """The sealing keys that the policy's suites allow and whose own window includes `now`."""
    return tuple(
        key for key in keyset.hpke if key.suite in policy.suites and key.not_before - EARLY <= now < key.not_after
    )


def _kind(bundle: Bundle, place: int) -> Outcome:
    claimed, expected = _KINDS[bundle.challenge_kind], _KINDS[place]
    if bundle.challenge_kind == place:
        return passed(claimed, expected)
    if bundle.challenge_kind == CHALLENGE_LEDGER:
        hint = "evidence over a ledger checkpoint is taken where the policy names the log, and where no nonce was drawn"
        return failed(hint, claimed, expected)
    if bundle.challenge_kind == CHALLENGE_KEY_RELEASE:
        return failed("key-release evidence is for the key service only", claimed, expected)
    return failed("the key service takes evidence made for its own challenge only", claimed, expected)


def _nonce(bundle: Bundle, nonce: bytes, place: int) -> Outcome:
    if bundle.challenge_kind != place:
        hint = f"the challenge is not of the kind asked for, {_KINDS[place]}"
        return failed(hint, f"kind {bundle.challenge_kind}", nonce)
    if hmac.compare_digest(bundle.challenge_value, nonce):
        return passed(bundle.challenge_value, nonce)
    return failed("the evidence answers another challenge: replayed, or made for somebody else")


def _no_nonce(policy: Policy) -> Outcome:
    if policy.freshness_required:
        return skipped("no nonce was given, so the age of the evidence is unknown and the policy demands it")
    return not_applicable("no nonce was given and the policy does not ask for freshness; the age is unknown")


def _report_data(bundle: Bundle, report_data: bytes | None) -> Outcome:
    expected, claimed = bundle.report_data, report_data or b""
    if hmac.compare_digest(claimed, expected):
        return passed(claimed, expected)
    return failed("the report was made for another keyset, other devices or another challenge", claimed, expected)


def _endpoint(keyset: Keyset, endpoint: str | None) -> Outcome:
    if endpoint is None:
        return not_applicable(f"the caller asked for no endpoint; the keyset names {keyset.endpoint}")
    return equal(keyset.endpoint, endpoint, "the keyset is another endpoint's")


def _names(bundle: Bundle) -> Outcome:
    claimed = f"{bundle.endpoint} {bundle.node}"
    expected = f"{bundle.keyset.endpoint} {bundle.keyset.node}"
    return equal(claimed, expected, "the bundle's endpoint and node are not the keyset's")


def _group(bundle: Bundle) -> Outcome:
    keyset = bundle.keyset
    if bundle.member_count or keyset.members or keyset.group or keyset.pool:
        return failed("groups and pools are not supported in this version", keyset.role, "a single node")
    return passed("a single node", "a single node")


def _kids(keyset: Keyset) -> Outcome:
    pairs = [(key.kid, key_id(key.suite, key.pk)) for key in keyset.hpke]
    pairs += [(key.kid, key_id(key.alg, key.pk)) for key in (*keyset.sign, *keyset.link)]
    kids, expected = [kid for kid, _ in pairs], [kid for _, kid in pairs]
    if len(set(kids)) != len(kids):
        return failed("a key id stands twice", " ".join(kids))
    return equal(" ".join(kids), " ".join(expected), "a key id is not that of its key")


def _validity(keyset: Keyset, now: int) -> Outcome:
    window = f"{keyset.not_before} to {keyset.not_after}"
    if now < keyset.not_before - EARLY:
        return failed("the keyset is not yet valid; check the clock", window, now)
    if now >= keyset.not_after:
        return failed("the keyset has ended", window, now)
    return passed(window, now)


def _suites(keyset: Keyset, policy: Policy, now: int) -> Outcome:
    expected = " or ".join(policy.suites) or "none"
    if usable := usable_keys(keyset, policy, now):
        return passed(" ".join(sorted({key.suite for key in usable})), expected)
    claimed = " ".join(sorted({key.suite for key in keyset.hpke})) or "none"
    return failed("no sealing key of an allowed suite is valid now", claimed, expected)


def _claims(keyset: Keyset) -> dict[str, str | tuple[str, ...]]:
    return {
        "release": keyset.software.release,
        "image_sha256": keyset.software.image_sha256,
        "config_sha256": keyset.software.config_sha256,
        "weights_sha256": keyset.model.weights_sha256,
        "model": keyset.model.name,
        "doors": keyset.capabilities.doors,
        "egress": keyset.capabilities.egress,
        "content_logging": keyset.capabilities.content_logging,
        "moderation": keyset.capabilities.moderation,
    }


def _compare(event: str, claim: str | tuple[str, ...], measured: Measured | None) -> Callable[[], Outcome]:
    def check() -> Outcome:
        logged = (measured or {})[event]
        hint = f"the keyset claims another {event} than was measured"
        if isinstance(claim, str):
            return equal(claim, logged, hint)
        return equal(claim, tuple(logged.split(",")) if logged else (), hint)

    return check


def _doors(doors: tuple[str, ...], policy: Policy) -> Outcome:
    claimed, expected = " ".join(doors) or "none", " ".join(policy.doors) or "none"
    if set(doors) - set(policy.doors):
        return failed("a compatibility door is open that the policy does not allow", claimed, expected)
    return passed(claimed, expected)


def _moderation(moderation: str, policy: Policy) -> Outcome:
    if ANY in policy.moderation:
        return not_applicable(f"the policy allows any moderation; the keyset names {moderation}")
    return one_of(moderation, policy.moderation, "the endpoint moderates in a way that the policy does not allow")
