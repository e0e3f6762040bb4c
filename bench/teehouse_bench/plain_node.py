# SPDX-License-Identifier: Apache-2.0
"""PlainTwinNode: what a node would be without sealing. For the benches only; it protects nothing.

The same engine object, the same `answer_chat`, the same uvicorn, uvloop and httptools settings as the product's node,
as a process of its own. It takes the unsealed frame of `frames.py`, answers server-sent events one by one as the
engine makes them, and has no keys, no evidence, no replay set, no coalescing, no receipts, no usage records.

    python -m teehouse_bench.plain_node --config FILE      (the node's own configuration file)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from teehouse_bench.frames import plain_keyset
from teehouse_core.wire.frame import RequestFrame
from teehouse_enclave.engine import make_engine
from teehouse_enclave.engine.base import Engine
from teehouse_enclave.engine.spec import EngineSpec
from teehouse_enclave.node.chat import Answer, answer_chat

__all__ = ["PlainTwinNode"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class PlainTwinNode:
    """Speaks the gateway's side of the node interface, and answers in clear."""

    def __init__(self, engine: Engine, node: str, endpoint: str, model: str) -> None:
        self._engine = engine
        self._node = node
        self._endpoint = endpoint
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "POST":
            await self._chat(receive, send)
        elif scope["path"] == "/readyz":
            await _json(send, 200, self._health())
        elif scope["path"] == "/v1/usage":
            await _json(send, 200, {"v": 1, "boot": "bench", "next": 0, "records": []})
        else:
            await _json(send, 404, {})

    def _health(self) -> dict[str, Any]:
        return {
            "node": self._node,
            "endpoint": self._endpoint,
            "ready": True,
            "draining": False,
            "active": 0,
            "keysets": [plain_keyset(self._node)],
            "boot": "bench",
        }

    async def _chat(self, receive: Receive, send: Send) -> None:
        parts = []
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        body = json.loads(bytes(RequestFrame.parse(b"".join(parts)).body))
        stream = body.get("stream") is True
        work = asyncio.create_task(self._answer(body, stream, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, gone):
                task.cancel()
            for task in (work, gone):
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _answer(self, body: dict[str, Any], stream: bool, send: Send) -> None:
        kind = b"text/event-stream" if stream else b"application/json"
        headers = [
            (b"content-type", kind),
            (b"cache-control", b"no-store, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        pieces = answer_chat(
            self._engine,
            {**body, "model": self._model},
            stream=stream,
            tenant=bytes(32),
            request_id="",
            answer=Answer(),
        )
        started = False
        async with aclosing(pieces):
            async for piece in pieces:
                if not started:
                    started = True
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if stream else b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _json(send: Send, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready_file: Path) -> None:
        super().__init__(config)
        self._ready_file = ready_file

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        draft = self._ready_file.with_suffix(".new")
        draft.write_text(json.dumps({"version": 1, "url": f"http://127.0.0.1:{port}", "pid": os.getpid()}))
        draft.replace(self._ready_file)


async def _serve(config: dict[str, Any]) -> None:
    engine = make_engine(EngineSpec.parse(config["engine"]))
    info = await engine.start()
    twin = PlainTwinNode(engine, config["node"], config["endpoint"], info.model)
    server = _Server(
        uvicorn.Config(  # as in teehouse_enclave.node.main
            twin,
            host="127.0.0.1",
            port=0,
            loop="uvloop",
            http="httptools",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=1,
        ),
        Path(config["ready_file"]),
    )
    try:
        await server.serve()
    finally:
        await engine.close()


def main() -> None:
    """Run until a signal."""
    parser = argparse.ArgumentParser(description="a node without sealing, for benches only")
    parser.add_argument("--config", type=Path, required=True)
    uvloop.run(_serve(json.loads(parser.parse_args().config.read_text())))


if __name__ == "__main__":
    main()
