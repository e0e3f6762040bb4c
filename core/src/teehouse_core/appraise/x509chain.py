# SPDX-License-Identifier: Apache-2.0
"""Certificate chains and CRLs, link by link, at a given time, under a given root.

By hand rather than through a general path builder: vendor chains are three fixed links, the vendors' profiles are not
the web's (no names to match, critical extensions of their own), and each failed link must be nameable.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.errors import MalformedError

__all__ = [
    "chain_end",
    "crl_problem",
    "issued_by",
    "link_problem",
    "load_pem_chain",
    "p256_from_raw",
    "signed_by",
    "verify_raw",
    "verify_raw_p384",
]

MAX_REMEMBERED: Final = 512  # links and signatures, with certificates of about 1 KiB
MAX_CERTIFICATES: Final = 4  # leaf, intermediate, root; one to spare
_HASHES: Final = {algorithm.name: algorithm for algorithm in (hashes.SHA256, hashes.SHA384, hashes.SHA512)}


def load_pem_chain(pem: bytes, limit: int = MAX_CERTIFICATES) -> tuple[x509.Certificate, ...]:
    """Certificates of a PEM text, leaf first; one trailing zero byte is allowed, as Intel's quotes have it.

    Raises `MalformedError` (`certificate-chain`).
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem.removesuffix(b"\0")))
    except (ValueError, x509.InvalidVersion):
        raise MalformedError("certificate chain does not parse", code="certificate-chain") from None
    if not 1 <= len(chain) <= limit:
        raise MalformedError(f"chain has {len(chain)} certificates", code="certificate-chain")
    return chain


def link_problem(chain: Sequence[x509.Certificate], root: x509.Certificate, now: int, *, links: int) -> str | None:
    """Why `chain` (leaf first) does not lead to exactly `root` at `now` in `links` signatures, or None when it does.

    The chain may end with the root itself, byte for byte. Revocation is not checked here.
    """
    if chain[-1].public_bytes(Encoding.DER) == root.public_bytes(Encoding.DER):
        chain = chain[:-1]
    if any(c.subject == c.issuer for c in chain):
        return "the chain ends in another root than the pinned one"
    if len(chain) != links:
        return f"the chain has {len(chain)} certificates below the root, not {links}"
    path = [*chain, root]
    at = datetime.fromtimestamp(now, tz=UTC)
    for below, (child, issuer) in enumerate(pairwise(path)):
        if problem := _issuer_problem(issuer, below):
            return problem
        if not issued_by(child, issuer):
            return f"certificate {below} is not signed by the one above it"
    for certificate in path:
        if not certificate.not_valid_before_utc <= at < certificate.not_valid_after_utc:
            return "a certificate is outside its validity at the appraisal time"
    if _is_ca(chain[0]):
        return "the leaf is a CA"
    return None


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def issued_by(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer`'s name and key signed `child`, and nothing else: no date, no use, no revocation.

    Remembered, since that never changes and the devices of one machine share most of their chains. Certificates are
    equal only byte for byte.
    """
    try:
        child.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def signed_by(certificate: x509.Certificate, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    """Whether `signature` (DER) over `data` is an ECDSA one by `certificate`'s key; False for any other kind of key.

    Remembered like `issued_by`: for texts that come again with other evidence, as manifests and revocation answers do.
    """
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return _signed_digest(certificate, signature, digest.finalize(), algorithm.name)


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def _signed_digest(certificate: x509.Certificate, signature: bytes, digest: bytes, algorithm: str) -> bool:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, digest, ec.ECDSA(Prehashed(_HASHES[algorithm]())))
    except InvalidSignature:
        return False
    return True


def chain_end(chain: Sequence[x509.Certificate]) -> int:
    """The earliest notAfter of the chain, Unix seconds."""
    return min(int(c.not_valid_after_utc.timestamp()) for c in chain)


def crl_problem(
    crl: x509.CertificateRevocationList, issuer: x509.Certificate, certificates: Sequence[x509.Certificate], now: int
) -> str | None:
    """Why this CRL of `issuer` does not clear `certificates` at `now`, or None when it does."""
    if crl.issuer != issuer.subject:
        return "the CRL is another issuer's"
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not crl.is_signature_valid(key):
        return "the CRL's signature is wrong"
    if crl.next_update_utc is None:
        return "the CRL names no next update"
    if not crl.last_update_utc <= datetime.fromtimestamp(now, tz=UTC) < crl.next_update_utc:
        return "the CRL is not current at the appraisal time"
    for certificate in certificates:
        if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            return "a certificate is revoked"
    return None


def p256_from_raw(point: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 key from x ‖ y. Raises `MalformedError` (`public-key`) when it is not on the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        raise MalformedError("the key is not a P-256 point", code="public-key") from None


def verify_raw(key: object, signature: bytes, data: bytes) -> bool:
    """Whether r ‖ s is an ECDSA P-256 SHA-256 signature of `data` by `key`; False for any other kind of key."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return False
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def verify_raw_p384(key: object, signature: bytes, data: bytes) -> bool:
    """Whether r ‖ s (96 bytes) is an ECDSA P-384 SHA-384 signature of `data` by `key`; False for any other key."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    if len(signature) != 96:
        return False
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


def _issuer_problem(issuer: x509.Certificate, below: int) -> str | None:
    """`below` counts the CA certificates between this issuer and the leaf."""
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return "an issuer does not say what it may do"
    if not constraints.ca or not usage.key_cert_sign:
        return "an issuer is not a CA"
    if constraints.path_length is not None and constraints.path_length < below:
        return "the chain is longer than an issuer allows"
    return None


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
