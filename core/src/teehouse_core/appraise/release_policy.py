# SPDX-License-Identifier: Apache-2.0
"""The release policy of a key, as text: whom the key service gives it to (KEYS §1, §2; spec/07-keys.md).

Canonical JSON, named by the SHA-256 of its bytes. Key service, node and client read it with this one reader, so that
all three mean the same by it; a member that this version does not know makes it unreadable, never ignored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Final

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.canonical import encode, parse
from teehouse_core.wire.fields import ENDPOINT, NAME, Fields

__all__ = ["COCO", "DIALECTS", "RELEASE_POLICY", "TEEHOUSE", "ReleasePolicy"]

RELEASE_POLICY: Final = "release-policy/1"
TEEHOUSE: Final = "teehouse"  # evidence of spec 03 over a one-time key
COCO: Final = "coco-aa"  # the Confidential Containers attestation agent's, which does not cover the key: weak
DIALECTS: Final = (TEEHOUSE, COCO)
MAX_TEXT: Final = 64 * 1024  # bytes
MAX_ITEMS: Final = 256


@dataclass(frozen=True, slots=True)
class ReleasePolicy:
    """`appraisal` is what the requester's evidence must satisfy; deny by default: empty lists allow nobody."""

    id: str
    appraisal: Policy
    endpoints: tuple[str, ...] = ()
    dialect: str = TEEHOUSE
    raw: bytes = field(default=b"", repr=False, compare=False)

    def encode(self) -> bytes:
        """The canonical text. Raises LocalError or MalformedError when a part is unfit."""
        return encode(
            {
                "v": RELEASE_POLICY,
                "id": self.id,
                "appraisal": self.appraisal.to_json(),
                "endpoints": list(self.endpoints),
                "dialect": self.dialect,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> ReleasePolicy:
        """Strict parse of canonical JSON, ≤ MAX_TEXT bytes; the appraisal policy must be complete.

        A policy that left fields to defaults would mean something else under the next version. Raises MalformedError.
        """
        top = Fields(parse(data, limit=MAX_TEXT), "release policy")
        top.one_of("v", RELEASE_POLICY)
        given = top.take("appraisal", dict)
        try:
            appraisal = Policy.load(json.dumps(given), "json")
        except LocalError as error:
            raise MalformedError(f"release policy: {error.message}", code=error.code) from None
        if appraisal.to_json() != given:
            raise MalformedError("the appraisal policy leaves fields to defaults", code="policy-incomplete")
        endpoints = top.items("endpoints", 0, MAX_ITEMS)
        if not all(type(one) is str and ENDPOINT.fullmatch(one) for one in endpoints):
            raise MalformedError("release policy.endpoints has the wrong form", code="wrong-form")
        policy = cls(top.text("id", NAME), appraisal, tuple(endpoints), top.one_of("dialect", *DIALECTS), data)
        top.done()
        return policy

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the text as read (of `encode()` for one made here)."""
        return hashlib.sha256(self.raw or self.encode()).hexdigest()
