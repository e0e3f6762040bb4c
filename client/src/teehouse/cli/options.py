# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and the settings that come of them.

Order: arguments > environment > config file > the platform that this user started with `teehouse up` > defaults. The
local platform counts only while no gateway is named anywhere, and then as a whole: address, key, endpoint and the
policy file that its start wrote.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from teehouse_core.errors import LocalError

if TYPE_CHECKING:
    from teehouse.settings import Settings

__all__ = ["ApiKeyFile", "Dir", "Endpoint", "Gateway", "Json", "PolicyOption", "load_settings"]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; talk goes to stderr.")]
Dir = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="The platform's folder.", show_default="the last one started"),
]
Gateway = Annotated[
    str | None,
    typer.Option("--gateway", metavar="URL", help="The gateway.", show_default="TEEHOUSE_BASE_URL, or local"),
]
Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint", "-e", metavar="EP", help="The endpoint (ep-…).", show_default="from settings"),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="POLICY",
        help="strict, standard, evaluate (accepts SIMULATED evidence), or a .toml or .json file.",
        show_default="from settings, else strict",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option("--api-key-file", metavar="FILE", help="File with the platform's API key (or TEEHOUSE_API_KEY)."),
]


def load_settings(*, api_key_file: Path | None = None, directory: Path | None = None, **given: Any) -> Settings:
    """Settings of one command, with the local platform as a source. Raises `LocalError`."""
    if api_key_file is not None:
        try:
            given["api_key"] = api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise LocalError(f"cannot read {api_key_file}", code="api-key-file") from None
    from teehouse.settings import Settings

    settings = Settings.load(**given)
    if settings.sources.get("base_url") != "default":
        return settings
    return _with_local(settings, given, directory)


def _with_local(settings: Settings, given: dict[str, Any], directory: Path | None) -> Settings:
    from teehouse.local.state import find_running
    from teehouse.settings import Settings

    running = find_running(directory)
    if running is None or running.state is None:
        return settings
    state = running.state
    local = {
        "base_url": state["gateway"],
        "api_key": state["api_key"],
        "endpoint": state["endpoints"]["demo"],
        "policy": state["policy"],
    }
    taken = {name: value for name, value in local.items() if settings.sources.get(name) == "default"}
    loaded = Settings.load(**{**given, **taken})
    source = f"local platform {running.layout.root}"
    return dataclasses.replace(loaded, sources={**loaded.sources, **dict.fromkeys(taken, source)})
