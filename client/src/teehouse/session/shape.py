# SPDX-License-Identifier: Apache-2.0
"""Errors of ours as OpenAI error objects: for the SDK's own exception classes, and for the proxy's answers.

Only codes, our own words and names of checks leave here: no text of the path, no prompt, no answer.
"""

from __future__ import annotations

from typing import Any, Final

from teehouse.session.errors import Unreachable
from teehouse_core.errors import (
    EvidenceRefused,
    LocalError,
    OperatorError,
    PeerError,
    RefusedError,
    TeehouseError,
    UnauthenticatedError,
)

__all__ = ["code_of", "error_body", "error_object", "retry_allowed", "status_of"]

_LOCAL: Final = {
    "api-key-missing": 401,
    "api-key-form": 401,
    "too-large": 413,
    "path-unknown": 404,
    "model-unknown": 404,
    "method-unknown": 405,
    "http-version": 505,
}
MAX_CHECKS: Final = 16  # refusing checks named in one error object


def status_of(error: TeehouseError) -> int:
    """The HTTP status that says whose fault it was."""
    if isinstance(error, UnauthenticatedError):
        return error.status if 400 <= error.status <= 599 else 503
    if isinstance(error, LocalError):
        return _LOCAL.get(error.code, 400)
    if isinstance(error, Unreachable):
        return 504 if error.code == "timeout" else 503
    return 503 if isinstance(error, OperatorError) else 502


def code_of(error: TeehouseError) -> str:
    """Our stable code; of a clear-text answer the more telling word, if it gave one."""
    if isinstance(error, UnauthenticatedError) and error.reason is not None:
        return error.reason
    return error.code


def retry_allowed(status: int) -> bool:
    """Whether a library may send again by itself (PROTOCOL §4); what it sends is sealed anew."""
    return status in (429, 503)


def error_object(error: TeehouseError) -> dict[str, Any]:
    """The OpenAI error object: `message`, `type`, `code`, `param`, and what verification found."""
    document: dict[str, Any] = {
        "message": f"{error.message} ({error.hint})" if error.hint else error.message,
        "type": _type(error),
        "code": code_of(error),
        "param": None,
    }
    if isinstance(error, EvidenceRefused) and error.verdict is not None:
        document["checks"] = [
            {"id": check.id, "state": check.state, "hint": check.hint} for check in error.verdict.refusing[:MAX_CHECKS]
        ]
    return document


def error_body(error: TeehouseError) -> dict[str, Any]:
    """The body of an error answer."""
    return {"error": error_object(error)}


def _type(error: TeehouseError) -> str:
    if isinstance(error, RefusedError):
        return "teehouse_verification_refused"
    if isinstance(error, UnauthenticatedError):
        return "teehouse_unauthenticated"
    if isinstance(error, PeerError):
        return "teehouse_protocol"
    return "invalid_request_error" if isinstance(error, LocalError) else "teehouse_error"
