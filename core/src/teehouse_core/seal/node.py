# SPDX-License-Identifier: Apache-2.0
"""The node's half of sealed/1 as a machine without I/O: open a request, seal its answer (PROTOCOL §3.5, §4, §5, §7)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as hmac_state

from teehouse_core.errors import MalformedError, RequestRefused
from teehouse_core.seal.answer import BODY, COVER, HEAD, MAX_PIECE, TRAILER, Head, Trailer, pad_to, wrap
from teehouse_core.seal.bhttp import InnerRequest, decode_request
from teehouse_core.seal.inner import ContentFacts, InnerOptions, Shape, check_inner
from teehouse_core.seal.keyring import HeldKey, Keyring
from teehouse_core.seal.pool import MemberProof
from teehouse_core.seal.records import RecordOpener, RecordSealer
from teehouse_core.seal.replay import SeenSet
from teehouse_core.seal.schedule import ExchangeSecrets, body_keys, candidate_commit, envelope_info, salted_commit
from teehouse_core.seal.suite import hpke_open
from teehouse_core.wire.armor import armor
from teehouse_core.wire.frame import RequestFrame
from teehouse_core.wire.header import MAX_LIFETIME, RequestHeader, transcript
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.labels import L
from teehouse_core.wire.pool import POOL_LIFETIME
from teehouse_core.wire.receipts import Receipt, Usage, UsageRecord
from teehouse_core.wire.records import MAX_PLAINTEXT, cut_records

__all__ = ["CONSTANT_RECORD", "OpenedRequest", "ResponseSealer", "Signer", "open_request", "sign_usage"]

CLOCK_SLACK = 60  # seconds by which a client's clock may run ahead
CONSTANT_RECORD = 512  # bytes of record plaintext in shape `constant`

Signer = Callable[[bytes], bytes]
"""Signs bytes with the node's Ed25519 `sign` key."""


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A request past check (8): authentic, fresh, whole. `read()` makes checks (9) and (10)."""

    header: RequestHeader
    th: bytes
    index: int
    keyset: Keyset = field(repr=False)
    r: bytes = field(repr=False)
    scope: bytes = field(repr=False)
    padded_plain: bytes = field(repr=False)
    member: MemberProof | None = None

    def read(self) -> tuple[InnerRequest, InnerOptions, ContentFacts]:
        """The inner request. Raises MalformedError, which the node answers inside the seal."""
        inner = decode_request(self.padded_plain)
        return inner, *check_inner(self.header, inner)


def open_request(frame_bytes: bytes, *, endpoint: str, keyring: Keyring, seen: SeenSet, now: int) -> OpenedRequest:
    """Checks (1) to (8) of PROTOCOL §3.5, in that order; `now` is node time in Unix seconds.

    Raises MalformedError, RequestRefused or OperatorError; their `wire_code` is all that may leave in clear.
    """
    frame = RequestFrame.parse(frame_bytes)  # (1)
    header = frame.header
    if header.endpoint != endpoint:  # (2)
        raise RequestRefused("unknown-key", "request is for another endpoint", code="wrong-endpoint")
    index, held = _own_candidate(header, keyring, now)
    named = header.candidates[index]
    _check_time(header, now, MAX_LIFETIME if held.keyset.pool is None else POOL_LIFETIME)  # (3)
    th = transcript(frame.header_bytes)
    if seen.contains(th):
        raise RequestRefused("replayed")
    if hashlib.sha256(frame.body).hexdigest() != header.body_sha256:  # (4) length was part of (1)
        raise MalformedError("body is not the one the header names", code="body-digest")
    opened = hpke_open(held.key, envelope_info(th, index), frame.envelopes[index])  # (5)
    if len(opened) != 96:
        raise MalformedError("envelope holds the wrong number of bytes", code="envelope")
    cek, r, scope = opened[:32], opened[32:64], opened[64:]
    keys = body_keys(cek)
    if not hmac.compare_digest(keys.commit, header.cek_commit):  # (6)
        raise MalformedError("envelope holds another CEK than the header commits to", code="cek-commit")
    if not hmac.compare_digest(candidate_commit(r, scope), named.commit):
        raise MalformedError("envelope holds another R or S than the header commits to", code="candidate-commit")
    seen.add(th, header.expires_at, now)  # (7)
    padded = _open_body(RecordOpener(keys.key, keys.nonce), frame.body)  # (8)
    return OpenedRequest(header, th, index, held.keyset, r, scope, padded, held.member)


def _own_candidate(header: RequestHeader, keyring: Keyring, now: int) -> tuple[int, HeldKey]:
    """The one candidate that is a pair of this node, still held; every other case is `unknown-key` on the wire."""
    kids = [candidate.kid for candidate in header.candidates]
    if len(set(kids)) != len(kids):
        raise RequestRefused("unknown-key", "a kid stands twice among the candidates", code="candidate-repeated")
    pairs = [keyring.get(candidate.kid, candidate.keyset_sha256, now) for candidate in header.candidates]
    own = [(i, held) for i, held in enumerate(pairs) if held is not None]
    if not own:
        raise RequestRefused("unknown-key")
    if len(own) > 1:
        raise RequestRefused("unknown-key", "more than one candidate is this node", code="candidate-own-twice")
    index, held = own[0]
    if header.suite != held.key.suite:
        raise RequestRefused("unknown-key", "header names another suite than its key has", code="suite-mismatch")
    return index, held


def _check_time(header: RequestHeader, now: int, longest: int) -> None:
    if not 0 < header.expires_at - header.sent_at <= longest:
        raise RequestRefused("expired", code="lifetime")
    if not header.sent_at - CLOCK_SLACK <= now <= header.expires_at:
        raise RequestRefused("expired")


def _open_body(opener: RecordOpener, body: memoryview) -> bytes:
    records, end = cut_records(body)
    if end != len(body):
        raise MalformedError("bytes follow the final record", code="body-trailing")
    pieces = [opener.open(record) for record in records]
    if any(len(piece) != MAX_PLAINTEXT for piece in pieces[:-1]):
        raise MalformedError("a record before the last is not full", code="body-short-record")
    return b"".join(pieces)


class ResponseSealer:
    """Seals one answer: head, body pieces, cover, trailer, each as bytes ready to send."""

    def __init__(
        self, opened: OpenedRequest, response_nonce: bytes, *, shape: Shape = "pad", armored: bool = False
    ) -> None:
        secrets = ExchangeSecrets(opened.r, opened.th, opened.index, response_nonce)
        self._opened = opened
        self._shape = shape
        self._pack: Callable[[bytes], bytes] = armor if armored else bytes
        self._sealer = RecordSealer(*secrets.response_keys())
        self._salt = secrets.receipt_salt()
        self._prefix = bytes([1, opened.index]) + response_nonce
        self._commit = hmac_state.HMAC(self._salt, hashes.SHA256())
        self._piece = CONSTANT_RECORD - 5 if shape == "constant" else MAX_PIECE

    def _record(self, kind: int, content: bytes) -> bytes:
        length = len(content) + 5
        size = length if self._shape == "off" else pad_to(length)
        if self._shape == "constant":
            size = max(size, CONSTANT_RECORD)
        return self._pack(self._sealer.seal(wrap(kind, content, size), final=kind == TRAILER))

    def head(self, status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
        """Response prefix and first record; a pool member shows its certificate there."""
        if self._opened.member is not None:
            headers = (*headers, *self._opened.member.headers())
        content = Head(status, headers).encode()
        self._commit.update(b"\x01" + content + b"\0")
        return self._pack(self._prefix) + self._record(HEAD, content)

    def body(self, data: bytes) -> bytes:
        """Body bytes in as many records as they need."""
        self._commit.update(data)
        if len(data) <= self._piece:
            return self._record(BODY, data)
        cuts = range(0, len(data), self._piece)
        return b"".join(self._record(BODY, data[at : at + self._piece]) for at in cuts)

    def cover(self) -> bytes:
        """A record that says nothing: keep-alive, or the beat of shape `constant`."""
        return self._record(COVER, b"")

    def trailer(
        self,
        *,
        status: int,
        finish: str,
        usage: Usage,
        kid: str,
        sign: Signer,
        started_at: int,
        finished_at: int,
    ) -> bytes:
        """The final record with its signed receipt; times are Unix seconds of node time."""
        opened = self._opened
        receipt = Receipt(
            kid=kid,
            th=opened.th,
            request_id=opened.header.request_id,
            request_commit=salted_commit(self._salt, 0, opened.padded_plain),
            response_commit=self._commit.finalize(),
            model=opened.keyset.model,
            keyset_sha256=opened.keyset.sha256,
            usage=usage,
            status=status,
            finish=finish,
            started_at=started_at,
            finished_at=finished_at,
        ).encode()
        return self._record(TRAILER, Trailer(status, finish, usage, receipt, sign(L("receipt") + receipt)).encode())


def sign_usage(
    opened: OpenedRequest, *, usage: Usage, status: int, kid: str, sign: Signer, finished_at: int
) -> tuple[bytes, bytes]:
    """The usage record for the operator and its signature: counts and ids, no hash of content (PROTOCOL §7)."""
    record = UsageRecord(
        kid=kid,
        th=opened.th,
        request_id=opened.header.request_id,
        account=opened.header.account,
        keyset_sha256=opened.keyset.sha256,
        usage=usage,
        status=status,
        finished_at=finished_at,
    ).encode()
    return record, sign(L("usage") + record)
