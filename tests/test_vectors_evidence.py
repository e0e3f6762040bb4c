# SPDX-License-Identifier: Apache-2.0
"""Every vector of evidence gets its verdict, by this repository's code, for exactly the checks that it names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import evidence_kit
import pytest

from teehouse.conformance import ACCEPT, MALFORMED_INPUT, REJECT, InputError, decide, main
from teehouse_core.appraise.catalogue import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent
VECTORS = evidence_kit.load()
COMMAND = [sys.executable, "-m", "teehouse.conformance"]


@pytest.mark.parametrize("name", VECTORS)
def test_vector_has_its_verdict(name: str) -> None:
    vector = VECTORS[name]
    assert name == f"{name.partition('/')[0]}/{vector['id']}.json"
    assert evidence_kit.problem(vector) is None


def test_there_are_enough_and_most_must_be_refused() -> None:
    kinds = Counter(vector["expect"].partition("/")[0] for vector in VECTORS.values())
    assert kinds["reject"] + kinds["malformed"] >= 200
    assert kinds["malformed"] >= 50
    assert kinds["accept"] >= 50
    assert len({vector["id"] for vector in VECTORS.values()}) == len(VECTORS)


def test_nearly_every_rejected_vector_fails_one_check_alone() -> None:
    rejected = [vector for vector in VECTORS.values() if vector["expect"].startswith("reject/")]
    several = [vector for vector in rejected if vector.get("also")]
    assert len(several) < len(rejected) / 10


def test_every_check_is_the_only_failure_of_some_vector() -> None:
    unreachable = json.loads(evidence_kit.UNREACHABLE.read_text())
    assert evidence_kit.uncovered(VECTORS.values(), unreachable) == []
    assert len(unreachable) <= 4
    alone = {v["expect"].removeprefix("reject/") for v in VECTORS.values() if not v.get("also")}
    # What parses nothing leaves the checks after it nothing to look at: these come with checks that were skipped.
    together = {check_id for check_id in CATALOGUE if check_id not in alone and check_id not in unreachable}
    assert together == {
        "policy.supported",
        "tdx.quote.format",
        "snp.report.format",
        "snp.leaf.format",
        "tpm.quote.format",
        "hcl.format",
        "tpm.log.format",
        "eventlog.format",
        "workload.log.events",
        "gpu.report.format",
    }


def test_a_check_that_comes_with_others_is_the_one_that_failed_first() -> None:
    for vector in VECTORS.values():
        assert not {vector["expect"].removeprefix("reject/")} & set(vector.get("also", ()))
        assert set(vector.get("also", ())) <= set(CATALOGUE)


def test_the_folder_is_small_and_names_no_part_that_is_missing() -> None:
    files = [path for path in evidence_kit.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= evidence_kit.MAX_TOTAL
    used = {name for vector in VECTORS.values() for name in evidence_kit.references(vector["input"])}
    assert used == {path.name for path in evidence_kit.SHARED.glob("*")}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("node/node-good.json", ACCEPT),
        ("snp/snp-node-genoa-v5.json", ACCEPT),
        ("snp/snp-genoa-v5-debug.json", REJECT),
        ("nvidia/nvidia-gh100-cut-by-a-byte.json", REJECT),
    ],
)
def test_the_command_answers_alike(name: str, code: int) -> None:
    vector = VECTORS[name]
    given = evidence_kit.resolve(vector["input"])
    done = subprocess.run(
        [*COMMAND, vector["stage"]], input=json.dumps(given).encode(), capture_output=True, check=False
    )
    assert done.returncode == code
    assert json.loads(done.stdout) == decide(vector["stage"], given)
    assert done.stderr == b""


def good() -> dict[str, Any]:
    resolved: dict[str, Any] = evidence_kit.resolve(VECTORS["snp/snp-node-genoa-v5.json"]["input"])
    return resolved


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("appraise", {"policy": {"base": "lenient"}}),
        ("appraise", {"policy": {"roots": "x"}}),
        ("appraise", {"policy": "evaluate"}),
        ("appraise", {"now": -1}),
        ("appraise", {"nonce": "AAAA"}),
        ("appraise", {"roots": {"acme": ""}}),
        ("appraise", {"roots": {"intel": "AAAA"}}),
        ("appraise", {"roots": {"vtpm": ["AAAA"]}}),
        ("appraise", {"roots": {"amd": {"Genoa": {}}}}),
        ("appraise", {"bundle": [["AAAA"]]}),
        ("artifact", {"type": "sgx-quote", "artifact": "AAAA"}),
        ("artifact", {"type": "tdx-quote", "artifact": "AAAA"}),  # with TEST roots, which this type does not take
        ("artifact", {"type": "snp-report", "artifact": "AAAA", "report_data": "AAAA"}),
    ],
)
def test_malformed_input_is_no_verdict(stage: str, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        decide(stage, good() | {"now": 1} | change)


def test_malformed_evidence_is_a_verdict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.dumps({"bundle": {"text": "{}"}, "policy": {}, "now": 1}).encode()
    monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": type("B", (), {"read": lambda _: data})()}))
    assert main(["appraise"]) == REJECT
    assert json.loads(capsys.readouterr().out) == {"result": "malformed", "code": "missing-member"}
    monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": type("B", (), {"read": lambda _: b"{}"})()}))
    assert main(["artifact"]) == MALFORMED_INPUT


def test_test_roots_have_one_door() -> None:
    """Nothing but the conformance stages reaches the entry that takes TEST roots, and nothing else makes anchors."""
    pattern = re.compile(r"under_test_roots|anchors_for_tests|appraise(_pool)?_under\b")
    found = set()
    for wheel in ("core", "enclave", "cloud", "client"):
        for path in (ROOT / wheel / "src").rglob("*.py"):
            if pattern.search(path.read_text("utf-8")):
                found.add(path.name)
    assert found == {"anchors.py", "appraise.py", "pool.py", "under_test_roots.py", "conformance_evidence.py"}
