# SPDX-License-Identifier: Apache-2.0
"""AMD's three links by hand: leaf (VCEK, VLEK) ← ASK or ASVK ← the pinned ARK of one product line; and the ARK's CRL.

RSASSA-PSS with SHA-384 and leaves numbered 0 are outside the profile of general path builders. Each function judges
one thing, so that each failed link has its own check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from teehouse_core.appraise.newest import number_of
from teehouse_core.appraise.roots_amd import AmdRoot
from teehouse_core.errors import MalformedError
from teehouse_core.evidence import der
from teehouse_core.evidence.amdcert import PSS_SHA384, AmdCertificate, AmdLeaf, parse_certificate, parse_leaf

__all__ = ["AmdChain", "Revocation", "chain_problem", "dates_problem", "find_chain", "report_signed_by", "revocation"]

Kind = Literal["VCEK", "VLEK"]

RSA_BITS: Final = 4096  # AMD's root and intermediate keys
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_KEY_USAGE: Final = "2.5.29.15"
_KEY_CERT_SIGN: Final = 0x04  # bit 5 of the BIT STRING's first byte, counted from the left
_CRL_SIGN: Final = 0x02  # bit 6


@dataclass(frozen=True, slots=True)
class AmdChain:
    """The certificates a leaf names; nothing is verified yet. `product` is that of the pinned root."""

    leaf: AmdCertificate
    signer: AmdCertificate
    root: AmdCertificate
    product: str
    kind: Kind
    claims: AmdLeaf

    @property
    def names(self) -> str:
        return f"{self.leaf.common_name} < {self.signer.common_name} < {self.root.common_name}"

    @property
    def ends(self) -> int:
        """The earliest notAfter, Unix seconds."""
        return min(c.not_after for c in (self.leaf, self.signer, self.root))


@dataclass(frozen=True, slots=True)
class Revocation:
    """`unknown` when no current list of this root was supplied; `until` is the list's nextUpdate when `good`,
    `number` its CRL number if it has one, `issued` its thisUpdate."""

    state: Literal["good", "revoked", "unknown"]
    reason: str
    until: int | None = None
    number: int | None = None
    issued: int = 0


def find_chain(vcek: bytes, chain: Sequence[bytes], roots: Mapping[str, AmdRoot]) -> AmdChain:
    """Parse the leaf and find its signer by name: in `chain` when one is supplied, among the shipped ones otherwise.

    Raises `MalformedError`: `der`, `amd-certificate`, `amd-extension`, or `amd-chain` when the leaf names no signer of
    AMD's or the supplied chain is not this leaf's.
    """
    leaf = parse_certificate(vcek)
    for root in roots.values():
        signers: tuple[tuple[bytes, Kind], ...] = ((root.ask, "VCEK"), (root.asvk, "VLEK"))
        for shipped, kind in signers:
            signer = _shipped(shipped)
            if signer.subject == leaf.issuer:
                if chain:
                    signer = _supplied(chain, leaf, root)
                return AmdChain(leaf, signer, _shipped(root.ark), root.product, kind, parse_leaf(leaf))
    raise MalformedError("the leaf names no AMD signing key", code="amd-chain")


def chain_problem(chain: AmdChain) -> str | None:
    """Why the two signatures do not lead from the leaf to the pinned root, or None when they do."""
    if chain.claims.kind != chain.kind:
        return f"a {chain.claims.kind} certificate under the key that signs {chain.kind} certificates"
    for issuer, depth in ((chain.signer, 0), (chain.root, 1)):
        if problem := _issuer_problem(issuer, depth):
            return problem
    if _BASIC_CONSTRAINTS in chain.leaf.extensions:
        return "the leaf claims to be a CA"
    if chain.signer.issuer != chain.root.subject or not _signed(chain.signer, chain.root):
        return "the intermediate is not signed by the pinned root"
    if not _signed(chain.leaf, chain.signer):
        return "the leaf is not signed by the intermediate"
    return None


def dates_problem(chain: AmdChain, now: int) -> str | None:
    """The first certificate that is outside its validity at `now`, or None."""
    for certificate in (chain.leaf, chain.signer, chain.root):
        if not certificate.not_before <= now < certificate.not_after:
            return f"{certificate.common_name} is outside its validity at the appraisal time"
    return None


def revocation(chain: AmdChain, crl: bytes | None, now: int) -> Revocation:
    """Whether the root's list says anything of the intermediate at `now`.

    AMD lists what a root signed; a leaf has no list. Raises `MalformedError` (`amd-crl`) for a list that is not this
    root's, or not signed by it: that is no missing information but somebody's work.
    """
    if crl is None:
        return Revocation("unknown", "no revocation list was supplied")
    listed = _crl(crl, chain.root)
    # A serial number once listed stays revoked, however old the list.
    if listed.get_revoked_certificate_by_serial_number(chain.signer.serial) is not None:
        return Revocation("revoked", f"{chain.signer.common_name} is revoked")
    if listed.next_update_utc is None:
        return Revocation("unknown", "the revocation list has no next update")
    start, end = int(listed.last_update_utc.timestamp()), int(listed.next_update_utc.timestamp())
    if not start <= now < end:
        return Revocation("unknown", f"the revocation list is of {start} to {end}, not of the appraisal time")
    return Revocation("good", f"not on the list of {start} to {end}", end, number_of(listed), start)


def report_signed_by(leaf: AmdCertificate, r: bytes, s: bytes, signed: bytes) -> bool:
    """Whether little-endian r, s are an ECDSA P-384 SHA-384 signature of `signed` by the leaf's key."""
    key = _key(leaf.public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    signature = encode_dss_signature(int.from_bytes(r, "little"), int.from_bytes(s, "little"))
    try:
        key.verify(signature, signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=64)  # the shipped ones; a pure function of its argument
def _shipped(data: bytes) -> AmdCertificate:
    return parse_certificate(data)


@lru_cache(maxsize=64)  # as above; loading a key costs more than verifying with it
def _key(spki: bytes) -> object:
    try:
        return load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        return None


def _supplied(chain: Sequence[bytes], leaf: AmdCertificate, root: AmdRoot) -> AmdCertificate:
    """The one certificate in `chain` that the leaf names; everything else there must be the leaf or the pinned root."""
    found: AmdCertificate | None = None
    for data in chain:
        if data in (root.ark, leaf.raw):
            continue
        certificate = parse_certificate(data)
        if certificate.subject != leaf.issuer or found is not None:
            raise MalformedError(f"the chain holds {certificate.common_name}, which is not its place", code="amd-chain")
        found = certificate
    if found is None:
        raise MalformedError("the chain lacks the certificate that signed the leaf", code="amd-chain")
    return found


def _signed(child: AmdCertificate, issuer: AmdCertificate) -> bool:
    return _pss(issuer, child.signature_algorithm, child.signature, child.tbs)


def _pss(issuer: AmdCertificate, algorithm: bytes, signature: bytes, data: bytes) -> bool:
    key = _key(issuer.public_key)
    if algorithm not in PSS_SHA384 or not isinstance(key, rsa.RSAPublicKey) or key.key_size != RSA_BITS:
        return False
    try:
        key.verify(signature, data, _PSS, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def _issuer_problem(issuer: AmdCertificate, below: int) -> str | None:
    """`below` counts the CA certificates between this issuer and the leaf."""
    _, constraints = issuer.extensions.get(_BASIC_CONSTRAINTS, (False, b""))
    outer = der.children(constraints)
    members = der.children(outer[0][1]) if len(outer) == 1 and outer[0][0] == der.SEQUENCE else ()
    if not members or members[0] != (der.BOOLEAN, b"\xff"):
        return f"{issuer.common_name} is not a CA"
    if len(members) > 1 and int.from_bytes(members[1][1], "big") < below:
        return "the chain is longer than an issuer allows"
    if not _usage(issuer) & _KEY_CERT_SIGN:
        return f"{issuer.common_name} may not sign certificates"
    return None


def _usage(certificate: AmdCertificate) -> int:
    """The first byte of the key usage bits, 0 when there is none."""
    _, content = certificate.extensions.get(_KEY_USAGE, (False, b""))
    bits = der.children(content)
    return bits[0][1][1] if len(bits) == 1 and bits[0][0] == 0x03 and len(bits[0][1]) > 1 else 0


def _crl(data: bytes, root: AmdCertificate) -> x509.CertificateRevocationList:
    outer = der.children(data)
    parts = der.elements(outer[0][1]) if len(outer) == 1 and outer[0][0] == der.SEQUENCE else ()
    if len(parts) != 3:
        raise MalformedError("the revocation list is not DER", code="amd-crl")
    try:
        listed = x509.load_der_x509_crl(data)
        issuer, signature = listed.issuer.public_bytes(), listed.signature
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError("the revocation list does not parse", code="amd-crl") from None
    if issuer != root.subject:
        raise MalformedError("the revocation list is another root's", code="amd-crl")
    if not _usage(root) & _CRL_SIGN or not _pss(root, parts[1][2], signature, parts[0][2]):
        raise MalformedError("the revocation list is not signed by the pinned root", code="amd-crl")
    return listed
