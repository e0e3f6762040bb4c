# SPDX-License-Identifier: Apache-2.0
"""The `sev` crate's JSON of an SNP attestation report, back to the 1184 bytes that the chip signed (AMD 56860).

Its spelling changed over the years: byte arrays are lists of numbers or hex, `_author_key_en` became `key_info`, the
firmware versions became objects. Nothing is believed: a wrong byte here is a signature that does not verify.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.snp import REPORT_SIZE

__all__ = ["snp_report"]

_WORDS: Final = (  # name, offset, bytes
    ("version", 0x000, 4),
    ("guest_svn", 0x004, 4),
    ("policy", 0x008, 8),
    ("vmpl", 0x030, 4),
    ("sig_algo", 0x034, 4),
    ("plat_info", 0x040, 8),
)
_ARRAYS: Final = (
    ("family_id", 0x010, 16),
    ("image_id", 0x020, 16),
    ("report_data", 0x050, 64),
    ("measurement", 0x090, 48),
    ("host_data", 0x0C0, 32),
    ("id_key_digest", 0x0E0, 48),
    ("author_key_digest", 0x110, 48),
    ("report_id", 0x140, 32),
    ("report_id_ma", 0x160, 32),
    ("chip_id", 0x1A0, 64),
)
_TCBS: Final = (("current_tcb", 0x038), ("reported_tcb", 0x180), ("committed_tcb", 0x1E0), ("launch_tcb", 0x1F0))
_KEY_INFO: Final = ("key_info", "_author_key_en", "author_key_en")
_CPUID: Final = (("cpuid_fam_id", 0x188), ("cpuid_mod_id", 0x189), ("cpuid_step", 0x18A))
_FIRMWARE: Final = (("current", 0x1E8), ("committed", 0x1EC))
_MITIGATIONS: Final = (("launch_mit_vector", 0x1F8), ("current_mit_vector", 0x200))
_SIGNATURE: Final = (("r", 0x2A0), ("s", 0x2E8))
_PART: Final = 72  # bytes of r and of s
_TURIN: Final = 0x1A  # CPUID family from which a TCB begins with the FMC


def snp_report(value: Any) -> bytes:
    """The report's bytes. Raises `MalformedError` (`snp-json`)."""
    if not isinstance(value, dict):
        raise _wrong("attestation_report")
    out = bytearray(REPORT_SIZE)
    for name, at, size in _WORDS:
        out[at : at + size] = _word(value, name, size)
    for name, at, size in _ARRAYS:
        out[at : at + size] = _array(value, name, size)
    info = next((name for name in _KEY_INFO if name in value), _KEY_INFO[0])
    out[0x048:0x04C] = _word(value, info, 4)
    for name, at in _TCBS:
        out[at : at + 8] = _tcb(value.get(name), value.get("cpuid_fam_id") == _TURIN)
    for name, at in _CPUID:
        if name in value:
            out[at : at + 1] = _word(value, name, 1)
    for name, at in _FIRMWARE:
        parts = value.get(name)
        flat = {part: value.get(f"{name}_{part}") for part in ("build", "minor", "major")}
        source = parts if isinstance(parts, dict) else flat
        out[at : at + 3] = b"".join(_word(source, part, 1) for part in ("build", "minor", "major"))
    for name, at in _MITIGATIONS:
        if name in value:
            out[at : at + 8] = _word(value, name, 8)
    signature = value.get("signature")
    if not isinstance(signature, dict):
        raise _wrong("signature")
    for name, at in _SIGNATURE:
        out[at : at + _PART] = _array(signature, name, _PART)
    return bytes(out)


def _tcb(value: Any, fmc_first: bool) -> bytes:
    if not isinstance(value, dict):
        raise _wrong("tcb")
    one = {name: _word(value, name, 1) for name in ("bootloader", "tee", "snp", "microcode")}
    if "fmc" in value or fmc_first:
        return _word(value, "fmc", 1) + one["bootloader"] + one["tee"] + one["snp"] + bytes(3) + one["microcode"]
    return one["bootloader"] + one["tee"] + bytes(4) + one["snp"] + one["microcode"]


def _word(value: Mapping[str, Any], name: str, size: int) -> bytes:
    """A little-endian number."""
    number = value.get(name)
    if type(number) is not int or not 0 <= number < 1 << (8 * size):
        raise _wrong(name)
    return number.to_bytes(size, "little")


def _array(value: Mapping[str, Any], name: str, size: int) -> bytes:
    given = value.get(name)
    if isinstance(given, str):
        try:
            data = bytes.fromhex(given)
        except ValueError:
            raise _wrong(name) from None
    elif isinstance(given, list) and all(type(byte) is int and 0 <= byte < 256 for byte in given):
        data = bytes(given)
    else:
        raise _wrong(name)
    if len(data) != size:
        raise _wrong(name)
    return data


def _wrong(name: str) -> MalformedError:
    return MalformedError(f"{name} of the SNP report is missing or of another form", code="snp-json")
