# SPDX-License-Identifier: Apache-2.0
"""The files of an export: `about.json`, `checkpoint`, `leaf-hashes`, and `entries.jsonl` or `entries.csv` (04 §11)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from teehouse.audit.check import members
from teehouse.audit.errors import ExportVersion
from teehouse.audit.ledger import Row
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.entry import AuditEntry, PublicEntry

__all__ = ["ABOUT", "CHECKPOINT", "EXPORT", "FORMATS", "LEAVES", "EntryWriter", "read_about", "read_entries"]

EXPORT: Final = "audit-export/1"
ABOUT, CHECKPOINT, LEAVES = "about.json", "checkpoint", "leaf-hashes"
FORMATS: Final = ("jsonl", "csv")
MAX_LINE: Final = 512 * 1024  # bytes; a leaf of 64 KiB twice in a line of CSV, with every quote doubled
MAX_ABOUT: Final = 64 * 1024
_FORMULA: Final = ("=", "+", "-", "@", "\t")  # how a cell begins that a spreadsheet would run


class EntryWriter:
    """Writes entries as lines."""

    def __init__(self, folder: Path, form: str) -> None:
        self._csv = form == "csv"
        self._file: TextIO = (folder / f"entries.{form}").open("w", encoding="utf-8", newline="\n")
        self._columns: list[str] | None = None

    def write(self, row: Row, entry: AuditEntry | PublicEntry) -> None:
        leaf = row.leaf.decode("ascii")
        if not self._csv:
            value = {"index": row.index, "leaf": leaf, "opening": row.opening}
            self._file.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")
            return
        shown = members(entry)
        if self._columns is None:
            self._columns = ["index", *shown, "leaf", "opening"]
            self._file.write(_csv_line(self._columns))
        opening = "" if row.opening is None else json.dumps(row.opening, separators=(",", ":"))
        self._file.write(_csv_line([str(row.index), *map(_cell, shown.values()), leaf, opening]))

    def close(self) -> None:
        self._file.close()


def _cell(value: Any) -> str:
    text = " ".join(value) if isinstance(value, list) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def read_about(folder: Path) -> dict[str, Any]:
    """`about.json`. Raises `LocalError`, `MalformedError`, `ExportVersion`."""
    try:
        with (folder / ABOUT).open("rb") as file:
            data = file.read(MAX_ABOUT + 1)
    except OSError as error:
        raise LocalError(
            f"{folder} is no export: {error.strerror}",
            code="file-unreadable",
            hint="Name the folder that `teehouse audit export` wrote, or one .tlog-proof file.",
        ) from None
    try:
        value = json.loads(data) if len(data) <= MAX_ABOUT else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise MalformedError(f"{ABOUT} is not understood", code="export-form")
    if value.get("v") != EXPORT:
        raise ExportVersion("an export of another version", hint="Use the version of teehouse that wrote it.")
    if value.get("format") not in FORMATS or not isinstance(value.get("filter"), dict):
        raise MalformedError(f"{ABOUT} is not understood", code="export-form")
    return value


def read_entries(folder: Path, form: str) -> Iterator[tuple[Row, dict[str, str] | None]]:
    """Entries in the order of the file, and for CSV what its other cells say. Raises `LocalError`, `MalformedError`."""
    path = folder / f"entries.{form}"
    try:
        with path.open("rb") as file:
            columns: list[str] = []
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE or not line.endswith(b"\n"):
                    raise MalformedError(f"line {number} of {path.name} is cut or too long", code="export-form")
                if form == "jsonl":
                    yield _json_row(line, number), None
                elif number == 1:
                    columns = _cells(line, number)
                else:
                    yield _csv_row(columns, _cells(line, number), number)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None


def _json_row(line: bytes, number: int) -> Row:
    try:
        value = json.loads(line)
        if value.keys() == {"index", "leaf", "opening"} and type(value["index"]) is int:
            return Row(value["index"], value["leaf"].encode("ascii"), value["opening"])
    except (ValueError, AttributeError, RecursionError):
        pass
    raise MalformedError(f"line {number} holds no entry", code="export-form")


def _cells(line: bytes, number: int) -> list[str]:
    old = csv.field_size_limit(MAX_LINE)
    try:
        rows = list(csv.reader([line.decode("utf-8")], strict=True))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    finally:
        csv.field_size_limit(old)
    if len(rows) != 1:
        raise MalformedError(f"line {number} is no line of CSV", code="export-form")
    return rows[0]


def _csv_row(columns: list[str], cells: list[str], number: int) -> tuple[Row, dict[str, str]]:
    shown = dict(zip(columns, cells, strict=False))
    try:
        if len(columns) != len(cells) or len(shown) != len(cells):
            raise ValueError
        opening = shown.pop("opening")
        leaf, index = shown.pop("leaf").encode("ascii"), shown.pop("index")
        if str(int(index)) != index:
            raise ValueError
        return Row(int(index), leaf, json.loads(opening) if opening else None), shown
    except (ValueError, KeyError, RecursionError):
        raise MalformedError(f"line {number} holds no entry", code="export-form") from None


def cells_of(entry: AuditEntry | PublicEntry) -> dict[str, str]:
    """What the cells for reading must say."""
    return {name: _cell(value) for name, value in members(entry).items()}
