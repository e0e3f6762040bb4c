# SPDX-License-Identifier: Apache-2.0
"""A pool is accepted on its key service's evidence and release policy alone; what is spoilt fails as it should."""

from __future__ import annotations

import dataclasses

import pytest
from forge_bundle import ENDPOINT, EVALUATE, NONCE, NOW, Forge, keyset
from forge_pool import CASES, MEMBERS, Scene, released, sign_key

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.floors import POOL_FLOOR
from teehouse_core.appraise.policy import PRESETS, Policy
from teehouse_core.appraise.policy_gpu import DeviceDemand
from teehouse_core.appraise.policy_snp import SnpPolicy, TcbMinimum
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.appraise.pool import appraise_pool
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.appraise.strength import ORDERED, weaker_fields
from teehouse_core.errors import MalformedError, StaleEvidence
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.pool import SignedPool


def refusing(scene: Scene) -> set[str]:
    return {check.id for check in scene.verdict().refusing}


def test_a_pool_is_accepted_and_names_no_node() -> None:
    scene = Scene()
    verdict = scene.verdict()
    assert verdict.result == "accepted", list(verdict.refusing)
    accepted = verdict.accept()
    assert accepted.keyset.role == "pool"
    assert accepted.service is not None
    assert accepted.service.sign == (sign_key(),)
    assert accepted.tier == "simulated"
    assert accepted.not_after == NOW + 900
    assert verdict.claims["pool"]["statement"] == "pool: any node that satisfies policy members-1"
    assert verdict.claims["node"] == ""
    assert verdict.to_json()["claims"]["key_service"]["node"] == "tks-1"


@pytest.mark.parametrize("name", CASES)
def test_each_fault_fails_its_own_checks(name: str) -> None:
    expected, make = CASES[name]
    assert refusing(make()) == expected


def test_every_pool_check_can_be_the_only_one_and_is_part_of_the_floor() -> None:
    alone = {next(iter(failing)) for failing, _ in CASES.values() if len(failing) == 1}
    ids = {check_id for check_id in CATALOGUE if check_id.startswith("pool.")}
    assert ids <= alone
    assert ids == POOL_FLOOR


def test_without_a_nonce_nothing_is_sealed_to() -> None:
    scene = Scene(nonce=None, policy={"freshness_required": False})
    with pytest.raises(StaleEvidence):
        scene.verdict().accept()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_accepts_a_pool(preset: str) -> None:
    scene = Scene()
    verdict = appraise_pool(
        scene.pool().encode(), scene.bundle(), Policy.preset(preset), NOW, endpoint=ENDPOINT, nonce=NONCE
    )
    assert {"pool.allowed", "pool.listed"} <= {check.id for check in verdict.refusing}


def test_a_pool_keyset_has_no_evidence_of_its_own() -> None:
    pool = Scene().pool().keyset
    bundle = Forge(keyset=pool, bundle=lambda d: d.update(node="")).bytes()
    policy = dataclasses.replace(EVALUATE, roles=("node", "pool"))
    verdict = appraise(bundle, policy, NOW, endpoint=ENDPOINT, nonce=NONCE)
    assert "binding.group" in {check.id for check in verdict.refusing}


def test_a_node_keyset_is_no_pool() -> None:
    with pytest.raises(MalformedError):
        SignedPool.parse(SignedPool(keyset(), bytes(64), b"{}").encode())


def test_a_policy_is_no_weaker_than_itself_and_presets_are_ordered() -> None:
    for preset in PRESETS:
        policy = Policy.preset(preset)
        assert weaker_fields(policy, policy) == ()
    strict, standard, evaluate = (Policy.preset(name) for name in ("strict", "standard", "evaluate"))
    assert weaker_fields(strict, standard) == ()
    assert weaker_fields(standard, evaluate) == ()
    assert set(weaker_fields(evaluate, standard)) == {
        "platforms",
        "simulated_allowed",
        "required_references",
        "tpm.references_required",
    }
    assert set(weaker_fields(standard, strict)) >= {"doors", "devices", "max_evidence_age", "max_collateral_age"}


def test_every_field_of_a_policy_has_an_order() -> None:
    tables = {"references", "gpu", "snp", "tpm"}
    for cls, orders in ORDERED.items():
        names = {field.name for field in dataclasses.fields(cls)} - (tables if cls is Policy else set())
        assert names <= set(orders), cls


def test_a_field_without_an_order_counts_as_weaker() -> None:
    @dataclasses.dataclass(frozen=True)
    class Later(Policy):
        invented: int = 0

    assert weaker_fields(Later(), Later()) == ("invented",)


@pytest.mark.parametrize(
    ("weaker", "stronger", "field"),
    [
        ({"platforms": ("tdx", "tpm")}, {"platforms": ("tdx",)}, "platforms"),
        ({"xfam_allowed": 0b111}, {"xfam_allowed": 0b011}, "xfam_allowed"),
        ({"td_attributes": 1}, {"td_attributes": 3}, "td_attributes"),
        ({"min_tcb_evaluation": 1}, {"min_tcb_evaluation": 2}, "min_tcb_evaluation"),
        ({"roles": ("node", "pool")}, {"roles": ("node", "pool")}, "roles"),
        ({"moderation": ("*",)}, {"moderation": ("none",)}, "moderation"),
        ({"machines": ("*",)}, {"machines": ("00" * 32,)}, "machines"),
        ({"devices": ()}, {"devices": (DeviceDemand("nvidia-gpu", 1),)}, "devices"),
        (
            {"devices": (DeviceDemand("nvidia-gpu", 2),)},
            {"devices": (DeviceDemand("nvidia-gpu", 1, "HOPPER"),)},
            "devices",
        ),
        (
            {"snp": SnpPolicy(tcb_minimum=(TcbMinimum("Turin", snp=3),))},
            {"snp": SnpPolicy(tcb_minimum=(TcbMinimum("Turin", snp=4),))},
            "snp.tcb_minimum",
        ),
        (
            {"snp": SnpPolicy(tcb_minimum=(TcbMinimum("Turin", snp=4),))},
            {"snp": SnpPolicy(tcb_minimum=(TcbMinimum("Turin", snp=4, cpuid="B00F21"),))},  # refuses other processors
            "snp.tcb_minimum",
        ),
        ({"snp": SnpPolicy(abi_minimum="1.9")}, {"snp": SnpPolicy(abi_minimum="1.55")}, "snp.abi_minimum"),
        ({"snp": SnpPolicy(launch_mitigations=1)}, {"snp": SnpPolicy(launch_mitigations=3)}, "snp.launch_mitigations"),
        ({"tpm": TpmPolicy(pcrs=(0, 1))}, {"tpm": TpmPolicy(pcrs=(0, 1, 2))}, "tpm.pcrs"),
        (
            {"tpm": TpmPolicy(references=("4=" + "00" * 32, "4=" + "11" * 32))},
            {"tpm": TpmPolicy(references=("4=" + "00" * 32,))},
            "tpm.references",
        ),
        ({"freshness_required": False}, {"freshness_required": True}, "freshness_required"),
    ],
)
def test_the_order_of_each_kind_of_field(weaker: dict, stronger: dict, field: str) -> None:  # type: ignore[type-arg]
    a, c = dataclasses.replace(Policy(), **weaker), dataclasses.replace(Policy(), **stronger)
    assert weaker_fields(a, c) == (field,)
    if field not in ("roles", "td_attributes", "devices"):
        assert weaker_fields(c, a) == ()


def test_a_release_policy_reads_back_and_is_complete() -> None:
    policy = released()
    again = ReleasePolicy.parse(policy.encode())
    assert again == policy
    assert again.sha256 == policy.sha256
    assert again.appraisal == MEMBERS


def test_pool_keys_live_for_15_minutes_at_most() -> None:
    pool = Keyset.parse(Scene().pool().keyset)
    assert pool.pool is not None
    assert pool.not_after - pool.not_before <= 900
