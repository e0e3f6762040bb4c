# SPDX-License-Identifier: Apache-2.0
"""Attestation-key certificates as they come out of a TPM's non-volatile memory: DER, or PEM, often with zeros behind.

An NV index has a fixed size, so a certificate read from it is padded (3,087 zero bytes in one genuine capture). The
padding is counted and stripped; anything else after a certificate is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from teehouse_core.errors import MalformedError

__all__ = ["AkChain", "parse_ak_chain"]

MAX_CHAIN: Final = 64 * 1024  # bytes of text or DER
MAX_CERTIFICATES: Final = 5  # leaf, three intermediates, root
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class AkChain:
    """Certificates in the order given, leaf first; `padding` counts the zero bytes that stood behind them."""

    certificates: tuple[x509.Certificate, ...]
    padding: int


def parse_ak_chain(raw: bytes) -> AkChain:
    """Read PEM texts one after another, or one DER certificate after another. Raises `MalformedError` (`ak-chain`)."""
    if not 0 < len(raw) <= MAX_CHAIN:
        raise MalformedError(f"an AK chain has 1 to {MAX_CHAIN} bytes", code="ak-chain")
    blobs = [_unb64(body) for body in _PEM.findall(raw)] if b"-----BEGIN" in raw else [raw]
    if b"-----" in _PEM.sub(b"", raw if b"-----BEGIN" in raw else b""):  # RFC 7468 §2 allows text between the blocks
        raise MalformedError("a PEM block is cut, or is no certificate", code="ak-chain")
    certificates: list[x509.Certificate] = []
    padding = 0
    for blob in blobs:
        while blob:
            if not blob.strip(b"\0"):
                padding += len(blob)
                break
            size = _der_size(blob)
            if len(certificates) == MAX_CERTIFICATES:
                raise MalformedError(f"more than {MAX_CERTIFICATES} certificates", code="ak-chain")
            certificates.append(_load(blob[:size]))
            blob = blob[size:]
    if not certificates:
        raise MalformedError("no certificate", code="ak-chain")
    return AkChain(tuple(certificates), padding)


def _der_size(blob: bytes) -> int:
    """Bytes of the DER SEQUENCE that `blob` starts with; a certificate has a length of two bytes (82 xx xx)."""
    size = 4 + int.from_bytes(blob[2:4], "big")
    if blob[:2] != b"\x30\x82" or size > len(blob):
        raise MalformedError("not a certificate in DER", code="ak-chain")
    return size


def _load(der: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        _ = certificate.extensions
    except Exception:  # the certificate library raises more than ValueError on hostile bytes
        raise MalformedError("a certificate does not parse", code="ak-chain") from None
    return certificate


def _unb64(body: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except (ValueError, binascii.Error):
        raise MalformedError("a certificate is not base64", code="ak-chain") from None
