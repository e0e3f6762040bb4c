# SPDX-License-Identifier: Apache-2.0
"""The doors of existing TKS clients, one ASGI callable (B §2.1, §2.7).

| door | who is it |
| `POST /?Action=…&Version=2024-12-24` | the access key of a V4 signature |
| `POST /api/tks/v1/…`, `/api/ras/v1/verify` | the header `AppID`, which anybody can write |

The second is off unless the configuration turns it on, and then for accounts that allow it. Headers that the signature
does not cover (`AppID`, `Timestamp` on the signed door) decide nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.wire.v4 import MAX_SKEW, SignedRequest, V4Refused, V4Request
from teehouse_enclave.keys.compat.accounts import Account, Accounts
from teehouse_enclave.keys.compat.actions import ACTIONS, CHANGING, Actions
from teehouse_enclave.keys.compat.errors import CompatError, as_compat, error_body, result_body
from teehouse_enclave.keys.compat.store import Caller
from teehouse_enclave.node.log import log_event

__all__ = ["CompatDoor", "DoorSettings"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

VERSION: Final = "2024-12-24"
MAX_BODY: Final = 2 * 1024 * 1024  # bytes; evidence in base64 is the largest part
MAX_TEXT: Final = 16 * 1024  # bytes of a header value or a query that is looked at
_BODY_TIMEOUT: Final = 30.0  # seconds
_REMEMBERED: Final = 2 * MAX_SKEW  # seconds; as long as a signed request could come again
MAX_REMEMBERED: Final = 4096  # answers
_TKS: Final = "/api/tks/v1/"
_RAS: Final = "/api/ras/v1/verify"
_PATHS: Final = {
    **{_TKS + action.path: name for name, action in ACTIONS.items() if not action.path.startswith("/")},
    **{action.path: name for name, action in ACTIONS.items() if action.path.startswith("/")},
}


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """`hosts`: further names under which clients sign (`top_config.url`). `direct_rest`: take `AppID` at its word."""

    direct_rest: bool = False
    service: str = "pcc"
    region: str | None = None
    hosts: Sequence[str] = ()
    max_active: int = 512  # requests at once
    max_inflight: int = 64 * 1024 * 1024  # bytes of bodies held at a time


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, as far as it was read."""

    action: str
    version: str
    request: V4Request


class CompatDoor:
    """A mount of `KeysApp`. `clock` gives monotonic seconds."""

    def __init__(
        self,
        actions: Actions,
        accounts: Accounts,
        settings: DoorSettings | None = None,
        *,
        now: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._actions = actions
        self._accounts = accounts
        self._settings = settings or DoorSettings()
        self._now = now
        self._clock = clock
        self._answers: OrderedDict[tuple[str, str], tuple[float, asyncio.Future[tuple[int, bytes]]]] = OrderedDict()
        self._active = 0
        self._inflight = 0

    @staticmethod
    def handles(scope: Scope) -> bool:
        """Whether a request is for this door: the paths of the plain door, and POST to the root."""
        path: str = scope["path"]
        return path.startswith(_TKS) or path == _RAS or (path == "/" and scope["method"] == "POST")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = secrets.token_hex(16)
        metadata: dict[str, Any] = {"RequestId": request_id, "Service": self._settings.service}
        try:
            size = _announced(scope)
            full = self._inflight + size > self._settings.max_inflight
            if full or self._active >= self._settings.max_active:
                raise CompatError("over-limit", "too many requests at once", hint="try again in a moment")
            self._active += 1
            self._inflight += size
            try:
                asked = await _read(scope, receive)
                metadata |= {"Action": asked.action, "Version": asked.version}
                status, body = await self._answer(asked, metadata)
            finally:
                self._active -= 1
                self._inflight -= size
        except TeehouseError as error:
            status, body = _refusal(error, metadata)
        except Exception as error:  # in the clients' own envelope too
            log_event("internal-error", route="compat", kind=type(error).__name__)
            status, body = _refusal(CompatError("internal", "an error of this service"), metadata)
        await _send(send, status, body, request_id)

    async def _answer(self, asked: _Asked, metadata: dict[str, Any]) -> tuple[int, bytes]:
        caller = self._caller(asked)
        if asked.request.method != "POST":
            raise CompatError("method", "these doors take POST")
        if asked.action not in ACTIONS:
            raise CompatError("unknown-action", "no such action here")
        if asked.version != VERSION:
            raise CompatError("unknown-action", "no such version here", hint=f"Version={VERSION}")
        try:
            body = load_object(asked.request.body or b"{}", limit=MAX_BODY, what="the body")
        except MalformedError as error:
            raise CompatError("malformed", f"the body does not read: {error.code}") from None
        if not caller.once or asked.action not in CHANGING:
            return await self._run(asked.action, caller, body, metadata)
        return await self._once(asked.action, caller, body, metadata)

    async def _run(
        self, action: str, caller: Caller, body: dict[str, Any], metadata: dict[str, Any]
    ) -> tuple[int, bytes]:
        try:
            return 200, result_body(metadata, await self._actions.run(action, caller, body))
        except TeehouseError as error:
            return _refusal(error, metadata)

    async def _once(
        self, action: str, caller: Caller, body: dict[str, Any], metadata: dict[str, Any]
    ) -> tuple[int, bytes]:
        """A retry of a call gets the first try's answer, also while that is still under way.

        A try that this service could not serve is tried again, but for an export: its challenge is used up.
        """
        now, place = self._clock(), (f"{caller.account.id} {action}", caller.once)
        while self._answers and next(iter(self._answers.values()))[0] < now:
            self._answers.popitem(last=False)
        known = self._answers.get(place)
        if known is not None:
            return await asyncio.shield(known[1])
        if len(self._answers) >= MAX_REMEMBERED:
            raise CompatError("over-limit", "too many calls are remembered", hint="try again in some minutes")
        task = asyncio.ensure_future(self._run(action, caller, body, metadata))
        self._answers[place] = (now + _REMEMBERED, task)
        try:
            status, answer = await asyncio.shield(task)
        except BaseException:
            if not task.cancelled() and not task.done():
                return await asyncio.shield(task)  # the caller went; what was begun is ended
            self._answers.pop(place, None)
            raise
        if status >= 429 and action != "ExportTksKey":
            self._answers.pop(place, None)
        return status, answer

    def _caller(self, asked: _Asked) -> Caller:
        """Who calls. Raises `V4Refused` or `CompatError`."""
        request, digest = asked.request, hashlib.sha256(asked.request.body).hexdigest()
        if request.path != "/":
            return Caller(self._claimed(request), "app-id", digest)
        signed = SignedRequest.parse(request)
        account = self._accounts.by_access_key(signed.access_key)
        signed.verify(
            account.secret_key if account else None,
            now=self._now(),
            service=self._settings.service,
            region=self._settings.region,
            hosts=self._settings.hosts,
        )
        if account is None:  # verify refused already; this is for the reader and the type checker
            raise CompatError("signature", "no such access key")
        if request.values("x-security-token"):
            raise CompatError("sts-unsupported", "this service gives out no session tokens and takes none")
        for name in ("x-top-account-id",):
            if name in signed.signed_headers and request.values(name) != [account.id]:
                raise CompatError("account-mismatch", "the access key belongs to another account")
        invocation = request.values("x-sdk-invocation-id") if "x-sdk-invocation-id" in signed.signed_headers else []
        # Without an id the signature itself names the call: a copy of it is no second call.
        once = hashlib.sha256("\0".join((*invocation, digest) if invocation else (signed.signature,)).encode())
        return Caller(account, "v4", digest, once.hexdigest())

    def _claimed(self, request: V4Request) -> Account:
        if not self._settings.direct_rest:
            hint = "use the signed gateway (top_config), or turn direct_rest on inside a private network"
            raise CompatError("direct-rest-off", "calls that only name an account are not taken", hint=hint)
        named = request.values("appid")
        account = self._accounts.by_id(named[0]) if len(named) == 1 else None
        if account is None or not account.direct_rest:
            raise CompatError("direct-rest-off", "this account's calls are not taken by its name alone")
        if any(value != account.id for value in request.values("x-top-account-id")):
            raise CompatError("account-mismatch", "AppID and X-Top-Account-Id name two accounts")
        stamp = request.values("timestamp")
        if len(stamp) != 1 or not (stamp[0].isascii() and stamp[0].isdigit() and len(stamp[0]) <= 12):
            raise CompatError("timestamp", "Timestamp is not Unix seconds")
        if abs(int(stamp[0]) - self._now()) > MAX_SKEW:
            hint = f"set the client's clock; {MAX_SKEW // 60} minutes either way are allowed"
            raise CompatError("timestamp", "Timestamp is too far from our clock", hint=hint)
        return account


def _refusal(error: TeehouseError, metadata: dict[str, Any]) -> tuple[int, bytes]:
    if isinstance(error, V4Refused):
        text = error.message if error.hint is None else f"{error.message}; hint: {error.hint}"
        return error.status, error_body(metadata, _V4_WORDS.get(error.code, "InvalidAuthorization"), error.code, text)
    status, word, code, text = as_compat(error)
    return status, error_body(metadata, word, code, text)


_V4_WORDS: Final = {
    "signature-missing": "MissingAuthenticationToken",
    "signature-time": "InvalidTimestamp",
    "signature-mismatch": "SignatureDoesNotMatch",
    "signature-scope": "InvalidCredential",
    "signature-body": "SignatureDoesNotMatch",
}


def _announced(scope: Scope) -> int:
    """Bytes that a body may take up: what it announces, or the most that is read."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return min(int(length), MAX_BODY) if length.isdigit() and len(length) <= 12 else MAX_BODY


async def _read(scope: Scope, receive: Receive) -> _Asked:
    """Headers and body within bounds; the action by path or query. Raises `CompatError`."""
    raw = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    query: str = scope["query_string"].decode("latin-1")
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    if len(query) > MAX_TEXT or any(len(value) > MAX_TEXT for _, value in headers):
        raise CompatError("too-large", "headers or query are too large")
    body = await _body(receive)
    path = raw.decode("latin-1").partition("?")[0]
    request = V4Request(scope["method"], path, query, headers, body)
    if path != "/":
        return _Asked(_PATHS.get(path, ""), VERSION, request)
    try:
        pairs = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=16))
    except ValueError:
        raise CompatError("malformed", "the query has too many parameters") from None
    return _Asked(pairs.get("Action", "")[:64], pairs.get("Version", "")[:32], request)


async def _body(receive: Receive) -> bytes:
    parts, got = [], 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise CompatError("malformed", "the request broke off")
                parts.append(message.get("body", b""))
                got += len(parts[-1])
                if got > MAX_BODY:
                    raise CompatError("too-large", "the body is too large", hint=f"at most {MAX_BODY} bytes")
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise CompatError("malformed", "the request did not come in time") from None


async def _send(send: Send, status: int, body: bytes, request_id: str) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
    ]
    if status in (429, 503):
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
