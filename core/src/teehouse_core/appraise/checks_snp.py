# SPDX-License-Identifier: Apache-2.0
"""Checks of an AMD SEV-SNP report: who signed it, on which chip, at which patch level, and what kind of guest it is.

All signatures with `cryptography`, all certificates by our own reader (`evidence.amdcert`), one check per link. The
root comes from the product lines pinned in `roots_amd`, never from the chain that came with the report. Not checked
here: what the report data binds (`checks_binding`) and what the workload log says (`checks_workload`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from teehouse_core.appraise.amdchain import (
    AmdChain,
    Revocation,
    chain_problem,
    dates_problem,
    find_chain,
    report_signed_by,
    revocation,
)
from teehouse_core.appraise.checks_workload import check_reference
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.newest import crl_series, see
from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.policy_snp import REFUSED_PRODUCTS, TcbMinimum
from teehouse_core.appraise.roots_amd import AmdRoot
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, one_of, passed, skipped
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.snp import SnpReport, Tcb, cpuid_text, kds_path, parse_report

__all__ = ["SnpFacts", "check_report", "check_snp"]

_T = TypeVar("_T")

ECDSA_P384_SHA384: Final = 1  # SIGNATURE_ALGO, the only one there is


@dataclass(slots=True)
class SnpFacts(PlatformFacts):
    """What the checks learned; None where something did not parse. Believe a field only with its checks passed."""

    report: SnpReport | None = None
    chain: AmdChain | None = None
    revocation: Revocation | None = None


def check_snp(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> SnpFacts:
    """Make every `snp.…` check of one bundle under the roots of its platform type."""
    platform = bundle.platform
    roots = sheet.anchors.amd(platform.type)
    return check_report(sheet, platform.report, bundle.collateral.amd, policy, now, roots=roots)


def check_report(
    sheet: Sheet,
    raw: bytes,
    collateral: AmdCollateral | None,
    policy: Policy,
    now: int,
    *,
    roots: Mapping[str, AmdRoot] | None = None,
) -> SnpFacts:
    """Make every `snp.…` check of one report, and `policy.machine`; a failed link does not stop the later ones.

    `roots` other than the sheet's are for test evidence only, and whoever passes them answers for the tier.
    """
    facts = SnpFacts()
    roots = sheet.anchors.amd("sev-snp") if roots is None else roots
    _parse(sheet, facts, raw, collateral, roots)
    _signatures(sheet, facts, collateral, policy, now)
    _leaf(sheet, facts, policy)
    _levels(sheet, facts, policy)
    _guest(sheet, facts, policy)
    report = facts.report
    for name, value in (
        ("measurement", report.measurement if report else None),
        ("host_data", report.host_data if report else None),
    ):
        check_id = f"snp.reference.{name.replace('_', '-')}"
        check_reference(sheet, check_id, name, value.hex() if value is not None else None, policy)
    if report is not None:
        facts.report_data, facts.register = report.report_data, report.host_data
    facts.claims = _claims(facts)
    return facts


def _have(value: _T | None) -> _T:
    """Narrow what `needs` already guaranteed."""
    if value is None:
        raise MalformedError("missing", code="missing")
    return value


def _parse(
    sheet: Sheet, facts: SnpFacts, raw: bytes, collateral: AmdCollateral | None, roots: Mapping[str, AmdRoot]
) -> None:
    def report() -> Outcome:
        facts.report = parse_report(raw)
        return passed(f"{len(raw)} bytes, version {facts.report.version}", "SNP report version 2 to 5")

    def leaf() -> Outcome:
        given = _have(collateral)
        facts.chain = find_chain(given.vcek, given.chain, roots)
        return passed(facts.chain.names, f"a certificate under {' or '.join(roots)}")

    sheet.run("snp.report.format", report)
    if collateral is None:
        path = kds_path(facts.report) if facts.report is not None else None
        hint = "the certificate of the key that signed the report is missing; supply it"
        where = f" (AMD's key distribution service has it at {path})" if path else ""
        sheet.write("snp.leaf.format", skipped(hint + where))
    else:
        sheet.run("snp.leaf.format", leaf)


def _signatures(sheet: Sheet, facts: SnpFacts, collateral: AmdCollateral | None, policy: Policy, now: int) -> None:
    report, chain = facts.report, facts.chain

    def algorithm() -> Outcome:
        hint = "the report is signed in a way that AMD does not define"
        return equal(_have(report).signature_algorithm, ECDSA_P384_SHA384, hint)

    def reserved() -> Outcome:
        hint = "bytes are set that the specification keeps at zero: not a report of this version"
        return equal(" ".join(_have(report).reserved_set) or "none", "none", hint)

    def signature() -> Outcome:
        r = _have(report)
        if r.mask_chip_key:
            return failed("the host masked the chip's key, so the report is not signed", "MASK_CHIP_KEY")
        if report_signed_by(_have(chain).leaf, r.r, r.s, r.signed):
            return passed("valid", "signature by the leaf's key over the first 672 bytes")
        return failed("the report was changed after it was signed, or never signed by this key")

    def kind() -> Outcome:
        hint = "the report says that another kind of key signed it than the certificate is for"
        return equal(_have(report).signing_key, _have(chain).claims.kind, hint)

    def signed() -> Outcome:
        found = _have(chain)
        if problem := chain_problem(found):
            return failed(problem, found.names, found.product)
        facts.ends.append(found.ends)
        return passed(found.names, f"signed under the pinned ARK-{found.product}")

    def dates() -> Outcome:
        found = _have(chain)
        if problem := dates_problem(found, now):
            return failed(problem, f"{found.leaf.not_before} to {found.leaf.not_after}", now)
        return passed(f"until {found.ends}", now)

    sheet.run("snp.report.algorithm", algorithm, needs=(report,))
    sheet.run("snp.report.reserved", reserved, needs=(report,))
    sheet.run("snp.report.signature", signature, needs=(report, chain))
    sheet.run("snp.key.kind", kind, needs=(report, chain))
    sheet.run("snp.chain.signatures", signed, needs=(chain,))
    sheet.run("snp.chain.dates", dates, needs=(chain,))
    crl = collateral.crl if collateral is not None else None
    sheet.run("snp.chain.revocation", lambda: _revocation(facts, policy, crl, now), needs=(chain,))


def _revocation(facts: SnpFacts, policy: Policy, crl: bytes | None, now: int) -> Outcome:
    found = facts.revocation = revocation(_have(facts.chain), crl, now)
    expected = " or ".join(policy.snp.revocation) or "none"
    if found.state == "revoked":
        return failed(found.reason, "revoked", expected)
    if found.state == "good":
        if found.until is not None:
            facts.ends.append(found.until)
        see(facts.newest, crl_series(_have(facts.chain).root.public_key), found.number, found.issued)
        return one_of("good", policy.snp.revocation, "the policy accepts no revocation state")
    if "unknown" in policy.snp.revocation:
        return not_applicable(f"unknown, which the policy accepts: {found.reason}")
    product = _have(facts.chain).product
    return skipped(f"{found.reason}; supply AMD's current list for {product}", "unknown", expected)


def _leaf(sheet: Sheet, facts: SnpFacts, policy: Policy) -> None:
    report, chain, snp = facts.report, facts.chain, policy.snp
    both = (report, chain)

    def product() -> Outcome:
        r, c = _have(report), _have(chain)
        named = {c.product, c.claims.product}
        if r.cpuid is not None:
            named.add(r.product or "an unknown processor")
        hint = "the report, the leaf and the root are not of one product line"
        return equal(" ".join(sorted(named)), c.product, hint)

    def allowed() -> Outcome:
        name = _have(chain).product
        hint = "the policy's snp.products does not list this product line"
        if name in REFUSED_PRODUCTS:
            hint += f". {REFUSED_PRODUCTS[name]}"
        return one_of(name, snp.products, hint)

    def tcb() -> Outcome:
        claimed, certified = _have(report).reported_tcb.parts, dict(_have(chain).claims.tcb)
        shown = " ".join(f"{n}={certified[n]}" for n in claimed if n in certified)
        if claimed == certified:
            return passed(_have(report).reported_tcb, shown)
        return failed("the key is certified for another TCB than the report names", _have(report).reported_tcb, shown)

    def csp() -> Outcome:
        name = _have(chain).claims.csp_id
        if name is None:
            return not_applicable("a VCEK: the key is one chip's, not a provider's")
        hint = "the policy's snp.csp_ids does not list the provider whose key (VLEK) signed"
        return one_of(name, snp.csp_ids, hint)

    sheet.run("snp.product.match", product, needs=both)
    sheet.run("snp.product.allowed", allowed, needs=(chain,))
    sheet.run("snp.leaf.tcb", tcb, needs=both)
    sheet.run("snp.leaf.chip-id", lambda: _chip_id(facts, policy), needs=both)
    sheet.run("snp.leaf.csp-id", csp, needs=(chain,))
    sheet.run("policy.machine", lambda: _machine(facts, policy), needs=both)


def _chip_id(facts: SnpFacts, policy: Policy) -> Outcome:
    chip, hwid = _have(facts.report).chip_id, _have(facts.chain).claims.hwid
    if hwid is None:
        return not_applicable("a VLEK names no chip")
    if not any(chip):
        if policy.snp.masked_chip_id_allowed:
            return not_applicable(
                "the host masked the chip id, which the policy allows; the certificate names the chip"
            )
        return failed("the host masked the chip id and the policy does not allow that", chip, hwid)
    expected = hwid + bytes(len(chip) - len(hwid))  # Turin's ids have 8 bytes
    return equal(chip, expected, "the certificate is another chip's")


def _machine_id(facts: SnpFacts) -> bytes | None:
    """64 bytes that name the chip, from AMD's certificate; None for a VLEK, whose report is believed instead."""
    chip, hwid = _have(facts.report).chip_id, _have(facts.chain).claims.hwid
    if hwid is not None:
        return hwid + bytes(len(chip) - len(hwid))
    return chip if any(chip) else None


def _machine(facts: SnpFacts, policy: Policy) -> Outcome:
    chip = _machine_id(facts)
    machine = hashlib.sha256(chip).hexdigest() if chip is not None else "not named"
    if ANY in policy.machines:
        return not_applicable(f"the policy lists no machines; this one is {machine}")
    return one_of(machine, policy.machines, "this machine is not on the policy's list")


def _levels(sheet: Sheet, facts: SnpFacts, policy: Policy) -> None:
    report, chain, snp = facts.report, facts.chain, policy.snp

    def version() -> Outcome:
        claimed, expected = _have(report).version, snp.report_version_minimum
        if claimed < expected:
            hint = "the firmware writes older reports than the policy's snp.report_version_minimum; update it"
            return failed(hint, claimed, f"at least {expected}")
        return passed(claimed, f"at least {expected}")

    def alias() -> Outcome:
        r = _have(report)
        if r.cpuid is not None and r.platform_info.alias_check_complete:
            return passed("ALIAS_CHECK_COMPLETE", "memory was checked for aliases since reset")
        if not snp.alias_check_required:
            return not_applicable("memory was not checked for aliases, and the policy does not ask")
        hint = "the firmware does not vouch that no memory is aliased (BadRAM, AMD-SB-3015)"
        return failed(
            hint, f"version {r.version}, 0x{r.platform_info.raw:x}", "ALIAS_CHECK_COMPLETE, version 3 or later"
        )

    def order() -> Outcome:
        r = _have(report)
        shown = f"{r.reported_tcb.raw.hex()} {r.committed_tcb.raw.hex()} {r.current_tcb.raw.hex()}"
        expected = "reported ≤ committed ≤ current"
        if r.committed_tcb.below(r.reported_tcb) or r.current_tcb.below(r.committed_tcb):
            return failed("the TCB versions contradict each other", shown, expected)
        return passed(shown, expected)

    def provisional() -> Outcome:
        r = _have(report)
        claimed, expected = _version(r.current_version), _version(r.committed_version)
        if claimed == expected or snp.provisional_firmware_allowed:
            return passed(claimed, expected)
        hint = "the firmware runs on trial: the host can still go back to the committed, older one"
        return failed(hint, claimed, f"committed {expected}")

    sheet.run("snp.report.version", version, needs=(report,))
    sheet.run("snp.platform.alias-check", alias, needs=(report,))
    sheet.run("snp.tcb.minimum", lambda: _tcb_minimum(_have(report), _have(chain), policy), needs=(report, chain))
    sheet.run("snp.tcb.order", order, needs=(report,))
    sheet.run("snp.firmware.provisional", provisional, needs=(report,))
    sheet.run("snp.firmware.mitigations", lambda: _mitigations(_have(report), policy), needs=(report,))


def _tcb_minimum(report: SnpReport, chain: AmdChain, policy: Policy) -> Outcome:
    if report.cpuid is not None and report.product != chain.product:
        return not_applicable("the report is another product's, for which see snp.product.match")
    cpuid = cpuid_text(*report.cpuid) if report.cpuid is not None else ""
    minimum = policy.snp.minimum(chain.product, cpuid)
    if minimum is None:
        known = " or ".join(m.cpuid for m in policy.snp.tcb_minimum if m.product == chain.product and m.cpuid)
        hint = f"the policy's snp.tcb_minimum names no floor for this kind of {chain.product} processor"
        return failed(hint, cpuid or "not said", known)
    if not any(minimum.parts.values()):
        return not_applicable(
            f"the policy sets no snp.tcb_minimum for {chain.product}; it reports {report.reported_tcb}"
        )
    low = {
        name: found
        for name, tcb in (
            ("reported", report.reported_tcb),
            ("committed", report.committed_tcb),
            ("current", report.current_tcb),
            ("launch", report.launch_tcb),
        )
        if (found := _below(tcb, minimum))
    }
    expected = " ".join(f"{name}≥{level}" for name, level in minimum.parts.items() if level)
    if low:
        shown = "; ".join(f"{name} {' '.join(parts)}" for name, parts in low.items())
        return failed("firmware or microcode is older than the policy's snp.tcb_minimum", shown, expected)
    return passed(report.reported_tcb, expected)


def _below(tcb: Tcb, minimum: TcbMinimum) -> tuple[str, ...]:
    mine = tcb.parts
    # A component that the product lacks cannot meet a floor above zero: the policy means another product.
    return tuple(f"{n}={mine.get(n, 'none')}" for n, level in minimum.parts.items() if mine.get(n, 0) < level)


def _mitigations(report: SnpReport, policy: Policy) -> Outcome:
    wanted = (policy.snp.launch_mitigations, policy.snp.current_mitigations)
    if not any(wanted):
        return not_applicable("the policy asks for no mitigations")
    have = (report.launch_mitigations, report.current_mitigations)
    claimed = " ".join("none" if value is None else f"0x{value:x}" for value in have)
    expected = " ".join(f"0x{value:x}" for value in wanted)
    if any(want & ~(value or 0) for value, want in zip(have, wanted, strict=True)):
        return failed("a mitigation that the policy asks for is not in place", claimed, expected)
    return passed(claimed, expected)


def _version(version: tuple[int, int, int]) -> str:
    return "{}.{} build {}".format(*version)


def _guest(sheet: Sheet, facts: SnpFacts, policy: Policy) -> None:
    report, snp = facts.report, policy.snp

    def run(check_id: str, check: Callable[[SnpReport], Outcome]) -> None:
        sheet.run(check_id, lambda: check(_have(report)), needs=(report,))

    def bits(r: SnpReport) -> Outcome:
        shown = f"0x{r.policy.raw:016x}"
        if not r.policy.must_be_one or r.policy.reserved:
            return failed("the guest policy is none that firmware accepts", shown, "bit 17 set, bits 63 to 26 zero")
        return passed(shown, "bit 17 set, bits 63 to 26 zero")

    def migration(r: SnpReport) -> Outcome:
        if r.policy.migrate_ma and not snp.migration_allowed:
            return failed("a migration agent may take the guest's memory elsewhere", "MIGRATE_MA", "no migration agent")
        return passed("MIGRATE_MA" if r.policy.migrate_ma else "no migration agent")

    def smt(r: SnpReport) -> Outcome:
        if r.policy.smt and not snp.smt_allowed:
            return failed("the guest may share a core with others, and the policy forbids it", "SMT", "no SMT")
        return passed("SMT" if r.policy.smt else "no SMT")

    def abi(r: SnpReport) -> Outcome:
        claimed, expected = "{}.{}".format(*r.policy.abi), snp.abi_minimum
        if r.policy.abi < snp.abi:
            return failed("the guest accepts older firmware than the policy's snp.abi_minimum", claimed, expected)
        return passed(claimed, f"at least {expected}")

    def svn(r: SnpReport) -> Outcome:
        if r.guest_svn < snp.guest_svn_minimum:
            hint = "the guest is older than the policy's snp.guest_svn_minimum"
            return failed(hint, r.guest_svn, f"at least {snp.guest_svn_minimum}")
        return passed(r.guest_svn, f"at least {snp.guest_svn_minimum}")

    hint = "a debug guest: the host can read its memory"
    run("snp.guest.policy", bits)
    run("snp.guest.debug", lambda r: equal("DEBUG" if r.policy.debug else "no debug", "no debug", hint))
    run("snp.guest.migration", migration)
    run("snp.guest.smt", smt)
    run("snp.guest.abi", abi)
    levels = tuple(str(level) for level in snp.vmpl)
    run("snp.guest.vmpl", lambda r: one_of(str(r.vmpl), levels, "the report was asked for at another privilege level"))
    run("snp.guest.svn", svn)
    run("snp.id.id-key", lambda r: _key_digest("ID key", r.id_key_digest, True, snp.id_key_digests))
    author = lambda r: _key_digest("author key", r.author_key_digest, r.author_key_enabled, snp.author_key_digests)  # noqa: E731
    run("snp.id.author-key", author)


def _key_digest(what: str, digest: bytes, enabled: bool, allowed: tuple[str, ...]) -> Outcome:
    if not allowed:
        return not_applicable(f"the policy asks for no {what}")
    if not enabled or not any(digest):
        return failed(f"the guest was launched without an {what}", "none", " or ".join(allowed))
    return one_of(digest.hex(), allowed, f"the {what} is none of the policy's")


def _claims(facts: SnpFacts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if facts.report is not None:
        r = facts.report
        found = {
            "report_version": r.version,
            "signing_key": r.signing_key,
            "measurement": r.measurement.hex(),
            "host_data": r.host_data.hex(),
            "guest_policy": f"0x{r.policy.raw:016x}",
            "guest_svn": r.guest_svn,
            "vmpl": r.vmpl,
            "platform_info": f"0x{r.platform_info.raw:016x}",
            "firmware": _version(r.current_version),
            "reported_tcb": r.reported_tcb.parts,
            "committed_tcb": r.committed_tcb.parts,
            "current_tcb": r.current_tcb.parts,
            "launch_tcb": r.launch_tcb.parts,
            "id_key_digest": r.id_key_digest.hex(),
            "author_key_digest": r.author_key_digest.hex() if r.author_key_enabled else "",
        }
        if r.launch_mitigations is not None:
            found["launch_mitigations"] = f"0x{r.launch_mitigations:016x}"
            found["current_mitigations"] = f"0x{r.current_mitigations or 0:016x}"
    if facts.chain is not None:
        found["product"] = facts.chain.product
        if facts.chain.claims.csp_id is not None:
            found["csp_id"] = facts.chain.claims.csp_id
        if facts.report is not None and (chip := _machine_id(facts)) is not None:
            found["machine_sha256"] = hashlib.sha256(chip).hexdigest()
    if facts.revocation is not None:
        found["revocation"] = facts.revocation.state
    return found
