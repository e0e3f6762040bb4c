# SPDX-License-Identifier: Apache-2.0
"""What the machine is, what else ran on it meanwhile, and what one process has used. Linux only, no packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Busy", "cpu_seconds", "machine_facts", "machine_key", "program", "rss_bytes"]

_TICKS = os.sysconf("SC_CLK_TCK")  # per second, the unit of /proc/stat
_PACKAGES = ("cryptography", "uvicorn", "uvloop", "httptools", "aiohttp", "httpx2", "xllamacpp", "teehouse")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, also those that ended; nanosecond clock of the scheduler."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of that process, see clock_getcpuclockid(3)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Busy:
    """CPU seconds of the whole machine so far: used by anybody, and taken away by the host it runs on."""

    used: float
    stolen: float

    @classmethod
    def now(cls) -> Busy:
        fields = [int(word) / _TICKS for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
        return cls(user + nice + system + irq + softirq, steal)


def program(name: str) -> str | None:
    """Path of a program; Debian keeps servers where ordinary users do not look."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def machine_facts() -> dict[str, Any]:
    """Everything a reader needs to judge the numbers."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    return {
        "cpu": model[1].strip() if model else platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "openssl": _openssl(),
        "nginx": _nginx(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_before": list(os.getloadavg()),
    }


def machine_key(facts: dict[str, Any]) -> str:
    """What must be the same for rounds to stand in one table: hardware, versions, source."""
    return repr([facts[name] for name in ("cpu", "cores", "kernel", "python", "packages", "commit")])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _openssl() -> str:
    from cryptography.hazmat.backends.openssl.backend import backend

    return backend.openssl_version_text()


def _nginx() -> str:
    path = program("nginx")
    if path is None:
        return "absent"
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False).stderr
    return said.strip().removeprefix("nginx version: ")


def _commit() -> str:
    """The commit, with a mark when the measured source differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        sources = [":/core/src", ":/enclave/src", ":/cloud/src", ":/client/src", ":/bench/teehouse_bench"]
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", *sources], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
