# SPDX-License-Identifier: Apache-2.0
"""An Intel TDX guest: quotes through configfs-tsm, RTMR3 through the kernel's measurement registers.

Sources: kernel Documentation/ABI/testing/configfs-tsm-report and sysfs-devices-virtual-misc-tdx_guest; include/uapi/
linux/tdx-guest.h. The ioctl of /dev/tdx_guest gives only a TD report, which the local machine alone can check; a quote
needs the host's quoting service, and configfs is the way to it that the kernel supports.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from teehouse_core.errors import LocalError
from teehouse_enclave.platform.base import PlatformEvidence
from teehouse_enclave.platform.configfs_tsm import TsmReports
from teehouse_enclave.platform.workload import CollateralFile, WorkloadLog, check_report_data

__all__ = ["CCEL", "DEVICE", "RTMR3", "Ioctl", "TdxPlatform", "td_report"]

DEVICE: Final = "dev/tdx_guest"  # under the root, as are the two below
RTMR3: Final = "sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384"
CCEL: Final = "sys/firmware/acpi/tables/data/CCEL"
PROVIDER: Final = "tdx_guest"

TD_REPORT: Final = 1024  # bytes of TDREPORT_STRUCT
TDX_CMD_GET_REPORT0: Final = 0xC440_5401  # _IOWR('T', 1, struct tdx_report_req), 64 + 1024 bytes
MAX_LOG: Final = 4 * 1024 * 1024  # bytes of the firmware's log area

Ioctl = Callable[[int, int, bytearray], object]
"""`fcntl.ioctl`, or a test's fake of the driver."""


class TdxPlatform:
    """Implements `Platform` under `root`; `collateral` is a JSON file that the deployer keeps current."""

    type = "tdx"

    def __init__(self, root: str = "/", *, collateral: str | None = None, reports: TsmReports | None = None) -> None:
        self._root = Path(root)
        self._reports = reports or TsmReports(root)
        self._collateral = CollateralFile(collateral)
        self._log = WorkloadLog()
        provider = self._reports.provider()
        if provider != PROVIDER:
            raise LocalError(f"configfs-tsm speaks for {provider!r}, not for a TD", code="platform-provider")

    def extend(self, event: str, content: bytes) -> None:
        """Append to the log and extend RTMR3. Raises `LocalError` (`rtmr`) where the kernel has no register file."""
        digest = self._log.add(event, content)
        try:
            descriptor = os.open(self._root / RTMR3, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, digest)
            finally:
                os.close(descriptor)
        except OSError as error:
            hint = "a guest kernel 6.16 or later offers the TD's registers under /sys/devices/virtual/misc/tdx_guest"
            raise LocalError(f"cannot extend RTMR3: {error.strerror}", code="rtmr", hint=hint) from error

    def workload_log(self) -> list[dict[str, str]]:
        return self._log.entries()

    def close(self) -> None:
        """Nothing is held between reports."""

    def collect(self, report_data: bytes) -> PlatformEvidence:
        """A fresh quote with the firmware's log (CCEL) and the collateral at hand."""
        report = self._reports.collect(report_data)
        if report.provider != PROVIDER:
            raise LocalError(f"configfs-tsm speaks for {report.provider!r}", code="platform-provider")
        return PlatformEvidence(
            report=report.outblob, event_log=read_ccel(self._root), collateral=self._collateral.load()
        )


def read_ccel(root: Path) -> bytes | None:
    """The confidential-computing event log area, or None where the firmware made none."""
    try:
        data = (root / CCEL).read_bytes()
    except OSError:
        return None
    return data if 0 < len(data) <= MAX_LOG else None


def td_report(report_data: bytes, root: str = "/", *, ioctl: Ioctl = fcntl.ioctl) -> bytes:
    """TDREPORT_STRUCT over 64 bytes, by TDX_CMD_GET_REPORT0. No evidence: only this machine's module can check its MAC.

    Raises `LocalError` (`tdx-device`), with the way to a real quote as its hint.
    """
    check_report_data(report_data)
    request = bytearray(report_data + bytes(TD_REPORT))
    hint = "for a quote, a kernel with configfs-tsm is wanted; the host's vsock quoting service is not spoken here"
    try:
        descriptor = os.open(Path(root) / DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LocalError(f"cannot open /{DEVICE}: {error.strerror}", code="tdx-device", hint=hint) from error
    try:
        ioctl(descriptor, TDX_CMD_GET_REPORT0, request)
    except OSError as error:
        busy = error.errno in (errno.EBUSY, errno.EINTR)
        code = "tdx-busy" if busy else "tdx-device"
        raise LocalError(f"the TDX driver refuses: {error.strerror}", code=code, hint=hint) from error
    finally:
        os.close(descriptor)
    return bytes(request[len(report_data) :])
