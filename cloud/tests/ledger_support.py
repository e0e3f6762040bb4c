# SPDX-License-Identifier: Apache-2.0
"""A writer and a reader of the ledger: made-up entries, real trees, notes signed by nobody."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from teehouse_cloud.ledger.tokens import create_ledger_token
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import Frontier, leaf_hash
from teehouse_core.log.note import Note, Signature
from teehouse_core.wire.canonical import b64u

LOG = "tenant-acme"


def leaf(index: int, **members: Any) -> bytes:
    value = {"v": "tks-log/1", "op": "key.create", "ring": "r1", "key": f"k{index % 3}", "decision": "done", "n": index}
    return json.dumps(value | members, sort_keys=True, separators=(",", ":")).encode()


def entry(data: bytes, *, opening: Any = None, private: bytes = b"sealed") -> dict[str, Any]:
    return {"leaf": b64u(data), "opening": opening, "private": b64u(private)}


def frontier_of(leaves: Sequence[bytes]) -> Frontier:
    return Frontier.empty().extend(leaf_hash(data) for data in leaves)


def note_of(leaves: Sequence[bytes], *, origin: str = "tks.example/tenant/acme", signer: bytes = b"log") -> bytes:
    """A checkpoint over `leaves`. Its signature is none: the ledger looks at no signature."""
    text = Checkpoint(origin, len(leaves), frontier_of(leaves).root()).text()
    return Note(text, (Signature(origin, b"\0\0\0\1", signer),)).to_bytes()


class Ledger:
    """Talks to the ledger of a running gateway."""

    def __init__(self, world: Any, log: str = LOG) -> None:
        self.world = world
        self.log = log
        self.writer = ""
        self.audit = ""

    async def tokens(self) -> None:
        self.writer, _ = await create_ledger_token(self.world.database, "writer", "*", "tks", 1)
        self.audit, _ = await create_ledger_token(self.world.database, "audit", self.log, "auditor", 1)

    async def call(
        self, method: str, path: str, *, token: str | None = None, log: str | None = None, **more: Any
    ) -> tuple[int, Any, bytes]:
        """Status, headers and body; every refusal must be a problem document."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.world.url}/ledger/v1/{log or self.log}{path}"
        if "json" in more:
            more["data"] = json.dumps(more.pop("json")).encode()
        if isinstance(more.get("data"), bytes):
            more["data"] = io.BytesIO(more["data"])
        async with self.world.http.request(method, url, headers=headers, **more) as response:
            body = await response.read()
            if response.status >= 400:
                assert response.headers["Content-Type"] == "application/problem+json"
                problem = json.loads(body)
                assert problem["status"] == response.status
                assert {"type", "title", "code", "detail"} <= set(problem)
            return response.status, response.headers, body

    async def append(self, first: int, entries: Sequence[Any], **more: Any) -> tuple[int, Any]:
        status, _, body = await self.call(
            "POST", "/entries", token=self.writer, json={"first": first, "entries": list(entries)}, **more
        )
        return status, json.loads(body)

    async def fill(self, leaves: Sequence[bytes], first: int = 0) -> None:
        for start in range(0, len(leaves), 1000):
            given = [entry(data) for data in leaves[start : start + 1000]]
            status, answer = await self.append(first + start, given)
            assert (status, answer) == (200, {"size": first + start + len(given)})

    async def get(self, path: str, token: str | None = None) -> bytes:
        status, _, body = await self.call("GET", path, token=token or self.audit)
        assert status == 200, body
        return body
