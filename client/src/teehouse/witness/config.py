# SPDX-License-Identifier: Apache-2.0
"""Settings of `teehouse-witness serve`: a JSON file, and flags that win over it or add to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teehouse.witness.trust import LogTrust, read_pair
from teehouse.witness.witness import MAX_ORIGINS
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.note import VerifierKey
from teehouse_core.wire.fields import Fields

__all__ = ["WitnessConfig", "load_config", "read_listen"]

MAX_FILE = 4 * 1024 * 1024  # bytes; some ten thousand logs
DEFAULT_LISTEN = "127.0.0.1:8470"


@dataclass(frozen=True, slots=True)
class WitnessConfig:
    """All of it, checked."""

    key: Path
    state: Path
    host: str
    port: int
    trust: LogTrust
    max_origins: int
    ready_file: Path | None


def load_config(
    file: Path | None,
    *,
    key: Path | None,
    state: Path | None,
    listen: str | None,
    logs: Sequence[str],
    prefixes: Sequence[str],
    ready_file: Path | None,
) -> WitnessConfig:
    """Raises LocalError: what is missing or wrong, by name."""
    given = _file(file) if file is not None else {}
    base = file.parent if file is not None else Path()

    def path(name: str, flag: Path | None) -> Path | None:
        if flag is not None:
            return flag
        return base / given[name] if name in given else None

    key_path, state_path = path("key", key), path("state", state)
    if key_path is None or state_path is None:
        missing = "key" if key_path is None else "state"
        raise LocalError(f"no {missing} is named", code="config", hint=f"give --{missing}, or {missing} in the file")
    host, port = read_listen(listen or given.get("listen", DEFAULT_LISTEN))
    trust = LogTrust.of(
        [*given.get("logs", ()), *map(read_pair, logs)], [*given.get("log_prefixes", ()), *map(read_pair, prefixes)]
    )
    if not trust.logs and not trust.prefixes:
        raise LocalError("no log is named", code="config", hint="give --log ORIGIN=VKEY or --log-prefix PREFIX=VKEY")
    return WitnessConfig(
        key_path,
        state_path,
        host,
        port,
        trust,
        given.get("max_origins", MAX_ORIGINS),
        path("ready_file", ready_file),
    )


def read_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT`. Raises LocalError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise LocalError("not an address to listen on", code="config", hint=f"HOST:PORT, e.g. {DEFAULT_LISTEN}")
    return host.strip("[]"), int(port)


def _file(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        value = json.loads(data) if len(data) <= MAX_FILE else None
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="config") from error
    except (ValueError, RecursionError):
        value = None
    try:
        return _read(value)
    except MalformedError as error:
        raise LocalError(f"{path}: {error.message}", code="config") from error


def _read(value: Any) -> dict[str, Any]:
    top = Fields(value, "config")
    found: dict[str, Any] = {
        name: top.take(name, str) for name in ("key", "state", "listen", "ready_file") if top.has(name)
    }
    if top.has("max_origins"):
        found["max_origins"] = top.integer("max_origins", 1, 10**8)
    for name, member in (("logs", "origin"), ("log_prefixes", "prefix")):
        if top.has(name):
            found[name] = [_log(Fields(item, name), member) for item in top.items(name, 0, 100_000)]
    top.done()
    return found


def _log(item: Fields, member: str) -> tuple[str, VerifierKey]:
    pair = (item.take(member, str), VerifierKey.parse(item.take("vkey", str)))
    item.done()
    return pair
