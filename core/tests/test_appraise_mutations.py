# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  a case is one line, so that the table can be read
"""Each way to spoil simulated evidence fails exactly the checks it should, and each required check can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from forge_bundle import (
    CAPABILITIES,
    ENDPOINT,
    EVALUATE,
    LOG,
    MACHINE,
    MODEL,
    NONCE,
    NOW,
    SOFTWARE,
    Forge,
    claims,
    crl,
    device,
    edit,
    exchange_key,
    flip,
    good_signature,
    hpke_key,
    keyset,
    leaf,
    level,
    log_content,
    log_rewritten,
    no_collateral,
    other_attestation_key,
    platform,
    qe,
    references,
    relabel,
    signed_by_pck,
    signed_text,
    td,
    text,
    twice,
    version_9,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teehouse_core.appraise import checks_tdx_tcb
from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.checks_binding import _kids
from teehouse_core.appraise.policy import DeviceDemand, Policy
from teehouse_core.appraise.technologies import check_ids
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import EvidenceRefused, LocalError, MalformedError, StaleEvidence
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.jsontext import b64_text
from teehouse_core.wire.keyset import Keyset, SignKey
from teehouse_core.wire.suites import HIGH_SUITE

NO_STATUS = {"tdx.tcb.status", "tdx.tcb.advisories"}
NO_LEVEL = NO_STATUS | {"tdx.tcb.level"}
NO_DEVICE = {"devices.unique", *(i for i in CATALOGUE if i.startswith("gpu."))}  # neither a report nor a device's chain
DCAP_INPUT = {"tdx.qe.identity", "tdx.collateral.dates", "tdx.collateral.age", "tdx.collateral.evaluation"}


@dataclass
class Case:
    name: str
    failing: set[str]
    forge: Callable[[], Forge] = Forge
    policy: Policy = EVALUATE
    endpoint: str = ENDPOINT
    nonce: bytes | None = NONCE
    now: int = NOW

    def verdict(self) -> Verdict:
        return appraise(self.forge().bytes(), self.policy, self.now, endpoint=self.endpoint, nonce=self.nonce)


WRONG48, WRONG32 = ("00" * 48,), ("00" * 32,)
PCK_GONE = {"tdx.pck.chain", "tdx.pck.revocation", "tdx.qe.signature", "tdx.tcb.fmspc", "policy.machine"}
ROOT = {"tdx.pck.chain", "tdx.pck.revocation", "tdx.collateral.tcb-info", "tdx.collateral.qe-identity"}
LOG_READ = {f"binding.{e.replace('_', '-')}" for e, _ in LOG}
REPORT_READ = {"binding.report-data", "workload.log.replay"} | {
    f"tdx.td.{name}" for name in ("debug", "attributes", "xfam", "seam")
}
BODY_GONE = {
    "tdx.dcap",
    "tdx.module.identity",
    "tdx.module.level",
    "tdx.module.running",
    "tdx.qe.level",
    "tdx.td.service",
    "tdx.td.partition",
}
QUOTE_GONE = (
    {"tdx.quote.format", "tdx.quote.vendor", "tdx.quote.signature", "tdx.quote.attestation-key"}
    | {"tdx.qe.identity"}
    | PCK_GONE
    | REPORT_READ
    | NO_LEVEL
    | BODY_GONE
)
COLLATERAL_GONE = {
    "tdx.qe.identity",
    "tdx.pck.revocation",
    "tdx.collateral.tcb-info",
    "tdx.collateral.qe-identity",
    "tdx.collateral.dates",
    "tdx.collateral.age",
    "tdx.collateral.evaluation",
    "tdx.tcb.fmspc",
    "tdx.dcap",
    "tdx.module.identity",
    "tdx.module.level",
    "tdx.qe.level",
} | NO_LEVEL

BOOT_LOG = b"[]"  # of a machine that measured nothing


def with_log(raw: bytes) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["platform"].update(event_log=b64_text(raw))


CASES = [
    Case("quote cut short", QUOTE_GONE, lambda: Forge(cut=-1)),
    Case("quote of version 5", QUOTE_GONE, lambda: Forge(header=lambda h: b"\x05" + h[1:])),
    Case("quote of another vendor", {"tdx.quote.vendor"}, lambda: Forge(header=lambda h: flip(h, 12))),
    Case("quote signature of another report", {"tdx.quote.signature"}, lambda: Forge(quote={"signature": good_signature()})),
    Case("attestation key not vouched for", {"tdx.quote.attestation-key"}, other_attestation_key),
    Case("attestation key off the curve", {"tdx.quote.signature", "tdx.quote.attestation-key"}, lambda: Forge(quote={"attestation_key": bytes(64)})),
    Case("auth data changed", {"tdx.quote.attestation-key"}, lambda: Forge(quote={"qe_auth_data": b"x"})),
    Case("QE report changed", {"tdx.qe.signature"}, qe(lambda r: flip(r, 0), signed=False)),
    Case("QE of another signer", {"tdx.qe.identity"}, qe(lambda r: flip(r, 128))),
    Case("QE in debug mode", {"tdx.qe.identity"}, qe(lambda r: r[:48] + bytes([r[48] | 2]) + r[49:])),
    Case("PCK leaf signed by a stranger", {"tdx.pck.chain"}, lambda: leaf(ec.generate_private_key(ec.SECP256R1()))),
    Case("PCK leaf not yet valid", {"tdx.pck.chain"}, lambda: leaf(now=NOW + 10 * 86400)),
    Case("PCK leaf without SGX extension", {"tdx.pck.chain", "tdx.tcb.fmspc", "policy.machine"} | NO_LEVEL, lambda: leaf(sgx=False)),
    Case("PCK chain without its CA", {"tdx.pck.chain", "tdx.pck.revocation"}, lambda: Forge(quote={"pem_chain": MACHINE._pki.chain.split(b"-----BEGIN", 2)[0] + b"-----BEGIN" + MACHINE._pki.chain.split(b"-----BEGIN")[1]})),
    Case("PCK chain is no PEM", PCK_GONE | NO_LEVEL, lambda: Forge(quote={"pem_chain": b"no certificates"})),
    Case("PCK leaf of an unknown version", PCK_GONE | NO_LEVEL, lambda: Forge(quote={"pem_chain": version_9()})),
    Case("PCK leaf with an extension twice", {"tdx.tcb.fmspc", "policy.machine", "tdx.pck.chain"} | NO_LEVEL, lambda: Forge(quote={"pem_chain": twice()})),
    Case("PCK leaf revoked", {"tdx.pck.revocation"}, lambda: crl("pck_crl", revoke=x509.load_pem_x509_certificate(MACHINE._pki.chain))),
    Case("PCK CA revoked", {"tdx.pck.revocation"}, lambda: crl("root_ca_crl", revoke=MACHINE._pki.ca)),
    Case("TCB signer revoked", {"tdx.pck.revocation"}, lambda: crl("root_ca_crl", revoke=MACHINE._pki.tcb)),
    Case("PCK CRL over", {"tdx.pck.revocation"}, lambda: crl("pck_crl", until=NOW)),
    Case("root CRL by a stranger", {"tdx.pck.revocation"}, lambda: crl("root_ca_crl", key=ec.generate_private_key(ec.SECP256R1()))),
    Case("root CRL garbled", {"tdx.pck.revocation"}, lambda: Forge(collateral=lambda c: c.update(root_ca_crl="00"))),
    Case("CRLs exchanged", {"tdx.pck.revocation"}, lambda: Forge(collateral=lambda c: c.update(root_ca_crl=c["pck_crl"]))),
    Case("no collateral", COLLATERAL_GONE, edit(no_collateral)),
    Case("TCB info changed", {"tdx.collateral.tcb-info"}, text("tcb_info", lambda v: v.update(tcbType=1), signed=False)),
    Case("TCB info for SGX", {"tdx.collateral.tcb-info"}, text("tcb_info", lambda v: v.update(id="SGX"))),
    Case("TCB info not parsing", {"tdx.collateral.tcb-info", "tdx.tcb.fmspc", "tdx.collateral.dates", "tdx.collateral.age", "tdx.collateral.evaluation"}, text("tcb_info", lambda v: v.pop("fmspc"))),
    Case("TCB info signed by a PCK key", {"tdx.collateral.tcb-info"}, lambda: Forge(collateral=signed_by_pck)),
    Case("QE identity changed", {"tdx.collateral.qe-identity", "tdx.qe.level"}, text("qe_identity", lambda v: v.update(tcbLevels=[]), signed=False)),
    Case("QE identity of the SGX QE", {"tdx.collateral.qe-identity"}, text("qe_identity", lambda v: v.update(id="QE"))),
    Case("QE identity not parsing", DCAP_INPUT | {"tdx.collateral.qe-identity"}, text("qe_identity", lambda v: v.pop("mrsigner"))),
    Case("QE identity not yet issued", {"tdx.collateral.dates"}, text("qe_identity", lambda v: v.update(issueDate="2026-12-31T00:00:00Z"))),
    Case("TCB info over", {"tdx.collateral.dates"}, text("tcb_info", lambda v: v.update(nextUpdate="2026-09-01T00:00:00Z"))),
    Case("collateral too old for the policy", {"tdx.collateral.age"}, policy=replace(EVALUATE, max_collateral_age=60)),
    Case("collateral of an earlier recovery", {"tdx.collateral.evaluation"}, policy=replace(EVALUATE, min_tcb_evaluation=2)),
    Case("TCB info for other machines", {"tdx.tcb.fmspc"}, text("tcb_info", lambda v: v.update(fmspc="00906EA10000"))),
    Case("TCB out of date", {"tdx.tcb.status"}, level(tcbStatus="OutOfDate")),
    Case("TCB with an advisory", {"tdx.tcb.advisories"}, level(advisoryIDs=["INTEL-SA-00001"])),
    Case("TCB revoked", {"tdx.tcb.status"}, level(tcbStatus="Revoked")),
    Case("machine below every level", {"tdx.tcb.level"}, text("tcb_info", lambda v: v["tcbLevels"][0]["tcb"].update(pcesvn=9))),
    Case("TDX module below every level", {"tdx.module.level"}, text("tcb_info", lambda v: v["tdxModuleIdentities"][0]["tcbLevels"][0]["tcb"].update(isvsvn=9))),
    Case("TDX module generation not listed", {"tdx.module.identity", "tdx.module.level"}, text("tcb_info", lambda v: v["tdxModuleIdentities"][0].update(id="TDX_07"))),
    Case("QE below every level", {"tdx.qe.level"}, text("qe_identity", lambda v: v["tcbLevels"][0]["tcb"].update(isvsvn=9))),
    Case("only the second verifier refuses", {"tdx.dcap"}, td(td_attributes=0), policy=replace(EVALUATE, td_attributes=0)),
    Case("TDX module out of date", {"tdx.tcb.status"}, text("tcb_info", lambda v: v["tdxModuleIdentities"][0]["tcbLevels"][0].update(tcbStatus="OutOfDate"))),
    Case("QE out of date", {"tdx.tcb.status"}, text("qe_identity", lambda v: v["tcbLevels"][0].update(tcbStatus="OutOfDate"))),
    Case("QE revoked", {"tdx.tcb.status"}, text("qe_identity", lambda v: v["tcbLevels"][0].update(tcbStatus="Revoked"))),
    Case("TDX module with attributes", {"tdx.td.seam"}, lambda: Forge(report=lambda r: replace(r, seam_attributes=1), collateral=signed_text("tcb_info", lambda v: v["tdxModuleIdentities"][0].update(attributesMask="00" * 8)))),
    Case("machine not listed", {"policy.machine"}, policy=replace(EVALUATE, machines=WRONG32)),
    Case("debug TD", {"tdx.td.debug"}, td(td_attributes=0x10000001)),
    Case("other TD attributes", {"tdx.td.attributes"}, td(td_attributes=0x50000000)),
    Case("processor feature not allowed", {"tdx.td.xfam"}, td(xfam=0x602E7 | 1 << 63)),
    Case("TDX module not Intel's", {"tdx.module.identity"}, td(mr_signer_seam=b"\1" * 48)),
    *(Case(f"{n} not referenced", {f"tdx.reference.{n}"}, policy=references(**{n: WRONG48})) for n in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")),
    *(Case(f"{n} not referenced", {f"tdx.reference.{n.replace('_', '-')}"}, policy=references(**{n: ("11" * 48,)})) for n in ("mr_config_id", "mr_owner", "mr_owner_config")),
    *(Case(f"{n} not referenced", {f"workload.reference.{n.replace('_', '-')}"}, policy=references(**{n: WRONG32})) for n in ("image_sha256", "config_sha256", "weights_sha256", "release")),
    Case("references demanded, none listed", {"tdx.reference.mrtd", "workload.reference.release"}, policy=replace(EVALUATE, required_references=("mrtd", "release"))),
    Case("log content changed", {"workload.log.digests", "binding.release"}, edit(log_content)),
    Case("log entry rewritten", {"workload.log.replay", "binding.release"}, edit(log_rewritten)),
    Case("log entries exchanged", {"workload.log.replay"}, edit(lambda d: d["workload_log"].reverse())),
    Case("log entry dropped", {"workload.log.replay", "workload.log.events"} | LOG_READ, edit(lambda d: d["workload_log"].pop())),
    Case("unknown event measured", {"workload.log.events"} | LOG_READ, lambda: Forge(machine=platform((*LOG, ("shell", b"/bin/sh"))))),
    Case("event measured twice", {"workload.log.events"} | LOG_READ, lambda: Forge(machine=platform((*LOG, LOG[0])))),
    Case("event not ASCII", {"workload.log.events"} | LOG_READ, lambda: Forge(machine=platform((*LOG[:4], ("model", "模型".encode()), *LOG[5:])))),
    Case("RTMR3 of nothing", {"workload.log.replay"}, td(rtmr=(bytes(48),) * 4)),
    Case("keyset key exchanged", {"binding.report-data"}, edit(exchange_key)),
    Case("report data of nothing", {"binding.report-data"}, td(report_data=bytes(64))),
    Case("device put into the bundle", {"binding.report-data"} | NO_DEVICE, edit(device)),
    Case("boot log that is none", {"eventlog.format", "eventlog.digests", "eventlog.replay"}, edit(with_log(b"x"))),
    Case("boot log of another boot", {"eventlog.replay"}, edit(with_log(BOOT_LOG))),
    Case("another nonce", {"challenge.nonce"}, nonce=bytes(32)),
    Case("no nonce", {"challenge.nonce"}, nonce=None),
    Case("challenge exchanged", {"binding.report-data"}, edit(lambda d: d["challenge"].update(value=b64_text(bytes(32)))), nonce=bytes(32)),
    Case("ledger challenge", {"challenge.kind", "challenge.nonce"}, lambda: Forge(kind=2)),
    Case("key release challenge", {"challenge.kind", "challenge.nonce"}, lambda: Forge(kind=3, value=bytes(64))),
    Case("another endpoint asked for", {"binding.endpoint"}, endpoint="ep-other"),
    Case("bundle names another endpoint", {"binding.names"}, edit(lambda d: d.update(endpoint="ep-other"))),
    Case("bundle names another node", {"binding.names"}, edit(lambda d: d.update(node="other"))),
    Case("role not allowed", {"binding.role"}, claims(role="key-service")),
    Case("group with members", {"binding.group"}, edit(lambda d: d.update(members=[{}]))),
    Case("keyset over", {"binding.validity", "binding.suites"}, now=NOW + 3600),
    Case("keyset over before its keys", {"binding.validity"}, claims(not_before=NOW - 10, not_after=NOW)),
    Case("keyset of the future", {"binding.validity"}, claims(not_before=NOW + 61)),
    Case("suite not allowed", {"binding.suites"}, policy=replace(EVALUATE, suites=(HIGH_SUITE,))),
    Case("sealing keys over", {"binding.suites"}, claims(hpke=[hpke_key(not_before=NOW - 10, not_after=NOW)])),
    Case("other release claimed", {"binding.release"}, claims(software=replace(SOFTWARE, release="9"))),
    Case("other image claimed", {"binding.image-sha256"}, claims(software=replace(SOFTWARE, image_sha256="00" * 32))),
    Case("other config claimed", {"binding.config-sha256"}, claims(software=replace(SOFTWARE, config_sha256="00" * 32))),
    Case("other weights claimed", {"binding.weights-sha256"}, claims(model=replace(MODEL, weights_sha256="00" * 32))),
    Case("other model claimed", {"binding.model"}, claims(model=replace(MODEL, name="huge"))),
    Case("door claimed, not measured", {"binding.doors"}, claims(capabilities=replace(CAPABILITIES, doors=("aicc-jsc",)))),
    Case("door not allowed", {"binding.doors", "policy.doors"}, claims(capabilities=replace(CAPABILITIES, doors=("aicc-jsc",))), policy=replace(EVALUATE, doors=())),
    Case("egress", {"binding.egress", "policy.egress"}, claims(capabilities=replace(CAPABILITIES, egress="web"))),
    Case("content logging", {"binding.content-logging", "policy.content-logging"}, claims(capabilities=replace(CAPABILITIES, content_logging="all"))),
    Case("moderation not measured", {"binding.moderation"}, claims(capabilities=replace(CAPABILITIES, moderation="in-tee:x"))),
    Case("moderation not allowed", {"policy.moderation"}, policy=replace(EVALUATE, moderation=("in-tee:x",))),
    Case("devices demanded", {"policy.devices"}, policy=replace(EVALUATE, devices=(DeviceDemand("nvidia-gpu", 1),))),
    Case("simulated relabelled as tdx", ROOT, edit(relabel)),
    Case("platform not accepted", {"policy.platform"}, policy=replace(EVALUATE, platforms=("tdx",))),
    Case("simulated not allowed", {"policy.platform", "tdx.dcap"} | ROOT, policy=replace(EVALUATE, simulated_allowed=False)),
]  # fmt: skip


def refusing(verdict: Verdict) -> set[str]:
    return {check.id for check in verdict.refusing}


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case_fails_exactly(case: Case) -> None:
    verdict = case.verdict()
    assert refusing(verdict) == case.failing
    assert verdict.result == "refused"
    assert [check.id for check in verdict.checks] == list(CATALOGUE)
    with pytest.raises(EvidenceRefused) as caught:
        verdict.accept()
    assert caught.value.verdict is verdict
    assert all(check.hint for check in verdict.refusing)


def test_every_check_can_refuse() -> None:
    seen = {"policy.supported", "binding.kids", "release.statement"}  # their own tests are below
    seen |= {
        "tdx.module.running",
        "tdx.td.service",
        "tdx.td.partition",
        "policy.collateral-newest",
    }  # TD report 1.5: test_tdx_artifacts
    seen |= {"devices.topology"}  # and every gpu… check by itself: test_nvidia_forged
    for case in CASES:
        seen |= case.failing
    assert seen == set(check_ids("simulated"))


def test_good_evidence_is_accepted_as_simulated() -> None:
    verdict = Case("good", set()).verdict()
    assert not verdict.refusing
    accepted = verdict.accept()
    assert (accepted.tier, accepted.evidence_time, accepted.not_after) == ("simulated", NOW, NOW + 3600)
    assert accepted.policy_digest == EVALUATE.digest
    assert accepted.keyset_digest == accepted.keyset.digest
    document = json.loads(json.dumps(verdict.to_json()))
    assert document["result"] == "accepted"
    assert document["claims"]["submods"]["cpu0"]["ear.status"] == "warning"


@pytest.mark.parametrize("name", ["strict", "standard"])
def test_other_presets_refuse_simulated(name: str) -> None:
    verdict = Case("good", set(), policy=Policy.preset(name)).verdict()
    assert {"policy.platform", "tdx.pck.chain"} <= refusing(verdict)
    assert verdict.tier == "none"


def test_relabelled_evidence_has_no_tier() -> None:
    assert Case("relabelled", set(), edit(relabel)).verdict().tier == "none"


def test_unknown_platform_is_not_supported() -> None:
    verdict = Case("x", set(), edit(lambda d: d["platform"].update(type="arm-cca"))).verdict()
    assert "policy.supported" in refusing(verdict)
    assert not verdict.supported
    assert verdict.result == "refused"


def test_kids_are_recomputed() -> None:
    parsed = Keyset.parse(keyset())
    wrong = replace(parsed, hpke=(replace(parsed.hpke[0], kid="00" * 16),))
    twice = replace(parsed, hpke=parsed.hpke * 2)
    signer = replace(parsed, sign=(SignKey("00" * 16, "ed25519", bytes(32)),))
    assert [_kids(k).state for k in (parsed, wrong, twice, signer)] == ["passed", "failed", "failed", "failed"]


def test_release_statement_is_named_unsupported() -> None:
    verdict = Case("x", set(), edit(lambda d: d.update(release={"statement": "x"}))).verdict()
    assert verdict.check("release.statement").state == "skipped"
    assert verdict.result == "accepted"


def test_without_dcap_nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_tdx_tcb, "dcap_qvl", None)
    verdict = Case("x", set()).verdict()
    assert refusing(verdict) == {"tdx.dcap"}
    assert verdict.check("tdx.dcap").state == "skipped"


def test_panic_in_dcap_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    panic = type("PanicException", (BaseException,), {})

    class Panicking:
        @staticmethod
        def verify_with_root_ca(*_: object) -> None:
            raise panic

        class QuoteCollateralV3:
            @staticmethod
            def from_json(_: str) -> None:
                return None

    monkeypatch.setattr(checks_tdx_tcb, "dcap_qvl", Panicking)
    assert Case("x", set()).verdict().check("tdx.dcap").state == "failed"


def test_interrupts_go_through_dcap(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        class QuoteCollateralV3:
            @staticmethod
            def from_json(_: str) -> None:
                raise KeyboardInterrupt

    monkeypatch.setattr(checks_tdx_tcb, "dcap_qvl", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Case("x", set()).verdict()


def test_stored_report_reads_but_never_seals() -> None:
    verdict = Case("x", set(), policy=EVALUATE.for_stored_report(), nonce=None).verdict()
    assert verdict.result == "accepted"
    with pytest.raises(StaleEvidence) as caught:
        verdict.accept()
    assert caught.value.code == "evidence-age-unknown"


def test_acceptance_needs_a_named_endpoint() -> None:
    verdict = appraise(Forge().bytes(), EVALUATE, NOW, nonce=NONCE)
    assert verdict.result == "accepted"
    with pytest.raises(LocalError) as caught:
        verdict.accept()
    assert caught.value.code == "endpoint-not-named"


def test_acceptance_ends_with_the_first_thing_that_ends() -> None:
    def end(policy: Policy = EVALUATE, forge: Callable[[], Forge] = Forge) -> int:
        return Case("x", set(), forge, policy).verdict().accept().not_after - NOW

    assert end(replace(EVALUATE, max_evidence_age=30)) == 30
    assert end(replace(EVALUATE, max_collateral_age=3700)) == 100  # issued an hour before
    assert end(forge=lambda: crl("pck_crl", until=NOW + 77)) == 77
    assert end(forge=claims(not_after=NOW + 55)) == 55
    old = hpke_key(not_before=NOW - 10, not_after=NOW + 5)
    assert end(forge=claims(hpke=[old, hpke_key(not_after=NOW + 44)])) == 44


def test_other_suite_is_accepted_when_listed() -> None:
    high = hpke_key(HIGH_SUITE, 1665)
    assert Case("x", set(), claims(hpke=[high])).verdict().result == "accepted"


def test_bad_arguments_are_the_callers_fault() -> None:
    with pytest.raises(LocalError):
        appraise(b"{}", EVALUATE, NOW, nonce=b"short")
    with pytest.raises(LocalError):
        appraise(b"{}", EVALUATE, -1)


def test_appraisal_is_a_function() -> None:
    data = Forge().bytes()
    first, second = (appraise(data, EVALUATE, NOW, endpoint=ENDPOINT, nonce=NONCE).to_json() for _ in range(2))
    assert first == second


GOOD = Forge(keyset=keyset()).bytes()
GOOD_DIGEST = Bundle.parse(GOOD).keyset.digest
QUOTE = Bundle.parse(GOOD).platform.report


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, len(GOOD) - 1), put=st.binary(max_size=3), skip=st.integers(0, 3))
def test_changed_bundle_gives_verdict_or_malformed(at: int, put: bytes, skip: int) -> None:
    try:
        verdict = appraise(GOOD[:at] + put + GOOD[at + skip :], EVALUATE, NOW, endpoint=ENDPOINT, nonce=NONCE)
    except MalformedError:
        return
    if verdict.result == "accepted":  # e.g. the case of a hex digit in collateral
        assert verdict.accept().keyset_digest == GOOD_DIGEST


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(QUOTE) - 1), value=st.integers(0, 255))
def test_changed_quote_never_accepts_another_report(at: int, value: int) -> None:
    changed = QUOTE[:at] + bytes([value]) + QUOTE[at + 1 :]
    document = json.loads(GOOD)
    document["platform"]["report"] = b64_text(changed)
    verdict = appraise(json.dumps(document).encode(), EVALUATE, NOW, endpoint=ENDPOINT, nonce=NONCE)
    if verdict.result == "accepted":  # bytes between the certificates of the PEM text mean nothing
        assert changed[:632] == QUOTE[:632]
