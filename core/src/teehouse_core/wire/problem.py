# SPDX-License-Identifier: Apache-2.0
"""Clear-text errors: a closed list of codes (PROTOCOL §4). No other word about a request leaves a node in clear."""

from __future__ import annotations

import json

from teehouse_core.errors import UnauthenticatedError

__all__ = ["CODES", "MAX_PROBLEM", "MAX_RETRY_AFTER", "PROBLEM_TYPE", "REASONS", "parse_problem", "problem_body"]

PROBLEM_TYPE = "application/problem+json"
MAX_PROBLEM = 8 * 1024  # bytes; more is not read
MAX_RETRY_AFTER = 60.0  # seconds; the path may not put a client to sleep for longer
CODES: dict[str, int] = {
    "unknown-key": 422,
    "expired": 400,
    "replayed": 400,
    "malformed": 400,
    "over-limit": 429,
    "unavailable": 503,
}
REASONS = frozenset(
    {"api-key-missing", "api-key-unknown", "endpoint-unknown", "endpoint-forbidden", "account-mismatch", "too-large"}
)
"""Words a gateway may add; clients show them as hints, never as facts."""


def problem_body(code: str, *, status: int | None = None, reason: str | None = None) -> bytes:
    """The body of a clear-text error (RFC 9457): code, its status, and at most one word from REASONS."""
    document: dict[str, str | int] = {
        "type": "about:blank",
        "title": code,
        "status": status or CODES[code],
        "code": code,
    }
    if reason is not None:
        document["reason"] = reason
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def parse_problem(status: int, content_type: str, body: bytes, retry_after: str | None = None) -> UnauthenticatedError:
    """Read whatever the path answered instead of a sealed response; never raises, trusts one code and one word.

    A code counts only with its own status; anything else is `unavailable`.
    """
    code, reason = "unavailable", None
    if content_type.split(";", 1)[0].strip().lower() == PROBLEM_TYPE and len(body) <= MAX_PROBLEM:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            claimed, word = document.get("code"), document.get("reason")
            if isinstance(claimed, str) and CODES.get(claimed) == status:
                code = claimed
            if isinstance(word, str) and word in REASONS:
                reason = word
    return UnauthenticatedError(code, status=status, retry_after=_seconds(retry_after), reason=reason)


def _seconds(text: str | None) -> float | None:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        return None
    return min(float(text), MAX_RETRY_AFTER)
