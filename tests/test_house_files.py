# SPDX-License-Identifier: Apache-2.0
"""The file, document and TCB checks of `make lint` can fail: each rule is broken on purpose in a copy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
# Written in parts, so that this file itself breaks no rule.
HOST = "files.python" + "hosted.org"
HOME = "/ho" + "me/somebody/project"


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("core/src/teehouse_core/long.py", SPDX + "x = 1\n" * 600, "too-long"),
        ("core/src/teehouse_core/bare.py", "x = 1\n", "no-spdx"),
        ("cloud/src/teehouse_cloud/a.py", SPDX + "prompt_plain = b''\n", "plain-in-cloud"),
        ("cloud/src/teehouse_cloud/b.py", SPDX + "def f(body_plain: bytes) -> None: ...\n", "plain-in-cloud"),
        ("cloud/src/teehouse_cloud/c.py", SPDX + "self.answer_plain = 1\n", "plain-in-cloud"),
        ("enclave/src/teehouse_enclave/d.py", SPDX + "assert True\n", "assert-in-product"),
        ("client/src/teehouse/e.py", SPDX + "def broken(:\n", "syntax"),
        ("docs/en/f.md", f"see {HOME}/x\n", "machine-path"),
        ("requirements.lock", f"--find-links {HOST}\n", "registry-host"),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, path: str, text: str, rule: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text, encoding="utf-8")
    done = run_tool("check_files.py", "--root", str(tmp_path))
    assert done.returncode == 1
    assert [line.split(": ")[1] for line in done.stdout.splitlines()] == [rule]


def test_clean_tree_has_no_findings(tmp_path: Path) -> None:
    for path, text in {
        "core/src/teehouse_core/fine.py": SPDX + "body_plain = b''\n",
        "cloud/src/teehouse_cloud/fine.py": SPDX + '"""Says body_plain in prose only."""\nplain_text = "name"\n',
        "tests/test_fine.py": SPDX + "assert True\n",
        "image.bin": "\0" + HOME,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    done = run_tool("check_files.py", "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A copy of the documents that hold together."""
    for folder in ("docs", "changes"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    sections = "\n\n".join(("## Context", "## Options", "## Decision", "## Consequences"))
    (tmp_path / "docs/adr/9999-good.md").write_text(f"# good\n\n{sections}\n", encoding="utf-8")
    for page in (tmp_path / "docs").rglob("*.md"):  # links out of the copied folders have no target here
        page.write_text(
            page.read_text(encoding="utf-8").replace("](../", "](https://example.invalid/"), encoding="utf-8"
        )
    with (tmp_path / "docs/adr/README.md").open("a", encoding="utf-8") as index:
        index.write("\n[good](9999-good.md)\n")
    (tmp_path / "README.md").write_text("# English\n", encoding="utf-8")
    (tmp_path / "README.zh.md").write_text("# 中文\n", encoding="utf-8")
    pages = [page.relative_to(tmp_path).as_posix() for page in sorted((tmp_path / "docs/zh").rglob("*.md"))]
    done = run_tool("check_docs.py", "--root", str(tmp_path), "--stamp", "README.zh.md", *pages)
    assert done.returncode == 0, done.stdout
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        ("docs/en/extra.md", "a page alone\n", "translation"),
        ("README.zh.md", "no stamp\n", "translation"),
        ("changes/readme.txt", "x\n", "change-note"),
        ("changes/2.improved.md", "x\n", "change-note"),
        ("changes/77.fixed.md", "\n", "change-note"),
        ("docs/adr/9999-good.md", "# no sections\n", "adr"),
        ("docs/adr/9998-unlisted.md", "## Context\n## Options\n## Decision\n## Consequences\n", "adr"),
        ("SECURITY.md", "see [there](no-such-file.md)\n", "dead-link"),
    ],
)
def test_planted_document_fault_is_found(documents: Path, path: str, text: str, rule: str) -> None:
    (documents / path).write_text(text, encoding="utf-8")
    done = run_tool("check_docs.py", "--root", str(documents))
    assert done.returncode == 1
    assert {line.split(": ")[1] for line in done.stdout.splitlines()} == {rule}


def test_old_translation_is_listed_and_does_not_fail(documents: Path) -> None:
    (documents / "README.md").write_text("# English, corrected\n", encoding="utf-8")
    done = run_tool("check_docs.py", "--root", str(documents))
    assert done.returncode == 0
    assert "README.zh.md is older than its source" in done.stderr


def test_links_in_code_are_not_links(documents: Path) -> None:
    (documents / "SECURITY.md").write_text("`[a](b.md)`\n\n```\n[c](d.md)\n```\n", encoding="utf-8")
    assert run_tool("check_docs.py", "--root", str(documents)).returncode == 0
