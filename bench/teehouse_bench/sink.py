# SPDX-License-Identifier: Apache-2.0
"""The cheapest client we can write here: many streams at once, bytes and chunks counted, nothing kept.

A process of its own; one JSON job a line on stdin, one JSON report a line on stdout. A job names the address, the
request head and frame, the number of connections, and how long closed-loop requests shall go on; the report says what
arrived and how much CPU the watched processes took meanwhile. Of streams, only the time counts in which all of them
run: from the first byte of the last one to the end of the first one. Opening them is another matter.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import secrets
import sys
import time
from dataclasses import dataclass
from typing import Any

import httptools
import uvloop

from teehouse_bench.frames import NUMBERED
from teehouse_bench.machine import Busy, cpu_seconds
from teehouse_core.wire.canonical import b64u

__all__ = ["Sink", "run_job"]


class Sink(asyncio.Protocol):
    """One connection: sends the request, counts, and sends it again while `again` says so."""

    def __init__(self, request: tuple[bytes, bytes], done: asyncio.Future[None], until: float) -> None:
        self._request = request
        self._done = done
        self._until = until  # loop time; 0: one request only
        self._transport: Any = None
        self._parser: Any = None
        self.bytes = self.chunks = self.answers = self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        before, after = self._request
        self._transport.write(before + b64u(secrets.token_bytes(16)).encode() + after)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._done.done():
            self.failed += 1
            self._done.set_result(None)

    def on_chunk_header(self) -> None:
        self.chunks += 1

    def on_body(self, body: bytes) -> None:
        self.bytes += len(body)

    def on_message_complete(self) -> None:
        self.answers += 1
        if self._parser.get_status_code() != 200:
            self.failed += 1
        elif self._until and asyncio.get_running_loop().time() < self._until:
            asyncio.get_running_loop().call_soon(self._send)
            return
        self._done.set_result(None)
        self._transport.close()


async def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Open all connections, wait until all are done, report."""
    loop = asyncio.get_running_loop()
    head, _, rest = base64.b64decode(job["request"]).partition(b64u(NUMBERED).encode())
    pids: list[int] = job["pids"]
    futures: list[asyncio.Future[None]] = []
    sinks: list[Sink] = []

    def connection() -> Sink:
        future: asyncio.Future[None] = loop.create_future()
        futures.append(future)
        sinks.append(Sink((head, rest), future, loop.time() + job["seconds"] if job["closed_loop"] else 0.0))
        return sinks[-1]

    gc.collect()
    begin = Snapshot.take(pids, sinks)
    for _ in range(job["connections"]):
        await loop.create_connection(connection, "127.0.0.1", job["port"])
    async with asyncio.timeout(job["seconds"] * 4 + 30):
        if not job["closed_loop"]:
            while not all(s.bytes for s in sinks) and not any(f.done() for f in futures):  # noqa: ASYNC110  data_received sets no event
                await asyncio.sleep(0.005)
            begin = Snapshot.take(pids, sinks)
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            end = Snapshot.take(pids, sinks)
            await asyncio.gather(*futures)
        else:
            await asyncio.gather(*futures)
            end = Snapshot.take(pids, sinks)
    return {
        "wall": end.at - begin.at,
        "bytes": end.bytes - begin.bytes,
        "writes": end.chunks - begin.chunks,
        "answers": sum(s.answers for s in sinks),
        "failed": sum(s.failed for s in sinks),
        "cpu": {str(pid): end.cpu[pid] - begin.cpu[pid] for pid in pids},
        "sink_cpu": end.own - begin.own,
        "machine_cpu": end.busy.used - begin.busy.used,
        "stolen": end.busy.stolen - begin.busy.stolen,
    }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Counters of one moment."""

    at: float
    bytes: int
    chunks: int
    cpu: dict[int, float]
    own: float
    busy: Busy

    @classmethod
    def take(cls, pids: list[int], sinks: list[Sink]) -> Snapshot:
        return cls(
            time.monotonic(),
            sum(s.bytes for s in sinks),
            sum(s.chunks for s in sinks),
            {pid: cpu_seconds(pid) for pid in pids},
            time.process_time(),
            Busy.now(),
        )


def main() -> None:
    """Jobs in, reports out, until stdin ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            report = runner.run(run_job(json.loads(line)))
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
