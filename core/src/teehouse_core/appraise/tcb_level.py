# SPDX-License-Identifier: Apache-2.0
"""Which TCB level a machine is at: the first that fits, and how the statuses of its parts become one.

Source: Intel PCS API v4, "Get TCB Info", and the rules of Intel's quote verification library for merging. Our own
evaluation, held against `dcap_qvl`'s by the check `tdx.dcap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from teehouse_core.evidence.pck import SgxExtension
from teehouse_core.evidence.tcb import ModuleIdentity, PlatformLevel, SvnLevel, TcbLevels

__all__ = ["merge", "module_for", "platform_level", "relaunch", "svn_level"]

_OUT: Final = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
}


def platform_level(levels: TcbLevels, sgx: SgxExtension, tee_tcb_svn: bytes | None) -> PlatformLevel | None:
    """The first level that the machine reaches in every component. `tee_tcb_svn` (16 bytes) is None for SGX."""
    for level in levels.platform:
        if any(have < want for have, want in zip(sgx.components, level.sgx, strict=True)):
            continue
        if sgx.pce_svn < level.pce_svn:
            continue
        if tee_tcb_svn is not None:
            # From module generation 1 on, bytes 0 and 1 are the module's own version, which its identity covers.
            first = 2 if tee_tcb_svn[1] else 0
            if not level.tdx or any(h < w for h, w in zip(tee_tcb_svn[first:], level.tdx[first:], strict=True)):
                continue
        return level
    return None


def module_for(levels: TcbLevels, tee_tcb_svn: bytes) -> ModuleIdentity | None:
    """The identity that names the TDX module of this generation (byte 1 of the SVN)."""
    generation = tee_tcb_svn[1]
    if generation == 0:
        return levels.legacy_module
    name = f"TDX_{generation:02X}"
    return next((module for module in levels.modules if module.id.upper() == name), None)


def svn_level(levels: Sequence[SvnLevel], svn: int) -> SvnLevel | None:
    """The first level at or below `svn`."""
    return next((level for level in levels if svn >= level.isv_svn), None)


def merge(platform: str, parts: Iterable[str]) -> str:
    """The status of the whole: the platform's, made worse by each part that is out of date or revoked."""
    status = platform
    for part in parts:
        if part == "Revoked" or status == "Revoked":
            status = "Revoked"
        elif part != "UpToDate":  # modules and the QE know only up to date, out of date and revoked
            status = _OUT.get(status, status)
    return status


def relaunch(launch: str, running: str) -> str:
    """The status when the TD was launched under `launch` and runs under `running`, after an update beneath it.

    Out of date at launch only: what was measured then may be stale, and launching the TD again would mend it.
    """
    if not launch.startswith("OutOfDate") or running.startswith("OutOfDate") or running == "Revoked":
        return launch
    return "TDRelaunchAdvisedConfigurationNeeded" if "Configuration" in running else "TDRelaunchAdvised"
