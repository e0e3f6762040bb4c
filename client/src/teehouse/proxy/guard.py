# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the proxy: a caller that knows its token, and no web page, whatever name it found for this address.

A page in the user's browser can send requests to loopback. It cannot forge `Host` and `Origin` and does not know the
token; the proxy grants no CORS permission, so a page cannot read an answer either (ARCHITECTURE §2).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from teehouse.proxy.answers import send_error
from teehouse_core.errors import LocalError

__all__ = ["Guard", "Place"]

_OPEN: Final = frozenset({"/healthz"})  # says only that something listens, which connecting says too


@dataclass(frozen=True, slots=True)
class Place:
    """Where the proxy is bound and what its callers must know. `authority` is the literal of `Host`."""

    authority: str
    token: str = field(repr=False)

    @property
    def origin(self) -> str:
        return f"http://{self.authority}"


class Guard:
    """ASGI wrapper; nothing behind it runs for a caller that it refuses."""

    def __init__(self, app: ASGIApp, place: Place) -> None:
        self._app = app
        self._host = place.authority.encode("ascii")
        self._origin = place.origin.encode("ascii")
        self._bearer = f"Bearer {place.token}".encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket here; the server is started without them
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await send_error(receive, send, refusal)

    def _refusal(self, scope: Scope) -> LocalError | None:
        if _values(scope, b"host") != [self._host]:
            hint = f"use {self._host.decode('ascii')}, as the proxy is bound"
            return LocalError("this Host is not the proxy's address", code="host-refused", hint=hint)
        if _values(scope, b"origin") not in ([], [self._origin]):
            return LocalError("requests of web pages are refused", code="origin-refused")
        if scope["path"] in _OPEN:
            return None
        given = _values(scope, b"authorization")
        # (constant time: a caller must not learn the token byte by byte)
        if len(given) != 1 or not hmac.compare_digest(given[0], self._bearer):
            return LocalError(
                "the proxy's own bearer token is needed",
                code="proxy-token",
                hint="give the content of its token file as the API key",
            )
        return None


def _values(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]
