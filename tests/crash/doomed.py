# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402  the folders of the tests come first on the path
"""`teehouse-keys`, or a node that asks it for a key, that ends itself by SIGKILL at a named point.

The product has no such hooks: they are put on here. A parent that has imported everything reads one JSON line for each
life, forks a child that runs the service's own `main` (or `doomed_node.live`), and says the child's pid; so a life
begins in a fraction of a second.

    {"config": FILE, "log": FILE, "point": "ledger.append:after", "hit": 3, "file_limit": 0}
    {"node": {…}, "log": FILE, "point": "node.ask:after", "hit": 3}

Days are made seconds here too (`hasten`): a key's grace before it is destroyed, and the epochs of a pool.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import doomed_node

from teehouse_enclave.keys import logwriter, main, ops, ops_keys, pools, release
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.model import Pool, State
from teehouse_enclave.keys.outbound import LedgerClient, WitnessClient
from teehouse_enclave.keys.pools import PoolDesk
from teehouse_enclave.keys.release import ReleaseDesk
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.vault import Vault
from teehouse_enclave.node import release as node_release
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.release import KeyServiceClient

SYNC, ASYNC, CONTEXT = "sync", "async", "context"
PLACES: dict[str, tuple[Any, str, str]] = {
    "vault.wrap": (Vault, "wrap", SYNC),
    "journal.append": (SqliteJournal, "append", SYNC),
    "journal.commit": (SqliteJournal, "_transaction", CONTEXT),
    "service.serve": (Service, "_serve", ASYNC),
    "ledger.append": (LedgerClient, "append", ASYNC),
    "checkpoint.sign": (logwriter, "sign_note", SYNC),
    "witness.cosign": (WitnessClient, "cosign", ASYNC),
    "ledger.publish": (LedgerClient, "publish", ASYNC),
    "release.judge": (ReleaseDesk, "_judged", ASYNC),
    "release.decide": (ReleaseDesk, "_decide", ASYNC),
    "release.answer": (ReleaseDesk, "_answer", ASYNC),
    "vault.unwrap": (Vault, "unwrap", SYNC),
    "release.seal": (release, "seal_grant", SYNC),
}
RARE: dict[str, tuple[Any, str, str]] = {  # reached a few times in a life
    "destroy.decide": (ops, "destroyed", SYNC),
    "journal.shred": (SqliteJournal, "shred", SYNC),
    "shred.commit": (SqliteJournal, "_transaction", CONTEXT),  # of a shred, not of an append
    "pool.rotate": (PoolDesk, "_rotated", ASYNC),
    "pool.version": (pools, "rotate_pool", SYNC),
    "pool.issue": (PoolDesk, "_issue", SYNC),
    "pool.certify": (PoolDesk, "certify", SYNC),
}
NODE: dict[str, tuple[Any, str, str]] = {
    "node.ask": (KeyServiceClient, "_ask", ASYNC),
    "node.appraise": (KeyServiceClient, "_appraise", ASYNC),
    "node.evidence": (EvidenceMaker, "bundle", SYNC),
    "node.open": (node_release, "open_grant", SYNC),
}
MOMENTS = ("before", "after")
POINTS = tuple(f"{place}:{when}" for place in PLACES for when in MOMENTS)
RARE_POINTS = tuple(f"{place}:{when}" for place in RARE for when in MOMENTS)
NODE_POINTS = (*(f"{place}:{when}" for place in NODE for when in MOMENTS), doomed_node.WAITING)

GRACE, EPOCH = 2, 3  # seconds
_HASTE = ((ops_keys, "GRACE_SECONDS", GRACE), (main, "_DUE", 0.25), (main, "_TICK", 0.1), (pools, "_RETRY", 1))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hasten() -> None:
    """Let happen within a life what takes days and minutes."""
    for holder, name, value in _HASTE:
        assert hasattr(holder, name)
        setattr(holder, name, value)
    inner = PoolDesk._tend

    def tend(desk: PoolDesk, state: State, pool: Pool, now: int) -> None:
        inner(desk, state, pool, now)
        key = state.key(pool.ring, pool.key)
        if key is not None and key.current is not None and now >= key.current.created_at + EPOCH:
            desk._rotate(state.tenant, pool.endpoint, now)

    setattr(PoolDesk, "_tend", tend)  # noqa: B010  what mypy forbids as an assignment


def arm(point: str, hit: int) -> None:
    """Kill this process at the `hit`-th time that `point` is reached."""
    place, _, when = point.partition(":")
    holder, name, kind = {**PLACES, **RARE, **NODE}[place]
    inner: Callable[..., Any] = getattr(holder, name)
    left = [hit]
    counted = _in_shred() if place == "shred.commit" else lambda: True

    def count(moment: str) -> None:
        if moment == when and counted():
            left[0] -= 1
            if left[0] == 0:
                die()

    @functools.wraps(inner)
    async def doomed_async(*args: Any, **named: Any) -> Any:
        count("before")
        result = await inner(*args, **named)
        count("after")
        return result

    @functools.wraps(inner)
    def doomed(*args: Any, **named: Any) -> Any:
        count("before")
        result = inner(*args, **named)
        count("after")
        return result

    @contextlib.contextmanager
    def doomed_block(*args: Any, **named: Any) -> Iterator[None]:
        with inner(*args, **named):
            yield
            count("before")  # all is written, nothing is committed
        count("after")

    setattr(holder, name, {SYNC: doomed, ASYNC: doomed_async, CONTEXT: doomed_block}[kind])


def _in_shred() -> Callable[[], bool]:
    """Whether the thread that asks is deleting slots."""
    inner, here = SqliteJournal.shred, threading.local()

    def shred(*args: Any) -> None:
        here.inside = True
        try:
            inner(*args)
        finally:
            here.inside = False

    setattr(SqliteJournal, "shred", shred)  # noqa: B010  as above
    return lambda: bool(getattr(here, "inside", False))


def live(order: dict[str, Any]) -> int:
    """One life, in the child."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    point = order.get("point", "")
    if point == doomed_node.WAITING:
        doomed_node.die_waiting(order["hit"], die)
    elif point:
        arm(point, order["hit"])
    if "node" in order:
        return doomed_node.live(order["node"])
    hasten()
    return int(main.main(["--config", order["config"]]))


def serve() -> None:
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead here
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(live(json.loads(line)))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
