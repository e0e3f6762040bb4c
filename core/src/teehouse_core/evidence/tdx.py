# SPDX-License-Identifier: Apache-2.0
"""Parse Intel quotes into frozen values: TDX of versions 4 and 5 (TD report 1.0, 1.5 and 1.5 extended), SGX of 3 to 5.

Source: Intel TDX DCAP Quoting Library API, appendix 3 "Quote format", and Intel SGX ECDSA Quote Library API for
version 3; for the extended report Intel's header sgx_quote_5.h (`sgx_report2_body_v1_5_ex_t`). The field sizes stand
beside each reader below. This module checks shape only: exact lengths, known type
numbers, size limits. It verifies no signature, no certificate and no date, and believes nothing it reads; that is
`teehouse_core.appraise.checks_tdx`. Where each field stands in the bytes is `teehouse_core.evidence.tdx_fields`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from teehouse_core.errors import MalformedError

__all__ = [
    "CERT_TYPE_PEM_CHAIN",
    "DESCRIPTOR_SIZE",
    "HEADER_SIZE",
    "MAX_AUTH_DATA",
    "MAX_CERTIFICATES",
    "MAX_QUOTE",
    "QE_REPORT_SIZE",
    "QE_VENDOR_INTEL",
    "TD_REPORT_15_EX_SIZE",
    "TD_REPORT_15_SIZE",
    "TD_REPORT_SIZE",
    "VERSION_3",
    "VERSION_4",
    "VERSION_5",
    "QeReport",
    "QuoteHeader",
    "SgxQuote",
    "SignatureData",
    "TdExtension",
    "TdQuote",
    "TdReport",
    "encode_pem_bundle",
    "parse_any_quote",
    "parse_quote",
]

MAX_QUOTE: Final = 64 * 1024  # bytes; the largest genuine quote seen is under 9 KiB, the kernel caps outblob at 32 KiB
MAX_AUTH_DATA: Final = 4096  # bytes; Intel's quoting enclave sends 32
MAX_CERTIFICATES: Final = 32 * 1024  # bytes of PEM; three certificates are under 4 KiB

HEADER_SIZE: Final = 48  # bytes
DESCRIPTOR_SIZE: Final = 6  # bytes before the body of a version 5 quote: type u16, size u32
TD_REPORT_SIZE: Final = 584  # bytes, TD report 1.0
TD_REPORT_15_SIZE: Final = 648  # bytes, TD report 1.5: 1.0 with TEE_TCB_SVN_2 and MRSERVICETD behind it
TD_REPORT_15_EX_SIZE: Final = 885  # bytes, TD report 1.5 extended: 1.5 with what `TdExtension` holds behind it
QE_REPORT_SIZE: Final = 384  # bytes, an SGX enclave report body
SIGNATURE_SIZE: Final = 64  # bytes, raw r ‖ s over P-256
KEY_SIZE: Final = 64  # bytes, raw x ‖ y over P-256

VERSION_3: Final = 3
VERSION_4: Final = 4
VERSION_5: Final = 5
KEY_TYPE_ECDSA_P256: Final = 2
TEE_TYPE_SGX: Final = 0
TEE_TYPE_TDX: Final = 0x81
CERT_TYPES: Final = range(1, 6)  # 1 to 3 name the PCK certificate by PPID, 4 is the leaf alone, 5 a PEM chain
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


_BODY_SIZES: Final = {  # by type of a version 5 body
    1: QE_REPORT_SIZE,
    2: TD_REPORT_SIZE,
    3: TD_REPORT_15_SIZE,
    4: TD_REPORT_15_EX_SIZE,
}


@dataclass(frozen=True, slots=True)
class TdExtension:
    """What an extended TD report 1.5 adds (237 bytes): who asked, which TD this is, and how it came to be.

    "Service TD" members are hashes and attributes of a bound migration TD, or hold the hash of a migration policy.
    """

    vmid: int  # u8; which VM inside the TD asked for the report, 0 for the TD itself
    td_id: bytes  # 32, made anew for each TD; zero where the host does not switch it on
    dev_info: bytes  # 48, hash of what is known of attached devices
    init_service_td_hash: bytes  # 48
    init_service_td_attributes: int  # u64
    init_cpu_svn: bytes  # 16
    init_tee_tcb_svn: bytes  # 16
    init_tee_fmspc: bytes  # 12
    cur_service_td_hash: bytes  # 48
    cur_service_td_attributes: int  # u64

    @classmethod
    def _read(cls, r: _Reader) -> TdExtension:
        return cls(
            vmid=r.uint(1),
            td_id=r.take(32),
            dev_info=r.take(48),
            init_service_td_hash=r.take(48),
            init_service_td_attributes=r.uint(8),
            init_cpu_svn=r.take(16),
            init_tee_tcb_svn=r.take(16),
            init_tee_fmspc=r.take(12),
            cur_service_td_hash=r.take(48),
            cur_service_td_attributes=r.uint(8),
        )

    def encode(self) -> bytes:
        """The 237 wire bytes."""
        return b"".join(
            (
                bytes((self.vmid,)),
                self.td_id,
                self.dev_info,
                self.init_service_td_hash,
                self.init_service_td_attributes.to_bytes(8, "little"),
                self.init_cpu_svn,
                self.init_tee_tcb_svn,
                self.init_tee_fmspc,
                self.cur_service_td_hash,
                self.cur_service_td_attributes.to_bytes(8, "little"),
            )
        )

    @property
    def service_td(self) -> bool:
        """Whether a service TD, or a policy for one, is or was bound."""
        hashed = any(self.init_service_td_hash) or any(self.cur_service_td_hash)
        return hashed or bool(self.init_service_td_attributes or self.cur_service_td_attributes)


@dataclass(frozen=True, slots=True)
class TdReport:
    """TD report 1.0 (584 bytes), 1.5 (648) or 1.5 extended (885). Integers are little-endian on the wire.

    The three last members are None in a report 1.0, the last one in a plain report 1.5.
    """

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
    tee_tcb_svn2: bytes | None = None  # 16; the module that runs now, after an update that kept the TD alive
    mr_service_td: bytes | None = None  # 48
    extension: TdExtension | None = None

    @classmethod
    def parse(cls, data: bytes) -> TdReport:
        """Read exactly 584, 648 or 885 bytes. Raises `MalformedError` for any other length."""
        r = _Reader(data)
        extended = len(data) == TD_REPORT_15_EX_SIZE
        later = extended or len(data) == TD_REPORT_15_SIZE
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
            tee_tcb_svn2=r.take(16) if later else None,
            mr_service_td=r.take(48) if later else None,
            extension=TdExtension._read(r) if extended else None,
        )
        r.end("td-report")
        return value

    def encode(self) -> bytes:
        """The wire bytes; the inverse of `parse`."""
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
                self.tee_tcb_svn2 or b"",
                self.mr_service_td or b"",
                b"" if self.extension is None else self.extension.encode(),
            )
        )


@dataclass(frozen=True, slots=True)
class QeReport:
    """An SGX enclave's report body, 384 bytes: the quoting enclave's (the PCK key signs `raw`), or any other's."""

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
    cert_type: int  # 1 to 5
    cert_data: bytes

    @property
    def pem_chain(self) -> bytes:
        """The PCK chain, leaf first, not parsed here; empty when the quote only names its PCK certificate."""
        return self.cert_data if self.cert_type == CERT_TYPE_PEM_CHAIN else b""


@dataclass(frozen=True, slots=True)
class TdQuote:
    """One whole TDX quote. `signed` is what `signature.signature` covers; `padding` counts the zero bytes after it."""

    raw: bytes
    header: QuoteHeader
    report: TdReport
    signature: SignatureData
    body_end: int = HEADER_SIZE + TD_REPORT_SIZE
    padding: int = 0

    @property
    def signed(self) -> bytes:
        return self.raw[: self.body_end]


@dataclass(frozen=True, slots=True)
class SgxQuote:
    """One whole SGX quote; as `TdQuote`, with an enclave's report."""

    raw: bytes
    header: QuoteHeader
    report: QeReport
    signature: SignatureData
    body_end: int = HEADER_SIZE + QE_REPORT_SIZE
    padding: int = 0

    @property
    def signed(self) -> bytes:
        return self.raw[: self.body_end]


def parse_quote(data: bytes, *, padding: bool = False) -> TdQuote:
    """Parse one TDX quote of version 4 or 5; every byte belongs to a field.

    With `padding`, zero bytes may follow it, as drivers that return their whole buffer leave them.
    Verifies nothing. Raises `MalformedError` (codes `quote-too-large`, `quote-truncated`, `quote-trailing-bytes`,
    `quote-version`, `quote-key-type`, `quote-tee-type`, `quote-body-type`, `quote-cert-type`, `quote-length`).
    """
    quote = _parse(data, padding, (TEE_TYPE_TDX,))
    if not isinstance(quote, TdQuote):
        raise MalformedError("not a TDX quote", code="quote-tee-type")
    return quote


def parse_any_quote(data: bytes, *, padding: bool = False) -> TdQuote | SgxQuote:
    """As `parse_quote`, for SGX as well."""
    return _parse(data, padding, (TEE_TYPE_SGX, TEE_TYPE_TDX))


def _parse(data: bytes, padding: bool, tees: tuple[int, ...]) -> TdQuote | SgxQuote:
    if len(data) > MAX_QUOTE:
        raise MalformedError(f"quote is larger than {MAX_QUOTE} bytes", code="quote-too-large")
    r = _Reader(data)
    header = _header(_Reader(r.take(HEADER_SIZE)))
    if header.version not in (VERSION_3, VERSION_4, VERSION_5):
        hint = "TDX quotes of versions 4 and 5 and SGX quotes of versions 3 to 5 are supported"
        raise MalformedError(f"quote version {header.version}", code="quote-version", hint=hint)
    if header.key_type != KEY_TYPE_ECDSA_P256:
        raise MalformedError(f"attestation key type {header.key_type}", code="quote-key-type")
    if header.tee_type not in tees or (header.version == VERSION_3 and header.tee_type != TEE_TYPE_SGX):
        raise MalformedError(
            f"TEE type {header.tee_type:#x} is not {' or '.join(map(hex, tees))}", code="quote-tee-type"
        )
    body = r.take(_body_size(header, r))
    body_end = r.at
    signature = _signature_data(_Reader(r.take(r.uint(4))), header.version)
    zeros = r.zeros() if padding else 0
    r.end("quote")
    if header.tee_type == TEE_TYPE_TDX:
        return TdQuote(data, header, TdReport.parse(body), signature, body_end, zeros)
    return SgxQuote(data, header, QeReport.parse(body), signature, body_end, zeros)


def _body_size(header: QuoteHeader, r: _Reader) -> int:
    tdx = header.tee_type == TEE_TYPE_TDX
    if header.version != VERSION_5:
        return TD_REPORT_SIZE if tdx else QE_REPORT_SIZE
    kind, size = r.uint(2), r.uint(4)
    if kind not in _BODY_SIZES or (kind != 1) != tdx:
        hint = "SGX reports (1), TD reports 1.0 (2), 1.5 (3) and 1.5 extended (4) are supported"
        raise MalformedError(f"quote body type {kind}", code="quote-body-type", hint=hint)
    if size != _BODY_SIZES[kind]:
        raise MalformedError(f"a body of type {kind} has {_BODY_SIZES[kind]} bytes, not {size}", code="quote-length")
    return size


def encode_pem_bundle(
    signed: bytes,
    signature: bytes,
    attestation_key: bytes,
    qe_report: bytes,
    qe_signature: bytes,
    qe_auth_data: bytes,
    pem_chain: bytes,
) -> bytes:
    """Assemble a quote of version 4 or 5 from its parts; the inverse of `parse_quote`, for simulation and tests."""
    certs = CERT_TYPE_PEM_CHAIN.to_bytes(2, "little") + len(pem_chain).to_bytes(4, "little") + pem_chain
    qe = qe_report + qe_signature + len(qe_auth_data).to_bytes(2, "little") + qe_auth_data + certs
    body = signature + attestation_key + CERT_TYPE_QE_REPORT.to_bytes(2, "little") + len(qe).to_bytes(4, "little") + qe
    return signed + len(body).to_bytes(4, "little") + body


def _header(r: _Reader) -> QuoteHeader:
    return QuoteHeader(r.uint(2), r.uint(2), r.uint(4), r.uint(2), r.uint(2), r.take(16), r.take(20))


def _signature_data(r: _Reader, version: int) -> SignatureData:
    signature, key = r.take(SIGNATURE_SIZE), r.take(KEY_SIZE)
    qe = r
    if version != VERSION_3:  # from version 4 on the QE's part is wrapped once more
        if (kind := r.uint(2)) != CERT_TYPE_QE_REPORT:
            raise MalformedError(f"certification data type {kind}, not 6", code="quote-cert-type")
        qe = _Reader(r.take(r.uint(4)))
        r.end("signature data")
    report = QeReport.parse(qe.take(QE_REPORT_SIZE))
    qe_signature = qe.take(SIGNATURE_SIZE)
    auth = qe.take(qe.uint(2, limit=MAX_AUTH_DATA))
    if (kind := qe.uint(2)) not in CERT_TYPES:
        hint = "the quote must carry its PCK certificate chain (type 5)"
        raise MalformedError(f"certification data type {kind}, not 1 to 5", code="quote-cert-type", hint=hint)
    data = qe.take(qe.uint(4, limit=MAX_CERTIFICATES))
    qe.end("certification data")
    return SignatureData(signature, key, report, qe_signature, auth, kind, data)


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

    @property
    def at(self) -> int:
        return self._at

    def zeros(self) -> int:
        """Skip what is left if all of it is zero; how many bytes that was."""
        left = self._data[self._at :]
        if left.strip(b"\0"):
            return 0
        self._at = len(self._data)
        return len(left)

    def end(self, what: str) -> None:
        if left := len(self._data) - self._at:
            raise MalformedError(f"{left} bytes after the {what}", code="quote-trailing-bytes")
