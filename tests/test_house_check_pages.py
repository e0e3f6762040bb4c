# SPDX-License-Identifier: Apache-2.0
"""The pages of every check: all there, none stale, and their commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def check_pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("house_check_pages", ROOT / "tools/check_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house_check_pages"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, check_pages: ModuleType) -> Path:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    check_pages.main(["--root", str(tmp_path)])
    return tmp_path


def test_every_check_has_its_current_pages(check_pages: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_pages.main(["--check"]) == 0, capsys.readouterr().out


def test_stale_missing_and_left_over_pages_fail(
    check_pages: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tree / "docs/en/checks"
    (folder / "tdx.quote.signature.md").write_text("older\n", encoding="utf-8")
    (folder / "tdx.quote.format.md").unlink()
    (folder / "tdx.quote.renamed.md").write_text("gone\n", encoding="utf-8")
    capsys.readouterr()
    assert check_pages.main(["--check", "--root", str(tree)]) == 1
    found = capsys.readouterr().out.splitlines()
    assert [line.split("/")[-1].split(":")[0].split(" is ")[0] for line in found] == [
        "tdx.quote.format.md",
        "tdx.quote.signature.md",
        "tdx.quote.renamed.md",
    ]
    assert check_pages.main(["--root", str(tree)]) == 0
    assert check_pages.main(["--check", "--root", str(tree)]) == 0


def test_a_check_without_entry_and_an_entry_without_check_fail(
    check_pages: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = dict(check_pages.CATALOGUE)
    catalogue["tdx.quote.new"] = catalogue.pop("tdx.quote.vendor")
    monkeypatch.setattr(check_pages, "CATALOGUE", catalogue)
    capsys.readouterr()
    assert check_pages.main(["--check", "--root", str(tree)]) == 1
    out = capsys.readouterr().out
    assert "tdx.quote.new has no entry" in out
    assert "describes tdx.quote.vendor, which is no check" in out


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('["sgx.enclave.debug".zh]', '["sgx.enclave.debug".fr]', "unknown fields fr"),
        ("attacker = ", "attack = ", "unknown fields attack"),
        ('words = ["sgx"]', 'words = ["gxs"]', "does not begin with a word of [page]"),
        ('title = "The enclave', 'title = "" # The enclave', "has no title"),
        ("order = ", "order = x", "sgx.toml"),
    ],
)
def test_a_wrong_table_is_named(
    check_pages: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, told: str
) -> None:
    table = tree / "docs/checks/sgx.toml"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new), encoding="utf-8")
    assert check_pages.main(["--check", "--root", str(tree)]) == 1
    assert told in capsys.readouterr().err


def test_a_policy_field_without_meaning_and_a_meaning_without_field_fail(
    check_pages: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tree / "docs/policy.toml"
    text = table.read_text(encoding="utf-8")
    table.write_text(
        text.replace("[roles]", "[rolls]").replace('"tdx.tcb.status"', '"tdx.tcb.state"'), encoding="utf-8"
    )
    capsys.readouterr()
    assert check_pages.main(["--check", "--root", str(tree)]) == 1
    out = capsys.readouterr().out
    assert "policy field roles has no entry" in out
    assert "describes rolls, which is no policy field" in out
    assert "tcb_statuses names tdx.tcb.state, which is no check" in out


def test_documented_commands_parse(check_pages: ModuleType) -> None:
    """Each command is one of the CLI's, with options that it has and the arguments that it wants."""
    from typer.main import get_command

    from teehouse.cli.app import app

    root = get_command(app)
    commands = {entry["command"] for part in check_pages.load_parts(ROOT) for entry in part.entries.values()}
    for page in ("docs/en/verify.md", "docs/zh/verify.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert blocks
        commands.update(blocks)
    for text in sorted(commands):
        for line in text.replace("\\\n", " ").strip().splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "teehouse", line
            command, rest = root, words[1:]
            context = root.make_context("teehouse", [], resilient_parsing=True)
            while hasattr(command, "commands"):
                command = command.get_command(context, rest[0])
                assert command is not None, line
                context, rest = context, rest[1:]
            with command.make_context("teehouse", rest, parent=context):
                pass
