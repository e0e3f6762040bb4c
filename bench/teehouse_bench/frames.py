# SPDX-License-Identifier: Apache-2.0
"""A plain request in the clothes of a sealed one, so that the gateway runs unmodified on both sides of a comparison.

The header is a valid sealed/1 header, the envelopes are zeros, the body is the JSON in clear. No node of the product
opens it: the only things that accept it are `plain_node.py` and `source.py` of this folder.
"""

from __future__ import annotations

import hashlib
import time

from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import frame_prefix
from teehouse_core.wire.header import MIN_BODY, Candidate, RequestHeader
from teehouse_core.wire.suites import DEFAULT_SUITE, SUITES

__all__ = ["NUMBERED", "plain_keyset", "unsealed_frame"]

NUMBERED = b"\xff" * 16  # request id that the sink replaces: the gateway relays each id once


def plain_keyset(node: str) -> str:
    """The made-up keyset digest by which the gateway finds a bench node; 64 hex digits."""
    return hashlib.sha256(f"bench: {node} has no keys".encode()).hexdigest()


def unsealed_frame(endpoint: str, node: str, account: str, request_id: bytes, content: bytes, *, stream: bool) -> bytes:
    """A frame that the gateway passes and no product node accepts. `content` is in clear."""
    body = content.ljust(MIN_BODY, b" ")
    now = int(time.time())
    header = RequestHeader(
        suite=DEFAULT_SUITE,
        endpoint=endpoint,
        op="chat.completions",
        stream=stream,
        max_tokens_bucket=0,
        request_id=b64u(request_id),
        attempt=0,
        account=account,
        sent_at=now,
        expires_at=now + 120,
        body_len=len(body),
        body_sha256="0" * 64,
        cek_commit=bytes(32),
        candidates=(Candidate("0" * 32, plain_keyset(node), bytes(32)),),
    ).encode()
    return b"".join((frame_prefix(header), header, bytes(SUITES[DEFAULT_SUITE].envelope), body))
