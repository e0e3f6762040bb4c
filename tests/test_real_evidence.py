# SPDX-License-Identifier: Apache-2.0
"""Genuine evidence gets the verdicts that its manifest states, nothing derived from it is accepted; pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import check_coverage
import pytest
import real_kit

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if name != "CI"} | environment
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=given)


@pytest.mark.slow
def test_every_artifact_gets_its_verdict() -> None:
    if not real_kit.VECTORS.exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    done = run("spec/real_evidence.py", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == ""


def test_without_the_folder_it_says_so_and_ci_fails(tmp_path: Path) -> None:
    lines = (
        "import sys; sys.path.insert(0, 'spec'); import pathlib, real_evidence as r;"
        f"r.VECTORS = pathlib.Path({str(tmp_path)!r}); raise SystemExit(r.main([]))"
    )
    done = run("-c", lines)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("REAL EVIDENCE NOT CHECKED")
    assert run("-c", lines, CI="true").returncode == 1


def test_the_pages_of_coverage_are_current() -> None:
    assert check_coverage.main(["--check"]) == 0


def test_a_policy_line_says_which_field_refuses() -> None:
    for name in real_kit.FIELD_OF.values():
        value = real_kit.Policy().to_json()
        for part in name.split("."):
            value = value[part]
