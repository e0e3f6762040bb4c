# SPDX-License-Identifier: Apache-2.0
"""`teehouse version`."""

from __future__ import annotations

import importlib.metadata
import platform

from teehouse.cli import exits
from teehouse.cli.options import Json
from teehouse.cli.output import Output

__all__ = ["version"]

_WHEELS = ("teehouse", "teehouse-core", "teehouse-enclave", "teehouse-cloud")


def version(as_json: Json = False) -> int:
    """Show the version of each installed wheel."""
    out = Output(as_json=as_json)
    found: dict[str, str | None] = {}
    for name in _WHEELS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    if as_json:
        out.json({"wheels": found, "python": platform.python_version()})
        return exits.OK
    for name, value in found.items():
        out.show(f"{name:<17} {value or '– not installed'}")
    return exits.OK
