# SPDX-License-Identifier: Apache-2.0
"""A log with its witnesses, and a ledger that serves it over real HTTP and lies where it is told to."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse.audit.pins import Pins
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import AuditEntry, Opening
from teehouse_core.log.merkle import Frontier, leaf_hash, new_nodes
from teehouse_core.log.note import Note
from teehouse_core.log.quorum import Witness, WitnessPolicy
from teehouse_core.log.signing import cosign, cosigner_key, log_key, sign_note
from teehouse_core.log.tiles import ENTRIES, format_bundle, parse_path
from teehouse_core.wire.canonical import b64u

ORIGIN = "tks.example/tenant/demo"
TOKEN = "th-la-test"
WITNESSES = {"w1.example": "ada", "w2.example": "bob"}
NOW = 1_800_000_000


def seeded(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def pins(quorum: int = 2, origin: str = ORIGIN) -> Pins:
    witnesses = [Witness(name, cosigner_key(name, seeded(name).public_key()), op) for name, op in WITNESSES.items()]
    return Pins((log_key(origin, seeded("log").public_key()),), WitnessPolicy(tuple(witnesses), quorum))


@functools.cache
def entry(n: int, **change: Any) -> tuple[bytes, dict[str, Any] | None]:
    """Leaf and opening of entry n."""
    opening = Opening(hashlib.sha256(b"salt %d" % n).digest(), (f"Ada {n}", "李雷"))
    base: dict[str, Any] = {
        "time": NOW + n,
        "op": "release" if n % 3 else "key.create",
        "id": hashlib.sha256(b"id %d" % n).hexdigest()[:32],
        "decision": "refused" if n % 5 == 0 else "granted",
        "tenant": "demo",
        "ring": "ring-1",
        "key": f"=key-{n % 4}",
        "actor": opening.actor,
        "failed_checks": ("tdx.tcb-status",) if n % 5 == 0 else (),
        "witnesses": 2,
    }
    return AuditEntry(**(base | change)).to_bytes(), opening.to_json()


def cosigned(
    leaves: Sequence[bytes],
    *,
    size: int | None = None,
    origin: str = ORIGIN,
    key: str = "log",
    by: Any = None,
    at: int = 0,
) -> bytes:
    """A checkpoint over these leaves."""
    size = len(leaves) if size is None else size
    root = Frontier.empty().extend(map(leaf_hash, leaves[:size])).root()
    text = Checkpoint(origin, size, root).text()
    note = Note(text, (sign_note(text, origin, seeded(key)),))
    names = WITNESSES if by is None else by
    return note.add(*(cosign(text, name, seeded(name), at or NOW + size) for name in names)).to_bytes()


@functools.lru_cache(maxsize=8)
def _nodes(leaves: tuple[bytes, ...]) -> dict[tuple[int, int], bytes]:
    return {
        (level, at): value for level, at, value in new_nodes(Frontier.empty(), [leaf_hash(leaf) for leaf in leaves])
    }


@dataclass
class LyingLedger:
    """Serves `entries` below a checkpoint. Each field is a place to lie in; by default it is honest."""

    entries: list[tuple[bytes, Any]] = field(default_factory=list)
    note: bytes | None = None  # by default over the entries
    tiles_of: list[bytes] | None = None  # the leaves that the tiles are of, by default those of the entries
    rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows
    silent: frozenset[str] = frozenset()  # nouns answered 404
    raw: dict[str, bytes] = field(default_factory=dict)  # what a noun is answered with, whatever is asked

    @property
    def leaves(self) -> list[bytes]:
        return [leaf for leaf, _ in self.entries]

    def answer(self, path: str, query: dict[str, list[str]], token: str | None) -> tuple[int, bytes]:
        if token != f"Bearer {TOKEN}":
            return 401, b'{"code":"ledger-token"}'
        noun, _, rest = path.removeprefix("/ledger/v1/tenant-demo/").partition("/")
        if noun in self.silent or not path.startswith("/ledger/v1/tenant-demo/"):
            return 404, json.dumps({"code": "checkpoint-unknown" if noun == "checkpoint" else "log-unknown"}).encode()
        if noun in self.raw:
            return 200, self.raw[noun]
        if noun == "checkpoint":
            return 200, self.note if self.note is not None else cosigned(self.leaves)
        if noun == "tile":
            return self._tile(f"tile/{rest}")
        after, limit = int(query["after"][0]), int(query["limit"][0])
        rows = [{"index": n, "leaf": b64u(leaf), "opening": opening} for n, (leaf, opening) in enumerate(self.entries)]
        page = [row for row in self.rows(rows) if row["index"] >= after][:limit]
        return 200, json.dumps({"entries": page, "next": None, "size": len(rows)}).encode()

    def _tile(self, text: str) -> tuple[int, bytes]:
        path = parse_path(text)
        leaves = self.tiles_of if self.tiles_of is not None else self.leaves
        first = path.index * 256
        if path.level == ENTRIES:
            return 200, format_bundle(leaves[first : first + path.width])
        nodes = _nodes(tuple(leaves))
        hashes = [nodes.get((8 * path.level, first + n)) for n in range(path.width)]
        if None in hashes:
            return 404, b'{"code":"tile-unknown"}'
        return 200, b"".join(value for value in hashes if value is not None)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The log's URL."""
        ledger = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                status, body = ledger.answer(parts.path, parse_qs(parts.query), self.headers.get("Authorization"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/ledger/v1/tenant-demo"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def write_pins(path: Path, quorum: int = 2) -> Path:
    path.write_text(json.dumps(pins(quorum).to_json()))
    return path
