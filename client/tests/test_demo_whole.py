# SPDX-License-Identifier: Apache-2.0
"""`teehouse demo` from end to end on the echo engine, as CI runs it: no terminal, plain lines, exit code 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TEEHOUSE = Path(sys.executable).with_name("teehouse")
QUESTION = "who reads my letters when nobody is looking?"


def _demo(
    tmp_path: Path, *arguments: str, engine: str = "echo", extra: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TEEHOUSE_", "XDG_"))}
    env = kept | {"HOME": str(tmp_path), "COLUMNS": "80", "CI": "true", "TMPDIR": str(tmp_path)} | (extra or {})
    command = [str(TEEHOUSE), "demo", "--engine", engine, "--nodes", "1", "--ask", QUESTION, *arguments]
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


def test_the_whole_demo_as_json(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["result"] == "ok"
    assert said["tier"] == "simulated"
    assert said["nodes"][0]["result"] == "accepted"
    assert said["nodes"][0]["checks"]["passed"] > 50
    assert said["answer"]["text"] == f"echo: {QUESTION}"
    for name in ("question", "answer"):
        assert said["captured"][name]["found"] == 0
        assert said["captured"][name]["windows"] > 100
        assert said["captured"][name]["control"] > 10
    assert said["receipt"]["usage"]["output_tokens"] > 0
    assert [(a["name"], a["refused"], a["code"]) for a in said["attacks"]] == [
        ("flip-bit", True, "record-tag"),
        ("swap-key", True, "evidence-refused"),
        ("truncate", True, "truncated-stream"),
    ]
    assert list(tmp_path.glob("teehouse-demo-*")) == []  # nothing of it stays


@pytest.mark.slow
def test_the_whole_demo_in_plain_lines(tmp_path: Path) -> None:
    done = _demo(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    for words in ("SIMULATED", "no protection at all", "✓ certificate chain to the root", "the gateway saw"):
        assert words in done.stdout, words
    assert done.stdout.count("refused [") == 3
    assert "NOT REFUSED" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.model
@pytest.mark.slow
def test_the_whole_demo_on_the_real_model(tmp_path: Path) -> None:
    from teehouse.local.catalogue import DEFAULT_MODEL
    from teehouse.local.weights import default_cache_dir, locate
    from teehouse_core.errors import OperatorError

    try:
        locate(DEFAULT_MODEL)
    except OperatorError as error:
        pytest.skip(f"missing model: {error.code}")
    cache = str(default_cache_dir().parent.parent)
    done = _demo(tmp_path, "--json", engine="llamacpp", extra={"XDG_CACHE_HOME": cache})
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["model"] == DEFAULT_MODEL
    assert len(said["answer"]["text"]) > 20
    assert said["answer"]["first_token_seconds"] > 0
    assert [attack["refused"] for attack in said["attacks"]] == [True, True, True]
