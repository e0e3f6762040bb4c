# SPDX-License-Identifier: Apache-2.0
"""Users of the platform, as many as a job asks for: sealed through the product's session, or plain through httpx2.

A process of its own, so that the client's CPU is told apart from the node's and the gateway's. One JSON job a line on
stdin, one JSON report a line on stdout. Both sides use the same HTTP client with the same pool, the same loop, the
same gateway; the plain side's frames are made before the clock starts. A `light` job uses `light.py` on both sides.
"""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import uvloop

from teehouse.session.aio import AsyncSession
from teehouse.session.answer import client_options
from teehouse.settings import Settings
from teehouse_bench.frames import unsealed_frame
from teehouse_bench.light import LightStream, request_bytes
from teehouse_bench.machine import Busy, cpu_seconds, rss_bytes
from teehouse_bench.stats import percentile
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import TeehouseError
from teehouse_core.seal.client import ResponseOpener, seal_request
from teehouse_core.wire.apikey import account_of
from teehouse_core.wire.frame import REQUEST_TYPE

__all__ = ["Driver", "main"]

_TOKEN = b'"delta":{"content":'  # stands once in each event that carries text, on both sides
_PER_CLIENT = 256  # streams of one HTTP client; its pool gets slow with more, on both sides alike


@dataclass(slots=True)
class Stream:
    """When one answer began and when its tokens came, seconds of one clock."""

    asked: float
    arrivals: list[float] = field(default_factory=list)
    pieces: int = 0
    whole: bool = False
    tail: bytes = b""

    def take(self, piece: bytes) -> None:
        now = time.perf_counter()
        self.pieces += 1
        text = self.tail + piece
        self.arrivals += [now] * text.count(_TOKEN)
        self.tail = text[1 - len(_TOKEN) :]


class Driver:
    """Sessions and plain clients are kept over all jobs, as an application keeps them."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._settings = Settings(base_url=setup["gateway"], api_key=setup["api_key"], policy=Policy.preset("evaluate"))
        self._sessions: list[AsyncSession] = []
        self._clients: list[httpx2.AsyncClient] = []

    async def job(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run one round of one side."""
        streams, repeat, sealed = job["streams"], job["repeat"], job["side"] == "sealed"
        content = json.dumps({**job["body"], "model": self._setup[job["side"]]["endpoint"]}).encode()
        wanted = -(-streams // _PER_CLIENT)
        while len(self._sessions) < wanted:
            self._sessions.append(AsyncSession(self._settings))
            self._clients.append(httpx2.AsyncClient(**client_options(self._settings)))
        frames = [] if sealed else [self._frame(content) for _ in range(streams * repeat)]
        pids: list[int] = job["pids"]
        done: list[Stream] = []
        errors: list[str] = []
        rss: dict[str, int] = {}

        async def user(number: int) -> None:
            await asyncio.sleep(number * job["stagger"] / streams)
            for turn in range(repeat):
                which = number // _PER_CLIENT
                stream = Stream(time.perf_counter())
                done.append(stream)
                try:
                    if job.get("light"):
                        await self._light(frames[number * repeat + turn] if frames else None, content, stream)
                    elif sealed:
                        await self._sealed(self._sessions[which], content, stream)
                    else:
                        await self._plain(self._clients[which], frames[number * repeat + turn], stream)
                except (TeehouseError, httpx2.HTTPError, OSError) as error:
                    errors.append(f"{type(error).__name__} {getattr(error, 'code', '')}".strip())

        async def look() -> None:
            await asyncio.sleep(job["look"])  # when all streams are open
            rss.update({str(pid): rss_bytes(pid) for pid in pids})

        gc.collect()
        rss_before = {str(pid): rss_bytes(pid) for pid in pids}
        before, busy = {pid: cpu_seconds(pid) for pid in pids}, Busy.now()
        own, began = time.process_time(), time.perf_counter()
        looker = asyncio.create_task(look())
        await asyncio.gather(*(user(number) for number in range(streams)))
        wall, client_cpu = time.perf_counter() - began, time.process_time() - own
        cpu, after = {str(pid): cpu_seconds(pid) - before[pid] for pid in pids}, Busy.now()
        looker.cancel()
        report = _report(done, job.get("pace", 0.0))
        return {
            **report,
            "side": job["side"],
            "wall": wall,
            "errors": errors[:4],
            "failed": sum(not one.whole for one in done),
            "cpu": cpu,
            "client_cpu": client_cpu,
            "rss_before": rss_before,
            "rss": rss,
            "machine_cpu": after.used - busy.used,
            "stolen": after.stolen - busy.stolen,
        }

    async def _light(self, frame: bytes | None, content: bytes, stream: Stream) -> None:
        """`frame` is the plain one; None is to be sealed."""
        endpoint = self._setup["plain" if frame else "sealed"]["endpoint"]
        opener = None
        if frame is None:
            nodes = [one.accepted for one in await self._sessions[0].verify(endpoint) if one.accepted is not None]
            request = seal_request(
                nodes,
                endpoint=endpoint,
                op="chat.completions",
                content=content,
                account=account_of(self._setup["api_key"]),
                now=int(time.time()),
                random=secrets.token_bytes,
                cache_secret=bytes(32),
            )
            frame, opener = request.frame, ResponseOpener(request)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        raw = request_bytes(f"/sealed/v1/{endpoint}", self._setup["api_key"], frame)
        gateway = urlsplit(self._setup["gateway"])
        await loop.create_connection(
            lambda: LightStream(raw, opener, stream.take, done), gateway.hostname, gateway.port
        )
        whole = await done
        stream.whole = whole and (opener is not None or stream.tail.endswith(b"data: [DONE]\n\n"))

    async def _sealed(self, session: AsyncSession, content: bytes, stream: Stream) -> None:
        answer = await session.request(self._setup["sealed"]["endpoint"], "chat.completions", content)
        async with answer, aclosing(aiter(answer)) as pieces:
            async for piece in pieces:
                stream.take(piece)
        stream.whole = answer.end is not None and answer.status == 200

    async def _plain(self, client: httpx2.AsyncClient, frame: bytes, stream: Stream) -> None:
        url = f"{self._setup['gateway']}/sealed/v1/{self._setup['plain']['endpoint']}"
        headers = {"content-type": REQUEST_TYPE, "authorization": f"Bearer {self._setup['api_key']}"}
        async with client.stream("POST", url, content=frame, headers=headers) as response:
            async for piece in response.aiter_raw():
                stream.take(piece)
            stream.whole = response.status_code == 200 and stream.tail.endswith(b"data: [DONE]\n\n")

    def _frame(self, content: bytes) -> bytes:
        plain: dict[str, str] = self._setup["plain"]
        account = account_of(self._setup["api_key"])
        return unsealed_frame(plain["endpoint"], plain["node"], account, secrets.token_bytes(16), content, stream=True)


def _report(streams: list[Stream], pace: float) -> dict[str, Any]:
    """Milliseconds. `late`: how long after its due time a token came, due times counted from the question."""
    good = [s for s in streams if s.whole and s.arrivals]
    first = [(s.arrivals[0] - s.asked) * 1e3 for s in good]
    gaps = [(b - a) * 1e3 for s in good for a, b in zip(s.arrivals, s.arrivals[1:], strict=False)]
    late = [(at - s.asked - k / pace) * 1e3 for s in good for k, at in enumerate(s.arrivals)] if pace else []
    rates = [(len(s.arrivals) - 1) / (s.arrivals[-1] - s.arrivals[0]) for s in good if len(s.arrivals) > 2]
    tokens = sum(len(s.arrivals) for s in good)
    span = max((s.arrivals[-1] for s in good), default=0.0) - min((s.asked for s in good), default=0.0)
    return {
        "streams": len(streams),
        "tokens": tokens,
        "pieces": sum(s.pieces for s in good),
        "first_p50": percentile(first, 0.5),
        "first_p95": percentile(first, 0.95),
        "gap_p50": percentile(gaps, 0.5),
        "gap_p99": percentile(gaps, 0.99),
        "late_p50": percentile(late, 0.5),
        "late_p99": percentile(late, 0.99),
        "rate_p50": percentile(rates, 0.5),
        "rate_min": min(rates, default=float("nan")),
        "tokens_per_second": tokens / span if span else float("nan"),
    }


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    driver = Driver(json.loads(await loop.run_in_executor(None, sys.stdin.readline)))
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        report = await driver.job(json.loads(line))
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


def main() -> None:
    """First line the set-up, then jobs, until stdin ends."""
    uvloop.run(_serve())


if __name__ == "__main__":
    main()
