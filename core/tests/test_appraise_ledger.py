# SPDX-License-Identifier: Apache-2.0
"""Evidence over a checkpoint: dated by its witnesses, in the log, on the history seen before; else refused."""

from __future__ import annotations

import pytest
from forge_bundle import ENDPOINT, NONCE, NOW, Forge
from forge_ledger import CASES, GOOD, LOG_KEY, PINNED, WITNESS_KEYS, Scene, pinned

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.policy import PRESETS, Policy
from teehouse_core.errors import LocalError


def refusing(scene: Scene) -> set[str]:
    return {check.id for check in scene.verdict().refusing}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_accepted(name: str) -> None:
    scene = GOOD[name]()
    verdict = scene.verdict()
    assert verdict.result == "accepted", list(verdict.refusing)
    assert verdict.accept().keyset.raw == scene.keyset


@pytest.mark.parametrize("name", CASES)
def test_each_fault_fails_its_own_checks(name: str) -> None:
    expected, make = CASES[name]
    assert refusing(make()) == expected


def test_each_ledger_check_can_be_the_only_one_that_fails() -> None:
    alone = {next(iter(failing)) for failing, _ in CASES.values() if len(failing) == 1}
    assert {check_id for check_id in CATALOGUE if check_id.startswith("ledger.")} <= alone


def test_evidence_is_as_old_as_the_cosignature_that_completed_the_quorum() -> None:
    accepted = Scene(signed={"w1.test": NOW - 500, "w2.test": NOW - 300, "w3.test": NOW - 100}).verdict().accept()
    assert accepted.evidence_time == NOW - 300
    assert accepted.not_after == NOW - 300 + 3600
    late = Scene(signed={"w1.test": NOW - 500, "w2.test": NOW + 30}).verdict().accept()
    assert late.evidence_time == NOW  # a witness whose clock is a little ahead makes nothing younger than now


def test_the_ledger_demanded_and_none_shown() -> None:
    policy = Scene(ledger=pinned(required=True)).client()
    verdict = appraise(Forge().bytes(), policy, NOW, endpoint=ENDPOINT, nonce=NONCE)
    failing = {check.id for check in verdict.refusing}
    assert failing == {"ledger.checkpoint", "ledger.quorum", "ledger.inclusion", "ledger.consistency"}


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_names_a_log_or_demands_one(preset: str) -> None:
    policy = Policy.preset(preset)
    assert policy.ledger.logs == ()
    assert not policy.ledger.required
    assert not policy.for_key_service().ledger.required


def test_a_policy_file_names_logs_and_witnesses() -> None:
    text = (
        f'base = "evaluate"\n[ledger]\nlogs = ["{LOG_KEY}"]\nwitnesses = {list(WITNESS_KEYS)!r}\nquorum = 2\n'
    ).replace("'", '"')
    assert Policy.load(text, "toml").ledger == PINNED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logs", '["x"]'),
        ("logs", f'["{WITNESS_KEYS[0].partition(" ")[2]}"]'),
        ("witnesses", f'["{LOG_KEY}"]'),
        ("witnesses", f'["{WITNESS_KEYS[0].partition(" ")[2]}"]'),
        ("quorum", "-1"),
        ("required", "1"),
        ("tlog", "1"),
    ],
)
def test_a_wrong_policy_says_what_to_type(field: str, value: str) -> None:
    with pytest.raises(LocalError) as refused:
        Policy.load(f"[ledger]\n{field} = {value}\n", "toml")
    assert refused.value.code in ("policy-value", "policy-field")
    assert refused.value.hint
