# SPDX-License-Identifier: Apache-2.0
"""The five algorithms: making keys, reading imported ones strictly, and the public part of each (spec/07-keys.md §3).

| algorithm | key bytes | public part |
| mlkem768x25519 | 32-byte seed of X-Wing (HPKE KEM 0x647a) | 1216 bytes, ML-KEM part ‖ X25519 part |
| p256, rsa4096 | PKCS#8 DER, no password | SubjectPublicKeyInfo DER |
| aes256, aes128 | 32, 16 bytes | none; `public_sha256` is a check value |

All arithmetic is the `cryptography` package's. Errors never carry bytes of what was read.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from teehouse_core.seal.suite import SealingKey, key_from_seed
from teehouse_core.wire.labels import hash_label
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.model import ALGORITHMS

__all__ = ["MAX_IMPORT", "Material", "generate", "read_key_bytes", "sealing_key"]

MAX_IMPORT: Final = 16 * 1024  # bytes of a key in the clear; RSA-4096 in PEM has 3.3 KiB
RSA_BITS: Final = 4096
RSA_EXPONENT: Final = 65537
_SEED: Final = 32  # bytes of an X-Wing private key
_AES: Final = {"aes256": 32, "aes128": 16}  # bytes
_FEW: Final = 5  # distinct byte values; 16 random bytes have so few with probability below 2^-60
_CLOSE: Final = RSA_BITS // 2 - 100  # bits by which p and q must differ, FIPS 186-5 A.1.3
Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Material:
    """One version's key bytes with their public part."""

    algorithm: str
    secret: bytes = field(repr=False)
    public: bytes = field(repr=False)
    public_sha256: str


def generate(algorithm: str, random: Random = secrets.token_bytes) -> Material:
    """A fresh key. RSA takes seconds, so not on an event loop. `random` serves seeds and AES keys only."""
    if algorithm in _AES:
        return _material(algorithm, random(_AES[algorithm]), b"")
    if algorithm == "mlkem768x25519":
        seed = random(_SEED)
        return _material(algorithm, seed, sealing_key(seed).pk)
    if algorithm == "p256":
        return _asymmetric(algorithm, ec.generate_private_key(ec.SECP256R1()))
    if algorithm == "rsa4096":
        return _asymmetric(algorithm, rsa.generate_private_key(RSA_EXPONENT, RSA_BITS))
    raise KeysError("wrong-algorithm", "no such algorithm", hint=f"one of {', '.join(ALGORITHMS)}")


def read_key_bytes(algorithm: str, data: bytes) -> Material:
    """Validate key bytes from outside. PEM (PKCS#8, PKCS#1, SEC1) is taken as well and stored as PKCS#8 DER.

    Raises `KeysError`: `import-too-large`, `wrong-algorithm` (another kind or size of key), `weak-key`,
    `import-mismatch` (no key at all).
    """
    if len(data) > MAX_IMPORT:
        raise KeysError("import-too-large", "the key is too large", hint=f"at most {MAX_IMPORT} bytes")
    if algorithm in _AES:
        if len(data) != _AES[algorithm]:
            raise KeysError("wrong-algorithm", f"an {algorithm} key has {_AES[algorithm]} bytes")
        if len(set(data)) <= _FEW:
            raise KeysError("weak-key", "the key is not random", hint="draw it from a random generator")
        return _material(algorithm, data, b"")
    if algorithm == "mlkem768x25519":
        if len(data) != _SEED:
            raise KeysError("wrong-algorithm", f"an X-Wing private key has {_SEED} bytes")
        if len(set(data)) <= _FEW:
            raise KeysError("weak-key", "the key is not random", hint="draw it from a random generator")
        return _material(algorithm, data, sealing_key(data).pk)
    if algorithm not in ALGORITHMS:
        raise KeysError("wrong-algorithm", "no such algorithm", hint=f"one of {', '.join(ALGORITHMS)}")
    return _asymmetric(algorithm, _load(algorithm, data))


def sealing_key(seed: bytes) -> SealingKey:
    """The sealed/1 key pair of an X-Wing seed: SHAKE256(seed, 96) = ML-KEM seed ‖ X25519 scalar."""
    return key_from_seed(hashlib.shake_256(seed).digest(96))


def _load(algorithm: str, data: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    loader = load_pem_private_key if data.lstrip().startswith(b"-----BEGIN") else load_der_private_key
    try:
        key = loader(data, None)
    except UnsupportedAlgorithm:
        raise KeysError("wrong-algorithm", f"this is no {algorithm} key") from None
    except (ValueError, TypeError):  # TypeError: it has a password
        hint = "PKCS#8 in DER or PEM, without a password"
        raise KeysError("import-mismatch", "this is no private key, or one whose parts contradict", hint=hint) from None
    if algorithm == "p256" and isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if algorithm == "rsa4096" and isinstance(key, rsa.RSAPrivateKey):
        _check_rsa(key)
        return key
    raise KeysError("wrong-algorithm", f"this is no {algorithm} key")


def _check_rsa(key: rsa.RSAPrivateKey) -> None:
    if key.key_size != RSA_BITS:
        code = "weak-key" if key.key_size < RSA_BITS else "wrong-algorithm"
        raise KeysError(code, f"the modulus has {key.key_size} bits", hint=f"exactly {RSA_BITS}")
    numbers = key.private_numbers()
    if numbers.public_numbers.e != RSA_EXPONENT:
        raise KeysError("weak-key", "the public exponent is unusual", hint=f"use {RSA_EXPONENT}")
    if abs(numbers.p - numbers.q).bit_length() <= _CLOSE:
        raise KeysError("weak-key", "the primes lie too close together")


def _asymmetric(algorithm: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Material:
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _material(algorithm, secret, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _material(algorithm: str, secret: bytes, public: bytes) -> Material:
    """A symmetric key's `public_sha256` = SHA-256(L("key check") ‖ algorithm ‖ 00 ‖ key): harmless for random keys."""
    if public:
        digest = hashlib.sha256(public).digest()
    else:
        digest = hash_label("key check", algorithm.encode("ascii"), b"\0", secret)
    return Material(algorithm, secret, public, digest.hex())
