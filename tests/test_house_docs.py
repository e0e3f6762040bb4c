# SPDX-License-Identifier: Apache-2.0
"""What the documents tell people to type exists: commands, their options, make targets, SDK names."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "README.zh.md", "docs/en/quickstart.md", "docs/zh/quickstart.md", "ARCHITECTURE.md", "TRUST.md"]
PAGES += ["SECURITY.md", "CONTRIBUTING.md"]
PAGES += [
    f"docs/{language}/{page}.md" for language in ("en", "zh") for page in ("keys", "audit", "verify", "model-weights")
]
# a command, some of which have a verb behind the noun, or behind two
WORDS = r"keys (?:admin|tenant|ring|policy|pool) [a-z]+|"
WORDS += r"(?:report|evidence|collateral|config|keys|audit|model) [a-z-]+|[a-z]+"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def typed_commands() -> dict[str, set[str]]:
    """`teehouse` command → options that some page shows with it; the word `planned` on the line excuses it."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for line in text_of(page).splitlines():
            if "planned" in line:
                continue
            for command, rest in re.findall(rf"(?:`|^|\$ \.venv/bin/)teehouse ({WORDS})((?: [^`#\n]*)?)", line):
                found.setdefault(command, set()).update(re.findall(r"--[a-z-]+", rest))
    return found


def test_documents_name_commands() -> None:
    assert {"up", "down", "status", "verify", "proxy"} <= set(typed_commands())


@pytest.mark.parametrize("command", sorted(typed_commands()))
def test_documented_command_and_options_exist(command: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "teehouse"), *command.split(), "--help"],
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing = {option for option in typed_commands()[command] if option not in done.stdout}
    assert not missing


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of("Makefile"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for words in re.findall(r"(?:`|\$ )make ([a-z -]+)", text_of(page))
        for target in words.split()[:2]
    }
    assert {"demo", "dev", "bench"} <= named
    assert named <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)])
def test_python_snippets_use_names_that_exist(page: str) -> None:
    import teehouse

    for snippet in re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "teehouse":
                assert hasattr(teehouse, node.attr)


def test_both_readmes_have_one_place_for_figures() -> None:
    for page in ("README.md", "README.zh.md"):
        text = text_of(page)
        assert text.count("<!-- figures -->") == 1
        assert text.count("<!-- /figures -->") == 1
