# SPDX-License-Identifier: Apache-2.0
"""One Intel quote, TDX or SGX, under a policy at a time: `verify_artifact`.

A genuine quote says which machine and which TD; what that TD is for, it does not say. Report data is compared with what
the caller expects, or not at all; the policy's freshness demand decides whether not at all is enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.appraise.artifacts.base import ArtifactVerdict, conclude, expected_report_data, report_data_outcome
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.checks_newest import check_newest
from teehouse_core.appraise.checks_tdx import check_quote
from teehouse_core.appraise.checks_tdx_td import SGX_CHECKS
from teehouse_core.appraise.floors import COMMON, FLOOR
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.roots import root_der
from teehouse_core.appraise.sheet import Sheet, one_of
from teehouse_core.appraise.tdx_facts import TdxFacts
from teehouse_core.appraise.verdict import Tier
from teehouse_core.appraise.x509chain import load_pem_chain
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.collateral import IntelCollateral, parse_tcb_info
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.tdx import SgxQuote, TdQuote, parse_any_quote

__all__ = ["find_collateral", "verify_artifact"]

MAX_COLLATERAL: Final = 8 * 1024 * 1024  # bytes of one file; the largest genuine one is under 32 KiB

_TDX_FLOOR: Final = (FLOOR["tdx"] - COMMON) | {"policy.platform"}
_SGX_FLOOR: Final = (_TDX_FLOOR - {"tdx.td.debug"}) | set(SGX_CHECKS)


def verify_artifact(
    raw: bytes,
    *,
    chain: bytes | None,
    collateral: Mapping[str, bytes] | None,
    nonce: bytes | None,
    report_data: bytes | None,
    policy: Policy,
    now: int,
    newest: Newest | None = None,
) -> ArtifactVerdict:
    """Appraise one quote at `now` (Unix seconds).

    `chain`: PEM of the PCK certificates, only for a quote that carries none. `collateral`: files by name, one of which
    holds Intel's nine members for this machine. `nonce` (≤ 64 bytes, padded with zeros) and `report_data` (64 bytes)
    are compared with the quote's. Raises `MalformedError` when `raw` is no quote, `LocalError` for wrong arguments.
    """
    expected = expected_report_data(nonce, report_data)
    try:
        quote = parse_any_quote(raw, padding=True)
    except MalformedError as error:
        if error.code == "quote-body-type":
            return _unsupported(error, policy)
        raise
    kind = _kind(quote, policy)
    facts = TdxFacts(raw=raw, kind=kind, given_chain=chain)
    facts.collateral = find_collateral(collateral or {}, quote, now)
    sheet = Sheet()
    check_quote(sheet, facts, policy, now, sgx_too=True)
    if newest is not None:
        check_newest(sheet, facts.newest, newest, now)
    name = kind if isinstance(quote, TdQuote) else "sgx"
    allowed = tuple(p for p in policy.platforms if p != "simulated" or policy.simulated_allowed)
    hint = f"the policy does not accept this type of platform; a policy file with platforms = ['{name}'] does"
    sheet.write("policy.platform", one_of(name, allowed, hint))
    sheet.write("artifact.report-data", report_data_outcome(quote.report.report_data, expected, policy))

    ids = {i for i in CATALOGUE if i.startswith("tdx.")} | ({*SGX_CHECKS} if isinstance(quote, SgxQuote) else set())
    floor = _TDX_FLOOR if isinstance(quote, TdQuote) else _SGX_FLOOR
    tier: Tier = "simulated" if kind == "simulated" else "hardware"
    return conclude(
        sheet,
        floor=floor,
        tier=tier if sheet.state("tdx.pck.chain") == "passed" else "none",
        claims=_claims(facts, quote, policy, ids, sheet),
        newest=facts.newest,
    )


def find_collateral(
    files: Mapping[str, bytes], quote: TdQuote | SgxQuote | None = None, now: int | None = None
) -> IntelCollateral | None:
    """The collateral among `files` that fits the quote best: kind and FMSPC first, then current at `now`, then newest.

    A file that is no Intel collateral is passed over. None when there is none at all; nothing is believed here.
    """
    found: list[tuple[tuple[bool, bool, bool, int], IntelCollateral]] = []
    for name in sorted(files):
        for value in _candidates(files[name]):
            try:
                parsed = IntelCollateral.parse(value)
                info = parse_tcb_info(parsed.tcb_info)
            except MalformedError:
                continue
            kind_fits = quote is None or info.id == ("TDX" if isinstance(quote, TdQuote) else "SGX")
            machine_fits = quote is None or bytes.fromhex(info.fmspc) in _fmspc_bytes(quote)
            current = now is None or info.issued_at <= now < info.next_update
            found.append(((kind_fits, machine_fits, current, info.issued_at), parsed))
    return max(found, key=lambda item: item[0])[1] if found else None


def _fmspc_bytes(quote: TdQuote | SgxQuote) -> bytes:
    """DER of the quote's leaf, in which the FMSPC stands as plain bytes; only to choose a file."""
    try:
        return load_pem_chain(quote.signature.pem_chain)[0].public_bytes(Encoding.DER)
    except (MalformedError, ValueError):
        return b""


def _candidates(data: bytes) -> list[Mapping[str, Any]]:
    if data.lstrip()[:1] != b"{":
        return []
    try:
        value = load_object(data, limit=MAX_COLLATERAL, what="collateral")
    except MalformedError:
        return []
    inner = [value, value.get("intel"), value.get("collateral")]
    if isinstance(value.get("collateral"), dict):
        inner.append(value["collateral"].get("intel"))
    return [item for item in inner if isinstance(item, dict)]


def _kind(quote: TdQuote | SgxQuote, policy: Policy) -> str:
    """`simulated` only where the policy allows it and the chain itself ends in that root; else Intel's root decides."""
    if not policy.simulated_allowed:
        return "tdx"
    try:
        last = x509.load_pem_x509_certificates(quote.signature.pem_chain.removesuffix(b"\0"))[-1]
        return "simulated" if last.public_bytes(Encoding.DER) == root_der("simulated") else "tdx"
    except Exception:  # as broad as Sheet.run, for its reason
        return "tdx"


def _claims(facts: TdxFacts, quote: TdQuote | SgxQuote, policy: Policy, ids: set[str], sheet: Sheet) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "artifact": "tdx-quote",
        "sha256": hashlib.sha256(facts.raw).hexdigest(),
        "policy": policy.name,
        "policy_sha256": policy.digest,
        "report_data": quote.report.report_data.hex(),
        **facts.claims,
    }
    if facts.sgx is not None:
        claims["machine_sha256"] = hashlib.sha256(facts.sgx.ppid).hexdigest()
    if facts.ends and not [c for c in sheet.refusing() if c.id in ids]:
        claims["not_after"] = min(facts.ends)
    return claims


def _unsupported(error: MalformedError, policy: Policy) -> ArtifactVerdict:
    claims = {"artifact": "tdx-quote", "policy": policy.name, "reason": error.message, "hint": error.hint or ""}
    return conclude(Sheet(), floor=frozenset(), tier="none", claims=claims, supported=False)
