# SPDX-License-Identifier: Apache-2.0
"""Challenge kind 3 has a place of its own: what the key service takes no client takes, and the other way round."""

from __future__ import annotations

import pytest
from forge_bundle import ENDPOINT, EVALUATE, NONCE, NOW, Forge

from teehouse_core.appraise.appraise import RELEASE_CHALLENGE_SIZE, appraise, appraise_release
from teehouse_core.errors import LocalError

CHALLENGE = bytes(range(RELEASE_CHALLENGE_SIZE))


def refusing(verdict: object) -> list[str]:
    return [check.id for check in verdict.refusing]  # type: ignore[attr-defined]


def test_kind_3_is_accepted_where_the_key_service_asks() -> None:
    bundle = Forge(kind=3, value=CHALLENGE).bytes()
    verdict = appraise_release(bundle, EVALUATE, NOW, endpoint=ENDPOINT, challenge=CHALLENGE)
    assert verdict.result == "accepted"
    assert verdict.accept().evidence_time == NOW


def test_each_kind_is_refused_in_the_others_place() -> None:
    release, interactive = Forge(kind=3, value=CHALLENGE).bytes(), Forge().bytes()
    at_client = appraise(release, EVALUATE, NOW, endpoint=ENDPOINT, nonce=NONCE)
    assert refusing(at_client) == ["challenge.kind", "challenge.nonce"]
    at_service = appraise_release(interactive, EVALUATE, NOW, endpoint=ENDPOINT, challenge=CHALLENGE)
    assert refusing(at_service) == ["challenge.kind", "challenge.nonce"]
    cacheable = Forge(kind=2, value=CHALLENGE).bytes()
    verdict = appraise_release(cacheable, EVALUATE, NOW, endpoint=ENDPOINT, challenge=CHALLENGE)
    assert refusing(verdict) == ["challenge.kind", "challenge.nonce"]


@pytest.mark.parametrize("at", [0, 31, 32, 63])
def test_both_halves_of_the_challenge_count(at: int) -> None:
    other = bytes([*CHALLENGE[:at], CHALLENGE[at] ^ 1, *CHALLENGE[at + 1 :]])
    bundle = Forge(kind=3, value=other).bytes()
    verdict = appraise_release(bundle, EVALUATE, NOW, endpoint=ENDPOINT, challenge=CHALLENGE)
    assert refusing(verdict) == ["challenge.nonce"]


def test_a_challenge_has_64_bytes() -> None:
    with pytest.raises(LocalError) as refused:
        appraise_release(Forge(kind=3, value=CHALLENGE).bytes(), EVALUATE, NOW, challenge=NONCE)
    assert refused.value.code == "nonce-size"
