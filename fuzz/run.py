#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: throw bytes at every parser, guided by what they reach. Exit: 0 nothing found, 1 findings, 2 usage.

    python fuzz/run.py [TARGET …] [--seconds N] [--jobs N] [--no-vectors] [--keep] [--list]

Needs `atheris`, which the lock does not hold: see README.md beside this.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CORPUS = HERE / "corpus"
WORK = ROOT / ".cache" / "fuzz"  # seeds, what is found, crashes; not committed
CHILD = HERE / "teehouse_fuzz" / "child.py"
TIMEOUT = 5  # seconds that one input may take, on a busy machine
MEMORY = 1024  # MiB of one process
MAX_CORPUS = 200_000  # bytes that a target's corpus may take in the repository
RUN = 64  # bytes that a kept input may not share with a vendor's file

sys.path.insert(0, str(HERE))


@dataclass(slots=True)
class Outcome:
    """One target's run. `edges` are the coverage points reached, by the instrumentation's count."""

    target: str
    seconds: float
    executions: int = 0
    edges: int = 0
    peak_mib: int = 0
    inputs: int = 0
    findings: tuple[str, ...] = ()


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def run_child(target: str, *arguments: str, limit: float) -> subprocess.CompletedProcess[str]:
    """One fuzzing process. libFuzzer starts itself again by name when it merges, so the interpreter must be found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path, "TEEHOUSE_FUZZ_TARGET": target}
    return subprocess.run(
        [sys.executable, str(CHILD), f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit,
        check=False,
    )


def write_inputs(folder: Path, inputs: Iterable[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:40]).write_bytes(data)


def fuzz(target: str, size: int, seconds: int) -> Outcome:
    """Run one target for `seconds`; it ends at its first finding."""
    work = WORK / target
    found, crashes = work / "found", work / "crashes"
    for folder in (found, crashes, CORPUS / target):
        folder.mkdir(parents=True, exist_ok=True)
    before = set(crashes.iterdir())
    began = time.monotonic()
    folders = [found, CORPUS / target, work / "seeds", work / "vendor"]
    done = run_child(
        target,
        f"-max_total_time={seconds}",
        f"-max_len={size}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
        *(str(folder) for folder in folders if folder.is_dir()),
        limit=seconds + 120,
    )
    outcome = Outcome(target, round(time.monotonic() - began, 1))
    text = done.stderr + done.stdout
    for name, pattern in (
        ("executions", r"number_of_executed_units:\s*(\d+)"),
        ("peak_mib", r"peak_rss_mb:\s*(\d+)"),
        ("edges", r"cov: (\d+)"),
    ):
        values = re.findall(pattern, text)
        setattr(outcome, name, int(values[-1]) if values else 0)
    outcome.inputs = len(list(found.iterdir()))
    new = sorted(set(crashes.iterdir()) - before)
    reason = re.findall(r"^\w[\w.]*(?:Error|Exception)\b.*", text, re.MULTILINE)
    outcome.findings = tuple(f"{path.relative_to(ROOT)}: {(reason or ['see its output'])[-1]}" for path in new)
    if done.returncode and not new:
        outcome.findings = (f"the process ended with status {done.returncode}: {text.strip().splitlines()[-1:]}",)
    (work / "output.txt").write_text(text)
    return outcome


class Vendor:
    """Which bytes are somebody else's: no input that shares a run of them is kept."""

    def __init__(self, files: Iterable[bytes], own: Iterable[bytes]) -> None:
        ours = {window for data in own for window in windows(data, 1)}
        self._theirs = {window for data in files for window in windows(data, RUN // 2)} - ours

    def shares(self, data: bytes) -> bool:
        return any(window in self._theirs for window in windows(data, 1))


def windows(data: bytes, step: int) -> Iterable[bytes]:
    """Runs of half of `RUN`, so that any shared run of `RUN` holds one that starts at a step; dull ones left out."""
    for at in range(0, len(data) - RUN // 2 + 1, step):
        window = data[at : at + RUN // 2]
        if len(set(window)) > 8:
            yield window


def keep(target: str, size: int, vendor: Vendor) -> int:
    """Replace the committed corpus by the smallest inputs that reach as much; gives its bytes."""
    work = WORK / target
    source, merged = work / "own", work / "merged"
    for folder in (source, merged):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for folder in (CORPUS / target, work / "found", work / "seeds"):
        inputs = (path.read_bytes() for path in sorted(folder.iterdir())) if folder.is_dir() else ()
        write_inputs(source, (data for data in inputs if len(data) <= size and not vendor.shares(data)))
    done = run_child(target, "-merge=1", f"-max_len={size}", str(merged), str(source), limit=600)
    if done.returncode:
        say(f"{target}: could not be merged, its corpus stays as it is")
        return sum(path.stat().st_size for path in (CORPUS / target).iterdir())
    total, chosen = 0, []
    for data in sorted((path.read_bytes() for path in merged.iterdir()), key=len):
        total += len(data)
        if total > MAX_CORPUS:
            break
        chosen.append(data)
    shutil.rmtree(CORPUS / target, ignore_errors=True)
    write_inputs(CORPUS / target, chosen)
    return sum(map(len, chosen))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="fuzz/run.py", description="Fuzz the parsers of teehouse_core.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default 1)")
    parser.add_argument("--no-vectors", action="store_true", help="leave the shared vectors out of the seeds")
    parser.add_argument("--keep", action="store_true", help="minimise what was found into fuzz/corpus")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    given = parser.parse_args(argv)
    from teehouse_fuzz import seeds
    from teehouse_fuzz.targets import MAX_INPUT, TARGETS

    if given.list:
        print("\n".join(TARGETS))
        return 0
    unknown = [name for name in given.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; --list names them")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed here; README.md tells how to make an environment that has it")
    names = given.targets or list(TARGETS)
    forged = seeds.forged()
    for name in names:
        for folder in ("seeds", "vendor"):
            shutil.rmtree(WORK / name / folder, ignore_errors=True)
        write_inputs(WORK / name / "seeds", forged[name])
        write_inputs(WORK / name / "vendor", () if given.no_vectors else seeds.vendor(name, MAX_INPUT[name]))

    def one(name: str) -> Outcome:
        outcome = fuzz(name, MAX_INPUT[name], given.seconds)
        say(f"{name}: {outcome.executions:,} inputs, {outcome.edges} edges, {outcome.seconds:.0f} s")
        for finding in outcome.findings:
            say(f"{name}: FOUND {finding}")
        return outcome

    outcomes = []
    if given.seconds > 0:
        with ThreadPoolExecutor(given.jobs) as pool:
            outcomes = list(pool.map(one, names))
        (WORK / "results.json").write_text(json.dumps([asdict(one) for one in outcomes], indent=1) + "\n")
        print(table(outcomes))
    if given.keep:
        own = [data for inputs in forged.values() for data in inputs]
        vendor = Vendor((path.read_bytes() for path in seeds.vendor_files()), own)
        for name in names:
            say(f"{name}: corpus of {keep(name, MAX_INPUT[name], vendor):,} bytes")
    return 1 if any(one.findings for one in outcomes) else 0


def table(outcomes: list[Outcome]) -> str:
    lines = ["| target | executions | edges | seconds | peak memory | findings |", "|---|---:|---:|---:|---:|---|"]
    for one in outcomes:
        cells = (one.target, f"{one.executions:,}", one.edges, f"{one.seconds:.0f}", f"{one.peak_mib} MiB")
        lines.append(f"| {' | '.join(map(str, cells))} | {len(one.findings) or 'none'} |")
    total = sum(one.executions for one in outcomes)
    lines.append(f"| all | {total:,} | | {sum(one.seconds for one in outcomes):.0f} | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
