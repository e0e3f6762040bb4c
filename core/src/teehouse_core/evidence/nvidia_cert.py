# SPDX-License-Identifier: Apache-2.0
"""Read what NVIDIA device certificates say about the device: which chip, which unit, which firmware.

Sources: TCG DICE Attestation Architecture (firmware id 2.23.133.5.4.1 and DiceTcbInfo 2.23.133.5.4.1.1), and the names
in genuine chains of GH100, GB100 and LS10. Believe any of it only after the chain check passed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from teehouse_core.errors import MalformedError
from teehouse_core.evidence import der

__all__ = ["ARCHITECTURES", "DeviceIdentity", "firmware_ids", "parse_identity"]

OID_FWID: Final = "2.23.133.5.4.1"
OID_TCB_INFO: Final = "2.23.133.5.4.1.1"
OID_SHA384: Final = "2.16.840.1.101.3.4.2.2"
FWID_SIZE: Final = 48  # bytes, SHA-384
TAG_FWIDS: Final = 0xA6  # DiceTcbInfo member [6], a list of firmware ids
PDI_SIZE: Final = 8  # bytes; a unit's serial number ends in its per-device identifier
SERIAL_SIZE: Final = 9  # bytes: one that names the chip family, then the identifier
MAX_EXTENSION: Final = 1024  # bytes; genuine ones are under 200

ARCHITECTURES: Final = {"GH": "HOPPER", "GB": "BLACKWELL", "LS": "LS10"}
"""First two letters of a chip's name to the architecture that evidence files declare."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """`chip` as `GH100`; `architecture` as `HOPPER`; `unit` names the device for good (hex SHA-256 of its own key)."""

    chip: str
    architecture: str
    is_switch: bool
    unit: str
    serial: str
    pdi: bytes | None  # 8, as other devices know this one


def parse_identity(chain: tuple[x509.Certificate, ...]) -> DeviceIdentity:
    """What leaf (attestation key) and device certificate say. Raises `MalformedError` (`device-certificate`)."""
    if len(chain) < 2:
        raise MalformedError("a device chain has at least two certificates", code="device-certificate")
    leaf, device = chain[0], chain[1]
    try:  # both are parsed only now
        names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = device.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # as in Sheet.run: certificate libraries raise more than ValueError on hostile bytes
        raise MalformedError("a device certificate's subject or key is malformed", code="device-certificate") from None
    words = str(names[0].value).split() if len(names) == 1 else []
    chip = words[0].replace("_", "") if words else ""
    architecture = ARCHITECTURES.get(chip[:2])
    if architecture is None or not chip.isascii() or not chip.isalnum() or len(chip) > 16:
        raise MalformedError("the leaf certificate names no known chip", code="device-certificate")
    number = device.serial_number
    if number < 0:  # RFC 5280 §4.1.2.2
        raise MalformedError("the device certificate's serial number is negative", code="device-certificate")
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    pdi = raw[1:] if len(raw) == SERIAL_SIZE else None
    unit = hashlib.sha256(key).hexdigest()
    return DeviceIdentity(chip, architecture, architecture == "LS10", unit, f"{number:X}", pdi)


def firmware_ids(leaf: x509.Certificate) -> tuple[bytes, ...]:
    """The SHA-384 firmware ids in the leaf; all-zero ones (no such layer) are left out.

    Raises `MalformedError` (`firmware-id`, `der`) when there is none or the extension has another form.
    """
    try:  # parsed only now
        extensions = list(leaf.extensions)
    except Exception:  # as above
        raise MalformedError("the leaf certificate's extensions are malformed", code="firmware-id") from None
    values = {
        extension.oid.dotted_string: extension.value
        for extension in extensions
        if extension.oid.dotted_string in (OID_FWID, OID_TCB_INFO)
    }
    if len(values) != 1:
        raise MalformedError("the leaf certificate has no firmware id", code="firmware-id")
    ((oid, value),) = values.items()
    if not isinstance(value, x509.UnrecognizedExtension) or len(value.value) > MAX_EXTENSION:
        raise MalformedError("the firmware id extension is of another kind", code="firmware-id")
    outer = der.children(value.value)
    if len(outer) != 1 or outer[0][0] != der.SEQUENCE:
        raise MalformedError("the firmware id extension is not one sequence", code="firmware-id")
    members = der.children(outer[0][1])
    if oid == OID_FWID:  # version, device key, firmware id
        pairs = [members[2]] if len(members) == 3 else []
    else:
        lists = [content for tag, content in members if tag == TAG_FWIDS]
        pairs = list(der.children(lists[0])) if len(lists) == 1 else []
    found = tuple(fwid for fwid in (_fwid(tag, content) for tag, content in pairs) if any(fwid))
    if not found:
        raise MalformedError("the firmware id extension names no firmware", code="firmware-id")
    return found


def _fwid(tag: int, content: bytes) -> bytes:
    pair = der.children(content) if tag == der.SEQUENCE else ()
    if [kind for kind, _ in pair] != [der.OID, der.OCTET_STRING]:
        raise MalformedError("a firmware id is not (algorithm, digest)", code="firmware-id")
    if der.oid_text(pair[0][1]) != OID_SHA384 or len(pair[1][1]) != FWID_SIZE:
        raise MalformedError("a firmware id is not a SHA-384 digest", code="firmware-id")
    return pair[1][1]
