# SPDX-License-Identifier: Apache-2.0
"""The error tree of Teehouse; whose fault it was comes first.

    TeehouseError
    ├─ LocalError                this side was called or configured wrongly
    ├─ PeerError                 the other side, or the path to it, broke the protocol
    │  ├─ MalformedError         bytes that no parser here accepts
    │  ├─ TruncatedStream        the final record never came
    │  ├─ RequestRefused         (node) a request that must not be opened: unknown-key, expired, replayed
    │  └─ UnauthenticatedError   a clear-text code from the path; anybody between could have written it
    ├─ RefusedError              verification said no; nothing was sent, or nothing is handed out
    │  ├─ EvidenceRefused        the appraisal of a node's evidence failed
    │  └─ StaleEvidence          the path insists on a key that fresh evidence does not bring
    └─ OperatorError             the service cannot do it now

Every error has `code` (kebab-case, stable, never translated) and may have `hint` (what to do). Control flow reads the
type or the code, never the message. No message holds prompt or answer text.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "EvidenceRefused",
    "LocalError",
    "MalformedError",
    "OperatorError",
    "PeerError",
    "RefusedError",
    "RequestRefused",
    "StaleEvidence",
    "TeehouseError",
    "TruncatedStream",
    "UnauthenticatedError",
]


class TeehouseError(Exception):
    """Base of all errors that Teehouse raises on purpose."""

    default_code: ClassVar[str] = "error"

    def __init__(self, message: str = "", *, code: str | None = None, hint: str | None = None) -> None:
        self.code: str = code or self.default_code
        self.message: str = message or self.code
        self.hint: str | None = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.message == self.code else f"{self.message} [{self.code}]"


class LocalError(TeehouseError):
    """The caller's own fault: arguments, configuration, a key that is over."""

    default_code = "local-error"


class PeerError(TeehouseError):
    """The other side, or something on the path, did not keep to the protocol."""

    default_code = "peer-error"


class MalformedError(PeerError):
    """Bytes that do not parse, or do not authenticate. On the wire this is always just `malformed`."""

    default_code = "malformed"
    wire_code: ClassVar[str] = "malformed"


class TruncatedStream(PeerError):  # noqa: N818  the protocol text names it so
    """The answer ended without its final record (PROTOCOL §4): whatever came before is not the whole answer."""

    default_code = "truncated-stream"


class RequestRefused(PeerError):  # noqa: N818  a verdict, not a fault of ours
    """A node refuses a request before opening it; `wire_code` is all that leaves in clear (PROTOCOL §3.5)."""

    default_code = "request-refused"

    def __init__(self, wire_code: str, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message, code=code or wire_code)
        self.wire_code: str = wire_code


class UnauthenticatedError(PeerError):
    """A clear-text code from the closed list (PROTOCOL §4). The gateway, or anybody else, may have made it up."""

    default_code = "unavailable"

    def __init__(
        self,
        code: str,
        *,
        status: int,
        retry_after: float | None = None,
        reason: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(
            f"the path answered in clear: {code} (status {status}), which proves nothing", code=code, hint=hint
        )
        self.status: int = status
        self.retry_after: float | None = retry_after  # seconds, capped by whoever parsed it
        self.reason: str | None = reason  # a word from wire.problem.REASONS; a hint, never a fact


class RefusedError(TeehouseError):
    """Verification refused. Nothing was sent, or nothing of what came is handed out."""

    default_code = "refused"


class EvidenceRefused(RefusedError):  # noqa: N818  the protocol text names it so
    """Evidence did not satisfy the policy. `verdict` lists every check."""

    default_code = "evidence-refused"

    def __init__(
        self, message: str = "", *, verdict: Any = None, code: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.verdict: Any = verdict


class StaleEvidence(RefusedError):  # noqa: N818  the protocol text names it so
    """After `unknown-key` the path offered no newer accepted keyset (PROTOCOL §5)."""

    default_code = "stale-evidence"


class OperatorError(TeehouseError):
    """The service cannot do this now: full, draining, not configured for it."""

    default_code = "unavailable"

    def __init__(
        self, message: str = "", *, code: str | None = None, hint: str | None = None, wire_code: str = "unavailable"
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.wire_code: str = wire_code
