# SPDX-License-Identifier: Apache-2.0
"""Checks of a TDX quote: who signed it, on which machine, at which patch level, and what kind of TD it is.

Each link is checked here with `cryptography` and by name; `tdx.dcap` then runs the whole evaluation a second time in
`dcap_qvl`, which alone merges TCB levels into a status. The root comes from the platform type and the policy, never
from the quote. Not checked here: what the report data binds (`checks_binding`) and what was measured
(`checks_workload`).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from cryptography import x509

from teehouse_core.appraise.checks_workload import check_reference
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.policy import ANY, Policy
from teehouse_core.appraise.roots import intel_root_for, root_der
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, one_of, passed, skipped
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
from teehouse_core.evidence.collateral import (
    IntelCollateral,
    QeIdentity,
    TcbInfo,
    parse_qe_identity,
    parse_tcb_info,
)
from teehouse_core.evidence.pck import SGX_EXTENSION_OID, SgxExtension, parse_sgx_extension
from teehouse_core.evidence.tdx import QE_VENDOR_INTEL, TdQuote, parse_quote

try:
    import dcap_qvl
except ImportError:  # the extra `tdx` is not installed: the check is skipped, and being required it refuses
    dcap_qvl = None

__all__ = ["TdxFacts", "check_tdx"]

_T = TypeVar("_T")

DEBUG: Final = 1  # bit 0 of the TD attributes
XFAM_FIXED: Final = 0b11  # x87 and SSE are always on


@dataclass(slots=True)
class TdxFacts(PlatformFacts):
    """What the checks learned; None where something did not parse. Believe a field only with its checks passed."""

    quote: TdQuote | None = None
    chain: tuple[x509.Certificate, ...] | None = None
    sgx: SgxExtension | None = None
    collateral: IntelCollateral | None = None
    tcb_info: TcbInfo | None = None
    qe_identity: QeIdentity | None = None
    root: x509.Certificate | None = None
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()


def check_tdx(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> TdxFacts:
    """Make every `tdx.…` check of one bundle; a failed link does not stop the later ones."""
    facts = TdxFacts(collateral=bundle.collateral.intel)
    if bundle.platform.type != "simulated" or policy.simulated_allowed:
        facts.root = intel_root_for(bundle.platform.type)

    _parse(sheet, bundle, facts)
    quote, chain, root, collateral = facts.quote, facts.chain, facts.root, facts.collateral

    sheet.run("tdx.quote.vendor", lambda: _vendor(facts), needs=(quote,))
    sheet.run("tdx.quote.signature", lambda: _quote_signature(facts), needs=(quote,))
    sheet.run("tdx.quote.attestation-key", lambda: _attestation_key(facts), needs=(quote,))
    sheet.run("tdx.qe.signature", lambda: _qe_signature(facts), needs=(quote, chain))
    sheet.run("tdx.qe.identity", lambda: _qe_identity(facts), needs=(quote, facts.qe_identity))
    if root is None:
        hint = "the policy does not allow simulated evidence, so its public root vouches for nothing"
        sheet.write("tdx.pck.chain", failed(hint, bundle.platform.type, "a hardware root"))
    else:
        sheet.run("tdx.pck.chain", lambda: _pck_chain(facts, now), needs=(chain,))
    sheet.run("tdx.pck.revocation", lambda: _revocation(facts, now), needs=(chain, root, collateral))
    sheet.run("tdx.collateral.tcb-info", lambda: _tcb_info(facts, now), needs=(facts.tcb_info, root))
    sheet.run("tdx.collateral.qe-identity", lambda: _qe_text(facts, now), needs=(facts.qe_identity, root))
    both = (facts.tcb_info, facts.qe_identity)
    sheet.run("tdx.collateral.dates", lambda: _dates(facts, now), needs=both)
    sheet.run("tdx.collateral.age", lambda: _age(facts, policy, now), needs=both)
    sheet.run("tdx.collateral.evaluation", lambda: _evaluation(facts, policy), needs=both)
    sheet.run("tdx.tcb.fmspc", lambda: _fmspc(facts), needs=(facts.sgx, facts.tcb_info))
    _dcap(sheet, bundle, facts, policy, now)
    sheet.run("policy.machine", lambda: _machine(facts, policy), needs=(facts.sgx,))
    _td(sheet, facts, policy)
    _references(sheet, facts, policy)
    if quote is not None:
        facts.report_data, facts.register = quote.report.report_data, quote.report.rtmr[3]
    facts.claims = _claims(facts)
    return facts


def _parse(sheet: Sheet, bundle: Bundle, facts: TdxFacts) -> None:
    def quote() -> Outcome:
        facts.quote = parse_quote(bundle.platform.report)
        return passed(f"{len(bundle.platform.report)} bytes", "TDX quote version 4")

    sheet.run("tdx.quote.format", quote)
    if facts.quote is not None:
        facts.chain = _quietly(load_pem_chain, facts.quote.signature.pem_chain)
    if facts.chain is not None:
        facts.sgx = _quietly(_sgx_extension, facts.chain[0])
    if facts.collateral is not None:
        facts.tcb_info = _quietly(parse_tcb_info, facts.collateral.tcb_info)
        facts.qe_identity = _quietly(parse_qe_identity, facts.collateral.qe_identity)


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


def _have(value: _T | None) -> _T:
    """Narrow what `needs` already guaranteed."""
    if value is None:
        raise MalformedError("missing", code="missing")
    return value


def _vendor(facts: TdxFacts) -> Outcome:
    header = _have(facts.quote).header
    return equal(header.qe_vendor_id, QE_VENDOR_INTEL, "the quoting enclave is not of Intel's format")


def _quote_signature(facts: TdxFacts) -> Outcome:
    quote = _have(facts.quote)
    key = p256_from_raw(quote.signature.attestation_key)
    if verify_raw(key, quote.signature.signature, quote.signed):
        return passed("valid", "signature by the attestation key over header and report")
    return failed("the report was changed after it was signed, or never signed by this key")


def _attestation_key(facts: TdxFacts) -> Outcome:
    s = _have(facts.quote).signature
    expected = hashlib.sha256(s.attestation_key + s.qe_auth_data).digest() + bytes(32)
    if hmac.compare_digest(s.qe_report.report_data, expected):
        return passed(s.qe_report.report_data[:32], expected[:32])
    return failed("the quoting enclave vouches for another attestation key", s.qe_report.report_data, expected)


def _qe_signature(facts: TdxFacts) -> Outcome:
    s = _have(facts.quote).signature
    if verify_raw(_have(facts.chain)[0].public_key(), s.qe_signature, s.qe_report.raw):
        return passed("valid", "signature by the PCK certificate's key over the QE report")
    return failed("the QE report is not signed by this machine's PCK key")


def _qe_identity(facts: TdxFacts) -> Outcome:
    qe, want = _have(facts.quote).signature.qe_report, _have(facts.qe_identity)
    attributes = bytes(a & m for a, m in zip(qe.attributes, want.attributes_mask, strict=True))
    claimed = (qe.mr_signer.hex(), qe.isv_prod_id, attributes.hex(), qe.misc_select & want.misc_select_mask)
    expected = (want.mr_signer.hex(), want.isv_prod_id, want.attributes.hex(), want.misc_select)
    return equal(claimed, expected, "the quoting enclave is not the one that Intel's QE identity names")


def _pck_chain(facts: TdxFacts, now: int) -> Outcome:
    chain, root = _have(facts.chain), _have(facts.root)
    if problem := link_problem(chain, root, now, links=2):
        return failed(problem, _names(chain), _names((root,)))
    if facts.sgx is None:
        return failed("the leaf is no PCK certificate: it has no readable SGX extension", _names(chain))
    facts.ends.append(chain_end(chain))
    return passed(_names(chain), _names((root,)))


def _names(chain: tuple[x509.Certificate, ...]) -> str:
    return " < ".join(c.subject.rfc4514_string().split(",CN=")[-1].removeprefix("CN=") for c in chain)


def _revocation(facts: TdxFacts, now: int) -> Outcome:
    chain, root, collateral = _have(facts.chain), _have(facts.root), _have(facts.collateral)
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
    for crl in (root_crl, pck_crl):
        if crl.next_update_utc is not None:
            facts.ends.append(int(crl.next_update_utc.timestamp()))
    return passed("not listed", "current CRLs of root and PCK CA, listing none of the certificates")


def _tcb_info(facts: TdxFacts, now: int) -> Outcome:
    info, c = _have(facts.tcb_info), _have(facts.collateral)
    if (info.id, info.version) != ("TDX", 3):
        return failed("not TCB info of version 3 for TDX", f"{info.id} {info.version}", "TDX 3")
    return _signed_text(facts, c.tcb_info_issuer_chain, c.tcb_info, c.tcb_info_signature, now)


def _qe_text(facts: TdxFacts, now: int) -> Outcome:
    identity, c = _have(facts.qe_identity), _have(facts.collateral)
    if (identity.id, identity.version) != ("TD_QE", 2):
        return failed("not a QE identity of version 2 for TDX", f"{identity.id} {identity.version}", "TD_QE 2")
    return _signed_text(facts, c.qe_identity_issuer_chain, c.qe_identity, c.qe_identity_signature, now)


def _signed_text(facts: TdxFacts, pem: str, text: str, signature: bytes, now: int) -> Outcome:
    chain, root = load_pem_chain(pem.encode("ascii")), _have(facts.root)
    # One link: only the root names TCB signers, so no PCK certificate can pose as one.
    if problem := link_problem(chain, root, now, links=1):
        return failed(problem, _names(chain), _names((root,)))
    if not verify_raw(chain[0].public_key(), signature, text.encode("ascii")):
        return failed("the text is not what the TCB signing certificate signed")
    facts.ends.append(chain_end(chain))
    return passed(_names(chain), "signed by a TCB signing certificate under the root")


def _dates(facts: TdxFacts, now: int) -> Outcome:
    # dcap_qvl builds have disagreed on a QE identity used before its issue date, so all four dates are checked here.
    for part in (_have(facts.tcb_info), _have(facts.qe_identity)):
        window = f"{part.issued_at} to {part.next_update}"
        if now < part.issued_at:
            return failed("collateral is not yet issued at the appraisal time; check the clock", window, now)
        if now >= part.next_update:
            return failed("collateral is past its next update; the node must fetch new collateral", window, now)
        facts.ends.append(part.next_update)
    return passed("current", now)


def _age(facts: TdxFacts, policy: Policy, now: int) -> Outcome:
    pck_crl = x509.load_der_x509_crl(_have(facts.collateral).pck_crl)
    oldest = min(
        _have(facts.tcb_info).issued_at,
        _have(facts.qe_identity).issued_at,
        int(pck_crl.last_update_utc.timestamp()),  # not the root CRL: Intel issues that one once a year
    )
    if now - oldest > policy.max_collateral_age:
        return failed("collateral is older than the policy allows", now - oldest, policy.max_collateral_age)
    facts.ends.append(oldest + policy.max_collateral_age)
    return passed(now - oldest, policy.max_collateral_age)


def _evaluation(facts: TdxFacts, policy: Policy) -> Outcome:
    lowest = min(_have(facts.tcb_info).evaluation_number, _have(facts.qe_identity).evaluation_number)
    if lowest < policy.min_tcb_evaluation:
        return failed("collateral is of an earlier TCB recovery", lowest, policy.min_tcb_evaluation)
    return passed(lowest, policy.min_tcb_evaluation)


def _fmspc(facts: TdxFacts) -> Outcome:
    sgx, info = _have(facts.sgx), _have(facts.tcb_info)
    claimed = f"{sgx.fmspc.hex()} {sgx.pce_id.hex()}"
    return equal(claimed, f"{info.fmspc} {info.pce_id}", "the TCB info is for another kind of machine")


def _dcap(sheet: Sheet, bundle: Bundle, facts: TdxFacts, policy: Policy, now: int) -> None:
    def run() -> Outcome:
        root = root_der(bundle.platform.type)
        try:
            collateral = dcap_qvl.QuoteCollateralV3.from_json(_have(facts.collateral).to_json())
            report = dcap_qvl.verify_with_root_ca(bundle.platform.report, collateral, root, now)
        except ValueError as error:
            return failed("dcap-qvl refuses the quote", str(error)[:160])
        except BaseException as error:
            # A Rust panic is no Exception in Python; everything else that is none must go on.
            if type(error).__name__ != "PanicException":
                raise
            return failed("dcap-qvl gave up on the quote")
        facts.tcb_status, facts.advisories = str(report.status), tuple(str(a) for a in report.advisory_ids)
        return passed(facts.tcb_status, "verified under the pinned root")

    if dcap_qvl is None:
        sheet.write("tdx.dcap", skipped("dcap-qvl is not installed; install the extra teehouse-core[tdx]"))
    else:
        sheet.run("tdx.dcap", run, needs=(facts.quote, facts.root, facts.collateral))
    known = facts.tcb_status or None
    hint = "the machine's firmware or microcode is not at a level that the policy allows"
    sheet.run("tdx.tcb.status", lambda: one_of(facts.tcb_status, policy.tcb_statuses, hint), needs=(known,))
    sheet.run("tdx.tcb.advisories", lambda: _advisories(facts, policy), needs=(known,))


def _advisories(facts: TdxFacts, policy: Policy) -> Outcome:
    expected = " ".join(policy.advisories_allowed) or "none"
    if open_ := sorted(set(facts.advisories) - set(policy.advisories_allowed)):
        return failed("security advisories apply that the policy does not allow", " ".join(open_), expected)
    return passed(" ".join(facts.advisories) or "none", expected)


def _machine(facts: TdxFacts, policy: Policy) -> Outcome:
    machine = hashlib.sha256(_have(facts.sgx).ppid).hexdigest()
    if ANY in policy.machines:
        return not_applicable(f"the policy lists no machines; this one is {machine}")
    return one_of(machine, policy.machines, "this machine is not on the policy's list")


def _td(sheet: Sheet, facts: TdxFacts, policy: Policy) -> None:
    quote = facts.quote

    def debug() -> Outcome:
        attributes = _have(quote).report.td_attributes
        return equal(attributes & DEBUG, 0, "a debug TD: its memory can be read from outside")

    def attributes() -> Outcome:
        claimed, expected = _have(quote).report.td_attributes, policy.td_attributes
        return equal(
            f"0x{claimed:016x}", f"0x{expected:016x}", "the TD runs with other attributes than the policy says"
        )

    def xfam() -> Outcome:
        claimed = _have(quote).report.xfam
        shown, expected = f"0x{claimed:016x}", f"within 0x{policy.xfam_allowed:016x}"
        if claimed & ~policy.xfam_allowed or claimed & XFAM_FIXED != XFAM_FIXED:
            return failed("the TD uses processor features that the policy does not allow", shown, expected)
        return passed(shown, expected)

    def seam() -> Outcome:
        report = _have(quote).report
        claimed = f"{report.seam_attributes:016x} {report.mr_signer_seam.hex()}"
        return equal(claimed, f"{0:016x} {bytes(48).hex()}", "not a TDX module signed by Intel")

    sheet.run("tdx.td.debug", debug, needs=(quote,))
    sheet.run("tdx.td.attributes", attributes, needs=(quote,))
    sheet.run("tdx.td.xfam", xfam, needs=(quote,))
    sheet.run("tdx.td.seam", seam, needs=(quote,))


def _references(sheet: Sheet, facts: TdxFacts, policy: Policy) -> None:
    # Firmware event logs (RTMR0 to RTMR2) are compared as final values only.
    report = facts.quote.report if facts.quote is not None else None
    values = (report.mr_td, *report.rtmr) if report is not None else (None,) * 5
    for name, value in zip(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), values, strict=True):
        check_reference(sheet, f"tdx.reference.{name}", name, value.hex() if value is not None else None, policy)


def _claims(facts: TdxFacts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if facts.quote is not None:
        report = facts.quote.report
        found["mrtd"] = report.mr_td.hex()
        found.update({f"rtmr{n}": value.hex() for n, value in enumerate(report.rtmr)})
        found["td_attributes"] = f"0x{report.td_attributes:016x}"
        found["xfam"] = f"0x{report.xfam:016x}"
        found["mr_config_id"] = report.mr_config_id.hex()
        found["mr_owner"] = report.mr_owner.hex()
        found["mr_owner_config"] = report.mr_owner_config.hex()
    if facts.sgx is not None:
        found["fmspc"] = facts.sgx.fmspc.hex()
    if facts.tcb_status:
        found["tcb_status"] = facts.tcb_status
        found["advisories"] = list(facts.advisories)
    return found
