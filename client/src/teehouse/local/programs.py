# SPDX-License-Identifier: Apache-2.0
"""The programs of the other wheels, found beside this interpreter and started as processes."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from teehouse_core.errors import LocalError

__all__ = ["child_environment", "find_program", "launch_command", "wheel_folder"]

_LAUNCH: Final = Path(__file__).with_name("_launch.py")
# What a child may learn from the environment of the person who started it; no keys, no proxies, no TEEHOUSE_*.
_PASSED: Final = frozenset(
    ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"]
)
_PASSED_PREFIXES: Final = ("LC_", "XDG_", "PYTHON", "COV_", "COVERAGE_")
_HINT: Final = "install the local platform: pip install 'teehouse[local]'"


def find_program(name: str) -> Path:
    """The script of that name of this installation. Raises `LocalError` (`wheel-missing`)."""
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        path = folder / name
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise LocalError(f"the program {name} is not installed", code="wheel-missing", hint=_HINT)


def wheel_folder(package: str) -> Path:
    """Where the files of an installed package lie; nothing of it is imported. Raises `LocalError` (`wheel-missing`)."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LocalError(f"the package {package} is not installed", code="wheel-missing", hint=_HINT)
    return Path(next(iter(spec.submodule_search_locations)))


def launch_command(program: Path, *arguments: str) -> list[str]:
    """The command that starts `program` as a child of this very process."""
    return [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), str(program), *arguments]


def child_environment(source: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every child."""
    everything = os.environ if source is None else source
    return {
        name: value for name, value in everything.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    } | {"PYTHONUNBUFFERED": "1"}
