# SPDX-License-Identifier: Apache-2.0
"""Parse a TDX quote, version 4, into frozen values.

Source: Intel TDX DCAP Quoting Library API, appendix 3 "Quote format"; the field sizes stand beside each reader below.
This module checks shape only: exact lengths, known type numbers, size limits. It verifies no signature, no certificate
and no date, and believes nothing it reads; that is `teehouse_core.appraise.checks_tdx`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from teehouse_core.errors import MalformedError

__all__ = [
    "HEADER_SIZE",
    "MAX_AUTH_DATA",
    "MAX_CERTIFICATES",
    "MAX_QUOTE",
    "QE_REPORT_SIZE",
    "QE_VENDOR_INTEL",
    "TD_REPORT_SIZE",
    "QeReport",
    "QuoteHeader",
    "SignatureData",
    "TdQuote",
    "TdReport",
    "encode_pem_bundle",
    "parse_quote",
]

MAX_QUOTE: Final = 64 * 1024  # bytes; the largest genuine quote seen is under 9 KiB, the kernel caps outblob at 32 KiB
MAX_AUTH_DATA: Final = 4096  # bytes; Intel's quoting enclave sends 32
MAX_CERTIFICATES: Final = 32 * 1024  # bytes of PEM; three certificates are under 4 KiB

HEADER_SIZE: Final = 48  # bytes
TD_REPORT_SIZE: Final = 584  # bytes, TD report 1.0
QE_REPORT_SIZE: Final = 384  # bytes, an SGX enclave report body
SIGNATURE_SIZE: Final = 64  # bytes, raw r ‖ s over P-256
KEY_SIZE: Final = 64  # bytes, raw x ‖ y over P-256

VERSION_4: Final = 4
KEY_TYPE_ECDSA_P256: Final = 2
TEE_TYPE_TDX: Final = 0x81
CERT_TYPE_PEM_CHAIN: Final = 5
CERT_TYPE_QE_REPORT: Final = 6
QE_VENDOR_INTEL: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """The 48 bytes before the report; `user_data` is 20 bytes, `qe_vendor_id` 16."""

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class TdReport:
    """TD report 1.0, 584 bytes. Attributes and XFAM are little-endian on the wire and integers here."""

    tee_tcb_svn: bytes  # 16
    mr_seam: bytes  # 48
    mr_signer_seam: bytes  # 48
    seam_attributes: int  # u64
    td_attributes: int  # u64
    xfam: int  # u64
    mr_td: bytes  # 48
    mr_config_id: bytes  # 48
    mr_owner: bytes  # 48
    mr_owner_config: bytes  # 48
    rtmr: tuple[bytes, bytes, bytes, bytes]  # 48 each
    report_data: bytes  # 64

    @classmethod
    def parse(cls, data: bytes) -> TdReport:
        """Read exactly 584 bytes. Raises `MalformedError` for any other length."""
        r = _Reader(data)
        value = cls(
            tee_tcb_svn=r.take(16),
            mr_seam=r.take(48),
            mr_signer_seam=r.take(48),
            seam_attributes=r.uint(8),
            td_attributes=r.uint(8),
            xfam=r.uint(8),
            mr_td=r.take(48),
            mr_config_id=r.take(48),
            mr_owner=r.take(48),
            mr_owner_config=r.take(48),
            rtmr=(r.take(48), r.take(48), r.take(48), r.take(48)),
            report_data=r.take(64),
        )
        r.end("td-report")
        return value

    def encode(self) -> bytes:
        """The 584 wire bytes; the inverse of `parse`."""
        return b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                self.mr_signer_seam,
                self.seam_attributes.to_bytes(8, "little"),
                self.td_attributes.to_bytes(8, "little"),
                self.xfam.to_bytes(8, "little"),
                self.mr_td,
                self.mr_config_id,
                self.mr_owner,
                self.mr_owner_config,
                *self.rtmr,
                self.report_data,
            )
        )


@dataclass(frozen=True, slots=True)
class QeReport:
    """The quoting enclave's SGX report body, 384 bytes. `raw` is what the PCK key signed."""

    raw: bytes
    cpu_svn: bytes  # 16
    misc_select: int  # u32
    attributes: bytes  # 16
    mr_enclave: bytes  # 32
    mr_signer: bytes  # 32
    isv_prod_id: int  # u16
    isv_svn: int  # u16
    report_data: bytes  # 64

    @classmethod
    def parse(cls, data: bytes) -> QeReport:
        """Read exactly 384 bytes. Raises `MalformedError` for any other length."""
        r = _Reader(data)
        cpu_svn, misc = r.take(16), r.uint(4)
        r.take(28)
        attributes, mr_enclave = r.take(16), r.take(32)
        r.take(32)
        mr_signer = r.take(32)
        r.take(96)
        prod, svn = r.uint(2), r.uint(2)
        r.take(60)
        report_data = r.take(64)
        r.end("qe-report")
        return cls(data, cpu_svn, misc, attributes, mr_enclave, mr_signer, prod, svn, report_data)


@dataclass(frozen=True, slots=True)
class SignatureData:
    """Everything after the report: the attestation key, what it signed, and who vouches for it."""

    signature: bytes  # 64, r ‖ s by the attestation key over header ‖ report
    attestation_key: bytes  # 64, x ‖ y
    qe_report: QeReport
    qe_signature: bytes  # 64, r ‖ s by the PCK leaf over the QE report
    qe_auth_data: bytes
    pem_chain: bytes  # leaf first; not parsed here


@dataclass(frozen=True, slots=True)
class TdQuote:
    """One whole quote. `signed` is header ‖ report, the 632 bytes under `signature.signature`."""

    raw: bytes
    header: QuoteHeader
    report: TdReport
    signature: SignatureData

    @property
    def signed(self) -> bytes:
        return self.raw[: HEADER_SIZE + TD_REPORT_SIZE]


def parse_quote(data: bytes) -> TdQuote:
    """Parse one TDX v4 quote with a PEM chain inside; every byte belongs to a field.

    Verifies nothing. Raises `MalformedError` (codes `quote-too-large`, `quote-truncated`, `quote-trailing-bytes`,
    `quote-version`, `quote-key-type`, `quote-tee-type`, `quote-cert-type`, `quote-length`).
    """
    if len(data) > MAX_QUOTE:
        raise MalformedError(f"quote is larger than {MAX_QUOTE} bytes", code="quote-too-large")
    r = _Reader(data)
    header = _header(_Reader(r.take(HEADER_SIZE)))
    if header.version != VERSION_4:
        hint = "only TDX quotes of version 4 are supported"
        raise MalformedError(f"quote version {header.version}", code="quote-version", hint=hint)
    if header.key_type != KEY_TYPE_ECDSA_P256:
        raise MalformedError(f"attestation key type {header.key_type}", code="quote-key-type")
    if header.tee_type != TEE_TYPE_TDX:
        raise MalformedError(f"TEE type {header.tee_type:#x} is not TDX", code="quote-tee-type")
    report = TdReport.parse(r.take(TD_REPORT_SIZE))
    signature = _signature_data(_Reader(r.take(r.uint(4))))
    r.end("quote")
    return TdQuote(data, header, report, signature)


def encode_pem_bundle(
    signed: bytes,
    signature: bytes,
    attestation_key: bytes,
    qe_report: bytes,
    qe_signature: bytes,
    qe_auth_data: bytes,
    pem_chain: bytes,
) -> bytes:
    """Assemble a v4 quote from its parts; the inverse of `parse_quote`, used by the simulated platform and by tests."""
    certs = CERT_TYPE_PEM_CHAIN.to_bytes(2, "little") + len(pem_chain).to_bytes(4, "little") + pem_chain
    qe = qe_report + qe_signature + len(qe_auth_data).to_bytes(2, "little") + qe_auth_data + certs
    body = signature + attestation_key + CERT_TYPE_QE_REPORT.to_bytes(2, "little") + len(qe).to_bytes(4, "little") + qe
    return signed + len(body).to_bytes(4, "little") + body


def _header(r: _Reader) -> QuoteHeader:
    return QuoteHeader(r.uint(2), r.uint(2), r.uint(4), r.uint(2), r.uint(2), r.take(16), r.take(20))


def _signature_data(r: _Reader) -> SignatureData:
    signature, key = r.take(SIGNATURE_SIZE), r.take(KEY_SIZE)
    if (kind := r.uint(2)) != CERT_TYPE_QE_REPORT:
        raise MalformedError(f"certification data type {kind}, not 6", code="quote-cert-type")
    qe = _Reader(r.take(r.uint(4)))
    r.end("signature data")
    report = QeReport.parse(qe.take(QE_REPORT_SIZE))
    qe_signature = qe.take(SIGNATURE_SIZE)
    auth = qe.take(qe.uint(2, limit=MAX_AUTH_DATA))
    if (kind := qe.uint(2)) != CERT_TYPE_PEM_CHAIN:
        hint = "the quote must carry its PCK certificate chain (type 5)"
        raise MalformedError(f"certification data type {kind}, not 5", code="quote-cert-type", hint=hint)
    chain = qe.take(qe.uint(4, limit=MAX_CERTIFICATES))
    qe.end("certification data")
    return SignatureData(signature, key, report, qe_signature, auth, chain)


class _Reader:
    """A cursor that never reads past its end and knows when bytes are left over."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedError(f"quote ends {end - len(self._data)} bytes early", code="quote-truncated")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def uint(self, size: int, limit: int | None = None) -> int:
        value = int.from_bytes(self.take(size), "little")
        if limit is not None and value > limit:
            raise MalformedError(f"length {value} is over {limit}", code="quote-length")
        return value

    def end(self, what: str) -> None:
        if left := len(self._data) - self._at:
            raise MalformedError(f"{left} bytes after the {what}", code="quote-trailing-bytes")
