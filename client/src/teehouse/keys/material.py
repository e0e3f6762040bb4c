# SPDX-License-Identifier: Apache-2.0
"""Key bytes that a tenant brings: read here, so that a wrong file is refused before anything is sealed or signed."""

from __future__ import annotations

import hashlib
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

from teehouse_core.errors import LocalError
from teehouse_core.wire.labels import hash_label

__all__ = ["ALGORITHMS", "IMPORTABLE", "read_material"]

ALGORITHMS: Final = ("mlkem768x25519", "p256", "rsa4096", "aes256", "aes128")
IMPORTABLE: Final = ("p256", "rsa4096", "aes256", "aes128")  # a sealed/1 session key is made inside, never imported
_AES: Final = {"aes256": 32, "aes128": 16}  # bytes


def read_material(algorithm: str, data: bytes) -> tuple[bytes, str]:
    """Key bytes in the form the service takes, and their `public_sha256` (spec/07-keys.md §3).

    Symmetric keys are raw bytes; the others PKCS#8 in DER or PEM without a password. Raises `LocalError`.
    """
    if algorithm in _AES:
        if len(data) != _AES[algorithm]:
            hint = f"it has {len(data)} bytes; the file holds the raw key"
            raise LocalError(f"an {algorithm} key has {_AES[algorithm]} bytes", code="key-file", hint=hint)
        return data, hash_label("key check", algorithm.encode("ascii"), b"\0", data).hex()
    if algorithm not in IMPORTABLE:
        raise LocalError(f"{algorithm} is not imported", code="key-file", hint=f"one of {', '.join(IMPORTABLE)}")
    loader = load_pem_private_key if data.lstrip().startswith(b"-----BEGIN") else load_der_private_key
    try:
        key = loader(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise LocalError(
            "this is no private key without a password", code="key-file", hint="PKCS#8 in PEM or DER"
        ) from None
    fits = (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        if algorithm == "p256"
        else isinstance(key, rsa.RSAPrivateKey) and key.key_size == 4096
    )
    if not fits or not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise LocalError(f"this is no {algorithm} key", code="key-file")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return secret, hashlib.sha256(public).hexdigest()
