# SPDX-License-Identifier: Apache-2.0
"""Genuine SNP reports of other people's machines: accepted where a policy allows them; nothing derived from them is."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from forge_snp import TEST_ROOTS, Forge

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.artifacts.snp import verify_artifact
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.snp import fields, parse_report

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
DAY = 86_400
STANDARD = replace(Policy.preset("standard"), required_references=())
PROVIDER = "CN=cc-us-east-2.amazonaws.com"
# What is genuine and refused by default: old products and reports, a provider's key, a guest below a paravisor.
WIDE = replace(
    STANDARD,
    snp=replace(
        STANDARD.snp,
        products=("Milan", "Genoa", "Turin"),
        report_version_minimum=2,
        alias_check_required=False,
        revocation=("good", "unknown"),
        csp_ids=(PROVIDER,),
        vmpl=(0, 1),
    ),
)
CRL_WINDOWS = {"Genoa": (1729658184, 1762131600), "Milan": (1746535146, 1778544000)}  # of the two lists that we have


@cache
def rows() -> list[dict[str, Any]]:
    if not (VECTORS / "manifest.json").exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text("utf-8"))["snp"]
    return found


def signed_rows() -> list[dict[str, Any]]:
    return [row for row in rows() if row["leaf_cert"]]


@cache
def data(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


@cache
def lists() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((VECTORS / "snp" / "crl").iterdir())}


def product(row: dict[str, Any]) -> str:
    return str(row["product"].partition("-")[0])


def seconds(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())


def instant(row: dict[str, Any]) -> tuple[int, bool]:
    """A time at which the leaf is valid, and whether a list of its root is current then."""
    start, end = (seconds(day) for day in row["leaf_valid"])
    low, high = CRL_WINDOWS.get(product(row), (0, 0))
    both = max(start + DAY, low)
    return (both, True) if both < min(end, high) else (start + DAY, False)


def verify(row: dict[str, Any], policy: Policy, **changes: Any) -> ArtifactVerdict:
    raw = changes.pop("raw", data(row["file"]))
    given: dict[str, Any] = {
        "chain": data(row["leaf_cert"]) if row["leaf_cert"] else None,
        "collateral": lists(),
        "nonce": None,
        "report_data": bytes.fromhex(row["report_data"]),
        "now": instant(row)[0] if row["leaf_valid"] else seconds("2026-01-01"),
        "policy": policy,
    }
    return verify_artifact(raw, **{**given, **changes})


def refusing(verdict: ArtifactVerdict) -> set[str]:
    return {check.id for check in verdict.refusing}


def test_every_report_parses_to_what_the_manifest_says() -> None:
    for row in rows():
        raw = data(row["file"])
        report = parse_report(raw)
        assert report.version == row["version"]
        assert report.signing_key == row["signing_key"]
        assert report.policy.raw == int(row["policy"], 16)
        assert (report.policy.debug, report.policy.migrate_ma) == (row["debug"], row["migrate_ma"])
        assert (report.vmpl, report.guest_svn) == (row["vmpl"], row["guest_svn"])
        assert report.platform_info.raw == int(row["platform_info"], 16)
        assert report.platform_info.alias_check_complete == row["alias_check_complete"]
        assert report.measurement.hex() == row["measurement"]
        assert report.report_data.hex() == row["report_data"]
        assert report.host_data.hex() == row["host_data"]
        assert (
            report.reported_tcb.raw.hex() == row["reported_tcb"]
            or report.reported_tcb.raw[::-1].hex() == row["reported_tcb"]
        )
        assert report.reserved_set == ()
        if row["cpuid_fam_mod_step"]:
            assert bytes(report.cpuid or ()).hex() == row["cpuid_fam_mod_step"]
            assert row["product"] == "unknown" or report.product == product(row)
        assert fields(raw)
    assert len(rows()) >= 31


def test_genuine_reports_are_accepted_where_the_policy_allows_them() -> None:
    accepted = refused = 0
    for row in signed_rows():
        verdict = verify(row, WIDE)
        if row["debug"]:
            assert refusing(verdict) == {"snp.guest.debug"}
            refused += 1
            continue
        assert (verdict.result, verdict.tier, refusing(verdict)) == ("accepted", "hardware", set()), row["file"]
        assert verdict.claims["product"] == product(row)
        assert verdict.claims["revocation"] == ("good" if instant(row)[1] else "unknown")
        if row["signing_key"] == "VLEK":
            assert verdict.claims["csp_id"] == row["csp_id"] == PROVIDER
        accepted += 1
    assert (accepted, refused) == (len(signed_rows()) - 1, 1)
    assert accepted >= 24


def test_the_default_refuses_exactly_by_its_own_lines() -> None:
    milan_alone = 0
    for row in signed_rows():
        expected = set()
        if product(row) == "Milan":
            expected.add("snp.product.allowed")
        if row["version"] == 2:
            expected |= {"snp.report.version", "snp.platform.alias-check"}
        if row["debug"]:
            expected.add("snp.guest.debug")
        if row["vmpl"]:
            expected.add("snp.guest.vmpl")
        if row["signing_key"] == "VLEK":
            expected.add("snp.leaf.csp-id")
        if not instant(row)[1]:
            expected.add("snp.chain.revocation")
        verdict = verify(row, STANDARD)
        assert refusing(verdict) == expected, row["file"]
        assert (verdict.result == "accepted") == (not expected)
        if expected == {"snp.product.allowed"}:
            milan_alone += 1
            check = verdict.refusing[0]
            assert "snp.products" in check.hint
            assert "BadFuse" in check.hint
    assert milan_alone >= 9


def test_version_2_is_refused_by_one_line_when_all_else_is_allowed() -> None:
    only_version = replace(WIDE, snp=replace(WIDE.snp, report_version_minimum=3))
    seen = 0
    for row in signed_rows():
        if row["version"] == 2 and not row["debug"]:
            assert refusing(verify(row, only_version)) == {"snp.report.version"}
            seen += 1
    assert seen >= 6


def test_genoa_within_its_list_is_accepted_by_default() -> None:
    good = [row for row in signed_rows() if product(row) == "Genoa" and instant(row)[1]]
    assert good
    assert {verify(row, STANDARD).result for row in good} == {"accepted"}


def test_without_a_leaf_nothing_is_accepted() -> None:
    for row in rows():
        verdict = verify(row, WIDE, chain=None)
        assert verdict.result == "refused"
        assert "snp.leaf.format" in refusing(verdict)
        assert next(c for c in verdict.checks if c.id == "snp.leaf.format").state == "skipped"


def negatives(row: dict[str, Any], others: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What an attacker can do with one genuine report and everybody's certificates."""
    raw, leaf = data(row["file"]), data(row["leaf_cert"])

    def flipped(source: bytes, at: int, bit: int = 1) -> bytes:
        return source[:at] + bytes([source[at] ^ bit]) + source[at + 1 :]

    for at in (0x004, 0x008, 0x050, 0x090, 0x0C0, 0x140, 0x180, 0x1A0, 0x29F):
        yield f"signed byte {at:#x} flipped", {"raw": flipped(raw, at)}
    yield "signature r flipped", {"raw": flipped(raw, 0x2A0)}
    yield "signature s flipped", {"raw": flipped(raw, 0x2E8 + 47, 0x80)}
    yield "signature swapped", {"raw": raw[:0x2A0] + raw[0x2E8:0x330] + raw[0x2A0:0x2E8] + raw[0x330:]}
    yield "bytes after the signature", {"raw": raw[:-1] + b"\x01"}
    yield "truncated", {"raw": raw[:-1]}
    yield "cut to the signed part", {"raw": raw[:0x2A0]}
    yield "a byte too many", {"raw": raw + b"\0"}
    yield "other report data expected", {"report_data": b"\xee" * 64}
    yield "other nonce", {"report_data": None, "nonce": b"another nonce"}
    yield "before the leaf", {"now": seconds(row["leaf_valid"][0]) - DAY}
    yield "after the leaf", {"now": seconds(row["leaf_valid"][1]) + 2 * DAY}
    foreign = next(r for r in others if r["leaf_cert"] != row["leaf_cert"] and data(r["leaf_cert"]) != leaf)
    if parse_report(data(foreign["file"])).chip_id != parse_report(raw).chip_id:
        yield "another chip's certificate", {"chain": data(foreign["leaf_cert"])}
    yield "a TEST certificate", {"chain": Forge(product=product(row)).vcek()}
    yield "leaf flipped", {"chain": flipped(leaf, 400)}
    yield "leaf signature flipped", {"chain": flipped(leaf, len(leaf) - 1)}
    yield "leaf truncated", {"chain": leaf[:-1]}
    yield "leaf with a tail", {"chain": leaf + b"\0"}
    yield "swapped chain", {"chain": _pem(leaf, swapped(row))}
    test = TEST_ROOTS[product(row)]
    yield "TEST chain", {"chain": _pem(leaf, test.ask) + _pem(test.ark)}
    yield "no certificate", {"chain": None}
    yield (
        "list flipped",
        {"collateral": {"a.crl": flipped(lists()[_list(row)], 300)}} if _list(row) else {"chain": b"x"},
    )


def _list(row: dict[str, Any]) -> str:
    return next((name for name in lists() if product(row) in name), "")


def swapped(row: dict[str, Any]) -> bytes:
    other = "Turin" if product(row) != "Turin" else "Genoa"
    return _der(data(f"snp/roots/SEV-{other}.pem"))


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.split(b"-----")[2].split()))


def _pem(*ders: bytes) -> bytes:
    return AmdCollateral(b"", ders).to_dict()["chain"].encode()


def test_no_derived_negative_is_accepted() -> None:
    tried = 0
    others = signed_rows()
    for row in others:
        before = tried
        for name, changes in negatives(row, others):
            tried += 1
            try:
                verdict = verify(row, WIDE, **changes)
            except MalformedError:
                continue
            assert verdict.result == "refused", (row["file"], name)
            assert verdict.refusing
        assert tried - before >= 25
    assert tried >= 25 * 24


def test_the_supplied_chain_may_be_amds_own() -> None:
    for row in signed_rows():
        if row["debug"]:
            continue
        kind = "SEV-VLEK-" if row["signing_key"] == "VLEK" else "SEV-"
        signer = _der(data(f"snp/roots/{kind}{product(row)}.pem"))
        root = _der(data(f"snp/roots/ARK-{product(row)}.pem"))
        verdict = verify(row, WIDE, chain=_pem(data(row["leaf_cert"]), signer, root))
        assert verdict.result == "accepted"
