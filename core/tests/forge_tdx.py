# SPDX-License-Identifier: Apache-2.0
"""TDX quotes of version 4 and 5 with all their collateral, under the SIMULATED root: right in everything but one thing.

The forger holds every key, unlike an attacker: a changed field is signed again, so only the check that looks at it can
refuse. Times are Unix seconds; keys are made once for a process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse_core.appraise.roots import SIMULATED_ROOT_PEM
from teehouse_core.evidence.tdx import TdExtension, TdReport, encode_pem_bundle
from teehouse_enclave.platform import simulated, simulated_pki
from teehouse_enclave.platform.simulated_root import root_key

NOW = 1_790_000_000
PPID = bytes(range(16))
REPORT_DATA = bytes(range(64))

Change = Callable[[Any], Any]


def same(value: Any) -> Any:
    return value


@cache
def pki() -> simulated_pki.SimulatedPki:
    return simulated_pki.SimulatedPki.create(NOW, PPID)


@cache
def attestation_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def stranger() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def raw_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def td_report(later: bool) -> TdReport:
    """A TD as genuine ones are; `later` makes a report 1.5."""
    return TdReport(
        tee_tcb_svn=simulated_pki.TEE_TCB_SVN,
        mr_seam=b"\x5e" * 48,
        mr_signer_seam=bytes(48),
        seam_attributes=0,
        td_attributes=0x1000_0000,
        xfam=0x602E7,
        mr_td=b"\x11" * 48,
        mr_config_id=bytes(48),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rtmr=(b"\x20" * 48, b"\x21" * 48, b"\x22" * 48, b"\x23" * 48),
        report_data=REPORT_DATA,
        tee_tcb_svn2=simulated_pki.TEE_TCB_SVN if later else None,
        mr_service_td=bytes(48) if later else None,
    )


def extension(**changes: Any) -> TdExtension:
    """Of a TD that asked itself, and that was never bound to a service TD."""
    plain: dict[str, Any] = {
        "vmid": 0,
        "td_id": b"\x1d" * 32,
        "dev_info": b"\xde" * 48,
        "init_service_td_hash": bytes(48),
        "init_service_td_attributes": 0,
        "init_cpu_svn": b"\x0c" * 16,
        "init_tee_tcb_svn": simulated_pki.TEE_TCB_SVN,
        "init_tee_fmspc": simulated_pki.FMSPC.ljust(12, b"\0"),
        "cur_service_td_hash": bytes(48),
        "cur_service_td_attributes": 0,
    }
    return TdExtension(**{**plain, **changes})


def qe_report(auth: bytes, key: bytes) -> bytes:
    """The quoting enclave's report that vouches for `key` (64 bytes)."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key + auth)
    body = bytearray(384)
    body[48:64] = simulated_pki.QE_ATTRIBUTES
    body[128:160] = simulated_pki.QE_MR_SIGNER
    body[256:258] = simulated_pki.QE_PROD_ID.to_bytes(2, "little")
    body[258:260] = simulated_pki.QE_SVN.to_bytes(2, "little")
    body[320:352] = digest.finalize()
    return bytes(body)


def crl(
    which: str,
    *,
    revoke: x509.Certificate | None = None,
    issued: int = NOW - 3600,
    until: int = NOW + 30 * 86400,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """A CRL of the root (`root`) or of the PCK CA (`pck`), signed by its issuer or by `key`."""
    root = x509.load_pem_x509_certificate(SIMULATED_ROOT_PEM)
    issuer, own = (root, root_key()) if which == "root" else (pki().ca, pki().ca_key)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(datetime.fromtimestamp(issued, UTC))
        .next_update(datetime.fromtimestamp(until, UTC))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own.public_key()), critical=False)
    )
    if revoke is not None:
        entry = x509.RevokedCertificateBuilder().serial_number(revoke.serial_number)
        builder = builder.add_revoked_certificate(entry.revocation_date(datetime.fromtimestamp(NOW, UTC)).build())
    return builder.sign(key or own, hashes.SHA256()).public_bytes(Encoding.DER)


def leaf_chain(*, signer: ec.EllipticCurvePrivateKey | None = None, made_at: int = NOW, ppid: bytes = PPID) -> bytes:
    """The PCK chain with another leaf for the same key: of a stranger, of another time, of another machine."""
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(simulated_pki.SGX_EXTENSION_OID), simulated_pki._sgx_extension(ppid)
    )
    leaf = simulated_pki._certificate(
        "SIMULATED PCK Certificate",
        pki().leaf_key.public_key(),
        pki().ca,
        signer or pki().ca_key,
        made_at,
        extra=extension,
    )
    return leaf.public_bytes(Encoding.PEM) + pki().ca.public_bytes(Encoding.PEM) + SIMULATED_ROOT_PEM


@dataclass(frozen=True)
class ForgedQuote:
    """What to make; each member is one thing that can be wrong. `parts` are put in place after all signing."""

    version: int = 4
    later: bool = False  # TD report 1.5; needs version 5
    extended: bool = False  # TD report 1.5 extended; needs `later`
    header: Change = same  # 48 bytes to 48 bytes, before signing
    report: Change = same  # TdReport to TdReport, before signing
    qe: Change = same  # 384 bytes to 384 bytes, before the PCK key signs
    auth: bytes = simulated.AUTH_DATA
    tcb_info: Change = same  # the JSON object, in place, before signing
    qe_identity: Change = same
    collateral: dict[str, str] = field(default_factory=dict)  # members put in place after signing
    parts: dict[str, bytes] = field(default_factory=dict)
    tail: bytes = b""  # bytes behind the quote

    def with_(self, **changes: Any) -> ForgedQuote:
        return replace(self, **changes)

    def quote(self) -> bytes:
        """The quote's bytes."""
        key, public = attestation_key(), raw_public(attestation_key())
        head = self.version.to_bytes(2, "little") + simulated._HEADER[2:]
        report = td_report(self.later)
        body = self.report(replace(report, extension=extension()) if self.extended else report).encode()
        descriptor = b""
        if self.version == 5:
            kind = {584: 2, 648: 3, 885: 4}[len(body)]
            descriptor = kind.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        signed = self.header(head) + descriptor + body
        enclave = self.qe(qe_report(self.auth, public))
        parts = {
            "signed": signed,
            "signature": simulated_pki.raw_signature(key, signed),
            "attestation_key": public,
            "qe_report": enclave,
            "qe_signature": simulated_pki.raw_signature(pki().leaf_key, enclave),
            "qe_auth_data": self.auth,
            "pem_chain": pki().chain,
        }
        return encode_pem_bundle(**{**parts, **self.parts}) + self.tail

    def endorsements(self) -> dict[str, str]:
        """The nine members of Intel's collateral."""
        made = pki().collateral(NOW).to_dict()
        for name, change in (("tcb_info", self.tcb_info), ("qe_identity", self.qe_identity)):
            value = json.loads(made[name])
            change(value)
            made[name] = json.dumps(value, separators=(",", ":"))
            made[f"{name}_signature"] = simulated_pki.raw_signature(pki().tcb_key, made[name].encode()).hex()
        return {**made, **self.collateral}

    def files(self) -> dict[str, bytes]:
        """The collateral as `verify_artifact` takes it."""
        return {"intel.json": json.dumps(self.endorsements()).encode()}
