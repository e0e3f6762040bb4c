# SPDX-License-Identifier: Apache-2.0
"""Each bench runs in its smallest size and leaves a result of the right shape. What it measures means nothing here."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from teehouse.local.catalogue import DEFAULT_MODEL
from teehouse.local.weights import default_cache_dir

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"cpu", "cores", "kernel", "python", "openssl", "nginx", "packages", "commit", "date"}


def bench(name: str, out: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / "bench" / "run.py", name, "--tiny", "--out", out, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    assert document["bench"] == name
    assert set(document["machine"]) >= FACTS
    table = (out / "TABLE.md").read_text()
    assert table in done.stdout
    assert f"## `{name}`" in table
    assert not list(out.glob("**/*.state.json"))
    return document


def check_case(case: dict[str, Any], rounds: int, sides: set[str]) -> None:
    """Every side had its rounds, every summary has a median within its spread, every row with an aim an answer."""
    assert not case["skipped"], case
    assert {one["side"] for one in case["rounds"]} == sides
    assert len(case["rounds"]) == rounds * len(sides), case["notes"]
    assert not any(one.get("failed") for one in case["rounds"]), case["notes"]
    for summary in case["summary"].values():
        for spread in summary.values() if isinstance(summary, dict) else ():
            if spread["median"] is not None and spread["rounds"]:
                assert spread["min"] <= spread["median"] <= spread["max"]
                assert math.isfinite(spread["median"])
    assert case["rows"]
    assert all(row["reached"] in (True, False) for row in case["rows"] if row["aim"])


def test_seal(tmp_path: Path) -> None:
    document = bench("seal", tmp_path)
    names = {case["name"] for case in document["cases"]}
    assert {"seal request, 1 KB", "open request, 200 KB", "seal record, 200 B", "open record, 200 B"} <= names
    for case in document["cases"]:
        if case["name"] == "openssl speed":
            continue
        check_case(case, 3, {one["side"] for one in case["rounds"]})
        calls = [one["microseconds"] for one in case["rounds"] if one["side"] == "ours"]
        assert 0.5 < min(calls) <= max(calls) < 1e6


def test_gateway_beside_nginx(tmp_path: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin") is None:
        pytest.skip("missing program: nginx")
    document = bench("gateway", tmp_path)
    assert [case["name"] for case in document["cases"]] == ["4 streams, paced", "4 streams, flood"]
    for case in document["cases"]:
        check_case(case, 2, {"gateway", "nginx"})
        assert all(one["answers"] == 4 and one["bytes"] > 0 for one in case["rounds"])
        assert all(0 < one["middle_cpu"] < one["wall"] * 2 for one in case["rounds"])


def test_paced_streams(tmp_path: Path) -> None:
    document = bench("stream", tmp_path)
    assert [case["name"] for case in document["cases"]] == ["1 stream", "4 streams", "short answers, 5 users"]
    for case in document["cases"]:
        check_case(case, 2, {"sealed", "plain"})
        wanted = case["settings"]["streams"] * case["settings"]["requests per stream"] * case["settings"]["tokens"]
        for one in case["rounds"]:
            assert one["tokens"] == wanted  # both sides carry the same answer
            assert 0 < one["first_p50"] <= one["first_p95"] < 10_000
            if case["settings"]["tokens"] > 1:
                assert 1 < one["rate_p50"] < 60


@pytest.mark.slow
def test_keys(tmp_path: Path) -> None:
    document = bench("keys", tmp_path)
    cases = {case["name"]: case for case in document["cases"]}
    releases = cases.pop("releases, 4 requesters at once beside one")
    check_case(releases, 2, {"many", "one"})
    assert all(one["releases"] > 0 and one["checkpoints"] > 0 for one in releases["rounds"])
    log = cases.pop("log of 2,000 entries")
    check_case(log, 1, {"small", "large"})
    assert [one["entries"] for one in log["rounds"]] == [20, 2000]
    assert all(one[f"{who}_peak"] > 2**20 for one in log["rounds"] for who in ("ledger", "export", "verify"))
    check_proofs = cases.pop("proofs in a log of 2,000 entries")
    assert len(check_proofs["rounds"]) == 2 * 2 * 3
    assert all(1 < one["microseconds"] < 1e6 for one in check_proofs["rounds"])
    for case in cases.values():
        if case["name"] == "appends to PostgreSQL":
            assert case["skipped"] == "missing program: postgres"
            continue
        sqlite = case["settings"]["database"] == "SQLite"
        check_case(case, 2, {"journal", "ledger", "bare"} if sqlite else {"ledger", "bare"})
        assert all(one["per_second"] > 0 for one in case["rounds"])


@pytest.mark.model
@pytest.mark.slow
def test_real_model(tmp_path: Path) -> None:
    if not list(default_cache_dir().glob("*.gguf")):
        pytest.skip(f"missing model: {DEFAULT_MODEL}")
    document = bench("real", tmp_path)
    for case in document["cases"]:
        check_case(case, 2, {"sealed", "plain"})
        assert len({one["tokens"] for one in case["rounds"]}) == 1  # greedy: the same words on both sides


def test_resume_takes_over_finished_cases_only(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from teehouse_bench.results import Result
    finally:
        sys.path.remove(str(ROOT / "bench"))
    told: list[str] = []
    measured: list[str] = []

    def measure(case: Any) -> None:
        measured.append(case.name)
        case.rounds.append({"round": 0, "side": "ours"})

    broken = Result("seal", tmp_path, resume=False, say=told.append)
    broken.run("one", {"n": 1}, measure)
    broken.run("two", {"n": 1}, measure)
    again = Result("seal", tmp_path, resume=True, say=told.append)
    again.run("one", {"n": 1}, measure)
    again.run("two", {"n": 2}, measure)  # other settings: measured anew
    again.finish()
    assert measured == ["one", "two", "two"]
    anew = Result("seal", tmp_path, resume=True, say=told.append)
    anew.run("one", {"n": 1}, measure)
    assert measured[-1] == "one"


def test_an_unknown_bench_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "run.py"), "nonesuch"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "nonesuch" in done.stderr
