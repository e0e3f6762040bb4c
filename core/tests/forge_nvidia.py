# SPDX-License-Identifier: Apache-2.0
"""Make NVIDIA evidence under the SIMULATED roots: reports, chains, manifests and OCSP responses, right by default.

Everything is right unless a caller changes one thing, so a must-reject vector fails for the reason it names. Keys come
from names, so the same evidence is made each time (OCSP and certificate signatures aside).
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from lxml import etree

from teehouse_core.appraise.roots_nvidia import SIMULATED_DEVICE_ROOT_PEM, SIMULATED_RIM_ROOT_PEM
from teehouse_core.evidence.rim import DSIG, SWID

NOW = 1_790_000_000  # Unix seconds, 2026-09-21
DAY = 86400
P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973

DRIVER = "590.48.01"
VBIOS = "96.00.A5.00.01"
SWITCH_BIOS = "96.10.73.00.01"
DRIVER_INDICES = (7, 21, 22, 23, 25, 26, 27, 29, 30, 31, 32, 34, 35, 36)
VBIOS_INDICES = (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12)
SWITCH_INDICES = tuple(range(31))
FWID = hashlib.sha384(b"simulated firmware").digest()

GPU, SWITCH = "nvidia-gpu", "nvidia-nvswitch"


@functools.cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key of that name: SHA-384 of it, as for the simulated roots."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha384(name.encode()).digest()) % P384_ORDER, ec.SECP384R1())


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def sign_raw(signer: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(signer.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48) + s.to_bytes(48)


@dataclass(frozen=True)
class Signer:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def root(pem: bytes) -> Signer:
    certificate = x509.load_pem_x509_certificate(pem)
    return Signer(certificate, key(certificate.subject.rfc4514_string().removeprefix("CN=").replace("\\", "")))


def certificate(
    name: str,
    signer: Signer,
    *,
    ca: bool,
    serial: int | None = None,
    since: int = NOW - 400 * DAY,
    until: int = NOW + 400 * DAY,
    extensions: Sequence[x509.ExtensionType] = (),
    key_name: str | None = None,
) -> Signer:
    own = key(key_name or name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    number = serial if serial is not None else int.from_bytes(hashlib.sha256((key_name or name).encode()).digest()[:8])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject)
        .public_key(own.public_key())
        .serial_number(number)
        .not_valid_before(at(since))
        .not_valid_after(at(until))
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Signer(builder.sign(signer.key, hashes.SHA384(), ecdsa_deterministic=True), own)


def tlv(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    head = bytes([size]) if size < 0x80 else b"\x81" + bytes([size]) if size < 0x100 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + head + body


SHA384_OID = tlv(6, bytes.fromhex("608648016503040202"))


def fwid_extension(digest: bytes, leaf: ec.EllipticCurvePrivateKey, *, dice: bool = False) -> x509.ExtensionType:
    """As Hopper and LS10 have it, or with `dice` as Blackwell has it (a list, padded with a zero digest)."""
    pair = tlv(0x30, SHA384_OID, tlv(4, digest))
    if dice:
        value = tlv(0x30, tlv(0x80, b"SIMULATED"), tlv(0xA6, pair, tlv(0x30, SHA384_OID, tlv(4, bytes(48)))))
        return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1.1"), value)
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), tlv(0x30, tlv(2, b"\1"), spki, pair))


def golden_digest(chip: str, index: int, alternative: int = 0) -> bytes:
    return hashlib.sha384(f"{chip} {index} {alternative}".encode()).digest()


@dataclass(frozen=True)
class Device:
    """One simulated device. Change any member with `dataclasses.replace`; `report` then makes what it says."""

    kind: str
    arch: str
    chip: str
    pdi: bytes
    leaf: Signer
    chain: tuple[x509.Certificate, ...]
    opaque: Mapping[int, bytes]
    blocks: int
    measurements: Mapping[int, bytes] = field(default_factory=dict)  # by golden index, in place of the right ones

    def report(self, nonce: bytes, change: Callable[[bytes], bytes] = lambda signed: signed) -> bytes:
        """The signed report; `change` works on it before it is signed."""
        blocks = b""
        for index in range(self.blocks):
            digest = self.measurements.get(index, golden_digest(self.chip, index))
            blocks += bytes([index + 1, 1]) + (51).to_bytes(2, "little") + b"\1" + (48).to_bytes(2, "little") + digest
        opaque = b"".join(
            number.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
            for number, value in self.opaque.items()
        )
        signed = b"".join(
            (
                bytes.fromhex("11e001ff"),
                nonce,
                b"\0",
                bytes.fromhex("11600000"),
                bytes([self.blocks]),
                len(blocks).to_bytes(3, "little"),
                blocks,
                hashlib.sha256(b"response" + nonce).digest(),
                len(opaque).to_bytes(2, "little"),
                opaque,
            )
        )
        signed = change(signed)
        return signed + sign_raw(self.leaf.key, signed)

    @property
    def pem(self) -> str:
        return "".join(c.public_bytes(Encoding.PEM).decode() for c in self.chain)

    def with_opaque(self, **changes: bytes | None) -> Device:
        """`n36=b"\\2\\0"` sets field 36, `n20=None` leaves field 20 out."""
        opaque = dict(self.opaque)
        for name, value in changes.items():
            opaque.pop(int(name[1:]), None)
            if value is not None:
                opaque[int(name[1:])] = value
        return replace(self, opaque=opaque)


@dataclass(frozen=True)
class Pki:
    """Device side: root, chip identity, provisioner. RIM side: root, chip CA, L3, signer."""

    device_root: Signer
    identity: Signer
    provisioner: Signer
    rim_root: Signer
    rim_ca: Signer
    rim_l3: Signer
    rim_signer: Signer

    def issuer_of(self, child: x509.Certificate) -> Signer:
        for signer in (self.device_root, self.identity, self.provisioner, self.rim_root, self.rim_ca, self.rim_l3):
            if signer.certificate.subject == child.issuer:
                return signer
        raise LookupError(child.issuer)


@functools.cache
def pki() -> Pki:
    device_root, rim_root = root(SIMULATED_DEVICE_ROOT_PEM), root(SIMULATED_RIM_ROOT_PEM)
    identity = certificate("SIMULATED chip identity", device_root, ca=True)
    provisioner = certificate("SIMULATED provisioner", identity, ca=True)
    rim_ca = certificate("SIMULATED reference value CA", rim_root, ca=True)
    rim_l3 = certificate("SIMULATED reference value L3", rim_ca, ca=True)
    rim_signer = certificate("SIMULATED RIM signer", rim_l3, ca=False)
    return Pki(device_root, identity, provisioner, rim_root, rim_ca, rim_l3, rim_signer)


def chain_for(
    chip: str, pdi: bytes, *, fwid: bytes = FWID, made: Pki | None = None, **leaf_changes: Any
) -> tuple[Signer, tuple[x509.Certificate, ...]]:
    """Leaf with its key, and the chain of five, for one device."""
    made = made or pki()
    family = b"\x50" if chip.startswith("LS") else b"\x41"
    device = certificate(
        f"{chip} A01 BROM", made.provisioner, ca=True, serial=int.from_bytes(family + pdi), key_name=f"BROM {pdi.hex()}"
    )
    name = f"leaf {pdi.hex()}"
    extension = fwid_extension(fwid, key(name), dice=chip.startswith("GB"))
    shown = f"{chip.replace('LS10', 'LS_10')} A01 FMC LF"
    given = {"ca": False, "extensions": (extension,), "key_name": name, **leaf_changes}
    leaf = certificate(shown, device, **given)
    chain = (leaf, device, made.provisioner, made.identity, made.device_root)
    return leaf, tuple(signer.certificate for signer in chain)


def gpu(number: int = 0, *, chip: str = "GH100", switches: Sequence[bytes] = (), mode: int = 0, **chain: Any) -> Device:
    """GPU `number`; with `switches` (their identifiers) and mode 2 one of a protected-PCIe machine."""
    pdi = hashlib.sha256(f"gpu {number}".encode()).digest()[:8]
    leaf, certificates = chain_for(chip, pdi, **chain)
    vbios = bytes.fromhex(VBIOS.replace(".", ""))
    opaque = {
        6: bytes((vbios[3], vbios[2], vbios[1], vbios[0], vbios[4], 0, 0, 0)),
        15: b"885\0",
        17: b"G520\0",
        18: b"0200\0",
        3: DRIVER.encode() + b"\0",
        11: b"\xaa",
        20: FWID,
        21: b"\xaa" if mode == 2 else b"\x55",
        34: b"\1\0",
        36: mode.to_bytes(2, "little"),
    }
    if switches:
        opaque[22] = b"".join(pdi[::-1] for pdi in switches) * 4 + bytes(16)
    if chip.startswith("GB"):
        del opaque[21]
        opaque[35] = chip.encode() + b"\0"
    arch = "BLACKWELL" if chip.startswith("GB") else "HOPPER"
    return Device(GPU, arch, chip, pdi, leaf, certificates, opaque, 64)


def switch(number: int = 0, *, gpus: Sequence[bytes] = (), **chain: Any) -> Device:
    pdi = switch_pdi(number)
    leaf, certificates = chain_for("LS10", pdi, **chain)
    wired = b"".join(gpus).ljust(64, b"\xff")[:64] + b"\xff" * 64
    opaque = {6: SWITCH_BIOS.encode(), 22: pdi, 26: wired, 23: b"\xec\0", 24: bytes([number, 0]), 25: b"\1\0"}
    return Device(SWITCH, "LS10", "LS10", pdi, leaf, certificates, opaque, 31)


def switch_pdi(number: int) -> bytes:
    return hashlib.sha256(f"switch {number}".encode()).digest()[:8]


def machine(gpus: int = 8, switches: int = 4) -> list[Device]:
    """A whole protected-PCIe machine, wired as a real one is."""
    ids = [switch_pdi(n) for n in range(switches)]
    cards = [gpu(n, switches=ids, mode=2) for n in range(gpus)]
    return [*cards, *(switch(n, gpus=[card.pdi for card in cards]) for n in range(switches))]


HASHES = "http://www.w3.org/2001/04/xmlenc#sha384"
ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"


def rim(
    product: str,
    version: str,
    indices: Sequence[int],
    *,
    edition: str = "GPU",
    golden: Callable[[int], Sequence[bytes]] | None = None,
    signer: Signer | None = None,
    chain: Sequence[x509.Certificate] | None = None,
    edit: Callable[[str], str] = lambda text: text,
    edit_info: Callable[[str], str] = lambda text: text,
) -> bytes:
    """A signed manifest with `indices` active, two alternatives each. `edit` works on the text before it is signed,
    `edit_info` on the SignedInfo before that is signed."""
    made = pki()
    signer = signer or made.rim_signer
    values = golden or (lambda index: (hashlib.sha384(b"another build").digest(), golden_digest(product, index)))
    rows = []
    for index in range(64):
        digests = values(index) if index in indices else (bytes(48),)
        hashed = " ".join(f'h:Hash{n}="{digest.hex()}"' for n, digest in enumerate(digests))
        rows.append(
            f'<Resource type="Measurement" index="{index}" active="{index in indices}" '
            f'alternatives="{len(digests)}" {hashed} name="Measurement_{index}" size="48"/>'
        )
    text = (
        f'<SoftwareIdentity xmlns="{SWID}" xmlns:h="{HASHES}" name="{product}" tagId="SIMULATED {product} {version}">'
        f'<Meta colloquialVersion="{version}" edition="{edition}" product="{product}"/>'
        f"<Payload>{''.join(rows)}</Payload></SoftwareIdentity>"
    )
    document = etree.fromstring(edit(text).encode())
    digest = hashlib.sha384(etree.tostring(document, method="c14n")).digest()
    info = edit_info(
        f'<ds:SignedInfo xmlns:ds="{DSIG}"><ds:CanonicalizationMethod Algorithm="{C14N11}"/>'
        '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>'
        f'<ds:Reference URI=""><ds:Transforms><ds:Transform Algorithm="{ENVELOPED}"/>'
        f'<ds:Transform Algorithm="{C14N11}"/></ds:Transforms>'
        '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
        f"<ds:DigestValue>{base64.b64encode(digest).decode()}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )
    signature = etree.SubElement(document, f"{{{DSIG}}}Signature", nsmap={"ds": DSIG})
    signature.append(etree.fromstring(info))
    value = sign_raw(signer.key, etree.tostring(signature[0], method="c14n"))
    etree.SubElement(signature, f"{{{DSIG}}}SignatureValue").text = base64.b64encode(value).decode()
    data = etree.SubElement(etree.SubElement(signature, f"{{{DSIG}}}KeyInfo"), f"{{{DSIG}}}X509Data")
    given = chain or [s.certificate for s in (signer, made.rim_l3, made.rim_ca, made.rim_root)]
    for c in given:
        der = c.public_bytes(Encoding.DER)
        etree.SubElement(data, f"{{{DSIG}}}X509Certificate").text = base64.b64encode(der).decode()
    return bytes(etree.tostring(document))


def driver_rim(product: str = "GH100", version: str = DRIVER, **changes: Any) -> bytes:
    return rim(product, version, DRIVER_INDICES, **changes)


def vbios_rim(product: str = "GH100", version: str = VBIOS, **changes: Any) -> bytes:
    return rim(product, version, VBIOS_INDICES, **changes)


def switch_rim(version: str = SWITCH_BIOS, **changes: Any) -> bytes:
    return rim("LS10", version, SWITCH_INDICES, edition="SWITCH", **changes)


def responder(issuer: Signer, **changes: Any) -> Signer:
    """A certificate that `issuer` made for signing OCSP responses."""
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    name = issuer.certificate.subject.rfc4514_string().removeprefix("CN=")
    return certificate(f"OCSP for {name}"[:60], issuer, **{"ca": False, "extensions": (usage,), **changes})


def ocsp_response(
    child: x509.Certificate,
    *,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    since: int = NOW - DAY,
    until: int | None = NOW + 6 * DAY,
    signer: Signer | None = None,
    issuer: Signer | None = None,
    hash_algorithm: hashes.HashAlgorithm | None = None,
    algorithm: hashes.SHA224 | hashes.SHA384 | None = None,
    by_name: bool = False,
) -> bytes:
    """One response about `child` by a responder of its issuer, or by `signer`."""
    issuer = issuer or pki().issuer_of(child)
    by = signer or responder(issuer)
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=child,
        issuer=issuer.certificate,
        algorithm=hash_algorithm or hashes.SHA1(),
        cert_status=status,
        this_update=at(since),
        next_update=None if until is None else at(until),
        revocation_time=at(NOW - 2 * DAY) if revoked else None,
        revocation_reason=reason if revoked else None,
    )
    encoding = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
    builder = builder.responder_id(encoding, by.certificate)
    if by.certificate != issuer.certificate:
        builder = builder.certificates([by.certificate])
    return builder.sign(by.key, algorithm or hashes.SHA384()).public_bytes(Encoding.DER)


def crl(issuer: Signer, revoked: Mapping[int, x509.ReasonFlags | None], *, until: int = NOW + 6 * DAY) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(at(NOW - DAY))
        .next_update(at(until))
    )
    for serial, reason in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at(NOW - 2 * DAY))
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, hashes.SHA384()).public_bytes(Encoding.DER)


def certificates_to_clear(devices: Sequence[Device]) -> list[x509.Certificate]:
    """Every certificate that needs an answer: device chains without leaf and root, manifest signers without root."""
    made = pki()
    found = [c for device in devices for c in device.chain[1:4]]
    found += [made.rim_signer.certificate, made.rim_l3.certificate, made.rim_ca.certificate]
    return list(dict.fromkeys(found))


def answers(devices: Sequence[Device], **changes: Any) -> list[bytes]:
    return [ocsp_response(c, **changes) for c in certificates_to_clear(devices)]


def rims(devices: Sequence[Device]) -> list[bytes]:
    found = []
    for chip in sorted({device.chip for device in devices}):
        found += [switch_rim()] if chip == "LS10" else [driver_rim(chip), vbios_rim(chip)]
    return found
