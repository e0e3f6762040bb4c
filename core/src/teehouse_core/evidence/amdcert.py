# SPDX-License-Identifier: Apache-2.0
"""Read AMD's certificates by hand: the DER that a signature covers, and the VCEK and VLEK extensions.

Source: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification. Every genuine
leaf has the serial number 0, which RFC 5280 forbids and general libraries mean to refuse one day, so nothing here
depends on them. Parsing verifies nothing: signatures, dates and names are `appraise.amdchain`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal

from teehouse_core.errors import MalformedError
from teehouse_core.evidence import der

__all__ = ["PSS_SHA384", "AmdCertificate", "AmdLeaf", "parse_certificate", "parse_leaf"]

MAX_CERTIFICATE: Final = 8192  # bytes; genuine ones are under 1.7 KiB
MAX_EXTENSIONS: Final = 32  # a VCEK has 11

_PSS: Final = (
    "06092a864886f70d01010a{}a00f300d06096086480165030402020500"
    "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130{}"
)
PSS_SHA384: Final = frozenset(
    # RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt of 48 bytes; the second form names the default trailer field.
    bytes.fromhex(f"30{size}" + _PSS.format(inner, trailer))
    for size, inner, trailer in (("41", "3034", ""), ("46", "3039", "a303020101"))
)
"""The AlgorithmIdentifiers that AMD uses, whole: any other is refused, so none of their parameters can be weakened."""

_COMMON_NAME: Final = "2.5.4.3"
_ARC: Final = "1.3.6.1.4.1.3704.1"
_TCB: Final = {1: "bootloader", 2: "tee", 3: "snp", 8: "microcode", 9: "fmc"}
_TCB_SPARE: Final = (4, 5, 6, 7)  # always zero
_IA5_STRING: Final = 0x16
_PRODUCT: Final = re.compile(r"([A-Z][a-z]{2,15})(?:-[A-Z][0-9])?")


@dataclass(frozen=True, slots=True)
class AmdCertificate:
    """One X.509 v3 certificate. Names are compared as the DER bytes; times are Unix seconds."""

    raw: bytes = field(repr=False)
    tbs: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)  # the whole AlgorithmIdentifier
    serial: int
    issuer: bytes = field(repr=False)
    subject: bytes = field(repr=False)
    common_name: str
    not_before: int
    not_after: int
    public_key: bytes = field(repr=False)  # SubjectPublicKeyInfo
    extensions: Mapping[str, tuple[bool, bytes]] = field(repr=False)  # OID to (critical, content)


@dataclass(frozen=True, slots=True)
class AmdLeaf:
    """What a VCEK or VLEK certificate says of the key. `hwid` (64 bytes, Turin 8) or `csp_id`, by `kind`."""

    kind: Literal["VCEK", "VLEK"]
    product: str  # product line, without the stepping
    tcb: Mapping[str, int]
    hwid: bytes | None
    csp_id: str | None


def parse_certificate(data: bytes) -> AmdCertificate:
    """Parse one DER certificate, every byte of it. Raises `MalformedError` (`der`, `amd-certificate`)."""
    if len(data) > MAX_CERTIFICATE:
        raise MalformedError("certificate is too large", code="amd-certificate")
    outer = der.children(data)
    if len(outer) != 1 or outer[0][0] != der.SEQUENCE:
        raise _bad("not one sequence")
    parts = der.elements(outer[0][1])
    if [tag for tag, _, _ in parts] != [der.SEQUENCE, der.SEQUENCE, _BIT_STRING]:
        raise _bad("not (tbs, algorithm, signature)")
    tbs = der.elements(parts[0][1])
    if [tag for tag, _, _ in tbs] != [0xA0, der.INTEGER, *[der.SEQUENCE] * 5, 0xA3]:
        raise _bad("not a version 3 certificate with extensions")
    if tbs[0][1] != b"\x02\x01\x02":
        raise _bad("not version 3")
    if tbs[2][2] != parts[1][2]:
        raise _bad("two signature algorithms")
    times = der.children(tbs[4][1])
    if len(times) != 2:
        raise _bad("no validity")
    return AmdCertificate(
        raw=data,
        tbs=parts[0][2],
        signature=_bits(parts[2][1]),
        signature_algorithm=parts[1][2],
        serial=_integer(tbs[1][1], 20),
        issuer=tbs[3][2],
        subject=tbs[5][2],
        common_name=_common_name(tbs[5][1]),
        not_before=_time(*times[0]),
        not_after=_time(*times[1]),
        public_key=tbs[6][2],
        extensions=_extensions(tbs[7][1]),
    )


def parse_leaf(certificate: AmdCertificate) -> AmdLeaf:
    """Read the extensions of a VCEK or VLEK certificate. Raises `MalformedError` (`der`, `amd-extension`)."""
    mine = {oid.removeprefix(_ARC + "."): value for oid, (_, value) in certificate.extensions.items() if _ours(oid)}
    if critical := [oid for oid, (flag, _) in certificate.extensions.items() if flag and not _ours(oid)]:
        raise MalformedError(f"critical extension {critical[0]} is not known", code="amd-extension")
    product = _PRODUCT.fullmatch(_ia5(mine.get("2", b"")))
    if product is None:
        raise MalformedError("the certificate names no product", code="amd-extension")
    tcb = {}
    for number, name in _TCB.items():
        if f"3.{number}" in mine:
            tcb[name] = _patch_level(mine[f"3.{number}"])
    if not {"bootloader", "tee", "snp", "microcode"} <= set(tcb):
        raise MalformedError("the certificate lacks a TCB component", code="amd-extension")
    for number in _TCB_SPARE:
        if _patch_level(mine.get(f"3.{number}", b"\x02\x01\x00")):
            raise MalformedError(f"TCB component {number} is not known", code="amd-extension")
    hwid, csp_id = mine.get("4"), mine.get("5")
    if (hwid is None) == (csp_id is None):
        raise MalformedError("the certificate names neither one chip nor one provider", code="amd-extension")
    if hwid is not None and len(hwid) not in (8, 64):
        raise MalformedError(f"a chip id of {len(hwid)} bytes", code="amd-extension")
    return AmdLeaf(
        kind="VCEK" if hwid is not None else "VLEK",
        product=product[1],
        tcb=MappingProxyType(tcb),
        hwid=hwid,
        csp_id=None if csp_id is None else _ia5(csp_id),
    )


_BIT_STRING: Final = 0x03
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18


def _bad(what: str) -> MalformedError:
    return MalformedError(f"certificate is {what}", code="amd-certificate")


def _ours(oid: str) -> bool:
    return oid.startswith(_ARC + ".")


def _bits(content: bytes) -> bytes:
    if not content or content[0]:
        raise _bad("signed with a part of a byte")
    return content[1:]


def _integer(content: bytes, limit: int) -> int:
    """An INTEGER that is not negative and minimal, of at most `limit` bytes."""
    if not 1 <= len(content) <= limit or content[0] & 0x80:
        raise _bad("numbered out of range")
    if len(content) > 1 and content[0] == 0 and not content[1] & 0x80:
        raise _bad("numbered with a leading zero")
    return int.from_bytes(content, "big")


def _time(tag: int, content: bytes) -> int:
    # RFC 5280 §4.1.2.5: UTCTime to 2049 with two digits of the year, GeneralizedTime from 2050.
    form = re.compile(rb"[0-9]{12}Z" if tag == _UTC_TIME else rb"[0-9]{14}Z")
    if tag not in (_UTC_TIME, _GENERALIZED_TIME) or not form.fullmatch(content):
        raise _bad("dated in another form")
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    try:
        return int(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise _bad("dated on no day") from None


def _common_name(name: bytes) -> str:
    found = []
    for tag, part in der.children(name):
        pairs = der.children(part) if tag == 0x31 else ()
        for kind, pair in pairs:
            members = der.children(pair) if kind == der.SEQUENCE else ()
            if len(members) == 2 and members[0][0] == der.OID and der.oid_text(members[0][1]) == _COMMON_NAME:
                found.append(members[1][1])
    if len(found) != 1 or len(found[0]) > 64 or not (found[0].isascii() and found[0].decode("ascii").isprintable()):
        raise _bad("named in another way")
    return found[0].decode("ascii")


def _extensions(content: bytes) -> Mapping[str, tuple[bool, bytes]]:
    outer = der.children(content)
    if len(outer) != 1 or outer[0][0] != der.SEQUENCE:
        raise _bad("without one list of extensions")
    found: dict[str, tuple[bool, bytes]] = {}
    for tag, item in der.children(outer[0][1]):
        members = der.children(item) if tag == der.SEQUENCE else ()
        tags = [kind for kind, _ in members]
        if tags not in ([der.OID, der.OCTET_STRING], [der.OID, der.BOOLEAN, der.OCTET_STRING]):
            raise _bad("extended in another form")
        critical = len(members) == 3
        if critical and members[1][1] != b"\xff":  # FALSE is the default and left out in DER
            raise _bad("extended with a flag that is not DER")
        oid = der.oid_text(members[0][1])
        if oid in found or len(found) == MAX_EXTENSIONS:
            raise _bad("extended twice by the same, or too often")
        found[oid] = (critical, members[-1][1])
    return MappingProxyType(found)


def _one(data: bytes, tag: int) -> bytes:
    found = der.children(data)
    if len(found) != 1 or found[0][0] != tag:
        raise MalformedError("an AMD extension has another form", code="amd-extension")
    return found[0][1]


def _patch_level(data: bytes) -> int:
    value = _integer(_one(data, der.INTEGER), 2)
    if value > 0xFF:
        raise MalformedError("a patch level is over 255", code="amd-extension")
    return value


def _ia5(data: bytes) -> str:
    content = _one(data, _IA5_STRING)
    if not 1 <= len(content) <= 128 or not content.isascii() or not content.decode("ascii").isprintable():
        raise MalformedError("a name in an AMD extension is not short printable ASCII", code="amd-extension")
    return content.decode("ascii")
