# SPDX-License-Identifier: Apache-2.0
"""What a sealed request may say inside, and which of it the header repeats outside (PROTOCOL §3.3, §3.5 (10))."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.seal.bhttp import InnerRequest
from teehouse_core.wire.header import MAX_TOKENS_BUCKET, RequestHeader
from teehouse_core.wire.ops import OPS

__all__ = [
    "DEFAULT_FLUSH_MS",
    "MAX_FLUSH_MS",
    "ContentFacts",
    "InnerOptions",
    "Shape",
    "check_inner",
    "facts_of",
    "make_inner",
]

Shape = Literal["off", "pad", "constant"]
SHAPES: tuple[Shape, ...] = ("off", "pad", "constant")
DEFAULT_FLUSH_MS = 15  # milliseconds; tokens that come closer together share a record
MAX_FLUSH_MS = 1000
_ALLOWED_HEADERS = frozenset({"content-type", "accept", "teehouse-shape", "teehouse-flush-ms"})


@dataclass(frozen=True, slots=True)
class ContentFacts:
    """The facts about a body that the gateway is told."""

    stream: bool
    max_tokens_bucket: int
    body: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    """The parsed JSON object, so that nobody parses a large body twice; None when it is none."""


@dataclass(frozen=True, slots=True)
class InnerOptions:
    """How the caller wants the answer cut."""

    shape: Shape = "pad"
    flush_ms: int = DEFAULT_FLUSH_MS


def _no_constant(_text: str) -> NoReturn:
    raise ValueError  # NaN and Infinity are not JSON


def facts_of(content: bytes) -> ContentFacts:
    """Read `stream` and the token limit out of a JSON body; a body that is no JSON object has neither.

    JSON here is RFC 8259 in UTF-8 without a mark: what another language's parser would not read counts for nothing.
    """
    try:
        body: Any = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return ContentFacts(False, 0)
    limit = next(
        (v for k in ("max_completion_tokens", "max_tokens", "max_output_tokens") if type(v := body.get(k)) is int), 0
    )
    bucket = 0 if limit < 1 else min(1 << (limit - 1).bit_length(), MAX_TOKENS_BUCKET)
    return ContentFacts(body.get("stream") is True, bucket, body)


def make_inner(endpoint: str, op: str, content: bytes, facts: ContentFacts, options: InnerOptions) -> InnerRequest:
    """The inner request for `op`; it never carries an API key, a cookie or any header of the caller's."""
    if op not in OPS:
        raise LocalError("no such operation", code="op-unknown", hint=f"one of {', '.join(OPS)}")
    accept = "text/event-stream" if facts.stream else "application/json"
    headers = (
        ("content-type", "application/json"),
        ("accept", accept),
        ("teehouse-shape", options.shape),
        ("teehouse-flush-ms", str(options.flush_ms)),
    )
    return InnerRequest("POST", "https", endpoint, OPS[op], headers, content)


def check_inner(header: RequestHeader, inner: InnerRequest) -> tuple[InnerOptions, ContentFacts]:
    """§3.5 (9) and (10): the inner request's form, and that the header told the gateway the truth.

    Raises MalformedError; by then the request is open, so the node answers it inside the seal.
    """
    if (inner.method, inner.scheme, inner.authority) != ("POST", "https", header.endpoint):
        raise MalformedError("inner request is for something else", code="inner-target")
    if inner.path != OPS[header.op]:
        raise MalformedError("header and body name different operations", code="op-mismatch")
    names = [name for name, _ in inner.headers]
    if len(set(names)) != len(names) or not _ALLOWED_HEADERS.issuperset(names):
        raise MalformedError("inner header not allowed", code="inner-header")
    facts = facts_of(inner.content)
    if facts.stream != header.stream:
        raise MalformedError("header and body disagree on streaming", code="stream-mismatch")
    if facts.max_tokens_bucket != header.max_tokens_bucket:
        raise MalformedError("header and body disagree on the token limit", code="max-tokens-mismatch")
    return _options(dict(inner.headers)), facts


def _options(headers: dict[str, str]) -> InnerOptions:
    wanted = headers.get("teehouse-shape", "pad")
    shape = next((shape for shape in SHAPES if shape == wanted), None)
    flush = headers.get("teehouse-flush-ms", str(DEFAULT_FLUSH_MS))
    if shape is None or not flush.isdigit() or len(flush) > 4 or not 0 <= int(flush) <= MAX_FLUSH_MS:
        raise MalformedError("teehouse-shape or teehouse-flush-ms has a wrong value", code="inner-header")
    return InnerOptions(shape, int(flush))
