# SPDX-License-Identifier: Apache-2.0
"""Synthetic TPM evidence under keys made on the spot: right in everything, unless one argument says otherwise."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from teehouse_core.evidence.bundle import build_bundle, log_entry
from teehouse_core.evidence.jsontext import b64_text
from teehouse_core.evidence.replay import event_digest, workload_events
from teehouse_core.evidence.tpm import encode_pcrs, spki_sha256
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Model, Software, build_keyset, key_id
from teehouse_core.wire.suites import DEFAULT_SUITE, SUITES

NOW = 1_790_000_000
AK_ATTRIBUTES = 0x00050072  # fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign
PCRS = (*range(10), 14, 15)
HASH = {"sha1": 0x4, "sha256": 0xB, "sha384": 0xC, "sha512": 0xD}


@cache
def ecc_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def b2(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def selection(pcrs: Sequence[int], bank: str = "sha256") -> bytes:
    bits = sum(1 << index for index in pcrs)
    return struct.pack(">HB", HASH[bank], 3) + bits.to_bytes(3, "little")


def quote(
    extra: bytes,
    digest: bytes,
    *,
    pcrs: Sequence[int] = PCRS,
    bank: str = "sha256",
    magic: int = 0xFF544347,
    kind: int = 0x8018,
    selections: bytes | None = None,
) -> bytes:
    body = struct.pack(">I", 1) + selection(pcrs, bank) if selections is None else selections
    clock = struct.pack(">QIIB", 123456, 3, 0, 1)
    head = struct.pack(">IH", magic, kind) + b2(b"\x00\x0b" + bytes(32)) + b2(extra) + clock
    return head + struct.pack(">Q", 0x2019_1023_0016_3636) + body + b2(digest)


def public(key: Any, *, attributes: int = AK_ATTRIBUTES) -> bytes:
    head = struct.pack(">HHI", 1 if isinstance(key, rsa.RSAPrivateKey) else 0x23, 0xB, attributes) + b2(b"")
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return head + struct.pack(">HHHHI", 0x10, 0x14, 0xB, 2048, 0) + b2(numbers.n.to_bytes(256, "big"))
    point = b2(numbers.x.to_bytes(32, "big")) + b2(numbers.y.to_bytes(32, "big"))
    return head + struct.pack(">HHHHH", 0x10, 0x18, 0xB, 0x3, 0x10) + point


def sign(key: Any, data: bytes, *, scheme: str | None = None, bank: str = "sha256") -> bytes:
    algorithm: Any = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384}[bank]()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(algorithm)))
        return struct.pack(">HH", 0x18, HASH[bank]) + b2(r.to_bytes(32, "big")) + b2(s.to_bytes(32, "big"))
    pss = padding.PSS(padding.MGF1(algorithm), padding.PSS.MAX_LENGTH)
    value = key.sign(data, pss if scheme == "rsapss" else padding.PKCS1v15(), algorithm)
    return struct.pack(">HH", 0x16 if scheme == "rsapss" else 0x14, HASH[bank]) + b2(value)


def log(events: Sequence[tuple[int, int, bytes]], banks: Sequence[str] = ("sha256",), *, fill: bytes = b"") -> bytes:
    """A crypto-agile log; each event's digest is the hash of its data."""
    algorithms = b"".join(struct.pack("<HH", HASH[b], hashlib.new(b).digest_size) for b in banks)
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks)) + algorithms + b"\0"
    out = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    for index, kind, data in events:
        digests = b"".join(struct.pack("<H", HASH[b]) + hashlib.new(b, data).digest() for b in banks)
        out += struct.pack("<III", index, kind, len(banks)) + digests + struct.pack("<I", len(data)) + data
    return out + fill


def secure_boot_variable(on: bool) -> bytes:
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    return guid + struct.pack("<QQ", 10, 1) + "SecureBoot".encode("utf-16-le") + bytes([on])


EVENTS = (
    (0, 0x8, b"firmware version"),
    (7, 0x80000001, secure_boot_variable(True)),
    *((index, 0x4, bytes(4)) for index in range(8)),
    (4, 0x80000007, b"Calling EFI Application from Boot Option"),
    (9, 0xD, b"kernel"),
)


def replayed(events: Sequence[tuple[int, int, bytes]] = EVENTS, pcrs: Sequence[int] = PCRS) -> dict[int, bytes]:
    values = {index: bytes(32) for index in pcrs}
    for index, kind, data in events:
        if kind != 3:
            values[index] = hashlib.sha256(values[index] + hashlib.sha256(data).digest()).digest()
    return values


def digest_of(values: dict[int, bytes], bank: str = "sha256") -> bytes:
    return hashlib.new(bank, b"".join(values[i] for i in sorted(values))).digest()


def certificate(
    subject: str,
    public_key: Any,
    issuer: str,
    issuer_key: Any,
    *,
    ca: bool = False,
    start: int = NOW - 86400,
    end: int = NOW + 86400,
    usage_encipher: bool = False,
    aik: bool = True,
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(not ca and not usage_encipher, False, usage_encipher, False, False, ca, ca, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(start, tz=UTC))
        .not_valid_after(datetime.fromtimestamp(end, tz=UTC))
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(usage, critical=True)
    )
    if aik and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ObjectIdentifier("2.23.133.8.3")]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def crl(issuer: x509.Certificate, key: Any, revoked: Sequence[int] = (), *, start: int = NOW - 3600) -> bytes:
    when = datetime.fromtimestamp(start, tz=UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject).last_update(when)
    builder = builder.next_update(when + timedelta(days=7))
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass
class Chain:
    """leaf < intermediate < TEST root, for the AK `key`."""

    key: Any = field(default_factory=ecc_key)
    end: int = NOW + 86400
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.root = certificate("TEST vTPM root", self.root_key.public_key(), "TEST vTPM root", self.root_key, ca=True)
        self.ca = certificate("TEST vTPM CA", self.ca_key.public_key(), "TEST vTPM root", self.root_key, ca=True)
        self.leaf = certificate(
            "TEST AK", self.key.public_key(), "TEST vTPM CA", self.ca_key, end=self.end, **self.extra
        )

    @property
    def pem(self) -> bytes:
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.leaf, self.ca, self.root))


def keyset(now: int = NOW) -> bytes:
    pk = bytes(SUITES[DEFAULT_SUITE].pk)
    kem = HpkeKey(key_id(DEFAULT_SUITE, pk), DEFAULT_SUITE, pk, now - 60, now + 3600)
    return build_keyset(
        role="node",
        endpoint="ep-1",
        node="n",
        hpke=[kem],
        sign=[],
        model=Model("m", "a" * 64),
        software=Software("r", "b" * 64, "c" * 64),
        capabilities=Capabilities("none", "none", "none", ()),
        not_before=now - 60,
        not_after=now + 3600,
    )


@dataclass
class TpmBundle:
    """A whole bundle of type `tpm`; each field can be set wrong."""

    key: Any = field(default_factory=ecc_key)
    nonce: bytes = bytes(range(32))
    events: Sequence[tuple[int, int, bytes]] = EVENTS
    log_events: Sequence[tuple[int, int, bytes]] | None = None  # what the log says, when it lies
    extra: bytes | None = None
    bank: str = "sha256"
    pcrs: Sequence[int] = PCRS
    attributes: int = AK_ATTRIBUTES
    signature: bytes | None = None
    signed_by: Any = None
    aux: dict[str, str] = field(default_factory=dict)
    changed_pcrs: dict[int, bytes] = field(default_factory=dict)
    event_log: bytes | None = b""  # b"" is the right one, None none at all

    def build(self) -> bytes:
        measured = workload_events(
            release="r", image_sha256="b" * 64, config_sha256="c" * 64, weights_sha256="a" * 64, model="m"
        )
        workload = [log_entry(event, content) for event, content in measured]
        values = replayed(self.events, sorted({*self.pcrs, *(i for i, _, _ in self.events)}))
        if 15 in self.pcrs:
            for event, content in measured:
                pushed = hashlib.sha256(event_digest(event, content)).digest()
                values[15] = hashlib.sha256(values[15] + pushed).digest()
        values = {index: values[index] for index in sorted(self.pcrs)}
        report_data = _report_data(self.nonce)
        extra = hashlib.sha256(report_data).digest() if self.extra is None else self.extra
        raw = quote(extra, digest_of(values, self.bank), pcrs=self.pcrs)
        signature = sign(self.signed_by or self.key, raw, bank=self.bank) if self.signature is None else self.signature
        text = log(self.log_events or self.events) if self.event_log == b"" else self.event_log
        aux = {
            "signature": b64_text(signature),
            "ak": b64_text(public(self.key, attributes=self.attributes)),
            "pcrs": encode_pcrs({"sha256": {**values, **self.changed_pcrs}}),
            **self.aux,
        }
        return build_bundle(
            endpoint="ep-1",
            node="n",
            keyset=keyset(),
            challenge_kind=1,
            challenge_value=self.nonce,
            platform_type="tpm",
            report=raw,
            workload_log=workload,
            collateral={},
            event_log=text,
            aux={name: value for name, value in aux.items() if value},
        )

    @property
    def pin(self) -> str:
        return spki_sha256(self.key.public_key())

    @property
    def references(self) -> tuple[str, ...]:
        return tuple(f"{i}={v.hex()}" for i, v in sorted(replayed(self.events).items()) if i < 8)


def _report_data(nonce: bytes) -> bytes:
    from teehouse_core.wire.binding import INTERACTIVE, challenge, devices_digest, report_data

    return report_data(hashlib.sha256(keyset()).digest(), devices_digest([]), challenge(INTERACTIVE, nonce))
