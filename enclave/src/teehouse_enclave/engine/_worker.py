# SPDX-License-Identifier: Apache-2.0
"""One blocking, callback-driven native call, seen from asyncio as an asynchronous iterator.

The native code calls back from its own worker thread, once per chunk. It swallows exceptions of the callback, so the
callback lets none out; it stops when the callback returns True, so that is how cancelling reaches it. The queue
between the two sides is bounded: a reader who stalls makes the callback wait, not the memory grow.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

__all__ = ["NativeCall", "NativeStream"]

NativeCall = Callable[[Callable[[Any], bool]], object]

QUEUE_CHUNKS = 256  # chunks; some seconds of generation
_POLL = 0.1  # seconds; how soon a callback that waits for room sees that it was cancelled


class NativeStream:
    """Runs `call(callback)` on `executor` and hands its chunks to one asynchronous reader."""

    def __init__(self, call: NativeCall, on_done: Callable[[], None]) -> None:
        self._call: NativeCall | None = call
        self._on_done = on_done  # called in the event loop when the native side has really let go
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[Any] = deque()
        self._room = threading.Semaphore(QUEUE_CHUNKS)
        self._wake = asyncio.Event()
        self._cancelled = threading.Event()
        self._finished = False
        self._failure: BaseException | None = None

    def start(self, executor: Executor) -> None:
        """Begin. From here on `on_done` will be called exactly once, whatever happens."""
        executor.submit(self._run)

    def cancel(self) -> None:
        """Ask the native side to stop at its next chunk. Never blocks; may be called at any time."""
        self._cancelled.set()

    async def next(self) -> Any:
        """The next chunk, or None at the end. Raises whatever the native call raised."""
        while True:
            if self._chunks:
                self._room.release()
                return self._chunks.popleft()
            if self._finished:
                if self._failure is not None:
                    raise self._failure
                return None
            self._wake.clear()
            # Looked at again after clearing: the worker may have put something in between.
            if not self._chunks and not self._finished:
                await self._wake.wait()

    # ── worker thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        call, self._call = self._call, None  # it holds the engine, which must not outlive close()
        try:
            if call is not None and not self._cancelled.is_set():
                call(self._on_chunk)
        except BaseException as exc:  # kept for the reader: a worker thread has nobody to tell
            self._failure = self._failure or exc
        call = None
        self._finished = True
        self._tell(self._done)

    def _on_chunk(self, chunk: Any) -> bool:
        try:
            while not self._room.acquire(timeout=_POLL):
                if self._cancelled.is_set():
                    return True
            if self._cancelled.is_set():
                return True
            self._chunks.append(chunk)
            self._tell(self._wake.set)
        except BaseException as exc:  # would be swallowed on the other side, and the stream would seem to go on
            self._failure = exc
            return True
        return False

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: nobody reads any more
            self._cancelled.set()

    def _done(self) -> None:
        self._wake.set()
        self._on_done()
