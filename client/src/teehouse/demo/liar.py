# SPDX-License-Identifier: Apache-2.0
"""A gateway that lies: an HTTP relay in front of the real one that changes what it passes on.

It does what any gateway can do, because the gateway is trusted with nothing. With an empty `Lie` it is honest, which
the demo uses to show that it is the lie that is refused and not the relay.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

import httpx2

from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.keyset import key_id

__all__ = ["HONEST", "Liar", "Lie", "cut_final_record", "flip_bit", "swap_keys"]

PREFIX: Final = 34  # bytes before the first record of an answer (PROTOCOL §4)
_LEAD: Final = 5  # bytes before a record's ciphertext: final flag, length
_SKIPPED: Final = frozenset(
    {"connection", "transfer-encoding", "content-length", "host", "keep-alive", "date", "server"}
)


@dataclass(frozen=True, slots=True)
class Lie:
    """What to change. `evidence` gets the evidence set's bytes, `answer` the pieces of a sealed answer."""

    evidence: Callable[[bytes], bytes] = bytes
    answer: Callable[[Iterable[bytes]], Iterable[bytes]] = iter


HONEST: Final = Lie()


def flip_bit(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Flip one bit inside the second record's ciphertext, where the answer's text is."""
    seen = bytearray()
    at: int | None = None
    for piece in pieces:
        start = len(seen)
        seen += piece
        if at is None and len(seen) >= PREFIX + _LEAD:
            at = PREFIX + _LEAD + int.from_bytes(seen[PREFIX + 1 : PREFIX + 5], "big") + _LEAD + 20
        if at is not None and start <= at < len(seen):
            changed = bytearray(piece)
            changed[at - start] ^= 0x01
            yield bytes(changed)
        else:
            yield piece


def cut_final_record(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Leave out the last record and end cleanly: the kindest-looking cut there is."""
    whole = b"".join(pieces)
    at = PREFIX
    while at + _LEAD <= len(whole) and not whole[at]:
        at += _LEAD + int.from_bytes(whole[at + 1 : at + 5], "big")
    yield whole[:at]


def swap_keys(evidence_set: bytes) -> bytes:
    """Put a sealing key of the liar's own into every node's keyset, so that prompts would be sealed to the liar."""
    document = json.loads(evidence_set)
    swapped = []
    for text in document["bundles"]:
        bundle = json.loads(base64.b64decode(text))
        for key in bundle["keyset"]["hpke"]:
            mine = generate_key(key["suite"])
            key["pk"], key["kid"] = b64u(mine.pk), key_id(key["suite"], mine.pk)
        swapped.append(base64.b64encode(json.dumps(bundle, separators=(",", ":")).encode()).decode("ascii"))
    return json.dumps({**document, "bundles": swapped}).encode()


class Liar:
    """Use as a context; `url` is where its victims send. `touched` says whether it got to lie at all."""

    def __init__(self, gateway: str, lie: Lie) -> None:
        self.lie = lie
        self.gateway = gateway
        self.touched = False
        self.client = httpx2.Client(timeout=60.0, trust_env=False)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.liar = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True, name="liar")

    def __enter__(self) -> Liar:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.client.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    liar: Liar

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A victim that hangs up in disgust is what the demo is about: nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """Nothing is printed."""

    def do_GET(self) -> None:
        liar = self.server.liar
        reply = liar.client.get(liar.gateway + self.path, headers=self._headers())
        body = reply.content
        if reply.is_success and "/evidence" in self.path:
            body = liar.lie.evidence(body)
            liar.touched = True
        self.send_response(reply.status_code)
        self._pass_on(reply.headers)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        liar = self.server.liar
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with liar.client.stream("POST", liar.gateway + self.path, headers=self._headers(), content=body) as reply:
            pieces: Iterable[bytes] = reply.iter_raw()
            if reply.is_success:
                pieces = liar.lie.answer(pieces)
                liar.touched = True
            self.send_response(reply.status_code)
            self._pass_on(reply.headers)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(OSError):  # the victim has seen enough
                for piece in pieces:
                    if piece:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                        self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

    def _headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in _SKIPPED}

    def _pass_on(self, headers: Any) -> None:
        for name, value in headers.items():
            if name.lower() not in _SKIPPED:
                self.send_header(name, value)
