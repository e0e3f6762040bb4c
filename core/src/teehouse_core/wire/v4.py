# SPDX-License-Identifier: Apache-2.0
"""Volcengine's V4 request signature: read it, check it, make it (spec/06-compat.md §2).

An access key's holder signs method, path, query, chosen headers and the body's hash with HMAC-SHA256. The signature is
symmetric: whoever can check it can also make it. It has no memory of its own, so a copy is good until the clock moves
on; whoever changes state on a signed request keeps its own record of what it has done.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from teehouse_core.errors import LocalError, RefusedError

__all__ = [
    "ALGORITHM",
    "MAX_SKEW",
    "REQUIRED_HEADERS",
    "SignedRequest",
    "V4Refused",
    "V4Request",
    "canonical_query",
    "sign",
]

ALGORITHM: Final = "HMAC-SHA256"
TERMINATOR: Final = "request"
MAX_SKEW: Final = 900  # seconds either way between X-Date and our clock
MAX_AUTHORIZATION: Final = 2048  # characters
MAX_PATH: Final = 1024  # characters
MAX_QUERY: Final = 8192  # characters as sent
MAX_PARAMETERS: Final = 64
MAX_HEADERS: Final = 64  # header lines in one request
MAX_SIGNED: Final = 32  # header names under one signature
MAX_VALUE: Final = 4096  # characters of one signed header
REQUIRED_HEADERS: Final = ("content-type", "host", "x-content-sha256", "x-date")
"""What a signature must cover at least; without `host` it would be good at any service of this region."""

_NAME: Final = r"[a-z0-9][a-z0-9_-]{0,63}"
_AUTHORIZATION: Final = re.compile(
    rf"{ALGORITHM} Credential=([A-Za-z0-9._=-]{{1,128}})/([0-9]{{8}})/({_NAME})/({_NAME})/{TERMINATOR}, ?"
    r"SignedHeaders=([a-z0-9-]{1,64}(?:;[a-z0-9-]{1,64}){0,31}), ?Signature=([0-9a-f]{64})"
)
_DATE: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_NO_SECRET: Final = bytes(32)  # keeps an unknown access key as slow as a known one


class V4Refused(RefusedError):  # noqa: N818  a verdict, not a fault of ours
    """A request that its signature does not cover. `code` says why; `status` is the HTTP status for it.

    Codes: `signature-missing`, `signature-malformed`, `signature-scope`, `signature-headers`, `signature-time`,
    `signature-body`, `signature-token`, `signature-mismatch` (which is also what an unknown access key gives).
    """

    default_code = "signature-malformed"

    def __init__(self, message: str, *, code: str, status: int = 401, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status: int = status


@dataclass(frozen=True, slots=True)
class V4Request:
    """One HTTP request as received: `path` and `query` undecoded, the query without its question mark."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    def values(self, name: str) -> list[str]:
        """Every value of the header `name` (lower case), without surrounding blanks."""
        return [value.strip(" \t") for key, value in self.headers if key.lower() == name]


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request whose signature was read and not yet checked: nothing in it is true before `verify` returns."""

    request: V4Request
    access_key: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str = field(repr=False)
    x_date: str

    @classmethod
    def parse(cls, request: V4Request) -> SignedRequest:
        """Read `Authorization` and `X-Date`. Bounds only; raises `V4Refused`."""
        if len(request.headers) > MAX_HEADERS:
            raise V4Refused("too many headers", code="signature-malformed", status=400)
        given = request.values("authorization")
        if not given:
            hint = "sign the request with an access key (Volcengine V4)"
            raise V4Refused("the request is not signed", code="signature-missing", hint=hint)
        match = _AUTHORIZATION.fullmatch(given[0]) if len(given) == 1 and len(given[0]) <= MAX_AUTHORIZATION else None
        if match is None:
            raise V4Refused("Authorization is no V4 signature", code="signature-malformed", status=400)
        access_key, date, region, service, names, signature = match.groups()
        headers = tuple(names.split(";"))
        if list(headers) != sorted(set(headers)) or len(headers) > MAX_SIGNED:
            raise V4Refused("SignedHeaders are not sorted and single", code="signature-malformed", status=400)
        x_date = _single(request, "x-date")
        if not _DATE.fullmatch(x_date):
            raise V4Refused("X-Date is not yyyymmddThhmmssZ", code="signature-malformed", status=400)
        return cls(request, access_key, date, region, service, headers, signature, x_date)

    def verify(
        self,
        secret: str | None,
        *,
        now: int,
        service: str,
        region: str | None = None,
        hosts: Sequence[str] = (),
        required: Sequence[str] = REQUIRED_HEADERS,
    ) -> None:
        """Check everything that the signature claims; returns nothing, raises `V4Refused`.

        `secret` is that of `access_key`, or None when there is no such key: the answer and the work are the same as for
        a wrong one. `now` in Unix seconds. `service` is ours; `region` too when given. `hosts` are further names under
        which clients may have signed for us: one of the SDK's ways signs another host than it sends.
        """
        self._check_scope(service, region)
        self._check_headers(required)
        self._check_time(now)
        digest = hashlib.sha256(self.request.body).hexdigest()
        if not hmac.compare_digest(_single(self.request, "x-content-sha256"), digest):
            raise V4Refused("X-Content-Sha256 is not the hash of this body", code="signature-body", status=400)
        key = _signing_key(secret or "", self.date, self.region, self.service) if secret else _NO_SECRET
        good = False
        for host in (None, *hosts):
            expected = hmac.new(key, self._string_to_sign(digest, host), hashlib.sha256).hexdigest()
            good |= hmac.compare_digest(expected, self.signature)
        if not good or not secret:
            hint = "the access key is unknown or the secret key is another one"
            raise V4Refused("the signature does not match", code="signature-mismatch", hint=hint)

    def _check_scope(self, service: str, region: str | None) -> None:
        if self.service != service or (region is not None and self.region != region):
            raise V4Refused("signed for another service or region", code="signature-scope")
        if self.date != self.x_date[:8]:
            raise V4Refused("X-Date is not on the day of the credential", code="signature-time")

    def _check_headers(self, required: Sequence[str]) -> None:
        missing = [name for name in required if name not in self.signed_headers]
        if missing:
            raise V4Refused(f"{missing[0]} is not under the signature", code="signature-headers", status=400)
        # A session token that is not signed could be swapped on the way.
        if self.request.values("x-security-token") and "x-security-token" not in self.signed_headers:
            raise V4Refused("X-Security-Token is not under the signature", code="signature-token", status=400)

    def _check_time(self, now: int) -> None:
        try:
            then = int(datetime.strptime(self.x_date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):
            raise V4Refused("X-Date is no time", code="signature-malformed", status=400) from None
        if abs(now - then) > MAX_SKEW:
            hint = f"set the client's clock; {MAX_SKEW // 60} minutes either way are allowed"
            raise V4Refused("X-Date is too far from our clock", code="signature-time", hint=hint)

    def _string_to_sign(self, digest: str, host: str | None) -> bytes:
        values = {name: _single(self.request, name) for name in self.signed_headers}
        values["host"] = _plain_host(host if host is not None else values["host"])
        canonical = _canonical(self.request, values, digest)
        return _to_sign(self.x_date, f"{self.date}/{self.region}/{self.service}/{TERMINATOR}", canonical)


def sign(
    request: V4Request, *, access_key: str, secret: str, service: str, region: str, now: int
) -> tuple[tuple[str, str], ...]:
    """The request's headers with `X-Date`, `X-Content-Sha256` and `Authorization` added, as the official SDK signs.

    Signed are `content-type`, `host` and every header whose name begins with `x-`. Raises `LocalError` when the request
    names no host or content type, or a header stands twice.
    """
    x_date = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(request.body).hexdigest()
    added = (*request.headers, ("X-Date", x_date), ("X-Content-Sha256", digest))
    names = [name.lower() for name, _ in added]
    chosen = sorted(name for name in names if name in ("content-type", "host") or name.startswith("x-"))
    if len(set(chosen)) != len(chosen) or not {"content-type", "host"} <= set(chosen):
        raise LocalError("a request to sign names host and content type, and no header twice", code="request-headers")
    values = {name.lower(): value.strip(" \t") for name, value in added if name.lower() in chosen}
    values["host"] = _plain_host(values["host"])
    scope = f"{x_date[:8]}/{region}/{service}/{TERMINATOR}"
    text = _to_sign(x_date, scope, _canonical(request, values, digest))
    signature = hmac.new(_signing_key(secret, x_date[:8], region, service), text, hashlib.sha256).hexdigest()
    line = f"{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={';'.join(chosen)}, Signature={signature}"
    return (*added, ("Authorization", line))


def canonical_query(query: str) -> str:
    """The query decoded, encoded anew and sorted, as both sides sign it. Raises `V4Refused` (`signature-malformed`)."""
    if len(query) > MAX_QUERY or query.count("&") >= MAX_PARAMETERS:
        raise V4Refused("the query is too long", code="signature-malformed", status=400)
    pairs: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        key = _quote(_unquote(name))
        if key in pairs:  # which of the two counts is what the two sides could differ about
            raise V4Refused("a parameter stands twice", code="signature-malformed", status=400)
        pairs[key] = _quote(_unquote(value))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs.items()))


def _canonical(request: V4Request, values: dict[str, str], digest: str) -> bytes:
    if len(request.path) > MAX_PATH or not request.path.startswith("/") or not request.path.isascii():
        raise V4Refused("not a path", code="signature-malformed", status=400)
    names = sorted(values)
    lines = [request.method, request.path, canonical_query(request.query)]
    lines += [f"{name}:{values[name]}" for name in names]
    lines += ["", ";".join(names), digest]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _to_sign(x_date: str, scope: str, canonical: bytes) -> bytes:
    return "\n".join((ALGORITHM, x_date, scope, hashlib.sha256(canonical).hexdigest())).encode("ascii")


def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = secret.encode("utf-8", "surrogateescape")
    for part in (date, region, service, TERMINATOR):
        key = hmac.new(key, part.encode("ascii"), hashlib.sha256).digest()
    return key


def _single(request: V4Request, name: str) -> str:
    """The one value of a header; one that is missing or stands twice is refused."""
    values = request.values(name)
    if len(values) != 1 or len(values[0]) > MAX_VALUE or "\n" in values[0] or "\r" in values[0]:
        raise V4Refused(f"{name} is missing or stands twice", code="signature-headers", status=400)
    return values[0]


def _plain_host(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port in ("80", "443") else host


def _quote(data: bytes) -> str:
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


def _unquote(text: str) -> bytes:
    """Percent-decoding; a plus is a blank, as form encoding has it. Raises `V4Refused`."""
    out = bytearray()
    at = 0
    while at < len(text):
        char = text[at]
        if char == "%":
            pair = text[at + 1 : at + 3]
            if len(pair) != 2 or not _HEX.issuperset(pair):
                raise V4Refused("the query is not percent-encoded", code="signature-malformed", status=400)
            out.append(int(pair, 16))
            at += 3
            continue
        if not char.isascii():
            raise V4Refused("the query is not ASCII", code="signature-malformed", status=400)
        out += b" " if char == "+" else char.encode("ascii")
        at += 1
    return bytes(out)
