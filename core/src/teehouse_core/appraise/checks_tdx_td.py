# SPDX-License-Identifier: Apache-2.0
"""What kind of TD, or enclave, the quote speaks for; its measurements against Reference Values; claims of both."""

from __future__ import annotations

from typing import Any, Final

from teehouse_core.appraise.checks_workload import check_reference
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, passed
from teehouse_core.appraise.tdx_facts import TdxFacts, have
from teehouse_core.evidence.tdx import QeReport, SgxQuote, TdQuote

__all__ = ["SGX_CHECKS", "body_claims", "check_body", "check_references"]

DEBUG: Final = 1  # bit 0 of the TD attributes
XFAM_FIXED: Final = 0b11  # x87 and SSE are always on
ENCLAVE_INIT: Final = 1 << 0  # flags of an enclave's attributes
ENCLAVE_DEBUG: Final = 1 << 1

SGX_CHECKS: Final = ("sgx.enclave.init", "sgx.enclave.debug")
_OF_EVERY_TD: Final = ("tdx.td.debug", "tdx.td.attributes", "tdx.td.xfam", "tdx.td.seam")
_TD_CHECKS: Final = (*_OF_EVERY_TD, "tdx.td.service", "tdx.td.partition")


def check_body(sheet: Sheet, facts: TdxFacts, policy: Policy) -> None:
    """Make the `tdx.td.…` checks of a TD, or the `sgx.enclave.…` checks of an enclave."""
    if isinstance(facts.quote, SgxQuote):
        _enclave(sheet, facts.quote.report)
        for check_id in _TD_CHECKS:
            sheet.write(check_id, not_applicable("an SGX enclave is no TD"))
    else:
        _td(sheet, facts, policy)


def _enclave(sheet: Sheet, report: QeReport) -> None:
    flags = int.from_bytes(report.attributes[:8], "little")
    shown = f"flags 0x{flags:016x}"
    init = passed(shown) if flags & ENCLAVE_INIT else failed("the enclave was not initialised", shown)
    sheet.write("sgx.enclave.init", init)
    hint = "a debug enclave: its memory can be read from outside"
    sheet.write("sgx.enclave.debug", failed(hint, shown) if flags & ENCLAVE_DEBUG else passed(shown))


def _td(sheet: Sheet, facts: TdxFacts, policy: Policy) -> None:
    td = facts.td

    def debug() -> Outcome:
        attributes = have(td).td_attributes
        return equal(attributes & DEBUG, 0, "a debug TD: its memory can be read from outside")

    def attributes() -> Outcome:
        # Debug has its own check, so that each of the two can be the only one that fails.
        claimed, expected = have(td).td_attributes & ~DEBUG, policy.td_attributes & ~DEBUG
        hint = "the TD runs with other attributes than the policy says"
        return equal(f"0x{claimed:016x}", f"0x{expected:016x}", hint)

    def xfam() -> Outcome:
        claimed = have(td).xfam
        shown, expected = f"0x{claimed:016x}", f"within 0x{policy.xfam_allowed:016x}"
        if claimed & ~policy.xfam_allowed or claimed & XFAM_FIXED != XFAM_FIXED:
            return failed("the TD uses processor features that the policy does not allow", shown, expected)
        return passed(shown, expected)

    def seam() -> Outcome:
        # Who signed the module is `tdx.module.identity`.
        claimed = f"0x{have(td).seam_attributes:016x}"
        return equal(claimed, f"0x{0:016x}", "the TDX module runs with attributes of its own, as a debug build would")

    def service() -> Outcome:
        # A service TD can migrate this one, memory and all; nobody here appraises the service TD.
        report = have(td)
        if report.extension is not None and report.extension.service_td:
            return failed("a service TD, or a policy for one, is or was bound to this TD", "bound", "none, ever")
        return equal(report.mr_service_td, bytes(48), "a service TD is bound to this TD, which could move its memory")

    def partition() -> Outcome:
        # The measurements are the TD's. What a VM inside it runs, and lets be written into REPORTDATA, they do not say.
        hint = "a VM inside the TD asked for this report, and the measurements do not cover that VM"
        return equal(have(have(td).extension).vmid, 0, hint)

    for check_id, check in zip(_OF_EVERY_TD, (debug, attributes, xfam, seam), strict=True):
        sheet.run(check_id, check, needs=(td,))
    if td is not None and td.mr_service_td is None:
        sheet.write("tdx.td.service", not_applicable("a TD report 1.0 names no service TD"))
    else:
        sheet.run("tdx.td.service", service, needs=(td,))
    if td is not None and td.extension is None:
        sheet.write("tdx.td.partition", not_applicable("only an extended TD report 1.5 says who asked for it"))
    else:
        sheet.run("tdx.td.partition", partition, needs=(td,))


def check_references(sheet: Sheet, facts: TdxFacts, policy: Policy) -> None:
    """Make the `tdx.reference.…` checks. Firmware event logs (RTMR0 to RTMR2) are compared as final values only."""
    td = facts.td
    values = (td.mr_td, *td.rtmr, td.mr_config_id, td.mr_owner, td.mr_owner_config) if td is not None else (None,) * 8
    for name, value in zip(_REFERENCES, values, strict=True):
        check_id = f"tdx.reference.{name.replace('_', '-')}"
        check_reference(sheet, check_id, name, value.hex() if value is not None else None, policy)


_REFERENCES: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id", "mr_owner", "mr_owner_config")


def body_claims(facts: TdxFacts) -> dict[str, Any]:
    """JSON-ready claims of `cpu0`; true only as far as the checks beside them passed."""
    found: dict[str, Any] = {}
    quote = facts.quote
    if quote is not None:
        found["quote_version"] = quote.header.version
    if isinstance(quote, TdQuote):
        report = quote.report
        found["tee"] = "tdx"
        found["mrtd"] = report.mr_td.hex()
        found.update({f"rtmr{n}": value.hex() for n, value in enumerate(report.rtmr)})
        found["td_attributes"] = f"0x{report.td_attributes:016x}"
        found["xfam"] = f"0x{report.xfam:016x}"
        found["mr_config_id"] = report.mr_config_id.hex()
        found["mr_owner"] = report.mr_owner.hex()
        found["mr_owner_config"] = report.mr_owner_config.hex()
        found["mr_seam"] = report.mr_seam.hex()
        found["tee_tcb_svn"] = report.tee_tcb_svn.hex()
        if report.tee_tcb_svn2 is not None and report.mr_service_td is not None:
            found["tee_tcb_svn2"] = report.tee_tcb_svn2.hex()
            found["mr_service_td"] = report.mr_service_td.hex()
        if report.extension is not None:
            found["td_id"] = report.extension.td_id.hex()
            found["vmid"] = report.extension.vmid
            found["dev_info"] = report.extension.dev_info.hex()
    elif isinstance(quote, SgxQuote):
        found["tee"] = "sgx"
        found["mr_enclave"] = quote.report.mr_enclave.hex()
        found["mr_signer"] = quote.report.mr_signer.hex()
        found["isv_prod_id"] = quote.report.isv_prod_id
        found["isv_svn"] = quote.report.isv_svn
    if facts.sgx is not None:
        found["fmspc"] = facts.sgx.fmspc.hex()
        if facts.sgx.platform_instance_id is not None:
            found["platform_instance_id"] = facts.sgx.platform_instance_id.hex()
        found.update(facts.sgx.configuration)
    if facts.tcb_status:
        found["tcb_status"] = facts.tcb_status
        found["advisories"] = list(facts.advisories)
    return found
