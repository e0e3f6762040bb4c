# SPDX-License-Identifier: Apache-2.0
"""Bundles of type `tpm`: accepted when right, refused by exactly one named check when one thing is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from forge_tpm import (
    AK_ATTRIBUTES,
    EVENTS,
    NOW,
    Chain,
    TpmBundle,
    ecc_key,
    log,
    quote,
    rsa_key,
    secure_boot_variable,
    sign,
)

from teehouse_core.appraise import roots_tpm
from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.appraise.under_test_roots import anchors_for_tests, appraise_under_test_roots
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import LocalError
from teehouse_core.evidence.jsontext import b64_text


def policy_for(forged: TpmBundle, **tpm: Any) -> Policy:
    table = {"references": forged.references, "attestation_keys": (forged.pin,), **tpm}
    return dataclasses.replace(
        Policy.preset("standard"), platforms=("tpm",), required_references=(), tpm=TpmPolicy(**table)
    )


def verdict_of(
    forged: TpmBundle, policy: Policy | None = None, nonce: bytes | None = None, chain: Chain | None = None
) -> Verdict:
    """With `chain`, its root stands in for the pinned ones."""
    policy, nonce = policy or policy_for(forged), nonce or forged.nonce
    if chain is None:
        return appraise(forged.build(), policy, NOW, endpoint="ep-1", nonce=nonce)
    anchors = anchors_for_tests(vtpm=(chain.root,))
    return appraise_under_test_roots(anchors, forged.build(), policy, NOW, endpoint="ep-1", nonce=nonce)


def refusing(verdict: Verdict) -> list[str]:
    return [check.id for check in verdict.refusing]


@pytest.mark.parametrize("make", [ecc_key, rsa_key])
def test_a_right_bundle_is_accepted_as_vtpm(make: Any) -> None:
    verdict = verdict_of(TpmBundle(key=make()))
    assert refusing(verdict) == []
    assert (verdict.result, verdict.tier) == ("accepted", "vtpm")
    accepted = verdict.accept()
    assert accepted.tier == "vtpm"
    cpu = verdict.claims["submods"]["cpu0"]
    assert cpu["secure_boot"] is True
    assert cpu["tpm_resets"] == 3


def test_no_preset_knows_the_type() -> None:
    for name in ("standard", "strict", "evaluate"):
        assert "policy.platform" in refusing(verdict_of(TpmBundle(), Policy.preset(name)))


def test_a_policy_that_lists_no_values_refuses() -> None:
    forged = TpmBundle()
    assert refusing(verdict_of(forged, policy_for(forged, references=()))) == ["tpm.reference.pcrs"]
    assert verdict_of(forged, policy_for(forged, references=(), references_required=False)).result == "accepted"


OTHER = ec.derive_private_key(7, ec.SECP256R1())
LYING_LOG = (*EVENTS[:-1], (9, 0xD, b"another kernel"))


@pytest.mark.parametrize(
    ("changes", "check_id"),
    [
        ({"signed_by": OTHER}, "tpm.quote.signature"),
        ({"bank": "sha1"}, "tpm.quote.signature"),
        ({"extra": bytes(32)}, "binding.report-data"),
        ({"changed_pcrs": {4: bytes(32)}}, "tpm.quote.pcr-digest"),
        ({"attributes": AK_ATTRIBUTES & ~(1 << 16)}, "tpm.ak.attributes"),
        ({"attributes": AK_ATTRIBUTES & ~(1 << 1)}, "tpm.ak.attributes"),
        ({"attributes": AK_ATTRIBUTES | (1 << 17)}, "tpm.ak.attributes"),
        ({"log_events": LYING_LOG}, "tpm.log.replay"),
        ({"event_log": b"\0" * 31}, "tpm.log.format"),
        ({"aux": {"ak_chain": "-----BEGIN"}}, "tpm.ak.chain"),
    ],
)
def test_one_thing_wrong_refuses(changes: dict[str, Any], check_id: str) -> None:
    forged = TpmBundle(**changes)
    verdict = verdict_of(forged)
    assert verdict.result == "refused"
    failed = [check.id for check in verdict.refusing if check.state == "failed"]
    assert failed == [check_id] or (failed == [] and check_id in refusing(verdict))


def test_a_log_digest_that_is_not_its_datas_refuses() -> None:
    right = log(EVENTS)
    wrong = right.replace(secure_boot_variable(True), secure_boot_variable(False))
    assert wrong != right
    assert refusing(verdict_of(TpmBundle(event_log=wrong))) == ["tpm.log.digests"]


def test_a_register_that_the_quote_must_cover_is_missing() -> None:
    forged = TpmBundle(pcrs=(*range(7), 15))
    references = tuple(r for r in forged.references if not r.startswith("7="))
    verdict = verdict_of(forged, policy_for(forged, references=references))
    assert refusing(verdict) == ["tpm.quote.selection"]


def test_an_unknown_key_is_nobodys() -> None:
    forged = TpmBundle()
    verdict = verdict_of(forged, policy_for(forged, attestation_keys=()))
    assert refusing(verdict) == ["tpm.ak.trust"]
    assert verdict.tier == "none"


def test_another_value_than_the_policys_refuses() -> None:
    forged = TpmBundle()
    wrong = ("4=" + "0" * 64,)
    assert refusing(verdict_of(forged, policy_for(forged, references=wrong))) == ["tpm.reference.pcrs"]
    several = policy_for(forged, references=(*wrong, *forged.references))
    assert verdict_of(forged, several).result == "accepted"


def test_another_nonce_refuses() -> None:
    assert refusing(verdict_of(TpmBundle(), nonce=bytes(32))) == ["challenge.nonce"]


def test_a_workload_log_that_pcr_15_does_not_hold_refuses() -> None:
    forged = TpmBundle(events=(*EVENTS, (15, 0xD, b"something before the node")))
    assert "workload.log.replay" in refusing(verdict_of(forged))


def test_the_log_and_secure_boot_can_be_demanded() -> None:
    bare = TpmBundle(event_log=None)
    assert verdict_of(bare).result == "accepted"
    assert set(refusing(verdict_of(bare, policy_for(bare, log_required=True)))) == {
        "tpm.log.format",
        "tpm.log.digests",
        "tpm.log.replay",
    }
    off = TpmBundle(
        events=tuple((7, 0x80000001, secure_boot_variable(False)) if i == 1 else e for i, e in enumerate(EVENTS))
    )
    assert refusing(verdict_of(off, policy_for(off, secure_boot_required=True))) == ["tpm.log.secure-boot"]


def test_a_chain_under_the_pinned_root_vouches() -> None:
    chain = Chain()
    forged = TpmBundle(aux={"ak_chain": chain.pem.decode("ascii")})
    policy = policy_for(forged, attestation_keys=())
    assert "tpm.ak.chain" in refusing(verdict_of(forged, policy))  # a TEST root is pinned nowhere
    verdict = verdict_of(forged, policy, chain=chain)
    assert verdict.tier == "simulated"
    assert refusing(verdict) == []
    assert verdict.not_after <= NOW + 86400
    assert verdict.check("tpm.ak.revocation").state == "skipped"
    demanding = policy_for(forged, revocation_required=True)
    assert refusing(verdict_of(forged, demanding, chain=chain)) == ["tpm.ak.revocation"]
    for extra in ({"aik": False, "usage_encipher": True}, {"start": NOW + 60}):
        bad = Chain(extra=extra)
        broken = TpmBundle(aux={"ak_chain": bad.pem.decode("ascii")})
        assert refusing(verdict_of(broken, chain=bad)) == ["tpm.ak.chain"]
    foreign = Chain(key=OTHER)
    other = TpmBundle(aux={"ak_chain": foreign.pem.decode("ascii")})
    assert refusing(verdict_of(other, chain=foreign)) == ["tpm.ak.chain"]


def test_a_quote_of_another_kind_never_parses() -> None:
    forged = TpmBundle()
    for raw in (
        quote(bytes(32), bytes(32), magic=0xFF544348),
        quote(bytes(32), bytes(32), kind=0x8017),
        quote(bytes(32), bytes(32)) + b"\0",
        quote(bytes(32), bytes(32), selections=struct.pack(">I", 9)),
    ):
        bundle = forged.build().replace(b64_text(_report(forged)).encode(), b64_text(raw).encode())
        verdict = appraise(bundle, policy_for(forged), NOW, nonce=forged.nonce)
        assert verdict.check("tpm.quote.format").state == "failed"


def _report(forged: TpmBundle) -> bytes:
    from teehouse_core.evidence.bundle import Bundle

    return Bundle.parse(forged.build()).platform.report


def test_the_policy_table_reads_back_and_explains_itself() -> None:
    text = 'platforms = ["tpm"]\n[tpm]\npcrs = [0, 7]\nreferences = ["7=' + "a" * 64 + '"]\nlog_required = true\n'
    policy = Policy.load(text, "toml")
    assert policy.tpm.pcrs == (0, 7)
    assert policy.tpm.log_required
    for bad in ("[tpm]\npcrs = [24]\n", '[tpm]\nreferences = ["24=aa"]\n', "[tpm]\nlogs = true\n"):
        with pytest.raises(LocalError):
            Policy.load(bad, "toml")


def test_the_pinned_roots_are_what_their_text_says() -> None:
    from cryptography.hazmat.primitives import hashes

    digests = [root.fingerprint(hashes.SHA256()).hex() for root in roots_tpm.vtpm_roots_for("tpm")]
    source = roots_tpm.__file__
    with open(source, encoding="utf-8") as file:
        text = file.read()
    assert all(f"SHA-256 {digest}" in text for digest in digests)
    assert roots_tpm.vtpm_roots_for("sev-snp") == ()


def test_signatures_of_the_wrong_kind_are_false() -> None:
    from teehouse_core.appraise.checks_tpm import verify_signature
    from teehouse_core.evidence.tpm import parse_signature

    data = b"data"
    for scheme in ("rsassa", "rsapss"):
        signature = parse_signature(sign(rsa_key(), data, scheme=scheme, bank="sha384"))
        assert verify_signature(rsa_key().public_key(), signature, data)
        assert not verify_signature(rsa_key().public_key(), signature, data + b"!")
        assert not verify_signature(ecc_key().public_key(), signature, data)
    ecdsa = parse_signature(sign(ecc_key(), data))
    assert not verify_signature(rsa_key().public_key(), ecdsa, data)
    assert hashlib.sha256(data).digest() != data
