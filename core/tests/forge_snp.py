# SPDX-License-Identifier: Apache-2.0
"""SEV-SNP evidence under a TEST root: right in everything but what a caller changes.

Reports of every version for Genoa and Turin (and Milan), VCEK or VLEK, with their certificates and revocation list, in
AMD's encodings down to the serial number 0. Unlike an attacker this forge holds every key; only tests import it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

import forge_snp_keys
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from teehouse_core.appraise.roots_amd import AmdRoot
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.amdcert import PSS_SHA384

__all__ = ["NOW", "TEST_ROOTS", "Forge", "certificate", "crl", "tlv"]

NOW = 1_790_000_000  # Unix seconds
DAY = 86_400
CPUID = {"Milan": (0x19, 0x01, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 0x02, 1)}
TCB = {"fmc": 1, "bootloader": 10, "tee": 2, "snp": 23, "microcode": 84}
CHIP = bytes(range(1, 65))
_ALGORITHM = min(PSS_SHA384, key=len)
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_ARC = bytes.fromhex("2b060104019c78")  # 1.3.6.1.4.1.3704
_COMPONENT = {"bootloader": 1, "tee": 2, "snp": 3, "microcode": 8, "fmc": 9}
_SIGNER = {"VCEK": "ASK", "VLEK": "ASVK"}


def tlv(tag: int, *content: bytes) -> bytes:
    """One DER element."""
    body = b"".join(content)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def integer(value: int) -> bytes:
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def when(seconds: int) -> bytes:
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    if moment.year < 2050:
        return tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def name(common_name: str) -> bytes:
    def part(oid: str, text: str) -> bytes:
        return tlv(0x31, tlv(0x30, tlv(0x06, bytes.fromhex(oid)), tlv(0x0C, text.encode())))

    return tlv(0x30, part("55040a", "TEST"), part("550403", common_name))


def extension(oid: bytes, content: bytes, *, critical: bool = False) -> bytes:
    flag = tlv(0x01, b"\xff") if critical else b""
    return tlv(0x30, tlv(0x06, oid), flag, tlv(0x04, content))


@cache
def rsa_key(which: str) -> rsa.RSAPrivateKey:
    key = load_der_private_key(base64.b64decode(getattr(forge_snp_keys, f"TEST_{which}")), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@cache
def chip_key(which: str = "chip") -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(which.encode(), "big"), ec.SECP384R1())


def spki(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@lru_cache(maxsize=512)
def signed(tbs: bytes, which: str, algorithm: bytes = _ALGORITHM) -> bytes:
    signature = rsa_key(which).sign(tbs, _PSS, hashes.SHA384())
    return tlv(0x30, tbs, algorithm, tlv(0x03, b"\0", signature))


def certificate(
    *,
    issuer: str,
    subject: str,
    key: bytes,
    signer: str,
    extensions: tuple[bytes, ...],
    serial: int = 0,
    not_before: int = NOW - 365 * DAY,
    not_after: int = NOW + 365 * DAY,
    algorithm: bytes = _ALGORITHM,
) -> bytes:
    """One certificate as DER; `key` is its SubjectPublicKeyInfo, `signer` the TEST key that signs it."""
    tbs = tlv(
        0x30,
        tlv(0xA0, integer(2)),
        integer(serial),
        algorithm,
        name(issuer),
        tlv(0x30, when(not_before), when(not_after)),
        name(subject),
        key,
        tlv(0xA3, tlv(0x30, *extensions)),
    )
    return signed(tbs, signer, algorithm)


def ca_extensions(path_length: int | None, usage: int = 0x04, *, ca: bool = True) -> tuple[bytes, ...]:
    constraints = tlv(0x30, tlv(0x01, b"\xff") if ca else b"", b"" if path_length is None else integer(path_length))
    return (
        extension(b"\x55\x1d\x13", constraints, critical=True),
        extension(b"\x55\x1d\x0f", tlv(0x03, b"\x01" if usage & 2 else b"\x02", bytes([usage])), critical=True),
    )


@lru_cache(maxsize=64)
def ca(product: str, which: str, signer: str = "ARK", **changes: Any) -> bytes:
    """The ARK, ASK or ASVK of one product."""
    names = {"ARK": f"ARK-{product}", "ASK": f"SEV-{product}", "ASVK": f"SEV-VLEK-{product}"}
    fields: dict[str, Any] = {
        "issuer": f"ARK-{product}",
        "subject": names[which],
        "key": spki(rsa_key(which)),
        "signer": signer,
        "extensions": ca_extensions(None, 0x06) if which == "ARK" else ca_extensions(0),
        "serial": {"ARK": 0x10000, "ASK": 0x10001, "ASVK": 0x10101}[which],
    }
    return certificate(**{**fields, **changes})


def crl(product: str, revoked: tuple[int, ...] = (), *, signer: str = "ARK", **changes: Any) -> bytes:
    """The revocation list of one product's TEST root."""
    this, following = changes.get("this_update", NOW - DAY), changes.get("next_update", NOW + 30 * DAY)
    entries = [tlv(0x30, integer(serial), when(this)) for serial in revoked]
    tbs = tlv(
        0x30,
        integer(1),
        _ALGORITHM,
        name(changes.get("issuer", f"ARK-{product}")),
        when(this),
        b"" if following is None else when(following),
        tlv(0x30, *entries) if entries else b"",
        tlv(0xA0, tlv(0x30, extension(b"\x55\x1d\x14", integer(7)))),
    )
    return signed(tbs, signer)


TEST_ROOTS: Mapping[str, AmdRoot] = {
    product: AmdRoot(product, ca(product, "ARK"), ca(product, "ASK"), ca(product, "ASVK")) for product in CPUID
}


@dataclass(frozen=True)
class Forge:
    """One report with its certificates. `patch` changes bytes before they are signed, `broken` after."""

    product: str = "Genoa"
    version: int = 5
    kind: str = "VCEK"
    report_data: bytes = bytes(64)
    host_data: bytes = bytes(32)
    measurement: bytes = b"\x11" * 48
    policy: int = 0x30000 | 0x1F
    platform_info: int = 0x25
    vmpl: int = 0
    guest_svn: int = 0
    tcb: Mapping[str, int] = field(default_factory=lambda: TCB)
    tcbs: Mapping[int, Mapping[str, int]] = field(default_factory=dict)  # offset to another TCB than `tcb`
    patch: Mapping[int, bytes] = field(default_factory=dict)
    broken: Mapping[int, bytes] = field(default_factory=dict)
    signer: str = "chip"
    leaf: Mapping[str, Any] = field(default_factory=dict)  # changes to the leaf certificate
    leaf_tcb: Mapping[str, int] | None = None
    leaf_product: str | None = None
    leaf_extensions: tuple[bytes, ...] | None = None
    hwid: bytes | None = None
    csp_id: str = "CN=test.example"
    chain: tuple[bytes, ...] = ()
    revocation: Mapping[str, Any] | None = field(default_factory=dict)  # None: no list; else changes to it

    def but(self, **changes: Any) -> Forge:
        return replace(self, **changes)

    @property
    def chip_id(self) -> bytes:
        if self.kind == "VLEK":
            return bytes(64)
        return CHIP[:8] + bytes(56) if self.product == "Turin" else CHIP

    def report(self) -> bytes:
        """The 1184 bytes, signed."""
        data = bytearray(0x4A0)

        def put(at: int, value: int | bytes, size: int = 0) -> None:
            piece = value if isinstance(value, bytes) else value.to_bytes(size, "little")
            data[at : at + len(piece)] = piece

        put(0x000, self.version, 4)
        put(0x004, self.guest_svn, 4)
        put(0x008, self.policy, 8)
        put(0x030, self.vmpl, 4)
        put(0x034, 1, 4)
        put(0x040, self.platform_info, 8)
        put(0x048, 4 if self.kind == "VLEK" else 0, 4)
        put(0x050, self.report_data)
        put(0x090, self.measurement)
        put(0x0C0, self.host_data)
        put(0x140, b"\x22" * 32)
        put(0x160, b"\xff" * 32)
        for at in (0x038, 0x180, 0x1E0, 0x1F0):
            put(at, self.tcb_bytes(self.tcbs.get(at, self.tcb)))
        if self.version >= 3:
            put(0x188, bytes(CPUID[self.product]))
        put(0x1A0, self.chip_id)
        for at in (0x1E8, 0x1EC):
            put(at, bytes((40, 55, 1)))
        if self.version >= 5:
            put(0x1F8, 0x0B, 8)
            put(0x200, 0x0B, 8)
        for at, piece in self.patch.items():
            put(at, piece)
        signature = chip_key(self.signer).sign(bytes(data[:0x2A0]), ec.ECDSA(hashes.SHA384()))
        r, s = decode_dss_signature(signature)
        put(0x2A0, r, 72)
        put(0x2E8, s, 72)
        for at, piece in self.broken.items():
            put(at, piece)
        return bytes(data)

    def tcb_bytes(self, levels: Mapping[str, int]) -> bytes:
        if self.product == "Turin":
            return bytes(
                (levels["fmc"], levels["bootloader"], levels["tee"], levels["snp"], 0, 0, 0, levels["microcode"])
            )
        return bytes((levels["bootloader"], levels["tee"], 0, 0, 0, 0, levels["snp"], levels["microcode"]))

    def vcek(self) -> bytes:
        """The leaf certificate as DER."""
        signer = _SIGNER[self.kind]
        fields: dict[str, Any] = {
            "issuer": f"SEV-{self.product}" if self.kind == "VCEK" else f"SEV-VLEK-{self.product}",
            "subject": f"SEV-{self.kind}",
            "key": spki(chip_key()),
            "signer": signer,
            "extensions": self.leaf_extensions if self.leaf_extensions is not None else self.extensions(),
        }
        return certificate(**{**fields, **self.leaf})

    def extensions(self) -> tuple[bytes, ...]:
        """The AMD extensions, in AMD's order."""
        levels = self.leaf_tcb if self.leaf_tcb is not None else self.tcbs.get(0x180, self.tcb)
        names = [n for n in _COMPONENT if n != "fmc" or self.product == "Turin"]
        stepping = {"Milan": "Milan-B0", "Genoa": "Genoa", "Turin": "Turin"}[self.product]
        found = [
            extension(_ARC + b"\x01\x01", integer(1 if self.product == "Turin" else 0)),
            extension(_ARC + b"\x01\x02", tlv(0x16, (self.leaf_product or stepping).encode())),
            *(extension(_ARC + bytes((1, 3, _COMPONENT[n])), integer(levels[n])) for n in names),
            *(extension(_ARC + bytes((1, 3, spare)), integer(0)) for spare in (5, 6, 7)),
        ]
        if self.kind == "VCEK":
            hwid = self.hwid if self.hwid is not None else (CHIP[:8] if self.product == "Turin" else CHIP)
            found.append(extension(_ARC + b"\x01\x04", hwid))
        else:
            found.append(extension(_ARC + b"\x01\x05", tlv(0x16, self.csp_id.encode())))
        return tuple(found)

    def list(self) -> bytes | None:
        return None if self.revocation is None else crl(self.product, **self.revocation)

    def collateral(self) -> AmdCollateral:
        """As stapled: the leaf, the TEST chain (or `chain`), the list."""
        root = TEST_ROOTS[self.product]
        signer = root.ask if self.kind == "VCEK" else root.asvk
        return AmdCollateral(self.vcek(), self.chain or (signer, root.ark), self.list())
