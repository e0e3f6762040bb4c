# SPDX-License-Identifier: Apache-2.0
"""The release policy of a key: which evidence gets it (spec/07-keys.md §6). Deny is the default.

The reader is core's, which client and node use as well; here are the service's own bounds, its error codes, and the
policy of a key that was given none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

from teehouse_core.appraise import release_policy as core
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import COCO, DIALECTS, TEEHOUSE
from teehouse_core.errors import LocalError, MalformedError
from teehouse_enclave.keys.errors import KeysError

__all__ = ["COCO", "DENY", "DIALECTS", "MAX_POLICY", "TEEHOUSE", "ReleasePolicy", "preset"]

MAX_POLICY: Final = 32 * 1024  # bytes; each key holds one in memory
COCO_TEES: Final = ("sample", "tdx", "snp")


class ReleasePolicy(core.ReleasePolicy):
    """A policy as the service takes it. No role or no endpoint: nobody gets the key."""

    __slots__ = ()

    @property
    def denies_all(self) -> bool:
        """Whether no evidence could ever satisfy it."""
        if self.dialect == COCO:
            return not self.coco_tees
        return not self.roles or not self.endpoints

    @classmethod
    def build(
        cls,
        *,
        id: str,  # noqa: A002  the member's name
        appraisal: Policy,
        roles: Sequence[str] = (),
        endpoints: Sequence[str] = (),
        grant_seconds: int = 900,
        dialect: str = TEEHOUSE,
        coco_tees: Sequence[str] = (),
        unbound_key: bool = False,
    ) -> Self:
        """A policy from parts. Raises `KeysError` (`bad-policy`)."""
        parts = core.ReleasePolicy(
            id=id,
            appraisal=appraisal,
            endpoints=tuple(endpoints),
            roles=tuple(roles),
            grant_seconds=grant_seconds,
            dialect=dialect,
            coco_tees=tuple(coco_tees),
            unbound_key=unbound_key,
        )
        try:
            return cls.parse(parts.encode())
        except LocalError as error:
            raise _bad(error.code) from None

    @classmethod
    def parse(cls, data: bytes, *, complete: bool = True) -> Self:
        """Strict parse of canonical JSON of at most 32 KiB. Raises `KeysError` (`bad-policy`)."""
        if len(data) > MAX_POLICY:
            raise _bad("document-too-large", f"at most {MAX_POLICY} bytes")
        try:
            policy = super().parse(data, complete=complete)
        except MalformedError as error:
            raise _bad(error.code, error.message) from None
        if not policy.id:
            raise _bad("wrong-form", "give it an id")
        if not set(policy.coco_tees) <= set(COCO_TEES):
            raise _bad("unknown-value", f"coco.tees are among {', '.join(COCO_TEES)}")
        if policy.dialect == TEEHOUSE and (policy.coco_tees or policy.unbound_key):
            raise _bad("coco-unused", "the members of coco count in the dialect coco-aa only")
        if "sample" in policy.coco_tees and not policy.appraisal.simulated_allowed:
            raise _bad("coco-sample", "sample evidence is simulated: the appraisal must allow that")
        return policy

    @classmethod
    def stored(cls, data: bytes) -> Self:
        """Read a policy that was accepted before, perhaps by an older version of this software with fewer fields."""
        return cls.parse(data, complete=False)


def preset(name: str, identity: str, *endpoints: str, roles: Sequence[str] = ("node",)) -> ReleasePolicy:
    """A release policy over a preset of the appraisal: `strict`, `standard` or `evaluate`."""
    appraisal = Policy.preset(name)
    return ReleasePolicy.build(id=identity, appraisal=appraisal, roles=roles, endpoints=endpoints)


def _bad(why: str, hint: str | None = None) -> KeysError:
    return KeysError("bad-policy", f"the release policy does not hold: {why}", hint=hint)


DENY: Final = ReleasePolicy.build(id="deny", appraisal=Policy.preset("strict"))
"""What a key without a policy has: no role, no endpoint."""
