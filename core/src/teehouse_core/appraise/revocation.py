# SPDX-License-Identifier: Apache-2.0
"""Whether a certificate is revoked, from stapled OCSP responses and CRLs: good, revoked, on hold, or unknown.

Three-valued on purpose: what nobody answered for is unknown, never good. An answer counts only when it is about this
serial number and this issuer, signed by the issuer or by a responder that the issuer itself appointed (RFC 6960
§4.2.2.2), within its own window and not older than the policy's maximum. An answer that does not count leaves the
status unknown and says why; of several that count, the worst wins.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from teehouse_core.appraise.x509chain import issued_by, signed_by
from teehouse_core.evidence import der

__all__ = ["RevocationPack", "RevocationState", "Status", "worst"]

RevocationState = Literal["good", "unknown", "hold", "revoked"]

MAX_REMEMBERED: Final = 512  # certificates of about 1 KiB
MAX_RESPONDERS: Final = 4  # certificates in one response
MAX_SIGNATURE: Final = 256  # bytes; ECDSA over the largest curve needs under 150
_RANK: Final[dict[RevocationState, int]] = {"good": 0, "unknown": 1, "hold": 2, "revoked": 3}
_HASHES: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384}  # of certificate ids only
_SIGNATURE_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class Status:
    """`detail` says why for people; `end` is the Unix second at which this answer stops counting."""

    state: RevocationState
    detail: str
    end: int | None = None


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of several statuses; unknown when there is none. Its end is the earliest of all."""
    found = list(statuses)
    if not found:
        return Status("unknown", "no certificate was asked about")
    chosen = max(found, key=lambda status: _RANK[status.state])
    return Status(chosen.state, chosen.detail, min((s.end for s in found if s.end is not None), default=None))


class RevocationPack:
    """Every stapled answer of one appraisal, indexed by serial number; statuses are remembered.

    What does not parse is left out and counted in `unreadable`.
    """

    def __init__(
        self,
        responses: Sequence[bytes],
        crls: Sequence[bytes],
        now: int,
        max_age: int,
    ) -> None:
        self._now = now
        self._max_age = max_age  # seconds since an answer was made
        self._known: dict[tuple[bytes, bytes], Status] = {}
        self._answers: dict[int, list[tuple[ocsp.OCSPResponse, ocsp.OCSPSingleResponse]]] = {}
        self._crls: list[x509.CertificateRevocationList] = []
        self.unreadable = 0
        for data in responses:
            try:
                response = ocsp.load_der_ocsp_response(data)
                if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
                    raise ValueError("no answer")
                (single,) = response.responses  # one each: bounds how many signatures a pack can make us verify
                self._answers.setdefault(single.serial_number, []).append((response, single))
            except Exception:  # as in Sheet.run: certificate libraries raise more than ValueError on hostile bytes
                self.unreadable += 1
        for data in crls:
            try:
                self._crls.append(x509.load_der_x509_crl(data))
            except Exception:
                self.unreadable += 1

    def status(self, certificate: x509.Certificate, issuer: x509.Certificate) -> Status:
        """What the answers say about `certificate`, issued by `issuer` (whose own standing is not checked here)."""
        key = (certificate.public_bytes(Encoding.DER), issuer.public_bytes(Encoding.DER))
        if key not in self._known:
            self._known[key] = self._ask(certificate, issuer)
        return self._known[key]

    def chain(self, path: Sequence[x509.Certificate]) -> Status:
        """The worst status along `path`, each certificate issued by the next; the last one is not asked about."""
        return worst(self.status(child, issuer) for child, issuer in pairwise(path))

    def _ask(self, certificate: x509.Certificate, issuer: x509.Certificate) -> Status:
        found: list[Status] = []
        reason = "no OCSP response or CRL is stapled for it"
        for response, single in self._answers.get(certificate.serial_number, ()):
            try:
                problem = self._ocsp_problem(response, single, issuer)
                answer = None if problem else self._ocsp_answer(certificate, single)
            except Exception:
                problem, answer = "its OCSP response is malformed", None
            if answer is not None:
                found.append(answer)
            reason = problem or reason
        for crl in self._crls:
            try:
                problem, answer = self._crl_answer(crl, certificate, issuer)
            except Exception:
                problem, answer = "its issuer's CRL is malformed", None
            if answer is not None:
                found.append(answer)
            reason = problem or reason
        return worst(found) if found else Status("unknown", f"{_name(certificate)}: {reason}")

    def _ocsp_problem(
        self, response: ocsp.OCSPResponse, single: ocsp.OCSPSingleResponse, issuer: x509.Certificate
    ) -> str | None:
        digest = _HASHES.get(single.hash_algorithm.name)
        if digest is None:
            return "its OCSP response names the issuer by an unknown hash"
        name, key = digest(issuer.subject.public_bytes()).digest(), digest(_key_bits(issuer)).digest()
        if not hmac.compare_digest(single.issuer_name_hash, name):
            return "its OCSP response is about another issuer's certificate"
        if not hmac.compare_digest(single.issuer_key_hash, key):
            return "its OCSP response is about another issuer's certificate"
        if (signer := self._signer(response, issuer)) is None:
            return "its OCSP response is signed by nobody whom the issuer appointed"
        if not _signature_holds(response, signer):
            return "its OCSP response has a wrong signature"
        return self._window_problem(single.this_update_utc, single.next_update_utc, "OCSP response")

    def _signer(self, response: ocsp.OCSPResponse, issuer: x509.Certificate) -> x509.Certificate | None:
        """The issuer itself, or the certificate in the response that the issuer made for signing OCSP responses."""
        if _is_responder(response, issuer):
            return issuer
        for certificate in response.certificates[:MAX_RESPONDERS]:
            if not _is_responder(response, certificate) or not issued_by(certificate, issuer):
                continue
            try:
                usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            except x509.ExtensionNotFound:
                continue
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if ExtendedKeyUsageOID.OCSP_SIGNING in usages and start.timestamp() <= self._now < end.timestamp():
                return certificate
        return None

    def _window_problem(self, start: datetime, end: datetime | None, what: str) -> str | None:
        if end is None:
            return f"its {what} names no next update"
        if self._now < start.timestamp():
            return f"its {what} is not yet valid at the appraisal time"
        if self._now >= end.timestamp():
            return f"its {what} is past its next update"
        if self._now - start.timestamp() > self._max_age:
            return f"its {what} is older than the policy allows"
        return None

    def _end(self, start: datetime, end: datetime | None) -> int | None:
        return None if end is None else min(int(end.timestamp()), int(start.timestamp()) + self._max_age)

    def _ocsp_answer(self, certificate: x509.Certificate, single: ocsp.OCSPSingleResponse) -> Status:
        name, end = _name(certificate), self._end(single.this_update_utc, single.next_update_utc)
        if single.certificate_status is ocsp.OCSPCertStatus.GOOD:
            return Status("good", f"{name}: good", end)
        if single.certificate_status is not ocsp.OCSPCertStatus.REVOKED:
            return Status("unknown", f"{name}: the responder does not know it", end)
        if single.revocation_reason is x509.ReasonFlags.certificate_hold:
            return Status("hold", f"{name}: on hold", end)
        return Status("revoked", f"{name}: revoked", end)

    def _crl_answer(
        self, crl: x509.CertificateRevocationList, certificate: x509.Certificate, issuer: x509.Certificate
    ) -> tuple[str | None, Status | None]:
        if crl.issuer != issuer.subject:
            return None, None
        key = issuer.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or not crl.is_signature_valid(key):
            return "its issuer's CRL has a wrong signature", None
        if problem := self._window_problem(crl.last_update_utc, crl.next_update_utc, "issuer's CRL"):
            return problem, None
        name, end = _name(certificate), self._end(crl.last_update_utc, crl.next_update_utc)
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        if entry is None:
            return None, Status("good", f"{name}: not on its issuer's CRL", end)
        try:
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        except x509.ExtensionNotFound:
            reason = x509.ReasonFlags.unspecified
        if reason is x509.ReasonFlags.certificate_hold:
            return None, Status("hold", f"{name}: on hold", end)
        return None, Status("revoked", f"{name}: revoked", end)


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_key_hash is not None:
        return hmac.compare_digest(response.responder_key_hash, hashlib.sha1(_key_bits(certificate)).digest())  # noqa: S324  RFC 6960 names keys so
    return response.responder_name == certificate.subject


def _signature_holds(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    algorithm = response.signature_hash_algorithm
    if not isinstance(algorithm, _SIGNATURE_HASHES) or len(response.signature) > MAX_SIGNATURE:
        return False
    return signed_by(signer, response.signature, response.tbs_response_bytes, algorithm)


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def _key_bits(certificate: x509.Certificate) -> bytes:
    """The subjectPublicKey bits, which certificate ids and responder ids hash."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (_, content), *_ = der.children(spki)
    return der.children(content)[1][1][1:]  # without the count of unused bits, which is zero


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value)[:64] if names else f"certificate {certificate.serial_number:x}"[:64]
