# SPDX-License-Identifier: Apache-2.0
"""A vTPM key that is known to be revoked refuses, also where the policy can live with not knowing."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from forge_tpm import EVENTS, NOW, PCRS, Chain, crl, digest_of, log, public, quote, replayed, sign

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.under_test_roots import anchors_for_tests, verify_under_test_roots
from teehouse_core.evidence.tpm import encode_pcrs

NONCE = bytes(range(32))


def judged(chain: Chain, lists: dict[str, bytes], *, required: bool) -> ArtifactVerdict:
    values = {index: value for index, value in replayed(EVENTS, range(24)).items() if index in PCRS}
    raw = quote(NONCE, digest_of(values))
    document = {
        "quote": {
            "message": raw.hex(),
            "signature": sign(chain.key, raw).hex(),
            "pcrs": json.loads(encode_pcrs({"sha256": values})),
        },
        "ak": public(chain.key).hex(),
        "event_log": log(EVENTS).hex(),
        "ak_chain": chain.pem.decode(),
    }
    text = f'base = "evaluate"\nplatforms = ["tpm"]\n[tpm]\nrevocation_required = {str(required).lower()}\n'
    root = x509.load_der_x509_certificate(chain.root.public_bytes(Encoding.DER))
    return verify_under_test_roots(
        anchors_for_tests(vtpm=(root,)),
        "tpm-quote",
        json.dumps(document).encode(),
        collateral=lists,
        nonce=NONCE,
        policy=Policy.load(text, "toml"),
        now=NOW,
    )


def state(verdict: ArtifactVerdict) -> tuple[str, bool]:
    check = next(one for one in verdict.checks if one.id == "tpm.ak.revocation")
    return check.state, check.refuses


def test_known_to_be_revoked_refuses_under_any_policy() -> None:
    chain = Chain()
    assert chain.leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    lists = {
        "a.crl": crl(chain.ca, chain.ca_key, [chain.leaf.serial_number]),
        "b.crl": crl(chain.root, chain.root_key),
    }
    for required in (False, True):
        assert state(judged(chain, lists, required=required)) == ("failed", True)


@pytest.mark.parametrize("required", [False, True])
def test_not_knowing_is_the_policys_matter(required: bool) -> None:
    assert state(judged(Chain(), {}, required=required)) == ("skipped", required)


def test_known_to_be_good_passes() -> None:
    chain = Chain()
    lists = {"a.crl": crl(chain.ca, chain.ca_key), "b.crl": crl(chain.root, chain.root_key)}
    assert state(judged(chain, lists, required=True)) == ("passed", False)
