# SPDX-License-Identifier: Apache-2.0
"""Receipts and usage records as documents (PROTOCOL §7); signatures and commitments are in `teehouse_core.seal`."""

from __future__ import annotations

from dataclasses import dataclass

from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse
from teehouse_core.wire.fields import HEX32, HEX64, NAME, Fields
from teehouse_core.wire.header import ACCOUNT
from teehouse_core.wire.keyset import Model
from teehouse_core.wire.labels import VERSION

__all__ = ["MAX_RECEIPT", "Receipt", "Usage", "UsageRecord"]

MAX_RECEIPT = 8 * 1024  # bytes
MAX_TOKENS = 2**40  # a claim above this is nonsense


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def to_json(self) -> dict[str, int]:
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
        }

    @classmethod
    def read(cls, fields: Fields) -> Usage:
        usage = cls(*(fields.integer(n, 0, MAX_TOKENS) for n in ("input_tokens", "output_tokens", "cached_tokens")))
        fields.done()
        return usage


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the node says it did. Times are the node's claim (Unix seconds; the host sets its clock)."""

    kid: str
    th: bytes
    request_id: str
    request_commit: bytes
    response_commit: bytes
    model: Model
    keyset_sha256: str
    usage: Usage
    status: int
    finish: str
    started_at: int
    finished_at: int

    def encode(self) -> bytes:
        return encode(
            {
                "v": VERSION,
                "kid": self.kid,
                "th": b64u(self.th),
                "request_id": self.request_id,
                "request_commit": b64u(self.request_commit),
                "response_commit": b64u(self.response_commit),
                "model": {"name": self.model.name, "weights_sha256": self.model.weights_sha256},
                "keyset_sha256": self.keyset_sha256,
                "usage": self.usage.to_json(),
                "status": self.status,
                "finish": self.finish,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Receipt:
        """Strict parse. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_RECEIPT), "receipt")
        top.one_of("v", VERSION)
        model = top.fields("model")
        receipt = cls(
            kid=top.text("kid", HEX32),
            th=top.octets("th", 32),
            request_id=b64u(top.octets("request_id", 16)),
            request_commit=top.octets("request_commit", 32),
            response_commit=top.octets("response_commit", 32),
            model=Model(model.text("name"), model.text("weights_sha256", HEX64)),
            keyset_sha256=top.text("keyset_sha256", HEX64),
            usage=Usage.read(top.fields("usage")),
            status=top.integer("status", 100, 599),
            finish=top.text("finish", NAME),
            started_at=top.integer("started_at", 0, MAX_INTEGER),
            finished_at=top.integer("finished_at", 0, MAX_INTEGER),
        )
        model.done()
        top.done()
        return receipt


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What the operator may bill: counts and ids, nothing about content."""

    kid: str
    th: bytes
    request_id: str
    account: str
    keyset_sha256: str
    usage: Usage
    status: int
    finished_at: int

    def encode(self) -> bytes:
        return encode(
            {
                "v": VERSION,
                "kid": self.kid,
                "th": b64u(self.th),
                "request_id": self.request_id,
                "account": self.account,
                "keyset_sha256": self.keyset_sha256,
                "usage": self.usage.to_json(),
                "status": self.status,
                "finished_at": self.finished_at,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> UsageRecord:
        """Strict parse. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_RECEIPT), "usage record")
        top.one_of("v", VERSION)
        record = cls(
            kid=top.text("kid", HEX32),
            th=top.octets("th", 32),
            request_id=b64u(top.octets("request_id", 16)),
            account=top.text("account", ACCOUNT),
            keyset_sha256=top.text("keyset_sha256", HEX64),
            usage=Usage.read(top.fields("usage")),
            status=top.integer("status", 100, 599),
            finished_at=top.integer("finished_at", 0, MAX_INTEGER),
        )
        top.done()
        return record
