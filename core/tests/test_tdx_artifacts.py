# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  a case is one line, so that the table can be read
"""Single Intel quotes: genuine ones get the verdict of the manifest, each wrong thing fails its own check and no other."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from cryptography import x509
from forge_tdx import (
    NOW,
    REPORT_DATA,
    ForgedQuote,
    attestation_key,
    crl,
    extension,
    leaf_chain,
    pki,
    stranger,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.artifacts.dispatch import ARTIFACTS, artifact_policy, verify
from teehouse_core.appraise.artifacts.tdx import find_collateral, verify_artifact
from teehouse_core.appraise.policy import Policy, References
from teehouse_core.appraise.tcb_level import merge, relaunch
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.evidence import tdreport, tdx_fields
from teehouse_core.evidence.tdx import SgxQuote, TdQuote, TdReport, parse_any_quote
from teehouse_enclave.platform import simulated_pki

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
EVALUATE = artifact_policy(Policy.preset("evaluate"), fresh=False)
STANDARD = artifact_policy(Policy.preset("standard"), fresh=False)
BOTH = replace(STANDARD, platforms=("tdx", "sgx"))
WRONG48 = ("ee" * 48,)


def appraise(
    raw: bytes, files: dict[str, bytes] | None, policy: Policy = EVALUATE, now: int = NOW, **options: Any
) -> ArtifactVerdict:
    given = {"chain": None, "nonce": None, "report_data": None, **options}
    return verify_artifact(raw, collateral=files, policy=policy, now=now, **given)


def refusing(verdict: ArtifactVerdict) -> set[str]:
    return {check.id for check in verdict.refusing}


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def td(**changes: Any) -> Callable[[TdReport], TdReport]:
    return lambda report: replace(report, **changes)


def level(path: tuple[Any, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value

    return change


# --- forged: everything right, then one thing wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "later", "extended"), [(4, False, False), (5, False, False), (5, True, False), (5, True, True)]
)
def test_forged_quotes_are_accepted_as_simulated_only(version: int, later: bool, extended: bool) -> None:
    forged = ForgedQuote(version=version, later=later, extended=extended)
    verdict = appraise(forged.quote(), forged.files())
    assert (verdict.result, verdict.tier, refusing(verdict)) == ("accepted", "simulated", set())
    assert verdict.claims["tcb_status"] == "UpToDate"
    assert ("mr_service_td" in verdict.claims) == later
    assert ("td_id" in verdict.claims) == extended
    assert json.loads(json.dumps(verdict.to_json()))["result"] == "accepted"
    strict = appraise(forged.quote(), forged.files(), STANDARD)
    assert strict.result == "refused"
    assert strict.tier == "none"
    assert "tdx.pck.chain" in refusing(strict)


@dataclass
class Case:
    name: str
    failing: str
    forged: ForgedQuote = field(default_factory=ForgedQuote)
    policy: Policy = EVALUATE
    now: int = NOW
    options: dict[str, Any] = field(default_factory=dict)


LATER = ForgedQuote(version=5, later=True)
EXTENDED = ForgedQuote(version=5, later=True, extended=True)
SVN = simulated_pki.TEE_TCB_SVN
CASES = [
    Case("vendor", "tdx.quote.vendor", ForgedQuote(header=lambda h: flip(h, 12))),
    Case("signature of other bytes", "tdx.quote.signature", ForgedQuote(parts={"signature": simulated_pki.raw_signature(attestation_key(), b"x")})),
    Case("auth data not vouched for", "tdx.quote.attestation-key", ForgedQuote(parts={"qe_auth_data": b"x"})),
    Case("QE report signed by a stranger", "tdx.qe.signature", ForgedQuote(parts={"qe_signature": simulated_pki.raw_signature(stranger(), b"x")})),
    Case("QE of another signer", "tdx.qe.identity", ForgedQuote(qe=lambda r: flip(r, 130))),
    Case("QE in debug mode", "tdx.qe.identity", ForgedQuote(qe=lambda r: r[:48] + bytes([r[48] | 2]) + r[49:])),
    Case("QE too old", "tdx.qe.level", ForgedQuote(qe_identity=level(("tcbLevels", 0, "tcb", "isvsvn"), 9))),
    Case("leaf signed by a stranger", "tdx.pck.chain", ForgedQuote(parts={"pem_chain": leaf_chain(signer=stranger())})),
    Case("leaf of the future", "tdx.pck.chain", ForgedQuote(parts={"pem_chain": leaf_chain(made_at=NOW + 30 * 86400)})),
    Case("leaf revoked", "tdx.pck.revocation", ForgedQuote(collateral={"pck_crl": crl("pck", revoke=x509.load_pem_x509_certificate(pki().chain)).hex()})),
    Case("PCK CA revoked", "tdx.pck.revocation", ForgedQuote(collateral={"root_ca_crl": crl("root", revoke=pki().ca).hex()})),
    Case("TCB signer revoked", "tdx.pck.revocation", ForgedQuote(collateral={"root_ca_crl": crl("root", revoke=pki().tcb).hex()})),
    Case("PCK CRL over", "tdx.pck.revocation", ForgedQuote(collateral={"pck_crl": crl("pck", until=NOW).hex()})),
    Case("PCK CRL not yet issued", "tdx.pck.revocation", ForgedQuote(collateral={"pck_crl": crl("pck", issued=NOW + 60).hex()})),
    Case("root CRL by a stranger", "tdx.pck.revocation", ForgedQuote(collateral={"root_ca_crl": crl("root", key=stranger()).hex()})),
    Case("TCB info for SGX", "tdx.collateral.tcb-info", ForgedQuote(tcb_info=level(("id",), "SGX"))),
    Case("TCB info of version 2", "tdx.collateral.tcb-info", ForgedQuote(tcb_info=level(("version",), 2))),
    Case("TCB info not signed", "tdx.collateral.tcb-info", ForgedQuote(collateral={"tcb_info_signature": "11" * 64})),
    Case("QE identity of the SGX QE", "tdx.collateral.qe-identity", ForgedQuote(qe_identity=level(("id",), "QE"))),
    Case("QE identity not signed", "tdx.collateral.qe-identity", ForgedQuote(collateral={"qe_identity_signature": "11" * 64})),
    Case("QE identity not yet issued", "tdx.collateral.dates", ForgedQuote(qe_identity=level(("issueDate",), "2026-12-31T00:00:00Z"))),
    Case("TCB info over", "tdx.collateral.dates", ForgedQuote(tcb_info=level(("nextUpdate",), "2026-09-01T00:00:00Z"))),
    Case("collateral too old", "tdx.collateral.age", policy=replace(EVALUATE, max_collateral_age=60)),
    Case("collateral of an earlier recovery", "tdx.collateral.evaluation", policy=replace(EVALUATE, min_tcb_evaluation=2)),
    Case("TCB info of another machine", "tdx.tcb.fmspc", ForgedQuote(tcb_info=level(("fmspc",), "00906EA10000"))),
    Case("TCB info of another PCE", "tdx.tcb.fmspc", ForgedQuote(tcb_info=level(("pceId",), "0001"))),
    Case("below every SGX level", "tdx.tcb.level", ForgedQuote(tcb_info=level(("tcbLevels", 0, "tcb", "sgxtcbcomponents", 7, "svn"), 9))),
    Case("below every TDX level", "tdx.tcb.level", ForgedQuote(tcb_info=level(("tcbLevels", 0, "tcb", "tdxtcbcomponents", 5, "svn"), 9))),
    Case("below every PCE level", "tdx.tcb.level", ForgedQuote(tcb_info=level(("tcbLevels", 0, "tcb", "pcesvn"), 9))),
    Case("module of another signer", "tdx.module.identity", ForgedQuote(report=td(mr_signer_seam=b"\1" * 48))),
    Case("module too old", "tdx.module.level", ForgedQuote(tcb_info=level(("tdxModuleIdentities", 0, "tcbLevels", 0, "tcb", "isvsvn"), 9))),
    Case("running module older than launch", "tdx.module.running", LATER.with_(report=td(tee_tcb_svn2=bytes([0, 1]) + SVN[2:]))),
    Case("running module of an unknown generation", "tdx.module.running", LATER.with_(report=td(tee_tcb_svn2=bytes([1, 9]) + SVN[2:]))),
    Case("running module older, both listed", "tdx.module.running", LATER.with_(report=td(tee_tcb_svn=bytes([3, 1]) + SVN[2:]))),
    Case("launched by a module out of date", "tdx.tcb.status", LATER.with_(report=td(tee_tcb_svn2=bytes([3, 1]) + SVN[2:]), tcb_info=level(("tdxModuleIdentities", 0, "tcbLevels"), [{"tcb": {"isvsvn": n}, "tcbDate": "2026-01-01T00:00:00Z", "tcbStatus": s} for n, s in ((3, "UpToDate"), (1, "OutOfDate"))]))),
    Case("only the second verifier refuses", "tdx.dcap", ForgedQuote(report=td(td_attributes=0)), replace(EVALUATE, td_attributes=0)),
    *(Case(f"status {s}", "tdx.tcb.status", ForgedQuote(tcb_info=level(("tcbLevels", 0, "tcbStatus"), s))) for s in ("SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked")),
    Case("module out of date", "tdx.tcb.status", ForgedQuote(tcb_info=level(("tdxModuleIdentities", 0, "tcbLevels", 0, "tcbStatus"), "OutOfDate"))),
    Case("QE revoked", "tdx.tcb.status", ForgedQuote(qe_identity=level(("tcbLevels", 0, "tcbStatus"), "Revoked"))),
    Case("an advisory", "tdx.tcb.advisories", ForgedQuote(tcb_info=level(("tcbLevels", 0, "advisoryIDs"), ["INTEL-SA-00001"]))),
    Case("machine not listed", "policy.machine", policy=replace(EVALUATE, machines=("00" * 32,))),
    Case("debug", "tdx.td.debug", ForgedQuote(report=td(td_attributes=0x1000_0001))),
    Case("attributes", "tdx.td.attributes", ForgedQuote(report=td(td_attributes=0x5000_0000))),
    Case("attributes without SEPT_VE_DISABLE", "tdx.td.attributes", ForgedQuote(report=td(td_attributes=0))),
    Case("a reserved attribute bit", "tdx.td.attributes", ForgedQuote(report=td(td_attributes=0x1000_0000 | 1 << 18))),
    Case("processor feature", "tdx.td.xfam", ForgedQuote(report=td(xfam=0x602E7 | 1 << 63))),
    Case("no SSE", "tdx.td.xfam", ForgedQuote(report=td(xfam=0x602E5))),
    Case("module attributes", "tdx.td.seam", ForgedQuote(report=td(seam_attributes=1), tcb_info=level(("tdxModuleIdentities", 0, "attributesMask"), "00" * 8))),
    Case("service TD bound", "tdx.td.service", LATER.with_(report=td(mr_service_td=b"\1" * 48))),
    *(Case(f"service TD bound, by {n}", "tdx.td.service", EXTENDED.with_(report=td(extension=extension(**{n: v})))) for n, v in (("init_service_td_hash", b"\1" * 48), ("cur_service_td_hash", b"\1" * 48), ("init_service_td_attributes", 1), ("cur_service_td_attributes", 1 << 63))),
    Case("asked for by a VM inside the TD", "tdx.td.partition", EXTENDED.with_(report=td(extension=extension(vmid=1)))),
    *(Case(f"{n} not referenced", f"tdx.reference.{n.replace('_', '-')}", policy=replace(EVALUATE, references=References(**{n: WRONG48}))) for n in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config")),
    Case("platform not accepted", "policy.platform", policy=replace(EVALUATE, platforms=("tdx",))),
    Case("other report data", "artifact.report-data", options={"report_data": bytes(64)}),
    Case("other nonce", "artifact.report-data", options={"nonce": b"nonce"}),
    Case("freshness demanded, nothing given", "artifact.report-data", policy=replace(EVALUATE, freshness_required=True)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_wrong_thing_fails_its_check_and_no_other(case: Case) -> None:
    verdict = appraise(case.forged.quote(), case.forged.files(), case.policy, case.now, **case.options)
    assert refusing(verdict) == {case.failing}
    assert verdict.result == "refused"
    assert all(check.hint for check in verdict.refusing)


def test_report_data_and_nonce_that_fit() -> None:
    forged = ForgedQuote()
    assert appraise(forged.quote(), forged.files(), report_data=REPORT_DATA).result == "accepted"
    short = ForgedQuote(report=td(report_data=b"nonce".ljust(64, b"\0")))
    assert appraise(short.quote(), short.files(), nonce=b"nonce").result == "accepted"
    for options in (
        {"nonce": b""},
        {"nonce": bytes(65)},
        {"report_data": bytes(63)},
        {"nonce": b"x", "report_data": bytes(64)},
    ):
        with pytest.raises(LocalError):
            appraise(forged.quote(), forged.files(), **options)


def test_a_quote_that_only_names_its_certificate_needs_the_chain() -> None:
    forged = ForgedQuote()
    raw = bytearray(forged.quote())
    chain = pki().chain
    at = len(raw) - len(chain) - 6
    assert raw[at : at + 2] == b"\5\0"
    named = bytearray(raw[:at] + b"\1\0" + (36).to_bytes(4, "little") + bytes(36))
    named[632:636] = (len(named) - 636).to_bytes(4, "little")
    named[766:770] = (len(named) - 770).to_bytes(4, "little")
    verdict = appraise(bytes(named), forged.files())
    assert verdict.result == "refused"
    assert "supply the chain" in next(c for c in verdict.checks if c.id == "tdx.pck.chain").hint
    given = appraise(bytes(named), forged.files(), chain=chain)
    assert given.result == "refused"  # the root is then Intel's, which this chain does not end in
    assert "tdx.qe.signature" not in refusing(given)


def test_padding_is_told_and_other_tails_are_refused() -> None:
    padded = ForgedQuote(tail=bytes(3000))
    verdict = appraise(padded.quote(), padded.files())
    assert verdict.result == "accepted"
    assert "3000 of padding" in next(c for c in verdict.checks if c.id == "tdx.quote.format").claimed
    with pytest.raises(MalformedError) as caught:
        appraise(ForgedQuote(tail=b"\0x").quote(), None)
    assert caught.value.code == "quote-trailing-bytes"


def test_an_unknown_body_is_unsupported() -> None:
    raw = bytearray(LATER.quote())
    raw[48:50] = b"\5\0"
    verdict = appraise(bytes(raw), LATER.files())
    assert (verdict.result, verdict.tier, verdict.checks) == ("unsupported", "none", ())
    raw[48:54] = b"\2\0" + (648).to_bytes(4, "little")
    with pytest.raises(MalformedError):
        appraise(bytes(raw), LATER.files())


def test_the_extended_report_reads_as_the_second_reader_reads_it() -> None:
    """No genuine one is public; dcap-qvl was written by others from Intel's header."""
    forged = EXTENDED.with_(
        report=td(
            extension=extension(
                vmid=7,
                init_service_td_hash=b"\x31" * 48,
                init_service_td_attributes=0x0102030405060708,
                cur_service_td_hash=b"\x32" * 48,
                cur_service_td_attributes=0x1112131415161718,
            )
        )
    )
    raw = forged.quote()
    ours, theirs = parse_any_quote(raw), dcap_qvl.parse_quote(raw).report
    assert isinstance(ours, TdQuote)
    assert "TdReport15Ex" in type(theirs).__name__
    assert ours.report.extension is not None
    for name in ours.report.extension.__slots__:
        own, other = getattr(ours.report.extension, name), getattr(theirs, name)
        assert own == (int.from_bytes(other, "little") if isinstance(other, bytes) and isinstance(own, int) else other)
    assert ours.report.mr_service_td == theirs.mr_service_td
    assert TdReport.parse(ours.report.encode()) == ours.report
    found = tdx_fields.fields(raw)
    assert (found[0].start, found[-1].end) == (0, len(raw))
    assert all(a.end == b.start for a, b in pairwise(found))
    vmid = next(field for field in found if field.path == "td_report.vmid")
    assert (vmid.start, vmid.value) == (54 + 648, "7")


def test_without_collateral_everything_that_needs_it_refuses() -> None:
    verdict = appraise(ForgedQuote().quote(), None)
    assert verdict.result == "refused"
    states = {c.id: c.state for c in verdict.checks}
    assert states["tdx.quote.signature"] == "passed"
    assert states["tdx.pck.revocation"] == states["tdx.collateral.tcb-info"] == states["tdx.dcap"] == "skipped"


def test_the_fitting_collateral_is_found_among_others() -> None:
    forged = ForgedQuote()
    other = ForgedQuote(tcb_info=level(("fmspc",), "00906EA10000")).files()["intel.json"]
    wrapped = json.dumps({"collateral": {"intel": forged.endorsements()}}).encode()
    files = {"a.json": other, "b.bin": b"\0", "c.json": b"{", "d/bundle.json": wrapped, "e.json": b'{"intel":1}'}
    assert appraise(forged.quote(), files).result == "accepted"
    assert find_collateral({}) is None
    assert find_collateral({"a.json": other}) is not None


def test_merging_never_improves() -> None:
    assert merge("UpToDate", ["UpToDate", "UpToDate"]) == "UpToDate"
    assert merge("SWHardeningNeeded", ["OutOfDate"]) == "OutOfDate"
    assert merge("ConfigurationNeeded", ["OutOfDate"]) == "OutOfDateConfigurationNeeded"
    assert merge("OutOfDate", ["UpToDate"]) == "OutOfDate"
    assert merge("UpToDate", ["Revoked", "OutOfDate"]) == "Revoked"
    assert merge("Revoked", ["UpToDate"]) == "Revoked"
    assert relaunch("OutOfDate", "UpToDate") == "TDRelaunchAdvised"
    assert relaunch("OutOfDate", "ConfigurationNeeded") == "TDRelaunchAdvisedConfigurationNeeded"
    assert relaunch("UpToDate", "UpToDate") == "UpToDate"
    assert relaunch("OutOfDate", "Revoked") == relaunch("OutOfDate", "OutOfDate") == "OutOfDate"


# --- genuine ---------------------------------------------------------------------------------------------------------


@cache
def rows() -> list[dict[str, Any]]:
    if not (VECTORS / "manifest.json").exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    found: list[dict[str, Any]] = json.loads((VECTORS / "manifest.json").read_text("utf-8"))["tdx"]
    return found


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


REASONS = {
    "No matching TCB level found": "tdx.tcb.level",
    "Debug mode is enabled": "debug",
    "SEPT_VE_DISABLE is not enabled": "tdx.td.attributes",
    "Invalid MR service TD": "tdx.td.service",
}


def test_every_genuine_quote_gets_its_verdict_at_every_instant() -> None:
    told: Counter[tuple[str, str, str]] = Counter()
    for row in rows():
        raw = (VECTORS / row["file"]).read_bytes()
        for run in row["verify"]:
            files = {"c.json": (VECTORS / run["collateral"]).read_bytes()}
            verdict = appraise(raw, files, BOTH, seconds(run["at"]))
            about = (row["file"], run["at"], refusing(verdict))
            assert verdict.tier == "hardware", about
            if run["result"] == "REJECT":
                reason = REASONS[run["detail"].removeprefix("Verification failed: ")]
                assert any(reason in check for check in refusing(verdict)), about
                assert verdict.result == "refused", about
            else:
                assert verdict.claims["tcb_status"] == run["result"], about
                assert verdict.claims["advisories"] == sorted(run["detail"]), about
                wanted = set() if run["result"] == "UpToDate" else {"tdx.tcb.status"}
                assert refusing(verdict) - {"tdx.tcb.advisories"} == wanted, about
            told[row["tech"], run["result"], verdict.result] += 1
    assert sum(told.values()) >= 200
    assert {key[2] for key in told if key[1] == "UpToDate"} == {"accepted"}
    assert {key[2] for key in told if key[1] != "UpToDate"} == {"refused"}


def test_a_status_is_accepted_where_the_policy_names_it() -> None:
    policy = replace(BOTH, tcb_statuses=("UpToDate", "SWHardeningNeeded"), advisories_allowed=("INTEL-SA-00615",))
    seen = 0
    for row in rows():
        for run in row["verify"]:
            if run["result"] == "SWHardeningNeeded":
                files = {"c.json": (VECTORS / run["collateral"]).read_bytes()}
                raw = (VECTORS / row["file"]).read_bytes()
                assert appraise(raw, files, policy, seconds(run["at"])).result == "accepted"
                assert "policy.platform" in refusing(appraise(raw, files, STANDARD, seconds(run["at"])))
                seen += 1
    assert seen >= 3


def test_a_machine_is_known_by_either_of_its_names() -> None:
    row = next(r for r in rows() if r["verify"] and r["verify"][0]["result"] == "UpToDate")
    run = row["verify"][0]
    raw, files = (VECTORS / row["file"]).read_bytes(), {"c.json": (VECTORS / run["collateral"]).read_bytes()}
    claims = appraise(raw, files, BOTH, seconds(run["at"])).claims
    assert isinstance(claims["smt_enabled"], bool)
    instance = hashlib.sha256(bytes.fromhex(claims["platform_instance_id"])).hexdigest()
    for name in (instance, hashlib.sha256(bytes.fromhex(row["ppid"])).hexdigest()):
        known = appraise(raw, files, replace(BOTH, machines=(name,)), seconds(run["at"]))
        assert known.result == "accepted"


def test_what_is_not_genuine_is_refused() -> None:
    seen = 0
    for row in rows():
        if "NOT genuine" in row["origin"]:
            verdict = appraise((VECTORS / row["file"]).read_bytes(), {}, BOTH, 1_780_000_000)
            assert verdict.result == "refused"
            assert "tdx.pck.chain" in refusing(verdict)
            assert verdict.tier == "none"
            seen += 1
    assert seen >= 4


def negatives(
    raw: bytes, files: dict[str, bytes], now: int
) -> dict[str, tuple[bytes, dict[str, bytes], int, dict[str, Any]]]:
    """Fourteen ways to spoil one genuine quote with its collateral."""
    quote = parse_any_quote(raw, padding=True)
    end = quote.body_end
    chain_at = raw.find(b"-----BEGIN")
    size = len(quote.signature.cert_data)
    swapped = raw[:chain_at] + pki().chain.ljust(size, b"\n")[:size] + raw[chain_at + size :]
    other_tcb = json.loads(files["c.json"])
    other_tcb["tcb_info"] = other_tcb["tcb_info"].replace(
        '"tcbEvaluationDataNumber":', '"tcbEvaluationDataNumber":1', 1
    )
    return {
        "bit in the body": (flip(raw, end - 40), files, now, {}),
        "bit in the header": (flip(raw, 30), files, now, {}),
        "bit in the signature": (flip(raw, end + 10), files, now, {}),
        "bit in the attestation key": (flip(raw, end + 4 + 70), files, now, {}),
        "bit in the QE report": (flip(raw, end + 4 + 128 + 6 + 100), files, now, {}),
        "wrong nonce": (raw, files, now, {"nonce": b"another nonce"}),
        "wrong report data": (raw, files, now, {"report_data": b"\xaa" * 64}),
        "foreign chain": (swapped, files, now, {}),
        "before validity": (raw, files, seconds("2017-01-01T00:00:00+00:00"), {}),
        "after validity": (raw, files, seconds("2049-01-01T00:00:00+00:00"), {}),
        "truncated": (raw[:-1], files, now, {}),
        "trailing": (raw + b"x", files, now, {}),
        "no collateral": (raw, {}, now, {}),
        "collateral changed": (raw, {"c.json": json.dumps(other_tcb).encode()}, now, {}),
    }


def test_negatives_of_each_genuine_quote_are_refused() -> None:
    """Each quote that is accepted as it is, spoilt."""
    seen = 0
    for row in rows():
        run = next((r for r in row["verify"] if r["result"] == "UpToDate"), None)
        if run is None:
            continue
        raw, now = (VECTORS / row["file"]).read_bytes(), seconds(run["at"])
        files = {"c.json": (VECTORS / run["collateral"]).read_bytes()}
        assert appraise(raw, files, BOTH, now).result == "accepted"
        cases = negatives(raw, files, now)
        for name, (data, given_files, at, options) in cases.items():
            try:
                verdict = appraise(data, given_files, BOTH, at, **options)
            except MalformedError:
                assert name in ("truncated", "trailing", "bit in the header"), (row["file"], name)
                continue
            assert verdict.result == "refused", (row["file"], name)
        seen += len(cases)
    assert seen >= 14 * 19


def test_fields_cover_every_byte_once() -> None:
    kinds: Counter[str] = Counter()
    for row in rows():
        raw = (VECTORS / row["file"]).read_bytes()
        found = tdx_fields.fields(raw)
        assert (found[0].start, found[-1].end) == (0, len(raw))
        assert all(a.end == b.start for a, b in pairwise(found))
        assert len({f.path for f in found}) == len(found)
        kinds[type(parse_any_quote(raw)).__name__] += 1
        if row["mrtd"]:
            assert next(f.value for f in found if f.path.endswith(".mr_td")) == row["mrtd"]
    assert kinds[SgxQuote.__name__] >= 10
    assert kinds[TdQuote.__name__] >= 30


def test_a_genuine_padded_quote_and_td_report() -> None:
    rows()
    folder = VECTORS / "eventlog" / "ccel"
    quote = parse_any_quote((folder / "gcp-cos113_cos-113-tdx-quote.dat").read_bytes(), padding=True)
    assert quote.padding == 3065
    assert quote.report.report_data == (folder / "gcp-cos113_nonce.dat").read_bytes()
    raw = (folder / "lunal_tdx_tdreport_live.bin").read_bytes()
    report = tdreport.parse_tdreport(raw)
    assert report.hashes_fit
    assert not tdreport.parse_tdreport(flip(raw, 600)).hashes_fit
    found = tdreport.fields(raw)
    assert (found[0].start, found[-1].end) == (0, 1024)
    assert all(a.end == b.start for a, b in pairwise(found))


# --- any bytes -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=6000), st.sampled_from([b"", b"\3\0\2\0\0\0\0\0", b"\4\0\2\0\x81\0\0\0", b"\5\0\2\0\x81\0\0\0"])
)
def test_any_bytes_parse_or_are_malformed(data: bytes, head: bytes) -> None:
    for read in (parse_any_quote, tdx_fields.fields, tdreport.parse_tdreport):
        try:
            read(head + data)
        except MalformedError:
            continue


GOOD = LATER.quote()
GOOD_FILES = LATER.files()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.integers(0, 3))
def test_any_changed_byte_is_refused(at: int, mask: int, cut: int) -> None:
    raw = GOOD[:at] + bytes([GOOD[at] ^ mask]) + GOOD[at + 1 :]
    raw = raw[: len(raw) - cut]
    try:
        verdict = appraise(raw, GOOD_FILES)
    except TeehouseError:
        return
    if verdict.result == "accepted":  # only the PEM's own spelling may vary: line ends, text between certificates
        assert at >= GOOD.find(b"-----BEGIN")


def test_dispatch_knows_its_kinds() -> None:
    with pytest.raises(LocalError):
        verify("sgx", b"", policy=EVALUATE, now=NOW)
    forged = ForgedQuote()
    assert "tdx-quote" in ARTIFACTS
    assert verify("tdx-quote", forged.quote(), collateral=forged.files(), policy=EVALUATE, now=NOW).result == "accepted"
