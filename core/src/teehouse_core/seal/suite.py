# SPDX-License-Identifier: Apache-2.0
"""HPKE and key derivation of sealed/1, all of it the `cryptography` package's (PROTOCOL §1, RFC 9180)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    MLKEM1024P384PrivateKey,
    MLKEM1024P384PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.labels import L
from teehouse_core.wire.suites import DEFAULT_SUITE, HIGH_SUITE, SUITES

__all__ = ["SealingKey", "generate_key", "hpke_open", "hpke_seal", "kdf", "key_from_seed", "mac"]

_PrivateKey = MLKEM768X25519PrivateKey | MLKEM1024P384PrivateKey
_PublicKey = MLKEM768X25519PublicKey | MLKEM1024P384PublicKey
_MLKEM_PK = {DEFAULT_SUITE: 1184, HIGH_SUITE: 1568}  # bytes of the ML-KEM part, which comes first

_HPKE = {
    DEFAULT_SUITE: Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM),
    HIGH_SUITE: Suite(KEM.MLKEM1024_P384, KDF.HKDF_SHA384, AEAD.AES_256_GCM),
}


def kdf(ikm: bytes, salt: bytes, label: str, length: int) -> bytes:
    """KDF(ikm, salt, s, n) of PROTOCOL §1: HKDF-SHA256 extract-and-expand with info L(s)."""
    return HKDF(hashes.SHA256(), length, salt or None, L(label)).derive(ikm)


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA256 over the joined parts, 32 bytes."""
    state = hmac.HMAC(key, hashes.SHA256())
    for part in parts:
        state.update(part)
    return state.finalize()


@functools.lru_cache(maxsize=256)  # parsing a hybrid key costs more than sealing a record
def _load_public(suite: str, pk: bytes) -> _PublicKey:
    cut = _MLKEM_PK[suite]
    try:
        if suite == DEFAULT_SUITE:
            return MLKEM768X25519PublicKey(
                mlkem.MLKEM768PublicKey.from_public_bytes(pk[:cut]),
                x25519.X25519PublicKey.from_public_bytes(pk[cut:]),
            )
        return MLKEM1024P384PublicKey(
            mlkem.MLKEM1024PublicKey.from_public_bytes(pk[:cut]),
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), pk[cut:]),
        )
    except ValueError:
        raise MalformedError("public key does not parse", code="public-key") from None


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A private key with the public bytes (ML-KEM part ‖ curve part) that a keyset carries; it has no export."""

    suite: str
    pk: bytes
    private: _PrivateKey = field(repr=False)


def generate_key(suite: str = DEFAULT_SUITE) -> SealingKey:
    """A fresh key pair; the private half lives in this process only. Raises LocalError for an unknown suite."""
    if suite == DEFAULT_SUITE:
        return _hybrid_768(mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate())
    if suite == HIGH_SUITE:
        return _hybrid_1024(mlkem.MLKEM1024PrivateKey.generate(), ec.generate_private_key(ec.SECP384R1()))
    raise LocalError("unknown suite", code="unknown-suite", hint=f"one of {', '.join(SUITES)}")


def key_from_seed(seed: bytes, suite: str = DEFAULT_SUITE) -> SealingKey:
    """A key pair from 64 ML-KEM and 32 X25519 (or 48 P-384) secret bytes: for published test vectors only."""
    if len(seed) != {DEFAULT_SUITE: 96, HIGH_SUITE: 112}.get(suite):
        raise LocalError("a test key seed has 96 bytes, or 112 for the high suite", code="wrong-length")
    if suite == DEFAULT_SUITE:
        return _hybrid_768(
            mlkem.MLKEM768PrivateKey.from_seed_bytes(seed[:64]), x25519.X25519PrivateKey.from_private_bytes(seed[64:])
        )
    curve = ec.derive_private_key(int.from_bytes(seed[64:], "big"), ec.SECP384R1())
    return _hybrid_1024(mlkem.MLKEM1024PrivateKey.from_seed_bytes(seed[:64]), curve)


def _hybrid_768(kem: mlkem.MLKEM768PrivateKey, curve: x25519.X25519PrivateKey) -> SealingKey:
    pk = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return SealingKey(DEFAULT_SUITE, pk, MLKEM768X25519PrivateKey(kem, curve))


def _hybrid_1024(kem: mlkem.MLKEM1024PrivateKey, curve: ec.EllipticCurvePrivateKey) -> SealingKey:
    point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return SealingKey(HIGH_SUITE, kem.public_key().public_bytes_raw() + point, MLKEM1024P384PrivateKey(kem, curve))


def hpke_seal(suite: str, pk: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Base-mode one-shot Seal with empty AAD; gives enc ‖ ciphertext. Raises MalformedError for a bad key."""
    try:
        return _HPKE[suite].encrypt(plaintext, _load_public(suite, pk), info)
    except ValueError:  # a curve point of small order: a shared secret that anybody knows
        raise MalformedError("public key does not parse", code="public-key") from None


def hpke_open(key: SealingKey, info: bytes, sealed: bytes) -> bytes:
    """Open what `hpke_seal` made. Raises MalformedError when it does not authenticate."""
    try:
        return _HPKE[key.suite].decrypt(sealed, key.private, info)
    except (InvalidTag, ValueError):
        raise MalformedError("envelope does not open", code="envelope") from None
