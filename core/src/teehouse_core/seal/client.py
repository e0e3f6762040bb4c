# SPDX-License-Identifier: Apache-2.0
"""The client's half of sealed/1 as a machine without I/O: seal a request, open its answer (PROTOCOL §3, §4, §7).

Randomness and clock are arguments. Sync, async, proxy and test shells all drive this one machine.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as hmac_state
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teehouse_core.appraise.verdict import Accepted
from teehouse_core.errors import LocalError, MalformedError, RefusedError, TruncatedStream
from teehouse_core.seal.answer import BODY, HEAD, RESPONSE_PREFIX, TRAILER, Head, Trailer, unwrap
from teehouse_core.seal.bhttp import encode_padded
from teehouse_core.seal.inner import InnerOptions, facts_of, make_inner
from teehouse_core.seal.pool import member_of
from teehouse_core.seal.records import RecordOpener, RecordSealer
from teehouse_core.seal.schedule import (
    ExchangeSecrets,
    body_keys,
    cache_scope,
    candidate_commit,
    envelope_info,
    salted_commit,
)
from teehouse_core.seal.suite import hpke_seal
from teehouse_core.wire.armor import ArmorReader
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import frame_prefix
from teehouse_core.wire.header import MAX_BODY, MAX_CANDIDATES, MAX_LIFETIME, Candidate, RequestHeader, transcript
from teehouse_core.wire.keyset import HpkeKey, Keyset, SignKey
from teehouse_core.wire.labels import L
from teehouse_core.wire.pool import POOL_LIFETIME
from teehouse_core.wire.receipts import Receipt
from teehouse_core.wire.records import MAX_PLAINTEXT, Record, RecordReader
from teehouse_core.wire.suites import DEFAULT_SUITE

__all__ = [
    "DEFAULT_LIFETIME",
    "AnswerBody",
    "AnswerEnd",
    "AnswerHead",
    "Event",
    "ResponseOpener",
    "SealedRequest",
    "choose_key",
    "seal_request",
]

DEFAULT_LIFETIME = 120  # seconds a request may be under way before a node refuses it (PROTOCOL §5)
CLOCK_SLACK = 60  # seconds before a key's not_before at which a client already seals to it


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request ready to send: `parts` joined are the frame. Keeps what opening the answer needs."""

    header: RequestHeader
    header_bytes: bytes = field(repr=False)
    parts: tuple[bytes, ...] = field(repr=False)
    th: bytes
    keysets: tuple[Keyset, ...] = field(repr=False)
    secrets: tuple[bytes, ...] = field(repr=False)
    padded_plain: bytes = field(repr=False)
    services: tuple[Keyset | None, ...] = field(default=(), repr=False)  # of a pool: the key service that signed it

    @property
    def frame(self) -> bytes:
        return b"".join(self.parts)


def choose_key(accepted: Accepted, now: int, suite: str = DEFAULT_SUITE) -> HpkeKey:
    """The newest key of `suite` that may be sealed to at `now`. Raises RefusedError when acceptance is over."""
    if now >= accepted.not_after:
        raise RefusedError("the accepted evidence is too old", code="accepted-expired", hint="appraise fresh evidence")
    usable = [
        key
        for key in accepted.keyset.hpke
        if key.suite == suite and key.not_before - CLOCK_SLACK <= now < key.not_after
    ]
    if not usable:
        raise RefusedError("the accepted keyset has no key to seal to now", code="no-usable-key")
    return max(usable, key=lambda key: (key.not_before, key.kid))


def seal_request(
    candidates: Sequence[Accepted],
    *,
    endpoint: str,
    op: str,
    content: bytes,
    account: str,
    now: int,
    random: Callable[[int], bytes],
    cache_secret: bytes,
    request_id: bytes | None = None,
    attempt: int = 0,
    lifetime: int = DEFAULT_LIFETIME,
    suite: str = DEFAULT_SUITE,
    options: InnerOptions | None = None,
) -> SealedRequest:
    """Seal `content` for 1…4 accepted nodes (PROTOCOL §3.2).

    `random(n)` gives n fresh secret bytes; `now` is Unix seconds; `lifetime` is in seconds.

    Raises LocalError for a call that cannot be sealed, RefusedError when a candidate's acceptance is over.
    """
    _check_candidates(candidates, endpoint)
    pool = candidates[0].service is not None
    if not 0 < lifetime <= (POOL_LIFETIME if pool else MAX_LIFETIME):
        raise LocalError("a request lives 1 to 300 seconds, to a pool 1 to 120", code="lifetime")
    keys = [choose_key(accepted, now, suite) for accepted in candidates]
    _check_keys(keys, candidates)
    facts = facts_of(content)
    # (1) the body, under keys that come from CEK alone
    cek = random(32)
    derived = body_keys(cek)
    padded = encode_padded(make_inner(endpoint, op, content, facts, options or InnerOptions()))
    body = _seal_body(RecordSealer(derived.key, derived.nonce), padded)
    body_len, digest = sum(map(len, body)), hashlib.sha256()
    for record in body:
        digest.update(record)
    if body_len > MAX_BODY:
        raise LocalError("the request is too large to seal", code="too-large", hint=f"{MAX_BODY >> 20} MiB at most")
    # (2) one secret, one cache scope, one commitment per candidate
    secrets = [random(32) for _ in candidates]
    scopes = [cache_scope(cache_secret, accepted.keyset_digest) for accepted in candidates]
    # (3) the header names the sealed body and every candidate
    header = RequestHeader(
        suite=suite,
        endpoint=endpoint,
        op=op,
        stream=facts.stream,
        max_tokens_bucket=facts.max_tokens_bucket,
        request_id=b64u(request_id if request_id is not None else random(16)),
        attempt=attempt,
        account=account,
        sent_at=now,
        expires_at=now + lifetime,
        body_len=body_len,
        body_sha256=digest.hexdigest(),
        cek_commit=derived.commit,
        candidates=tuple(
            Candidate(key.kid, accepted.keyset_digest.hex(), candidate_commit(r, s))
            for key, accepted, r, s in zip(keys, candidates, secrets, scopes, strict=True)
        ),
    )
    header_bytes = header.encode()
    th = transcript(header_bytes)
    # (4) the pk comes from the accepted keyset, never from what the gateway says
    envelopes = [
        hpke_seal(suite, key.pk, envelope_info(th, i), cek + r + s)
        for i, (key, r, s) in enumerate(zip(keys, secrets, scopes, strict=True))
    ]
    return SealedRequest(
        header=header,
        header_bytes=header_bytes,
        parts=(frame_prefix(header_bytes), header_bytes, *envelopes, *body),
        th=th,
        keysets=tuple(accepted.keyset for accepted in candidates),
        secrets=tuple(secrets),
        padded_plain=padded,
        services=tuple(accepted.service for accepted in candidates),
    )


def _check_candidates(candidates: Sequence[Accepted], endpoint: str) -> None:
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise LocalError("a request has one to four candidates", code="candidate-count")
    if len({accepted.keyset_digest for accepted in candidates}) != len(candidates):
        raise LocalError("one keyset stands twice among the candidates", code="candidate-repeated")
    if len({(accepted.policy_digest, accepted.tier) for accepted in candidates}) != 1:
        raise LocalError("candidates were accepted under different policies or tiers", code="candidate-mixed")
    if any(accepted.keyset.endpoint != endpoint for accepted in candidates):
        raise LocalError("a candidate serves another endpoint", code="candidate-endpoint")
    if len(candidates) > 1 and any(accepted.service is not None for accepted in candidates):
        # A node of the pool may be a candidate by its own keyset too, and refuses a request in which it is twice.
        raise LocalError("a pool is the only candidate of its request", code="candidate-pool")


def _check_keys(keys: Sequence[HpkeKey], candidates: Sequence[Accepted]) -> None:
    """No candidate's keyset may list another candidate's key: one of the two borrows it, or both are one node.

    The node refuses such a request too (§3.5 (2)); the client cannot tell who is the thief.
    """
    for i, key in enumerate(keys):
        if any(j != i and other.keyset.hpke_key(key.kid) for j, other in enumerate(candidates)):
            raise RefusedError("two accepted keysets list the same key", code="candidate-key-shared")


def _seal_body(sealer: RecordSealer, padded: bytes) -> list[bytes]:
    view = memoryview(padded)
    return [
        sealer.seal(view[at : at + MAX_PLAINTEXT], final=at + MAX_PLAINTEXT >= len(view))
        for at in range(0, len(view), MAX_PLAINTEXT)
    ]


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """Status and headers, authenticated; `keyset_sha256` says which candidate answers.

    Of a pool, `member_kid` is the id of the signing key that the key service certified for the member that answers.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    keyset_sha256: str
    member_kid: str = ""


@dataclass(frozen=True, slots=True)
class AnswerBody:
    """Body bytes, authenticated; whether the answer is whole is known only at AnswerEnd."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The trailer, with the receipt checked against everything this client saw."""

    status: int
    finish: str
    receipt: Receipt
    receipt_bytes: bytes = field(repr=False)
    sig: bytes = field(repr=False)


Event = AnswerHead | AnswerBody | AnswerEnd


class ResponseOpener:
    """Opens one answer to one request, record by record. After any error it opens nothing more."""

    def __init__(self, request: SealedRequest, *, armored: bool = False) -> None:
        self._request = request
        self._armor = ArmorReader() if armored else None
        self._prefix = bytearray()
        self._reader = RecordReader()
        self._opener: RecordOpener | None = None
        self._index = 0
        self._salt = b""
        self._commit: hmac_state.HMAC | None = None
        self._head: Head | None = None
        self._member: SignKey | None = None
        self._error: MalformedError | None = None
        self.ended = False

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes, give what they authenticate; bytes after the end are not read. Raises MalformedError."""
        if self.ended:
            return []
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        try:
            if self._armor is None:
                self._take(data, events)
            else:
                for piece in self._armor.feed(data):
                    self._take_piece(piece, events)
                    if self.ended:
                        break
        except MalformedError as error:
            self._error = error
            if not events:
                raise
            # What authenticated before the bad byte is the node's word; the error comes with the next call.
        return events

    def end(self) -> None:
        """The path has no more bytes. Raises TruncatedStream unless the final record came."""
        if self._error is not None:
            raise self._error
        if not self.ended:
            raise TruncatedStream(
                "the answer ended without its final record", hint="the node died, or somebody cut the stream; ask again"
            )

    def _take_piece(self, piece: bytes, events: list[Event]) -> None:
        """One event of the armoured form carries the prefix, or exactly one record (§4)."""
        if self._opener is None:
            if len(piece) != RESPONSE_PREFIX:
                raise MalformedError("first event is not the prefix", code="armor-piece")
            self._start(piece)
            return
        records = list(self._reader.feed(piece))
        if len(records) != 1 or len(records[0].aad) + len(records[0].ciphertext) != len(piece):
            raise MalformedError("an event is not exactly one record", code="armor-piece")
        self._record(records[0], events)

    def _take(self, data: bytes, events: list[Event]) -> None:
        if self._opener is None:
            self._prefix += data
            if len(self._prefix) < RESPONSE_PREFIX:
                return
            data = bytes(self._prefix[RESPONSE_PREFIX:])
            self._start(bytes(self._prefix[:RESPONSE_PREFIX]))
        for record in self._reader.feed(data):
            self._record(record, events)

    def _start(self, prefix: bytes) -> None:
        version, index, nonce = prefix[0], prefix[1], prefix[2:]
        if version != 1:
            raise MalformedError("answer has an unknown version", code="response-version")
        if index >= len(self._request.secrets):
            raise MalformedError("answer names no candidate of this request", code="response-candidate")
        self._index = index
        secrets = ExchangeSecrets(self._request.secrets[index], self._request.th, index, nonce)
        self._opener = RecordOpener(*secrets.response_keys())
        self._salt = secrets.receipt_salt()

    def _record(self, record: Record, events: list[Event]) -> None:
        if self._opener is None:
            raise MalformedError("record before the prefix", code="record-order")
        kind, content = unwrap(self._opener.open(record))
        if (kind == TRAILER) != record.final or (kind == HEAD) != (self._head is None):
            raise MalformedError("records are not in the order head, body, trailer", code="record-order")
        if kind == HEAD:
            self._head = Head.parse(content)
            self._commit = hmac_state.HMAC(self._salt, hashes.SHA256())
            self._commit.update(b"\x01" + content + b"\0")
            keyset, service = self._request.keysets[self._index], self._service()
            sent_at = self._request.header.sent_at
            self._member, headers = member_of(self._head.headers, service=service, pool=keyset, at=sent_at)
            member_kid = self._member.kid if self._member else ""
            events.append(AnswerHead(self._head.status, headers, keyset.sha256, member_kid))
        elif kind == BODY and self._commit is not None:
            self._commit.update(content)
            events.append(AnswerBody(content))
        elif kind == TRAILER:
            events.append(self._finish(Trailer.parse(content)))

    def _service(self) -> Keyset | None:
        services = self._request.services
        return services[self._index] if services else None

    def _signer(self, kid: str) -> SignKey | None:
        """The key of that id that may sign a receipt: the certified one of a pool's member, else one of the keyset."""
        if self._service() is None:
            return self._request.keysets[self._index].sign_key(kid)
        return self._member if self._member is not None and self._member.kid == kid else None

    def _finish(self, trailer: Trailer) -> AnswerEnd:
        """§7: the receipt must speak of this request, this answer and the keyset that answered."""
        request, keyset = self._request, self._request.keysets[self._index]
        receipt = Receipt.parse(trailer.receipt)
        key = self._signer(receipt.kid)
        if key is None:
            raise MalformedError("receipt is signed by an unknown key", code="receipt-kid")
        try:
            Ed25519PublicKey.from_public_bytes(key.pk).verify(trailer.sig, L("receipt") + trailer.receipt)
        except (InvalidSignature, ValueError):
            raise MalformedError("receipt signature is wrong", code="receipt-signature") from None
        if self._commit is None:
            raise MalformedError("trailer before head", code="record-order")
        wanted: tuple[tuple[str, bytes, bytes], ...] = (
            ("receipt-th", receipt.th, request.th),
            ("receipt-request", receipt.request_commit, salted_commit(self._salt, 0, request.padded_plain)),
            ("receipt-response", receipt.response_commit, self._commit.finalize()),
        )
        for code, claimed, expected in wanted:
            if not hmac.compare_digest(claimed, expected):
                raise MalformedError("receipt speaks of another exchange", code=code)
        same = (
            receipt.request_id == request.header.request_id
            and receipt.keyset_sha256 == keyset.sha256
            and receipt.model == keyset.model
            and (receipt.status, receipt.finish, receipt.usage) == (trailer.status, trailer.finish, trailer.usage)
        )
        if not same:
            raise MalformedError("receipt contradicts the answer", code="receipt-mismatch")
        self.ended = True
        return AnswerEnd(trailer.status, trailer.finish, receipt, trailer.receipt, trailer.sig)
