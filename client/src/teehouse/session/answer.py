# SPDX-License-Identifier: Apache-2.0
"""What the sync and the async shell of a session share: state, timeouts, and one answer being opened."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx2

from teehouse.session.errors import Unreachable
from teehouse.session.flow import Ask, Exchange, Post, Reply
from teehouse.settings import Settings, is_loopback
from teehouse.verify.cache import VerifiedCache
from teehouse.verify.ledgers import SeenCheckpoints
from teehouse.verify.remembered import Remembered, default_file
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Accepted, Tier
from teehouse_core.errors import LocalError, MalformedError, TruncatedStream
from teehouse_core.seal.client import AnswerBody, AnswerEnd, AnswerHead
from teehouse_core.seal.inner import InnerOptions
from teehouse_core.wire.apikey import account_of
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.receipts import Receipt
from teehouse_core.wire.suites import DEFAULT_SUITE

__all__ = [
    "DRAIN_SECONDS",
    "MAX_DRAIN",
    "Opening",
    "ReceiptRecord",
    "SessionState",
    "Timeouts",
    "before_answer",
    "client_options",
    "narrowed",
    "pieces_of",
    "post_headers",
    "reply_of",
    "within_answer",
]

DRAIN_SECONDS: Final = 0.5  # longest wait for the end of the HTTP body after the trailer, so the connection can be kept
MAX_DRAIN: Final = 64 * 1024  # bytes after the trailer that are thrown away unread before the connection is dropped
MAX_CONNECTIONS: Final = 1000  # per session; a stream holds one for its whole length
KEEPALIVE: Final = 100  # idle connections kept per session
PIECE: Final = 1 << 20  # bytes handed to the connection at once, so that a slow path is felt


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. There is no limit on a whole answer, only on silence."""

    connect: float
    first_byte: float
    idle: float

    def extension(self, read: float) -> dict[str, float | None]:
        """The `timeout` extension of a request."""
        return {"connect": self.connect, "read": read, "write": self.idle, "pool": self.connect}


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A verified receipt with what is needed to understand it later; keep the bundle of `bundle_sha256` with it."""

    receipt: Receipt
    receipt_bytes: bytes = field(repr=False)
    sig: bytes = field(repr=False)
    keyset_sha256: str
    bundle_sha256: str
    tier: Tier
    policy: str
    """The digest of the policy that the evidence satisfied."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `receipt` and `sig` as base64url of the bytes that were signed and signed with."""
        receipt = self.receipt
        return {
            "receipt": b64u(self.receipt_bytes),
            "sig": b64u(self.sig),
            "keyset_sha256": self.keyset_sha256,
            "bundle_sha256": self.bundle_sha256,
            "tier": self.tier,
            "policy": self.policy,
            "request_id": receipt.request_id,
            "model": {"name": receipt.model.name, "weights_sha256": receipt.model.weights_sha256},
            "usage": receipt.usage.to_json(),
            "status": receipt.status,
            "finish": receipt.finish,
            "started_at": receipt.started_at,
            "finished_at": receipt.finished_at,
        }


class SessionState:
    """One session: its policy, its cache secret, what it has accepted, and its last receipt."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.settings = settings
        suites = settings.policy.suites
        # PROTOCOL §1: the caller's policy chooses, never the keyset's order
        self.suite = DEFAULT_SUITE if DEFAULT_SUITE in suites or not suites else suites[0]
        self.cache = VerifiedCache(self.suite)
        self.seen = SeenCheckpoints(settings.state_dir / "audit")
        self.random = random
        self.last_receipt: ReceiptRecord | None = None
        self.remembered = Remembered(default_file() if settings.collateral_state else None)
        self._clock = clock
        self._cache_secret = random(32)  # PROTOCOL §3.2 (2): engine caches are shared by nobody else

    def now(self) -> int:
        """Unix seconds; never corrected by anything that an answer says."""
        return int(self._clock())

    @property
    def policy(self) -> Policy:
        return self.settings.policy

    @property
    def timeouts(self) -> Timeouts:
        s = self.settings
        return Timeouts(s.connect_seconds, s.first_byte_seconds, s.idle_seconds)

    def ask(self, endpoint: str | None, op: str, content: bytes, options: InnerOptions | None) -> Ask:
        """A question with everything that the flow needs. Raises LocalError."""
        settings = self.settings
        api_key = settings.need_api_key()
        return Ask(
            base_url=settings.need_base_url(),
            endpoint=endpoint or settings.need_endpoint(),
            op=op,
            content=content,
            account=account_of(api_key),
            api_key=api_key,
            cache_secret=self._cache_secret,
            candidates=settings.candidates,
            suite=self.suite,
            options=options or settings.options,
        )

    def doubt(self, endpoint: str) -> None:
        """The nodes that were accepted do not answer; verify again before the next request."""
        self.cache.doubt(endpoint, self.policy.digest, self.now())


class Opening:
    """One answer as it is opened: head, authenticated bytes, end."""

    def __init__(self, state: SessionState, exchange: Exchange) -> None:
        self._state = state
        self._exchange = exchange
        self.head: AnswerHead | None = None
        self.accepted: Accepted | None = None
        self.end: AnswerEnd | None = None
        self.record: ReceiptRecord | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Authenticated body bytes that `data` brings. Raises MalformedError."""
        pieces: list[bytes] = []
        for event in self._exchange.opener.feed(data):
            if isinstance(event, AnswerBody):
                pieces.append(event.data)
            elif isinstance(event, AnswerHead):
                self._begin(event)
            else:
                self._finish(event)
        return pieces

    def finish(self) -> None:
        """The path has no more bytes. Raises TruncatedStream, MalformedError."""
        self._exchange.opener.end()

    @property
    def endpoint(self) -> str:
        return self._exchange.request.header.endpoint

    @property
    def request_id(self) -> str:
        return self._exchange.request.header.request_id

    def need_head(self) -> AnswerHead:
        if self.head is None:
            raise MalformedError("the answer has no head", code="record-order")
        return self.head

    def need_accepted(self) -> Accepted:
        if self.accepted is None:
            raise MalformedError("the answer has no head", code="record-order")
        return self.accepted

    def _begin(self, head: AnswerHead) -> None:
        self.head = head
        self.accepted = next(a for a in self._exchange.candidates if a.keyset.sha256 == head.keyset_sha256)

    def _finish(self, end: AnswerEnd) -> None:
        accepted = self.need_accepted()
        self.end = end
        self.record = self._state.last_receipt = ReceiptRecord(
            receipt=end.receipt,
            receipt_bytes=end.receipt_bytes,
            sig=end.sig,
            keyset_sha256=accepted.keyset.sha256,
            bundle_sha256=accepted.bundle_sha256,
            tier=accepted.tier,
            policy=accepted.policy_digest,
        )


def client_options(settings: Settings) -> dict[str, Any]:
    """Arguments for the HTTP client. TLS is verified; proxies of the environment are not used towards loopback."""
    host = httpx2.URL(settings.base_url or "").host
    options: dict[str, Any] = {
        "follow_redirects": False,
        "trust_env": not is_loopback(host),
        "limits": httpx2.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=KEEPALIVE, keepalive_expiry=30.0
        ),
    }
    if settings.ca_file is not None:
        try:
            options["verify"] = ssl.create_default_context(cafile=settings.ca_file)
        except OSError:  # ssl.SSLError is one
            raise LocalError(f"cannot use {settings.ca_file} as a certificate authority", code="ca-file") from None
    return options


def pieces_of(parts: Sequence[bytes]) -> Iterator[bytes]:
    """The parts in pieces of at most PIECE bytes; the whole is never joined."""
    for part in parts:
        for at in range(0, len(part), PIECE):
            yield part[at : at + PIECE]


def post_headers(post: Post) -> list[tuple[str, str]]:
    """The outer headers of a sealed request; nothing of the caller's goes into them."""
    return [*post.headers, ("Accept-Encoding", "identity")]


def reply_of(response: httpx2.Response, body: bytes = b"") -> Reply:
    headers = response.headers
    return Reply(response.status_code, headers.get("content-type", ""), body, headers.get("retry-after"))


def before_answer(error: httpx2.HTTPError) -> Unreachable:
    """What a failure before the first answer byte is called."""
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError | httpx2.UnsupportedProtocol | httpx2.ProxyError):
        return Unreachable("cannot reach the gateway", hint="is base_url right, and is the platform up?")
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable("the gateway did not answer in time", code="timeout")
    return Unreachable("the connection broke before an answer came", code="network")


def within_answer(error: httpx2.HTTPError) -> TruncatedStream:
    """What a failure inside a sealed answer is called: it is not whole, whatever was in it."""
    if isinstance(error, httpx2.TimeoutException):
        return TruncatedStream("the answer fell silent before its final record", code="idle-timeout")
    return TruncatedStream(
        "the connection broke before the final record", hint="the node died, or somebody cut the stream; ask again"
    )


def narrowed(timeouts: Timeouts, extension: dict[str, Any] | None) -> Timeouts:
    """`timeouts`, made shorter where a caller's own HTTP timeouts are shorter."""
    if not extension:
        return timeouts
    connect, read = extension.get("connect"), extension.get("read")
    if isinstance(connect, int | float):
        timeouts = replace(timeouts, connect=min(timeouts.connect, connect))
    if isinstance(read, int | float):
        timeouts = replace(timeouts, first_byte=min(timeouts.first_byte, read), idle=min(timeouts.idle, read))
    return timeouts
