# SPDX-License-Identifier: Apache-2.0
"""The Python of the README and the quickstart runs as it stands, against a running platform."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support_platform import Platform

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["README.md", "README.zh.md", "docs/en/quickstart.md", "docs/zh/quickstart.md"])
def test_the_python_of_the_readme_runs(name: str, platform: Platform, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    (tmp_path / "ready.json").write_text(json.dumps(platform.ready))
    for block in blocks:
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, timeout=60, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("echo: Say hello.")
        assert "answered by keyset" in done.stdout
