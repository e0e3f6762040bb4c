# SPDX-License-Identifier: Apache-2.0
"""Challenges of the key service: 32 random bytes, good once and for 60 seconds, in bounded memory (KEYS §2).

A full store refuses new challenges; it never forgets one that may still be used, since forgetting and accepting again
are the same thing for whoever replays. Used and ended ones are remembered for a while, only to say which it was.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

from teehouse_core.wire.grant import CHALLENGE_LIFE, CHALLENGE_SIZE
from teehouse_enclave.keys.errors import KeysError

__all__ = ["Challenges"]

_REMEMBERED = 300  # seconds after its end for which a challenge is still recognised


class Challenges:
    """One purpose's challenges; times are seconds of a clock that never goes back."""

    def __init__(self, capacity: int, life: float = CHALLENGE_LIFE) -> None:
        self._capacity = capacity
        self._life = life
        self._drawn: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()  # challenge → (end, used), oldest first

    def __len__(self) -> int:
        return len(self._drawn)

    def draw(self, now: float) -> bytes:
        """32 fresh bytes. Raises KeysError `over-limit` when too many are open."""
        self._forget(now)
        if len(self._drawn) >= self._capacity:
            raise KeysError("over-limit", "too many open challenges", hint="ask again in a minute")
        drawn = secrets.token_bytes(CHALLENGE_SIZE)
        self._drawn[drawn] = (now + self._life, False)
        return drawn

    def take(self, drawn: bytes, now: float) -> None:
        """Use one up, whatever comes of it. Raises KeysError `challenge-unknown`, `-used` or `-expired`."""
        found = self._drawn.get(drawn)
        if found is None:
            raise KeysError("challenge-unknown", "this challenge was not drawn here", hint="ask for a new challenge")
        end, used = found
        if used:
            raise KeysError("challenge-used", "this challenge was used before", hint="ask for a new challenge")
        self._drawn[drawn] = (end, True)
        if now >= end:
            raise KeysError("challenge-expired", "this challenge has ended", hint="answer within 60 seconds")

    def _forget(self, now: float) -> None:
        full = len(self._drawn) >= self._capacity
        while self._drawn:
            drawn, (end, _) = next(iter(self._drawn.items()))
            if now < (end if full else end + _REMEMBERED):
                break
            del self._drawn[drawn]
