# SPDX-License-Identifier: Apache-2.0
"""Who may run now: a fixed number of slots and a bounded, first-come-first-served queue before them."""

from __future__ import annotations

import asyncio
from collections import deque

from teehouse_enclave.engine.base import EngineError

__all__ = ["Admission"]


class Admission:
    """`slots` requests run, `queue` more may wait, the next one is refused. One event loop only."""

    def __init__(self, slots: int, queue: int) -> None:
        self._free = slots
        self._queue = queue
        self._active = 0
        self._closed = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def active(self) -> int:
        """Requests that hold a slot now."""
        return self._active

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot now."""
        return sum(not waiter.done() for waiter in self._waiters)

    async def acquire(self) -> None:
        """Take a slot, waiting for one if the queue has room.

        Raises EngineError 503 `engine-overloaded` if it has none, and `engine-closed` while the engine stops.
        """
        if self._closed:
            raise _closed()
        if self._free > 0 and not self.waiting:
            self._free -= 1
            self._active += 1
            return
        if self.waiting >= self._queue:
            raise EngineError(
                503, "engine-overloaded", "all slots of this engine are busy and its queue is full", hint="try again"
            )
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # The slot may have been handed over in the same turn of the loop in which the caller was cancelled.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()
            raise

    def release(self) -> None:
        """Give a slot back; the one who waited longest gets it."""
        self._active -= 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._active += 1
                waiter.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        """Refuse everybody who waits, and everybody who comes."""
        self._closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(_closed())


def _closed() -> EngineError:
    return EngineError(503, "engine-closed", "this engine is stopping", hint="try again")
