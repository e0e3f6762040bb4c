# SPDX-License-Identifier: Apache-2.0
"""What a bench leaves behind: every round, its facts, a row per claim with its aim; and what it had when it broke off.

A case is the unit that is repeated, finished or begun anew: its two sides are measured in turns, so half a case is
worth nothing. Finished cases are kept in a state file, and `--resume` takes over those of the same machine, versions,
commit and settings.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from teehouse_bench.machine import machine_facts, machine_key

__all__ = ["Budget", "Case", "Result", "Row", "write_json"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `reached` is None where there is no aim."""

    what: str
    ours: str
    theirs: str
    change: str
    spread: str
    aim: str = ""
    reached: bool | None = None
    agree: bool = True  # whether every round says the same about the aim


@dataclass(slots=True)
class Case:
    """One finished comparison: what was set, every round as measured, the rows made of them, and what to know."""

    name: str
    settings: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""  # why nothing was measured; "" when it was

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Case:
        return cls(**{**raw, "rows": [Row(**row) for row in raw["rows"]]})


class Budget:
    """Seconds that a bench may take. A case that finds none left is skipped and says so."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def part(self, share: float) -> Budget:
        """A share of what is left."""
        return Budget(max(0.0, self.left * share))


class Result:
    """One bench's cases, written after each of them."""

    def __init__(self, name: str, folder: Path, *, resume: bool, say: Say) -> None:
        self.name = name
        self.facts = machine_facts()
        self.cases: list[Case] = []
        self._folder = folder
        self._state = (
            folder / "local" / f"{name}.state.json" if folder.name != "local" else folder / f"{name}.state.json"
        )
        self._say = say
        self._old = self._load() if resume else {}

    def _load(self) -> dict[str, Case]:
        try:
            raw = json.loads(self._state.read_text())
        except (OSError, ValueError):
            return {}
        if raw.get("key") != machine_key(self.facts):
            self._say(f"{self.name}: nothing is resumed, the last run was on another machine, version or commit")
            return {}
        return {case["name"]: Case.from_json(case) for case in raw["cases"] if not case["skipped"]}

    def run(self, name: str, settings: dict[str, Any], measure: Callable[[Case], None]) -> Case:
        """Measure one case, or take it over from the run that broke off."""
        old = self._old.get(name)
        if old is not None and old.settings == settings:
            self._say(f"{self.name}: {name} taken over from the run before")
            case = old
        else:
            case = Case(name, settings)
            self._say(
                f"{self.name}: {name}" + ("" if not settings.get("seconds") else f", about {settings['seconds']:.0f} s")
            )
            measure(case)
        if case.skipped:
            self._say(f"{self.name}: {name} SKIPPED: {case.skipped}")
        self.cases.append(case)
        write_json(self._state, {"key": machine_key(self.facts), "cases": [c.to_json() for c in self.cases]})
        return case

    def skip(self, name: str, reason: str) -> None:
        """A case that cannot run here."""
        self.run(name, {}, lambda case: setattr(case, "skipped", reason))

    def finish(self) -> Path:
        """Write the result; the state of this run is done with."""
        self.facts["load_after"] = list(os.getloadavg())
        path = self._folder / f"{self.name}.json"
        write_json(path, {"bench": self.name, "machine": self.facts, "cases": [c.to_json() for c in self.cases]})
        self._state.unlink(missing_ok=True)
        return path


def write_json(path: Path, document: Any) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(_rounded(document), indent=1) + "\n")
    draft.replace(path)


def _rounded(value: Any) -> Any:
    """Six significant digits: the rest of a float is noise in a committed file. NaN is no JSON."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
