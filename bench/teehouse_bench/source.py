# SPDX-License-Identifier: Apache-2.0
"""The fastest upstream we can write here: server-sent chunks of one size, as fast as they are read or at a set rate.

For the gateway bench: it stands behind our gateway and behind nginx alike, so what is compared is the process in the
middle. The request body (of an unsealed frame) says what to do: {"mode": "flood" | "paced" | "whole", "size": bytes of
a chunk, "seconds": how long, "delay": seconds before it begins, "rate": chunks per second and stream}.

    python -m teehouse_bench.source --node NAME --endpoint EP --ready-file FILE
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httptools
import uvloop

from teehouse_bench.frames import plain_keyset
from teehouse_core.wire.frame import RequestFrame

__all__ = ["Source"]

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


def chunk_of(size: int) -> bytes:
    """One event of `size` bytes, in HTTP/1.1 chunk framing."""
    frame = b'data: {"x":"' + b"t" * (size - 16) + b'"}\n\n'
    return f"{len(frame):x}\r\n".encode() + frame + b"\r\n"


class Source(asyncio.Protocol):
    """One connection from the process in the middle; it may carry one answer after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, health: bytes) -> None:
        self._loop = loop
        self._health = health
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._url = b""
        self._parts: list[bytes] = []
        self._paused = self._lost = False
        self._chunk = b""
        self._end = self._due = self._step = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost = True

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._chunk and not self._step:
            self._flood()

    def on_message_begin(self) -> None:
        self._url, self._parts = b"", []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            found = self._url == b"/readyz" or self._url.startswith(b"/v1/usage")
            body = self._health if found else b"{}"
            status = b"200 OK" if found else b"404 Not Found"
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
            self._transport.write(head + body)
            return
        order = json.loads(bytes(RequestFrame.parse(b"".join(self._parts)).body))
        self._chunk = chunk_of(order["size"])
        if order["mode"] == "whole":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % order["size"]
            self._transport.write(head + b"t" * order["size"])
            self._chunk = b""
            return
        self._transport.write(_HEAD + self._chunk)  # one chunk at once: the sink waits until all streams are open
        begin = self._loop.time() + order["delay"]
        self._end = begin + order["seconds"]
        if order["mode"] == "paced":
            self._step, self._due = 1 / order["rate"], begin
            self._loop.call_at(begin, self._paced)
        else:
            self._step = 0.0
            self._loop.call_at(begin, self._flood)

    def _flood(self) -> None:
        """One chunk in each turn of the loop, so that streams take turns and none writes a megabyte at once."""
        if self._lost or self._paused or not self._chunk:
            return
        if self._loop.time() >= self._end:
            self._finish()
            return
        self._transport.write(self._chunk)
        self._loop.call_soon(self._flood)

    def _paced(self) -> None:
        if self._lost or not self._chunk:
            return
        if self._due >= self._end:
            self._finish()
            return
        self._transport.write(self._chunk)
        self._due += self._step
        self._loop.call_at(self._due, self._paced)

    def _finish(self) -> None:
        self._chunk = b""
        self._transport.write(_END)


async def _serve(node: str, endpoint: str, ready_file: Path) -> None:
    loop = asyncio.get_running_loop()
    health = {
        "node": node,
        "endpoint": endpoint,
        "ready": True,
        "draining": False,
        "active": 0,
        "keysets": [plain_keyset(node)],
        "boot": "bench",
        "v": 1,
        "next": 0,
        "records": [],
    }
    body = json.dumps(health).encode()
    server = await loop.create_server(lambda: Source(loop, body), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    draft = ready_file.with_suffix(".new")
    draft.write_text(json.dumps({"version": 1, "url": f"http://127.0.0.1:{port}", "pid": os.getpid()}))
    draft.replace(ready_file)
    await server.serve_forever()


def main() -> None:
    """Run until a signal."""
    parser = argparse.ArgumentParser(description="a fast upstream, for benches only")
    parser.add_argument("--node", required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--ready-file", type=Path, required=True)
    given = parser.parse_args()
    uvloop.run(_serve(given.node, given.endpoint, given.ready_file))


if __name__ == "__main__":
    main()
