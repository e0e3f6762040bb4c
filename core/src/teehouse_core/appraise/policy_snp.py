# SPDX-License-Identifier: Apache-2.0
"""The part of an Appraisal Policy that speaks of SEV-SNP: the table `snp` of a policy file.

A debug guest, reserved policy bits, an unsigned or unchained report: no field allows those. The defaults are those of
every preset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.policy_fields import Reader, bad, bits, count, digests, flag, table, texts, words
from teehouse_core.evidence.snp import family_model, product_of

__all__ = ["PRODUCTS", "REFUSED_PRODUCTS", "TCB_MINIMUM", "TCB_MINIMUM_STRICT", "SnpPolicy", "TcbMinimum", "read_snp"]

PRODUCTS: Final = ("Milan", "Genoa", "Turin")  # as AMD's key distribution service names them
REFUSED_PRODUCTS: Final[Mapping[str, str]] = {
    "Milan": "BadFuse (arXiv 2605.12990): software alone reads the root of every key of a Milan chip, so its reports "
    "can be forged at any TCB",
}
"""Why the defaults leave a product out, for the hint of `snp.product.allowed`."""

_COMPONENTS: Final = ("fmc", "bootloader", "tee", "snp", "microcode")
_CPUID: Final = re.compile(r"[0-9A-F]{6}")
MAX_FLOORS: Final = 32
_ABI: Final = re.compile(r"(\d{1,3})\.(\d{1,3})")


@dataclass(frozen=True, slots=True)
class TcbMinimum:
    """The lowest patch levels of one product, by component; 0 asks nothing. `fmc` matters on Turin only.

    `cpuid` narrows it to one kind of processor, since each counts its microcode by itself: six hex digits of CPUID
    leaf 1, EAX, as `A10F11`. Once one floor of a product names a processor, the processors that none names are refused.
    """

    product: str
    fmc: int = 0
    bootloader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0
    cpuid: str = ""

    @property
    def parts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in _COMPONENTS}

    def to_json(self) -> dict[str, Any]:
        """What it says, without what it leaves open."""
        head = {"product": self.product} | ({"cpuid": self.cpuid} if self.cpuid else {})
        return head | {name: level for name, level in self.parts.items() if level}


TCB_MINIMUM: Final = (
    TcbMinimum("Genoa", snp=0x17),
    TcbMinimum("Genoa", microcode=0x54, cpuid="A10F11"),
    TcbMinimum("Genoa", microcode=0x4F, cpuid="A10F12"),  # with stacked cache
    TcbMinimum("Genoa", microcode=0x17, cpuid="AA0F01"),
    TcbMinimum("Genoa", microcode=0x19, cpuid="AA0F02"),  # Bergamo and Siena
    TcbMinimum("Turin", microcode=0x47, cpuid="B00F21"),
    TcbMinimum("Turin", microcode=0x47, cpuid="B10F10"),  # with dense cores
)
"""Floors of every preset: below them a host loads microcode of its own (EntrySign), which voids all that SNP promises.

SNP level: AMD-SB-3019 (2025-02-03) for CVE-2024-56161, as microsoft/CCF issue 6812 quotes it. Microcode: the last
revisions that can be replaced, by Linux `arch/x86/kernel/cpu/microcode/amd.c` (AMD's maintainer, 2025-04 and 2025-11),
plus one; the TCB holds the low byte. fwupd's table of fixed revisions agrees where it speaks. None for Milan, whose
reports can be forged at any level.
"""

TCB_MINIMUM_STRICT: Final = (TcbMinimum("Genoa", snp=0x1B), *TCB_MINIMUM[1:], TcbMinimum("Turin", snp=0x04))
"""Of `strict`: SNP levels of AMD-SB-3023 too, as Linux `drivers/crypto/ccp/sev-dev.c` has them (AMD, 2026-04-16)."""


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """What an SNP report must satisfy."""

    products: tuple[str, ...] = ("Genoa", "Turin")
    report_version_minimum: int = 3
    alias_check_required: bool = True
    tcb_minimum: tuple[TcbMinimum, ...] = TCB_MINIMUM
    revocation: tuple[str, ...] = ("good",)  # "unknown" accepts evidence without a current revocation list
    provisional_firmware_allowed: bool = False
    migration_allowed: bool = False
    smt_allowed: bool = True
    vmpl: tuple[int, ...] = (0,)
    abi_minimum: str = "0.0"
    guest_svn_minimum: int = 0
    id_key_digests: tuple[str, ...] = ()  # hex SHA-384; empty asks for no ID block
    author_key_digests: tuple[str, ...] = ()  # hex SHA-384; empty asks for no author key
    csp_ids: tuple[str, ...] = ()  # providers whose VLEK is good; empty refuses every VLEK
    masked_chip_id_allowed: bool = False
    launch_mitigations: int = 0  # bits that LAUNCH_MIT_VECTOR must have
    current_mitigations: int = 0  # bits that CURRENT_MIT_VECTOR must have

    @property
    def abi(self) -> tuple[int, int]:
        major, _, minor = self.abi_minimum.partition(".")
        return int(major), int(minor)

    def minimum(self, product: str, cpuid: str) -> TcbMinimum | None:
        """All floors for that processor in one; None when some floor of its product names others, but not this one.

        `cpuid` as in `TcbMinimum`, empty when it is not known. Without any floor all levels are 0.
        """
        floors = [m for m in self.tcb_minimum if m.product == product]
        if any(m.cpuid for m in floors) and not any(m.cpuid == cpuid for m in floors if m.cpuid):
            return None
        applying = [m.parts for m in floors if m.cpuid in ("", cpuid)]
        levels = {n: max((parts[n] for parts in applying), default=0) for n in _COMPONENTS}
        return TcbMinimum(
            product,
            fmc=levels["fmc"],
            bootloader=levels["bootloader"],
            tee=levels["tee"],
            snp=levels["snp"],
            microcode=levels["microcode"],
        )

    def to_json(self) -> dict[str, Any]:
        """Every field, JSON-ready."""
        return {
            "products": list(self.products),
            "report_version_minimum": self.report_version_minimum,
            "alias_check_required": self.alias_check_required,
            "tcb_minimum": [m.to_json() for m in self.tcb_minimum],
            "revocation": list(self.revocation),
            "provisional_firmware_allowed": self.provisional_firmware_allowed,
            "migration_allowed": self.migration_allowed,
            "smt_allowed": self.smt_allowed,
            "vmpl": list(self.vmpl),
            "abi_minimum": self.abi_minimum,
            "guest_svn_minimum": self.guest_svn_minimum,
            "id_key_digests": list(self.id_key_digests),
            "author_key_digests": list(self.author_key_digests),
            "csp_ids": list(self.csp_ids),
            "masked_chip_id_allowed": self.masked_chip_id_allowed,
            "launch_mitigations": f"0x{self.launch_mitigations:016x}",
            "current_mitigations": f"0x{self.current_mitigations:016x}",
        }


def read_snp(name: str, item: Any, current: SnpPolicy) -> SnpPolicy:
    """`current` changed by the members of `item`. Raises `LocalError` (`policy-field`, `policy-value`)."""
    return table(name, item, current, _READERS)


def _tcb_minimum(name: str, item: Any) -> tuple[TcbMinimum, ...]:
    want = (
        f"a list of {{product, cpuid, {', '.join(_COMPONENTS)}}}, each product and cpuid once, levels 0 to 255, "
        'cpuid a processor of that product as "A10F11"'
    )
    if not isinstance(item, list) or len(item) > MAX_FLOORS:
        raise bad(name, want)
    found = []
    for entry in item:
        ok = isinstance(entry, Mapping) and {"product"} <= set(entry) <= {"product", "cpuid", *_COMPONENTS}
        if not ok or entry["product"] not in PRODUCTS:
            raise bad(name, want)
        cpuid = entry.get("cpuid", "")
        if "cpuid" in entry and not (isinstance(cpuid, str) and _CPUID.fullmatch(cpuid)):
            raise bad(name, want)
        if cpuid and product_of(*family_model(int(cpuid, 16))) != entry["product"]:
            raise bad(name, want)
        levels = {part: level for part, level in entry.items() if part in _COMPONENTS}
        if not all(type(level) is int and 0 <= level <= 255 for level in levels.values()):
            raise bad(name, want)
        found.append(TcbMinimum(entry["product"], cpuid=cpuid, **levels))
    if len({(m.product, m.cpuid) for m in found}) != len(found):
        raise bad(name, want)
    return tuple(found)


def _vmpl(name: str, item: Any) -> tuple[int, ...]:
    ok = isinstance(item, list) and all(type(level) is int and 0 <= level <= 3 for level in item)
    if not ok or len(set(item)) != len(item):
        raise bad(name, "a list of privilege levels 0 to 3, each once")
    return tuple(item)


def _abi(name: str, item: Any) -> str:
    match = _ABI.fullmatch(item) if isinstance(item, str) else None
    if match is None or not all(int(part) <= 255 for part in match.groups()):
        raise bad(name, 'a version as "1.55"')
    return str(item)


def _csp_ids(name: str, item: Any) -> tuple[str, ...]:
    return texts(name, item, "the names in VLEK certificates", lambda i: 1 <= len(i) <= 128 and i.isprintable())


_READERS: Final[dict[str, Reader]] = {
    "products": words(*PRODUCTS),
    "report_version_minimum": count(2, 5),
    "alias_check_required": flag,
    "tcb_minimum": _tcb_minimum,
    "revocation": words("good", "unknown"),
    "provisional_firmware_allowed": flag,
    "migration_allowed": flag,
    "smt_allowed": flag,
    "vmpl": _vmpl,
    "abi_minimum": _abi,
    "guest_svn_minimum": count(0, 0xFFFF_FFFF),
    "id_key_digests": digests(48),
    "author_key_digests": digests(48),
    "csp_ids": _csp_ids,
    "masked_chip_id_allowed": flag,
    "launch_mitigations": bits,
    "current_mitigations": bits,
}
