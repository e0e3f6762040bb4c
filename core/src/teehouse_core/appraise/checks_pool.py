# SPDX-License-Identifier: Apache-2.0
"""The checks of a pool keyset: who signed it, who else may hold its key, and that it claims no more than that ensures.

A pool keyset has no evidence of its own (PROTOCOL §6). What it says of weights, software and capabilities counts as far
as the release policy pins it for every node that can get the key.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from teehouse_core.appraise.checks_binding import EARLY, usable_keys
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import TEEHOUSE, ReleasePolicy
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, one_of, passed
from teehouse_core.appraise.strength import member_roles, weaker_fields
from teehouse_core.errors import MalformedError
from teehouse_core.seal.pool import signed_by
from teehouse_core.wire.keyset import Capabilities, Keyset, Model, Software
from teehouse_core.wire.pool import POOL_ACTIVE, SignedPool, pool_keyset_message

__all__ = ["PoolQuestion", "check_pool", "pool_claims"]


@dataclass(frozen=True, slots=True)
class PoolQuestion:
    """A pool as published, the keyset of the key service that was appraised with it, and what the caller asked for."""

    signed: SignedPool = field(repr=False)
    keyset: Keyset = field(repr=False)
    service: Keyset = field(repr=False)
    endpoint: str


def check_pool(sheet: Sheet, question: PoolQuestion, policy: Policy, now: int) -> ReleasePolicy | None:
    """Make every `pool.…` check; gives the release policy when its text parses."""
    keyset, signed = question.keyset, question.signed
    pool = keyset.pool
    try:
        release: ReleasePolicy | None = ReleasePolicy.parse(signed.policy)
    except MalformedError:
        release = None
    named = pool.release_policy_sha256 if pool else ""
    sheet.run("pool.allowed", lambda: one_of(keyset.role, policy.roles, "the policy does not accept pool keys"))
    hint = "the policy does not list the release policy under which this key is given out"
    sheet.run("pool.listed", lambda: one_of(named, policy.pool.release_policies, hint))
    hint = "the text that came with the pool is not that of the release policy it names"
    sheet.run("pool.policy-text", lambda: equal(_sha256(signed.policy), named, hint))
    sheet.run("pool.policy-strength", lambda: _strength(release, policy))
    hint = "the pool names another key service than the one that was appraised"
    sheet.run("pool.service", lambda: equal(pool.tks_keyset_sha256 if pool else "", question.service.sha256, hint))
    sheet.run("pool.signature", lambda: _signature(question))
    sheet.run("pool.endpoint", lambda: _endpoint(keyset, release, question.endpoint), needs=(release,))
    sheet.run("pool.validity", lambda: _validity(keyset, now))
    sheet.run("pool.suites", lambda: _suites(keyset, policy, now))
    sheet.run("pool.claims", lambda: _claims(keyset, release), needs=(release,))
    return release


def pool_claims(policy: Policy, model: str) -> tuple[Model, Software, Capabilities]:
    """What a pool keyset may say under a release policy's appraisal: exactly what that pins for every member.

    `model` is a name for people; the weights it stands for are those of `weights_sha256`. What the policy leaves open
    is claimed as "". Raises MalformedError (`pool-claims`) when it pins no single weights, egress or content logging.
    """
    references = policy.references
    weights = _only(references.weights_sha256)
    egress, logging = _only(policy.egress), _only(policy.content_logging)
    if not (weights and egress and logging):
        raise MalformedError(
            "a pool's release policy pins one value each of weights_sha256, egress and content_logging",
            code="pool-claims",
        )
    software = Software(_only(references.release), _only(references.image_sha256), _only(references.config_sha256))
    moderation = "" if "*" in policy.moderation else _only(policy.moderation)
    return Model(model, weights), software, Capabilities(egress, logging, moderation, tuple(sorted(policy.doors)))


def _only(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _strength(release: ReleasePolicy | None, policy: Policy) -> Outcome:
    if release is None:
        return failed("the release policy does not parse, so it cannot be compared with this policy")
    if release.dialect != TEEHOUSE:
        return failed("evidence of this dialect does not cover the key it asks for", release.dialect, TEEHOUSE)
    if not set(release.roles) <= member_roles(policy.roles):
        return failed("gives the key to a role that this policy does not allow", " ".join(release.roles))
    if weaker := weaker_fields(release.appraisal, policy):
        hint = f"weaker than this policy, or not comparable, in: {', '.join(weaker)}"
        return failed(hint, release.id, f"no weaker than {policy.name}")
    return passed(release.id, f"no weaker than {policy.name}")


def _signature(question: PoolQuestion) -> Outcome:
    kids = " ".join(key.kid for key in question.service.sign)
    if signed_by(question.service, pool_keyset_message(question.keyset.digest), question.signed.sig):
        return passed(question.keyset.sha256, kids)
    return failed("no signing key of the appraised key service signed this pool keyset", question.keyset.sha256, kids)


def _endpoint(keyset: Keyset, release: ReleasePolicy | None, endpoint: str) -> Outcome:
    if keyset.endpoint != endpoint:
        return failed("the pool is another endpoint's", keyset.endpoint, endpoint)
    if release is None or not release.names_endpoint(endpoint):
        listed = " ".join(release.endpoints) if release else "none"
        return failed("the release policy gives the key to nodes of other endpoints only", listed, endpoint)
    return passed(endpoint, endpoint)


def _validity(keyset: Keyset, now: int) -> Outcome:
    window = f"{keyset.not_before} to {keyset.not_after}"
    spans = [(keyset.not_before, keyset.not_after), *((key.not_before, key.not_after) for key in keyset.hpke)]
    if any(end - start > POOL_ACTIVE for start, end in spans):
        return failed(f"a pool key is active for at most {POOL_ACTIVE} seconds", window, now)
    if now < keyset.not_before - EARLY:
        return failed("the pool keyset is not yet valid; check the clock", window, now)
    if now >= keyset.not_after:
        return failed("the pool keyset has ended", window, now)
    return passed(window, now)


def _suites(keyset: Keyset, policy: Policy, now: int) -> Outcome:
    expected = " or ".join(policy.suites) or "none"
    if usable := usable_keys(keyset, policy, now):
        return passed(" ".join(sorted({key.suite for key in usable})), expected)
    claimed = " ".join(sorted({key.suite for key in keyset.hpke})) or "none"
    return failed("no sealing key of an allowed suite is valid now", claimed, expected)


def _claims(keyset: Keyset, release: ReleasePolicy | None) -> Outcome:
    if release is None:
        return failed("the release policy does not parse")
    wanted = pool_claims(release.appraisal, keyset.model.name)
    claimed = (keyset.model, keyset.software, keyset.capabilities)
    differs = list(_differences(claimed, wanted))
    if differs:
        return failed(f"the pool claims what its release policy does not ensure: {', '.join(differs)}")
    return passed(keyset.model.weights_sha256, wanted[0].weights_sha256)


def _differences(
    claimed: tuple[Model | Software | Capabilities, ...], wanted: tuple[Model | Software | Capabilities, ...]
) -> Iterator[str]:
    for mine, theirs in zip(claimed, wanted, strict=True):
        for one in dataclasses.fields(mine):
            a, b = getattr(mine, one.name), getattr(theirs, one.name)
            if (tuple(sorted(a)) if isinstance(a, tuple) else a) != b:
                yield one.name
