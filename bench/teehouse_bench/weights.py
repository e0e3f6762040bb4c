# SPDX-License-Identifier: Apache-2.0
"""Bench `weights`: encrypting and opening model weights beside `openssl speed -evp aes-256-gcm` in the same run.

`chunks` is our cipher alone, on one core, in memory. `encrypt` and `open` are the whole pipeline of one file, from
memory to nowhere: chunks, SHA-256 of the plaintext, threads; that digest is what a node publishes, it cannot be divided
among cores, and where a processor hashes slower than it encrypts it is what decides. `files` goes from file to file
with fsync, beside a copy with fsync. `node` is what a node does before its engine starts: parts to sealed memory.
All rates are megabytes (10⁶ bytes) of plaintext in a second of the clock.
"""

from __future__ import annotations

import gc
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse.models.decrypt import Sealed, decrypt_model
from teehouse.models.encrypt import encrypt_model
from teehouse.models.lanes import Lanes, sha256
from teehouse_bench.machine import Busy, program
from teehouse_bench.results import Budget, Case, Result, Row
from teehouse_bench.sides import Sides, turns
from teehouse_bench.stats import Spread
from teehouse_core.weights.chunks import PartCipher
from teehouse_core.weights.plan import CHUNK_SIZE, HEADER_SIZE, PART_CHUNKS, Cut, Part
from teehouse_core.wire.canonical import b64u
from teehouse_enclave.engine.spec import EngineSpec
from teehouse_enclave.node.weights import SealedWeights, WeightsConfig

__all__ = ["run_weights"]

KEY, SALT = bytes(range(32)), bytes(range(32))
CHUNK_AIM, WHOLE_AIM = 0.9, 0.85  # of openssl's rate; of the slower of openssl's rate and the library's SHA-256
Rate = Callable[[], float]


def run_weights(result: Result, budget: Budget, *, quick: bool, tiny: bool) -> None:
    """Four cases; each side says how many MB/s it made."""
    openssl = program("openssl")
    if openssl is None:
        result.skip("weights", "the openssl program is not installed")
        return
    rounds = 2 if tiny else 3 if quick else 5
    size = CHUNK_SIZE * (8 if tiny else 64 if quick else PART_CHUNKS)
    plain = memoryview(secrets.token_bytes(size))
    memory = _Memory(plain)
    speed = partial(_openssl, openssl)
    digest = partial(_rate, size, lambda: hashlib.sha256(plain).digest())
    chunks = {"ours": partial(_rate, size, memory.chunks), "openssl": speed}
    _case(result, budget, "chunks in memory, one core", rounds, chunks, CHUNK_AIM)
    for name, call in (("encrypt", memory.encrypt), ("open", memory.open)):
        sides = {"ours": partial(_rate, size, call), "openssl": speed, "sha256": digest}
        _case(result, budget, f"{name} one file, memory to nowhere", rounds, sides, WHOLE_AIM)
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as folder:
        files = _Files(Path(folder), plain)
        _case(result, budget, "encrypt, file to file", rounds, {"ours": files.encrypt, "copy": files.copy}, None)
        _case(result, budget, "decrypt, file to file", rounds, {"ours": files.decrypt, "copy": files.copy}, None)
        _case(result, budget, "node: parts to sealed memory", rounds, {"ours": files.node, "sha256": digest}, None)


class _Memory:
    """One part's worth of plaintext and ciphertext, nothing on a disk."""

    def __init__(self, plain: memoryview) -> None:
        self._plain = plain
        part = Part(Cut(bytes(16)), 0, "model.gguf", len(plain), 0)
        self._cipher = PartCipher(KEY, part, SALT)
        self._sealed = bytearray(part.sealed_size - HEADER_SIZE)
        self._lanes = Lanes(part.cut, threading.Event(), lambda _count: None)
        self.chunks()

    def chunks(self) -> None:
        self._cipher.seal_into(0, self._cipher.part.chunks, self._plain, memoryview(self._sealed))

    def encrypt(self) -> None:
        self._lanes.seal(self._cipher, _reader(self._plain), lambda _view: None, sha256())

    def open(self) -> None:
        self._lanes.open(self._cipher, _reader(memoryview(self._sealed)), None, sha256())


class _Files:
    """One file of the bench's size, encrypted and decrypted on the disk of the temporary folder."""

    def __init__(self, folder: Path, plain: memoryview) -> None:
        self._folder = folder
        self._size = len(plain)
        self._source = folder / "model.gguf"
        self._source.write_bytes(plain)
        self._publisher = Ed25519PrivateKey.generate()
        self._pk = self._publisher.public_key().public_bytes_raw()
        self._sealed = folder / "sealed"
        self._encrypt(self._sealed)

    def _encrypt(self, out: Path) -> None:
        encrypt_model(self._source, out, model="bench", data_key=KEY, publisher=self._publisher)

    def encrypt(self) -> float:
        return self._into(self._encrypt)

    def decrypt(self) -> float:
        sealed = Sealed.open(self._sealed, data_key=KEY, publishers={self._pk})
        return self._into(partial(decrypt_model, sealed))

    def copy(self) -> float:
        def copy(out: Path) -> None:
            out.mkdir()
            shutil.copyfile(self._source, out / "copy")
            fd = os.open(out / "copy", os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

        return self._into(copy)

    def node(self) -> float:
        raw = {"path": str(self._sealed), "publishers": [b64u(self._pk)], "allow_swap": True}
        spec = EngineSpec.parse({"kind": "llamacpp", "name": "bench", "path": "-"})
        began = time.perf_counter()
        opened = SealedWeights.open(WeightsConfig.parse(raw), spec).load(KEY)
        rate = self._size / (time.perf_counter() - began) / 1e6
        opened.close()
        return rate

    def _into(self, work: Callable[[Path], object]) -> float:
        out = self._folder / "out"
        os.sync()  # what other rounds left to write would be paid by this one
        began = time.perf_counter()
        work(out)
        rate = self._size / (time.perf_counter() - began) / 1e6
        shutil.rmtree(out)
        return rate


def _reader(data: memoryview) -> Callable[[memoryview], None]:
    at = 0

    def read(view: memoryview) -> None:
        nonlocal at
        view[:] = data[at : at + len(view)]
        at += len(view)

    return read


def _rate(size: int, call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return size / (time.perf_counter() - began) / 1e6


def _openssl(path: str) -> float:
    """What `openssl speed` says for blocks of the size of our chunks, in MB/s; NaN when it says nothing."""
    command = [path, "speed", "-elapsed", "-seconds", "1", "-bytes", str(CHUNK_SIZE), "-evp", "aes-256-gcm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(done.stdout.strip().rsplit(" ", 1)[-1].removesuffix("k")) / 1000
    except ValueError:
        return float("nan")


def _case(result: Result, budget: Budget, name: str, rounds: int, sides: Mapping[str, Rate], aim: float | None) -> None:
    def time_one(side: str) -> dict[str, Any]:
        gc.collect()
        busy, cpu, began = Busy.now(), time.process_time(), time.perf_counter()
        rate = sides[side]()
        wall, used, after = time.perf_counter() - began, time.process_time() - cpu, Busy.now()
        return {
            "megabytes_per_second": rate,
            "wall": wall,
            "cpu": {"own": used},
            "machine_cpu": after.used - busy.used,
            "stolen": after.stolen - busy.stolen,
        }

    def measure(case: Case) -> None:
        for side, call in sides.items():
            if side != "openssl":
                call()
        for _ in turns(case, budget, tuple(sides), rounds, time_one):
            pass
        words = {"openssl": "openssl speed", "sha256": "SHA-256 of the library", "copy": "a copy with fsync"}
        others = tuple(sides)[1:]
        medians: list[float] = []
        spreads: list[Spread] = []
        for other in others:
            # `openssl` is another process: what it uses would look like a neighbour's, so nothing is said of them
            both = Sides(case, "ours", other, 10**6)
            ours, theirs, _, ratio = both.compare(f"MB/s, beside {words[other]}", _megabytes)
            medians.append(theirs.median)
            case.rows.append(
                Row(
                    f"MB/s, beside {words[other]}",
                    f"{ours.median:,.0f} MB/s",
                    f"{theirs.median:,.0f} MB/s",
                    f"× {ratio.median:.2f}",
                    f"{ratio.low:.2f} … {ratio.high:.2f}",
                )
            )
            spreads.append(ratio)
        if aim is not None:  # it counts beside the slower of the two things that cannot be left out
            place = medians.index(min(medians))
            reached = spreads[place].median >= aim
            case.rows[place] = replace(
                case.rows[place], aim=f"≥ × {aim:g}", reached=reached, agree=spreads[place].agrees(aim)
            )

    result.run(name, {"rounds": rounds}, measure)


def _megabytes(one: dict[str, Any]) -> float:
    return float(one["megabytes_per_second"])
