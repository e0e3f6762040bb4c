# SPDX-License-Identifier: Apache-2.0
"""At which patch level the machine is: platform, TDX module, quoting enclave, merged into one status; twice.

The levels are evaluated here, and again by `dcap_qvl` on the whole quote (`tdx.dcap`); the two must agree.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, equal, failed, not_applicable, one_of, passed, skipped
from teehouse_core.appraise.tcb_level import merge, module_for, platform_level, relaunch, svn_level
from teehouse_core.appraise.tdx_facts import TdxFacts, have

try:
    import dcap_qvl
except ImportError:  # the extra `tdx` is not installed: the check is skipped, and being required it refuses
    dcap_qvl = None

__all__ = ["check_second_opinion", "check_tcb"]

# Checks that dcap_qvl does not make: their failure explains no refusal of its.
_OURS_ALONE: Final = frozenset(
    {
        "tdx.collateral.age",
        "tdx.collateral.evaluation",
        "tdx.td.xfam",
        "tdx.tcb.status",
        "tdx.tcb.advisories",
    }
)


def check_tcb(sheet: Sheet, facts: TdxFacts, policy: Policy) -> None:
    """Make `tdx.tcb.…`, `tdx.module.…` and `tdx.qe.level`; a level that fits no entry is a failure, not a guess."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    quote, td = facts.quote, facts.td

    def platform() -> Outcome:
        sgx = have(facts.sgx)
        level = platform_level(have(facts.levels), sgx, td.tee_tcb_svn if td else None)
        shown = f"{bytes(c & 0xFF for c in sgx.components).hex()} pce {sgx.pce_svn}"
        if td:
            shown += f" tdx {td.tee_tcb_svn.hex()}"
        if level is None:
            return failed("the machine is below every TCB level that Intel lists", shown, "a listed level")
        found["platform"] = (level.status, level.advisories)
        return passed(f"{shown}: {level.status}", "a listed level")

    def module_identity() -> Outcome:
        report = have(td)
        module = module_for(have(facts.levels), report.tee_tcb_svn)
        if module is None:
            return failed(f"Intel lists no TDX module of generation {report.tee_tcb_svn[1]}", report.tee_tcb_svn)
        masked = report.seam_attributes & module.attributes_mask
        claimed = f"signer {report.mr_signer_seam.hex()} attributes 0x{masked:016x}"
        expected = f"signer {module.mr_signer.hex()} attributes 0x{module.attributes:016x}"
        return equal(claimed, expected, "the TDX module is not the one that Intel's TCB info names")

    def module_level() -> Outcome:
        return _module_level(facts, have(td).tee_tcb_svn, found)

    def qe_level() -> Outcome:
        svn = facts.need_quote().signature.qe_report.isv_svn
        level = svn_level(have(facts.qe_levels), svn)
        if level is None:
            return failed("the quoting enclave is below every level that Intel lists", svn, "a listed level")
        found["qe"] = (level.status, level.advisories)
        return passed(f"{svn}: {level.status}", "a listed level")

    tdx_only = "an SGX enclave has no TDX module"
    sheet.run("tdx.tcb.level", platform, needs=(quote, facts.sgx, facts.levels))
    for check_id, check in (("tdx.module.identity", module_identity), ("tdx.module.level", module_level)):
        if quote is not None and td is None:
            sheet.write(check_id, not_applicable(tdx_only))
        else:
            sheet.run(check_id, check, needs=(td, facts.levels))
    sheet.run("tdx.qe.level", qe_level, needs=(quote, facts.qe_levels))
    _running(sheet, facts, policy, found)

    parts = ("platform", "qe") if quote is not None and td is None else ("platform", "module", "qe")
    if all(part in found for part in parts):
        facts.tcb_status = merge(found["platform"][0], [found[part][0] for part in parts[1:]])
        if "running platform" in found and "running module" in found:
            running = merge(found["running platform"][0], [found[part][0] for part in ("running module", "qe")])
            facts.tcb_status = relaunch(facts.tcb_status, running)
        facts.advisories = tuple(sorted({a for part in parts for a in found[part][1]}))
    known = facts.tcb_status or None
    unknown = None
    for check_id in ("tdx.tcb.level", "tdx.module.level", "tdx.qe.level"):
        if known is None and sheet.state(check_id) == "failed":
            unknown = not_applicable(f"there is no status to speak of: {check_id} failed")
    if unknown is not None:
        # The floor of a platform demands a status that passed, so this cannot end in acceptance.
        sheet.write("tdx.tcb.status", unknown)
        return
    hint = "the machine's firmware or microcode is not at a level that the policy allows"
    sheet.run("tdx.tcb.status", lambda: one_of(facts.tcb_status, policy.tcb_statuses, hint), needs=(known,))


def _module_level(facts: TdxFacts, svn: bytes, found: dict[str, tuple[str, tuple[str, ...]]]) -> Outcome:
    module = module_for(have(facts.levels), svn)
    if module is None:
        return failed(f"Intel lists no TDX module of generation {svn[1]}", svn, "a listed generation")
    if svn[1] == 0:  # the first generation is covered by the platform's TDX components alone
        found["module"] = ("UpToDate", ())
        return passed("generation 0", "no levels of its own")
    level = svn_level(module.levels, svn[0])
    if level is None:
        return failed("the TDX module is below every level that Intel lists", f"{module.id} svn {svn[0]}")
    found["module"] = (level.status, level.advisories)
    return passed(f"{module.id} svn {svn[0]}: {level.status}", "a listed level")


def _running(sheet: Sheet, facts: TdxFacts, policy: Policy, found: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    """TD report 1.5: the module that runs now may be newer than the one that launched the TD, never older."""
    td = facts.td

    def check() -> Outcome:
        report = have(td)
        now, launch = have(report.tee_tcb_svn2), report.tee_tcb_svn
        if (now[1], now[0]) < (launch[1], launch[0]):
            return failed("the running TDX module is older than the one that launched the TD", now, launch)
        level = platform_level(have(facts.levels), have(facts.sgx), now)
        if level is None:
            return failed("with the module that runs now, the machine is below every TCB level", now, "a listed level")
        levels: dict[str, tuple[str, tuple[str, ...]]] = {}
        outcome = _module_level(facts, now, levels)
        if outcome.state == "passed":
            found["running platform"] = (level.status, level.advisories)
            found["running module"] = levels["module"]
            if levels["module"][0] not in policy.tcb_statuses:
                hint = "the running TDX module is not at a level that the policy allows"
                return failed(hint, outcome.claimed, " or ".join(policy.tcb_statuses))
        return outcome

    if td is not None and td.tee_tcb_svn2 is not None:
        sheet.run("tdx.module.running", check, needs=(facts.levels, facts.sgx))
    elif facts.quote is not None:
        sheet.write("tdx.module.running", not_applicable("the report does not tell the running module apart"))
    else:
        sheet.run("tdx.module.running", check, needs=(None,))


def _advisories(facts: TdxFacts, policy: Policy) -> Outcome:
    expected = " ".join(policy.advisories_allowed) or "none"
    if open_ := sorted(set(facts.advisories) - set(policy.advisories_allowed)):
        return failed("security advisories apply that the policy does not allow", " ".join(open_), expected)
    return passed(" ".join(facts.advisories) or "none", expected)


def check_second_opinion(sheet: Sheet, facts: TdxFacts, policy: Policy, now: int) -> None:
    """Make `tdx.dcap`, after every other check of the quote: does the second verifier come to the same?

    Then `tdx.tcb.advisories`, over what either of the two found.

    Refusing what is refused here already adds nothing, and is told as not applicable; the floor of a platform demands
    that this check *passed*, so that can never end in acceptance.
    """
    if dcap_qvl is None:
        sheet.write("tdx.dcap", skipped("dcap-qvl is not installed; install the extra teehouse-core[tdx]"))
    else:
        sheet.run("tdx.dcap", lambda: _dcap(sheet, facts, now), needs=(facts.quote, facts.root, facts.collateral))
    if sheet.state("tdx.tcb.status") == "not-applicable":
        sheet.write("tdx.tcb.advisories", not_applicable("there is no level whose advisories could be compared"))
    else:
        sheet.run("tdx.tcb.advisories", lambda: _advisories(facts, policy), needs=(facts.tcb_status or None,))


def _dcap(sheet: Sheet, facts: TdxFacts, now: int) -> Outcome:
    quote = facts.need_quote()
    raw = facts.raw[: len(facts.raw) - quote.padding]
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(have(facts.collateral).to_json())
        root = have(facts.root).public_bytes(Encoding.DER)
        report = dcap_qvl.verify_with_root_ca(raw, collateral, root, now)
    except ValueError as error:
        return _refused_too(sheet, facts, str(error)[:160])
    except BaseException as error:
        # A Rust panic is no Exception in Python; everything else that is none must go on.
        if type(error).__name__ != "PanicException":
            raise
        return failed("dcap-qvl gave up on the quote")
    status, advisories = str(report.status), {str(a) for a in report.advisory_ids}
    if status != facts.tcb_status:
        if not facts.tcb_status and _explained(sheet, facts):
            return not_applicable(f"refused here already; dcap-qvl says {status}")
        return failed("the two evaluations of the TCB level disagree", status, facts.tcb_status or "no level")
    facts.advisories = tuple(sorted({*facts.advisories, *advisories}))
    return passed(status, "the same status, verified under the pinned root")


def _refused_too(sheet: Sheet, facts: TdxFacts, reason: str) -> Outcome:
    if _explained(sheet, facts):
        return not_applicable(f"refused here already; dcap-qvl refuses too: {reason}")
    return failed("dcap-qvl refuses the quote", reason, facts.tcb_status)


def _explained(sheet: Sheet, facts: TdxFacts) -> bool:
    """Whether a check that dcap_qvl makes as well has refused."""
    own = {check.id for check in sheet.refusing() if check.id.startswith(("tdx.", "sgx."))} - _OURS_ALONE
    return bool(own) or facts.tcb_status == "Revoked"
