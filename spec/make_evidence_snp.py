# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  a case is one line, so that the table can be read
"""Vectors of SEV-SNP under TEST roots: single reports of versions 3 to 5 for Genoa and Turin, and whole bundles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from evidence_kit import Evidence, sentence, slug
from forge_snp import NOW, TEST_ROOTS, Forge
from test_snp_bundle import ENDPOINT, HOST_DATA, LOG, NONCE, POLICY, bundle
from test_snp_checks import BASE, CASES, GOOD, NEEDS_LEAF, Case

from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.policy import Policy
from teehouse_core.evidence.amd_collateral import AmdCollateral

# Cases of Genoa at version 5 that are shown for Turin, and for version 3, as well.
AGAIN = {
    "reserved word set", "changed after signing", "another chip's key", "leaf signed by another", "leaf ended", "intermediate revoked",
    "no list", "VLEK said, VCEK used", "committed above current", "no alias check", "provisional firmware", "debug", "migration agent",
    "policy bit 26 set", "VMPL 1", "another measurement", "another host data", "another machine",
}  # fmt: skip
OF_THE_LEAF = {"snp.leaf.format", "snp.chain.signatures", "snp.chain.dates", "snp.chain.revocation", "snp.product.allowed", "snp.leaf.csp-id"}  # fmt: skip


def roots() -> dict[str, Any]:
    """The TEST roots as a vector carries them."""
    return {"amd": {product: {"ark": r.ark, "ask": r.ask, "asvk": r.asvk} for product, r in TEST_ROOTS.items()}}


def report(
    name: str,
    expect: str,
    forged: Forge,
    policy: Policy = BASE,
    now: int = NOW,
    *,
    also: tuple[str, ...] = (),
    change: Callable[[bytes], bytes] = lambda raw: raw,
    **options: bytes,
) -> Evidence:
    def forge() -> dict[str, Any]:
        chain = AmdCollateral(b"", (forged.vcek(), *forged.chain)).to_dict()["chain"].encode()
        given: dict[str, Any] = {"artifact": change(forged.report()), "chain": chain, "roots": roots()}
        listed = forged.list()
        return given | ({} if listed is None else {"collateral": {"list.crl": listed}})

    what = "SNP report"
    description = f"{what}: {name}." if expect == "accept" else sentence(what, name)
    fixed = {"type": "snp-report", **options}
    return Evidence(f"snp-{slug(name)}", "snp", "artifact", description, expect, policy, now, forge, fixed, also)


def label(case: Case) -> str:
    return f"{case.forge.product} v{case.forge.version} {case.name}"


def reports() -> Iterator[Evidence]:
    for case in GOOD:
        yield report(f"good, {case.name}", "accept", case.forge, case.policy, case.now)
    for case in CASES:
        failing = sorted(case.failing)
        if len(failing) > 1:
            continue  # below, where it shows a check that cannot fail by itself
        yield report(label(case), f"reject/{failing[0]}", case.forge, case.policy, case.now)
        if case.name in AGAIN:
            turin = case.forge.but(product="Turin", hwid=None)
            yield report(label(dataclasses.replace(case, forge=turin)), f"reject/{failing[0]}", turin, case.policy)
            third = case.forge.but(version=3)
            yield report(label(dataclasses.replace(case, forge=third)), f"reject/{failing[0]}", third, case.policy)
    gone = tuple(sorted(NEEDS_LEAF - {"snp.leaf.format"}))
    for case in CASES:
        if case.failing == NEEDS_LEAF:
            yield report(label(case), "reject/snp.leaf.format", case.forge, case.policy, also=gone)
    bound = Forge(report_data=b"n" * 32 + bytes(32))
    fresh = dataclasses.replace(BASE, freshness_required=True)
    yield report("Genoa v5 with its nonce", "accept", bound, fresh, nonce=b"n" * 32)
    yield report(
        "Turin v3 with its report data",
        "accept",
        bound.but(product="Turin", version=3),
        fresh,
        report_data=b"n" * 32 + bytes(32),
    )
    yield report("Genoa v5 another nonce", "reject/artifact.report-data", bound, fresh, nonce=b"m" * 32)
    yield report(
        "Turin v5 other report data",
        "reject/artifact.report-data",
        bound.but(product="Turin"),
        fresh,
        report_data=bytes(64),
    )
    yield report("Genoa v5 freshness demanded, nothing given", "reject/artifact.report-data", bound, fresh)
    yield report("Genoa v6, of the future", "reject/unsupported", Forge(version=6))
    yield report("Genoa v0", "reject/unsupported", Forge(version=0))
    for name, change in (
        ("cut by a byte", lambda r: r[:-1]),
        ("cut to its signed part", lambda r: r[:0x2A0]),
        ("a byte too many", lambda r: r + b"\0"),
        ("empty", lambda r: r[:0]),
    ):
        yield report(f"Genoa v5 {name}", "malformed", Forge(), change=change)


def whole(
    name: str,
    expect: str,
    make: Callable[[], bytes],
    policy: Policy = POLICY,
    *,
    nonce: bytes = NONCE,
    endpoint: str = ENDPOINT,
    also: tuple[str, ...] = (),
    trusted: bool = True,
) -> Evidence:
    def forge() -> dict[str, Any]:
        return {"bundle": make()} | ({"roots": roots()} if trusted else {})

    what = "SNP node"
    description = f"{what}: {name}." if expect == "accept" else sentence(what, name)
    fixed = {"nonce": nonce, "endpoint": endpoint}
    return Evidence(f"snp-node-{slug(name)}", "snp", "appraise", description, expect, policy, NOW, forge, fixed, also)


def set_member(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for member in path[:-1]:
            document = document[member]
        document[path[-1]] = value

    return change


def nodes() -> Iterator[Evidence]:
    good = Forge(host_data=HOST_DATA)
    turin = good.but(product="Turin", version=3)
    yield whole("Genoa v5", "accept", lambda: bundle(good))
    yield whole("Turin v3", "accept", lambda: bundle(turin))
    yield whole(
        "VLEK where allowed", "accept", lambda: bundle(good.but(kind="VLEK")), snp_bundle(csp_ids=("CN=test.example",))
    )
    for product, forged in (("Genoa", good), ("Turin", turin)):
        yield whole(
            f"{product} report data of nothing", "reject/binding.report-data", lambda f=forged: bundle(f, bound=False)
        )
        yield whole(
            f"{product} HOST_DATA of nothing",
            "reject/workload.log.replay",
            lambda f=forged: bundle(f.but(host_data=bytes(32))),
        )
        yield whole(
            f"{product} log entries exchanged", "reject/workload.log.replay", lambda f=forged: bundle(f, log=LOG[::-1])
        )
        yield whole(f"{product} debug guest", "reject/snp.guest.debug", lambda f=forged: bundle(f.but(policy=0xB001F)))
        yield whole(
            f"{product} changed after signing",
            "reject/snp.report.signature",
            lambda f=forged: bundle(f.but(broken={0x140: b"\0"})),
        )
        yield whole(
            f"{product} intermediate revoked",
            "reject/snp.chain.revocation",
            lambda f=forged: bundle(f.but(revocation={"revoked": (0x10001,)})),
        )
        yield whole(
            f"{product} answer to another nonce", "reject/challenge.nonce", lambda f=forged: bundle(f), nonce=bytes(32)
        )
        yield whole(
            f"{product} for another endpoint",
            "reject/binding.endpoint",
            lambda f=forged: bundle(f),
            endpoint="ep-other",
        )
    yield whole(
        "list of another root",
        "reject/snp.chain.revocation",
        lambda: bundle(good.but(revocation={"issuer": "ARK-Turin"})),
    )
    yield whole("Milan", "reject/snp.product.allowed", lambda: bundle(good.but(product="Milan")))
    yield whole(
        "platform not accepted",
        "reject/policy.platform",
        lambda: bundle(good),
        dataclasses.replace(POLICY, platforms=("tdx",)),
    )
    yield whole(
        "under AMD's own roots",
        "reject/snp.leaf.format",
        lambda: bundle(good),
        trusted=False,
        also=tuple(sorted(NEEDS_LEAF - {"snp.leaf.format"})),
    )
    cut = {check_id for check_id, spec in CATALOGUE.items() if check_id.startswith("snp.") and spec.required}
    cut -= {"snp.report.format", *OF_THE_LEAF}
    also = tuple(sorted(cut | {"binding.report-data", "workload.log.replay", "policy.machine"}))
    edit = set_member("platform", "report", value="AAAA")
    yield whole("report that does not parse", "reject/snp.report.format", lambda: bundle(good, edit=edit), also=also)
    for name, amd in (
        ("list is no base64", {"vcek": "AAAA", "crl": "*"}),
        ("unknown member", {"vcek": "AAAA", "extra": ""}),
        ("chain is no PEM", {"vcek": "AAAA", "chain": "no PEM"}),
    ):
        change = set_member("collateral", "amd", value=amd)
        yield whole(f"collateral of AMD, {name}", "malformed", lambda e=change: bundle(good, edit=e))


def snp_bundle(**changes: Any) -> Policy:
    return dataclasses.replace(POLICY, snp=dataclasses.replace(POLICY.snp, **changes))


def vectors() -> Iterator[Evidence]:
    yield from reports()
    yield from nodes()
