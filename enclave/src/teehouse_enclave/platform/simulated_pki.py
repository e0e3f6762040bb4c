# SPDX-License-Identifier: Apache-2.0
"""Certificates, CRLs and TCB texts of the simulated machine, in Intel's formats under the SIMULATED root.

Sources: Intel SGX PCK Certificate and CRL Profile; Intel PCS API v4 (TCB info v3, QE identity v2). The keys are made
in memory at each start, apart from the root's, which is public (`simulated_root`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from teehouse_core.appraise.roots import SIMULATED_ROOT_PEM
from teehouse_core.evidence.collateral import IntelCollateral
from teehouse_core.evidence.pck import SGX_EXTENSION_OID
from teehouse_enclave.platform.simulated_root import root_key

__all__ = ["FMSPC", "PCE_ID", "QE_ATTRIBUTES", "QE_MR_SIGNER", "QE_PROD_ID", "QE_SVN", "TEE_TCB_SVN", "SimulatedPki"]
__all__ += ["raw_signature"]

DAY: Final = 86400  # seconds
BACKDATE: Final = 3600  # seconds; a Verifier whose clock is behind by less still finds the collateral issued
COLLATERAL_LIFE: Final = 30 * DAY  # seconds; as Intel's
CERTIFICATE_LIFE: Final = 7 * 365 * DAY  # seconds; as Intel's PCK certificates
EVALUATION_NUMBER: Final = 1  # tcbEvaluationDataNumber

FMSPC: Final = b"SIMUL\0"  # 6 bytes; no genuine machine has it
PCE_ID: Final = bytes(2)
COMPONENTS: Final = (1,) * 16  # SGX TCB component SVNs
PCE_SVN: Final = 1
TEE_TCB_SVN: Final = bytes([1, 1]) + bytes(14)  # TDX module minor SVN 1, major version 1: identity TDX_01
QE_MR_SIGNER: Final = b"SIMULATED quoting enclave".ljust(32, b"\0")
QE_ATTRIBUTES: Final = bytes.fromhex("11000000000000000000000000000000")
QE_PROD_ID: Final = 2
QE_SVN: Final = 1

_TCB_DATE: Final = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class SimulatedPki:
    """The simulated machine's keys and certificates; `chain` is the PEM chain that a quote carries, leaf first."""

    leaf_key: ec.EllipticCurvePrivateKey
    ca_key: ec.EllipticCurvePrivateKey
    tcb_key: ec.EllipticCurvePrivateKey
    ca: x509.Certificate
    tcb: x509.Certificate
    chain: bytes

    @classmethod
    def create(cls, now: int, ppid: bytes) -> SimulatedPki:
        """Make keys and certificates, valid from a day before `now` (Unix seconds). `ppid` is 16 bytes."""
        root = x509.load_pem_x509_certificate(SIMULATED_ROOT_PEM)
        leaf_key, ca_key, tcb_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        ca = _certificate("SIMULATED PCK Platform CA", ca_key.public_key(), root, root_key(), now, ca=True)
        tcb = _certificate("SIMULATED TCB Signing", tcb_key.public_key(), root, root_key(), now)
        sgx = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_EXTENSION_OID), _sgx_extension(ppid))
        leaf = _certificate("SIMULATED PCK Certificate", leaf_key.public_key(), ca, ca_key, now, extra=sgx)
        chain = b"".join(c.public_bytes(Encoding.PEM) for c in (leaf, ca, root))
        return cls(leaf_key, ca_key, tcb_key, ca, tcb, chain)

    def collateral(self, now: int) -> IntelCollateral:
        """Fresh CRLs (empty), TCB info and QE identity, issued a little before `now`, for thirty days."""
        root = SIMULATED_ROOT_PEM.decode("ascii")
        tcb_chain = self.tcb.public_bytes(Encoding.PEM).decode("ascii") + root
        issued, until = now - BACKDATE, now - BACKDATE + COLLATERAL_LIFE
        tcb_info = _text(_tcb_info(issued, until))
        qe_identity = _text(_qe_identity(issued, until))
        root_certificate = x509.load_pem_x509_certificate(SIMULATED_ROOT_PEM)
        return IntelCollateral(
            pck_crl_issuer_chain=self.ca.public_bytes(Encoding.PEM).decode("ascii") + root,
            root_ca_crl=_crl(root_certificate, root_key(), issued, until),
            pck_crl=_crl(self.ca, self.ca_key, issued, until),
            tcb_info_issuer_chain=tcb_chain,
            tcb_info=tcb_info,
            tcb_info_signature=raw_signature(self.tcb_key, tcb_info.encode("ascii")),
            qe_identity_issuer_chain=tcb_chain,
            qe_identity=qe_identity,
            qe_identity_signature=raw_signature(self.tcb_key, qe_identity.encode("ascii")),
        )


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 with SHA-256 as the 64 bytes r ‖ s that Intel's formats use."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: int,
    *,
    ca: bool = False,
    extra: x509.ExtensionType | None = None,
) -> x509.Certificate:
    usage = x509.KeyUsage(not ca, not ca, False, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - DAY))
        .not_valid_after(_time(now + CERTIFICATE_LIFE))
        .add_extension(x509.BasicConstraints(ca, 0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(
            x509.CRLDistributionPoints(
                [
                    x509.DistributionPoint(
                        [x509.UniformResourceIdentifier("https://simulated.invalid/crl")], None, None, None
                    )
                ]
            ),
            critical=False,
        )
    )
    if extra is not None:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _crl(issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, issued: int, until: int) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(_time(issued))
        .next_update(_time(until))
        .add_extension(x509.CRLNumber(issued), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _tcb_info(issued: int, until: int) -> dict[str, Any]:
    module: dict[str, Any] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    svn = {"tcb": {"isvsvn": 1}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"}
    level = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": n} for n in COMPONENTS],
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": [{"svn": n} for n in TEE_TCB_SVN],
        },
        "tcbDate": _TCB_DATE,
        "tcbStatus": "UpToDate",
    }
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": _rfc3339(issued),
        "nextUpdate": _rfc3339(until),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": [svn]}],
        "tcbLevels": [level],
    }


def _qe_identity(issued: int, until: int) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": _rfc3339(issued),
        "nextUpdate": _rfc3339(until),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": QE_ATTRIBUTES.hex().upper(),
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MR_SIGNER.hex().upper(),
        "isvprodid": QE_PROD_ID,
        "tcbLevels": [{"tcb": {"isvsvn": QE_SVN}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"}],
    }


def _sgx_extension(ppid: bytes) -> bytes:
    tcb = [_member(f"2.{n}", _der(0x02, bytes([svn]))) for n, svn in enumerate(COMPONENTS, start=1)]
    tcb.append(_member("2.17", _der(0x02, bytes([PCE_SVN]))))
    tcb.append(_member("2.18", _der(0x04, bytes(COMPONENTS))))
    members = [
        _member("1", _der(0x04, ppid)),
        _member("2", _der(0x30, b"".join(tcb))),
        _member("3", _der(0x04, PCE_ID)),
        _member("4", _der(0x04, FMSPC)),
        _member("5", _der(0x0A, b"\x00")),  # SGX type: standard
    ]
    return _der(0x30, b"".join(members))


def _member(suffix: str, value: bytes) -> bytes:
    arcs = [int(arc) for arc in f"{SGX_EXTENSION_OID}.{suffix}".split(".")]
    content = bytes([40 * arcs[0] + arcs[1]]) + b"".join(_base128(arc) for arc in arcs[2:])
    return _der(0x30, _der(0x06, content) + value)


def _base128(arc: int) -> bytes:
    out = [arc & 0x7F]
    while arc := arc >> 7:
        out.append(arc & 0x7F | 0x80)
    return bytes(reversed(out))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _rfc3339(seconds: int) -> str:
    return _time(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
