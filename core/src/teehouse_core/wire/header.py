# SPDX-License-Identifier: Apache-2.0
"""The request header: all that the gateway may read and act on (PROTOCOL §3.2, spec/02-session.md §3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse
from teehouse_core.wire.fields import ENDPOINT, HEX32, HEX64, Fields
from teehouse_core.wire.labels import VERSION, hash_label
from teehouse_core.wire.ops import OPS
from teehouse_core.wire.suites import SUITES

__all__ = [
    "MAX_BODY",
    "MAX_CANDIDATES",
    "MAX_HEADER",
    "MAX_LIFETIME",
    "MAX_TOKENS_BUCKET",
    "MIN_BODY",
    "Candidate",
    "RequestHeader",
    "transcript",
]

MAX_HEADER = 16384  # bytes
MAX_BODY = 64 * 1024 * 1024  # bytes of sealed body; bounds node memory per request
MIN_BODY = 5 + 17  # bytes: one record of one byte
MAX_CANDIDATES = 4
MAX_LIFETIME = 300  # seconds between sent_at and expires_at; a node keeps each transcript for so long
MAX_TOKENS_BUCKET = 1 << 20  # tokens; 0 says the request sets no limit
ACCOUNT = re.compile(r"[0-9a-f]{16}|")
_BUCKETS = frozenset([0, *(1 << bit for bit in range(21))])


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node key that the client accepts an answer from; `commit` fixes R and S for it."""

    kid: str
    keyset_sha256: str
    commit: bytes


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """One parsed header. Times are Unix seconds; `body_len` counts sealed bytes."""

    suite: str
    endpoint: str
    op: str
    stream: bool
    max_tokens_bucket: int
    request_id: str
    attempt: int
    account: str
    sent_at: int
    expires_at: int
    body_len: int
    body_sha256: str
    cek_commit: bytes
    candidates: tuple[Candidate, ...]

    @classmethod
    def parse(cls, data: bytes) -> RequestHeader:
        """Strict parse of canonical JSON, ≤ MAX_HEADER bytes. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_HEADER), "header")
        top.one_of("v", VERSION)
        bucket = top.take("max_tokens_bucket", int)
        if bucket not in _BUCKETS:
            raise MalformedError("header.max_tokens_bucket is no bucket", code="out-of-range")
        header = cls(
            suite=top.one_of("suite", *SUITES),
            endpoint=top.text("endpoint", ENDPOINT),
            op=top.one_of("op", *OPS),
            stream=top.boolean("stream"),
            max_tokens_bucket=bucket,
            request_id=b64u(top.octets("request_id", 16)),
            attempt=top.integer("attempt", 0, 1),
            account=top.text("account", ACCOUNT),
            sent_at=top.integer("sent_at", 0, MAX_INTEGER),
            expires_at=top.integer("expires_at", 0, MAX_INTEGER),
            body_len=top.integer("body_len", MIN_BODY, MAX_BODY),
            body_sha256=top.text("body_sha256", HEX64),
            cek_commit=top.octets("cek_commit", 32),
            candidates=tuple(
                _candidate(Fields(c, "header.candidates")) for c in top.items("candidates", 1, MAX_CANDIDATES)
            ),
        )
        top.done()
        return header

    def encode(self) -> bytes:
        """Canonical bytes of this header."""
        return encode(
            {
                "v": VERSION,
                "suite": self.suite,
                "endpoint": self.endpoint,
                "op": self.op,
                "stream": self.stream,
                "max_tokens_bucket": self.max_tokens_bucket,
                "request_id": self.request_id,
                "attempt": self.attempt,
                "account": self.account,
                "sent_at": self.sent_at,
                "expires_at": self.expires_at,
                "body_len": self.body_len,
                "body_sha256": self.body_sha256,
                "cek_commit": b64u(self.cek_commit),
                "candidates": [
                    {"kid": c.kid, "keyset_sha256": c.keyset_sha256, "commit": b64u(c.commit)} for c in self.candidates
                ],
            }
        )


def _candidate(item: Fields) -> Candidate:
    candidate = Candidate(item.text("kid", HEX32), item.text("keyset_sha256", HEX64), item.octets("commit", 32))
    item.done()
    return candidate


def transcript(header_bytes: bytes) -> bytes:
    """th = SHA-256(L("header") ‖ header), over the bytes as received; 32 bytes."""
    return hash_label("header", header_bytes)
