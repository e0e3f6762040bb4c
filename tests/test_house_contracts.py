# SPDX-License-Identifier: Apache-2.0
"""The import contracts can fail: a copy with one planted import is refused, by the right contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ("core", "enclave", "cloud", "client")


@pytest.fixture
def copied_house(tmp_path: Path) -> Path:
    """The sources of the four wheels and the contracts, nothing else."""
    for wheel in WHEELS:
        shutil.copytree(ROOT / wheel / "src", tmp_path / wheel / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    # The copies come before the editable installs on the path, so the linter reads the copies.
    sources = os.pathsep.join(str(house / wheel / "src") for wheel in WHEELS)
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--config", str(house / ".importlinter")],
        cwd=house,
        env=os.environ | {"PYTHONPATH": sources, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_unplanted_house_keeps_every_contract(copied_house: Path) -> None:
    done = lint_imports(copied_house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("package", "planted", "contract"),
    [
        ("cloud/src/teehouse_cloud", "teehouse_core.seal", "cloud cannot decrypt or appraise"),
        ("cloud/src/teehouse_cloud", "cryptography", "cloud imports no cipher"),
        ("core/src/teehouse_core", "socket", "core has no I/O"),
        ("core/src/teehouse_core/wire", "teehouse_core.seal", "core.wire holds no key and no cipher"),
        ("core/src/teehouse_core", "teehouse_enclave", "core imports none of the three grounds"),
        ("enclave/src/teehouse_enclave", "teehouse_cloud", "enclave, cloud and client never import each other"),
        ("client/src/teehouse", "teehouse_enclave", "enclave, cloud and client never import each other"),
        ("enclave/src/teehouse_enclave", "sqlalchemy", "the enclave stays small"),
    ],
)
def test_planted_import_breaks_its_contract(copied_house: Path, package: str, planted: str, contract: str) -> None:
    (copied_house / package / "planted.py").write_text(f"import {planted}\n", encoding="utf-8")
    done = lint_imports(copied_house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout


def test_import_inside_a_function_counts(copied_house: Path) -> None:
    (copied_house / "cloud/src/teehouse_cloud/planted.py").write_text(
        "def late() -> None:\n    import teehouse_core.appraise\n", encoding="utf-8"
    )
    done = lint_imports(copied_house)
    assert done.returncode == 1
    assert "cloud cannot decrypt or appraise BROKEN" in done.stdout
