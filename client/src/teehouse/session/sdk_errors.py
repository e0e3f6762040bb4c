# SPDX-License-Identifier: Apache-2.0
"""Our errors that are also `openai.APIError`: the SDK lets them through at once, without wrapping and without retry.

Each class is both, so `except TruncatedStream` and `except openai.APIError` catch the same object. Needs the `openai`
package; whoever has not loaded it gets our plain errors (`for_caller`).
"""

from __future__ import annotations

from typing import Any

import httpx2
import openai

from teehouse.session import errors as session_errors
from teehouse.session.shape import error_object
from teehouse_core import errors

__all__ = [
    "EvidenceRefused",
    "LocalError",
    "MalformedError",
    "OperatorError",
    "PeerError",
    "RefusedError",
    "StaleEvidence",
    "TruncatedStream",
    "UnauthenticatedError",
    "Unreachable",
    "as_sdk_error",
]


class _Both(errors.TeehouseError, openai.APIError):
    """Made by `as_sdk_error` only."""

    code: str


class LocalError(errors.LocalError, _Both):
    pass


class PeerError(errors.PeerError, _Both):
    pass


class MalformedError(errors.MalformedError, PeerError):
    pass


class TruncatedStream(errors.TruncatedStream, PeerError):  # noqa: N818
    pass


class UnauthenticatedError(errors.UnauthenticatedError, PeerError):
    pass


class Unreachable(session_errors.Unreachable, PeerError):  # noqa: N818
    pass


class RefusedError(errors.RefusedError, _Both):
    pass


class EvidenceRefused(errors.EvidenceRefused, RefusedError):  # noqa: N818
    pass


class StaleEvidence(errors.StaleEvidence, RefusedError):  # noqa: N818
    pass


class OperatorError(errors.OperatorError, _Both):
    pass


_CLASSES: tuple[type[_Both], ...] = (
    StaleEvidence,
    EvidenceRefused,
    RefusedError,
    Unreachable,
    UnauthenticatedError,
    TruncatedStream,
    MalformedError,
    PeerError,
    OperatorError,
    LocalError,
)


def as_sdk_error(error: errors.TeehouseError, request: httpx2.Request) -> errors.TeehouseError:
    """The same error as an object of both trees, with `code`, `type` and `body` as the SDK's users expect them."""
    if isinstance(error, openai.OpenAIError):
        return error
    for kind in _CLASSES:
        if isinstance(error, kind.__bases__[0]):
            made = kind.__new__(kind)
            made.args = error.args
            made.__dict__.update(error.__dict__)
            body: dict[str, Any] = error_object(error)
            made.request, made.body = request, body
            made.type, made.param = body["type"], None
            made.__cause__ = error.__cause__
            return made
    return error
