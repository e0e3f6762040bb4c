# SPDX-License-Identifier: Apache-2.0
"""The keys of one exchange (PROTOCOL §3.2, §4, §7); labels and order exactly as there."""

from __future__ import annotations

from dataclasses import dataclass, field

from teehouse_core.seal.suite import kdf, mac
from teehouse_core.wire.labels import L

__all__ = [
    "BodyKeys",
    "ExchangeSecrets",
    "body_keys",
    "cache_scope",
    "candidate_commit",
    "envelope_info",
    "salted_commit",
]


@dataclass(frozen=True, slots=True)
class BodyKeys:
    """k_req ‖ n_req ‖ cek_commit, all from CEK alone."""

    key: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    commit: bytes


def body_keys(cek: bytes) -> BodyKeys:
    """KDF(CEK, "", "request", 76)."""
    out = kdf(cek, b"", "request", 76)
    return BodyKeys(out[:32], out[32:44], out[44:])


def cache_scope(cache_secret: bytes, keyset_digest: bytes) -> bytes:
    """S_i: what a node may use to tell one caller's prefix cache from another's."""
    return kdf(cache_secret, keyset_digest, "cache scope", 32)


def candidate_commit(r: bytes, s: bytes) -> bytes:
    """commit_i = KDF(R_i ‖ S_i, "", "candidate", 32)."""
    return kdf(r + s, b"", "candidate", 32)


def envelope_info(th: bytes, index: int) -> bytes:
    """HPKE info = L("request") ‖ th ‖ u8 i."""
    return L("request") + th + bytes([index])


@dataclass(frozen=True, slots=True)
class ExchangeSecrets:
    """What both ends of one answer share: R_i, th, i and the response nonce."""

    r: bytes = field(repr=False)
    th: bytes
    index: int
    response_nonce: bytes

    def _context(self) -> bytes:
        return self.th + bytes([self.index]) + self.response_nonce

    def response_keys(self) -> tuple[bytes, bytes]:
        """k_res, n_res = KDF(R_i, th ‖ u8 i ‖ response_nonce, "response", 44)."""
        out = kdf(self.r, self._context(), "response", 44)
        return out[:32], out[32:]

    def receipt_salt(self) -> bytes:
        """KDF(R_i, th ‖ u8 i ‖ response_nonce, "receipt salt", 32)."""
        return kdf(self.r, self._context(), "receipt salt", 32)


def salted_commit(salt: bytes, tag: int, *parts: bytes) -> bytes:
    """HMAC-SHA256(salt, u8 tag ‖ parts…): the request (0) and response (1) commitments of a receipt."""
    return mac(salt, bytes([tag]), *parts)
