# SPDX-License-Identifier: Apache-2.0
"""The levels inside Intel's TCB info and QE identity texts, parsed; `appraise.tcb_level` chooses among them.

Source: Intel PCS API v4, TCB info v3 and enclave identity v2. The texts are signed; nothing here looks at that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.collateral import load_signed_text

__all__ = ["ModuleIdentity", "PlatformLevel", "SvnLevel", "TcbLevels", "parse_qe_levels", "parse_tcb_levels"]

MAX_LEVELS: Final = 256  # levels in one list; genuine texts have under 30
COMPONENTS: Final = 16  # TCB components of one kind

STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)


@dataclass(frozen=True, slots=True)
class SvnLevel:
    """A level of one number: a TDX module's or the quoting enclave's security version."""

    isv_svn: int
    status: str
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlatformLevel:
    """A level of the platform: 16 SGX components, PCE SVN, and for TDX 16 TDX components (empty for SGX)."""

    sgx: tuple[int, ...]
    pce_svn: int
    tdx: tuple[int, ...]
    status: str
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """A TDX module generation (`TDX_01`): who signs it, which attributes it may have, its levels."""

    id: str
    mr_signer: bytes  # 48
    attributes: int  # u64, read little-endian, as in the report
    attributes_mask: int
    levels: tuple[SvnLevel, ...]


@dataclass(frozen=True, slots=True)
class TcbLevels:
    """All levels of one TCB info, in its order: the first that fits counts."""

    platform: tuple[PlatformLevel, ...]
    modules: tuple[ModuleIdentity, ...]
    legacy_module: ModuleIdentity | None  # for modules of generation 0, which have no levels


def parse_tcb_levels(text: str) -> TcbLevels:
    """Read the levels of a TCB info text. Raises `MalformedError`."""
    v = load_signed_text(text)
    legacy = (
        _module({"id": "TDX_00", "tcbLevels": [], **v["tdxModule"]}) if isinstance(v.get("tdxModule"), dict) else None
    )
    return TcbLevels(
        platform=tuple(_platform(item) for item in _items(v, "tcbLevels")),
        modules=tuple(_module(item) for item in _items(v, "tdxModuleIdentities")) if "tdxModuleIdentities" in v else (),
        legacy_module=legacy,
    )


def parse_qe_levels(text: str) -> tuple[SvnLevel, ...]:
    """Read the levels of a QE identity text. Raises `MalformedError`."""
    v = load_signed_text(text)
    return tuple(_svn_level(item) for item in _items(v, "tcbLevels"))


def _platform(item: Mapping[str, Any]) -> PlatformLevel:
    tcb = _table(item, "tcb")
    tdx = _components(tcb, "tdxtcbcomponents") if "tdxtcbcomponents" in tcb else ()
    status, advisories = _verdict(item)
    return PlatformLevel(_components(tcb, "sgxtcbcomponents"), _number(tcb, "pcesvn"), tdx, status, advisories)


def _module(item: Mapping[str, Any]) -> ModuleIdentity:
    name = item.get("id")
    if not isinstance(name, str) or len(name) > 16:
        raise MalformedError("a TDX module identity has no id", code="tcb-levels")
    return ModuleIdentity(
        id=name,
        mr_signer=_hex(item, "mrsigner", 48),
        attributes=int.from_bytes(_hex(item, "attributes", 8), "little"),
        attributes_mask=int.from_bytes(_hex(item, "attributesMask", 8), "little"),
        levels=tuple(_svn_level(level) for level in _items(item, "tcbLevels")),
    )


def _svn_level(item: Mapping[str, Any]) -> SvnLevel:
    return SvnLevel(_number(_table(item, "tcb"), "isvsvn"), *_verdict(item))


def _verdict(item: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    status, advisories = item.get("tcbStatus"), item.get("advisoryIDs", [])
    if status not in STATUSES:
        raise MalformedError("a TCB level has no known status", code="tcb-levels")
    short = isinstance(advisories, list) and len(advisories) <= MAX_LEVELS
    if not short or not all(isinstance(a, str) and len(a) <= 64 and a.isprintable() for a in advisories):
        raise MalformedError("a TCB level's advisories are not a list of names", code="tcb-levels")
    return str(status), tuple(advisories)


def _components(tcb: Mapping[str, Any], name: str) -> tuple[int, ...]:
    items = _items(tcb, name)
    if len(items) != COMPONENTS:
        raise MalformedError(f"{name} has not {COMPONENTS} members", code="tcb-levels")
    return tuple(_number(item, "svn") for item in items)


def _items(v: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = v.get(name)
    if not isinstance(items, list) or len(items) > MAX_LEVELS or not all(isinstance(i, dict) for i in items):
        raise MalformedError(f"{name} is no list of at most {MAX_LEVELS} objects", code="tcb-levels")
    return items


def _table(v: Mapping[str, Any], name: str) -> dict[str, Any]:
    item = v.get(name)
    if not isinstance(item, dict):
        raise MalformedError(f"{name} is no object", code="tcb-levels")
    return item


def _number(v: Mapping[str, Any], name: str) -> int:
    value = v.get(name)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise MalformedError(f"{name} is no security version", code="tcb-levels")
    return value


def _hex(v: Mapping[str, Any], name: str, size: int) -> bytes:
    value = v.get(name)
    try:
        data = bytes.fromhex(value) if isinstance(value, str) and len(value) == 2 * size else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise MalformedError(f"{name} is not {size} bytes of hex", code="tcb-levels")
    return data
