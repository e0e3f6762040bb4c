# SPDX-License-Identifier: Apache-2.0
"""Evidence sets: what the gateway relays when a client asks an endpoint's nodes for evidence, and their appraisal.

The gateway chooses which nodes answer; it can leave some out, repeat one, or send rubbish. None of that makes a key
acceptable: each bundle is appraised by itself, for the endpoint asked for and the challenge drawn here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Accepted, Verdict
from teehouse_core.errors import EvidenceRefused, MalformedError, RefusedError
from teehouse_core.evidence.bundle import MAX_BUNDLE

__all__ = ["EVIDENCE_SET", "MAX_EVIDENCE_SET", "NodeVerdict", "appraise_set", "parse_evidence_set", "refuse_set"]

EVIDENCE_SET: Final = "evidence-set/1"
MAX_EVIDENCE_SET: Final = (
    MAX_BUNDLE * 4 // 3 + 64 * 1024
)  # bytes; one bundle of the largest kind, or several usual ones


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """One node's evidence and what came of it. `accepted` alone yields a sealing key."""

    bundle: bytes = field(repr=False)
    verdict: Verdict
    accepted: Accepted | None


def parse_evidence_set(data: bytes, *, endpoint: str, most: int) -> list[bytes]:
    """The bundles of a set, still unread; at most `most` of them. Raises MalformedError."""
    if len(data) > MAX_EVIDENCE_SET:
        raise MalformedError("evidence set too large", code="document-too-large")
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("v") != EVIDENCE_SET:
        raise MalformedError("not an evidence set", code="evidence-set")
    bundles = document.get("bundles")
    if document.get("endpoint") != endpoint or not isinstance(bundles, list) or not 1 <= len(bundles) <= most:
        raise MalformedError("evidence set is not for this question", code="evidence-set")
    return [_unb64(item) for item in bundles]


def _unb64(item: Any) -> bytes:
    try:
        if isinstance(item, str):
            return base64.b64decode(item, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise MalformedError("a bundle is not base64", code="evidence-set")


def appraise_set(
    bundles: Sequence[bytes],
    policy: Policy,
    now: int,
    *,
    endpoint: str,
    challenge: bytes,
    newest: Newest | None = None,
) -> list[NodeVerdict]:
    """Appraise each bundle at `now` (Unix seconds); one that does not parse is left out unless none does.

    `newest`: collateral seen before, None when nothing is kept. A keyset that stands in two bundles counts once. Does
    not decide whether what was accepted is enough.
    Raises MalformedError when no bundle parses.
    """
    found: list[NodeVerdict] = []
    malformed: MalformedError | None = None
    seen: set[bytes] = set()
    for bundle in bundles:
        try:
            verdict = appraise(bundle, policy, now, endpoint=endpoint, nonce=challenge, newest=newest)
        except MalformedError as error:
            malformed = error
            continue
        try:
            accepted: Accepted | None = verdict.accept()
        except RefusedError:
            accepted = None
        if verdict.keyset.digest in seen:
            continue
        if accepted is not None:  # a spoiled bundle must not hide a good one over the same keyset
            seen.add(verdict.keyset.digest)
        found.append(NodeVerdict(bundle, verdict, accepted))
    if not found and malformed is not None:
        raise malformed
    return found


def refuse_set(verdicts: Sequence[NodeVerdict]) -> EvidenceRefused | RefusedError:
    """The error of a set of which nothing was accepted: the first verdict's own."""
    for node in verdicts:
        try:
            node.verdict.accept()
        except RefusedError as error:
            return error
    return EvidenceRefused("no node's evidence can be used now", code="no-usable-node")
