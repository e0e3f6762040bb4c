# SPDX-License-Identifier: Apache-2.0
"""Writes spec/vectors, or with --check proves them; those of evidence as `evidence_kit` says.

`--check` proves that the committed files are exactly, byte for byte, what the makers make, that no file is there which
no maker makes, and that this repository's implementation gives each vector its verdict and output. The expected
outputs of accepted vectors come from the makers where they know them; the rest are this implementation's, for others
to agree with.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import evidence_kit
import make_evidence
from kit import ENVELOPES, VECTORS, Vector
from make_bodies import bodies
from make_commands import commands
from make_documents import documents
from make_grants import grants
from make_log import logs
from make_log_entries import log_entries
from make_pools import pools
from make_requests import requests
from make_responses import responses
from make_weights import weights

from teehouse.conformance import decide


def verdict_of(vector: Vector) -> tuple[str, dict[str, Any] | None]:
    """What this repository's implementation says: `expect` and `output` as a vector writes them."""
    verdict = decide(vector.stage, vector.given)
    if verdict["result"] == "accept":
        return "accept", verdict["output"]
    return f"reject/{verdict['code']}", {"wire": verdict["wire"]} if "wire" in verdict else None


def make() -> tuple[dict[str, str], list[str]]:
    """Every file's text by its path below `vectors`, and what is wrong."""
    files: dict[str, str] = {}
    wrong: list[str] = []
    for maker in (documents, requests, bodies, responses, pools, logs, log_entries, commands, grants, weights):
        for vector in maker():
            name = f"{vector.stage}/{vector.id}.json"
            if name in files:
                wrong.append(f"{vector.id}: made twice")
            expect, output = verdict_of(vector)
            if expect != vector.expect:
                wrong.append(f"{vector.id}: expected {vector.expect}, got {expect}")
            for member, value in (vector.output or {}).items():
                if (output or {}).get(member) != value:
                    wrong.append(f"{vector.id}: output {member} is not what the maker knows")
            document = vector.document()
            if output is not None:
                document["output"] = output
            files[name] = json.dumps(document, indent=1, ensure_ascii=True) + "\n"
    files["envelopes.json"] = json.dumps(ENVELOPES.used, indent=0, sort_keys=True) + "\n"
    return files, wrong


def _paths() -> list[Path]:
    return [path for path in VECTORS.rglob("*.json") if evidence_kit.FOLDER not in path.parents]


def compare(files: dict[str, str]) -> list[str]:
    """Differences between `files` and what lies below `vectors`, evidence aside."""
    there = {path.relative_to(VECTORS).as_posix() for path in _paths()}
    wrong = [f"{name}: no maker makes it" for name in sorted(there - files.keys())]
    wrong += [f"{name}: not there" for name in sorted(files.keys() - there)]
    both = sorted(there & files.keys())
    return wrong + [
        f"{name}: differs from what is made" for name in both if (VECTORS / name).read_text() != files[name]
    ]


def write(files: dict[str, str]) -> None:
    """Make `vectors` hold exactly `files`, beside evidence."""
    for path in _paths():
        if path.relative_to(VECTORS).as_posix() not in files:
            path.unlink()
    for name, text in files.items():
        path: Path = VECTORS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(argv: list[str] | None = None) -> int:
    """0 when all is well, 1 with findings."""
    parser = argparse.ArgumentParser(description="Write or check the conformance vectors of sealed/1.")
    parser.add_argument("--check", action="store_true", help="write nothing; prove what is there")
    parser.add_argument("--fresh", action="store_true", help="forge every vector of evidence anew, right or not")
    arguments = parser.parse_args(argv)
    files, wrong = make()
    evidence = list(make_evidence.vectors())
    if arguments.check:
        wrong += compare(files) + evidence_kit.check(evidence, make_evidence.UNREACHABLE)
    elif not wrong:
        write(files)
        wrong += evidence_kit.write(evidence, make_evidence.UNREACHABLE, fresh=arguments.fresh)
    for line in wrong:
        print(line)
    print(f"vectors: {len(files) - 1} and {len(evidence)} of evidence, findings: {len(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
