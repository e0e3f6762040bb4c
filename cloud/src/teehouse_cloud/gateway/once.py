# SPDX-License-Identifier: Apache-2.0
"""One relay per (account, request_id, attempt): what keeps a client from asking twice under one bill (spec/02 §10.8).

The client chooses `request_id`, and a retry forced by `unknown-key` keeps it. So an attempt 1 goes through only when
attempt 0 was not relayed here, or was answered `unknown-key`. Counted per process; the ids are kept for longer than
any node accepts the request they came with.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["RelayOnce"]

KEEP_SECONDS = 660.0  # a node accepts a request for at most 300 s plus 60 s of clock slack; 300 s more for the retry
CAPACITY = 1 << 21  # requests remembered (3,000 a second), about 200 bytes each; full refuses, never forgets early


@dataclass(slots=True)
class _Seen:
    at: float
    attempts: set[int]
    unknown_key: bool = False


class RelayOnce:
    """Remembers what was relayed."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[tuple[str, str], _Seen] = OrderedDict()

    def claim(self, account: str, request_id: str, attempt: int, now: float) -> str | None:
        """None when this may be relayed now (and is remembered), else the wire code to refuse with."""
        self._forget(now)
        key = (account, request_id)
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= self._capacity:
                return "unavailable"
            self._seen[key] = _Seen(now, {attempt})
            return None
        if attempt in seen.attempts or attempt == 0 or not seen.unknown_key:
            return "replayed"
        seen.attempts.add(attempt)
        return None

    def answered_unknown_key(self, account: str, request_id: str) -> None:
        """Attempt 0 was answered `unknown-key`: its retry may come."""
        if (seen := self._seen.get((account, request_id))) is not None:
            seen.unknown_key = True

    def _forget(self, now: float) -> None:
        while self._seen:
            key, oldest = next(iter(self._seen.items()))
            if now - oldest.at <= KEEP_SECONDS:
                return
            del self._seen[key]
