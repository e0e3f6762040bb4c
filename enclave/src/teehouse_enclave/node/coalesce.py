# SPDX-License-Identifier: Apache-2.0
"""When bytes become records: at once after a pause, together when they come fast, on the beat in shape `constant`.

A piece that comes later than `flush_ms` after the last record leaves at once, so a model that writes thirty tokens a
second waits for nothing; pieces that come faster share a record. The opening piece names the role and carries no text:
it starts no wait, or every first token would come `flush_ms` late. In silence a cover record says that the node lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

__all__ = ["KEEP_ALIVE", "Outbox", "beats", "flushes"]

KEEP_ALIVE = 5.0  # seconds of silence after which a cover record is sent
_HIGH_WATER = 256 * 1024  # bytes produced and not yet sent, at which the engine has to wait


@dataclass(slots=True)
class Outbox:
    """Bytes between the engine's pace and the network's; bounded, so that a slow reader slows the engine."""

    _data: bytearray = field(default_factory=bytearray)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False
    error: BaseException | None = None
    _active: bool = False
    _bell: asyncio.TimerHandle | None = None

    async def put(self, data: bytes) -> None:
        self._data += data
        self._active = True
        self._news.set()
        if len(self._data) > _HIGH_WATER:
            self._room.clear()
            await self._room.wait()

    def close(self, error: BaseException | None = None) -> None:
        """No more bytes will come; `error` says why not, if something went wrong."""
        self.closed, self.error = True, error
        if self._bell is not None:
            self._bell.cancel()
        self._news.set()

    async def wait(self) -> bool:
        """Until there are bytes or the end; False after KEEP_ALIVE to twice as many seconds of neither."""
        if self._data or self.closed:
            return True
        self._news.clear()
        # One timer a stream, set again only when it rings: a timeout around each wait costs more than sealing a token.
        if self._bell is None:
            self._bell = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._ring)
        await self._news.wait()
        return bool(self._data) or self.closed

    def _ring(self) -> None:
        self._bell = None
        if self._active:  # something came since the last ring: silence is counted from now
            self._active = False
            self._bell = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._ring)
        else:
            self._news.set()

    def take(self, limit: int | None = None) -> bytes:
        """All bytes held, or the first `limit`."""
        data = bytes(self._data[:limit])
        del self._data[: len(data)]
        self._room.set()
        return data

    @property
    def empty(self) -> bool:
        return not self._data


async def flushes(outbox: Outbox, flush_ms: int, clock: Callable[[], float]) -> AsyncGenerator[bytes, None]:
    """Bytes for one record at a time; b"" asks for a cover record."""
    last = clock() - flush_ms / 1000
    opened = False
    while True:
        if not await outbox.wait():
            yield b""
            continue
        early = last + flush_ms / 1000 - clock()
        if early > 0 and not outbox.closed:
            await asyncio.sleep(early)
        if outbox.empty:
            if outbox.closed:
                return
            continue
        if opened:
            last = clock()
        opened = True
        yield outbox.take()


async def beats(outbox: Outbox, flush_ms: int, size: int, clock: Callable[[], float]) -> AsyncGenerator[bytes, None]:
    """Shape `constant`: on every beat one record's worth or a cover, whether the engine said much or nothing."""
    period = max(flush_ms, 1) / 1000
    due = clock()
    while not (outbox.closed and outbox.empty):
        await asyncio.sleep(max(0.0, due - clock()))
        due = max(due + period, clock())
        yield outbox.take(size)
