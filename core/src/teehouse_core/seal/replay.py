# SPDX-License-Identifier: Apache-2.0
"""Replay memory and node time (PROTOCOL §5): a full set refuses, it never forgets early; time never runs back."""

from __future__ import annotations

import heapq
import threading

from teehouse_core.errors import LocalError, OperatorError, RequestRefused

__all__ = ["DEFAULT_CAPACITY", "NodeTime", "SeenSet"]

DEFAULT_CAPACITY = 1 << 20  # entries of about 200 bytes; at 300 s lifetime this is 3,500 requests a second


class SeenSet:
    """Transcript hashes of opened requests, each kept until its `expires_at` has passed.

    It keeps the latest time it was told: whoever comes with an older one (a request that waited in a queue or a thread
    while others went by) is refused when its entry may have been forgotten already. Safe to share between threads.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise LocalError("a seen set needs room", code="out-of-range")
        self._capacity = capacity
        self._seen: set[bytes] = set()
        self._queue: list[tuple[int, bytes]] = []
        self._latest = 0  # Unix seconds
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def contains(self, th: bytes) -> bool:
        return th in self._seen

    def add(self, th: bytes, expires_at: int, now: int) -> None:
        """Remember `th`. Raises RequestRefused (replayed, expired) or OperatorError (full: no eviction)."""
        with self._lock:
            if th in self._seen:
                raise RequestRefused("replayed")
            self._latest = max(self._latest, now)
            if expires_at < self._latest:
                raise RequestRefused("expired")
            while self._queue and self._latest > self._queue[0][0]:
                self._seen.discard(heapq.heappop(self._queue)[1])
            if len(self._seen) >= self._capacity:
                raise OperatorError("the replay memory is full", code="replay-memory-full")
            self._seen.add(th)
            heapq.heappush(self._queue, (expires_at, th))


class NodeTime:
    """T = max(previous T, wall, start + monotonic): the host's clock can cause refusals, never a second acceptance."""

    def __init__(self, wall: float, monotonic: float) -> None:
        self._start = wall - monotonic
        self._last = wall
        self._lock = threading.Lock()  # a slow thread must not write an older time over a newer one

    def now(self, wall: float, monotonic: float) -> int:
        """Node time in Unix seconds, given both clocks in seconds."""
        with self._lock:
            self._last = max(self._last, wall, self._start + monotonic)
            return int(self._last)
