# SPDX-License-Identifier: Apache-2.0
"""One SEV-SNP report under a policy at a time: `verify_artifact`.

A genuine report says which chip and which guest. The leaf certificate must be supplied, since a report carries none;
the intermediates that AMD publishes are shipped. Without a current revocation list the verdict says "unknown", and
the policy decides what that is worth.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509

from teehouse_core.appraise.artifacts.base import ArtifactVerdict, conclude, expected_report_data, report_data_outcome
from teehouse_core.appraise.checks_newest import check_newest
from teehouse_core.appraise.checks_snp import SnpFacts, check_report
from teehouse_core.appraise.floors import COMMON, FLOOR
from teehouse_core.appraise.newest import Newest
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.roots_amd import AMD_ROOTS, AmdRoot
from teehouse_core.appraise.sheet import Sheet, one_of
from teehouse_core.appraise.verdict import Tier
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.amd_collateral import MAX_CRL, AmdCollateral, certificates_of
from teehouse_core.evidence.amdcert import AmdCertificate, parse_certificate, parse_leaf
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.snp import SnpReport, parse_report

__all__ = ["find_collateral", "verify_artifact"]

MAX_FILE: Final = 8 * 1024 * 1024  # bytes of one collateral file
_FLOOR: Final = (FLOOR["sev-snp"] - COMMON) | {"policy.platform"}
_LEAF_OIDS: Final = ("1.3.6.1.4.1.3704.1.4", "1.3.6.1.4.1.3704.1.5")  # a chip id, a provider's name
_CRL_BEGIN: Final = b"-----BEGIN X509 CRL-----"
_CRL_END: Final = b"-----END X509 CRL-----"


def verify_artifact(
    raw: bytes,
    *,
    chain: bytes | None,
    collateral: Mapping[str, bytes] | None,
    nonce: bytes | None,
    report_data: bytes | None,
    policy: Policy,
    now: int,
    roots: Mapping[str, AmdRoot] = AMD_ROOTS,
    newest: Newest | None = None,
) -> ArtifactVerdict:
    """Appraise one report at `now` (Unix seconds).

    `chain`: the VCEK or VLEK (DER or PEM), or PEM of it and the certificates above. `collateral`: files by name, among
    them certificates, revocation lists (DER or PEM), our own `{"amd": …}` JSON; what is none of these is passed over.
    `nonce` (≤ 64 bytes, padded with zeros) and `report_data` (64 bytes) are compared with the report's. Any `roots` but
    AMD's give the tier `simulated`. Raises `MalformedError` when `raw` is no report, `LocalError` for wrong arguments.
    """
    expected = expected_report_data(nonce, report_data)
    try:
        report = parse_report(raw)
    except MalformedError as error:
        if error.code != "snp-version":
            raise
        claims = {"artifact": "snp-report", "policy": policy.name, "reason": error.message, "hint": error.hint or ""}
        return conclude(Sheet(), floor=frozenset(), tier="none", claims=claims, supported=False)
    sheet = Sheet()
    found = find_collateral(report, chain, collateral or {}, now, roots)
    facts = check_report(sheet, raw, found, policy, now, roots=roots)
    if newest is not None:
        check_newest(sheet, facts.newest, newest, now)
    hint = "the policy does not accept this type of platform; a policy file with platforms = ['sev-snp'] does"
    sheet.write("policy.platform", one_of("sev-snp", policy.platforms, hint))
    sheet.write("artifact.report-data", report_data_outcome(report.report_data, expected, policy))
    tier: Tier = "hardware" if roots is AMD_ROOTS else "simulated"
    return conclude(
        sheet,
        floor=_FLOOR,
        tier=tier if sheet.state("snp.chain.signatures") == "passed" else "none",
        claims=_claims(facts, raw, policy),
        newest=facts.newest,
    )


def find_collateral(
    report: SnpReport,
    chain: bytes | None,
    files: Mapping[str, bytes],
    now: int,
    roots: Mapping[str, AmdRoot] = AMD_ROOTS,
) -> AmdCollateral | None:
    """The leaf, its chain and its root's list among what was given; None without a leaf. Nothing is believed here.

    `chain` is taken whole, also where it is wrong. Among `files` the leaf that fits the report best counts, the
    certificate above it, and the newest list of its root that was issued by `now`.
    """
    certificates, lists = _sort(files)
    given = _given(chain)
    own = [c for c in map(_parsed, given) if c is not None and _is_leaf(c)]
    leaves = own or [c for c in certificates if _is_leaf(c)]
    if not leaves:
        return (
            AmdCollateral(given[0], given[1:]) if given else None
        )  # no leaf by its look: the checks say what is wrong
    leaf = max(leaves, key=lambda c: _fit(c, report))
    above = tuple(data for data in given if data != leaf.raw)
    above = above or tuple(c.raw for c in certificates if c.subject == leaf.issuer)[:1]
    return AmdCollateral(leaf.raw, above, _list_for(leaf, lists, now, roots))


def _given(chain: bytes | None) -> tuple[bytes, ...]:
    if chain is None:
        return ()
    try:
        return certificates_of(chain)
    except MalformedError:
        return (chain,)  # fails as a leaf, by name


def _fit(leaf: AmdCertificate, report: SnpReport) -> tuple[bool, bool]:
    try:
        claims = parse_leaf(leaf)
    except MalformedError:
        return False, False
    chip = claims.hwid is not None and report.chip_id.startswith(claims.hwid)
    return chip or claims.kind == report.signing_key == "VLEK", dict(claims.tcb) == report.reported_tcb.parts


def _sort(files: Mapping[str, bytes]) -> tuple[list[AmdCertificate], list[bytes]]:
    """Every certificate and every revocation list among the files, in the order of their names."""
    certificates: list[AmdCertificate] = []
    lists: list[bytes] = []
    for name in sorted(files):
        data = files[name]
        if len(data) > MAX_FILE:
            continue
        stapled = _stapled(data)
        if stapled is not None:
            data_list = (stapled.vcek, *stapled.chain)
            if stapled.crl is not None:
                lists.append(stapled.crl)
        else:
            try:
                data_list = certificates_of(data)
            except MalformedError:
                data_list = ()
        found = [c for c in map(_parsed, data_list) if c is not None]
        certificates += found
        if not found and stapled is None and (listed := _crl_der(data)) is not None:
            lists.append(listed)
    return certificates, lists


def _stapled(data: bytes) -> AmdCollateral | None:
    if data.lstrip()[:1] != b"{":
        return None
    try:
        value = load_object(data, limit=MAX_FILE, what="collateral")
        inner = value.get("collateral", value)
        return AmdCollateral.parse(inner.get("amd", inner))
    except (MalformedError, AttributeError):
        return None


def _parsed(data: bytes) -> AmdCertificate | None:
    try:
        return parse_certificate(data)
    except MalformedError:
        return None


def _is_leaf(certificate: AmdCertificate) -> bool:
    return any(oid in certificate.extensions for oid in _LEAF_OIDS)


def _crl_der(data: bytes) -> bytes | None:
    """DER of one revocation list, or None; it is parsed where it is checked."""
    if data[:1] == b"\x30":
        return data if len(data) <= MAX_CRL else None
    begin, end = data.find(_CRL_BEGIN), data.find(_CRL_END)
    if begin < 0 or end < begin:
        return None
    try:
        return binascii.a2b_base64(b"".join(data[begin + len(_CRL_BEGIN) : end].split()), strict_mode=True)
    except ValueError:
        return None


def _list_for(leaf: AmdCertificate, lists: list[bytes], now: int, roots: Mapping[str, AmdRoot]) -> bytes | None:
    for root in roots.values():
        signers = [parse_certificate(data).subject for data in (root.ask, root.asvk)]
        if leaf.issuer in signers:
            subject = parse_certificate(root.ark).subject
            mine = [data for data in lists if subject in data]
            return max(mine, key=lambda data: _issued(data, now), default=None)
    return None


def _issued(data: bytes, now: int) -> int:
    """thisUpdate, or -1 for a list of after `now` or one that does not parse: a last choice."""
    try:
        issued = int(x509.load_der_x509_crl(data).last_update_utc.timestamp())
    except Exception:  # as broad as Sheet.run, for its reason
        return -1
    return issued if issued <= now else -1


def _claims(facts: SnpFacts, raw: bytes, policy: Policy) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "artifact": "snp-report",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "policy": policy.name,
        "policy_sha256": policy.digest,
        **facts.claims,
    }
    if facts.report_data is not None:
        claims["report_data"] = facts.report_data.hex()
    if facts.ends:
        claims["not_after"] = min(facts.ends)
    return claims
