# SPDX-License-Identifier: Apache-2.0
"""Linux's own interface to the machine's report: directories under /sys/kernel/config/tsm/report, from kernel 6.7 on.

Source: kernel Documentation/ABI/testing/configfs-tsm-report. One directory per question; each write counts up
`generation`, so a report whose generation is not the one after our writes answers somebody else. Reads fail with
EWOULDBLOCK while another writer is at work, and with EFBIG when the hypervisor's answer does not fit.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from teehouse_core.errors import LocalError, OperatorError
from teehouse_enclave.platform.workload import check_report_data

__all__ = ["TSM_REPORT", "Files", "TsmReport", "TsmReports"]

_T = TypeVar("_T")

TSM_REPORT: Final = "sys/kernel/config/tsm/report"  # under the root
MAX_BLOB: Final = 256 * 1024  # bytes of one attribute; a certificate table is the largest
ATTEMPTS: Final = 8  # whole questions before giving up, with PAUSE doubled after each
PAUSE: Final = 0.01  # seconds
_RETRIED: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY, errno.EINTR})


class Files(Protocol):
    """The four things that a question does to the file system; a test's fake kernel implements them too."""

    def mkdir(self, path: Path) -> None: ...

    def rmdir(self, path: Path) -> None: ...

    def read(self, path: Path) -> bytes: ...

    def write(self, path: Path, data: bytes) -> None: ...


class _RealFiles:
    """Plain system calls: configfs attributes want one write each, and give their whole content to one reader."""

    def mkdir(self, path: Path) -> None:
        path.mkdir()

    def rmdir(self, path: Path) -> None:
        path.rmdir()

    def read(self, path: Path) -> bytes:
        with path.open("rb", buffering=0) as file:
            data = b""
            while len(data) <= MAX_BLOB and (piece := file.read(MAX_BLOB)):
                data += piece
            return data

    def write(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class TsmReport:
    """`outblob` is a TDX quote or an SNP report, by `provider`; `auxblob` an SNP certificate table."""

    provider: str
    outblob: bytes = field(repr=False)
    auxblob: bytes = field(default=b"", repr=False)


class TsmReports:
    """Questions to the kernel under `root`. Raises `LocalError` (`tsm-missing`) where there is no such interface."""

    def __init__(
        self, root: str = "/", *, files: Files | None = None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._base = Path(root) / TSM_REPORT
        self._files: Files = files or _RealFiles()
        self._sleep = sleep

    def provider(self) -> str:
        """Who answers here: `tdx_guest`, `sev_guest` or another name. Raises `LocalError` (`tsm-missing`)."""
        try:
            return self._with_entry(lambda entry: self._text(entry / "provider"))
        except OSError as error:
            raise _problem(error) from error

    def collect(self, report_data: bytes, privilege_level: int | None = None) -> TsmReport:
        """One report over 64 bytes. Raises `OperatorError` (`tsm-busy`) after bounded attempts, `LocalError`."""
        check_report_data(report_data)
        pause = PAUSE
        for _ in range(ATTEMPTS):
            try:
                found = self._with_entry(lambda entry: self._ask(entry, report_data, privilege_level))
            except OSError as error:
                if error.errno not in _RETRIED:
                    raise _problem(error) from error
                found = None
            if found is not None:
                return found
            self._sleep(pause)
            pause *= 2
        raise OperatorError("the kernel's report interface stays busy", code="tsm-busy")

    def _ask(self, entry: Path, report_data: bytes, privilege_level: int | None) -> TsmReport | None:
        """One question in its own directory, or None when somebody else wrote to it meanwhile."""
        expected = self._generation(entry)
        if privilege_level is not None:
            self._files.write(entry / "privlevel", str(privilege_level).encode("ascii"))
            expected += 1
        self._files.write(entry / "inblob", report_data)
        expected += 1
        outblob = self._files.read(entry / "outblob")
        auxblob = self._optional(entry / "auxblob")
        provider = self._text(entry / "provider")
        if self._generation(entry) != expected:
            return None
        if not 0 < len(outblob) <= MAX_BLOB or len(auxblob) > MAX_BLOB:
            raise LocalError("the kernel's report is empty or too long", code="tsm-report")
        return TsmReport(provider, outblob, auxblob)

    def _with_entry(self, use: Callable[[Path], _T]) -> _T:
        entry = self._base / f"teehouse-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._files.mkdir(entry)
        except OSError as error:
            if error.errno in _RETRIED:
                raise
            raise _problem(error) from error
        try:
            return use(entry)
        finally:
            self._remove(entry)

    def _remove(self, entry: Path) -> None:
        try:
            self._files.rmdir(entry)
        except OSError:
            return  # the kernel removes it with the configfs mount; a report is never read from it again

    def _generation(self, entry: Path) -> int:
        try:
            return int(self._files.read(entry / "generation"))
        except ValueError:
            raise LocalError("the kernel's generation is no number", code="tsm-report") from None

    def _text(self, path: Path) -> str:
        return self._files.read(path).decode("ascii", "replace").strip()

    def _optional(self, path: Path) -> bytes:
        """An attribute that some providers do not have."""
        try:
            return self._files.read(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO, errno.EOPNOTSUPP):
                return b""
            raise


def _problem(error: OSError) -> LocalError:
    if error.errno == errno.EFBIG:
        hint = "the hypervisor's certificates do not fit the kernel's buffer"
        return LocalError("the report does not fit", code="tsm-too-large", hint=hint)
    if error.errno == errno.ENXIO:
        return LocalError("no driver answers behind configfs-tsm", code="tsm-no-provider")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        hint = "a guest kernel 6.7 or later with CONFIG_TSM_REPORTS, and configfs mounted, is wanted"
        return LocalError("this machine has no configfs-tsm", code="tsm-missing", hint=hint)
    return LocalError(f"the kernel's report interface fails: {error.strerror}", code="tsm-failed")
