# SPDX-License-Identifier: Apache-2.0
"""SNP evidence in a bundle: the log bound through HOST_DATA, the keyset through report data, the tier, the claims."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from forge_snp import NOW, TEST_ROOTS, Forge

from teehouse_core.appraise import technologies
from teehouse_core.appraise.anchors import PINNED
from teehouse_core.appraise.appraise import appraise, appraise_under
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.floors import FLOOR
from teehouse_core.appraise.policy import Policy, References
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.bundle import build_bundle, log_entry
from teehouse_core.evidence.replay import event_digest, host_data, replay, workload_events
from teehouse_core.wire import binding
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, Software, build_keyset, key_id
from teehouse_core.wire.labels import L
from teehouse_core.wire.suites import DEFAULT_SUITE

ENDPOINT, NODE, NONCE = "ep-1", "node-1", bytes(range(32))
POLICY = replace(Policy.preset("standard"), required_references=())
LOG = workload_events(
    release="0.1.0", image_sha256="aa" * 32, config_sha256="bb" * 32, weights_sha256="cc" * 32, model="tiny"
)
HOST_DATA = host_data(event_digest(event, content) for event, content in LOG)


def keyset() -> bytes:
    pk = secrets.token_bytes(1216)
    return build_keyset(
        role="node",
        endpoint=ENDPOINT,
        node=NODE,
        hpke=[HpkeKey(key_id(DEFAULT_SUITE, pk), DEFAULT_SUITE, pk, NOW, NOW + 3600)],
        sign=[],
        model=Model("tiny", "cc" * 32),
        software=Software("0.1.0", "aa" * 32, "bb" * 32),
        capabilities=Capabilities("none", "none", "none", ()),
        not_before=NOW,
        not_after=NOW + 3600,
    )


def bundle(
    forge: Forge | None = None,
    *,
    bound: bool = True,
    log: tuple[tuple[str, bytes], ...] = LOG,
    edit: Callable[[dict[str, Any]], None] = lambda d: None,
) -> bytes:
    keys = keyset()
    data = binding.report_data(Keyset.parse(keys).digest, binding.devices_digest([]), binding.challenge(1, NONCE))
    forge = (forge or Forge(host_data=HOST_DATA)).but(report_data=data if bound else bytes(64))
    document = json.loads(
        build_bundle(
            endpoint=ENDPOINT,
            node=NODE,
            keyset=keys,
            challenge_kind=1,
            challenge_value=NONCE,
            platform_type="sev-snp",
            report=forge.report(),
            workload_log=[log_entry(event, content) for event, content in log],
            collateral={"amd": forge.collateral().to_dict()},
        )
    )
    edit(document)
    return json.dumps(document).encode()


TRUSTING = replace(PINNED, amd=lambda _: TEST_ROOTS)


def verdict_of(data: bytes, policy: Policy = POLICY) -> Verdict:
    return appraise_under(TRUSTING, data, policy, NOW, endpoint=ENDPOINT, nonce=NONCE)


def refusing(verdict: Verdict) -> set[str]:
    return {check.id for check in verdict.refusing}


def test_good_bundle_is_accepted() -> None:
    verdict = verdict_of(bundle())
    assert refusing(verdict) == set()
    assert (verdict.result, verdict.tier) == ("accepted", "simulated")
    assert (verdict.evidence_time, verdict.not_after) == (NOW, NOW + 3600)
    with pytest.raises(LocalError):
        verdict.accept()
    assert [check.id for check in verdict.checks] == list(CATALOGUE)
    states = {check.id: check.state for check in verdict.checks}
    assert states["tdx.quote.format"] == states["tpm.quote.format"] == "not-applicable"
    cpu = json.loads(json.dumps(verdict.to_json()))["claims"]["submods"]["cpu0"]
    assert (cpu["product"], cpu["signing_key"], cpu["revocation"], cpu["report_version"]) == (
        "Genoa",
        "VCEK",
        "good",
        5,
    )


def test_what_binds_a_bundle() -> None:
    good = Forge(host_data=HOST_DATA)
    assert refusing(verdict_of(bundle(bound=False))) == {"binding.report-data"}
    assert refusing(verdict_of(bundle(Forge(host_data=bytes(32))))) == {"workload.log.replay"}
    other = workload_events(
        release="0.1.0", image_sha256="aa" * 32, config_sha256="bb" * 32, weights_sha256="cc" * 32, model="huge"
    )
    assert refusing(verdict_of(bundle(log=other))) == {"workload.log.replay", "binding.model"}
    assert refusing(verdict_of(bundle(edit=lambda d: d.pop("collateral")))) >= {
        "snp.leaf.format",
        "snp.report.signature",
    }
    assert refusing(verdict_of(bundle(good), replace(POLICY, platforms=("tdx",)))) == {"policy.platform"}
    debug = good.but(policy=0xB001F)
    assert refusing(verdict_of(bundle(debug))) == {"snp.guest.debug"}
    milan = good.but(product="Milan")
    assert refusing(verdict_of(bundle(milan))) == {"snp.product.allowed"}
    cut = verdict_of(bundle(edit=lambda d: d["platform"].update(report="AAAA")))
    assert {"snp.report.format", "binding.report-data", "workload.log.replay"} <= refusing(cut)


def test_standard_demands_a_measurement() -> None:
    events = {name: (value.decode(),) for name, value in LOG if name in ("image_sha256", "weights_sha256")}
    standard = Policy.preset("standard")
    listed = replace(standard, references=References(**events))
    assert refusing(verdict_of(bundle(), listed)) == {"snp.reference.measurement"}
    listed = replace(standard, references=References(measurement=("11" * 48,), **events))
    assert refusing(verdict_of(bundle(), listed)) == set()


def test_a_verdict_ends_with_the_revocation_list() -> None:
    forge = Forge(host_data=HOST_DATA, revocation={"next_update": NOW + 77})
    assert verdict_of(bundle(forge)).not_after == NOW + 77


def test_test_evidence_is_nothing_under_amds_roots() -> None:
    verdict = appraise(bundle(), POLICY, NOW, endpoint=ENDPOINT, nonce=NONCE)
    assert verdict.tier == "none"
    assert "snp.leaf.format" in refusing(verdict)


def test_relabelled_as_tdx_has_no_tier() -> None:
    verdict = verdict_of(bundle(edit=lambda d: d["platform"].update(type="tdx")), Policy.preset("evaluate"))
    assert (verdict.tier, verdict.result) == ("none", "refused")


@pytest.mark.parametrize(
    "amd",
    [
        {},
        {"vcek": "AA=="},
        {"vcek": 1},
        {"vcek": "AAAA", "extra": ""},
        {"vcek": "AAAA", "chain": "x" * 40_000},
        {"vcek": "AAAA", "chain": "ü"},
        {"vcek": "AAAA", "chain": "no PEM"},
        {"vcek": "AAAA", "crl": "*"},
        {"vcek": "A" * 12_000},
    ],
)
def test_malformed_amd_collateral_is_malformed(amd: dict[str, Any]) -> None:
    if amd == {"vcek": "AA=="}:
        assert verdict_of(bundle(edit=lambda d: d["collateral"].update(amd=amd))).result == "refused"
        return
    with pytest.raises(MalformedError):
        verdict_of(bundle(edit=lambda d: d["collateral"].update(amd=amd)))


def test_host_data_stands_for_the_log_in_order() -> None:
    digests = [event_digest(event, content) for event, content in LOG]
    assert hashlib.sha256(L("host-data") + replay(digests)).digest() == host_data(digests)
    assert host_data(digests) != host_data(reversed(digests))
    assert len(host_data([])) == 32


def test_every_technology_has_a_floor_of_its_own_checks() -> None:
    assert set(technologies.TECHNOLOGIES) == set(FLOOR)
    for kind, technology in technologies.TECHNOLOGIES.items():
        assert FLOOR[kind] <= set(technologies.check_ids(kind))
        assert technology.chain_check in FLOOR[kind]
