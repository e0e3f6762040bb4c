# SPDX-License-Identifier: Apache-2.0
"""Checks of an Azure confidential machine: a vTPM quote whose key a chip report vouches for, through the HCL report.

(1) The HCL report parses; (2) its AK signed the quote, with every `tpm.…` check; (3) the chip report inside (SNP), or
beside it (a TD quote), is appraised by its own technology's checks; (4) that report carries the hash of the runtime
data that names the AK. The paravisor that runs the vTPM is part of what is trusted.
"""

from __future__ import annotations

import dataclasses
import hmac
from collections.abc import Callable

from teehouse_core.appraise.checks_snp import check_snp
from teehouse_core.appraise.checks_tdx import check_tdx
from teehouse_core.appraise.checks_tpm import TpmFacts, aux_blob, bind, check_quote, tpm_evidence
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, passed
from teehouse_core.errors import TeehouseError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.hcl import HclReport, parse_hcl

__all__ = ["check_az_snp", "check_az_tdx", "hcl_format", "runtime_data"]

TeeCheck = Callable[[Sheet, Bundle, Policy, int], PlatformFacts]


def check_az_tdx(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> TpmFacts:
    """Every check of a bundle of type `az-tdx-vtpm`; the TD quote is `aux.td_quote`."""
    return _check(sheet, bundle, policy, now, "tdx", check_tdx)


def check_az_snp(sheet: Sheet, bundle: Bundle, policy: Policy, now: int) -> TpmFacts:
    """Every check of a bundle of type `az-snp-vtpm`; the SNP report is inside the HCL report."""
    return _check(sheet, bundle, policy, now, "sev-snp", check_snp)


def hcl_format(sheet: Sheet, raw: bytes | None, kind: str) -> HclReport | None:
    """Make `hcl.format`: the HCL report parses and is of the chip kind that is claimed."""
    found: HclReport | None = None
    try:
        found = parse_hcl(raw) if raw is not None else None
    except TeehouseError as error:
        sheet.write("hcl.format", failed(f"{error.message} ({error.code})"))
        return None
    if found is None:
        sheet.write("hcl.format", failed("the HCL report is missing", "", "aux.hcl"))
    elif found.kind != kind:
        sheet.write("hcl.format", failed("the HCL report is of another kind of chip", found.kind, kind))
        return None
    else:
        sheet.write("hcl.format", passed(f"version {found.version}, {found.kind}", kind))
    return found


def runtime_data(sheet: Sheet, hcl: HclReport | None, report_data: bytes | None) -> bool:
    """Make `hcl.runtime-data`: the chip report's own field is the hash of the runtime data that names the AK."""

    def check() -> Outcome:
        expected, claimed = hcl.report_data if hcl else b"", report_data or b""
        if hcl and hmac.compare_digest(claimed, expected):
            return passed(claimed, expected)
        return failed(
            "the chip report vouches for other runtime data, so for another attestation key", claimed, expected
        )

    return sheet.run("hcl.runtime-data", check, needs=(hcl, report_data))


def _check(sheet: Sheet, bundle: Bundle, policy: Policy, now: int, kind: str, tee: TeeCheck) -> TpmFacts:
    hcl = hcl_format(sheet, aux_blob(bundle, "hcl"), kind)  # (1)
    key = hcl.ak if hcl is not None else None
    facts = check_quote(sheet, tpm_evidence(bundle, hcl_key=key), policy, now, extra_data=None)  # (2)
    bind(bundle, facts)
    report = aux_blob(bundle, "td_quote") if kind == "tdx" else (hcl.tee_report if hcl is not None else None)
    inner = dataclasses.replace(bundle.platform, type=kind, report=report or b"", event_log=None)
    chip = tee(sheet, dataclasses.replace(bundle, platform=inner), policy, now)  # (3)
    runtime_data(sheet, hcl, chip.report_data)  # (4)
    facts.claims = {**chip.claims, **facts.claims}
    if hcl is not None:
        facts.claims["azure"] = {name: str(value) for name, value in sorted(hcl.configuration.items())}
    facts.ends.extend(chip.ends)
    facts.newest.update(chip.newest)
    return facts
