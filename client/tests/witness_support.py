# SPDX-License-Identifier: Apache-2.0
"""A log that signs what a test tells it, and `teehouse-witness` as a real process."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import EMPTY_ROOT, Frontier, consistency_proof, leaf_hash, new_nodes
from teehouse_core.log.note import Note, Signature, VerifierKey, parse_signatures
from teehouse_core.log.signing import log_key, sign_note, verify_detached
from teehouse_core.log.witness import AddCheckpoint, NewestStatement
from teehouse_core.wire.canonical import b64u, unb64u

NAME = "witness.example/w1"
TKS = "tks.example"


class Log:
    """A tree with its key. `story` tells trees apart: another story is another tree of the same sizes."""

    def __init__(self, key: Ed25519PrivateKey, origin: str = f"{TKS}/tenant/acme", story: str = "") -> None:
        self.key = key
        self.origin = origin
        self._story = story
        self._frontier = Frontier.empty()
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._roots = [EMPTY_ROOT]

    @property
    def vkey(self) -> VerifierKey:
        return log_key(self.origin, self.key.public_key())

    def grow(self, size: int) -> None:
        while self._frontier.size < size:
            leaves = [leaf_hash(f"{self._story} {self._frontier.size}".encode())]
            for level, index, value in new_nodes(self._frontier, leaves):
                self._nodes[level, index] = value
            self._frontier = self._frontier.extend(leaves)
            self._roots.append(self._frontier.root())

    def root(self, size: int) -> bytes:
        self.grow(size)
        return self._roots[size]

    def proof(self, old: int, size: int) -> tuple[bytes, ...]:
        self.grow(size)
        return tuple(consistency_proof(lambda level, index: self._nodes[level, index], old, size))

    def note(self, size: int, *, name: str | None = None, key: Ed25519PrivateKey | None = None) -> Note:
        text = Checkpoint(self.origin, size, self.root(size)).text()
        return Note(text, (sign_note(text, name or self.origin, key or self.key),))

    def request(self, old: int, size: int, **changes: Any) -> bytes:
        note = changes.pop("note", None) or self.note(size)
        proof = changes.pop("proof", None)
        return AddCheckpoint(old, self.proof(old, size) if proof is None else proof, note).to_bytes()


class WitnessProcess:
    """`teehouse-witness serve` with its key and state in one folder; may be killed and started again."""

    def __init__(self, folder: Path, *options: str, file_limit: int | None = None) -> None:
        self.folder = folder
        self.key, self.state, self.ready = folder / "w.key", folder / "w.db", folder / "ready.json"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._file_limit = file_limit
        self.url = ""
        if not self.key.exists():
            made = self.command("init", "--key", self.key, "--state", self.state, "--name", NAME, "--json")
            assert made.returncode == 0, made.stderr
            self.vkey = VerifierKey.parse(json.loads(made.stdout)["vkey"])
        else:
            shown = self.command("show", "--state", self.state)
            self.vkey = VerifierKey.parse(json.loads(shown.stdout)["vkey"])

    @staticmethod
    def command(*argv: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "teehouse.witness.main", *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def start(self) -> None:
        limit = self._file_limit

        def bound() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        self.ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "teehouse.witness.main", "serve", "--key", self.key, "--state", self.state]
        command += ["--listen", "127.0.0.1:0", "--ready-file", self.ready, *self._options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=log, preexec_fn=bound
            )
        end = time.monotonic() + 30
        while not self.ready.exists():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.01)
        self.url = json.loads(self.ready.read_text())["url"]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def lift_limit(self) -> None:
        self._file_limit = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def terminate(self) -> int:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGTERM)
        status = self._process.wait(20)
        self._process = None
        return status

    def connect(self) -> http.client.HTTPConnection:
        where = urlsplit(self.url)
        return http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def add(self, body: bytes) -> tuple[int, str, bytes]:
        return self.call("POST", "/add-checkpoint", body)

    def cosigned(self, body: bytes) -> tuple[Signature, int]:
        """Send what must be cosigned; the verified cosignature and its time."""
        status, kind, answer = self.add(body)
        assert (status, kind) == (200, "text/plain; charset=utf-8"), answer
        (signature,) = parse_signatures(answer)
        when = verify_detached(AddCheckpoint.parse(body).note.text, signature, self.vkey)
        assert when is not None
        return signature, when

    def newest(self, origin: str) -> NewestStatement:
        nonce = os.urandom(32)
        status, _, body = self.call("GET", f"/newest?origin={quote(origin, safe='')}&nonce={b64u(nonce)}")
        assert status == 200, body
        document = json.loads(body)
        statement = NewestStatement.parse(unb64u(document["statement"]))
        public = Ed25519PublicKey.from_public_bytes(self.vkey.key)
        public.verify(unb64u(document["sig"], 64), statement.signed())
        assert (statement.origin, statement.nonce) == (origin, nonce)
        return statement


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def first_of(answers: Sequence[tuple[int, str, bytes]]) -> list[int]:
    return sorted(status for status, _, _ in answers)
