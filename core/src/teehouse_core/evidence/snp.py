# SPDX-License-Identifier: Apache-2.0
"""Parse an AMD SEV-SNP attestation report, versions 2 to 5, into frozen values.

Source: AMD 56860, SEV Secure Nested Paging Firmware ABI, ATTESTATION_REPORT and TCB_VERSION; the TCB layout of family
1Ah (Turin) puts the FMC first. This module checks shape only: the length, the version, that what is reserved is zero
is written down and not judged. It verifies no signature and believes nothing; that is `appraise.checks_snp`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.fields import Field

__all__ = [
    "REPORT_SIZE",
    "SIGNED_SIZE",
    "VERSIONS",
    "GuestPolicy",
    "PlatformInfo",
    "SnpReport",
    "Tcb",
    "cpuid_text",
    "family_model",
    "fields",
    "kds_path",
    "parse_report",
    "product_of",
]

REPORT_SIZE: Final = 0x4A0  # bytes: 1184
SIGNED_SIZE: Final = 0x2A0  # bytes under the signature: 672
VERSIONS: Final = (2, 3, 4, 5)  # 1 was never shipped; a later one may move what we read

SIGNATURE_PART: Final = 72  # bytes of r and of s, little-endian; P-384 fills 48 of them

VERSION_CPUID: Final = 3  # first version that says which processor made the report
VERSION_MITIGATIONS: Final = 5  # first version with mitigation vectors


@dataclass(frozen=True, slots=True)
class Tcb:
    """One TCB_VERSION by component; `fmc` is None where the product has none. `raw` are the 8 bytes."""

    raw: bytes
    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None

    @classmethod
    def parse(cls, raw: bytes, *, fmc_first: bool) -> Tcb:
        """Read 8 bytes; `fmc_first` is the layout from family 1Ah on."""
        if len(raw) != 8:
            raise MalformedError("a TCB version has 8 bytes", code="snp-tcb")
        if fmc_first:
            return cls(raw, raw[1], raw[2], raw[3], raw[7], raw[0])
        return cls(raw, raw[0], raw[1], raw[6], raw[7])

    @property
    def parts(self) -> dict[str, int]:
        """Component name to security patch level, those the product has."""
        found = {"bootloader": self.bootloader, "tee": self.tee, "snp": self.snp, "microcode": self.microcode}
        return found if self.fmc is None else {"fmc": self.fmc, **found}

    @property
    def reserved(self) -> bytes:
        """The bytes that are no component; zero in every genuine report."""
        return self.raw[2:6] if self.fmc is None else self.raw[4:7]

    def below(self, other: Tcb) -> tuple[str, ...]:
        """The components in which this one is lower than `other`."""
        mine, theirs = self.parts, other.parts
        return tuple(name for name in mine if mine[name] < theirs.get(name, 0))

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.parts.items())


@dataclass(frozen=True, slots=True)
class GuestPolicy:
    """The guest policy by bit (AMD 56860, table "Guest Policy"); `raw` is the 64-bit word."""

    raw: int

    @property
    def abi(self) -> tuple[int, int]:
        """The lowest firmware ABI (major, minor) that the guest accepts to run on."""
        return self.raw >> 8 & 0xFF, self.raw & 0xFF

    @property
    def smt(self) -> bool:
        return bool(self.raw >> 16 & 1)

    @property
    def must_be_one(self) -> bool:
        return bool(self.raw >> 17 & 1)

    @property
    def migrate_ma(self) -> bool:
        return bool(self.raw >> 18 & 1)

    @property
    def debug(self) -> bool:
        return bool(self.raw >> 19 & 1)

    @property
    def single_socket(self) -> bool:
        return bool(self.raw >> 20 & 1)

    @property
    def reserved(self) -> int:
        """Bits 63:26, which must be zero."""
        return self.raw >> 26


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """PLATFORM_INFO by bit; `raw` is the 64-bit word."""

    raw: int

    @property
    def smt(self) -> bool:
        return bool(self.raw & 1)

    @property
    def tsme(self) -> bool:
        return bool(self.raw >> 1 & 1)

    @property
    def ecc(self) -> bool:
        return bool(self.raw >> 2 & 1)

    @property
    def rapl_disabled(self) -> bool:
        return bool(self.raw >> 3 & 1)

    @property
    def ciphertext_hiding(self) -> bool:
        return bool(self.raw >> 4 & 1)

    @property
    def alias_check_complete(self) -> bool:
        """Memory aliasing was checked since the last reset (AMD-SB-3015); meaningful from report version 3 on."""
        return bool(self.raw >> 5 & 1)


_GUEST_BITS: Final = {
    16: "smt",
    17: "must_be_one",
    18: "migrate_ma",
    19: "debug",
    20: "single_socket",
    21: "cxl_allow",
    22: "mem_aes_256_xts",
    23: "rapl_disable",
    24: "ciphertext_hiding",
    25: "page_swap_disable",
}
_PLATFORM_BITS: Final = {
    0: "smt_enabled",
    1: "tsme_enabled",
    2: "ecc_enabled",
    3: "rapl_disabled",
    4: "ciphertext_hiding_enabled",
    5: "alias_check_complete",
    7: "tio_enabled",
}


@dataclass(frozen=True, slots=True)
class SnpReport:
    """One whole report. Integers are little-endian on the wire; versions are (major, minor, build)."""

    raw: bytes = field(repr=False)
    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes  # 16
    image_id: bytes  # 16
    vmpl: int
    signature_algorithm: int
    current_tcb: Tcb
    platform_info: PlatformInfo
    key_info: int
    report_data: bytes  # 64
    measurement: bytes  # 48
    host_data: bytes  # 32
    id_key_digest: bytes  # 48
    author_key_digest: bytes  # 48
    report_id: bytes  # 32
    report_id_ma: bytes  # 32
    reported_tcb: Tcb
    cpuid: tuple[int, int, int] | None  # family, model, stepping; None before version 3
    chip_id: bytes  # 64
    committed_tcb: Tcb
    current_version: tuple[int, int, int]
    committed_version: tuple[int, int, int]
    launch_tcb: Tcb
    launch_mitigations: int | None  # None before version 5
    current_mitigations: int | None
    r: bytes = field(repr=False)  # 72, little-endian
    s: bytes = field(repr=False)  # 72, little-endian
    reserved_set: tuple[str, ...] = ()  # reserved ranges that are not zero, as "0x04c-0x050"

    @property
    def signed(self) -> bytes:
        return self.raw[:SIGNED_SIZE]

    @property
    def author_key_enabled(self) -> bool:
        return bool(self.key_info & 1)

    @property
    def mask_chip_key(self) -> bool:
        """The host withheld the chip's key: the report is not signed."""
        return bool(self.key_info >> 1 & 1)

    @property
    def signing_key(self) -> Literal["VCEK", "VLEK", "none", "unknown"]:
        kind = self.key_info >> 2 & 7
        return "VCEK" if kind == 0 else "VLEK" if kind == 1 else "none" if kind == 7 else "unknown"

    @property
    def product(self) -> str | None:
        """The product line that the report's CPUID names; None before version 3 and for one we do not know."""
        return None if self.cpuid is None else product_of(self.cpuid[0], self.cpuid[1])


def cpuid_text(family: int, model: int, stepping: int) -> str:
    """Six hex digits of CPUID leaf 1, EAX, as vendors name a processor: family 19h, model 11h, stepping 1 is A10F11."""
    return f"{max(family - 0xF, 0):X}{model >> 4:X}0F{model & 0xF:X}{stepping & 0xF:X}"


def family_model(eax: int) -> tuple[int, int]:
    """Family and model that CPUID leaf 1, EAX, stands for; the inverse of `cpuid_text`."""
    family, model = eax >> 8 & 0xF, eax >> 4 & 0xF
    return (family + (eax >> 20 & 0xFF), model | (eax >> 12 & 0xF0)) if family == 0xF else (family, model)


def product_of(family: int, model: int) -> str | None:
    """The KDS product line of a processor (AMD 57230); Bergamo and Siena (19h, A0h) are under Genoa's keys."""
    if family == 0x19:
        return {0x0: "Milan", 0x1: "Genoa", 0xA: "Genoa"}.get(model >> 4)
    if family == 0x1A:
        return "Turin" if model >> 4 in (0x0, 0x1) else None
    return None


def kds_path(report: SnpReport) -> str | None:
    """Where AMD's key distribution service has the VCEK of this report; None when the report does not say enough."""
    product = report.product
    if report.signing_key != "VCEK" or product is None or not any(report.chip_id):
        return None
    chip = report.chip_id[:8] if report.reported_tcb.fmc is not None else report.chip_id
    short = {"fmc": "fmc", "bootloader": "bl", "tee": "tee", "snp": "snp", "microcode": "ucode"}
    query = "&".join(f"{short[name]}SPL={level}" for name, level in report.reported_tcb.parts.items())
    return f"/vcek/v1/{product}/{chip.hex()}?{query}"


def parse_report(data: bytes) -> SnpReport:
    """Parse one report of exactly 1184 bytes.

    Verifies nothing. Raises `MalformedError` with code `snp-length` or `snp-version`.
    """
    if len(data) != REPORT_SIZE:
        raise MalformedError(f"an SNP report has {REPORT_SIZE} bytes, not {len(data)}", code="snp-length")
    version = _u(data, 0x000, 4)
    if version not in VERSIONS:
        hint = f"report versions {VERSIONS[0]} to {VERSIONS[-1]} are supported"
        raise MalformedError(f"SNP report version {version}", code="snp-version", hint=hint)
    cpuid = (data[0x188], data[0x189], data[0x18A]) if version >= VERSION_CPUID else None
    fmc_first = cpuid is not None and cpuid[0] >= 0x1A
    mitigations = version >= VERSION_MITIGATIONS
    tcbs = {at: Tcb.parse(data[at : at + 8], fmc_first=fmc_first) for at in (0x038, 0x180, 0x1E0, 0x1F0)}
    reserved = [f"0x{a:03x}-0x{b:03x}" for a, b in _reserved(version) if any(data[a:b])]
    reserved += [f"tcb at 0x{at:03x}" for at, tcb in tcbs.items() if any(tcb.reserved)]
    key_info = _u(data, 0x048, 4)
    if key_info >> 5:
        reserved.append("key_info")
    return SnpReport(
        raw=data,
        version=version,
        guest_svn=_u(data, 0x004, 4),
        policy=GuestPolicy(_u(data, 0x008, 8)),
        family_id=data[0x010:0x020],
        image_id=data[0x020:0x030],
        vmpl=_u(data, 0x030, 4),
        signature_algorithm=_u(data, 0x034, 4),
        current_tcb=tcbs[0x038],
        platform_info=PlatformInfo(_u(data, 0x040, 8)),
        key_info=key_info,
        report_data=data[0x050:0x090],
        measurement=data[0x090:0x0C0],
        host_data=data[0x0C0:0x0E0],
        id_key_digest=data[0x0E0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        report_id_ma=data[0x160:0x180],
        reported_tcb=tcbs[0x180],
        cpuid=cpuid,
        chip_id=data[0x1A0:0x1E0],
        committed_tcb=tcbs[0x1E0],
        current_version=(data[0x1EA], data[0x1E9], data[0x1E8]),
        committed_version=(data[0x1EE], data[0x1ED], data[0x1EC]),
        launch_tcb=tcbs[0x1F0],
        launch_mitigations=_u(data, 0x1F8, 8) if mitigations else None,
        current_mitigations=_u(data, 0x200, 8) if mitigations else None,
        r=data[0x2A0:0x2E8],
        s=data[0x2E8:0x330],
        reserved_set=tuple(reserved),
    )


def fields(raw: bytes) -> list[Field]:
    """Every field with its byte range; those that are not bits of another cover each byte of the report once.

    Raises what `parse_report` raises.
    """
    report = parse_report(raw)
    found = [Field(path, start, start + size, _text(raw, start, size, kind)) for path, start, size, kind in _LAYOUT]
    if report.cpuid is not None:
        names = ("family", "model", "stepping")
        found += [Field(f"cpuid.{n}", 0x188 + i, 0x189 + i, f"0x{raw[0x188 + i]:02x}") for i, n in enumerate(names)]
    if report.version >= VERSION_MITIGATIONS:
        found += [
            Field("launch_mitigation_vector", 0x1F8, 0x200, _text(raw, 0x1F8, 8, "bits")),
            Field("current_mitigation_vector", 0x200, 0x208, _text(raw, 0x200, 8, "bits")),
        ]
    found += [Field(f"reserved.0x{a:03x}", a, b, raw[a:b].hex()) for a, b in _reserved(report.version)]
    found += _bits(report)
    for path, tcb, start in (
        ("current_tcb", report.current_tcb, 0x038),
        ("reported_tcb", report.reported_tcb, 0x180),
        ("committed_tcb", report.committed_tcb, 0x1E0),
        ("launch_tcb", report.launch_tcb, 0x1F0),
    ):
        found += [Field(f"{path}.{name}", start, start + 8, str(value)) for name, value in tcb.parts.items()]
    return sorted(found, key=lambda f: (f.start, -f.end, "." in f.path))


def _bits(report: SnpReport) -> list[Field]:
    policy, info = report.policy, report.platform_info
    found = [Field("policy.abi", 0x008, 0x010, f"{policy.abi[0]}.{policy.abi[1]}")]
    found += [Field(f"policy.{n}", 0x008, 0x010, str(policy.raw >> bit & 1)) for bit, n in _GUEST_BITS.items()]
    found += [Field(f"platform_info.{n}", 0x040, 0x048, str(info.raw >> bit & 1)) for bit, n in _PLATFORM_BITS.items()]
    found += [
        Field("key_info.author_key_enabled", 0x048, 0x04C, str(int(report.author_key_enabled))),
        Field("key_info.mask_chip_key", 0x048, 0x04C, str(int(report.mask_chip_key))),
        Field("key_info.signing_key", 0x048, 0x04C, report.signing_key),
    ]
    return found


_LAYOUT: Final = (
    ("version", 0x000, 4, "int"),
    ("guest_svn", 0x004, 4, "int"),
    ("policy", 0x008, 8, "bits"),
    ("family_id", 0x010, 16, "hex"),
    ("image_id", 0x020, 16, "hex"),
    ("vmpl", 0x030, 4, "int"),
    ("signature_algorithm", 0x034, 4, "int"),
    ("current_tcb", 0x038, 8, "hex"),
    ("platform_info", 0x040, 8, "bits"),
    ("key_info", 0x048, 4, "bits"),
    ("report_data", 0x050, 64, "hex"),
    ("measurement", 0x090, 48, "hex"),
    ("host_data", 0x0C0, 32, "hex"),
    ("id_key_digest", 0x0E0, 48, "hex"),
    ("author_key_digest", 0x110, 48, "hex"),
    ("report_id", 0x140, 32, "hex"),
    ("report_id_ma", 0x160, 32, "hex"),
    ("reported_tcb", 0x180, 8, "hex"),
    ("chip_id", 0x1A0, 64, "hex"),
    ("committed_tcb", 0x1E0, 8, "hex"),
    ("current_build", 0x1E8, 1, "int"),
    ("current_minor", 0x1E9, 1, "int"),
    ("current_major", 0x1EA, 1, "int"),
    ("committed_build", 0x1EC, 1, "int"),
    ("committed_minor", 0x1ED, 1, "int"),
    ("committed_major", 0x1EE, 1, "int"),
    ("launch_tcb", 0x1F0, 8, "hex"),
    ("signature.r", 0x2A0, SIGNATURE_PART, "hex"),
    ("signature.s", 0x2E8, SIGNATURE_PART, "hex"),
)


def _reserved(version: int) -> tuple[tuple[int, int], ...]:
    """The reserved ranges of a version, each (start, end)."""
    return (
        (0x04C, 0x050),
        (0x18B if version >= VERSION_CPUID else 0x188, 0x1A0),
        (0x1EB, 0x1EC),
        (0x1EF, 0x1F0),
        (0x208 if version >= VERSION_MITIGATIONS else 0x1F8, SIGNED_SIZE),
        (0x330, REPORT_SIZE),
    )


def _text(raw: bytes, start: int, size: int, kind: str) -> str:
    if kind == "hex":
        return raw[start : start + size].hex()
    value = _u(raw, start, size)
    return str(value) if kind == "int" else f"0x{value:0{2 * size}x}"


def _u(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")
