# SPDX-License-Identifier: Apache-2.0
"""The client's two flows as generators without I/O: get evidence and appraise it; seal, send, open.

A flow yields what it wants (`Get`, `Post`, `Drain`, `NeedCandidates`) and is sent the reply; the sync and the async
shell differ in nothing but how they fetch. Clock and randomness are arguments. There is no flow that sends content
unsealed, and no answer changes the clock or the policy.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Final

from teehouse.verify.ledgers import MAX_TILE, SeenCheckpoints, known_checkpoints, remember, takes_cacheable
from teehouse.verify.nodes import MAX_EVIDENCE_SET, NodeVerdict, appraise_set, parse_evidence_set
from teehouse.verify.remembered import Remembered
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Accepted
from teehouse_core.errors import LocalError, MalformedError, StaleEvidence
from teehouse_core.seal.client import ResponseOpener, SealedRequest, choose_key, seal_request
from teehouse_core.seal.inner import InnerOptions
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.fields import ENDPOINT
from teehouse_core.wire.frame import REQUEST_TYPE, RESPONSE_TYPE
from teehouse_core.wire.ops import OPS
from teehouse_core.wire.problem import MAX_PROBLEM, parse_problem

__all__ = [
    "Ask",
    "Drain",
    "Exchange",
    "ExchangeFlow",
    "Get",
    "NeedCandidates",
    "Post",
    "Reply",
    "VerifyFlow",
    "exchange_flow",
    "verify_flow",
]

CHALLENGE_LEN: Final = 32  # bytes (PROTOCOL §2, kind 1)


@dataclass(frozen=True, slots=True)
class Get:
    """Fetch a small document; of a longer one `limit` + 1 bytes are enough. Reply: `Reply` with its body."""

    url: str
    limit: int  # bytes


@dataclass(frozen=True, slots=True)
class Post:
    """Send `parts` one after another, without joining them. Reply: `Reply` without a body, which stays open."""

    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    parts: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Drain:
    """Read at most `limit` bytes of the answer to the last `Post` and close it. Reply: `Reply` with that body."""

    limit: int  # bytes


@dataclass(frozen=True, slots=True)
class NeedCandidates:
    """Accepted nodes of an endpoint, cached or fresh, none of the `refused` keysets. Reply: a list of `Accepted`."""

    endpoint: str
    refused: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Reply:
    """What the path answered. Nothing in it is authenticated."""

    status: int
    content_type: str
    body: bytes = field(default=b"", repr=False)
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One question before it is sealed. `content` is the JSON body in clear."""

    base_url: str
    endpoint: str
    op: str
    content: bytes = field(repr=False)
    account: str
    api_key: str = field(repr=False)
    cache_secret: bytes = field(repr=False)
    candidates: int
    suite: str
    options: InnerOptions


@dataclass(frozen=True, slots=True)
class Exchange:
    """A sealed answer has begun to arrive; `opener` authenticates it."""

    request: SealedRequest
    candidates: tuple[Accepted, ...]
    opener: ResponseOpener


VerifyFlow = Generator[Get, Reply, list[NodeVerdict]]
ExchangeFlow = Generator[NeedCandidates | Post | Drain, "Reply | list[Accepted]", Exchange]


def verify_flow(
    base_url: str,
    endpoint: str,
    policy: Policy,
    *,
    count: int,
    clock: Callable[[], int],
    random: Callable[[int], bytes],
    seen: SeenCheckpoints | None = None,
    remembered: Remembered | None = None,
) -> VerifyFlow:
    """Ask an endpoint's nodes for evidence over a fresh challenge and appraise what comes.

    Where the policy pins a log and witnesses, evidence over a checkpoint of that log is taken too; `seen` remembers the
    newest one. With `remembered`, collateral older than what was seen before refuses, and what is newer is kept.
    Raises MalformedError or UnauthenticatedError for what the path answered, LocalError (`state-file`); a refused
    verdict is no error here.
    """
    _check_endpoint(endpoint)
    challenge = random(CHALLENGE_LEN)  # (1) nobody can have made evidence for it before
    url = f"{base_url}/sealed/v1/{endpoint}/evidence?challenge={b64u(challenge)}&n={count}"
    if seen is not None and takes_cacheable(policy):
        url += "&cacheable=1"
    reply = yield Get(url, MAX_EVIDENCE_SET)  # (2)
    if reply.status != 200:
        raise parse_problem(reply.status, reply.content_type, reply.body, reply.retry_after)
    offered = parse_evidence_set(reply.body, endpoint=endpoint, most=count)  # (3)
    newest = remembered.known() if remembered is not None else None
    known = None
    if seen is not None and policy.ledger.logs:
        known = yield from known_checkpoints(
            offered.bundles,
            policy,
            seen,
            lambda path: Get(f"{base_url}/ledger/v1/public/{path}", MAX_TILE),
            lambda tile: tile.body if tile.status == 200 else b"",
        )
    found = appraise_set(
        offered, policy, clock(), endpoint=endpoint, challenge=challenge, known=known, newest=newest
    )  # (4)
    if seen is not None and known is not None:
        remember({one.bundle: one.verdict for one in found if one.accepted and one.pool is None}, policy, seen)
    if remembered is not None:
        remembered.learn(node.verdict for node in found)
    return found


def exchange_flow(ask: Ask, *, clock: Callable[[], int], random: Callable[[int], bytes]) -> ExchangeFlow:
    """Seal a question to accepted nodes and send it, again once if they turn out to hold other keys (PROTOCOL §5).

    Raises LocalError, RefusedError, StaleEvidence, MalformedError (`clear-answer`), UnauthenticatedError.
    """
    _check_endpoint(ask.endpoint)
    if ask.op not in OPS:
        raise LocalError(f"no operation {ask.op!r}", code="op-unknown", hint=f"operations are {', '.join(OPS)}")
    request_id = random(16)  # the same in both attempts, so that cost counts once
    refused: tuple[Accepted, ...] = ()
    for attempt in (0, 1):
        offered = yield NeedCandidates(ask.endpoint, frozenset(a.keyset_digest for a in refused))
        now = clock()
        chosen = _choose(_accepted(offered), ask, now, refused)
        request = seal_request(
            chosen,
            endpoint=ask.endpoint,
            op=ask.op,
            content=ask.content,
            account=ask.account,
            now=now,
            random=random,
            cache_secret=ask.cache_secret,
            request_id=request_id,
            attempt=attempt,
            suite=ask.suite,
            options=ask.options,
        )
        head = _reply((yield Post(f"{ask.base_url}/sealed/v1/{ask.endpoint}", _headers(ask, request), request.parts)))
        if head.status == 200 and head.content_type.split(";", 1)[0].strip().lower() == RESPONSE_TYPE:
            return Exchange(request, chosen, ResponseOpener(request))
        body = _reply((yield Drain(MAX_PROBLEM + 1))).body
        if 200 <= head.status < 300:  # §4: never hand out a clear-text success
            raise MalformedError(
                "the path answered in clear where a sealed answer must stand",
                code="clear-answer",
                hint="somebody on the path made this answer up; nothing of it is shown",
            )
        problem = parse_problem(head.status, head.content_type, body, head.retry_after)
        if problem.code != "unknown-key":
            raise problem
        refused = chosen
    raise StaleEvidence(
        "the path says that no node holds the keys, also after fresh evidence",
        hint="a gateway can claim this at will; nothing was answered",
    )


def _choose(offered: Sequence[Accepted], ask: Ask, now: int, refused: Sequence[Accepted]) -> tuple[Accepted, ...]:
    """Up to `ask.candidates` nodes with different keys; after a refusal only ones that are newer (PROTOCOL §5).

    A pool is taken when no node by itself is there: a node's own key says more about who reads. It is then the only
    candidate (PROTOCOL §6).
    """
    fit = [a for a in offered if all(_newer(a, old) for old in refused)]
    if refused and not fit:
        raise StaleEvidence(
            "after unknown-key the path offers no newer keyset",
            hint="a gateway can claim this at will; nothing was answered",
        )
    pools = [a for a in fit if a.service is not None]
    if pools and len(pools) == len(fit):
        return (max(pools, key=lambda one: one.keyset.not_before),)
    fit = [a for a in fit if a.service is None]
    chosen: dict[str, Accepted] = {}
    for accepted in sorted(fit, key=lambda one: one.keyset.not_before, reverse=True):
        kid = choose_key(accepted, now, ask.suite).kid
        # Two keysets of one node around a rotation share a key, and a rogue node may publish another node's: a request
        # that named both would be refused, so the newest that lists a key stands for it.
        listed = any(accepted.keyset.hpke_key(k) or other.keyset.hpke_key(kid) for k, other in chosen.items())
        if not listed and len(chosen) < ask.candidates:
            chosen[kid] = accepted
    return tuple(chosen.values())


def _newer(new: Accepted, old: Accepted) -> bool:
    return (
        new.keyset_digest != old.keyset_digest
        and new.keyset.not_before >= old.keyset.not_before
        and new.evidence_time >= old.evidence_time
    )


def _headers(ask: Ask, request: SealedRequest) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", REQUEST_TYPE),
        ("Content-Length", str(sum(map(len, request.parts)))),
        ("Accept", RESPONSE_TYPE),
        ("Authorization", f"Bearer {ask.api_key}"),
        ("X-Request-Id", request.header.request_id),
    )


def _check_endpoint(endpoint: str) -> None:
    if not ENDPOINT.fullmatch(endpoint):
        raise LocalError("this is no endpoint id", code="endpoint-form", hint="letters, digits and hyphens, as ep-…")


def _reply(value: Reply | list[Accepted]) -> Reply:
    if isinstance(value, Reply):
        return value
    raise LocalError("the shell sent the wrong reply", code="flow-order")


def _accepted(value: Reply | list[Accepted]) -> list[Accepted]:
    if isinstance(value, list):
        return value
    raise LocalError("the shell sent the wrong reply", code="flow-order")
