# SPDX-License-Identifier: Apache-2.0
"""The newest collateral that this client saw, kept between runs, so that nobody can go back behind it (EVIDENCE §1).

One small file: `{"v":"collateral-seen/1","seen":{"<series>":[<number>,<issued>]}}`. It holds no secret. Only what a
pinned vendor root signed goes in; simulated evidence, which anybody can make, never does. A file that cannot be written
is not kept between runs; a file that cannot be read as ours is an error, since passing it over would undo the floor.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import platformdirs

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.newest import MAX_NUMBER, Newest, Seen, raise_to
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError

__all__ = ["Remembered", "default_file"]

VERSION: Final = "collateral-seen/1"
MAX_SERIES: Final = 512  # issuers and machine types; a large fleet has some tens
MAX_FILE: Final = 256 * 1024  # bytes
MAX_NAME: Final = 128  # characters
MAX_TIME: Final = 253_402_300_799  # Unix seconds, the end of the year 9999


def default_file() -> Path:
    """Where sessions keep it."""
    return platformdirs.user_state_path("teehouse") / "collateral-seen.json"


class Remembered:
    """Numbers of one file; without a `path` of this process only. Safe for several threads and processes."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._known: dict[str, Seen] = {}
        self.written = True
        """Whether the file holds what was learned."""

    def known(self) -> Newest:
        """What was seen before, the file's and this process's. Raises `LocalError` (`state-file`)."""
        with self._guard:
            self._known = raise_to(self._known, self._read())
            return dict(self._known)

    def learn(self, verdicts: Iterable[Verdict | ArtifactVerdict]) -> None:
        """Keep what these verdicts saw, where a vendor's root signed it. Raises `LocalError` (`state-file`)."""
        with self._guard:
            found = raise_to(self._known, self._read())
            for verdict in verdicts:
                if verdict.tier == "hardware":
                    found = raise_to(found, verdict.newest)
            if len(found) > MAX_SERIES:  # a vendor's newest matter most
                found = dict(sorted(found.items(), key=lambda item: item[1].issued, reverse=True)[:MAX_SERIES])
            changed, self._known = found != self._known, found
            if self._path is not None and (changed or not self.written):
                self.written = _write(self._path, found)

    def _read(self) -> dict[str, Seen]:
        if self._path is None:
            return {}
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise _damaged(self._path, error.strerror or "unreadable") from None
        try:
            return _parse(data)
        except (ValueError, RecursionError):
            raise _damaged(self._path, "not a file of this kind") from None


def _parse(data: bytes) -> dict[str, Seen]:
    document: Any = json.loads(data) if len(data) <= MAX_FILE else None
    seen = document.get("seen") if isinstance(document, dict) and document.get("v") == VERSION else None
    if not isinstance(seen, dict) or len(seen) > MAX_SERIES:
        raise ValueError("not ours")
    found = {}
    for series, pair in seen.items():
        if len(series) > MAX_NAME or not isinstance(pair, list) or [type(n) for n in pair] != [int, int]:
            raise ValueError("not ours")
        number, issued = pair
        if not 0 <= number < MAX_NUMBER or not 0 <= issued <= MAX_TIME:
            raise ValueError("not ours")
        found[series] = Seen(number, issued)
    return found


def _write(path: Path, found: Newest) -> bool:
    pairs = {series: [found[series].number, found[series].issued] for series in sorted(found)}
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"v": VERSION, "seen": pairs}, indent=1), encoding="ascii")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        return False
    return True


def _damaged(path: Path, why: str) -> LocalError:
    hint = "delete it to begin anew, or leave it out with --no-state; until then nothing can be compared with it"
    return LocalError(f"{path}: {why}", code="state-file", hint=hint)
