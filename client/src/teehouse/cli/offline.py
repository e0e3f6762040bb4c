# SPDX-License-Identifier: Apache-2.0
"""What the commands for auditors share: bounded files, hex, times, packs of collateral. No network, no settings."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.bundle import MAX_BUNDLE
from teehouse_core.evidence.jsontext import load_object, unb64_text
from teehouse_core.evidence.pack import MAX_FILES, MAX_PACK, is_pack, parse_pack

__all__ = [
    "At",
    "PolicyFile",
    "moment",
    "policy_of",
    "read_bytes",
    "read_files",
    "read_json",
    "read_report",
    "stamp",
    "unhex",
    "write_bytes",
]

MAX_TEXT: Final = MAX_BUNDLE * 2  # bytes of a report as base64 with line ends, or of a parsed view

At = Annotated[str | None, typer.Option("--at", metavar="RFC3339", help="The time to appraise at.", show_default="now")]
PolicyFile = Annotated[
    str,
    typer.Option("--policy", metavar="POLICY", help="strict, standard, evaluate, or a .toml or .json file."),
]


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes. Raises `LocalError` when it cannot be read, `MalformedError` when larger."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
    if len(data) > limit:
        raise MalformedError(f"{path.name} is larger than {limit} bytes", code="too-large")
    return data


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file. Raises `LocalError`."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None


def read_report(path: Path) -> bytes:
    """The bytes of a bundle, from the raw artifact (base64, line ends allowed) or from the JSON itself."""
    data = read_bytes(path, MAX_TEXT)
    if data.lstrip()[:1] == b"{":
        return data
    try:
        text = b"".join(data.split()).decode("ascii")
    except UnicodeDecodeError:
        raise MalformedError("this is neither base64 nor JSON", code="base64") from None
    return unb64_text(text, limit=MAX_BUNDLE, what="the report")


def read_json(path: Path) -> Any:
    """A JSON object of ours: a parsed view or a verdict. Raises `MalformedError`."""
    return load_object(read_bytes(path, MAX_TEXT), limit=MAX_TEXT, what=path.name)


def read_files(path: Path) -> Mapping[str, bytes]:
    """A pack of collateral: a folder with all that is below it, one JSON pack, or one plain file under its name."""
    if not path.is_dir():
        data = read_bytes(path, MAX_PACK * 2)
        return parse_pack(data).files if is_pack(data) else {path.name: data}
    found: dict[str, bytes] = {}
    left = MAX_PACK
    for entry in sorted(path.rglob("*")):
        if entry.is_symlink() or not entry.is_file():
            continue
        if len(found) == MAX_FILES:
            raise LocalError(f"{path} holds more than {MAX_FILES} files", code="pack-too-large")
        data = read_bytes(entry, left)
        left -= len(data)
        found[entry.relative_to(path).as_posix()] = data
    return found


def policy_of(text: str) -> Policy:
    """The policy of `--policy`. Raises `LocalError`."""
    from teehouse.settings import load_policy

    return load_policy(text)


def unhex(text: str | None, option: str) -> bytes | None:
    """Bytes of a hex option. Raises `LocalError`."""
    if text is None:
        return None
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if not data:
        raise LocalError(f"{option} is not hex", code="usage", hint="two hex digits for each byte")
    return data


def moment(text: str | None) -> int:
    """Unix seconds of `--at`, or now. Raises `LocalError`."""
    if text is None:
        return int(time.time())
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is not None:
            return int(when.timestamp())
    except (ValueError, OverflowError):
        pass
    raise LocalError("--at is no RFC 3339 time", code="usage", hint="as 2026-11-23T06:30:00Z")


def stamp(seconds: int) -> str:
    """A time for people: RFC 3339 in UTC."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
