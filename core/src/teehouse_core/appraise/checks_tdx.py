# SPDX-License-Identifier: Apache-2.0
"""Checks of an Intel quote: who signed it, on which machine, and what of Intel's collateral still holds.

Each link is checked here with `cryptography` and by name; patch levels and the second opinion of `dcap_qvl` are
`checks_tdx_tcb`, the TD itself is `checks_tdx_td`. The root comes from the platform type and the policy, never from the
quote. Not checked here: what the report data binds (`checks_binding`) and what was measured (`checks_workload`).
An SGX quote has the same form, so the ids `tdx.…` name its checks too; its enclave has `sgx.…`.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse_core.appraise.checks_eventlog import check_td_log
from teehouse_core.appraise.checks_tdx_tcb import check_second_opinion, check_tcb
from teehouse_core.appraise.checks_tdx_td import body_claims, check_body, check_references
from teehouse_core.appraise.newest import crl_series, number_of, see
from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, one_of, passed, skipped
from teehouse_core.appraise.tdx_facts import TdxFacts, have
from teehouse_core.appraise.x509chain import (
    chain_end,
    crl_problem,
    link_problem,
    load_pem_chain,
    p256_from_raw,
    verify_raw,
)
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.collateral import parse_qe_identity, parse_tcb_info
from teehouse_core.evidence.pck import SGX_EXTENSION_OID, SgxExtension, parse_sgx_extension
from teehouse_core.evidence.tcb import parse_qe_levels, parse_tcb_levels
from teehouse_core.evidence.tdx import QE_VENDOR_INTEL, SgxQuote, TdQuote, parse_any_quote, parse_quote

__all__ = ["TdxFacts", "check_quote", "check_tdx"]


def check_tdx(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> TdxFacts:
    """Make every `tdx.…` check of one bundle; a failed link does not stop the later ones."""
    facts = TdxFacts(raw=bundle.platform.report, kind=bundle.platform.type, collateral=bundle.collateral.intel)
    check_quote(sheet, facts, policy, now)
    if facts.td is not None:
        facts.report_data, facts.register = facts.td.report_data, facts.td.rtmr[3]
    check_td_log(sheet, bundle.platform.event_log, facts.td.rtmr if facts.td is not None else None)
    return facts


def check_quote(sheet: Sheet, facts: TdxFacts, policy: Policy, now: int, *, sgx_too: bool = False) -> None:
    """Make the checks of `facts.raw` under the root of `facts.kind`; fills `facts`, `claims` and `ends` with it."""
    if facts.kind != "simulated" or policy.simulated_allowed:
        facts.root = sheet.anchors.intel(facts.kind)

    _parse(sheet, facts, sgx_too)
    quote, chain, root, collateral = facts.quote, facts.chain, facts.root, facts.collateral

    sheet.run("tdx.quote.vendor", lambda: _vendor(facts), needs=(quote,))
    sheet.run("tdx.quote.signature", lambda: _quote_signature(facts), needs=(quote,))
    sheet.run("tdx.quote.attestation-key", lambda: _attestation_key(facts), needs=(quote,))
    sheet.run("tdx.qe.signature", lambda: _qe_signature(facts), needs=(quote, chain))
    sheet.run("tdx.qe.identity", lambda: _qe_identity(facts), needs=(quote, facts.qe_identity))
    if root is None:
        hint = "the policy does not allow simulated evidence, so its public root vouches for nothing"
        sheet.write("tdx.pck.chain", failed(hint, facts.kind, "a hardware root"))
    elif quote is not None and chain is None and not quote.signature.pem_chain and facts.given_chain is None:
        hint = "the quote only names its PCK certificate; supply the chain as PEM beside it"
        sheet.write("tdx.pck.chain", skipped(hint, f"certification data of type {quote.signature.cert_type}"))
    else:
        sheet.run("tdx.pck.chain", lambda: _pck_chain(facts, now), needs=(chain,))
    _collateral(sheet, facts, policy, now)
    sheet.run("tdx.pck.revocation", lambda: _revocation(facts, now), needs=(chain, root, collateral))
    check_tcb(sheet, facts, policy)
    check_body(sheet, facts, policy)
    check_second_opinion(sheet, facts, policy, now)
    sheet.run("policy.machine", lambda: _machine(facts, policy), needs=(facts.sgx,))
    check_references(sheet, facts, policy)
    facts.claims = body_claims(facts)


def _collateral(sheet: Sheet, facts: TdxFacts, policy: Policy, now: int) -> None:
    root = facts.root
    sheet.run("tdx.collateral.tcb-info", lambda: _tcb_info(facts, now), needs=(facts.tcb_info, root))
    sheet.run("tdx.collateral.qe-identity", lambda: _qe_text(facts, now), needs=(facts.qe_identity, root))
    both = (facts.tcb_info, facts.qe_identity)
    sheet.run("tdx.collateral.dates", lambda: _dates(facts, now), needs=both)
    sheet.run("tdx.collateral.age", lambda: _age(facts, policy, now), needs=both)
    sheet.run("tdx.collateral.evaluation", lambda: _evaluation(facts, policy), needs=both)
    sheet.run("tdx.tcb.fmspc", lambda: _fmspc(facts), needs=(facts.sgx, facts.tcb_info))


def _parse(sheet: Sheet, facts: TdxFacts, sgx_too: bool) -> None:
    def parse() -> Outcome:
        # Zero bytes behind the quote are what drivers leave that hand out their whole buffer; they sign nothing.
        facts.quote = (parse_any_quote if sgx_too else parse_quote)(facts.raw, padding=True)
        shown = f"{len(facts.raw)} bytes" + (f", {facts.quote.padding} of padding" if facts.quote.padding else "")
        kind = "TDX" if isinstance(facts.quote, TdQuote) else "SGX"
        return passed(shown, f"{kind} quote version {facts.quote.header.version}")

    sheet.run("tdx.quote.format", parse)
    if facts.quote is not None:
        facts.chain = _quietly(load_pem_chain, facts.quote.signature.pem_chain or facts.given_chain or b"")
    if facts.chain is not None:
        facts.sgx = _quietly(_sgx_extension, facts.chain[0])
    if facts.collateral is not None:
        facts.tcb_info = _quietly(parse_tcb_info, facts.collateral.tcb_info)
        facts.qe_identity = _quietly(parse_qe_identity, facts.collateral.qe_identity)
        facts.levels = _quietly(parse_tcb_levels, facts.collateral.tcb_info)
        facts.qe_levels = _quietly(parse_qe_levels, facts.collateral.qe_identity)


def _quietly(parse: Any, data: Any) -> Any:
    """Parse or None; every check that needs the value is then skipped, and all of them are required.

    As broad as `Sheet.run`, for its reason: certificate libraries raise more than `ValueError` on hostile bytes.
    """
    try:
        return parse(data)
    except Exception:
        return None


def _sgx_extension(leaf: x509.Certificate) -> SgxExtension:
    oid = x509.ObjectIdentifier(SGX_EXTENSION_OID)
    try:
        value = leaf.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        raise MalformedError("the PCK certificate has no SGX extension", code="sgx-extension") from None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise MalformedError("the SGX extension is of another kind", code="sgx-extension")
    return parse_sgx_extension(value.value)


def _vendor(facts: TdxFacts) -> Outcome:
    header = facts.need_quote().header
    return equal(header.qe_vendor_id, QE_VENDOR_INTEL, "the quoting enclave is not of Intel's format")


def _quote_signature(facts: TdxFacts) -> Outcome:
    quote = facts.need_quote()
    key = p256_from_raw(quote.signature.attestation_key)
    if verify_raw(key, quote.signature.signature, quote.signed):
        return passed("valid", "signature by the attestation key over header and report")
    return failed("the report was changed after it was signed, or never signed by this key")


def _attestation_key(facts: TdxFacts) -> Outcome:
    s = facts.need_quote().signature
    expected = hashlib.sha256(s.attestation_key + s.qe_auth_data).digest() + bytes(32)
    if hmac.compare_digest(s.qe_report.report_data, expected):
        return passed(s.qe_report.report_data[:32], expected[:32])
    return failed("the quoting enclave vouches for another attestation key", s.qe_report.report_data, expected)


def _qe_signature(facts: TdxFacts) -> Outcome:
    s = facts.need_quote().signature
    if verify_raw(have(facts.chain)[0].public_key(), s.qe_signature, s.qe_report.raw):
        return passed("valid", "signature by the PCK certificate's key over the QE report")
    return failed("the QE report is not signed by this machine's PCK key")


def _qe_identity(facts: TdxFacts) -> Outcome:
    qe, want = facts.need_quote().signature.qe_report, have(facts.qe_identity)
    attributes = bytes(a & m for a, m in zip(qe.attributes, want.attributes_mask, strict=True))
    misc = qe.misc_select & want.misc_select_mask
    claimed = f"signer {qe.mr_signer.hex()} product {qe.isv_prod_id} attributes {attributes.hex()} misc {misc:08x}"
    expected = (
        f"signer {want.mr_signer.hex()} product {want.isv_prod_id} "
        f"attributes {want.attributes.hex()} misc {want.misc_select:08x}"
    )
    return equal(claimed, expected, "the quoting enclave is not the one that Intel's QE identity names")


def _pck_chain(facts: TdxFacts, now: int) -> Outcome:
    chain, root = have(facts.chain), have(facts.root)
    if problem := link_problem(chain, root, now, links=2):
        return failed(problem, _names(chain), _names((root,)))
    if facts.sgx is None:
        return failed("the leaf is no PCK certificate: it has no readable SGX extension", _names(chain))
    facts.ends.append(chain_end(chain))
    return passed(_names(chain), _names((root,)))


def _names(chain: tuple[x509.Certificate, ...]) -> str:
    return " < ".join(c.subject.rfc4514_string().split(",CN=")[-1].removeprefix("CN=") for c in chain)


def _revocation(facts: TdxFacts, now: int) -> Outcome:
    chain, root, collateral = have(facts.chain), have(facts.root), have(facts.collateral)
    if len(chain) < 2:
        return failed("the chain has no PCK CA whose CRL could be read")
    root_crl = x509.load_der_x509_crl(collateral.root_ca_crl)
    pck_crl = x509.load_der_x509_crl(collateral.pck_crl)
    signers = [
        load_pem_chain(text.encode("ascii"))[0]
        for text in (collateral.tcb_info_issuer_chain, collateral.qe_identity_issuer_chain)
    ]
    problem = crl_problem(root_crl, root, [chain[1], *signers], now) or crl_problem(pck_crl, chain[1], chain[:1], now)
    if problem:
        return failed(problem)
    for crl, issuer in ((root_crl, root), (pck_crl, chain[1])):
        if crl.next_update_utc is not None:
            facts.ends.append(int(crl.next_update_utc.timestamp()))
        key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        see(facts.newest, crl_series(key), number_of(crl), int(crl.last_update_utc.timestamp()))
    return passed("not listed", "current CRLs of root and PCK CA, listing none of the certificates")


def _tcb_info(facts: TdxFacts, now: int) -> Outcome:
    info, c = have(facts.tcb_info), have(facts.collateral)
    want = "SGX" if isinstance(facts.quote, SgxQuote) else "TDX"
    if (info.id, info.version) != (want, 3):
        return failed(f"not TCB info of version 3 for {want}", f"{info.id} {info.version}", f"{want} 3")
    outcome = _signed_text(facts, c.tcb_info_issuer_chain, c.tcb_info, c.tcb_info_signature, now)
    if outcome.state == "passed":
        see(facts.newest, f"tcb-info:{info.id}:{info.fmspc}", info.evaluation_number, info.issued_at)
    return outcome


def _qe_text(facts: TdxFacts, now: int) -> Outcome:
    identity, c = have(facts.qe_identity), have(facts.collateral)
    want = "QE" if isinstance(facts.quote, SgxQuote) else "TD_QE"
    if (identity.id, identity.version) != (want, 2):
        hint = "not a QE identity of version 2 for this kind of quote"
        return failed(hint, f"{identity.id} {identity.version}", f"{want} 2")
    outcome = _signed_text(facts, c.qe_identity_issuer_chain, c.qe_identity, c.qe_identity_signature, now)
    if outcome.state == "passed":
        see(facts.newest, f"qe-identity:{identity.id}", identity.evaluation_number, identity.issued_at)
    return outcome


def _signed_text(facts: TdxFacts, pem: str, text: str, signature: bytes, now: int) -> Outcome:
    chain, root = load_pem_chain(pem.encode("ascii")), have(facts.root)
    # One link: only the root names TCB signers, so no PCK certificate can pose as one.
    if problem := link_problem(chain, root, now, links=1):
        return failed(problem, _names(chain), _names((root,)))
    if not verify_raw(chain[0].public_key(), signature, text.encode("ascii")):
        return failed("the text is not what the TCB signing certificate signed")
    facts.ends.append(chain_end(chain))
    return passed(_names(chain), "signed by a TCB signing certificate under the root")


def _dates(facts: TdxFacts, now: int) -> Outcome:
    # dcap_qvl builds have disagreed on a QE identity used before its issue date, so all four dates are checked here.
    for part in (have(facts.tcb_info), have(facts.qe_identity)):
        window = f"{part.issued_at} to {part.next_update}"
        if now < part.issued_at:
            return failed("collateral is not yet issued at the appraisal time; check the clock", window, now)
        if now >= part.next_update:
            return failed("collateral is past its next update; the node must fetch new collateral", window, now)
        facts.ends.append(part.next_update)
    return passed("current", now)


def _age(facts: TdxFacts, policy: Policy, now: int) -> Outcome:
    pck_crl = x509.load_der_x509_crl(have(facts.collateral).pck_crl)
    oldest = min(
        have(facts.tcb_info).issued_at,
        have(facts.qe_identity).issued_at,
        int(pck_crl.last_update_utc.timestamp()),  # not the root CRL: Intel issues that one once a year
    )
    if now - oldest > policy.max_collateral_age:
        return failed("collateral is older than the policy allows", now - oldest, policy.max_collateral_age)
    facts.ends.append(oldest + policy.max_collateral_age)
    return passed(now - oldest, policy.max_collateral_age)


def _evaluation(facts: TdxFacts, policy: Policy) -> Outcome:
    lowest = min(have(facts.tcb_info).evaluation_number, have(facts.qe_identity).evaluation_number)
    if lowest < policy.min_tcb_evaluation:
        return failed("collateral is of an earlier TCB recovery", lowest, policy.min_tcb_evaluation)
    return passed(lowest, policy.min_tcb_evaluation)


def _fmspc(facts: TdxFacts) -> Outcome:
    sgx, info = have(facts.sgx), have(facts.tcb_info)
    claimed = f"{sgx.fmspc.hex()} {sgx.pce_id.hex()}"
    return equal(claimed, f"{info.fmspc} {info.pce_id}", "the TCB info is for another kind of machine")


def _machine(facts: TdxFacts, policy: Policy) -> Outcome:
    sgx = have(facts.sgx)
    names = [hashlib.sha256(sgx.ppid).hexdigest()]
    if sgx.platform_instance_id is not None:
        names.append(hashlib.sha256(sgx.platform_instance_id).hexdigest())
    if ANY in policy.machines:
        return not_applicable(f"the policy lists no machines; this one is {names[0]}")
    known = next((name for name in names if name in policy.machines), names[0])
    return one_of(known, policy.machines, "this machine is not on the policy's list")
