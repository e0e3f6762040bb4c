# SPDX-License-Identifier: Apache-2.0
"""Evidence sets: what the gateway relays when a client asks an endpoint's nodes for evidence, and their appraisal.

The gateway chooses which nodes answer; it can leave some out, repeat one, or send rubbish. None of that makes a key
acceptable: each bundle is appraised by itself, for the endpoint asked for and the challenge drawn here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.checks_ledger import KnownCheckpoint
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.pool import appraise_pool
from teehouse_core.appraise.verdict import Accepted, Verdict
from teehouse_core.errors import EvidenceRefused, MalformedError, RefusedError
from teehouse_core.evidence.bundle import CHALLENGE_LEDGER, MAX_BUNDLE, Bundle

__all__ = [
    "EVIDENCE_SET",
    "MAX_EVIDENCE_SET",
    "EvidenceSet",
    "NodeVerdict",
    "OfferedPool",
    "appraise_set",
    "parse_evidence_set",
    "refuse_set",
]

EVIDENCE_SET: Final = "evidence-set/1"
MAX_EVIDENCE_SET: Final = (
    MAX_BUNDLE * 4 // 3 + 64 * 1024
)  # bytes; one bundle of the largest kind, or several usual ones

MAX_POOLS: Final = 2  # an endpoint has one; two while an operator moves it


@dataclass(frozen=True, slots=True)
class OfferedPool:
    """A pool as the path offers it: what the key service published, and the key service's bundle. Both unread."""

    pool: bytes = field(repr=False)
    bundle: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EvidenceSet:
    """What one evidence set holds, unread: bundles of nodes, and pools."""

    bundles: tuple[bytes, ...] = field(repr=False)
    pools: tuple[OfferedPool, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """One node's evidence and what came of it. `accepted` alone yields a sealing key.

    Of a pool, `bundle` is the key service's and `pool` what it published.
    """

    bundle: bytes = field(repr=False)
    verdict: Verdict
    accepted: Accepted | None
    pool: bytes | None = field(default=None, repr=False)


def parse_evidence_set(data: bytes, *, endpoint: str, most: int) -> EvidenceSet:
    """A set, its parts unread: at most `most` bundles and MAX_POOLS pools, not both none. Raises MalformedError."""
    if len(data) > MAX_EVIDENCE_SET:
        raise MalformedError("evidence set too large", code="document-too-large")
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("v") != EVIDENCE_SET:
        raise MalformedError("not an evidence set", code="evidence-set")
    bundles, pools = _items(document.get("bundles"), most), _items(document.get("pools", []), MAX_POOLS)
    if document.get("endpoint") != endpoint or not bundles + pools:
        raise MalformedError("evidence set is not for this question", code="evidence-set")
    return EvidenceSet(tuple(_unb64(item) for item in bundles), tuple(_offered(item) for item in pools))


def _items(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise MalformedError("evidence set is not for this question", code="evidence-set")
    return value


def _offered(item: Any) -> OfferedPool:
    if not isinstance(item, dict):
        raise MalformedError("a pool is no object", code="evidence-set")
    return OfferedPool(_unb64(item.get("pool")), _unb64(item.get("bundle")))


def _unb64(item: Any) -> bytes:
    try:
        if isinstance(item, str):
            return base64.b64decode(item, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise MalformedError("a bundle is not base64", code="evidence-set")


def appraise_set(
    offered: EvidenceSet,
    policy: Policy,
    now: int,
    *,
    endpoint: str,
    challenge: bytes,
    known: Mapping[bytes, KnownCheckpoint] | None = None,
    newest: Newest | None = None,
) -> list[NodeVerdict]:
    """Appraise everything offered at `now` (Unix seconds); what does not parse is left out unless nothing does.

    A keyset that stands there twice counts once. A pool that the policy does not accept is left out where there are
    nodes. Evidence over a ledger checkpoint is taken for what it is where the policy names a log; `known` has by bundle
    what was seen of that log before, `newest` is collateral seen before, None when nothing is kept. Does not decide
    whether what was accepted is enough. Raises MalformedError when nothing parses.
    """
    found: list[NodeVerdict] = []
    malformed: MalformedError | None = None
    seen: set[bytes] = set()
    parts: list[tuple[bytes, bytes | None]] = [(bundle, None) for bundle in offered.bundles]
    if "pool" in policy.roles or not parts:
        parts += [(one.bundle, one.pool) for one in offered.pools]
    for bundle, pool in parts:
        try:
            if pool is None:
                nonce = None if policy.ledger.logs and _over_checkpoint(bundle) else challenge
                seen_before = (known or {}).get(bundle)
                verdict = appraise(
                    bundle, policy, now, endpoint=endpoint, nonce=nonce, known=seen_before, newest=newest
                )
            else:
                verdict = appraise_pool(pool, bundle, policy, now, endpoint=endpoint, nonce=challenge)
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
        found.append(NodeVerdict(bundle, verdict, accepted, pool))
    if not found and malformed is not None:
        raise malformed
    return found


def _over_checkpoint(bundle: bytes) -> bool:
    return Bundle.parse(bundle).challenge_kind == CHALLENGE_LEDGER


def refuse_set(verdicts: Sequence[NodeVerdict]) -> EvidenceRefused | RefusedError:
    """The error of a set of which nothing was accepted: the first verdict's own."""
    for node in verdicts:
        try:
            node.verdict.accept()
        except RefusedError as error:
            return error
    return EvidenceRefused("no node's evidence can be used now", code="no-usable-node")
