# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  a case is one line, so that the table can be read
"""Vectors of single Intel quotes: TDX versions 4 and 5, SGX version 3, each wrong in one thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from evidence_kit import Evidence, sentence, slug
from forge_sgx import SgxQuote
from forge_tdx import NOW, REPORT_DATA, ForgedQuote, leaf_chain, stranger
from test_tdx_artifacts import CASES, EVALUATE, EXTENDED, LATER

from teehouse_core.appraise.policy import Policy
from teehouse_enclave.platform import simulated_pki

FIVE = ForgedQuote(version=5)
FORMS = (("v4", ForgedQuote()), ("v5", FIVE), ("v5-td15", LATER), ("v5-td15ex", EXTENDED))
# Of each check, the cases that are shown for version 5 and TD report 1.5 as well.
AGAIN = {
    "vendor", "signature of other bytes", "auth data not vouched for", "QE report signed by a stranger", "QE of another signer",
    "leaf signed by a stranger", "leaf revoked", "TCB info not signed", "QE identity not signed", "TCB info over", "TCB info of another machine",
    "module of another signer", "status OutOfDate", "an advisory", "debug", "attributes", "processor feature", "mrtd not referenced",
    "rtmr3 not referenced", "other report data",
}  # fmt: skip


def vector(
    name: str,
    expect: str,
    forged: ForgedQuote,
    policy: Policy = EVALUATE,
    *,
    also: tuple[str, ...] = (),
    change: Any = lambda raw: raw,
    what: str = "TDX quote",
    files: bool = True,
    **options: Any,
) -> Evidence:
    def forge() -> dict[str, Any]:
        given: dict[str, Any] = {"artifact": change(forged.quote())}
        return given | ({"collateral": forged.files()} if files else {})

    description = f"{what}: {name}." if expect == "accept" else sentence(what, name)
    return Evidence(
        id=f"tdx-{slug(name)}",
        family="tdx",
        stage="artifact",
        description=description,
        expect=expect,
        also=also,
        policy=policy,
        now=NOW,
        forge=forge,
        fixed={"type": "tdx-quote", **options},
    )


def quotes() -> Iterator[Evidence]:
    """The cases of the forge's own tests, for every form that they speak of."""
    for label, form in FORMS:
        yield vector(f"{label} right", "accept", form)
        yield vector(f"{label} with its report data", "accept", form, report_data=REPORT_DATA)
    series, week = f"tcb-info:TDX:{simulated_pki.FMSPC.hex()}", 7 * 86400
    newer = {series: [2, NOW - week - 1], "crl:00": [9, NOW]}
    yield vector("v4 older than collateral seen before", "reject/policy.collateral-newest", ForgedQuote(), newest=newer)
    yield vector("v4 older within the week", "accept", ForgedQuote(), newest={series: [2, NOW - week]})
    yield vector("v4 as new as collateral seen before", "accept", ForgedQuote(), newest={series: [1, NOW - 9 * week]})
    yield vector("v4 padded with zeros", "accept", ForgedQuote(tail=bytes(3000)))
    for case in CASES:
        made = [("v5-td15ex" if case.forged.extended else "v5-td15" if case.forged.later else "v4", case.forged)]
        if case.name in AGAIN:
            made += [("v5", case.forged.with_(version=5)), ("v5-td15", case.forged.with_(version=5, later=True))]
        for label, forged in made:
            name = f"{label} {case.name}"
            yield vector(name, f"reject/{case.failing}", forged, case.policy, **case.options)
    yield vector("v4 under a policy without simulated", "reject/tdx.pck.chain", ForgedQuote(),
                 dataclasses.replace(EVALUATE, platforms=("tdx",), simulated_allowed=False),
                 also=("tdx.pck.revocation", "tdx.collateral.tcb-info", "tdx.collateral.qe-identity"))  # fmt: skip
    missing = ("tdx.pck.revocation", "tdx.collateral.tcb-info", "tdx.collateral.qe-identity", "tdx.collateral.dates",
               "tdx.collateral.age", "tdx.collateral.evaluation", "tdx.tcb.fmspc", "tdx.tcb.level", "tdx.module.identity", "tdx.module.level",
               "tdx.qe.level", "tdx.tcb.status", "tdx.dcap", "tdx.tcb.advisories")  # fmt: skip
    yield vector(
        "v4 without collateral",
        "reject/tdx.qe.identity",
        ForgedQuote(),
        also=missing,
        files=False,
    )
    yield vector("v5-td15 of a body of the future", "reject/unsupported", LATER, change=lambda r: r[:48] + b"\5\0" + r[50:])  # fmt: skip


def malformed() -> Iterator[Evidence]:
    cases: tuple[tuple[str, ForgedQuote, Any], ...] = (
        ("v4 cut by a byte", ForgedQuote(), lambda r: r[:-1]),
        ("v4 cut to its signed part", ForgedQuote(), lambda r: r[:632]),
        ("v4 with bytes behind it", ForgedQuote(tail=b"\0x"), lambda r: r),
        ("v4 of version 6", ForgedQuote(), lambda r: b"\6" + r[1:]),
        ("v4 of another key type", ForgedQuote(), lambda r: r[:2] + b"\3" + r[3:]),
        ("v4 of another TEE type", ForgedQuote(), lambda r: r[:4] + b"\x82" + r[5:]),
        ("v5 body size of the other kind", FIVE, lambda r: r[:50] + (648).to_bytes(4, "little") + r[54:]),
        ("v5-td15 body called 1.0", LATER, lambda r: r[:48] + b"\2\0" + (648).to_bytes(4, "little") + r[54:]),
        ("v5-td15ex body called 1.5", EXTENDED, lambda r: r[:48] + b"\3\0" + r[50:]),
        ("v5-td15ex body a byte short", EXTENDED, lambda r: r[:50] + (884).to_bytes(4, "little") + r[54:]),
        ("v4 signature length one more", ForgedQuote(), lambda r: r[:632] + (int.from_bytes(r[632:636], "little") + 1).to_bytes(4, "little") + r[636:]),
        ("empty", ForgedQuote(), lambda r: r[:0]),
    )  # fmt: skip
    for name, forged, change in cases:
        yield vector(name, "malformed", forged, change=change)


def sgx() -> Iterator[Evidence]:
    """Enclaves have the same quoting enclave, chain and collateral; their own checks are two."""
    policy = dataclasses.replace(EVALUATE, platforms=("sgx",))
    what = "SGX quote"
    yield vector("sgx-v3 right", "accept", SgxQuote(), policy, what=what)
    cases = (
        ("sgx-v3 of an enclave that was not initialised", "sgx.enclave.init", SgxQuote(flags=0)),
        ("sgx-v3 of a debug enclave", "sgx.enclave.debug", SgxQuote(flags=3)),
        ("sgx-v3 changed after signing", "tdx.quote.signature", SgxQuote(broken=(64, b"\x45"))),
        ("sgx-v3 leaf signed by a stranger", "tdx.pck.chain", SgxQuote(parts={"pem_chain": leaf_chain(signer=stranger())})),
        ("sgx-v3 TCB info for TDX", "tdx.collateral.tcb-info", SgxQuote(tcb_info=lambda v: v.update(id="TDX"))),
        ("sgx-v3 QE identity of the TD QE", "tdx.collateral.qe-identity", SgxQuote(qe_identity=lambda v: v.update(id="TD_QE"))),
        ("sgx-v3 out of date", "tdx.tcb.status", SgxQuote(tcb_info=lambda v: v["tcbLevels"][0].update(tcbStatus="OutOfDate"))),
    )  # fmt: skip
    for name, check_id, forged in cases:
        yield vector(name, f"reject/{check_id}", forged, policy, what=what)
    yield vector("sgx-v3 where only TDs are accepted", "reject/policy.platform", SgxQuote(), what=what)


def vectors() -> Iterator[Evidence]:
    yield from quotes()
    yield from malformed()
    yield from sgx()
