# SPDX-License-Identifier: Apache-2.0
"""`teehouse-keys` that ends itself by SIGKILL at a named point. The product has no such hooks: they are put on here.

A parent that has imported everything reads one JSON line for each life, forks a child that runs the service's own
`main`, and says the child's pid; so a life begins in a fraction of a second.

    {"config": FILE, "log": FILE, "point": "ledger.append:after", "hit": 3, "file_limit": 0}
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

from teehouse_enclave.keys import logwriter, main, release
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.outbound import LedgerClient, WitnessClient
from teehouse_enclave.keys.release import ReleaseDesk
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.vault import Vault

PLACES: dict[str, tuple[Any, str, bool]] = {
    "vault.wrap": (Vault, "wrap", False),
    "journal.append": (SqliteJournal, "append", False),
    "journal.shred": (SqliteJournal, "shred", False),
    "service.serve": (Service, "_serve", True),
    "ledger.append": (LedgerClient, "append", True),
    "checkpoint.sign": (logwriter, "sign_note", False),
    "witness.cosign": (WitnessClient, "cosign", True),
    "ledger.publish": (LedgerClient, "publish", True),
    "release.judge": (ReleaseDesk, "_judged", True),
    "release.decide": (ReleaseDesk, "_decide", True),
    "release.answer": (ReleaseDesk, "_answer", True),
    "vault.unwrap": (Vault, "unwrap", False),
    "release.seal": (release, "seal_grant", False),
}
POINTS = tuple(f"{place}:{when}" for place in PLACES for when in ("before", "after"))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, hit: int) -> None:
    """Kill this process at the `hit`-th time that `point` is reached."""
    place, _, when = point.partition(":")
    holder, name, is_async = PLACES[place]
    inner: Callable[..., Any] = getattr(holder, name)
    left = [hit]

    def count(moment: str) -> None:
        if moment == when:
            left[0] -= 1
            if left[0] == 0:
                die()

    if is_async:

        @functools.wraps(inner)
        async def doomed_async(*args: Any, **named: Any) -> Any:
            count("before")
            result = await inner(*args, **named)
            count("after")
            return result

        setattr(holder, name, doomed_async)
    else:

        @functools.wraps(inner)
        def doomed(*args: Any, **named: Any) -> Any:
            count("before")
            result = inner(*args, **named)
            count("after")
            return result

        setattr(holder, name, doomed)


def live(order: dict[str, Any]) -> int:
    """One life, in the child."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if order.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    if order.get("point"):
        arm(order["point"], order["hit"])
    return main.main(["--config", order["config"]])


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
