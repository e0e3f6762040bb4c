# SPDX-License-Identifier: Apache-2.0
"""What a policy says about GPUs and switches: how many of which kind, and what each must be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.policy_fields import bad, flag, table, texts, words

__all__ = ["DEVICE_KINDS", "DeviceDemand", "GpuPolicy", "read_demands", "read_gpu", "version_key"]

DEVICE_KINDS: Final = ("nvidia-gpu", "nvidia-nvswitch")
ARCHITECTURES: Final = ("HOPPER", "BLACKWELL", "LS10")
MODES: Final = ("SPT", "MPT", "PPCIE", "unreported")
MAX_COUNT: Final = 64  # devices in one bundle

_DRIVER: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,5}){1,3}")
_VBIOS: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4}")


@dataclass(frozen=True, slots=True)
class DeviceDemand:
    """At least `count` devices of `kind`, all accepted; of architecture `arch` alone when that is not empty."""

    kind: str
    count: int
    arch: str = ""

    def to_json(self) -> dict[str, Any]:
        arch = {"arch": self.arch} if self.arch else {}
        return {"kind": self.kind, "count": self.count, **arch}

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.count), self.arch, self.kind)))


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """What every device in a bundle must satisfy, whether a device is demanded or not.

    `drivers`, `vbios`: versions allowed, `"*"` for any; VBIOS as `96.00.5E.00.01`. `min_driver`: empty for none.
    `modes`: confidential-computing modes allowed: `SPT` one GPU, `MPT` several with encrypted links, `PPCIE` several
    with protected PCIe and switches, `unreported` by drivers too old to say. `rim_required`: measurements must match
    signed manifests. `revocation_required`: OCSP or CRL must say good; a certificate on hold needs `hold_allowed`.
    What is loosened here still refuses when it is there and wrong: a bad manifest, a revoked certificate.
    """

    drivers: tuple[str, ...] = ("*",)
    min_driver: str = ""
    vbios: tuple[str, ...] = ("*",)
    modes: tuple[str, ...] = ("SPT", "MPT", "PPCIE")
    rim_required: bool = True
    revocation_required: bool = True
    hold_allowed: bool = False

    def to_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def version_key(version: str) -> tuple[int, ...]:
    """A driver version as numbers, for comparing. Raises `ValueError` when it is none."""
    if not _DRIVER.fullmatch(version):
        raise ValueError("not a driver version")
    return tuple(int(part) for part in version.split("."))


def read_gpu(name: str, item: Any, current: GpuPolicy) -> GpuPolicy:
    """Read the table `gpu` of a policy file, member by member."""
    readers = {
        "drivers": lambda n, i: _versions(n, i, _DRIVER, "590.48.01"),
        "min_driver": _min_driver,
        "vbios": lambda n, i: _versions(n, i, _VBIOS, "96.00.5E.00.01"),
        "modes": words(*MODES),
        "rim_required": flag,
        "revocation_required": flag,
        "hold_allowed": flag,
    }
    return table(name, item, current, readers, "gpu field")


def read_demands(name: str, item: Any) -> tuple[DeviceDemand, ...]:
    """Read `devices`, a list of {kind, count, arch?} with each kind and architecture once."""
    want = f"a list of {{kind, count, arch?}}; kinds are {', '.join(DEVICE_KINDS)}, count 1 to {MAX_COUNT}"
    if not isinstance(item, list) or len(item) > len(DEVICE_KINDS) * len(ARCHITECTURES):
        raise bad(name, want)
    demands = []
    for demand in item:
        if not isinstance(demand, Mapping) or not {"kind", "count"} <= set(demand) <= {"kind", "count", "arch"}:
            raise bad(name, want)
        kind, count, arch = demand["kind"], demand["count"], demand.get("arch", "")
        if kind not in DEVICE_KINDS or type(count) is not int or not 1 <= count <= MAX_COUNT:
            raise bad(name, want)
        if arch not in ("", *ARCHITECTURES):
            raise bad(name, f"{want}; architectures are {', '.join(ARCHITECTURES)}")
        demands.append(DeviceDemand(kind, count, arch))
    if len({(d.kind, d.arch) for d in demands}) != len(demands):
        raise bad(name, "a list with each kind and architecture once")
    return tuple(demands)


def _versions(name: str, item: Any, form: re.Pattern[str], example: str) -> tuple[str, ...]:
    return texts(name, item, f'versions as "{example}", or "*"', lambda i: i == "*" or form.fullmatch(i))


def _min_driver(name: str, item: Any) -> str:
    if not isinstance(item, str) or (item and not _DRIVER.fullmatch(item)):
        raise bad(name, 'a driver version as "590.48.01", or empty for none')
    return item
