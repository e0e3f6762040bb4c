# SPDX-License-Identifier: Apache-2.0
"""The release policy of a key, as text: whom the key service gives it to (KEYS §1, §2; spec/07-keys.md).

Canonical JSON, named by the SHA-256 of its bytes. Key service, node and client read it with this one reader, so that
all three mean the same by it; a member that this version does not know makes it unreadable, never ignored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final, Self

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.canonical import encode, parse
from teehouse_core.wire.fields import ENDPOINT, NAME, Fields

__all__ = ["COCO", "DIALECTS", "RELEASE_POLICY", "TEEHOUSE", "ReleasePolicy"]

RELEASE_POLICY: Final = "release-policy/1"
TEEHOUSE: Final = "teehouse"  # evidence of spec 03 over a one-time key
COCO: Final = "coco-aa"  # the Confidential Containers attestation agent's, which does not cover the key: weak
DIALECTS: Final = (TEEHOUSE, COCO)
ROLES: Final = ("node", "group", "member")  # who may ask; never a pool or another key service
ANY_ENDPOINT: Final = "*"
MAX_TEXT: Final = 64 * 1024  # bytes; the key service takes half of that
MAX_ITEMS: Final = 64  # endpoints
MAX_GRANT: Final = 30 * 86400  # seconds


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """`appraisal` is what the requester's evidence must satisfy; deny by default: an empty list allows nobody."""

    id: str
    appraisal: Policy
    endpoints: tuple[str, ...] = ()  # ids, or "*" alone
    roles: tuple[str, ...] = ("node",)
    grant_seconds: int = 900
    dialect: str = TEEHOUSE
    coco_tees: tuple[str, ...] = ()
    unbound_key: bool = False  # coco-aa only: evidence that does not cover the requester's key
    raw: bytes = field(default=b"", repr=False, compare=False)

    def encode(self) -> bytes:
        """The canonical text. Raises LocalError or MalformedError when a part is unfit."""
        return encode(
            {
                "v": RELEASE_POLICY,
                "id": self.id,
                "appraisal": self.appraisal.to_json(),
                "roles": list(self.roles),
                "endpoints": list(self.endpoints),
                "grant_seconds": self.grant_seconds,
                "dialect": self.dialect,
                "coco": {"tees": list(self.coco_tees), "unbound_key": self.unbound_key},
            }
        )

    @classmethod
    def parse(cls, data: bytes, *, complete: bool = True) -> Self:
        """Strict parse of canonical JSON, ≤ MAX_TEXT bytes; the appraisal policy must be complete.

        A policy that left fields to defaults would mean something else under the next version. `complete=False` is for
        the service alone, which reads what an older version of it accepted: a field that was not known then takes its
        value of the preset `standard`. Raises MalformedError.
        """
        top = Fields(parse(data, limit=MAX_TEXT), "release policy")
        top.one_of("v", RELEASE_POLICY)
        given = top.take("appraisal", dict)
        try:
            appraisal = Policy.load(json.dumps(given), "json")
        except LocalError as error:
            raise MalformedError(f"release policy: {error.message}", code=error.code) from None
        if complete and appraisal.to_json() != given:
            raise MalformedError("the appraisal policy leaves fields to defaults", code="policy-incomplete")
        coco = top.fields("coco")
        policy = cls(
            id=top.text("id", NAME),
            appraisal=appraisal,
            endpoints=_endpoints(top.items("endpoints", 0, MAX_ITEMS)),
            roles=_words(top.items("roles", 0, len(ROLES)), ROLES),
            grant_seconds=top.integer("grant_seconds", 1, MAX_GRANT),
            dialect=top.one_of("dialect", *DIALECTS),
            coco_tees=_texts(coco.items("tees", 0, MAX_ITEMS)),
            unbound_key=coco.boolean("unbound_key"),
            raw=data,
        )
        coco.done()
        top.done()
        return policy

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the text as read (of `encode()` for one made here)."""
        return hashlib.sha256(self.raw or self.encode()).hexdigest()

    def names_endpoint(self, endpoint: str) -> bool:
        return ANY_ENDPOINT in self.endpoints or endpoint in self.endpoints


def _endpoints(values: list[Any]) -> tuple[str, ...]:
    texts = _texts(values)
    if texts != (ANY_ENDPOINT,) and not all(ENDPOINT.fullmatch(text) for text in texts):
        raise MalformedError("release policy.endpoints has the wrong form", code="wrong-form")
    return texts


def _words(values: list[Any], known: tuple[str, ...]) -> tuple[str, ...]:
    texts = _texts(values)
    if not set(texts) <= set(known):
        raise MalformedError("release policy.roles has an unknown word", code="unknown-value")
    return texts


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not all(type(value) is str for value in values) or len(set(values)) != len(values):
        raise MalformedError("release policy has a list of the wrong form", code="wrong-form")
    return tuple(values)
