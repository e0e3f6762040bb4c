# SPDX-License-Identifier: Apache-2.0
"""Streaming one part through cipher and digest at once: three threads, a ring of buffers, no copy.

The caller's thread reads and writes, one thread hashes the plaintext in order, one seals or opens; OpenSSL lets go of
Python's lock meanwhile. Memory is the ring: `SLOTS` batches of plaintext and of ciphertext, whatever the file's size.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

from teehouse_core.weights.chunks import PartCipher
from teehouse_core.weights.plan import TAG_SIZE, Cut

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Lanes", "ReadInto", "Stopped", "Write", "sha256"]

BATCH = 4 << 20  # bytes of plaintext that one step of the pipeline takes; one chunk at least
SLOTS = 3  # batches under way

ReadInto = Callable[[memoryview], None]  # fills the whole view, or raises
Write = Callable[[memoryview], None]


class Stopped(Exception):  # noqa: N818  not an error
    """Another file failed, or the user stopped: this one ends without a word."""


class Lanes:
    """Buffers and threads for one file at a time; a context."""

    def __init__(self, cut: Cut, stop: threading.Event, moved: Callable[[int], None]) -> None:
        self._count = max(1, BATCH // cut.chunk_size)
        plain = self._count * cut.chunk_size
        self._slots = [(bytearray(plain), bytearray(plain + self._count * TAG_SIZE)) for _ in range(SLOTS)]
        self._stop = stop
        self._moved = moved  # called with plaintext bytes done
        self._hashing = ThreadPoolExecutor(1, "weights-hash")
        self._cipher = ThreadPoolExecutor(1, "weights-cipher")

    def __enter__(self) -> Lanes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hashing.shutdown(cancel_futures=True)
        self._cipher.shutdown(cancel_futures=True)

    def seal(self, cipher: PartCipher, read: ReadInto, write: Write, digest: _Hash) -> None:
        """Read the part's plaintext, write its sealed chunks (without header), hash the plaintext."""

        def begin(first: int, count: int, plain: memoryview, sealed: memoryview) -> list[Future[None]]:
            read(plain)
            return [
                self._cipher.submit(cipher.seal_into, first, count, plain, sealed),
                self._hashing.submit(digest.update, plain),
            ]

        def end(_plain: memoryview, sealed: memoryview) -> None:
            write(sealed)

        self._run(cipher, begin, end)

    def open(self, cipher: PartCipher, read: ReadInto, write: Write | None, digest: _Hash) -> None:
        """Read the part's sealed chunks (behind its header), write its plaintext, hash it."""

        def begin(first: int, count: int, plain: memoryview, sealed: memoryview) -> list[Future[None]]:
            read(sealed)

            def work() -> None:
                cipher.open_into(first, count, sealed, plain)
                hashed.append(self._hashing.submit(digest.update, plain))

            return [self._cipher.submit(work)]

        def end(plain: memoryview, _sealed: memoryview) -> None:
            if write is not None:
                write(plain)
            hashed.popleft().result()

        hashed: deque[Future[None]] = deque()
        self._run(cipher, begin, end)

    def hash(self, size: int, read: ReadInto, digest: _Hash) -> None:
        """Hash `size` bytes that are there already."""
        buffer = memoryview(self._slots[0][0])
        while size:
            self._check()
            view = buffer[: min(size, len(buffer))]
            read(view)
            digest.update(view)
            size -= len(view)
            self._moved(len(view))

    def _run(
        self,
        cipher: PartCipher,
        begin: Callable[[int, int, memoryview, memoryview], list[Future[None]]],
        end: Callable[[memoryview, memoryview], None],
    ) -> None:
        waiting: deque[tuple[list[Future[None]], memoryview, memoryview]] = deque()

        def finish() -> None:
            futures, plain, sealed = waiting.popleft()
            for future in futures:
                future.result()
            end(plain, sealed)
            self._moved(len(plain))

        try:
            for turn, first in enumerate(range(0, cipher.part.chunks, self._count)):
                self._check()
                count = min(self._count, cipher.part.chunks - first)
                if len(waiting) == SLOTS:
                    finish()
                plain, sealed = self._slots[turn % SLOTS]
                views = (
                    memoryview(plain)[: cipher.plain_length(first, count)],
                    memoryview(sealed)[: cipher.sealed_length(first, count)],
                )
                waiting.append((begin(first, count, *views), *views))
            while waiting:
                finish()
        finally:
            for futures, _, _ in waiting:  # the buffers are used again: nobody may still write into them
                for future in futures:
                    if not future.cancel():
                        future.exception()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped


def sha256() -> _Hash:
    """The digest of plaintexts."""
    return hashlib.sha256()
