# SPDX-License-Identifier: Apache-2.0
"""One relay per request id and attempt."""

from __future__ import annotations

import pytest

from teehouse_cloud.gateway.once import KEEP_SECONDS, RelayOnce


def test_a_request_id_is_relayed_once() -> None:
    once = RelayOnce()
    assert once.claim("a", "id", 0, 0.0) is None
    assert once.claim("a", "id", 0, 1.0) == "replayed"
    assert once.claim("b", "id", 0, 1.0) is None
    assert once.claim("a", "other", 0, 1.0) is None


def test_a_retry_needs_an_unknown_key_and_comes_once() -> None:
    once = RelayOnce()
    once.claim("a", "id", 0, 0.0)
    assert once.claim("a", "id", 1, 1.0) == "replayed"
    once.answered_unknown_key("a", "id")
    assert once.claim("a", "id", 0, 1.0) == "replayed"
    assert once.claim("a", "id", 1, 1.0) is None
    assert once.claim("a", "id", 1, 2.0) == "replayed"


def test_a_retry_whose_first_attempt_went_elsewhere_counts_as_the_first() -> None:
    once = RelayOnce()
    assert once.claim("a", "id", 1, 0.0) is None
    assert once.claim("a", "id", 1, 0.0) == "replayed"
    assert once.claim("a", "id", 0, 0.0) == "replayed"


@pytest.mark.parametrize(("later", "answer"), [(KEEP_SECONDS, "replayed"), (KEEP_SECONDS + 1, None)])
def test_ids_are_kept_for_longer_than_a_node_accepts_them(later: float, answer: str | None) -> None:
    once = RelayOnce()
    once.claim("a", "id", 0, 0.0)
    assert once.claim("a", "id", 0, later) == answer


def test_a_full_memory_refuses_and_forgets_nothing() -> None:
    once = RelayOnce(capacity=1)
    once.claim("a", "one", 0, 0.0)
    assert once.claim("a", "two", 0, 1.0) == "unavailable"
    assert once.claim("a", "one", 0, 1.0) == "replayed"
    once.answered_unknown_key("a", "never seen")
