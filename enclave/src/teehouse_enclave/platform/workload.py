# SPDX-License-Identifier: Apache-2.0
"""What every real platform shares: the workload log itself, and collateral that a deployer keeps in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from teehouse_core.errors import LocalError
from teehouse_core.evidence.bundle import log_entry
from teehouse_core.evidence.replay import MAX_ENTRIES

__all__ = ["REPORT_DATA", "CollateralFile", "WorkloadLog", "check_report_data"]

REPORT_DATA: Final = 64  # bytes that a report is made over
MAX_COLLATERAL: Final = 8 * 1024 * 1024  # bytes of a collateral file


class WorkloadLog:
    """The entries in order, and their 48-byte digests; whoever holds it also extends a register with each digest."""

    def __init__(self) -> None:
        self._entries: list[dict[str, str]] = []

    def add(self, event: str, content: bytes) -> bytes:
        """Append one entry; its digest. Raises `LocalError` for a bad name, too long a content, a full log."""
        if len(self._entries) >= MAX_ENTRIES:
            raise LocalError(f"the workload log holds {MAX_ENTRIES} entries", code="log-full")
        entry = log_entry(event, content)
        self._entries.append(entry)
        return bytes.fromhex(entry["digest"])

    def entries(self) -> list[dict[str, str]]:
        return [dict(entry) for entry in self._entries]

    def digests(self) -> list[bytes]:
        return [bytes.fromhex(entry["digest"]) for entry in self._entries]


class CollateralFile:
    """The bundle's `collateral` member in a JSON file; read again whenever it changed, so a deployer can renew it.

    The node fetches nothing itself: what it staples is an endorsement that the Verifier checks anyway.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._seen: tuple[int, int] | None = None
        self._value: dict[str, Any] = {}

    def load(self) -> dict[str, Any]:
        """The current content, `{}` without a file. Raises `LocalError` (`collateral-file`)."""
        if self._path is None:
            return {}
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._seen:
                if status.st_size > MAX_COLLATERAL:
                    raise LocalError(f"{self._path} is over {MAX_COLLATERAL} bytes", code="collateral-file")
                value = json.loads(self._path.read_text("utf-8"))
                if not isinstance(value, dict):
                    raise ValueError("not an object")
                self._value, self._seen = value, stamp
        except (OSError, ValueError) as error:
            hint = "a JSON object with members intel or amd is wanted, as `teehouse collateral fetch` writes it"
            raise LocalError(f"cannot read {self._path}", code="collateral-file", hint=hint) from error
        return self._value


def check_report_data(data: bytes) -> None:
    """Raises `LocalError` (`report-data`) for anything but 64 bytes."""
    if len(data) != REPORT_DATA:
        raise LocalError(f"report data has {REPORT_DATA} bytes", code="report-data")
