# SPDX-License-Identifier: Apache-2.0
"""Key agreement with existing clients: P-384 ECDH, HKDF-SHA256, AES-256-GCM (AICC wire facts B §2.2).

KEK = HKDF-SHA256(x-coordinate, no salt, empty info, 32); a key travels as iv(12) ‖ ciphertext ‖ tag(16), no AAD.
Nothing says who the other side is, nor which key of which ring travels: evidence and challenge say that, beside it. An
import does not name the exchange key it was sealed to, so the current and the one before are both tried.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import b64_text, unb64_text
from teehouse_enclave.keys.compat.errors import CompatError

__all__ = ["ExchangeKey", "ExchangeKeys", "MAX_WRAPPED"]

PERIOD: Final = 3600.0  # seconds for which an exchange key is handed out; it opens imports as long again
MAX_PEM: Final = 1024  # bytes of a P-384 public key as PEM; a real one has 215
MAX_WRAPPED: Final = 16 * 1024 + 28  # bytes of a key in its wrapping
_IV: Final = 12  # bytes
_KEK: Final = 32  # bytes


@dataclass(frozen=True, slots=True)
class ExchangeKey:
    """One key pair of this service. `id` names it inside a challenge: 8 bytes of its public key's hash."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    pem: bytes
    id: bytes
    since: float

    @property
    def dh_param(self) -> str:
        """`DHParam` as clients expect it: base64 of the PEM."""
        return b64_text(self.pem)

    def wrap(self, dh_param: str, material: bytes) -> str:
        """`Key` for the client whose `DHParam` this is. Raises `CompatError` (`dh-param`)."""
        iv = secrets.token_bytes(_IV)
        return b64_text(iv + AESGCM(_kek(self.private, _peer(dh_param))).encrypt(iv, material, None))


class ExchangeKeys:
    """The current exchange key and the one before it; `now` is a clock that never goes back, in seconds."""

    def __init__(self, now: float) -> None:
        self._current = _fresh(now)
        self._previous: ExchangeKey | None = None

    def current(self, now: float) -> ExchangeKey:
        """The key to hand out."""
        age = now - self._current.since
        if age >= PERIOD:
            self._previous = self._current if age < 2 * PERIOD else None
            self._current = _fresh(now)
        return self._current

    def by_id(self, identity: bytes, now: float) -> ExchangeKey | None:
        """The key of that id while it still opens."""
        return next((key for key in self._living(now) if secrets.compare_digest(key.id, identity)), None)

    def unwrap(self, dh_param: str, wrapped: str, now: float) -> bytes:
        """What a client sealed to one of our keys. Raises `CompatError` (`dh-param`, `import-sealed`, `too-large`)."""
        peer = _peer(dh_param)
        try:
            box = unb64_text(wrapped, limit=MAX_WRAPPED, what="Key")
        except MalformedError as error:
            raise CompatError("too-large" if error.code == "too-large" else "import-sealed", error.message) from None
        for key in self._living(now):
            try:
                return AESGCM(_kek(key.private, peer)).decrypt(box[:_IV], box[_IV:], None)
            except (InvalidTag, ValueError):
                continue
        hint = "ask security/attest for the current DHParam and seal to that"
        raise CompatError("import-sealed", "the key does not open under any exchange key of ours", hint=hint)

    def _living(self, now: float) -> tuple[ExchangeKey, ...]:
        current = self.current(now)
        return (current,) if self._previous is None else (current, self._previous)


def _fresh(now: float) -> ExchangeKey:
    private = ec.generate_private_key(ec.SECP384R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return ExchangeKey(private, pem, hashlib.sha256(pem).digest()[:8], now)


def _peer(dh_param: str) -> ec.EllipticCurvePublicKey:
    hint = "base64 of a P-384 public key as PEM (SubjectPublicKeyInfo)"
    try:
        key = load_pem_public_key(unb64_text(dh_param, limit=MAX_PEM, what="DHParam"))
    except (MalformedError, ValueError, UnsupportedAlgorithm):
        raise CompatError("dh-param", "DHParam is no public key", hint=hint) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise CompatError("dh-param", "DHParam is of another kind", hint=hint)
    return key


def _kek(private: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey) -> bytes:
    return HKDF(hashes.SHA256(), _KEK, None, b"").derive(private.exchange(ec.ECDH(), peer))
