# SPDX-License-Identifier: Apache-2.0
"""Faithful fakes of kernel interfaces, each named after what it plays: configfs-tsm, the two drivers, NVML."""

from __future__ import annotations

import ctypes
import errno
import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass
class FakeTsmKernel:
    """configfs-tsm in memory, by the ABI text: `generation` counts writes, a new `inblob` makes a new report.

    `interfere` runs before each read of `outblob` and may write to the entry as another process would; `fail` gives
    an errno per operation name, taken one at a time.
    """

    provider: str = "tdx_guest"
    report: Callable[[bytes], bytes] = lambda inblob: b"report over " + inblob
    auxblob: bytes | None = None
    interfere: Callable[[FakeTsmKernel, Path], None] | None = None
    fail: list[tuple[str, int]] = field(default_factory=list)
    entries: dict[Path, dict[str, Any]] = field(default_factory=dict)
    removed: list[Path] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def mkdir(self, path: Path) -> None:
        self._maybe_fail("mkdir")
        if path in self.entries:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.entries[path] = {"generation": 0, "inblob": None}

    def rmdir(self, path: Path) -> None:
        self._maybe_fail("rmdir")
        del self.entries[path]
        self.removed.append(path)

    def write(self, path: Path, data: bytes) -> None:
        self._maybe_fail(f"write {path.name}")
        entry = self.entries[path.parent]
        if path.name == "inblob":
            if not 0 < len(data) <= 64:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            entry["inblob"] = data
        elif path.name != "privlevel":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        entry["generation"] += 1

    def read(self, path: Path) -> bytes:
        self._maybe_fail(f"read {path.name}")
        entry = self.entries[path.parent]
        if path.name == "generation":
            return f"{entry['generation']}\n".encode()
        if path.name == "provider":
            return f"{self.provider}\n".encode()
        if path.name == "outblob":
            if entry["inblob"] is None:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if self.interfere is not None:
                self.interfere(self, path.parent)
            return self.report(entry["inblob"])
        if path.name == "auxblob" and self.auxblob is not None:
            return self.auxblob
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _maybe_fail(self, operation: str) -> None:
        self.calls.append(operation)
        if self.fail and self.fail[0][0] == operation:
            number = self.fail.pop(0)[1]
            raise OSError(number, os.strerror(number))


def fake_tdx_driver(report: Callable[[bytes], bytes], *, fails: int = 0) -> Callable[[int, int, Any], int]:
    """The ioctl of /dev/tdx_guest: TDX_CMD_GET_REPORT0 over 64 bytes, 1024 back in the same buffer."""

    def ioctl(_descriptor: int, code: int, request: bytearray) -> int:
        if fails:
            raise OSError(fails, os.strerror(fails))
        if code != 0xC4405401 or len(request) != 1088:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        request[64:] = report(bytes(request[:64]))
        return 0

    return ioctl


@dataclass
class FakeSevDriver:
    """The ioctl of /dev/sev-guest, through the addresses in its message, as the kernel reads and writes them."""

    report: Callable[[bytes, int], bytes]
    table: bytes = b""
    fails: int = 0
    exitinfo2: int = 0
    status: int = 0
    chip: bytes = b"\x07" * 32
    guest: bytes = b"measurement, policy, ids"
    asked: list[int] = field(default_factory=list)

    def __call__(self, _descriptor: int, code: int, message: Any) -> int:
        self.asked.append(code)
        if self.fails:
            message.exitinfo2 = self.exitinfo2
            raise OSError(self.fails, os.strerror(self.fails))
        if message.msg_version != 1 or ctypes.sizeof(message) != 32:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if code == 0xC0205301:
            return self._derive(message)
        request = ctypes.string_at(message.req_data, 96)
        if code == 0xC0205302:
            address, size = (
                int.from_bytes(ctypes.string_at(message.req_data + at, n), "little") for at, n in ((96, 8), (104, 4))
            )
            if size < len(self.table):
                wanted = (len(self.table) + 4095) // 4096 * 4096
                ctypes.memmove(message.req_data + 104, wanted.to_bytes(4, "little"), 4)
                message.exitinfo2 = 1 << 32
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            ctypes.memmove(address, self.table, len(self.table))
        elif code != 0xC0205300:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        report = self.report(request[:64], int.from_bytes(request[64:68], "little"))
        answer = self.status.to_bytes(4, "little") + len(report).to_bytes(4, "little") + bytes(24) + report
        ctypes.memmove(message.resp_data, answer, len(answer))
        return 0

    def _derive(self, message: Any) -> int:
        """SNP_GET_DERIVED_KEY: the chip's secret with what the guest chose to mix in."""
        request = ctypes.string_at(message.req_data, 32)
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("<IIQIIQ", request)
        if root or reserved or vmpl or svn or tcb:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        guest = self.guest if fields & 0b1111 == 0b1111 else b""
        key = hmac.digest(self.chip, request + guest, "sha256")
        ctypes.memmove(message.resp_data, self.status.to_bytes(4, "little") + bytes(28) + key, 64)
        return 0


class FakeNvml:
    """`pynvml` by the names and structures of nvidia-ml-py 13."""

    class NVMLError(Exception):
        pass

    def __init__(self, count: int, chain: bytes, *, feature: int = 1, devtools: int = 0, arch: int = 9) -> None:
        self.count, self.chain, self.feature, self.devtools, self.arch = count, chain, feature, devtools, arch
        self.broken = False

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlSystemGetConfComputeState(self) -> Any:
        return SimpleNamespace(environment=1, ccFeature=self.feature, devToolsMode=self.devtools)

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetArchitecture(self, _handle: int) -> int:
        return self.arch

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle: int, nonce: bytes) -> Any:
        if self.broken:
            raise self.NVMLError("GPU is lost")
        report = b"\x11\xe0\x01\xff" + nonce + bytes([handle])
        array = (ctypes.c_uint8 * 8192)(*report)
        return SimpleNamespace(attestationReportSize=len(report), attestationReport=array)

    def nvmlDeviceGetConfComputeGpuCertificate(self, _handle: int) -> Any:
        array = (ctypes.c_uint8 * 5120)(*self.chain)
        return SimpleNamespace(attestationCertChainSize=len(self.chain), attestationCertChain=array)
