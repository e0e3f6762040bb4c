# SPDX-License-Identifier: Apache-2.0
"""Attestation results for existing clients: a JWT signed RS384, with the key that signed it inside (B §2.4).

The official client checks the token with the very key that the token carries, so to that client it proves nothing: who
can answer it can also sign it. Others may compare `jwk` with the one in the service's own keyset document; the key
lives and ends with this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import RSAKey

__all__ = ["ISSUER", "LIFE", "TokenSigner"]

ISSUER: Final = "Bytedance-Remote-Attestation-Service"  # the one word that the official client accepts
ALGORITHM: Final = "RS384"
LIFE: Final = 300  # seconds
_BITS: Final = 3072


class TokenSigner:
    """One RSA key, made at start."""

    def __init__(self) -> None:
        private = rsa.generate_private_key(65537, _BITS)
        self._key = RSAKey.import_key(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = self._key.as_dict(private=False)
        self.jwk: dict[str, Any] = {"kty": "RSA", "n": public["n"], "e": public["e"], "alg": ALGORITHM}

    def result(
        self, *, report_data: bytes, policies: list[str], claims: Mapping[str, Any], evidence_sha256: str, now: int
    ) -> str:
        """An attestation result for accepted evidence over 64 bytes of report data. `policies` is not empty."""
        body = {
            "iss": ISSUER,
            "iat": now,
            "nbf": now,
            "exp": now + LIFE,
            "tdx": {"report_data": report_data.hex()},  # by this name for every TEE: the client reads no other
            "policies_matched": policies,
            "jwk": self.jwk,
            "evidence_sha256": evidence_sha256,
            "tee": claims.get("tee", ""),
            "simulated": bool(claims.get("simulated", True)),
        }
        return jwt.encode({"alg": ALGORITHM, "typ": "JWT"}, body, self._key, algorithms=[ALGORITHM])
