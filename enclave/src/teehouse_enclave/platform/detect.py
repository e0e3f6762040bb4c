# SPDX-License-Identifier: Apache-2.0
"""Choose the platform: the one that is named, or the strongest that the machine has. Never simulated unless named.

The order is tdx, sev-snp, Azure's vTPM, tpm. What the machine seems to have but cannot use is an error, not a step
down: a node that was meant for hardware must not start with less because a driver is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from teehouse_core.errors import LocalError
from teehouse_enclave.platform.azure_vtpm import AzureVtpmPlatform, is_azure
from teehouse_enclave.platform.base import Platform
from teehouse_enclave.platform.configfs_tsm import TSM_REPORT, TsmReports
from teehouse_enclave.platform.sev_guest import DEVICE as SEV_DEVICE
from teehouse_enclave.platform.sev_guest import SnpPlatform
from teehouse_enclave.platform.simulated import SimulatedPlatform
from teehouse_enclave.platform.tdx_guest import DEVICE as TDX_DEVICE
from teehouse_enclave.platform.tdx_guest import TdxPlatform
from teehouse_enclave.platform.tpm import DEVICE as TPM_DEVICE
from teehouse_enclave.platform.tpm import TpmPlatform

__all__ = ["PLATFORMS", "detect", "make_platform"]

PLATFORMS: Final = ("auto", "tdx", "sev-snp", "az-vtpm", "tpm", "simulated")
"""What a configuration may name."""

_PROVIDERS: Final = {"tdx_guest": "tdx", "sev_guest": "sev-snp"}


def detect(root: str = "/") -> str:
    """The strongest platform under `root`. Raises `LocalError` (`platform-none`) when there is none."""
    base = Path(root)
    if (base / TSM_REPORT).is_dir() and (provider := _provider(root)) is not None:
        if provider not in _PROVIDERS:
            hint = "name the platform in the configuration if this is meant"
            raise LocalError(f"configfs-tsm speaks for {provider!r}", code="platform-provider", hint=hint)
        return _PROVIDERS[provider]
    if (base / TDX_DEVICE).exists():
        return "tdx"
    if (base / SEV_DEVICE).exists():
        return "sev-snp"
    if (base / TPM_DEVICE).exists():
        return "az-vtpm" if is_azure(root) else "tpm"
    hint = "nothing is simulated by itself: name the platform 'simulated' to run without protection"
    raise LocalError("this machine can prove nothing about itself", code="platform-none", hint=hint)


def make_platform(
    name: str, root: str = "/", *, collateral: str | None = None, ak_chain: str | None = None
) -> Platform:
    """The platform of that name; `auto` is `detect`. Raises `LocalError`, `OperatorError`."""
    kind = detect(root) if name == "auto" else name
    if kind == "tdx":
        return TdxPlatform(root, collateral=collateral)
    if kind == "sev-snp":
        return SnpPlatform(root, collateral=collateral)
    if kind == "az-vtpm":
        return AzureVtpmPlatform(root, collateral=collateral)
    if kind == "tpm":
        return TpmPlatform(root, ak_chain=_read(ak_chain))
    if kind == "simulated":
        return SimulatedPlatform()
    raise LocalError(f"no platform {name!r}", code="platform-unsupported", hint=f"one of {', '.join(PLATFORMS)}")


def _provider(root: str) -> str | None:
    """Who answers behind configfs-tsm, or None where the directory is there and no driver behind it."""
    try:
        return TsmReports(root).provider()
    except LocalError as error:
        if error.code != "tsm-no-provider":
            raise
        return None


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="platform-file") from error
