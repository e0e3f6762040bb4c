# SPDX-License-Identifier: Apache-2.0
"""The doors: no silent skip in CI, every target documented, missing programs never stop a run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run_pytest(folder: Path, *, ci: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", "-q", "-rsfE", str(folder)],
        cwd=folder,
        env=os.environ | {"CI": ci, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "reason",
    ["missing program: nginx", "missing model: x", "missing shared vectors: tdx", "could not import 'teehouse.x'"],
)
def test_skip_for_something_missing_fails_in_ci_only(suite: Path, reason: str) -> None:
    (suite / "test_a.py").write_text(f"import pytest\ndef test_a():\n    pytest.skip({reason!r})\n", encoding="utf-8")
    assert "1 skipped" in run_pytest(suite, ci="")
    closing = run_pytest(suite, ci="true")
    assert "1 failed" in closing
    assert reason in closing


def test_skip_in_a_fixture_or_at_import_fails_in_ci(suite: Path) -> None:
    (suite / "test_b.py").write_text(
        "import pytest\n@pytest.fixture\ndef f():\n    pytest.skip('missing program: x')\ndef test_b(f): ...\n",
        encoding="utf-8",
    )
    assert "1 error" in run_pytest(suite, ci="true")
    (suite / "test_b.py").write_text(
        "import pytest\npytest.skip('missing model: y', allow_module_level=True)\n", encoding="utf-8"
    )
    assert "1 error" in run_pytest(suite, ci="true")
    assert "1 skipped" in run_pytest(suite, ci="")


def test_other_skips_and_expected_failures_stay(suite: Path) -> None:
    (suite / "test_c.py").write_text(
        "import pytest\ndef test_c():\n    pytest.skip('not on this system')\n"
        "@pytest.mark.xfail(reason='missing program: z')\ndef test_d():\n    assert False\n",
        encoding="utf-8",
    )
    closing = run_pytest(suite, ci="true")
    assert "1 skipped" in closing
    assert "1 xfailed" in closing
    assert "failed in" not in closing.replace("xfailed in", "")


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    assert set(re.findall(r"make ([a-z-]+) ", shown)) == targets
    assert {"dev", "demo", "test", "bench", "help", "lint", "types", "vectors", "tcb"} <= targets


def test_missing_program_without_root_is_said_and_does_not_stop(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "env"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n", encoding="utf-8")
    (tmp_path / "id").chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "tools/test_deps.sh"), "no-such-program:its-package", "/no/such-file:other", f"{__file__}:third"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert "MISSING PROGRAMS: no-such-program /no/such-file (" in done.stderr
    assert "apt-get install its-package other\n" in done.stderr


def test_lock_names_no_address() -> None:
    for name in ("requirements.lock", "tools/uv-requirements.txt"):
        lock = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in lock
        pinned = [line for line in lock.splitlines() if re.match(r"[a-z0-9]", line)]
        assert pinned
        assert all(re.match(r"[a-z0-9._-]+==", line) and line.endswith("\\") for line in pinned)
