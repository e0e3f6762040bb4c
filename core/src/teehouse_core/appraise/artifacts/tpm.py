# SPDX-License-Identifier: Apache-2.0
"""One TPM quote, by itself or over an Azure HCL report, under a policy at a time: `verify_artifact`.

A quote is small and needs company: its signature, the register values, the key, and somebody who vouches for the key.
They come in one JSON document (`evidence.tpm_document`), or as files beside the bare quote, found by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from teehouse_core.appraise.anchors import PINNED, Anchors
from teehouse_core.appraise.artifacts.base import ArtifactVerdict, conclude
from teehouse_core.appraise.artifacts.snp import find_collateral as find_amd
from teehouse_core.appraise.artifacts.tdx import find_collateral
from teehouse_core.appraise.checks_hcl import hcl_format, runtime_data
from teehouse_core.appraise.checks_snp import check_report
from teehouse_core.appraise.checks_tdx import check_quote as check_td_quote
from teehouse_core.appraise.checks_tpm import TpmEvidence, TpmFacts, check_quote
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.floors import COMMON, FLOOR
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Sheet, one_of
from teehouse_core.appraise.tdx_facts import TdxFacts
from teehouse_core.appraise.technologies import TECHNOLOGIES
from teehouse_core.appraise.verdict import Tier
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.eventlog import EventLog, parse_event_log, replay
from teehouse_core.evidence.hcl import HclReport
from teehouse_core.evidence.snp import parse_report
from teehouse_core.evidence.tdx import parse_any_quote
from teehouse_core.evidence.tpm import encode_pcrs, parse_quote
from teehouse_core.evidence.tpm_document import TpmDocument, parse_document, raw_rsassa

__all__ = ["verify_artifact"]

MAX_NONCE: Final = 64  # bytes of qualifying data (TPM 2.0 Part 2 §10.4.3)
REPORT_DATA: Final = 64  # bytes
_MAGIC: Final = b"\xffTCG"
_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "signature": (".sig", "signature"),
    "pcrs": ("pcrs", "pcrs.json"),
    "event_log": ("log", "eventlog", "binary_bios_measurements"),
    "ak": ("ak.tpmt", "ak.tss"),
    "ak_public": ("ak.pem", "ak.pub", "akpub.pem"),
    "hcl": ("hcl-report.bin", "hcl"),
    "td_quote": ("td-quote.bin", "td_quote"),
    "vcek": ("vcek.pem", "vcek.der", "vcek"),
}
"""What a file in `collateral` is, by the end of its name."""


def verify_artifact(
    raw: bytes,
    *,
    chain: bytes | None,
    collateral: Mapping[str, bytes] | None,
    nonce: bytes | None,
    report_data: bytes | None,
    policy: Policy,
    now: int,
    anchors: Anchors = PINNED,
) -> ArtifactVerdict:
    """Appraise one quote at `now` (Unix seconds): a JSON document, or TPMS_ATTEST with its company in `collateral`.

    `chain`: certificates of the attestation key, leaf first. `nonce` (≤ 64 bytes) is compared with the quote's
    qualifying data; `report_data` (64 bytes) by its SHA-256, as Teehouse's own bundles bind it. With an HCL report the
    chip's evidence is appraised too (SNP: VCEK in the document or in `collateral`; TDX: the TD quote, and Intel's
    collateral). Any `anchors` but the pinned ones give the tier `simulated`. Raises `MalformedError` when `raw` is no
    quote, `LocalError` for wrong arguments.
    """
    wanted = _expected(nonce, report_data)
    files = collateral or {}
    document = _document(raw, files)
    parse_quote(document.quote)
    sheet = Sheet(anchors)
    hcl: HclReport | None = None
    kind = "tpm"
    if document.hcl is not None:
        hcl = hcl_format(sheet, document.hcl, "tdx" if document.td_quote else "sev-snp")
        kind = "az-tdx-vtpm" if document.td_quote else "az-snp-vtpm"
    evidence = TpmEvidence(
        platform=kind,
        quote=document.quote,
        signature=document.signature,
        pcrs=document.pcrs or _pcrs_from_log(document),
        ak=document.ak,
        spki=document.ak_public,
        chain=_joined(document.ak_chain, chain),
        event_log=document.event_log,
        crls=tuple(data for name, data in sorted(files.items()) if name.endswith(".crl")),
        hcl_key=hcl.ak if hcl is not None else None,
    )
    facts = check_quote(sheet, evidence, policy, now, extra_data=wanted, in_bundle=False)
    allowed = tuple(p for p in policy.platforms if p != "simulated" or policy.simulated_allowed)
    hint = f"the policy does not accept this type of platform; a policy file with platforms = ['{kind}'] does"
    sheet.write("policy.platform", one_of(kind, allowed, hint))
    tier: Tier = "vtpm"
    proven = sheet.state("tpm.ak.trust") == "passed" == sheet.state("tpm.quote.signature")
    if kind != "tpm":
        chip = _chip(sheet, document, hcl, kind, files, policy, now)
        runtime_data(sheet, hcl, chip.report_data)
        facts.claims = {**chip.claims, **facts.claims}
        facts.ends.extend(chip.ends)
        tier = "hardware"
        proven &= sheet.state(TECHNOLOGIES[kind].chain_check) == "passed" == sheet.state("hcl.runtime-data")
    if anchors is not PINNED:
        tier = "simulated"
    asked = {"tpm.quote.nonce"} if wanted is not None or policy.freshness_required else set()
    return conclude(
        sheet,
        floor=(FLOOR[kind] - COMMON) | {"policy.platform"} | asked,
        tier=tier if proven else "none",
        claims=_claims(raw, kind, facts, policy),
    )


def _expected(nonce: bytes | None, report_data: bytes | None) -> bytes | None:
    if report_data is not None and len(report_data) != REPORT_DATA:
        raise LocalError(f"report data has {REPORT_DATA} bytes", code="report-data-size")
    if nonce is not None and not 0 < len(nonce) <= MAX_NONCE:
        raise LocalError(f"a nonce has 1 to {MAX_NONCE} bytes", code="nonce-size")
    hashed = hashlib.sha256(report_data).digest() if report_data is not None else None
    if nonce is not None and hashed is not None and nonce != hashed:
        raise LocalError("nonce and report data name different values", code="report-data-size")
    return nonce if nonce is not None else hashed


def _document(raw: bytes, files: Mapping[str, bytes]) -> TpmDocument:
    found = {
        name: next((data for file, data in sorted(files.items()) if file.endswith(ends)), None)
        for name, ends in _FILES.items()
    }
    if not raw.startswith(_MAGIC):
        document = parse_document(raw)
        missing = {name: data for name, data in found.items() if data and getattr(document, name) is None}
        return dataclasses.replace(document, **missing)
    signature = raw_rsassa(found.pop("signature") or b"")
    return TpmDocument(quote=raw, signature=signature, **found)


def _pcrs_from_log(document: TpmDocument) -> bytes | None:
    """Register values as the log gives them, where nobody lists them; the quote's digest decides if they are right."""
    if document.event_log is None:
        return None
    try:
        log: EventLog = parse_event_log(document.event_log)
        selections = parse_quote(document.quote).selections
    except MalformedError:
        return None
    values: dict[str, dict[int, bytes]] = {}
    for one in selections:
        replayed = replay(log, one.bank)
        size = len(next(iter(replayed.values()), b""))
        values[one.bank] = {index: replayed.get(index, bytes(size)) for index in one.pcrs}
    return encode_pcrs(values).encode("ascii")


def _joined(first: bytes | None, second: bytes | None) -> bytes | None:
    """The document's own certificates, then those given beside it (often the intermediate that it lacks)."""
    if first is None or second is None or b"-----BEGIN" not in first:
        return first if second is None else second if first is None else first + second
    return first + b"\n" + second


def _chip(
    sheet: Sheet,
    document: TpmDocument,
    hcl: HclReport | None,
    kind: str,
    files: Mapping[str, bytes],
    policy: Policy,
    now: int,
) -> PlatformFacts:
    if kind == "az-tdx-vtpm":
        facts = TdxFacts(raw=document.td_quote or b"", kind="tdx")
        try:
            facts.collateral = find_collateral(files, parse_any_quote(facts.raw, padding=True), now)
        except MalformedError:
            facts.collateral = None
        check_td_quote(sheet, facts, policy, now)
        facts.report_data = facts.td.report_data if facts.td is not None else None
        return facts
    report = hcl.tee_report if hcl is not None else b""
    amd = None
    with contextlib.suppress(MalformedError):  # `snp.report.format` says so
        amd = find_amd(parse_report(report), document.vcek, files, now, sheet.anchors.amd("sev-snp"))
    return check_report(sheet, report, amd, policy, now)


def _claims(raw: bytes, kind: str, facts: TpmFacts, policy: Policy) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "artifact": "tpm-quote" if kind == "tpm" else "az-vtpm",
        "platform": kind,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "policy": policy.name,
        "policy_sha256": policy.digest,
        **facts.claims,
    }
    if facts.quote is not None:
        claims["qualifying_data"] = facts.quote.extra_data.hex()
    if facts.ends:
        claims["not_after"] = min(facts.ends)
    return claims
