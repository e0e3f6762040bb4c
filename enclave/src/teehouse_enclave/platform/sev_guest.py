# SPDX-License-Identifier: Apache-2.0
"""An AMD SEV-SNP guest: reports through configfs-tsm or /dev/sev-guest, certificates from the host's table.

Sources: include/uapi/linux/sev-guest.h; AMD 56421 (GHCB) §4.1.8.1 for the certificate table. SNP has no register that
a guest could extend: the host sets HOST_DATA once, at launch, to the value that the workload log will have. The node
measures itself all the same, and makes no report when HOST_DATA says otherwise.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hmac
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from teehouse_core.errors import LocalError, OperatorError, TeehouseError
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.replay import host_data
from teehouse_core.evidence.snp import parse_report
from teehouse_enclave.platform.base import PlatformEvidence
from teehouse_enclave.platform.configfs_tsm import TsmReports
from teehouse_enclave.platform.workload import CollateralFile, WorkloadLog, check_report_data

__all__ = ["DEVICE", "Ioctl", "SevDevice", "SnpPlatform", "certificate_table"]

DEVICE: Final = "dev/sev-guest"  # under the root
PROVIDER: Final = "sev_guest"
REPORT: Final = 1184  # bytes

SNP_GET_REPORT: Final = 0xC020_5300  # _IOWR('S', 0, struct snp_guest_request_ioctl), 32 bytes
SNP_GET_DERIVED_KEY: Final = 0xC020_5301
SNP_GET_EXT_REPORT: Final = 0xC020_5302
_RESPONSE: Final = 4000  # bytes of struct snp_report_resp: status, size, 24 reserved, then the report
_HEAD: Final = 32
_DERIVED_RESPONSE: Final = 64  # bytes of struct snp_derived_key_resp: status, 28 reserved, then the key
DERIVED_KEY: Final = 32  # bytes
_CERTIFICATES: Final = 16 * 1024  # bytes offered first; the host says how many it wants
MAX_CERTIFICATES: Final = 1024 * 1024
ATTEMPTS: Final = 3
_INVALID_LENGTH: Final = 1  # SNP_GUEST_VMM_ERR_INVALID_LEN, in the upper half of exitinfo2
_BUSY: Final = 2  # SNP_GUEST_VMM_ERR_BUSY

Ioctl = Callable[[int, int, Any], object]
"""`fcntl.ioctl`, or a test's fake of the driver."""

_GUIDS: Final = {
    "vcek": "63da758d-e664-4564-adc5-f4b93be8accd",
    "vlek": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ask": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ark": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "crl": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
}


class _ReportRequest(ctypes.Structure):
    _fields_ = (("user_data", ctypes.c_uint8 * 64), ("vmpl", ctypes.c_uint32), ("rsvd", ctypes.c_uint8 * 28))


class _ExtendedRequest(ctypes.Structure):
    _fields_ = (("data", _ReportRequest), ("certs_address", ctypes.c_uint64), ("certs_len", ctypes.c_uint32))


class _DerivedKeyRequest(ctypes.Structure):
    _fields_ = (
        ("root_key_select", ctypes.c_uint32),
        ("rsvd", ctypes.c_uint32),
        ("guest_field_select", ctypes.c_uint64),
        ("vmpl", ctypes.c_uint32),
        ("guest_svn", ctypes.c_uint32),
        ("tcb_version", ctypes.c_uint64),
    )


class _GuestRequest(ctypes.Structure):
    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("exitinfo2", ctypes.c_uint64),
    )


class SevDevice:
    """The driver's two requests. `ioctl` and the opened descriptor are arguments so that a test can play the driver."""

    def __init__(self, root: str = "/", *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self._path = Path(root) / DEVICE
        self._ioctl = ioctl

    def report(self, report_data: bytes, vmpl: int = 0) -> bytes:
        """SNP_GET_REPORT: a report over 64 bytes. Raises `LocalError` (`sev-device`), `OperatorError` (`sev-busy`)."""
        check_report_data(report_data)
        request = _request(report_data, vmpl)
        return self._exchange(SNP_GET_REPORT, request, None)[0]

    def extended_report(self, report_data: bytes, vmpl: int = 0) -> tuple[bytes, bytes]:
        """SNP_GET_EXT_REPORT: the report, and the host's certificate table, which is empty when it has none."""
        check_report_data(report_data)
        size = _CERTIFICATES
        for _ in range(ATTEMPTS):
            table = ctypes.create_string_buffer(size)
            request = _ExtendedRequest(_request(report_data, vmpl), ctypes.addressof(table), size)
            report, wanted = self._exchange(SNP_GET_EXT_REPORT, request, request)
            if report:
                return report, table.raw
            if not size < wanted <= MAX_CERTIFICATES:
                raise LocalError("the host's certificate table has an impossible size", code="sev-certificates")
            size = wanted
        raise LocalError("the host's certificate table keeps growing", code="sev-certificates")

    def derived_key(self, fields: int, vmpl: int = 0) -> bytes:
        """SNP_GET_DERIVED_KEY: 32 bytes out of the chip's own secret (VCEK) and the guest's `fields` (AMD 56860 §7.2).

        Raises `LocalError` (`sev-device`, `sev-report`).
        """
        response = ctypes.create_string_buffer(_DERIVED_RESPONSE)
        self._ask(SNP_GET_DERIVED_KEY, _DerivedKeyRequest(0, 0, fields, vmpl, 0, 0), response, None)
        status, key = int.from_bytes(response.raw[:4], "little"), response.raw[_HEAD : _HEAD + DERIVED_KEY]
        if status != 0 or not any(key):
            raise LocalError(f"the security processor derives no key: status {status}", code="sev-report")
        return key

    def _exchange(self, code: int, request: Any, extended: _ExtendedRequest | None) -> tuple[bytes, int]:
        """A report, or nothing and the table size that the host wants."""
        response = ctypes.create_string_buffer(_RESPONSE)
        wanted = self._ask(code, request, response, extended)
        if wanted is not None:
            return b"", wanted
        raw = response.raw
        status, size = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
        if status != 0 or size != REPORT:
            raise LocalError(f"the security processor refuses: status {status}, {size} bytes", code="sev-report")
        return raw[_HEAD : _HEAD + REPORT], 0

    def _ask(self, code: int, request: Any, response: Any, extended: _ExtendedRequest | None) -> int | None:
        """One ioctl: None when it was answered, else the table size that the host wants."""
        message = _GuestRequest(1, ctypes.addressof(request), ctypes.addressof(response), 0)
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            hint = "is this an SEV-SNP guest, and may this process use the device?"
            raise LocalError(f"cannot open /{DEVICE}: {error.strerror}", code="sev-device", hint=hint) from error
        try:
            self._ioctl(descriptor, code, message)
        except OSError as error:
            host = message.exitinfo2 >> 32
            if extended is not None and error.errno in (errno.EIO, errno.ENOSPC) and host == _INVALID_LENGTH:
                return int(extended.certs_len)
            if host == _BUSY or error.errno in (errno.EAGAIN, errno.EBUSY):
                raise OperatorError("the host limits how often reports are made", code="sev-busy") from error
            text = f"the SEV driver refuses: {error.strerror} (exitinfo2 0x{message.exitinfo2:016x})"
            raise LocalError(text, code="sev-device") from error
        finally:
            os.close(descriptor)
        return None


def certificate_table(table: bytes) -> dict[str, bytes]:
    """The DER blobs in a host's table by name: vcek, vlek, ask, ark, crl. Unknown entries are passed over.

    Raises `LocalError` (`sev-certificates`) when an entry points outside the table.
    """
    found: dict[str, bytes] = {}
    names = {form: name for name, text in _GUIDS.items() for form in _forms(text)}
    for at in range(0, len(table) - 23, 24):
        guid = table[at : at + 16]
        if not any(guid):
            break
        start, size = (int.from_bytes(table[at + n : at + n + 4], "little") for n in (16, 20))
        if start + size > len(table):
            raise LocalError("an entry of the host's certificate table points outside it", code="sev-certificates")
        if guid in names and size:
            found[names[guid]] = table[start : start + size]
    return found


class SnpPlatform:
    """Implements `Platform` under `root`; configfs-tsm where there is one, /dev/sev-guest otherwise."""

    type = "sev-snp"

    def __init__(
        self,
        root: str = "/",
        *,
        collateral: str | None = None,
        reports: TsmReports | None = None,
        device: SevDevice | None = None,
    ) -> None:
        self._reports: TsmReports | None = reports or TsmReports(root)
        self._device = device or SevDevice(root)
        self._collateral = CollateralFile(collateral)
        self._log = WorkloadLog()
        try:
            provider = self._reports.provider()
        except LocalError as error:
            if error.code != "tsm-missing":
                raise
            self._reports = None
        else:
            if provider != PROVIDER:
                raise LocalError(f"configfs-tsm speaks for {provider!r}, not for SNP", code="platform-provider")

    def extend(self, event: str, content: bytes) -> None:
        """Append to the log; `collect` compares the whole of it with HOST_DATA."""
        self._log.add(event, content)

    def workload_log(self) -> list[dict[str, str]]:
        return self._log.entries()

    def close(self) -> None:
        """Nothing is held between reports."""

    def collect(self, report_data: bytes) -> PlatformEvidence:
        """A fresh report with the certificates at hand. Raises `LocalError` (`host-data`) when the log is another's."""
        check_report_data(report_data)
        if self._reports is not None:
            found = self._reports.collect(report_data)
            report, table = found.outblob, found.auxblob
        else:
            report, table = self._device.extended_report(report_data)
        expected, held = host_data(self._log.digests()), parse_report(report).host_data
        if not hmac.compare_digest(expected, held):
            hint = f"launch the guest with host-data {expected.hex()}, or run what it was launched for"
            raise LocalError("HOST_DATA stands for another workload than this one", code="host-data", hint=hint)
        collateral = dict(self._collateral.load())
        if "amd" not in collateral and (amd := _amd(table)) is not None:
            collateral["amd"] = amd
        return PlatformEvidence(report=report, collateral=collateral)


def _amd(table: bytes) -> dict[str, str] | None:
    """The bundle's `amd` member out of the host's table, or None when it holds no leaf."""
    try:
        blobs = certificate_table(table)
        leaf = blobs.get("vcek") or blobs.get("vlek")
        if leaf is None:
            return None
        chain = tuple(blobs[name] for name in ("ask", "ark") if name in blobs)
        return AmdCollateral(leaf, chain, blobs.get("crl")).to_dict()
    except TeehouseError:
        return None


def _request(report_data: bytes, vmpl: int) -> _ReportRequest:
    return _ReportRequest((ctypes.c_uint8 * 64)(*report_data), vmpl)


def _forms(text: str) -> tuple[bytes, bytes]:
    """A GUID in both byte orders: hosts write either."""
    one = uuid.UUID(text)
    return one.bytes, one.bytes_le
