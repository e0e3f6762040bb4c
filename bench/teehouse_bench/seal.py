# SPDX-License-Identifier: Apache-2.0
"""Bench `seal`: the sealed/1 machine per call, beside the bare library calls that it cannot do without.

`ciphers` are HPKE and AES-256-GCM over the same bytes, and nothing else: no header, no digest, no commitment, no
check. `ciphers and digests` adds the SHA-256 and HMAC that the protocol asks for, so that what remains is our own code.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as hmac_state
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

from teehouse_bench.machine import Busy, program
from teehouse_bench.results import Budget, Case, Result, Row
from teehouse_bench.sides import Sides, turns
from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Accepted
from teehouse_core.seal.bhttp import bucket
from teehouse_core.seal.client import ResponseOpener, SealedRequest, seal_request
from teehouse_core.seal.node import ResponseSealer, open_request
from teehouse_core.seal.replay import SeenSet
from teehouse_core.wire.keyset import Capabilities, Model, Software
from teehouse_core.wire.records import MAX_PLAINTEXT
from teehouse_enclave.node.config import Limits
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.keys import Identity, NodeKeys
from teehouse_enclave.platform.base import measure_workload
from teehouse_enclave.platform.simulated import SimulatedPlatform

__all__ = ["run_seal"]

ENDPOINT = "ep-bench-seal"
REQUEST_AIM, RECORD_AIM = 1.2, 1.5  # PERFORMANCE §4
SIZES = (("1 KB", 1_000), ("200 KB", 200_000), ("20 MB", 20_000_000))
TOKEN = 200  # bytes of one token as a server-sent event


@dataclass(frozen=True, slots=True)
class Node:
    """One node's keys and its appraised keyset, all in this process."""

    keys: NodeKeys
    accepted: Accepted
    now: int


def make_node(name: str = "node") -> Node:
    """Keys as a node makes them, evidence by the simulated platform, appraised under `evaluate`."""
    now = int(time.time())
    platform = SimulatedPlatform()
    zeros = "0" * 64
    closed = {"egress": "none", "content_logging": "none", "moderation": "none"}
    measure_workload(
        platform,
        release="bench",
        image_sha256=zeros,
        config_sha256=zeros,
        weights_sha256=zeros,
        model="bench",
        doors=(),
        **closed,
    )
    identity = Identity(
        ENDPOINT, name, Model("bench", zeros), Software("bench", zeros, zeros), Capabilities(doors=(), **closed)
    )
    keys = NodeKeys(identity, Limits(), now)
    challenge = secrets.token_bytes(32)
    bundle = EvidenceMaker(platform, 50).bundle(keys.keyset, challenge, time.monotonic())
    verdict = appraise(bundle, Policy.preset("evaluate"), now, endpoint=ENDPOINT, nonce=challenge)
    return Node(keys, verdict.accept(), now)


def content_of(size: int) -> bytes:
    """A chat request of about `size` bytes; large ones carry an image, as large ones do."""
    text = base64.b64encode(secrets.token_bytes(max(1, size * 3 // 4 - 150))).decode()
    part: dict[str, Any] = {"type": "text", "text": text}
    if size > 100_000:
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}
    return json.dumps({"model": ENDPOINT, "stream": True, "messages": [{"role": "user", "content": [part]}]}).encode()


def seal_one(nodes: list[Node], content: bytes) -> SealedRequest:
    """What the SDK calls for every request."""
    return seal_request(
        [node.accepted for node in nodes],
        endpoint=ENDPOINT,
        op="chat.completions",
        content=content,
        account="0" * 16,
        now=nodes[0].now,
        random=secrets.token_bytes,
        cache_secret=bytes(32),
    )


def open_one(node: Node, frame: bytes) -> None:
    """What a node does with a frame until the engine could start."""
    opened = open_request(frame, endpoint=ENDPOINT, keyring=node.keys.ring, seen=SeenSet(8), now=node.now)
    opened.read()


class Bare:
    """The library calls under one request, on the same number of bytes."""

    def __init__(self, size: int) -> None:
        self._suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        self._private = MLKEM768X25519PrivateKey(
            mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
        )
        self._public = self._private.public_key()
        self._plain = bytes(bucket(size))
        self._envelope = self._suite.encrypt(bytes(96), self._public, bytes(60))
        self._sealed = self._records()

    def _records(self) -> list[bytes]:
        aead, plain = AESGCM(bytes(32)), memoryview(self._plain)
        cuts = range(0, len(plain), MAX_PLAINTEXT)
        return [
            aead.encrypt(number.to_bytes(12, "big"), plain[at : at + MAX_PLAINTEXT], b"aad..")
            for number, at in enumerate(cuts)
        ]

    def seal(self, candidates: int = 1) -> None:
        for _ in range(candidates):
            self._suite.encrypt(bytes(96), self._public, bytes(60))
        self._records()

    def open(self) -> None:
        self._suite.decrypt(self._envelope, self._private, bytes(60))
        aead = AESGCM(bytes(32))
        for number, record in enumerate(self._sealed):
            aead.decrypt(number.to_bytes(12, "big"), record, b"aad..")

    def seal_and_digest(self) -> None:
        self.seal()
        self._digest()

    def open_and_digest(self) -> None:
        self.open()
        self._digest()

    def _digest(self) -> None:
        """The body's SHA-256, without which no header can name the body."""
        state = hashlib.sha256()
        for record in self._sealed:
            state.update(record)
        state.digest()


def run_seal(result: Result, budget: Budget, *, quick: bool, tiny: bool) -> None:
    """Requests of three sizes, records of one token, and what the ciphers alone would do."""
    rounds = 3 if tiny or quick else 11
    target = 0.02 if tiny else 0.05 if quick else 0.15  # seconds that one side of a round is repeated for
    nodes = [make_node("node"), make_node("other")]
    for label, size in SIZES[:2] if tiny else SIZES:
        content = content_of(size)
        bare, frame = Bare(len(content) + 200), seal_one(nodes[:1], content).frame
        _pair(
            result,
            budget,
            f"seal request, {label}",
            rounds,
            target,
            {
                "ours": partial(seal_one, nodes[:1], content),
                "ciphers": bare.seal,
                "digests": bare.seal_and_digest,
            },
            REQUEST_AIM,
        )
        if size < 10_000:
            _pair(
                result,
                budget,
                f"seal request for two nodes, {label}",
                rounds,
                target,
                {"ours": partial(seal_one, nodes, content), "ciphers": partial(bare.seal, 2)},
                REQUEST_AIM,
            )
        _pair(
            result,
            budget,
            f"open request, {label}",
            rounds,
            target,
            {
                "ours": partial(open_one, nodes[0], frame),
                "ciphers": bare.open,
                "digests": bare.open_and_digest,
            },
            REQUEST_AIM,
        )
    _records(result, budget, nodes[0], rounds, 200 if tiny else 2000)
    _openssl(result, quick or tiny)


def _records(result: Result, budget: Budget, node: Node, rounds: int, count: int) -> None:
    """A stream's records; one call of the benches below is `count` records."""
    request = seal_one([node], content_of(1000))
    opened = open_request(request.frame, endpoint=ENDPOINT, keyring=node.keys.ring, seen=SeenSet(8), now=node.now)
    data = (b'data: {"choices":[{"delta":{"content":"' + b"t" * TOKEN)[:TOKEN]
    aead, padded = AESGCM(bytes(32)), bytes(256)  # a record of 205 bytes is padded to 256
    nonces = [number.to_bytes(12, "big") for number in range(count)]
    ciphertext = aead.encrypt(nonces[0], padded, b"aad..")

    def sealer() -> ResponseSealer:
        made = ResponseSealer(opened, bytes(32))
        made.head(200, ())
        return made

    def ours_seal() -> None:
        one = sealer()
        for _ in range(count):
            one.body(data)

    def ciphers_seal() -> None:
        for nonce in nonces:
            aead.encrypt(nonce, padded, b"aad..")

    def digests_seal() -> None:
        state = hmac_state.HMAC(bytes(32), hashes.SHA256())
        for nonce in nonces:
            state.update(data)
            aead.encrypt(nonce, padded, b"aad..")

    one = sealer()
    head = ResponseSealer(opened, bytes(32)).head(200, ())
    wire = [one.body(data) for _ in range(count)]

    def ours_open() -> None:
        opener = ResponseOpener(request)
        opener.feed(head)
        for record in wire:
            opener.feed(record)

    def ciphers_open() -> None:
        for _ in range(count):
            aead.decrypt(nonces[0], ciphertext, b"aad..")

    def digests_open() -> None:
        state = hmac_state.HMAC(bytes(32), hashes.SHA256())
        for _ in range(count):
            aead.decrypt(nonces[0], ciphertext, b"aad..")
            state.update(data)

    sides = {"ours": ours_seal, "ciphers": ciphers_seal, "digests": digests_seal}
    _pair(result, budget, f"seal record, {TOKEN} B", rounds, 0.0, sides, RECORD_AIM, per=count)
    sides = {"ours": ours_open, "ciphers": ciphers_open, "digests": digests_open}
    _pair(result, budget, f"open record, {TOKEN} B", rounds, 0.0, sides, RECORD_AIM, per=count)


def _pair(
    result: Result,
    budget: Budget,
    name: str,
    rounds: int,
    target: float,
    sides: Mapping[str, Callable[[], object]],
    aim: float,
    *,
    per: int = 1,
) -> None:
    """Time every side in turns; `per` operations happen in one call."""

    def measure(case: Case) -> None:
        calls = {}
        for side, call in sides.items():
            began = time.perf_counter()
            call()
            calls[side] = max(1, round(target / (time.perf_counter() - began)))

        def time_one(side: str) -> dict[str, Any]:
            call, number = sides[side], calls[side]
            gc.collect()
            busy, cpu, began = Busy.now(), time.process_time(), time.perf_counter()
            for _ in range(number):
                call()
            wall, used, after = time.perf_counter() - began, time.process_time() - cpu, Busy.now()
            return {
                "microseconds": used / number / per * 1e6,  # of CPU, which a neighbour disturbs less than the clock
                "wall_microseconds": wall / number / per * 1e6,
                "wall": wall,
                "cpu": {"own": used},
                "machine_cpu": after.used - busy.used,
                "stolen": after.stolen - busy.stolen,
            }

        for _ in turns(case, budget, tuple(sides), rounds, time_one):
            pass
        _tell(case, tuple(sides)[1:], aim)

    settings = {"rounds": rounds, "target seconds": target, "operations per call": per}
    result.run(name, settings, measure)


def _tell(case: Case, others: tuple[str, ...], aim: float) -> None:
    words = {"ciphers": "bare ciphers", "digests": "bare ciphers and digests"}
    for other in others:
        # the machine-wide clock ticks too coarsely for rounds of milliseconds: no word about neighbours here
        sides = Sides(case, "ours", other, 10**6)
        ours, theirs, _, ratio = sides.compare(f"µs per call, beside {words[other]}", lambda one: one["microseconds"])
        first = other == "ciphers"
        case.rows.append(
            Row(
                f"CPU per call, beside {words[other]}",
                _time(ours.median),
                _time(theirs.median),
                f"× {ratio.median:.2f}",
                f"{ratio.low:.2f} … {ratio.high:.2f}",
                f"≤ × {aim:g}" if first else "",
                ratio.median <= aim if first else None,
                ratio.agrees(aim) if first else True,
            )
        )


def _time(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms" if microseconds >= 1000 else f"{microseconds:.2f} µs"


def _openssl(result: Result, short: bool) -> None:
    """`openssl speed` for AES-256-GCM, to see what the machine's ciphers can do at all."""
    path = program("openssl")
    if path is None:
        result.skip("openssl speed", "the openssl program is not installed")
        return

    def measure(case: Case) -> None:
        for size in (256,) if case.settings["short"] else (256, 16384):
            command = [path, "speed", "-elapsed", "-seconds", "1" if short else "2", "-bytes", str(size)]
            done = subprocess.run([*command, "-evp", "aes-256-gcm"], capture_output=True, text=True, check=False)
            word = done.stdout.strip().rsplit(" ", 1)[-1].removesuffix("k")
            try:
                rate = float(word) * 1000
            except ValueError:
                case.skipped = "openssl speed said nothing that can be read"
                return
            case.rounds.append({"bytes": size, "bytes_per_second": rate})
            case.rows.append(
                Row(f"AES-256-GCM, {size} B", "", f"{rate / 1e9:.2f} GB/s, {size / rate * 1e6:.2f} µs", "", "one run")
            )

    result.run("openssl speed", {"short": short}, measure)
