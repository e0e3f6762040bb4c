# SPDX-License-Identifier: Apache-2.0
"""A key service as an admin sees it: appraised first, then sent commands that were signed here.

Nothing is sealed to a service, and no command names its keyset, before its evidence was accepted under the user's own
policy. What it answers is checked where it can be: an entry's place in the log is `teehouse audit verify`'s business.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse.keys.errors import KeyServiceError
from teehouse.session.errors import Unreachable
from teehouse.settings import is_loopback
from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Accepted
from teehouse_core.errors import LocalError, MalformedError, OperatorError, TeehouseError
from teehouse_core.evidence.bundle import MAX_BUNDLE
from teehouse_core.seal.commands import sign_command
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import READ_OP, Command, CommandRequest, build_command
from teehouse_core.wire.keyset import HpkeKey

__all__ = ["KeyService", "KeyServiceError"]

TIMEOUT: Final = 30.0  # seconds; a command waits for witnesses, who may be far away
MAX_REPLY: Final = 32 * 1024 * 1024  # bytes; a tenant's whole state
COMMAND_LIFE: Final = 300  # seconds in which a command signed at once is sent
_CODE: Final = 64  # characters of a code that are believed


class KeyService:
    """One service under one policy. Use it in a `with` block; methods raise `TeehouseError`."""

    def __init__(self, url: str, policy: Policy, *, allow_http: bool = False, clock: Callable[[], float] = time.time):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LocalError("the key service's address is no URL", code="tks-url", hint="as https://keys.example.org")
        if parts.scheme == "http" and not (allow_http or is_loopback(parts.hostname)):
            raise LocalError(
                "plain HTTP to another machine", code="tks-url", hint="use https://, or set allow_http if a tunnel does"
            )
        self._policy = policy.for_key_service()
        self._clock = clock
        self._accepted: Accepted | None = None
        self._http = httpx2.Client(base_url=url.rstrip("/"), timeout=TIMEOUT, trust_env=not is_loopback(parts.hostname))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def accepted(self) -> Accepted:
        """The service's keyset, appraised over a fresh challenge; again when that is over. Raises `RefusedError`."""
        if self._accepted is None or self._accepted.not_after <= self.now():
            challenge = secrets.token_bytes(32)
            data = self._get(f"/v1/evidence?challenge={b64u(challenge)}", MAX_BUNDLE)
            verdict = appraise(data, self._policy, self.now(), endpoint="", nonce=challenge)
            self._accepted = verdict.accept()
        return self._accepted

    def sealing_key(self) -> HpkeKey:
        """The key that imports are sealed to. Raises `RefusedError`, `LocalError`."""
        from teehouse_core.seal.client import choose_key

        return choose_key(self.accepted(), self.now())

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────

    def command(
        self, tenant: str, ring: str, seq: int, op: str, args: Mapping[str, Any], *, life: int = COMMAND_LIFE
    ) -> bytes:
        """The bytes of a command to this service, unsigned; good for `life` seconds, or until the keyset ends."""
        keyset = self.accepted().keyset
        return build_command(
            tks_keyset_sha256=keyset.sha256,
            tenant=tenant,
            ring=ring,
            seq=seq,
            op=op,
            args=args,
            expires_at=min(self.now() + life, keyset.not_after),
        )

    def send(self, request: CommandRequest) -> dict[str, Any]:
        """Send a signed command; returns `{"result", "entry", "checkpoint"}`. Raises `KeyServiceError`."""
        return self._post("/v1/commands", request.to_json())

    def read_request(self, tenant: str, admin: Ed25519PrivateKey) -> CommandRequest:
        """A signed `state.read`: who sends it is an admin of the tenant."""
        raw = self.command(tenant, "", 0, READ_OP, {})
        return CommandRequest(Command.parse(raw), (sign_command(raw, admin),))

    def read(self, tenant: str, admin: Ed25519PrivateKey) -> dict[str, Any]:
        """The tenant's own state, as its `state.read` shows it."""
        answer = self.send(self.read_request(tenant, admin))
        result = answer.get("result")
        if not isinstance(result, dict):
            raise MalformedError("the key service's answer is not understood", code="key-service-answer")
        return result

    def run(
        self,
        tenant: str,
        ring: str,
        seq: int,
        op: str,
        args: Mapping[str, Any],
        admins: Sequence[Ed25519PrivateKey],
        *,
        payload: bytes = b"",
    ) -> dict[str, Any]:
        """Build, sign with every key of `admins`, send."""
        raw = self.command(tenant, ring, seq, op, args)
        signatures = tuple(sign_command(raw, key) for key in admins)
        return self.send(CommandRequest(Command.parse(raw), signatures, payload))

    def post(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Any other JSON call of the service. Raises `KeyServiceError`, `Unreachable`, `MalformedError`."""
        return self._post(path, document)

    # ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _get(self, path: str, limit: int) -> bytes:
        return self._exchange("GET", path, None, limit)

    def _post(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        import json

        body = self._exchange("POST", path, document, MAX_REPLY)
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise MalformedError("the key service's answer is not understood", code="key-service-answer")
        return value

    def _exchange(self, method: str, path: str, document: Mapping[str, Any] | None, limit: int) -> bytes:
        try:
            with self._http.stream(method, path, json=document) as reply:
                body = b""
                for piece in reply.iter_bytes():
                    body += piece
                    if len(body) > limit:
                        raise MalformedError("the key service's answer is too long", code="too-large")
                if reply.status_code != 200:
                    raise _refusal(reply.status_code, body)
                return body
        except httpx2.HTTPError as error:
            raise Unreachable(
                "the key service does not answer", hint=f"{type(error).__name__}; is the address right?"
            ) from None


def _refusal(status: int, body: bytes) -> TeehouseError:
    import json

    try:
        value = json.loads(body[: 64 * 1024])
        code, detail, hint = value["code"], value.get("title") or value.get("detail") or "", value.get("hint")
        known = isinstance(code, str) and 0 < len(code) <= _CODE
    except (ValueError, KeyError, TypeError, AttributeError):
        code, detail, hint, known = "", "", None, False
    if status >= 500:
        return OperatorError(
            f"the key service cannot do it now ({status})", code=code if known else "key-service", hint=_text(hint)
        )
    return KeyServiceError(
        status,
        str(detail)[:500] or f"the key service answered {status}",
        code=code if known else "key-service",
        hint=_text(hint),
    )


def _text(value: Any) -> str | None:
    return value[:500] if isinstance(value, str) and value else None
