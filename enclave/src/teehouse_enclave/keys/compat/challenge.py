# SPDX-License-Identifier: Apache-2.0
"""Challenges to existing clients: signed by us, for one account, good once and for five minutes (B §2.3).

A challenge is not stored when it is made: `ChallSig` = exchange key id(8) ‖ HMAC-SHA256 over account, nonce, end and
that id. Only used ones are remembered, until they end; when there is no room for one more, it is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import b64_text, unb64_text
from teehouse_core.wire.canonical import MAX_INTEGER, encode
from teehouse_core.wire.labels import L
from teehouse_enclave.keys.compat.errors import CompatError

__all__ = ["LIFE", "ChallengeDesk", "report_data"]

LIFE: Final = 300  # seconds; the official client collects evidence in between, from hardware that takes its time
MAX_USED: Final = 65_536  # used challenges held at a time; each is gone after LIFE
_ID: Final = 8  # bytes of an exchange key's id
_HEX64: Final = re.compile(r"[0-9a-f]{64}")


class ChallengeDesk:
    """Makes and takes challenges. Its key lives as long as the memory of what was used: both end with the process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._used: dict[str, int] = {}  # nonce → its end, in order of use

    def make(self, account: str, exchange_id: bytes, now: int) -> dict[str, Any]:
        """`Challenge` for `account`, at `now` (Unix seconds)."""
        nonce, ends = secrets.token_hex(32), now + LIFE
        signature = b64_text(exchange_id + self._mac(account, nonce, ends, exchange_id))
        return {"NonceDown": nonce, "ExpirationTime": ends, "ChallSig": signature}

    def take(self, account: str, given: Any, now: int) -> tuple[str, bytes]:
        """Use one up, whatever comes of it: (NonceDown, exchange key id).

        Raises `CompatError`: `challenge-malformed`, `challenge-unknown` (not ours, or another account's), `-expired`,
        `-used`, `over-limit`.
        """
        nonce, ends, identity, mac = _read(given)
        if not hmac.compare_digest(mac, self._mac(account, nonce, ends, identity)):
            raise CompatError("challenge-unknown", "this challenge was not made here for this account")
        if now >= ends:
            hint = f"answer within {LIFE} seconds"
            raise CompatError("challenge-expired", "this challenge has ended", hint=hint)
        if nonce in self._used:
            hint = "ask security/attest for a new one"
            raise CompatError("challenge-used", "this challenge was used before", hint=hint)
        if len(self._used) >= MAX_USED:
            self._used = {one: end for one, end in self._used.items() if now < end}
        if len(self._used) >= MAX_USED:  # forgetting one and accepting it again are the same thing
            raise CompatError("over-limit", "too many challenges were used in the last minutes")
        self._used[nonce] = ends
        return nonce, identity

    def _mac(self, account: str, nonce: str, ends: int, identity: bytes) -> bytes:
        text = L("tks compat challenge") + encode([account, nonce, ends, identity.hex()])
        return hmac.new(self._key, text, hashlib.sha256).digest()


def report_data(nonce_up: bytes, nonce_down: bytes, dh_pem: bytes, ends: int) -> bytes:
    """The 64 bytes that the service's own report covers for this exchange (B §2.3)."""
    inner = hashlib.sha256(nonce_up + nonce_down + dh_pem + str(ends).encode("ascii")).hexdigest()
    return hashlib.sha512(inner.encode("ascii")).digest()


def _read(given: Any) -> tuple[str, int, bytes, bytes]:
    wrong = CompatError("challenge-malformed", "ClientChall is not a Challenge as security/attest gave it")
    if not isinstance(given, dict) or set(given) != {"NonceDown", "ExpirationTime", "ChallSig"}:
        raise wrong
    nonce, ends, signature = given["NonceDown"], given["ExpirationTime"], given["ChallSig"]
    if not isinstance(nonce, str) or not _HEX64.fullmatch(nonce) or type(ends) is not int:
        raise wrong
    if not 0 <= ends <= MAX_INTEGER or not isinstance(signature, str):
        raise wrong
    try:
        raw = unb64_text(signature, limit=_ID + 32, what="ChallSig")
    except MalformedError:
        raise wrong from None
    if len(raw) != _ID + 32:
        raise wrong
    return nonce, ends, raw[:_ID], raw[_ID:]
