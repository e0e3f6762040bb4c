# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402  the folders of the tests come first on the path
"""Kill the key service, its ledger and its witnesses again and again, and hold what is left to the promises of KEYS §3.

    python tests/crash/run.py --points 500 [--seed 1] [--folder DIR]

Each point is one life of a real `teehouse-keys`: it starts on what the life before it left, is asked for releases,
imports, rotations, new keys and the end of keys by several callers at once while a pool goes from epoch to epoch, and
is killed: at a named point of the pipeline, or at a random time; every few lives the ledger or the witness dies too. In
other lives a node that runs the product's own code is killed in the middle of a release. After each restart, without
hands, must hold:

- every key that a caller or a node got stands in the log as granted, under a checkpoint that witnesses signed before it
  came; no request was decided twice
- no entry that was ever seen in the ledger is lost, changed or doubled, and the tree is that of the checkpoint
- what a command's answer said has happened is in the state, and a version's bytes are the same for ever
- a key whose destruction was promised is destroyed, one whose destruction was called off is not; after its entry no
  version is given out, and its slot is in no file
- a pool's epochs are logged before they are published, never go back, and keep their key
- a node that died leaves nothing behind, and the next one gets the key
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random  # noqa: TID251  the kill times of a test, repeatable by seed
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from book import POOL_KEY, POOL_RING, Book, Gone
from doomed import GRACE, NODE_POINTS, POINTS, RARE_POINTS
from support_keys import (
    ENDPOINT,
    POOL_POLICY,
    Process,
    Requester,
    World,
    key_args,
    pool_args,
    rotate_args,
)
from zygote import START_SECONDS, Zygote, lives

from teehouse_core.wire.keyset import Keyset

LIFE = 1.2  # seconds at most that a life is asked things
NODE_SECONDS = 20.0  # that a node may take
ENOUGH = 250  # keys that are made without hesitation
KINDS = (("point", 0.35), ("rare point", 0.2), ("node", 0.2), ("random time", 0.25))  # and their shares


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
    nodes: int = 0
    over: threading.Event = field(default_factory=threading.Event)  # the life that callers speak to

    def run(self) -> None:
        zygote = Zygote(self.world)
        try:
            zygote.start()
            assert zygote.wait_ready(), self.world.keys.log.read_text()[-3000:]
            world, tenant = self.world, self.world.new_tenant()
            world.new_ring(tenant, self.ring)
            world.new_key(tenant, self.ring, "base")
            world.new_ring(tenant, POOL_RING, "session", seq=3)
            world.new_key(tenant, POOL_RING, POOL_KEY, algorithm="mlkem768x25519", policy=POOL_POLICY)
            world.do(tenant, POOL_RING, 2, "pool.create", pool_args())
            self.book = Book(world, tenant, self.ring)
            self.node = Requester()
            for at in range(self.points):
                self._life(zygote)
                if at % 25 == 24:
                    self.say(f"{at + 1} lives, {len(self.book.leaves)} entries, {len(self.book.granted)} keys granted")
            zygote.kill()
            self._bring_back(zygote)
        finally:
            zygote.close()

    def _life(self, zygote: Zygote) -> None:
        """Kill the one before, start anew with a fault, check, ask, die."""
        zygote.kill()
        (kind,) = self.dice.choices([name for name, _ in KINDS], [share for _, share in KINDS])
        self.counts[kind] += 1
        if kind == "node":
            self._bring_back(zygote)
            with self._callers():
                self._node_dies(zygote)
            zygote.kill()
            return
        fault: dict[str, Any] = {}
        if kind != "random time":
            rare = kind == "rare point"
            point = self.dice.choice(RARE_POINTS if rare else POINTS)
            fault = {"point": point, "hit": self.dice.randint(1, 3 if rare else 12)}
            self.counts[f"{kind} {point}"] += 1
        self._bring_back(zygote, **fault)
        others = self._others()
        kill_at = time.monotonic() + (LIFE if fault else self.dice.uniform(0.01, LIFE))
        with self._callers():
            while time.monotonic() < kill_at and zygote.alive:
                time.sleep(0.005)
            if fault and not zygote.alive:
                self.counts["killed at its point"] += 1
            zygote.kill()
        for process, timer in others:
            timer.join()
            process.kill()
            process.start()

    @contextlib.contextmanager
    def _callers(self) -> Iterator[None]:
        """All that callers do, until the block ends."""
        self.over.clear()
        jobs = (*[self._release] * 3, self._import, self._rotate, self._create, self._end, self._look_at_pool)
        with ThreadPoolExecutor(len(jobs)) as pool:
            try:
                under_way = [pool.submit(self._quietly, job) for job in jobs]
                yield
            finally:
                self.over.set()
            for job in under_way:
                job.result()

    def _node_dies(self, zygote: Zygote) -> None:
        """A node is killed in the middle of a release; the service goes on, and the next node gets the key."""
        in_pool, point = self.dice.random() < 0.5, self.dice.choice(NODE_POINTS)
        often = point.startswith(("node.ask", "node.waiting"))
        hit = self.dice.randint(1, (4 if in_pool else 3) if often else 1)
        self.counts[f"node {point}"] += 1
        died = not self._node(zygote, in_pool, point=point, hit=hit)
        self.counts["node killed at its point"] += died
        assert self._node(zygote, in_pool), f"no key for the next node: {self._diary.read_text()}"
        deadline = time.monotonic() + 5
        self.over.set()
        while True:
            with self.world.http() as http:
                text = http.get("/metrics").text
            if "teehouse_keys_active 1\n" in text:  # the one who asks for the metrics
                break
            assert time.monotonic() < deadline, f"a dead node's request is still there: {text}"
            time.sleep(0.01)

    def _node(self, zygote: Zygote, in_pool: bool, **fault: Any) -> bool:
        """One node's life: whether it got a key. What its diary says goes into the book."""
        self.nodes += 1
        self._diary = self.world.folder / f"node-{self.nodes}.diary"
        order = {
            "url": self.world.keys_url,
            "tenant": self.book.tenant,
            "ring": self.ring,
            "key": "base",
            "version": "1",
            "pool": in_pool,
            "diary": str(self._diary),
            "tries": 50,
        }
        pid, deadline = zygote.start_node(order, **fault), time.monotonic() + NODE_SECONDS
        while lives(pid):
            assert time.monotonic() < deadline, "a node hangs"
            time.sleep(0.005)
        lines = [json.loads(line) for line in self._diary.read_text().splitlines()] if self._diary.exists() else []
        got = [line for line in lines if "got" in line]
        for line in got:
            self.book.got(line["got"], line["evidence"], line["key"], line["version"], line["digest"])
        self.book.asked.update(line["asked"] for line in lines if "asked" in line)
        self.book.received.update(line["evidence"] for line in got)
        return bool(got)

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
        """Restart and check; with a fault, sometimes so that it strikes while that is done, too."""
        if fault and self.dice.random() < 0.25:
            zygote.start(**fault)
            if self._checked(zygote):
                return
            self.counts["killed while healing"] += 1
            zygote.kill()
            fault = {}
        zygote.start()
        assert self._checked(zygote), self.world.keys.log.read_text()[-3000:]
        if fault:
            zygote.kill()
            zygote.start(**fault)
            if not zygote.wait_ready():
                self.counts["killed while starting"] += 1

    def _checked(self, zygote: Zygote) -> bool:
        """Ready, healed, and all holds; False when the service died on the way."""
        if not zygote.wait_ready() or not self._healed(zygote):
            return False
        try:
            self.book.check()
        except (httpx2.HTTPError, Gone):
            if zygote.alive:
                time.sleep(0.2)  # it may be about to be gone
            if zygote.alive:
                raise
            return False
        return True

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

    # ── what callers do ──────────────────────────────────────────────────────────────────────────────────────────

    def _quietly(self, job: Callable[[httpx2.Client], None]) -> None:
        """Again and again until the life ends; a connection that breaks is what this is about."""
        with self.world.http() as http:
            while not self.over.is_set():
                try:
                    job(http)
                except (httpx2.HTTPError, Gone):
                    self.over.wait(0.02)

    def _release(self, http: httpx2.Client) -> None:
        book, service = self.book, self.book.service()
        if random.random() < 0.2:
            self._release_to_member(http, service)
            return
        with book.lock:
            known = [(key, str(n)) for key, n in book.versions.items()]
        key, version = random.choice([*known[-8:], ("base", "1")])
        endpoint = {} if random.random() < 0.8 else {"endpoint": "ep-20260101000000-others"}
        outcome = self.node.ask(
            http, service, tenant=book.tenant, ring=self.ring, key=key, version=version, changes=endpoint
        )
        self.counts[f"release {outcome.code}"] += 1
        book.take(key, version, outcome)

    def _release_to_member(self, http: httpx2.Client, service: Keyset) -> None:
        keyset = self._pool_keyset(http)
        if keyset is None or keyset.pool is None:
            return
        version = keyset.pool.version
        outcome = self.node.ask(
            http,
            service,
            tenant=self.book.tenant,
            ring=POOL_RING,
            key=POOL_KEY,
            version=version,
            pool=keyset.sha256,
        )
        self.counts[f"release to a member {outcome.code}"] += 1
        self.book.take(POOL_KEY, version, outcome)

    def _look_at_pool(self, http: httpx2.Client) -> None:
        self._pool_keyset(http)
        self.over.wait(0.1)

    def _pool_keyset(self, http: httpx2.Client) -> Keyset | None:
        answer = http.get(f"/v1/pools/{ENDPOINT}", params={"tenant": self.book.tenant})
        return self.book.pool_seen(answer.content) if answer.status_code == 200 else None

    def _create(self, _http: httpx2.Client) -> None:
        if self._enough():
            return
        name = self._name("k")
        self._command("key.create", key_args(name), name)

    def _rotate(self, _http: httpx2.Client) -> None:
        with self.book.lock:
            made = [key for key in self.book.versions if key.startswith("k")]
        if not made:  # "base" keeps its version for all nodes
            self.over.wait(0.05)
            return
        key = random.choice(made[-8:])
        self._command("key.rotate", rotate_args(key, random.choice((0, 1, 600))), key)

    def _import(self, _http: httpx2.Client) -> None:
        if self._enough():
            return
        name, secret = self._name("i"), os.urandom(32)
        args, payload = self.world.import_args(self.book.tenant, self.ring, name, secret, self.book.service())
        if self._command("key.import", args, name, payload=payload):
            with self.book.lock:
                self.book.material[(name, "1")] = hashlib.sha256(secret).hexdigest()

    def _end(self, _http: httpx2.Client) -> None:
        """Promise a key's destruction, or call one off."""
        self.over.wait(0.15)
        book = self.book
        with book.lock:
            settled = book.kept | book.unsure | set(book.doomed)
            open_keys = [key for key in book.versions if key not in settled and key != "base"]
            scheduled = [key for key, at in book.doomed.items() if time.time() < at + GRACE - 1]
        if scheduled and random.random() < 0.3:
            self._settle(random.choice(scheduled), "key.cancel-destroy")
        elif len(open_keys) > 2:
            self._settle(random.choice(open_keys[-12:]), "key.destroy")

    def _settle(self, key: str, op: str) -> None:
        """A step whose answer is lost makes the key's state unsure: then the log's own rules must do."""
        book, done = self.book, False
        with book.lock:
            book.unsure.add(key)
            book.doomed.pop(key, None)
        done = self._command(op, {"key": key}, key)
        with book.lock:
            if done:
                book.unsure.discard(key)
                if op == "key.destroy":
                    book.doomed[key] = time.time()
                else:
                    book.kept.add(key)

    def _enough(self) -> bool:
        """Whether to make no more keys for a moment: each costs every look at the state."""
        full = self.made > ENOUGH and random.random() < 0.9
        if full:
            self.over.wait(0.1)
        return full

    def _command(self, op: str, args: dict[str, Any], key: str, **how: Any) -> bool:
        service = self.book.service()
        with self._seq:
            rings = self.book.read()["rings"]
            seq = next(int(ring["seq"]) for ring in rings if ring["id"] == self.ring) + 1
            request = self.world.command(self.book.tenant, self.ring, seq, op, args, keyset=service, **how)
            response = self.world.send(request)
        self.counts[f"{op} {response.status_code}"] += 1
        if response.status_code != 200:
            return False
        self.book.command(key, response.json())
        return True

    _seq = threading.Lock()

    def _name(self, prefix: str) -> str:
        with self.book.lock:
            self.made += 1
            return f"{prefix}{self.made}"


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
    counts = run.counts
    killed = counts["killed at its point"] + counts["killed while healing"]
    missed = counts["point"] + counts["rare point"] - killed
    print(
        f"lives ended at a named point: {killed}, at the end of their time before it: {missed}, at a random time:"
        f" {counts['random time']}; nodes killed at a named"
        f" point: {counts['node killed at its point']}, {len(book.asked - book.received)} of them after they had asked,"
        f" {len(book.unclaimed)} of these with an entry that says granted; {len(book.gone)} keys and"
        f" {len(book.ended)} versions destroyed, {book.erased} slots erased; {len(book.pools)} epochs seen"
    )
    print(
        f"{given.points} points in {time.monotonic() - began:.0f} s: {len(book.leaves)} entries,"
        f" {len(book.granted)} keys granted, {len(book.done)} commands answered; nothing lost, forked or unlogged"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
