# SPDX-License-Identifier: Apache-2.0
"""Bounds on what one client, and all clients together, may ask of this process. Counted per process."""

from __future__ import annotations

import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

__all__ = ["BodyBudget", "RateLimit", "Slots"]

PER_CLIENT_SHARE = 4  # one account may hold at most 1/4 of the body budget, so one slow uploader cannot shut out others


class RateLimit:
    """At most `rpm` events a minute for each name, by a sliding window."""

    def __init__(self, rpm: int) -> None:
        self._item: RateLimitItem = RateLimitItemPerMinute(rpm)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def hit(self, name: str) -> int:
        """Count one event; 0 when allowed, else the seconds (1…60) after which another try makes sense."""
        if self._limiter.hit(self._item, name):
            return 0
        return self._wait(name)

    def exhausted(self, name: str) -> int:
        """As `hit`, without counting."""
        return 0 if self._limiter.test(self._item, name) else self._wait(name)

    def _wait(self, name: str) -> int:
        reset = self._limiter.get_window_stats(self._item, name).reset_time
        return max(1, min(60, round(reset - time.time())))


class Slots:
    """At most `limit` things open at once for each name."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Open one; False when the name has no room."""
        count = self._open.get(name, 0)
        if count >= self._limit:
            return False
        self._open[name] = count + 1
        return True

    def give(self, name: str) -> None:
        """Close one."""
        count = self._open[name] - 1
        if count:
            self._open[name] = count
        else:
            del self._open[name]


class BodyBudget:
    """Bytes of requests held in memory, reserved by announced length before any of it is read."""

    def __init__(self, total: int, largest: int) -> None:
        self.total = max(total, largest)  # one request of the largest size must always fit
        self._per_client = max(self.total // PER_CLIENT_SHARE, largest)
        self._held: dict[str, int] = {}
        self.held = 0

    def room_for(self, name: str, size: int) -> str | None:
        """None when `size` bytes fit, else the wire code to refuse with."""
        if self._held.get(name, 0) + size > self._per_client:
            return "over-limit"
        if self.held + size > self.total:
            return "unavailable"
        return None

    def take(self, name: str, size: int) -> None:
        """Reserve."""
        self._held[name] = self._held.get(name, 0) + size
        self.held += size

    def give(self, name: str, size: int) -> None:
        """Release."""
        self.held -= size
        left = self._held[name] - size
        if left:
            self._held[name] = left
        else:
            del self._held[name]
