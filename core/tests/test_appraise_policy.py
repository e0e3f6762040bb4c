# SPDX-License-Identifier: Apache-2.0
"""Policies: presets, files, errors with hints; and that verdict and acceptance have no other maker."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from teehouse_core.appraise import roots, verdict
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.policy import PRESETS, Policy, References
from teehouse_core.appraise.sheet import Sheet, failed, passed
from teehouse_core.appraise.verdict import FLOOR, Accepted, Check, Verdict
from teehouse_core.errors import EvidenceRefused, LocalError, StaleEvidence


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_their_own_json(name: str) -> None:
    policy = Policy.preset(name)
    assert policy.name == name
    again = Policy.load(json.dumps(policy.to_json()), "json")
    assert again == policy
    assert again.digest == policy.digest
    assert len(policy.digest) == 64


def test_presets_grow_stricter() -> None:
    evaluate, standard, strict = (Policy.preset(n) for n in ("evaluate", "standard", "strict"))
    assert evaluate.simulated_allowed
    assert not standard.simulated_allowed
    assert not strict.simulated_allowed
    assert "simulated" not in standard.platforms + strict.platforms
    assert strict.doors == ()
    assert set(standard.required_references) < set(strict.required_references)
    assert strict.max_evidence_age < standard.max_evidence_age
    assert len({p.digest for p in (evaluate, standard, strict)}) == 3


def test_defaults_are_standard() -> None:
    assert Policy() == Policy.preset("standard") == Policy.load("", "toml")


def test_toml_overrides_its_base() -> None:
    policy = Policy.load(
        f"""
        name = "my endpoint"
        base = "strict"
        tcb_statuses = ["UpToDate", "SWHardeningNeeded"]
        td_attributes = "0x0000000050000000"
        devices = []
        machines = ["{"ab" * 32}"]
        max_evidence_age = 60
        [references]
        mrtd = ["{"cd" * 48}"]
        image_sha256 = ["{"ef" * 32}"]
        release = ["0.1.0"]
        """,
        "toml",
    )
    assert policy.name == "my endpoint"
    assert policy.doors == ()
    assert policy.td_attributes == 0x50000000
    assert policy.references == References(mrtd=("cd" * 48,), image_sha256=("ef" * 32,), release=("0.1.0",))


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("simulated_alowed = true", "policy-field", "did you mean 'simulated_allowed'?"),
        ("zzz = 1", "policy-field", "fields are"),
        ("[references]\nmrdt = []", "policy-field", "did you mean 'mrtd'?"),
        ("[references]\nqqq = []", "policy-field", "reference values are"),
        ('[references]\nmrtd = ["AB"]', "policy-value", "lower-case hex SHA-384"),
        ('[references]\nrelease = [""]', "policy-value", "release names"),
        ("references = 1", "policy-value", "a table"),
        ('base = "lax"', "policy-preset", "strict"),
        ("base = 1", "policy-value", "preset"),
        ("name = 1", "policy-value", "text"),
        ("simulated_allowed = 1", "policy-value", "true or false"),
        ("max_evidence_age = true", "policy-value", "whole number"),
        ("max_evidence_age = 0", "policy-value", "whole number"),
        ("max_evidence_age = 86401", "policy-value", "whole number"),
        ("td_attributes = 16", "policy-value", "64 bits"),
        ('tcb_statuses = ["Revoked"]', "policy-value", "UpToDate"),
        ('machines = ["x"]', "policy-value", "PPID"),
        ('roles = ["node", "node"]', "policy-value", "each once"),
        ('suites = ["none"]', "policy-value", "mlkem"),
        ("devices = 1", "policy-value", "kind"),
        ('devices = [{kind="nvidia-gpu"}]', "policy-value", "kind"),
        ('devices = [{kind="nvidia-gpu", count=0}]', "policy-value", "count"),
        (
            'devices = [{kind="nvidia-gpu", count=1}, {kind="nvidia-gpu", count=2}]',
            "policy-value",
            "once",
        ),
        ('platforms = ["simulated"]', "policy-value", "both"),
        ("= 1", "policy-format", ""),
        ("x" * 300_000, "policy-format", None),
    ],
)
def test_mistakes_are_named(text: str, code: str, hint: str | None) -> None:
    with pytest.raises(LocalError) as caught:
        Policy.load(text, "toml")
    assert caught.value.code == code
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "form"),
    [("[]", "json"), ("{", "json"), ('{"name":"a","name":"b"}', "json"), ("", "yaml"), ("[" * 9999, "json")],
)
def test_files_that_are_no_policy(text: str, form: str) -> None:
    with pytest.raises(LocalError):
        Policy.load(text, form)


@given(st.text(max_size=200), st.sampled_from(["toml", "json"]))
def test_any_text_as_policy(text: str, form: str) -> None:
    with contextlib.suppress(LocalError):
        Policy.load(text, form)


def made(**changes: Any) -> Verdict:
    """A verdict as only the package itself can make one."""
    checks = [Check(i, "quote", "passed", "", "", "", "", "", True) for i in sorted(FLOOR["tdx"])]
    checks.append(Check("binding.endpoint", "binding", "passed", "", "", "", "", "", True))
    fields: dict[str, Any] = {
        "checks": tuple(checks),
        "tier": "hardware",
        "platform": "tdx",
        "policy": "00",
        "at": 10,
        "claims": {},
        "keyset": None,
        "bundle_sha256": "",
        "evidence_time": 10,
        "not_after": 20,
        "pinned_roots": True,
    }
    return Verdict(verdict._TOKEN, **{**fields, **changes})


def test_only_appraisal_makes_verdict_and_acceptance() -> None:
    with pytest.raises(LocalError):
        Verdict(object(), (), "hardware", "tdx", "", 0, {}, None, "", 0, 0, True)  # type: ignore[arg-type]
    with pytest.raises(LocalError):
        Accepted(None, None, "hardware", 0, 0, "", "")  # type: ignore[arg-type]
    accepted = made().accept()
    with pytest.raises((LocalError, TypeError, ValueError)):
        dataclasses.replace(accepted, not_after=99)
    with pytest.raises(LocalError):
        pickle.dumps(accepted)
    assert copy.copy(accepted) is accepted
    assert copy.deepcopy(accepted) is accepted
    with pytest.raises(dataclasses.FrozenInstanceError):
        accepted.not_after = 99  # type: ignore[misc]


def test_a_verdict_without_its_floor_refuses() -> None:
    whole = made()
    assert whole.result == "accepted"
    for gone in FLOOR["tdx"]:
        assert made(checks=tuple(c for c in whole.checks if c.id != gone)).result == "refused"
    assert made(checks=()).result == "refused"
    assert made(tier="none").result == "refused"
    assert made(platform="arm-cca").result == "refused"
    with pytest.raises(EvidenceRefused):
        made(checks=()).accept()


def test_ended_evidence_is_stale() -> None:
    with pytest.raises(StaleEvidence) as caught:
        made(not_after=10).accept()
    assert caught.value.code == "evidence-over"
    with pytest.raises(LocalError):
        made().check("no.such-check")


def test_sheet_writes_each_check_once_and_leaves_none_blank() -> None:
    sheet = Sheet()

    def explode() -> None:
        raise RuntimeError

    assert not sheet.run("tdx.dcap", explode)  # type: ignore[arg-type]
    assert sheet.write("tdx.pck.chain", passed("x" * 500))
    with pytest.raises(LocalError):
        sheet.write("tdx.dcap", failed("again"))
    checks = {check.id: check for check in sheet.finish()}
    assert checks["tdx.dcap"].state == "failed"
    assert len(checks["tdx.pck.chain"].claimed) == 200
    assert checks["binding.report-data"].refuses


def test_roots_are_what_their_names_say() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intel, simulated = roots.intel_root_for("tdx"), roots.intel_root_for("simulated")
    assert isinstance(intel, x509.Certificate)
    assert isinstance(simulated, x509.Certificate)
    assert "Intel SGX Root CA" in intel.subject.rfc4514_string()
    assert "SIMULATED" in simulated.subject.rfc4514_string()
    assert roots.root_der("sev-snp") is None
    assert roots.intel_root_for("sev-snp") is None


def test_specification_lists_exactly_the_checks_there_are() -> None:
    spec = (Path(__file__).resolve().parents[2] / "spec" / "03-evidence.md").read_text("utf-8")
    listed = re.findall(r"^\| `([a-z0-9.-]+)` \| [a-z]+ \| (?:yes|never|by policy)", spec, re.MULTILINE)
    assert listed == list(CATALOGUE)
