# SPDX-License-Identifier: Apache-2.0
"""What callers and nodes were told, what was seen in the ledger and in the journal: all of it must stay true."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from doomed import GRACE
from support_keys import ENDPOINT, Outcome, World

from teehouse_core.log.entry import AuditEntry
from teehouse_core.log.merkle import Frontier, leaf_hash
from teehouse_core.log.proof import TlogProof
from teehouse_core.wire.canonical import unb64u
from teehouse_core.wire.keyset import Keyset
from teehouse_core.wire.pool import SignedPool

__all__ = ["POOL_KEY", "POOL_RING", "Book", "Gone"]

POOL_RING, POOL_KEY = "session", "pool"
PATIENCE = 15.0  # seconds that what the service does by itself may take
Place = tuple[str, str]  # ring, key


class Gone(Exception):  # noqa: N818
    """The service is dying."""


@dataclass
class Book:
    """One tenant's. Anything that does not hold raises AssertionError."""

    world: World
    tenant: str
    ring: str
    leaves: list[bytes] = field(default_factory=list)
    entries: list[AuditEntry] = field(default_factory=list)
    frontier: Frontier = field(default_factory=Frontier.empty)
    granted: dict[tuple[int, str], str] = field(default_factory=dict)  # (index, leaf digest) → evidence of the caller
    refused: list[Outcome] = field(default_factory=list)
    material: dict[tuple[str, str], str] = field(default_factory=dict)  # (key, version) → digest of its bytes
    done: list[tuple[int, str]] = field(default_factory=list)  # (index, leaf digest) of commands that were answered
    versions: dict[str, int] = field(default_factory=dict)  # key → highest version that an answer named
    doomed: dict[str, float] = field(default_factory=dict)  # key → when its destruction was promised
    kept: set[str] = field(default_factory=set)  # keys whose destruction was called off
    unsure: set[str] = field(default_factory=set)  # keys whose last step got no answer
    pools: dict[int, str] = field(default_factory=dict)  # version of a pool's key → kid, as published
    gone: set[Place] = field(default_factory=set)  # destroyed keys, as logged
    ended: set[tuple[str, str, str]] = field(default_factory=set)  # destroyed versions, as logged
    made: set[tuple[str, str, str]] = field(default_factory=set)  # versions, as logged
    slots: dict[str, bytes] = field(default_factory=dict)  # seen in the journal and not yet deleted
    erased: int = 0
    asked: set[str] = field(default_factory=set)  # evidence of nodes that asked for a release
    received: set[str] = field(default_factory=set)  # … and that got the key
    lock: threading.Lock = field(default_factory=threading.Lock)
    _ids: set[str] = field(default_factory=set)
    _evidence: set[str] = field(default_factory=set)

    @property
    def log(self) -> str:
        return f"tenant-{self.tenant}"

    @property
    def unclaimed(self) -> list[AuditEntry]:
        """Granted to nodes that died before they had the key: *granted* means *may have been sent*."""
        lost = self.asked - self.received
        return [entry for entry in self.entries if entry.decision == "granted" and entry.evidence_sha256 in lost]

    # ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────

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
        self.got(outcome.entry, outcome.evidence_sha256, key, version, digest)

    def got(self, entry: dict[str, Any], evidence: str, key: str, version: str, digest: str) -> None:
        """Somebody holds these key bytes."""
        with self.lock:
            self.granted[(entry["index"], entry["leaf_sha256"])] = evidence
            assert self.material.setdefault((key, version), digest) == digest, "a version changed its bytes"

    def command(self, key: str, answer: dict[str, Any]) -> None:
        with self.lock:
            entry = answer["entry"]
            self.done.append((entry["index"], entry["leaf_sha256"]))
            number = answer["result"].get("version")
            if number is not None:
                self.versions[key] = max(self.versions.get(key, 0), int(number))

    def pool_seen(self, raw: bytes) -> Keyset:
        """A published pool keyset."""
        keyset = Keyset.parse(SignedPool.parse(raw).keyset)
        assert keyset.pool is not None
        number = int(keyset.pool.version)
        with self.lock:
            assert self.pools.setdefault(number, keyset.hpke[0].kid) == keyset.hpke[0].kid, "an epoch changed its key"
        return keyset

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """After a restart, without hands. Raises `Gone` or httpx2.HTTPError when the service dies meanwhile."""
        self.audit()
        self._check_state()
        self._check_slots()
        self._check_pool()

    def audit(self) -> None:
        """Read what is new in the ledger and hold everything to it."""
        deadline = time.monotonic() + PATIENCE
        while True:  # the service does things by itself: entries and checkpoint are read when it rests
            self._read()
            checkpoint = self.world.check_note(self.tenant, self.world.checkpoint(self.log))
            assert checkpoint.size >= self.frontier.size, "the checkpoint went back"
            if checkpoint.size == len(self.leaves):
                break
            assert time.monotonic() < deadline, "the service did not heal"
        self.frontier = self.frontier.extend([leaf_hash(leaf) for leaf in self.leaves[self.frontier.size :]])
        assert self.frontier.root() == checkpoint.root, "forked"
        for leaf in self.leaves[len(self.entries) :]:
            self._look_at(AuditEntry.parse(leaf))
        with self.lock:
            granted, refused, done = dict(self.granted), list(self.refused), list(self.done)
        for (index, digest), evidence in granted.items():
            assert hashlib.sha256(self.leaves[index]).hexdigest() == digest, "a key without its entry"
            entry = self.entries[index]
            assert (entry.op, entry.decision) == ("key.release", "granted")
            assert entry.evidence_sha256 == evidence
        for outcome in refused:
            assert outcome.entry is not None
            leaf = self.leaves[outcome.entry["index"]]
            assert hashlib.sha256(leaf).hexdigest() == outcome.entry["leaf_sha256"]
        for index, digest in done:
            assert hashlib.sha256(self.leaves[index]).hexdigest() == digest, "an answered command is not in the log"
        for number in self.pools:
            assert (POOL_RING, POOL_KEY, str(number)) in self.made, "an epoch was published without its entry"

    def _read(self) -> None:
        again = max(0, len(self.leaves) - 50)  # the newest of what was seen is read again: nothing may have changed
        rows = self.world.records_from(self.log, again)
        for at, row in enumerate(rows, again):
            leaf = unb64u(row["leaf"])
            assert row["index"] == at, "a gap"
            if at < len(self.leaves):
                assert self.leaves[at] == leaf, "an entry changed"
            else:
                self.leaves.append(leaf)
        assert again + len(rows) == len(self.leaves), "entries were lost"

    def _look_at(self, entry: AuditEntry) -> None:
        """One entry, in its order."""
        assert entry.id not in self._ids, "an entry stands twice"
        self._ids.add(entry.id)
        key, version = (entry.ring, entry.key), (entry.ring, entry.key, entry.version)
        if entry.op == "key.release":
            assert entry.evidence_sha256 not in self._evidence, "one request was decided twice"
            self._evidence.add(entry.evidence_sha256)
            if entry.decision == "granted":
                assert key not in self.gone, "a destroyed key was given out"
                assert version not in self.ended, "a destroyed version was given out"
        elif entry.op in ("key.create", "key.import", "key.rotate"):
            assert key not in self.gone, "a destroyed key came back"
            assert version not in self.made, "a version was made twice"
            self.made.add(version)
        elif entry.op in ("key.destroyed", "version.destroyed"):
            for number in entry.version.split(","):
                assert (*key, number) not in self.ended, "a version was destroyed twice"
                self.ended.add((*key, number))
            if entry.op == "key.destroyed":
                assert key not in self.gone, "a key was destroyed twice"
                self.gone.add(key)
        self.entries.append(entry)

    def _check_state(self) -> None:
        """What answers and entries said has happened is in the state; what was promised happens by itself."""
        deadline = time.monotonic() + PATIENCE
        while True:
            now, keys = time.time(), self._keys()
            states = {name: key["state"] for (_, name), key in keys.items()}
            late = [name for name, at in self.doomed.items() if at + GRACE < now and states[name] != "destroyed"]
            if not late:
                break
            assert time.monotonic() < deadline, f"{late} should have been destroyed"
            time.sleep(0.05)
        held = {
            name: max((version["number"] for version in key["versions"]), default=0) for (_, name), key in keys.items()
        }
        for key, number in self.versions.items():
            assert held.get(key, 0) >= number, f"an answered version of {key} is gone"
        for place in self.gone:
            assert keys[place]["state"] == "destroyed", f"{place} lives again"
        for name in self.doomed:
            assert states[name] in ("scheduled", "destroyed"), f"{name} was to be destroyed"
        for name in self.kept:
            assert states[name] == "disabled", f"{name} was to be kept"

    def _keys(self) -> dict[Place, dict[str, Any]]:
        rings = self.read()["rings"]
        return {(ring["id"], key["id"]): key for ring in rings for key in ring["keys"]}

    def read(self) -> dict[str, Any]:
        """The tenant's state now."""
        request = self.world.command(self.tenant, "", 0, "state.read", {}, keyset=self.service())
        response = self.world.send(request)
        if response.status_code != 200:
            raise Gone(response.text)
        return dict(response.json()["result"])

    def service(self) -> Keyset:
        """The service's keyset: without appraisal, which other tests do."""
        with self.world.http() as http:
            response = http.get("/v1/keyset")
        if response.status_code != 200:
            raise Gone(response.text)
        return Keyset.parse(response.content)

    def _living(self) -> list[tuple[Place, int]]:
        keys = self._keys().items()
        return [(at, version["number"]) for at, key in keys for version in key["versions"] if not version["destroyed"]]

    def _check_slots(self) -> None:
        """Living versions have their slots, destroyed ones have none, and no file holds what a deleted slot held."""
        path = self.world.folder / "journal.db"
        deadline = time.monotonic() + PATIENCE
        while True:
            before = self._living()
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                held = dict(db.execute("SELECT name, data FROM slots WHERE log=?", (self.log,)).fetchall())
            if len(held) == len(before) and before == self._living():
                break
            assert time.monotonic() < deadline, f"{len(held)} slots for {len(before)} living versions"
            time.sleep(0.02)
        deleted = [data for name, data in self.slots.items() if name not in held]
        while True:
            files = b"".join(file.read_bytes() for file in path.parent.glob("journal.db*"))
            assert not held or any(data in files for data in held.values()), "the search finds nothing at all"
            if not any(data in files for data in deleted):
                break
            assert time.monotonic() < deadline, "a deleted slot is still in a file"
            time.sleep(0.02)
        self.slots = held
        self.erased += len(deleted)

    def _check_pool(self) -> None:
        """The pool's keyset is published again, and no older one than before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self.world.http() as http:
                answer = http.get(f"/v1/pools/{ENDPOINT}", params={"tenant": self.tenant})
            if answer.status_code == 200:
                break
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.02)
        newest = max(self.pools, default=0)
        keyset = self.pool_seen(answer.content)
        assert keyset.pool is not None
        assert int(keyset.pool.version) >= newest, "an older epoch was published"
