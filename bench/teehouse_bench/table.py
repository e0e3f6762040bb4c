# SPDX-License-Identifier: Apache-2.0
"""TABLE.md, and the same for eyes on a terminal: every claim, its aim, and whether it was reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["render", "write_table"]

_TITLES = {
    "stream": ("Paced streams, end to end", "sealed", "plain"),
    "real": ("The embedded language model, end to end", "sealed", "plain"),
    "gateway": ("Gateway beside nginx, per CPU-second of the process in the middle", "gateway", "nginx"),
    "seal": ("The sealed/1 machine beside bare library calls", "sealed/1", "bare"),
    "verify": ("Appraisal beside bare dcap-qvl and bare signature checks", "appraisal", "bare"),
    "weights": ("Model weights beside `openssl speed`, SHA-256 and a copy", "teehouse", "beside"),
    "keys": ("The key service and its log, beside bare databases, bare hashes, or less of the same", "ours", "beside"),
}


INTRODUCTION = """\
Made by `make bench`; every round is in the JSON file of its bench. Numbers are medians over rounds, and both sides of a
line ran in turns in the same run. What travels to another machine are ratios. "Rounds disagree" means that the smallest
and the largest round stand on different sides of the aim: such a line says little.
"""


def write_table(folder: Path) -> str:
    """Make TABLE.md of every result in `folder`; gives its text."""
    parts = [
        "# What was measured\n",
        INTRODUCTION,
    ]
    for name in _TITLES:
        path = folder / f"{name}.json"
        if path.exists():
            parts.append(render(json.loads(path.read_text())))
    text = "\n".join(parts)
    (folder / "TABLE.md").write_text(text)
    return text


def render(document: dict[str, Any]) -> str:
    """One bench as Markdown."""
    name, machine = document["bench"], document["machine"]
    title, ours, theirs = _TITLES[name]
    lines = [f"## `{name}`: {title}\n", _machine(machine) + "\n"]
    for case in document["cases"]:
        lines.append(f"### {case['name']}\n")
        if case["skipped"]:
            lines.append(f"**SKIPPED**: {case['skipped']}\n")
            continue
        rounds = len({one.get("round", 0) for one in case["rounds"]})
        lines.append(f"{rounds} rounds of each side, in turns.\n" if rounds > 1 else "")
        lines.append(f"| | {ours} | {theirs} | change | smallest … largest | aim | reached |")
        lines.append("|---|---:|---:|---:|---|---|---|")
        for row in case["rows"]:
            word = {True: "yes", False: "**no**", None: "–" if not row["aim"] else "not measured"}[row["reached"]]
            if row["reached"] is not None and not row["agree"]:
                word += ", rounds disagree"
            cells = (row["what"], row["ours"], row["theirs"], row["change"], row["spread"], row["aim"], word)
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        lines += [f"- {note}" for note in case["notes"]]
        if case["notes"]:
            lines.append("")
    return "\n".join(lines)


def _machine(facts: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    load = f"{facts['load_before'][0]:.1f} before, {facts['load_after'][0]:.1f} after"
    return (
        f"{facts['date']}, commit {facts['commit']}. {facts['cpu']}, {facts['cores']} cores, "
        f"{facts['memory_mib']} MiB, Linux {facts['kernel']}, {facts['python']}, {facts['openssl']}, {facts['nginx']}. "
        f"Load: {load}. {packages}."
    )
