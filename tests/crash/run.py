# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402  the folders of the tests come first on the path
"""Kill the key service, its ledger and its witnesses again and again, and hold what is left to the promises of KEYS §3.

    python tests/crash/run.py --points 500 [--seed 1] [--folder DIR]

Each point is one life of a real `teehouse-keys`: it starts on what the life before it left, is asked for releases,
imports, rotations and new keys by several callers at once, and is killed: at a named point of the pipeline, or at a
random time; every few lives the ledger or the witness dies too. After each restart, without hands, must hold:

- every key that a caller got stands in the log as granted, under a checkpoint that witnesses signed before it came
- no entry that was ever seen in the ledger is lost, changed or doubled, and the tree is that of the checkpoint
- what a command's answer said has happened is in the state, and a version's bytes are the same for ever
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random  # noqa: TID251  the kill times of a test, repeatable by seed
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from doomed import POINTS
from support_keys import Outcome, Process, Requester, World, key_args, rotate_args

from teehouse_core.log.entry import AuditEntry
from teehouse_core.log.merkle import Frontier, leaf_hash
from teehouse_core.log.proof import TlogProof
from teehouse_core.wire.canonical import unb64u

START_SECONDS = 40.0
LIFE = 1.2  # seconds at most that a life is asked things


@dataclass
class Zygote:
    """The parent of all lives."""

    world: World
    process: subprocess.Popen[str] = field(init=False)
    pid: int = 0

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("doomed.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.world.environment,
        )

    def start(self, **order: Any) -> None:
        self.world.keys.ready_file.unlink(missing_ok=True)
        document = {"config": str(self.world.config_file), "log": str(self.world.keys.log), **order}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait_ready(self) -> bool:
        """Whether the service answers; False when it died on the way."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.world.keys.ready_file.exists():
                self.world.keys_url = str(json.loads(self.world.keys.ready_file.read_text())["url"])
                return True
            if not self.alive:
                return False
            time.sleep(0.005)
        raise AssertionError(f"not ready: {self.world.keys.log.read_text()[-3000:]}")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.alive:
            time.sleep(0.002)

    def close(self) -> None:
        if self.pid:
            self.kill()
        self.process.terminate()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@dataclass
class Book:
    """What callers were told, and what was seen in the ledger: all of it must stay true."""

    world: World
    tenant: str
    leaves: list[bytes] = field(default_factory=list)
    frontier: Frontier = field(default_factory=Frontier.empty)
    granted: dict[tuple[int, str], Outcome] = field(default_factory=dict)
    refused: list[Outcome] = field(default_factory=list)
    material: dict[tuple[str, str], str] = field(default_factory=dict)  # (key, version) → digest of its bytes
    done: list[tuple[int, str]] = field(default_factory=list)  # (index, leaf digest) of commands that were answered
    versions: dict[str, int] = field(default_factory=dict)  # key → highest version that an answer named
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: str, version: str, outcome: Outcome) -> None:
        """A requester's answer; a grant is checked now, under the witnesses' keys."""
        if outcome.code != "granted":
            with self.lock:
                if outcome.entry is not None:
                    self.refused.append(outcome)
            return
        assert outcome.answer is not None
        assert outcome.entry is not None
        self.world.check_note(self.tenant, TlogProof.parse(outcome.answer.proof).note)
        digest = hashlib.sha256(outcome.key).hexdigest()
        with self.lock:
            self.granted[(outcome.entry["index"], outcome.entry["leaf_sha256"])] = outcome
            assert self.material.setdefault((key, version), digest) == digest, "a version changed its bytes"

    def command(self, key: str, answer: dict[str, Any]) -> None:
        with self.lock:
            entry = answer["entry"]
            self.done.append((entry["index"], entry["leaf_sha256"]))
            number = answer["result"].get("version")
            if number is not None:
                self.versions[key] = max(self.versions.get(key, 0), int(number))

    def audit(self) -> None:
        """Read what is new in the ledger and hold everything to it."""
        world, log = self.world, f"tenant-{self.tenant}"
        again = max(0, len(self.leaves) - 50)  # the newest of what was seen is read again: nothing may have changed
        rows = world.records(log) if len(self.leaves) < 200 else world.records_from(log, again)
        start = rows[0]["index"] if rows else 0
        for row in rows:
            leaf = unb64u(row["leaf"])
            if row["index"] < len(self.leaves):
                assert self.leaves[row["index"]] == leaf, "an entry changed"
            else:
                assert row["index"] == len(self.leaves), "a gap"
                self.leaves.append(leaf)
        assert start + len(rows) == len(self.leaves), "entries were lost"
        checkpoint = world.check_note(self.tenant, world.checkpoint(log))
        assert checkpoint.size == len(self.leaves), "the service did not heal"
        self.frontier = self.frontier.extend([leaf_hash(leaf) for leaf in self.leaves[self.frontier.size :]])
        assert self.frontier.root() == checkpoint.root, "forked"
        entries = [AuditEntry.parse(leaf) for leaf in self.leaves]
        assert len({entry.id for entry in entries}) == len(entries), "an entry stands twice"
        for (index, digest), outcome in self.granted.items():
            assert hashlib.sha256(self.leaves[index]).hexdigest() == digest, "a key without its entry"
            entry = entries[index]
            assert (entry.op, entry.decision) == ("key.release", "granted")
            assert entry.evidence_sha256 == outcome.evidence_sha256
        for outcome in self.refused:
            assert outcome.entry is not None
            leaf = self.leaves[outcome.entry["index"]]
            assert hashlib.sha256(leaf).hexdigest() == outcome.entry["leaf_sha256"]
        for index, digest in self.done:
            assert hashlib.sha256(self.leaves[index]).hexdigest() == digest, "an answered command is not in the log"
        grants = sum(entry.decision == "granted" for entry in entries)
        assert grants >= len(self.granted)

    def check_state(self) -> None:
        """What answers said has happened is in the state."""
        rings = {ring["id"]: ring for ring in self.world.read(self.tenant)["rings"]}
        keys = [key for ring in rings.values() for key in ring["keys"]]
        held = {key["id"]: max((version["number"] for version in key["versions"]), default=0) for key in keys}
        for key, version in self.versions.items():
            assert held.get(key, 0) >= version, f"an answered version of {key} is gone"


@dataclass
class Drill:
    """All lives of one run."""

    world: World
    dice: random.Random
    points: int
    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    ring: str = "r0"
    made: int = 0

    def run(self) -> None:
        zygote = Zygote(self.world)
        try:
            zygote.start()
            assert zygote.wait_ready(), self.world.keys.log.read_text()[-3000:]
            tenant = self.world.new_tenant()
            self.world.new_ring(tenant, self.ring)
            self.world.new_key(tenant, self.ring, "base")
            self.book = Book(self.world, tenant)
            self.node = Requester()
            for at in range(self.points):
                self._life(zygote, at)
            zygote.kill()
            self._bring_back(zygote)
        finally:
            zygote.close()

    def _life(self, zygote: Zygote, at: int) -> None:
        """Kill the one before, start anew with a fault, check, ask, die."""
        zygote.kill()
        named = self.dice.random() < 0.6
        point = self.dice.choice(POINTS) if named else ""
        self.counts[point or "random time"] += 1
        self._bring_back(zygote, point=point, hit=self.dice.randint(1, 12))
        others = self._others()
        kill_at = time.monotonic() + (LIFE if named else self.dice.uniform(0.01, LIFE))
        with ThreadPoolExecutor(6) as pool:
            jobs = [
                pool.submit(self._quietly, job, kill_at)
                for job in (*[self._release] * 3, self._import, self._rotate, self._create)
            ]
            while time.monotonic() < kill_at and zygote.alive:
                time.sleep(0.005)
            if named and not zygote.alive:
                self.counts["killed at its point"] += 1
            zygote.kill()
            for job in jobs:
                job.result()
        for process, timer in others:
            timer.join()
            process.kill()
            process.start()
        if at % 25 == 24:
            self.say(f"{at + 1} lives, {len(self.book.leaves)} entries, {len(self.book.granted)} keys granted")

    def _others(self) -> list[tuple[Process, threading.Timer]]:
        """Now and then the ledger or a witness dies in the same life."""
        roll, found, timed = self.dice.random(), [], []
        if roll < 0.08:
            found.append(self.world.ledger)
        elif roll < 0.14:
            found.append(self.world.witnesses[0])
        for process in found:
            self.counts[f"{process.log.stem} killed"] += 1
            timer = threading.Timer(self.dice.uniform(0.0, LIFE), process.kill)
            timer.start()
            timed.append((process, timer))
        return timed

    def _bring_back(self, zygote: Zygote, **fault: Any) -> None:
        """Restart; with a fault that strikes before it is ready, start once more without."""
        if fault.get("point") and self.dice.random() < 0.25:
            zygote.start(**fault)  # strikes while healing, too
            if zygote.wait_ready() and self._healed(zygote):
                self._check()
                return
            self.counts["killed while healing"] += 1
            zygote.kill()
            fault = {}
        zygote.start()
        assert zygote.wait_ready(), self.world.keys.log.read_text()[-3000:]
        assert self._healed(zygote), self.world.keys.log.read_text()[-3000:]
        self._check()
        if fault:
            zygote.kill()
            zygote.start(**fault)
            if not zygote.wait_ready():
                self.counts["killed while starting"] += 1

    def _healed(self, zygote: Zygote) -> bool:
        """All logs out, without hands. False when the service died."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and zygote.alive:
            with contextlib.suppress(httpx2.HTTPError), self.world.http() as http:
                ready = http.get("/readyz").json()
                text = http.get("/metrics").text
                if not ready["stalled"] and "teehouse_keys_log_backlog 0\n" in text:
                    return True
            time.sleep(0.01)
        assert not zygote.alive, "it did not heal"
        return False

    def _check(self) -> None:
        if hasattr(self, "book"):
            self.book.audit()
            self.book.check_state()

    # ── what callers do ──────────────────────────────────────────────────────────────────────────────────────────

    def _quietly(self, job: Callable[[httpx2.Client], None], until: float) -> None:
        """Again and again until the life ends; a connection that breaks is what this is about."""
        with self.world.http() as http:
            while time.monotonic() < until:
                try:
                    job(http)
                except (httpx2.HTTPError, _Gone):
                    if time.monotonic() < until:
                        time.sleep(0.02)

    def _release(self, http: httpx2.Client) -> None:
        service = self._service()
        with self.book.lock:
            known = [(key, str(n)) for key, n in self.book.versions.items()]
        key, version = random.choice([*known[-8:], ("base", "1")])
        endpoint = {} if random.random() < 0.8 else {"endpoint": "ep-20260101000000-others"}
        outcome = self.node.ask(
            http, service, tenant=self.book.tenant, ring=self.ring, key=key, version=version, changes=endpoint
        )
        self.counts[f"release {outcome.code}"] += 1
        self.book.take(key, version, outcome)

    def _create(self, _http: httpx2.Client) -> None:
        name = self._name("k")
        self._command("key.create", key_args(name), name)

    def _rotate(self, _http: httpx2.Client) -> None:
        with self.book.lock:
            made = [key for key in self.book.versions if key.startswith("k")]
        key = random.choice([*made[-8:], *([] if made else ["base"])])
        self._command("key.rotate", rotate_args(key), key)

    def _import(self, _http: httpx2.Client) -> None:
        name, secret = self._name("i"), os.urandom(32)
        service = self._service()
        args, payload = self.world.import_args(self.book.tenant, self.ring, name, secret, service)
        if self._command("key.import", args, name, payload=payload):
            with self.book.lock:
                self.book.material[(name, "1")] = hashlib.sha256(secret).hexdigest()

    def _command(self, op: str, args: dict[str, Any], key: str, **how: Any) -> bool:
        service = self._service()
        with self._seq:
            response = self.world.send(
                self.world.command(
                    self.book.tenant, self.ring, self._next_seq(service), op, args, keyset=service, **how
                )
            )
        self.counts[f"{op} {response.status_code}"] += 1
        if response.status_code != 200:
            return False
        self.book.command(key, response.json())
        return True

    _seq = threading.Lock()

    def _next_seq(self, service: Any) -> int:
        request = self.world.command(self.book.tenant, "", 0, "state.read", {}, keyset=service)
        response = self.world.send(request)
        if response.status_code != 200:
            raise _Gone
        rings = response.json()["result"]["rings"]
        return next(int(ring["seq"]) for ring in rings if ring["id"] == self.ring) + 1

    def _service(self) -> Any:
        """The service's keyset: without appraisal, which other tests do."""
        from teehouse_core.wire.keyset import Keyset

        with self.world.http() as http:
            response = http.get("/v1/keyset")
        if response.status_code != 200:
            raise _Gone
        return Keyset.parse(response.content)

    def _name(self, prefix: str) -> str:
        with self.book.lock:
            self.made += 1
            return f"{prefix}{self.made}"


class _Gone(Exception):  # noqa: N818
    """The service is dying."""


def drill(folder: Path, points: int, seed: int, say: Callable[[str], None] = lambda _text: None) -> Drill:
    """Run `points` lives in `folder`. Raises AssertionError when a promise was broken."""
    world = World(folder)
    try:
        for process in (world.ledger, *world.witnesses):
            process.launch()
        for process in (world.ledger, *world.witnesses):
            process.wait_ready()
        run = Drill(world, random.Random(seed), points, say)
        run.run()
        return run
    finally:
        world.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        run = drill(given.folder or Path(temporary), given.points, given.seed, lambda text: print(text, flush=True))
    print(json.dumps(dict(sorted(run.counts.items())), indent=1))
    book = run.book
    print(
        f"{given.points} points in {time.monotonic() - began:.0f} s: {len(book.leaves)} entries,"
        f" {len(book.granted)} keys granted, {len(book.done)} commands answered; nothing lost, forked or unlogged"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
