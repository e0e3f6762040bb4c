# SPDX-License-Identifier: Apache-2.0
"""Every conformance vector through this repository's implementation, with its exact verdict (spec/README.md)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from teehouse.conformance import (
    ACCEPT,
    MALFORMED_INPUT,
    REJECT,
    STAGES,
    USAGE,
    InputError,
    _test_key,
    decide,
    main,
)

ROOT = Path(__file__).resolve().parent.parent
VECTORS = ROOT / "spec" / "vectors"
FILES = sorted(path for path in VECTORS.glob("*/*.json") if path.parent.name != "evidence")  # test_vectors_evidence
TEXTS = ("01-keyset.md", "02-session.md", "04-log.md", "05-receipt.md", "07-keys.md", "08-weights.md")
COMMAND = [sys.executable, "-m", "teehouse.conformance"]


def load(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text())
    return vector


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vector_has_its_verdict(path: Path) -> None:
    vector = load(path)
    assert path.stem == vector["id"]
    assert path.parent.name == vector["stage"]
    verdict = decide(vector["stage"], vector["input"])
    if vector["expect"] == "accept":
        assert verdict == {"result": "accept", "output": vector["output"]}
    else:
        assert f"{verdict['result']}/{verdict['code']}" == vector["expect"]
        assert ({"wire": verdict["wire"]} if "wire" in verdict else None) == vector.get("output")


def test_there_are_enough_and_most_must_be_refused() -> None:
    sessions = [load(path) for path in FILES if path.parent.name in ("open-request", "open-response")]
    kinds = Counter(vector["expect"] == "accept" for vector in sessions)
    assert sum(kinds.values()) >= 150
    assert kinds[False] > 4 * kinds[True]
    assert {path.parent.name for path in FILES} == set(STAGES)


def test_every_clause_that_a_vector_names_stands_in_the_spec() -> None:
    texts = {name[:2]: (ROOT / "spec" / name).read_text() for name in TEXTS}
    clauses = {load(path)["clause"] for path in FILES}
    headings = {
        f"{number} §{match}"
        for number, text in texts.items()
        for match in re.findall(r"^\*\*(\d+\.\d+)\*\*", text, re.M)
    } | {f"{number} §{match}" for number, text in texts.items() for match in re.findall(r"^## (\d+)\. ", text, re.M)}
    assert clauses - headings == set()


def test_every_code_that_a_vector_names_stands_in_the_spec() -> None:
    text = "".join((ROOT / "spec" / name).read_text() for name in TEXTS)
    codes = {load(path)["expect"].removeprefix("reject/") for path in FILES} - {"accept"}
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_committed_vectors_are_what_the_generator_makes() -> None:
    done = subprocess.run(
        [sys.executable, "spec/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("open-request/request-two-candidates", ACCEPT),
        ("open-request/request-rogue-r", REJECT),
        ("open-response/response-plain", ACCEPT),
        ("canonical/canonical-minus-zero", REJECT),
    ],
)
def test_the_command_answers_alike(name: str, code: int) -> None:
    vector = load(VECTORS / f"{name}.json")
    done = subprocess.run(
        [*COMMAND, vector["stage"]], input=json.dumps(vector["input"]).encode(), capture_output=True, check=False
    )
    assert done.returncode == code
    assert json.loads(done.stdout) == decide(vector["stage"], vector["input"])
    assert done.stderr == b""


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = self
        self._data = data

    def read(self) -> bytes:
        return self._data


@pytest.mark.parametrize(
    ("stage", "data"),
    [
        ("canonical", b"no json"),
        ("canonical", b"[]"),
        ("canonical", b"{}"),
        ("canonical", b'{"data":"AA=="}'),
        ("canonical", b'{"data":{"text":1}}'),
        ("canonical", b"[" * 100_000),
        ("open-request", b'{"endpoint":"ep","now":1,"published":["x"]}'),
        ("open-request", b'{"endpoint":"ep","now":true,"published":[]}'),
        ("open-request", b'{"endpoint":"ep","now":1,"published":[{"keyset":{"text":"{}"},"keys":[]}]}'),
        ("open-response", b'{"header":{"text":"{}"}}'),
    ],
)
def test_malformed_input_is_no_verdict(
    stage: str, data: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(data))
    assert main([stage]) == MALFORMED_INPUT
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("teehouse-conformance: ")


def test_response_input_must_fit_its_header() -> None:
    vector = load(VECTORS / "open-response" / "response-plain.json")
    with pytest.raises(InputError, match="differ in number"):
        decide(vector["stage"], vector["input"] | {"secrets": []})


def test_a_test_key_needs_its_seed() -> None:
    with pytest.raises(InputError, match="seed"):
        _test_key({"suite": "mlkem768x25519-hkdfsha256-aes256gcm", "seed": "AAAA"})


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["keyset", "more"]])
def test_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == USAGE
    assert "open-response" in capsys.readouterr().err


def test_main_accepts_and_rejects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(b'{"data":{"text":"{}"}}'))
    assert main(["canonical"]) == ACCEPT
    monkeypatch.setattr(sys, "stdin", _Stdin(b'{"data":{"text":"{ }"}}'))
    assert main(["canonical"]) == REJECT
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"output": {"value": {}}, "result": "accept"}, {"code": "not-canonical", "result": "reject"}]
