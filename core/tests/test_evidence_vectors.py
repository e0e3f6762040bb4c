# SPDX-License-Identifier: Apache-2.0
"""Genuine quotes of other people's machines, at the times their collateral was valid, through our own checks."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.evidence.bundle import build_bundle
from teehouse_core.evidence.tdx import TdReport, parse_quote
from teehouse_core.wire.keyset import Capabilities, Model, Software, build_keyset

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
OWN_CHECKS = (
    "tdx.quote.format",
    "tdx.quote.signature",
    "tdx.quote.attestation-key",
    "tdx.qe.signature",
    "tdx.qe.identity",
    "tdx.pck.chain",
    "tdx.pck.revocation",
    "tdx.collateral.tcb-info",
    "tdx.collateral.qe-identity",
    "tdx.collateral.dates",
    "tdx.tcb.fmspc",
)
STANDARD = Policy.preset("standard")


@cache
def rows() -> list[dict[str, Any]]:
    if not (VECTORS / "manifest.json").exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    manifest = json.loads((VECTORS / "manifest.json").read_text("utf-8"))
    return [row for row in manifest["tdx"] if row["tech"] == "tdx-v4-td10"]


def verdict_of(row: dict[str, Any], run: dict[str, Any] | None, kind: str = "tdx") -> Verdict:
    keyset = build_keyset(
        role="node",
        endpoint="ep-1",
        node="n",
        hpke=[],
        sign=[],
        model=Model("", ""),
        software=Software("", "", ""),
        capabilities=Capabilities("none", "none", "none", ()),
        not_before=0,
        not_after=1,
    )
    collateral = {"intel": json.loads((VECTORS / run["collateral"]).read_text("utf-8"))} if run else {}
    bundle = build_bundle(
        endpoint="ep-1",
        node="n",
        keyset=keyset,
        challenge_kind=1,
        challenge_value=bytes(32),
        platform_type=kind,
        report=(VECTORS / row["file"]).read_bytes(),
        workload_log=[],
        collateral=collateral,
    )
    at = int(datetime.fromisoformat(run["at"]).timestamp()) if run else 1_780_000_000
    return appraise(bundle, STANDARD if kind == "tdx" else Policy.preset("evaluate"), at, nonce=bytes(32))


def test_every_genuine_v4_quote_parses_and_encodes_back() -> None:
    seen = 0
    for row in rows():
        if "signature_checks" not in row or "NOT genuine" in row["origin"]:
            continue
        quote = parse_quote((VECTORS / row["file"]).read_bytes())
        assert TdReport.parse(quote.report.encode()) == quote.report
        assert quote.signed[48:] == quote.report.encode()
        assert quote.report.mr_td.hex() == row["mrtd"]
        assert quote.report.report_data.hex() == row["report_data"]
        seen += 1
    assert seen >= 25


def test_own_signature_checks_pass_on_genuine_quotes() -> None:
    seen = 0
    for row in rows():
        for run in row.get("verify", []):
            verdict = verdict_of(row, run)
            states = {check: verdict.check(check).state for check in OWN_CHECKS}
            assert set(states.values()) == {"passed"}, (row["file"], run["at"], states)
            assert verdict.tier == "hardware"
            status = verdict.check("tdx.dcap")
            if run["result"].startswith("REJECT"):
                assert status.state == "not-applicable"  # refused by a check of ours, which says why
            else:
                assert (status.state, status.claimed) == ("passed", run["result"])
                assert (verdict.check("tdx.tcb.status").state == "passed") == (run["result"] == "UpToDate")
            assert verdict.check("tdx.td.debug").state == ("failed" if row["debug"] else "passed")
            assert verdict.check("binding.report-data").state == "failed"
            assert verdict.result == "refused"
            seen += 1
    assert seen >= 40


def test_genuine_quotes_do_not_verify_under_the_simulated_root() -> None:
    row = next(row for row in rows() if row.get("verify"))
    verdict = verdict_of(row, row["verify"][0], kind="simulated")
    assert verdict.check("tdx.pck.chain").state == "failed"
    assert verdict.check("tdx.dcap").state == "not-applicable"
    assert verdict.tier == "none"


def test_genuine_quotes_without_collateral_are_refused() -> None:
    row = next(row for row in rows() if row.get("verify"))
    verdict = verdict_of(row, None)
    assert verdict.check("tdx.quote.signature").state == "passed"
    assert verdict.check("tdx.pck.revocation").state == "skipped"
    assert verdict.check("tdx.pck.revocation").refuses
