# SPDX-License-Identifier: Apache-2.0
"""The Attestation Result: every check by name, one result, and the type that alone opens the way to sealing keys.

`Verdict` and `Accepted` cannot be built outside this package: their constructors want a token that is not exported.
A verdict accepts only if no required check failed or was skipped *and* every check of the floor passed, so a verdict
with checks missing refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Final, Literal, NoReturn

from teehouse_core.appraise.floors import FLOOR, POOL_FLOOR
from teehouse_core.appraise.newest import Newest
from teehouse_core.errors import EvidenceRefused, LocalError, StaleEvidence
from teehouse_core.wire.keyset import Keyset

__all__ = ["FLOOR", "Accepted", "Check", "Group", "State", "Tier", "Verdict"]

State = Literal["passed", "failed", "skipped", "not-applicable"]
Group = Literal["silicon", "quote", "firmware", "workload", "gpu", "release", "binding", "policy"]
Tier = Literal["hardware", "vtpm", "simulated", "none"]

_TOKEN: Final = object()


@dataclass(frozen=True, slots=True)
class Check:
    """One named check. `id` is stable API; `claimed` and `expected` are short texts for people."""

    id: str
    group: Group
    state: State
    claimed: str
    expected: str
    source: str
    clause: str
    hint: str
    required: bool

    @property
    def refuses(self) -> bool:
        """A required check that did not happen counts as one that failed."""
        return self.required and self.state in ("failed", "skipped")

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A node's keyset that evidence spoke for, in this process, under one policy.

    Ends at `not_after` (Unix seconds); whoever seals checks that again each time, and each key's own window. For a pool
    `service` is the keyset of the key service that signed it, which says who its members are; for a node it is None.
    """

    token: InitVar[object]
    keyset: Keyset = field(repr=False)
    tier: Tier
    not_after: int
    evidence_time: int
    policy_digest: str
    bundle_sha256: str
    service: Keyset | None = field(default=None, repr=False)

    def __post_init__(self, token: object) -> None:
        _guard(token, "Accepted")

    @property
    def keyset_digest(self) -> bytes:
        """32 bytes, over the keyset's canonical encoding."""
        return self.keyset.digest

    def __reduce__(self) -> NoReturn:
        raise LocalError("acceptance does not leave the process that appraised", code="not-copyable")

    def __copy__(self) -> Accepted:
        return self

    def __deepcopy__(self, _memo: object) -> Accepted:
        return self


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks of one appraisal. `policy` is the policy's digest, `at` the appraisal time in Unix seconds.

    Without `pinned_roots` it was made under TEST roots, says so, and yields no `Accepted`. With `service`, `keyset` is
    that of a pool, the evidence is the key service's, and the floor has the pool's own checks too.
    """

    token: InitVar[object]
    checks: tuple[Check, ...]
    tier: Tier
    platform: str
    policy: str
    at: int
    claims: Mapping[str, Any]
    keyset: Keyset = field(repr=False)
    bundle_sha256: str
    evidence_time: int | None
    not_after: int
    pinned_roots: bool
    service: Keyset | None = field(default=None, repr=False)
    newest: Newest = field(default_factory=dict, repr=False)
    """What its signed collateral was numbered, for whoever keeps that; no part of the JSON."""

    def __post_init__(self, token: object) -> None:
        _guard(token, "Verdict")

    @property
    def result(self) -> Literal["accepted", "refused"]:
        if any(check.refuses for check in self.checks):
            return "refused"
        floor = FLOOR.get(self.platform)
        if floor is None or self.tier == "none":
            return "refused"
        passed = {check.id for check in self.checks if check.state == "passed"}
        wanted = floor | POOL_FLOOR if self.service is not None else floor
        return "accepted" if wanted <= passed else "refused"

    @property
    def supported(self) -> bool:
        """Whether this version can appraise the bundle's platform type at all."""
        return self.platform in FLOOR

    @property
    def refusing(self) -> tuple[Check, ...]:
        """The checks that refuse, in order."""
        return tuple(check for check in self.checks if check.refuses)

    def check(self, check_id: str) -> Check:
        """The check of that id. Raises `LocalError` when there is none."""
        for check in self.checks:
            if check.id == check_id:
                return check
        raise LocalError(f"no check {check_id}", code="check-id")

    def accept(self) -> Accepted:
        """The only maker of `Accepted`.

        Raises `EvidenceRefused` when the result is refused, `StaleEvidence` (`evidence-age-unknown`, `evidence-over`)
        when nothing proves that the evidence is of now (a stored report can be read, not sealed to), and `LocalError`
        (`endpoint-not-named`) when the caller never said which endpoint it asked for, or (`test-roots`) appraised under
        TEST roots.
        """
        if self.result != "accepted":
            ids = ", ".join(check.id for check in self.refusing) or "the platform is not supported"
            hint = next((check.hint for check in self.refusing if check.hint), None)
            raise EvidenceRefused(f"evidence refused: {ids}", verdict=self, hint=hint)
        if not self.pinned_roots:
            raise LocalError("appraised under TEST roots: there is nobody to seal to", code="test-roots")
        if self.evidence_time is None:
            hint = "appraise evidence made for a nonce of your own"
            raise StaleEvidence("the age of this evidence is unknown", code="evidence-age-unknown", hint=hint)
        if self.check("binding.endpoint").state != "passed":
            raise LocalError("appraise with the endpoint that was asked for", code="endpoint-not-named")
        if self.not_after <= self.at:
            raise StaleEvidence("this evidence has ended", code="evidence-over")
        return Accepted(
            _TOKEN,
            keyset=self.keyset,
            tier=self.tier,
            not_after=self.not_after,
            evidence_time=self.evidence_time,
            policy_digest=self.policy,
            bundle_sha256=self.bundle_sha256,
            service=self.service,
        )

    def to_json(self) -> dict[str, Any]:
        """`{"result","tier","policy","at","checks":[…],"claims":{…}}`, JSON-ready; equal inputs give equal output."""
        return {
            "result": self.result,
            "tier": self.tier,
            "policy": self.policy,
            "at": self.at,
            "checks": [check.to_json() for check in self.checks],
            "claims": dict(self.claims) if self.pinned_roots else {**self.claims, "roots": "TEST"},
        }


def _guard(token: object, what: str) -> None:
    if token is not _TOKEN:
        raise LocalError(f"{what} is made by appraisal only", code="not-constructible")
