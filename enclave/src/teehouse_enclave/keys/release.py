# SPDX-License-Identifier: Apache-2.0
"""Attested release (KEYS §2): a challenge, evidence, a decision in the log, and only then a sealed key.

(1) Request and bundle parse. (2) The challenge was drawn here, less than a minute ago, and is used up now. (3) The key
is one that may be given out. (4) The requester's evidence is appraised under the key's release policy, in a thread.
(5) The decision, granted or refused with the failed checks, becomes an entry, made under the state at its own place in
the log. (6) A witness quorum has signed a checkpoint that covers it. (7) The key bytes are unwrapped and sealed.

A refusal before (3) leaves no entry: it decides nothing about a key, and an entry costs a challenge. Everything else
is in the log before the requester hears of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.appraise.appraise import appraise, appraise_release
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence.bundle import CHALLENGE_KEY_RELEASE, Bundle
from teehouse_core.seal.grant import seal_grant
from teehouse_core.wire.grant import (
    CHALLENGE_SIZE,
    Grant,
    Release,
    ReleaseAnswer,
    ReleaseRequest,
    challenge_value,
    grant_message,
)
from teehouse_core.wire.keyset import HpkeKey
from teehouse_enclave.keys.challenges import Challenges
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.model import Change, EntryDraft, Key, State, Version
from teehouse_enclave.keys.ops import releasable
from teehouse_enclave.keys.policy import TEEHOUSE, ReleasePolicy
from teehouse_enclave.keys.pools import PoolDesk
from teehouse_enclave.keys.service import Committed

__all__ = ["OP_RELEASE", "ReleaseDesk", "ReleaseRefused", "judge"]

OP_RELEASE: Final = "key.release"
_MAX_SEEN: Final = 256  # bundles remembered for dry runs
_MAX_SEEN_BYTES: Final = 64 * 1024 * 1024
_MAX_FAILED: Final = 64  # of `core.log.entry`
_NO_ENDPOINT: Final = "-"  # an endpoint that no keyset can name


class ReleaseRefused(KeysError):  # noqa: N818  a decision, not a fault
    """No: `failed` are (check id, hint); `members` go into the problem document beside them."""

    def __init__(self, code: str, message: str, failed: tuple[tuple[str, str], ...], committed: Committed | None):
        hint = next((hint for _, hint in failed if hint), None)
        super().__init__(code, message, hint=hint)
        self.members: dict[str, Any] = {
            "failed_checks": [{"id": check, "hint": hint} for check, hint in failed],
            **({"entry": committed.place.to_json()} if committed is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the evidence is worth under one policy. Not accepted without a key to seal to."""

    policy_sha256: str
    tier: str
    failed: tuple[tuple[str, str], ...]
    seal_to: HpkeKey | None = field(default=None, repr=False)

    @property
    def accepted(self) -> bool:
        return not self.failed and self.seal_to is not None


@dataclass(frozen=True, slots=True)
class _Asked:
    """One release under way."""

    request: ReleaseRequest
    request_sha256: str
    bundle: Bundle = field(repr=False)
    challenge: bytes = field(repr=False)

    @property
    def number(self) -> int:
        """The version number asked for. Raises KeysError."""
        text = self.request.version
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or (text[0] == "0"):
            raise KeysError("unknown-version", "a version is a number from 1 on")
        return int(text)


class ReleaseDesk:
    """Draws challenges and decides releases. `counts` is by decision or code, for metrics."""

    def __init__(self, desk: Desk, pools: PoolDesk, challenges: Challenges) -> None:
        self._desk = desk
        self._pools = pools
        self._challenges = challenges
        self._seen: OrderedDict[tuple[str, str, str], tuple[bytes, int]] = OrderedDict()
        self._seen_bytes = 0

    @property
    def open_challenges(self) -> int:
        return len(self._challenges)

    def challenge(self) -> tuple[str, bytes]:
        """keyset_sha256 of this service now, and 32 fresh bytes. Raises KeysError `over-limit`."""
        return self._desk.keyset.sha256, self._challenges.draw(self._desk.monotonic())

    async def release(self, body: bytes) -> ReleaseAnswer:
        """Decide one request. Raises KeysError, `ReleaseRefused`, StorageError; then nothing was sent."""
        asked = await asyncio.to_thread(_parse, body)  # (1)
        request, now = asked.request, self._desk.now()
        if self._desk.keys.keyset_of(request.tks_keyset_sha256, now) is None:
            hint = "appraise the service anew"
            raise KeysError("unknown-keyset", "made for another keyset than those in use", hint=hint)
        if asked.bundle.challenge_kind != CHALLENGE_KEY_RELEASE:
            failed = (("challenge.kind", "evidence for a release answers a challenge of kind 3"),)
            raise ReleaseRefused("evidence-refused", "evidence refused: challenge.kind", failed, None)
        self._challenges.take(asked.bundle.challenge_value[-CHALLENGE_SIZE:], self._desk.monotonic())  # (2)
        while True:
            state = self._desk.service.state(request.tenant)
            key = _known_key(state, request)  # (3)
            judgement = await self._judged(asked, key, now)  # (4)
            try:
                committed = await self._decide(asked, judgement)  # (5) (6)
            except _PolicyMoved:
                continue
            if not judgement.accepted or committed.entry_decision != "granted":
                raise _refusal(judgement, committed.committed, committed.reason)
            return await self._answer(asked, judgement, committed.committed)  # (7)

    def last_seen(self, tenant: str) -> list[tuple[bytes, int]]:
        """The newest bundle of each node that asked for a key of this tenant, oldest first, and when it asked."""
        return [seen for (owner, _, _), seen in self._seen.items() if owner == tenant]

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _judged(self, asked: _Asked, key: Key, now: int) -> Judgement:
        policy = ReleasePolicy.stored(key.policy)
        judgement = await asyncio.to_thread(judge, asked.bundle, policy, now, asked.challenge)
        if judgement.tier != "none":  # a real machine, whatever is wrong with it
            self._remember(asked)
        failed = judgement.failed + self._pool_faults(asked)
        return dataclasses.replace(judgement, failed=failed[:_MAX_FAILED])

    def _pool_faults(self, asked: _Asked) -> tuple[tuple[str, str], ...]:
        named = asked.request.pool_keyset_sha256
        if not named:
            return ()
        issued, request, keyset = self._pools.find(named), asked.request, asked.bundle.keyset
        fits = issued is not None and (
            issued.tenant,
            issued.keyset.endpoint,
            issued.keyset.pool.ring if issued.keyset.pool else "",
            issued.keyset.pool.key if issued.keyset.pool else "",
            str(issued.version),
        ) == (request.tenant, keyset.endpoint, request.ring, request.key, request.version)
        failed = [] if fits else [("release.pool-keyset", "no living pool keyset for this key version and endpoint")]
        if not keyset.sign:
            failed.append(("release.sign-key", "a pool member needs a signing key in its keyset"))
        return tuple(failed)

    async def _decide(self, asked: _Asked, judgement: Judgement) -> _Decided:
        """Commit the decision, under the state that the log has at that place."""
        keyset, reason = asked.bundle.keyset, ""

        def propose(state: State | None, now: int) -> Change:
            nonlocal reason
            key, _, reason = _open_state(state, asked, now)
            if key.policy_sha256 != judgement.policy_sha256:
                raise _PolicyMoved
            granted = judgement.accepted and not reason
            draft = EntryDraft(
                op=OP_RELEASE,
                decision="granted" if granted else "refused",
                ring=asked.request.ring,
                key=asked.request.key,
                version=asked.request.version,
                actors=(f"node {keyset.endpoint} {keyset.node}"[:256],),
                policy_sha256=judgement.policy_sha256,
                evidence_sha256=asked.bundle.sha256,
                keyset_sha256=keyset.sha256,
                request_sha256=asked.request_sha256,
                failed_checks=tuple(check for check, _ in judgement.failed),
                reason=reason or ("" if granted else "evidence-refused"),
                tier=judgement.tier,
            )
            return Change(draft, None)

        committed = await self._desk.service.commit(asked.request.tenant, propose)
        return _Decided(committed, reason)

    async def _answer(self, asked: _Asked, judgement: Judgement, committed: Committed) -> ReleaseAnswer:
        desk, request, keyset = self._desk, asked.request, asked.bundle.keyset
        now = desk.now()
        key, version, reason = _open_state(desk.service.state(request.tenant), asked, now)
        if reason or judgement.seal_to is None:
            raise KeysError("wrong-state", "the key was closed meanwhile", hint="the entry stays; nothing was sent")
        policy = ReleasePolicy.stored(key.policy)
        service_keyset = desk.keys.keyset_of(request.tks_keyset_sha256, now)
        if service_keyset is None:
            raise KeysError("unknown-keyset", "the keyset of this request has ended", hint="appraise the service anew")
        grant = Grant(
            tks_keyset_sha256=request.tks_keyset_sha256,
            request_sha256=asked.request_sha256,
            requester_keyset_sha256=keyset.sha256,
            evidence_sha256=asked.bundle.sha256,
            tenant=request.tenant,
            ring=request.ring,
            key=request.key,
            version=request.version,
            algorithm=key.algorithm,
            public_sha256=version.public_sha256,
            policy_sha256=judgement.policy_sha256,
            log=committed.place,
            not_after=now + policy.grant_seconds,
        ).encode()
        member, member_sig = b"", b""
        if request.pool_keyset_sha256:
            issued = self._pools.find(request.pool_keyset_sha256)
            if issued is None:
                raise KeysError("unknown-pool", "the pool keyset has ended", hint="ask for the newest one")
            member, member_sig = self._pools.certify(issued, keyset)
        slot = await desk.service.slot(request.tenant, version.slot)
        where = (request.tenant, request.ring, request.key, version.number)
        key_plain = desk.vault.unwrap(where, version, slot)
        return ReleaseAnswer(
            grant=grant,
            kid=desk.keys.sign_kid,
            sig=desk.keys.sign(grant_message(grant)),
            sealed=seal_grant(judgement.seal_to.suite, judgement.seal_to.pk, grant, key_plain),
            checkpoint=committed.checkpoint,
            proof=committed.proof,
            member=member,
            member_sig=member_sig,
        )

    def _remember(self, asked: _Asked) -> None:
        bundle = asked.bundle
        place = (asked.request.tenant, bundle.keyset.endpoint, bundle.keyset.node)
        self._seen_bytes -= len(self._seen.pop(place, (b"", 0))[0])
        self._seen[place] = (bundle.raw, self._desk.now())
        self._seen_bytes += len(bundle.raw)
        while len(self._seen) > _MAX_SEEN or self._seen_bytes > _MAX_SEEN_BYTES:
            _, (raw, _) = self._seen.popitem(last=False)
            self._seen_bytes -= len(raw)


class _PolicyMoved(TeehouseError):  # noqa: N818  a signal between two steps
    """The key's policy changed between appraisal and entry: appraise again."""


@dataclass(frozen=True, slots=True)
class _Decided:
    committed: Committed
    reason: str

    @property
    def entry_decision(self) -> str:
        return str(getattr(self.committed.entry, "decision", ""))


def judge(bundle: Bundle, policy: ReleasePolicy, now: int, challenge: bytes | None) -> Judgement:
    """Appraise `bundle` under a release policy. Without `challenge` the age is unknown: for dry runs only."""
    if policy.dialect != TEEHOUSE:
        dialect = ("release.dialect", f"the key's policy takes evidence of the dialect {policy.dialect} only")
        return Judgement(policy.sha256, "none", (dialect,))
    keyset, appraisal = bundle.keyset, policy.appraisal
    roles = tuple(role for role in appraisal.roles if role in policy.roles)
    appraisal = dataclasses.replace(appraisal, roles=roles)
    named = keyset.endpoint if policy.names_endpoint(keyset.endpoint) else None
    endpoint = named if named is not None else next(iter(policy.endpoints), _NO_ENDPOINT)
    verdict = _appraise(bundle, appraisal, now, endpoint, challenge)
    failed = [(check.id, check.hint) for check in verdict.refusing]
    if not failed and verdict.result != "accepted":
        failed.append(("policy.supported", "this version cannot appraise the platform"))
    if not failed and challenge is not None:
        try:
            verdict.accept()
        except TeehouseError as error:
            failed.append((f"release.{error.code}", error.message))
    usable = [key for key in keyset.hpke if key.suite in appraisal.suites]
    if len(keyset.hpke) != 1:
        failed.append(("release.one-time-key", "the keyset of a release has exactly one one-time HPKE key"))
    elif usable and not _takes(usable[0]):
        failed.append(("release.one-time-key", "the one-time HPKE key is no public key"))
    return Judgement(policy.sha256, verdict.tier, tuple(failed[:_MAX_FAILED]), usable[0] if usable else None)


def _takes(key: HpkeKey) -> bool:
    """Whether anything can be sealed to it: asked before an entry says that it was."""
    try:
        seal_grant(key.suite, key.pk, b"", b"")
    except MalformedError:
        return False
    return True


def _appraise(bundle: Bundle, policy: Policy, now: int, endpoint: str, challenge: bytes | None) -> Verdict:
    if challenge is None:
        policy = policy.for_stored_report()
        if bundle.challenge_kind != CHALLENGE_KEY_RELEASE:
            return appraise(bundle.raw, policy, now, endpoint=endpoint)
    return appraise_release(bundle.raw, policy, now, endpoint=endpoint, challenge=challenge)


def _parse(body: bytes) -> _Asked:
    try:
        release = Release.parse(body)
        request = ReleaseRequest.parse(release.request)
        bundle = Bundle.parse(release.bundle)
    except MalformedError as error:
        raise KeysError("malformed", f"the request does not parse: {error.code}", hint=error.message) from None
    digest = bytes.fromhex(request.tks_keyset_sha256)
    value = bundle.challenge_value
    challenge = challenge_value(digest, value[-CHALLENGE_SIZE:]) if len(value) >= CHALLENGE_SIZE else b""
    return _Asked(request, hashlib.sha256(release.request).hexdigest(), bundle, challenge)


def _known_key(state: State | None, request: ReleaseRequest) -> Key:
    """The key, whatever its state. To somebody who names what is not there everything is unknown in one way."""
    found = state.key(request.ring, request.key) if state is not None else None
    if found is None:
        raise KeysError("unknown-key", "no such key")
    return found


def _open_state(state: State | None, asked: _Asked, now: int) -> tuple[Key, Version, str]:
    """Key and version, and why they may not be given out (empty: they may). Raises KeysError for unknown ones."""
    key = _known_key(state, asked.request)
    version = key.version(asked.number)
    if state is None or version is None:
        raise KeysError("unknown-version", "no such version")
    try:
        releasable(state, asked.request.ring, asked.request.key, asked.number, now)
    except KeysError as error:
        return key, version, error.code
    return key, version, ""


def _refusal(judgement: Judgement, committed: Committed, reason: str) -> ReleaseRefused:
    if reason:
        return ReleaseRefused(reason, "the key is not given out in its present state", judgement.failed, committed)
    ids = ", ".join(check for check, _ in judgement.failed) or "no key to seal to"
    return ReleaseRefused("evidence-refused", f"evidence refused: {ids}"[:500], judgement.failed, committed)
