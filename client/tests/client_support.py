# SPDX-License-Identifier: Apache-2.0
"""A small node built on `core.seal.node`, behind a scripted gateway on a real loopback socket.

The node is honest. The gateway does what a test tells it: pass on, cut, change, answer by itself.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse.settings import Settings
from teehouse_core.errors import MalformedError, RequestRefused
from teehouse_core.evidence.bundle import build_bundle
from teehouse_core.seal.keyring import Keyring
from teehouse_core.seal.node import OpenedRequest, ResponseSealer, open_request
from teehouse_core.seal.replay import SeenSet
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.apikey import make_api_key
from teehouse_core.wire.binding import INTERACTIVE, challenge, devices_digest, report_data
from teehouse_core.wire.canonical import unb64u
from teehouse_core.wire.frame import RESPONSE_TYPE
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, SignKey, Software, build_keyset, key_id
from teehouse_core.wire.problem import CODES, PROBLEM_TYPE, problem_body
from teehouse_core.wire.receipts import Usage
from teehouse_core.wire.suites import DEFAULT_SUITE
from teehouse_enclave.platform.base import InsecurePlatformWarning, measure_workload
from teehouse_enclave.platform.simulated import SimulatedPlatform

ENDPOINT = "ep-20260101000000-tests"
MODEL = Model("tiny-test-model", "ab" * 32)
SOFTWARE = Software("1.0.0", "cd" * 32, "ef" * 32)
API_KEY = make_api_key(bytes(range(40)))
CUT = None  # in a list of chunks: break the connection here


@dataclass
class Script:
    """What the node answers."""

    status: int = 200
    content_type: str = "application/json"
    pieces: list[bytes] = field(default_factory=lambda: [b'{"ok":true}'])
    finish: str = "stop"
    final_status: int | None = None
    pause: Callable[[int], None] = lambda _index: None


def text_chunk(text: str, **choice: Any) -> dict[str, Any]:
    return chunk({"content": text}, **choice)


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL.name,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def stream_script(*values: dict[str, Any]) -> Script:
    return Script(content_type="text/event-stream", pieces=[event(v) for v in values])


def text_stream(*words: str) -> Script:
    return stream_script(chunk({"role": "assistant", "content": ""}), *map(text_chunk, words), chunk({}, "stop"))


def completion(text: str = "hello there") -> Script:
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL.name,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    return Script(pieces=[json.dumps(body).encode()])


class Node:
    """One honest node with a simulated platform."""

    def __init__(
        self, name: str = "node-0", *, life: int = 3600, started: int | None = None, suite: str = DEFAULT_SUITE
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecurePlatformWarning)
            self.platform = SimulatedPlatform()
        measure_workload(
            self.platform,
            release=SOFTWARE.release,
            image_sha256=SOFTWARE.image_sha256,
            config_sha256=SOFTWARE.config_sha256,
            weights_sha256=MODEL.weights_sha256,
            model=MODEL.name,
        )
        self.name = name
        self.life = life
        self.suite = suite
        self.seen = SeenSet()
        self.opened: list[OpenedRequest] = []
        self.bodies: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self.restart(started)

    def restart(self, started: int | None = None) -> None:
        """New keys, and the old ones are gone."""
        self.ring = Keyring()
        self.signer = Ed25519PrivateKey.generate()
        pk = self.signer.public_key().public_bytes_raw()
        self.sign = SignKey(key_id("ed25519", pk), "ed25519", pk)
        self.rotate(started)

    def rotate(self, started: int | None = None) -> None:
        """A new keyset; requests to the old one still open."""
        now = int(time.time()) if started is None else started
        key = generate_key(self.suite)
        raw = build_keyset(
            role="node",
            endpoint=ENDPOINT,
            node=self.name,
            hpke=[HpkeKey(key_id(key.suite, key.pk), key.suite, key.pk, now, now + self.life)],
            sign=[self.sign],
            model=MODEL,
            software=SOFTWARE,
            capabilities=Capabilities("none", "none", "none", ()),
            not_before=now,
            not_after=now + self.life,
        )
        self.keyset = Keyset.parse(raw)
        self.ring.publish(self.keyset, [key])

    def bundle(self, value: bytes) -> bytes:
        made = self.platform.collect(report_data(self.keyset.digest, devices_digest([]), challenge(INTERACTIVE, value)))
        return build_bundle(
            endpoint=ENDPOINT,
            node=self.name,
            keyset=self.keyset.raw,
            challenge_kind=INTERACTIVE,
            challenge_value=value,
            platform_type=self.platform.type,
            report=made.report,
            workload_log=self.platform.workload_log(),
            collateral=made.collateral,
            event_log=made.event_log,
            aux=made.aux,
        )

    def answer(self, frame: bytes, script: Script) -> Iterable[bytes]:
        """Sealed chunks; raises what a node answers in clear."""
        opened = open_request(frame, endpoint=ENDPOINT, keyring=self.ring, seen=self.seen, now=int(time.time()))
        inner, _, facts = opened.read()
        self.opened.append(opened)
        self.bodies.append(facts.body or {"raw": inner.content.decode("utf-8", "replace")})
        return self._sealed(opened, script)

    def _sealed(self, opened: OpenedRequest, script: Script) -> Iterable[bytes]:
        sealer = ResponseSealer(opened, secrets.token_bytes(32))
        yield sealer.head(script.status, (("content-type", script.content_type),))
        for index, piece in enumerate(script.pieces):
            script.pause(index)
            yield sealer.body(piece)
        script.pause(len(script.pieces))
        yield sealer.trailer(
            status=script.final_status or script.status,
            finish=script.finish,
            usage=Usage(3, 2, 0),
            kid=self.sign.kid,
            sign=self.signer.sign,
            started_at=int(time.time()),
            finished_at=int(time.time()),
        )


@dataclass
class Canned:
    """An answer that the gateway makes up."""

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def problem(code: str, *, status: int | None = None, reason: str | None = None, **headers: str) -> Canned:
    body = problem_body(code, status=status, reason=reason)
    return Canned(status or CODES[code], PROBLEM_TYPE, body, headers)


class Gateway:
    """Relays between clients and nodes over real HTTP; `mangle` changes chunks, `canned` answers come first."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = list(nodes)
        self.script = completion()
        self.mangle: Callable[[list[bytes]], Iterable[bytes | None]] | None = None
        self.canned: list[Canned] = []
        self.canned_evidence: list[Canned] = []
        self.evidence_from: Callable[[bytes], list[bytes]] = lambda value: [n.bundle(value) for n in self.nodes]
        self.pools_from: Callable[[bytes], list[tuple[bytes, bytes]]] | None = None
        self.tiles: Callable[[str], bytes | None] = lambda _path: None
        self.asked: list[str] = []
        self.evidence_asked = 0
        self.connections = 0
        self.frames: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.client_left = threading.Event()
        gateway = self

        class Handler(_Handler):
            outer = gateway

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_args: Any) -> None:
        pass  # a client that went away is part of many tests


class _Handler(BaseHTTPRequestHandler):
    outer: Gateway
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.outer.connections += 1

    def log_message(self, *_args: Any) -> None:
        pass

    def do_GET(self) -> None:
        outer = self.outer
        parts = urlsplit(self.path)
        if parts.path.startswith("/ledger/v1/public/"):
            tile = outer.tiles(parts.path.removeprefix("/ledger/v1/public/"))
            self._canned(Canned(404 if tile is None else 200, "application/octet-stream", tile or b""))
            return
        outer.asked.append(self.path)
        outer.evidence_asked += 1
        if outer.canned_evidence:
            self._canned(outer.canned_evidence.pop(0))
            return
        query = parse_qs(parts.query)
        bundles = outer.evidence_from(unb64u(query["challenge"][0], 32))[: int(query["n"][0])]
        document = {
            "v": "evidence-set/1",
            "endpoint": parts.path.split("/")[3],
            "bundles": [base64.b64encode(b).decode() for b in bundles],
        }
        if outer.pools_from is not None:
            pairs = outer.pools_from(unb64u(query["challenge"][0], 32))
            names = ("pool", "bundle")
            document["pools"] = [
                {name: base64.b64encode(part).decode() for name, part in zip(names, pair, strict=True)}
                for pair in pairs
            ]
        self._canned(Canned(200, "application/json", json.dumps(document).encode()))

    def do_POST(self) -> None:
        outer = self.outer
        frame = self.rfile.read(int(self.headers["Content-Length"]))
        outer.frames.append(frame)
        outer.headers.append({k.lower(): v for k, v in self.headers.items()})
        if outer.canned:
            self._canned(outer.canned.pop(0))
            return
        code = "unavailable"
        for node in outer.nodes:
            try:
                chunks = node.answer(frame, outer.script)
            except (RequestRefused, MalformedError) as error:
                code = error.wire_code
                continue
            self._relay(node, chunks if outer.mangle is None else outer.mangle(list(chunks)))
            return
        self._canned(problem(code))

    def _relay(self, node: Node, chunks: Iterable[bytes | None]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", RESPONSE_TYPE)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in chunks:
                if piece is CUT:
                    self.close_connection = True
                    return
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.outer.client_left.set()
            node.cancelled.set()
            self.close_connection = True

    def _canned(self, canned: Canned) -> None:
        self.send_response(canned.status)
        self.send_header("Content-Type", canned.content_type)
        self.send_header("Content-Length", str(len(canned.body)))
        for name, value in canned.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(canned.body)


def settings_for(gateway: Gateway, **given: Any) -> Settings:
    values = {"base_url": gateway.url, "api_key": API_KEY, "endpoint": ENDPOINT, "policy": "evaluate", **given}
    return Settings.load(environ={}, **values)
