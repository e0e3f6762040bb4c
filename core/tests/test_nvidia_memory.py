# SPDX-License-Identifier: Apache-2.0
"""What the appraiser remembers of makers' signatures hides no change, and saves nothing that is a device's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import forge_nvidia as forge
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from teehouse_core.appraise import rimshelf, x509chain
from teehouse_core.appraise.artifacts.nvidia import verify_artifact
from teehouse_core.appraise.policy import Policy

NONCE = bytes(range(32))
EVALUATE = Policy.preset("evaluate")
FRESH_SIGNATURES = 9  # as the bench `verify` tells: report, two links, six revocation answers
ALL_SIGNATURES = 22


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    for cache in (x509chain.issued_by, x509chain._signed_digest, rimshelf._genuinely_sized):
        cache.cache_clear()


def verified() -> int:
    """Signatures that were computed since the memory was emptied, the report's own aside."""
    return x509chain.issued_by.cache_info().misses + x509chain._signed_digest.cache_info().misses


def look(number: int = 0, *, now: int = forge.NOW, nonce: bytes = NONCE, **changes: Any) -> Any:
    device = forge.gpu(number)
    answers = changes.get("answers") or forge.answers([device], since=now - forge.DAY + number)
    rims = changes.get("rims") or forge.rims([device])
    files: Mapping[str, bytes] = {
        **{f"{n}.xml": raw for n, raw in enumerate(rims)},
        **{f"{n}.der": raw for n, raw in enumerate(answers)},
    }
    return verify_artifact(
        device.report(nonce),
        chain=device.pem.encode(),
        collateral=files,
        nonce=NONCE,
        report_data=None,
        policy=EVALUATE,
        now=now,
    )


def refusing(verdict: Any) -> set[str]:
    return {check.id for check in verdict.refusing}


def test_another_device_has_all_its_own_signatures_checked() -> None:
    assert look(0).result == "accepted"
    first = verified()
    assert first + 1 == ALL_SIGNATURES  # the report's is never remembered
    assert look(1).result == "accepted"
    assert verified() - first + 1 == FRESH_SIGNATURES


def test_the_same_again_is_still_judged_by_the_clock() -> None:
    answers = forge.answers([forge.gpu()])
    assert look(answers=answers).result == "accepted"
    later = look(answers=answers, now=forge.NOW + 30 * forge.DAY)
    assert refusing(later) == {"gpu.certificate.revocation", "gpu.rim.revocation"}


def test_a_changed_answer_or_manifest_is_not_the_one_remembered() -> None:
    assert look(answers=forge.answers([forge.gpu()])).result == "accepted"
    device = forge.gpu()
    spoiled = []
    for answer in forge.answers([device]):
        raw = bytearray(answer)
        at = raw.index(b"\x18\x0f") + 16  # the last digit of producedAt, so its signature is another text's
        raw[at - 1] ^= 1
        spoiled.append(bytes(raw))
    assert refusing(look(answers=spoiled)) == {"gpu.certificate.revocation", "gpu.rim.revocation"}
    changed = [raw.replace(b"SIMULATED GH100", b"SIMULATED GH10O") for raw in forge.rims([device])]
    assert "gpu.rim.signature" in refusing(look(rims=changed))


def test_another_nonce_is_refused_whatever_is_remembered() -> None:
    assert look().result == "accepted"
    assert refusing(look(nonce=bytes(32))) == {"gpu.report.nonce"}


def test_a_signature_counts_for_its_signer_text_and_algorithm_only() -> None:
    made = forge.pki()
    answer = forge.ocsp_response(forge.gpu().chain[1])

    response = ocsp.load_der_ocsp_response(answer)
    signer, text, signature = response.certificates[0], response.tbs_response_bytes, response.signature
    for _ in range(2):
        assert x509chain.signed_by(signer, signature, text, hashes.SHA384())
        assert not x509chain.signed_by(signer, signature, text + b"\0", hashes.SHA384())
        assert not x509chain.signed_by(signer, signature, text, hashes.SHA256())
        assert not x509chain.signed_by(made.provisioner.certificate, signature, text, hashes.SHA384())
        assert not x509chain.signed_by(signer, signature[:-1], text, hashes.SHA384())


def test_a_manifest_of_unusual_size_is_read_but_not_kept() -> None:
    plain = forge.rims([forge.gpu()])
    padded = [raw.replace(b"</SoftwareIdentity>", b" " * 70_000 + b"</SoftwareIdentity>") for raw in plain]
    assert "gpu.rim.signature" in refusing(look(rims=padded))
    assert rimshelf._genuinely_sized.cache_info().currsize == 0
