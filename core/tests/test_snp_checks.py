# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  a case is one line, so that the table can be read
"""Each way to spoil SNP evidence fails exactly the checks it should, and each `snp.…` check can be the only failure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from forge_snp import (
    CHIP,
    DAY,
    NOW,
    TCB,
    TEST_ROOTS,
    Forge,
    ca,
    ca_extensions,
    chip_key,
    extension,
    integer,
    rsa_key,
    spki,
    tlv,
)

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.artifacts.snp import verify_artifact
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.checks_snp import SnpFacts, check_report
from teehouse_core.appraise.policy import Policy, References, SnpPolicy, TcbMinimum
from teehouse_core.appraise.policy_snp import TCB_MINIMUM_STRICT
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.snp import cpuid_text, family_model, product_of

BASE = replace(Policy.preset("standard"), required_references=(), freshness_required=False)
MACHINE = hashlib.sha256(CHIP).hexdigest()
KEY = b"\x33" * 48


def snp(**changes: Any) -> Policy:
    return replace(BASE, snp=replace(BASE.snp, **changes))


def low(**changes: int) -> dict[str, int]:
    return {**TCB, **changes}


ASK = {"issuer": "SEV-Genoa"}
LEAF = Forge().extensions()
NEEDS_LEAF = {
    "snp.report.signature", "snp.key.kind", "snp.leaf.format", "snp.chain.signatures", "snp.chain.dates", "snp.chain.revocation",
    "snp.product.match", "snp.product.allowed", "snp.leaf.tcb", "snp.leaf.chip-id", "snp.leaf.csp-id", "snp.tcb.minimum", "policy.machine",
}  # fmt: skip


@dataclass
class Case:
    name: str
    failing: set[str]
    forge: Forge
    policy: Policy = BASE
    now: int = NOW


def case(name: str, failing: str, policy: Policy = BASE, now: int = NOW, **changes: Any) -> Case:
    return Case(name, set(failing.split()), Forge(**changes), policy, now)


CASES = [
    case("unknown algorithm", "snp.report.algorithm", patch={0x34: b"\x02"}),
    case("reserved word set", "snp.report.reserved", patch={0x4C: b"\x01"}),
    case("reserved tail set", "snp.report.reserved", patch={0x29F: b"\x01"}),
    case("reserved beside versions set", "snp.report.reserved", patch={0x1EB: b"\x01"}),
    case("reserved key info set", "snp.report.reserved", patch={0x48: b"\x20"}),
    case("reserved TCB byte set", "snp.report.reserved", patch={0x1E2: b"\x01"}),
    case("bytes after the signature", "snp.report.reserved", broken={0x49F: b"\x01"}),
    case("mitigation vector before version 5", "snp.report.reserved", version=4, patch={0x1F8: b"\x01"}),
    case("cpuid before version 3", "snp.report.reserved snp.report.version snp.platform.alias-check snp.product.allowed", product="Milan", version=2, patch={0x188: b"\x19"}),
    case("changed after signing", "snp.report.signature", broken={0x140: b"\x00"}),
    case("signature r changed", "snp.report.signature", broken={0x2A0: b"\x00\x00"}),
    case("signature s zero", "snp.report.signature", broken={0x2E8: bytes(72)}),
    case("signature over the order", "snp.report.signature", broken={0x2E8: b"\xff" * 72}),
    case("another chip's key", "snp.report.signature", signer="other"),
    case("chip key masked", "snp.report.signature", patch={0x48: b"\x02"}),
    case("leaf key is RSA", "snp.report.signature", leaf={"key": spki(rsa_key("ARK"))}),
    case("leaf key does not load", "snp.report.signature", leaf={"key": tlv(0x30, b"\x05\x00")}),
    case("report version too low", "snp.report.version", snp(report_version_minimum=5), version=4),
    case("version 2", "snp.report.version snp.product.allowed snp.platform.alias-check", product="Milan", version=2),
    case("version 2 where all else is allowed", "snp.report.version", snp(products=("Milan",), alias_check_required=False), product="Milan", version=2),
    case("VLEK said, VCEK used", "snp.key.kind", patch={0x48: b"\x04"}),
    case("no key said", "snp.key.kind", patch={0x48: b"\x1c"}),
    case("unknown key said", "snp.key.kind", patch={0x48: b"\x08"}),
    case("leaf signed by another", "snp.chain.signatures", leaf={"signer": "ASVK"}),
    case("leaf under the wrong intermediate", "snp.chain.signatures", leaf={"issuer": "SEV-VLEK-Genoa", "signer": "ASVK"}, chain=(TEST_ROOTS["Genoa"].asvk,)),
    case("leaf is a CA", "snp.chain.signatures", leaf_extensions=(*LEAF, extension(b"\x55\x1d\x13", tlv(0x30, tlv(0x01, b"\xff"))))),
    case("intermediate signed by another", "snp.chain.signatures", chain=(ca("Genoa", "ASK", "ASVK"),)),
    case("intermediate of another issuer", "snp.chain.signatures", chain=(ca("Genoa", "ASK", issuer="ARK-Turin"),)),
    case("intermediate is no CA", "snp.chain.signatures", chain=(ca("Genoa", "ASK", extensions=ca_extensions(0, ca=False)),)),
    case("intermediate says nothing", "snp.chain.signatures", chain=(ca("Genoa", "ASK", extensions=LEAF[:1]),)),
    case("intermediate may not sign", "snp.chain.signatures", chain=(ca("Genoa", "ASK", extensions=ca_extensions(0, 0x02)),)),
    case("intermediate with another key", "snp.chain.signatures", chain=(ca("Genoa", "ASK", key=spki(rsa_key("ASVK"))),)),
    case("intermediate with an EC key", "snp.chain.signatures", chain=(ca("Genoa", "ASK", key=spki(chip_key())),)),
    case("weak signature algorithm", "snp.chain.signatures", leaf={"algorithm": bytes.fromhex("300d06092a864886f70d01010b0500")}),
    case("leaf ended", "snp.chain.dates", leaf={"not_after": NOW}),
    case("leaf not begun", "snp.chain.dates", leaf={"not_before": NOW + 1}),
    case("intermediate ended", "snp.chain.dates", chain=(ca("Genoa", "ASK", not_after=NOW),)),
    case("before all validity", "snp.chain.dates snp.chain.revocation", now=NOW - 400 * DAY),
    case("after all validity", "snp.chain.dates snp.chain.revocation", now=NOW + 400 * DAY),
    case("intermediate revoked", "snp.chain.revocation", revocation={"revoked": (0x10001,)}),
    case("intermediate revoked on an old list", "snp.chain.revocation", snp(revocation=("good", "unknown")), revocation={"revoked": (0x10001,), "next_update": NOW}),
    case("no list", "snp.chain.revocation", revocation=None),
    case("old list", "snp.chain.revocation", revocation={"next_update": NOW}),
    case("list of the future", "snp.chain.revocation", revocation={"this_update": NOW + 1}),
    case("list without an end", "snp.chain.revocation", revocation={"next_update": None}),
    case("list signed by another", "snp.chain.revocation", snp(revocation=("good", "unknown")), revocation={"signer": "ASK"}),
    case("no revocation state allowed", "snp.chain.revocation", snp(revocation=())),
    case("another processor's report", "snp.product.match", patch={0x188: b"\x19\x01"}),
    case("an unknown processor's report", "snp.product.match", patch={0x188: b"\x19\x50"}),
    case("leaf of another product", "snp.product.match", leaf_product="Turin"),
    case("Milan", "snp.product.allowed", product="Milan"),
    case("product not listed", "snp.product.allowed", snp(products=("Turin",))),
    case("key of another TCB", "snp.leaf.tcb", leaf_tcb=low(microcode=85)),
    case("key of another FMC", "snp.leaf.tcb", product="Turin", leaf_tcb=low(fmc=0)),
    case("another chip", "snp.leaf.chip-id", patch={0x1A0: b"\xee"}),
    case("chip id masked", "snp.leaf.chip-id", patch={0x1A0: bytes(64)}),
    case("Turin chip id with a tail", "snp.leaf.chip-id", product="Turin", patch={0x1D0: b"\x01"}),
    case("VLEK by default", "snp.leaf.csp-id", kind="VLEK"),
    case("VLEK of another provider", "snp.leaf.csp-id", snp(csp_ids=("CN=other",)), kind="VLEK"),
    case("reported below the floor", "snp.tcb.minimum", snp(tcb_minimum=(TcbMinimum("Genoa", microcode=84),)), tcbs={0x180: low(microcode=83)}),
    case("launched below the floor", "snp.tcb.minimum", snp(tcb_minimum=(TcbMinimum("Genoa", snp=23),)), tcbs={0x1F0: low(snp=22)}),
    case("all below the floor", "snp.tcb.minimum", snp(tcb_minimum=(TcbMinimum("Genoa", bootloader=11),))),
    case("microcode that can be replaced", "snp.tcb.minimum", tcbs=dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), low(microcode=0x53)), leaf_tcb=low(microcode=0x53)),
    case("firmware from before EntrySign was closed", "snp.tcb.minimum", tcbs=dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), low(snp=0x16)), leaf_tcb=low(snp=0x16)),
    case("a processor without a floor", "snp.tcb.minimum", patch={0x18A: b"\x03"}),
    case("FMC floor on a product without", "snp.tcb.minimum", snp(tcb_minimum=(TcbMinimum("Genoa", fmc=1),))),
    case("FMC below the floor", "snp.tcb.minimum", snp(tcb_minimum=(TcbMinimum("Turin", fmc=2),)), product="Turin"),
    case("committed above current", "snp.tcb.order", tcbs={0x038: low(tee=1)}),
    case("reported above committed", "snp.tcb.order", tcbs={0x1E0: low(bootloader=9)}),
    case("no alias check", "snp.platform.alias-check", platform_info=0x05),
    case("provisional firmware", "snp.firmware.provisional", patch={0x1E8: b"\x29"}),
    case("mitigation missing at launch", "snp.firmware.mitigations", snp(launch_mitigations=0x10)),
    case("mitigation missing now", "snp.firmware.mitigations", snp(current_mitigations=0x1B)),
    case("mitigations unknown before version 5", "snp.firmware.mitigations", snp(current_mitigations=1), version=4),
    case("policy bit 17 clear", "snp.guest.policy", policy=BASE, patch={0x08: (0x1001F).to_bytes(8, "little")}),
    case("policy bit 26 set", "snp.guest.policy", patch={0x08: (0x403001F).to_bytes(8, "little")}),
    case("policy bit 63 set", "snp.guest.policy", patch={0x08: (1 << 63 | 0x3001F).to_bytes(8, "little")}),
    case("debug", "snp.guest.debug", patch={0x08: (0xB001F).to_bytes(8, "little")}),
    case("migration agent", "snp.guest.migration", patch={0x08: (0x7001F).to_bytes(8, "little")}),
    case("SMT forbidden", "snp.guest.smt", snp(smt_allowed=False)),
    case("ABI too low", "snp.guest.abi", snp(abi_minimum="0.32")),
    case("ABI major too low", "snp.guest.abi", snp(abi_minimum="1.0")),
    case("VMPL 1", "snp.guest.vmpl", vmpl=1),
    case("VMPL 0 where 1 is wanted", "snp.guest.vmpl", snp(vmpl=(1,))),
    case("guest SVN too low", "snp.guest.svn", snp(guest_svn_minimum=6), guest_svn=5),
    case("no ID key", "snp.id.id-key", snp(id_key_digests=(KEY.hex(),))),
    case("another ID key", "snp.id.id-key", snp(id_key_digests=(KEY.hex(),)), patch={0xE0: b"\x44" * 48}),
    case("no author key", "snp.id.author-key", snp(author_key_digests=(KEY.hex(),))),
    case("author key not enabled", "snp.id.author-key", snp(author_key_digests=(KEY.hex(),)), patch={0x110: KEY}),
    case("another author key", "snp.id.author-key", snp(author_key_digests=(KEY.hex(),)), patch={0x48: b"\x01", 0x110: b"\x44" * 48}),
    case("another measurement", "snp.reference.measurement", replace(BASE, references=References(measurement=("00" * 48,)))),
    case("measurement demanded, none listed", "snp.reference.measurement", replace(BASE, required_references=("measurement",))),
    case("another host data", "snp.reference.host-data", replace(BASE, references=References(host_data=("11" * 32,)))),
    case("another machine", "policy.machine", replace(BASE, machines=("00" * 32,))),
    case("machine of a VLEK", "policy.machine", replace(snp(csp_ids=("CN=test.example",)), machines=(MACHINE,)), kind="VLEK"),
    case("platform not accepted", "policy.platform", replace(BASE, platforms=("tdx",))),
    case("leaf extension missing", " ".join(NEEDS_LEAF), leaf_extensions=LEAF[:-1]),
    case("leaf is chip's and provider's", " ".join(NEEDS_LEAF), leaf_extensions=(*LEAF, *Forge(kind="VLEK").extensions()[-1:])),
    case("leaf with an unknown critical extension", " ".join(NEEDS_LEAF), leaf_extensions=(*LEAF, extension(b"\x55\x1d\x63", b"\x05\x00", critical=True))),
    case("leaf with a short chip id", " ".join(NEEDS_LEAF), hwid=b"\x01" * 32),
    case("leaf without a TCB component", " ".join(NEEDS_LEAF), leaf_extensions=(*LEAF[:2], *LEAF[3:])),
    case("leaf patch level of two bytes", " ".join(NEEDS_LEAF), leaf_tcb=low(snp=256)),
    case("leaf of no AMD signer", " ".join(NEEDS_LEAF), leaf={"issuer": "ARK-Genoa"}),
    case("leaf of no known product", " ".join(NEEDS_LEAF), leaf={"issuer": "SEV-Venice"}),
    case("another product's chain", " ".join(NEEDS_LEAF), chain=(TEST_ROOTS["Turin"].ask, TEST_ROOTS["Turin"].ark)),
    case("a chain without the signer", " ".join(NEEDS_LEAF), chain=(TEST_ROOTS["Genoa"].ark,)),
    case("a chain with two signers", " ".join(NEEDS_LEAF), chain=(TEST_ROOTS["Genoa"].ask, ca("Genoa", "ASK", "ASVK"))),
    case("a chain under another root", " ".join(NEEDS_LEAF), chain=(TEST_ROOTS["Genoa"].ask, ca("Genoa", "ARK", "ASK"))),
    case("a chain that is no certificate", " ".join(NEEDS_LEAF), chain=(b"\x30\x00",)),
]  # fmt: skip


def files(forge: Forge) -> dict[str, bytes]:
    listed = forge.list()
    return {} if listed is None else {"list.crl": listed}


def verdict_of(case: Case) -> tuple[SnpFacts, ArtifactVerdict]:
    """The case twice: as checks over stapled collateral, and as an artifact; both must refuse for the same reasons."""
    sheet, report = Sheet(), case.forge.report()
    facts = check_report(sheet, report, case.forge.collateral(), case.policy, case.now, roots=TEST_ROOTS)
    pem = "".join(AmdCollateral(b"", case.forge.chain).to_dict().get("chain", ""))
    leaf = AmdCollateral(b"", (case.forge.vcek(),)).to_dict()["chain"]
    verdict = verify_artifact(
        report,
        chain=(leaf + pem).encode(),
        collateral=files(case.forge),
        nonce=None,
        report_data=None,
        policy=case.policy,
        now=case.now,
        roots=TEST_ROOTS,
    )
    snp_only = {c.id for c in sheet.finish(frozenset(), only=True) if c.refuses}
    assert snp_only | {"policy.platform"} >= {c.id for c in verdict.refusing} >= snp_only
    return facts, verdict


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_case_fails_exactly(case: Case) -> None:
    _, verdict = verdict_of(case)
    assert {c.id for c in verdict.refusing} == case.failing
    tier = "none" if "snp.chain.signatures" in case.failing else "simulated"
    assert (verdict.result, verdict.tier) == ("refused", tier)
    assert all(c.hint for c in verdict.refusing)


def test_every_snp_check_can_be_the_only_failure() -> None:
    alone = {next(iter(case.failing)) for case in CASES if len(case.failing) == 1}
    never = {"snp.report.format", "snp.leaf.format"}  # what does not parse takes others with it
    assert {c for c in CATALOGUE if c.startswith("snp.")} - alone == never


GOOD = [
    case("Genoa version 5", ""),
    case("Genoa version 3", "", version=3),
    case("Genoa version 4", "", version=4),
    case("Turin version 5", "", product="Turin"),
    case("Turin version 3", "", product="Turin", version=3),
    case("Milan where allowed", "", snp(products=("Milan",)), product="Milan"),
    case("Milan version 2 where allowed", "", snp(products=("Milan",), alias_check_required=False, report_version_minimum=2), product="Milan", version=2),
    case("VLEK where allowed", "", snp(csp_ids=("CN=test.example",)), kind="VLEK"),
    case("unknown revocation where allowed", "", snp(revocation=("good", "unknown")), revocation=None),
    case("migration where allowed", "", snp(migration_allowed=True), patch={0x08: (0x7001F).to_bytes(8, "little")}),
    case("no SMT where SMT is forbidden", "", snp(smt_allowed=False), patch={0x08: (0x2001F).to_bytes(8, "little")}),
    case("provisional where allowed", "", snp(provisional_firmware_allowed=True), patch={0x1E8: b"\x29"}),
    case("masked chip where allowed", "", replace(snp(masked_chip_id_allowed=True), machines=(MACHINE,)), patch={0x1A0: bytes(64)}),
    case("no alias check where not asked", "", snp(alias_check_required=False), platform_info=0x05),
    case("VMPL where allowed", "", snp(vmpl=(0, 2)), vmpl=2),
    case("Bergamo counts its microcode by itself", "", tcbs=dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), low(microcode=0x19)), leaf_tcb=low(microcode=0x19), patch={0x188: b"\x19\xa0\x02"}),
    case("no floor at all", "", snp(tcb_minimum=()), tcbs=dict.fromkeys((0x38, 0x180, 0x1E0, 0x1F0), low(microcode=1)), leaf_tcb=low(microcode=1)),
    case("floor met", "", snp(tcb_minimum=(TcbMinimum("Turin", fmc=1, bootloader=10, tee=2, snp=23, microcode=84),)), product="Turin"),
    case("mitigations met", "", snp(launch_mitigations=0x0B, current_mitigations=0x01)),
    case("ID and author keys", "", snp(id_key_digests=(KEY.hex(),), author_key_digests=(KEY.hex(),)), patch={0x48: b"\x01", 0xE0: KEY, 0x110: KEY}),
    case("references met", "", replace(BASE, references=References(measurement=("11" * 48,), host_data=("00" * 32,)))),
    case("machine listed", "", replace(BASE, machines=(MACHINE,))),
    case("platform info bit of the future", "", platform_info=0x67),
    case("ABI met", "", snp(abi_minimum="0.31", guest_svn_minimum=0)),
]  # fmt: skip


@pytest.mark.parametrize("case", GOOD, ids=lambda c: c.name)
def test_good_evidence_is_accepted(case: Case) -> None:
    facts, verdict = verdict_of(case)
    assert [c.id for c in verdict.refusing] == []
    assert (verdict.result, verdict.tier) == ("accepted", "simulated")
    assert facts.report_data == bytes(64)
    assert verdict.claims["product"] == case.forge.product
    assert verdict.claims["not_after"] > NOW


def test_amds_roots_do_not_vouch_for_test_evidence() -> None:
    forge = Forge()
    verdict = verify_artifact(
        forge.report(),
        chain=forge.vcek(),
        collateral=files(forge),
        nonce=None,
        report_data=None,
        policy=BASE,
        now=NOW,
    )
    assert verdict.result == "refused"
    assert "snp.leaf.format" in {c.id for c in verdict.refusing}  # the TEST names carry another organisation


def test_a_list_of_another_root_is_an_attack_when_stapled_and_passed_over_in_a_pack() -> None:
    forge, policy = Forge(revocation={"issuer": "ARK-Turin"}), snp(revocation=("good", "unknown"))
    sheet = Sheet()
    check_report(sheet, forge.report(), forge.collateral(), policy, NOW, roots=TEST_ROOTS)
    assert sheet.state("snp.chain.revocation") == "failed"
    verdict = verify_artifact(
        forge.report(),
        chain=forge.vcek(),
        collateral=files(forge),
        nonce=None,
        report_data=None,
        policy=policy,
        now=NOW,
        roots=TEST_ROOTS,
    )
    assert (verdict.result, verdict.claims["revocation"]) == ("accepted", "unknown")


def test_report_data_and_nonce() -> None:
    def result(policy: Policy = BASE, **given: bytes | None) -> tuple[str, list[str]]:
        forge = Forge(report_data=b"n" * 32 + bytes(32))
        arguments: dict[str, Any] = {"nonce": None, "report_data": None, **given}
        verdict = verify_artifact(
            forge.report(),
            chain=forge.vcek(),
            collateral=files(forge),
            policy=policy,
            now=NOW,
            roots=TEST_ROOTS,
            **arguments,
        )
        return verdict.result, [c.id for c in verdict.refusing]

    assert result(nonce=b"n" * 32) == ("accepted", [])
    assert result(report_data=b"n" * 32 + bytes(32)) == ("accepted", [])
    assert result(nonce=b"m" * 32) == ("refused", ["artifact.report-data"])
    assert result(nonce=b"n" * 31) == ("refused", ["artifact.report-data"])
    assert result(replace(BASE, freshness_required=True)) == ("refused", ["artifact.report-data"])
    for wrong in ({"nonce": b""}, {"nonce": b"n" * 65}, {"report_data": b"n"}):
        with pytest.raises(LocalError):
            result(**wrong)


def test_without_a_leaf_the_hint_says_where_it_is() -> None:
    def hint(forge: Forge) -> str:
        verdict = verify_artifact(
            forge.report(),
            chain=None,
            collateral=None,
            nonce=None,
            report_data=None,
            policy=BASE,
            now=NOW,
            roots=TEST_ROOTS,
        )
        assert verdict.result == "refused"
        return next(c.hint for c in verdict.checks if c.id == "snp.leaf.format")

    assert f"/vcek/v1/Genoa/{CHIP.hex()}?blSPL=10&teeSPL=2&snpSPL=23&ucodeSPL=84" in hint(Forge())
    assert f"/vcek/v1/Turin/{CHIP[:8].hex()}?fmcSPL=1&blSPL=10&teeSPL=2&snpSPL=23&ucodeSPL=84" in hint(
        Forge(product="Turin")
    )
    assert "/vcek/" not in hint(Forge(kind="VLEK"))


def test_versions_of_the_future_are_unsupported() -> None:
    verdict = verify_artifact(
        Forge(version=6).report(), chain=None, collateral=None, nonce=None, report_data=None, policy=BASE, now=NOW
    )
    assert (verdict.result, verdict.tier) == ("unsupported", "none")
    with pytest.raises(MalformedError):
        verify_artifact(b"", chain=None, collateral=None, nonce=None, report_data=None, policy=BASE, now=NOW)


def test_collateral_is_found_in_a_pack() -> None:
    forge, other = Forge(), Forge(hwid=b"\x77" * 64)
    root = TEST_ROOTS["Genoa"]
    pack = {
        "a-other.der": other.vcek(),
        "b-vcek.der": forge.vcek(),
        "c-old.crl": Forge(revocation={"this_update": NOW - 9 * DAY, "next_update": NOW - DAY}).list() or b"",
        "d.crl": forge.list() or b"",
        "e-turin.crl": Forge(product="Turin").list() or b"",
        "f-chain.pem": AmdCollateral(b"", (root.ask, root.ark)).to_dict()["chain"].encode(),
        "g-junk": b"{junk",
        "h-junk": b"\x30\x03\x02\x01",
        "i-junk.pem": b"-----BEGIN X509 CRL-----\n*\n-----END X509 CRL-----\n",
    }
    verdict = verify_artifact(
        forge.report(),
        chain=None,
        collateral=pack,
        nonce=None,
        report_data=None,
        policy=BASE,
        now=NOW,
        roots=TEST_ROOTS,
    )
    assert verdict.result == "accepted"
    stapled = json.dumps({"amd": forge.collateral().to_dict()}).encode()
    for given in ({"amd.json": stapled}, {"c.json": b'{"collateral":' + stapled + b"}"}):
        verdict = verify_artifact(
            forge.report(),
            chain=None,
            collateral=given,
            nonce=None,
            report_data=None,
            policy=BASE,
            now=NOW,
            roots=TEST_ROOTS,
        )
        assert verdict.result == "accepted"


def test_garbage_as_chain_is_refused_by_name() -> None:
    for chain in (
        b"",
        b"garbage",
        b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n",
        tlv(0x30, integer(1)),
    ):
        verdict = verify_artifact(
            Forge().report(),
            chain=chain,
            collateral=None,
            nonce=None,
            report_data=None,
            policy=BASE,
            now=NOW,
            roots=TEST_ROOTS,
        )
        assert verdict.result == "refused"
        assert next(c for c in verdict.checks if c.id == "snp.leaf.format").state == "failed"


def test_the_defaults_refuse_what_they_must() -> None:
    default = SnpPolicy()
    assert "Milan" not in default.products
    assert (default.report_version_minimum, default.alias_check_required, default.revocation) == (3, True, ("good",))
    loosened = (default.migration_allowed, default.provisional_firmware_allowed, default.masked_chip_id_allowed)
    assert not any(loosened)
    assert default.csp_ids == ()
    assert Policy.preset("evaluate").snp == Policy.preset("standard").snp == default
    assert Policy.preset("strict").snp == replace(default, tcb_minimum=TCB_MINIMUM_STRICT)


def test_floors_are_counted_by_kind_of_processor() -> None:
    default, strict = SnpPolicy(), Policy.preset("strict").snp
    for product, cpuid, snp_level, microcode, in_strict in (
        ("Genoa", "A10F11", 0x17, 0x54, 0x1B),
        ("Genoa", "A10F12", 0x17, 0x4F, 0x1B),
        ("Genoa", "AA0F01", 0x17, 0x17, 0x1B),
        ("Genoa", "AA0F02", 0x17, 0x19, 0x1B),
        ("Turin", "B00F21", 0, 0x47, 4),
        ("Turin", "B10F10", 0, 0x47, 4),
    ):
        found, higher = default.minimum(product, cpuid), strict.minimum(product, cpuid)
        assert found == TcbMinimum(product, snp=snp_level, microcode=microcode)
        assert higher == TcbMinimum(product, snp=in_strict, microcode=microcode)
        family, model = family_model(int(cpuid, 16))
        assert cpuid_text(family, model, int(cpuid[-1], 16)) == cpuid
        assert product_of(family, model) == product
    assert default.minimum("Genoa", "A10F10") is None
    assert default.minimum("Turin", "") is None
