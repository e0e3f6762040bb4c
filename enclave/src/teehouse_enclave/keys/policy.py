# SPDX-License-Identifier: Apache-2.0
"""The release policy of a key: which evidence gets it (spec/07-keys.md §6). Deny is the default.

It wraps one Appraisal Policy of `core` in full and adds what a key release asks beyond an appraisal: which roles, which
endpoints, and in which dialect evidence may come. The digest of its bytes is what grants, log entries and pool keysets
name, so every field stands in it: a policy means the same under any later release of this software.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire import canonical
from teehouse_core.wire.fields import ENDPOINT, Fields
from teehouse_enclave.keys.errors import KeysError

__all__ = ["COCO", "DENY", "DIALECTS", "MAX_POLICY", "TEEHOUSE", "ReleasePolicy", "preset"]

POLICY_VERSION: Final = "release-policy/1"
MAX_POLICY: Final = 32 * 1024  # bytes
MAX_ENDPOINTS: Final = 64
TEEHOUSE: Final = "teehouse"  # evidence bundles of 03-evidence
COCO: Final = "coco-aa"  # Confidential Containers attestation agent; only for rings of usage compat
DIALECTS: Final = (TEEHOUSE, COCO)
ROLES: Final = ("node", "group", "member")  # who may ask; never a pool or another key service
COCO_TEES: Final = ("sample", "tdx", "snp")
ANY_ENDPOINT: Final = "*"
MAX_GRANT: Final = 30 * 86400  # seconds that a grant may last
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """One parsed policy; `raw` are the bytes that `sha256` is over. No role or no endpoint: nobody gets the key."""

    raw: bytes = field(repr=False)
    id: str
    appraisal: Policy
    roles: tuple[str, ...]
    endpoints: tuple[str, ...]  # ids, or "*" alone
    grant_seconds: int
    dialect: str
    coco_tees: tuple[str, ...]
    unbound_key: bool  # coco-aa only: accept evidence that does not cover the requester's key; weak, and said so

    @property
    def sha256(self) -> str:
        """policy_sha256, hex."""
        return hashlib.sha256(self.raw).hexdigest()

    def names_endpoint(self, endpoint: str) -> bool:
        return ANY_ENDPOINT in self.endpoints or endpoint in self.endpoints

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
    ) -> ReleasePolicy:
        """A policy from parts. Raises `KeysError` (`bad-policy`)."""
        document = {
            "v": POLICY_VERSION,
            "id": id,
            "appraisal": appraisal.to_json(),
            "roles": list(roles),
            "endpoints": list(endpoints),
            "grant_seconds": grant_seconds,
            "dialect": dialect,
            "coco": {"tees": list(coco_tees), "unbound_key": unbound_key},
        }
        try:
            return cls.parse(canonical.encode(document))
        except LocalError as error:
            raise _bad(error.code) from None

    @classmethod
    def parse(cls, data: bytes) -> ReleasePolicy:
        """Strict parse of canonical JSON of at most 32 KiB. The appraisal must name every field of this release.

        Raises `KeysError` (`bad-policy`).
        """
        policy = cls.stored(data)
        if policy.appraisal.to_json() != canonical.parse(data, limit=MAX_POLICY)["appraisal"]:
            raise _bad("appraisal-incomplete", "write every field of the appraisal policy, in its own spelling")
        return policy

    @classmethod
    def stored(cls, data: bytes) -> ReleasePolicy:
        """Read a policy that was accepted before, perhaps by an older release with fewer fields.

        A field that was not known then takes its value of the preset `standard`. Raises `KeysError` (`bad-policy`).
        """
        try:
            item = Fields(canonical.parse(data, limit=MAX_POLICY), "policy")
            item.one_of("v", POLICY_VERSION)
            identity = item.text("id", _ID)
            appraisal = Policy.load(json.dumps(item.take("appraisal", dict)), "json")
            roles, endpoints = _words(item, "roles", ROLES), _endpoints(item)
            grant = item.integer("grant_seconds", 1, MAX_GRANT)
            dialect, coco = item.one_of("dialect", *DIALECTS), item.fields("coco")
            tees, unbound = _words(coco, "tees", COCO_TEES), coco.boolean("unbound_key")
            coco.done()
            item.done()
        except (MalformedError, LocalError) as error:
            raise _bad(error.code, error.hint) from None
        if dialect == TEEHOUSE and (tees or unbound):
            raise _bad("coco-unused", "the members of coco count in the dialect coco-aa only")
        if "sample" in tees and not appraisal.simulated_allowed:
            raise _bad("coco-sample", "sample evidence is simulated: the appraisal must allow that")
        return cls(data, identity, appraisal, roles, endpoints, grant, dialect, tees, unbound)


def preset(name: str, identity: str, *endpoints: str, roles: Sequence[str] = ("node",)) -> ReleasePolicy:
    """A release policy over a preset of the appraisal: `strict`, `standard` or `evaluate`."""
    appraisal = Policy.preset(name)
    return ReleasePolicy.build(id=identity, appraisal=appraisal, roles=roles, endpoints=endpoints)


def _bad(why: str, hint: str | None = None) -> KeysError:
    return KeysError("bad-policy", f"the release policy does not hold: {why}", hint=hint)


def _words(item: Fields, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
    values = item.items(name, 0, len(allowed))
    if any(value not in allowed for value in values) or len(set(values)) != len(values):
        raise MalformedError(f"{name} has an unknown or repeated word", code="unknown-value")
    return tuple(values)


def _endpoints(item: Fields) -> tuple[str, ...]:
    values = item.items("endpoints", 0, MAX_ENDPOINTS)
    if values == [ANY_ENDPOINT]:
        return (ANY_ENDPOINT,)
    if any(type(value) is not str or not ENDPOINT.fullmatch(value) for value in values):
        raise MalformedError("endpoints has an impossible id", code="wrong-form")
    if len(set(values)) != len(values):
        raise MalformedError("an endpoint stands twice", code="repeated-value")
    return tuple(values)


DENY: Final = ReleasePolicy.build(id="deny", appraisal=Policy.preset("strict"))
"""What a key without a policy has: no role, no endpoint."""
