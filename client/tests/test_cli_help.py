# SPDX-License-Identifier: Apache-2.0
"""Every command has help, every error an exit code, and nothing a traceback."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from teehouse.cli import exits
from teehouse.cli import main as main_module
from teehouse.cli.main import main
from teehouse.cli.wrap import WordWrap
from teehouse.session.errors import Unreachable
from teehouse_core.errors import (
    EvidenceRefused,
    LocalError,
    MalformedError,
    OperatorError,
    StaleEvidence,
    TeehouseError,
    TruncatedStream,
    UnauthenticatedError,
)

COMMANDS = ["chat", "verify", "proxy", "demo", "up", "down", "status", "models", "version", "config show"]
COMMANDS += ["report parse", "report verify", "report compare", "evidence verify", "evidence show"]
COMMANDS += ["collateral fetch", "collateral import", "collateral show"]
COMMANDS += ["model encrypt", "model decrypt", "model inspect", "model import"]


@pytest.fixture(autouse=True)
def _no_platform(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("TEEHOUSE_BASE_URL", "TEEHOUSE_API_KEY", "TEEHOUSE_ENDPOINT", "TEEHOUSE_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == exits.OK
    said = capsys.readouterr().out
    assert "Usage: teehouse" in said
    if command:
        assert "--json" in said
    else:
        assert all(name.split()[0] in said for name in COMMANDS)
        assert "Exit codes" in said


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["up", "--port", "x"], ["up", "--engine", "none"], ["up", "--nodes", "99"], ["chat"], ["verify"]],
)
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(arguments) == exits.USAGE
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.out == ""
    assert said.err[len("error: ")].islower() or not said.err[len("error: ")].isalpha()


def test_json_errors_are_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--json", "-m", "hello"]) == exits.USAGE
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "endpoint-missing"
    assert document["error"]["hint"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvidenceRefused(), 10),
        (StaleEvidence(), 10),
        (MalformedError(), 30),
        (TruncatedStream(), 30),
        (UnauthenticatedError("unavailable", status=503), 3),
        (Unreachable(), 3),
        (OperatorError(), 3),
        (LocalError(), 2),
        (TeehouseError(), 1),
    ],
)
def test_exit_code_of_each_error(error: TeehouseError, code: int) -> None:
    assert exits.exit_code(error) == code


def test_an_unexpected_exception_shows_its_type_and_no_content(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_args: object, **_options: object) -> None:
        raise ValueError("my secret diagnosis")

    monkeypatch.setattr(main_module, "app", explode)
    assert main(["version"]) == exits.BUG
    said = capsys.readouterr()
    assert "ValueError" in said.err
    assert "secret" not in said.err + said.out


def test_version_and_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["wheels"]) == {
        "teehouse",
        "teehouse-core",
        "teehouse-enclave",
        "teehouse-cloud",
    }
    assert main(["models", "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [m["default"] for m in models].count(True) == 1
    assert all(len(m["weights_sha256"]) == 64 for m in models)


def test_config_show_tells_sources_and_masks_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-th-0123456789abcdef-" + "S" * 43
    monkeypatch.setenv("TEEHOUSE_API_KEY", key)
    assert main(["config", "show", "--json", "--policy", "evaluate"]) == 0
    said = capsys.readouterr()
    settings = json.loads(said.out)["settings"]
    assert settings["api_key"] == {"value": "sk-th-0123456789abcdef-…", "source": "environment TEEHOUSE_API_KEY"}
    assert settings["policy"]["source"] == "argument"
    assert settings["candidates"]["source"] == "default"
    assert "SSSS" not in said.out + said.err
    assert main(["config", "show"]) == 0
    assert "SSSS" not in capsys.readouterr().out


def test_status_and_down_without_a_platform(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == exits.UNREACHABLE
    assert json.loads(capsys.readouterr().out)["state"] == "stopped"
    assert main(["down", "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out) == {"version": 1, "stopped": False, "supervisor": None}


def test_no_colour_codes_when_told_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["models"]) == 0
    assert "\x1b[3" not in capsys.readouterr().out


def _wrapped(text: str, width: int, piece: int) -> str:
    out: list[str] = []
    wrap = WordWrap(out.append, width)
    for i in range(0, len(text), piece):
        wrap.feed(text[i : i + piece])
    wrap.end()
    return "".join(out)


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_streamed_text_breaks_between_words_and_loses_none(piece: int) -> None:
    text = "One two three, four.\n\n  Five   six seven eight nine 十一十二十三 " + "x" * 50 + " end"
    shown = _wrapped(text, 20, piece)
    assert "".join(shown.split()) == "".join(text.split())
    assert "\n\n  Five   six" in shown
    assert all(cell_len(line) <= 20 for line in shown.splitlines())
    assert "seve\n" not in shown
