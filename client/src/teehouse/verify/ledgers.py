# SPDX-License-Identifier: Apache-2.0
"""What a session needs of the public ledger: the newest checkpoint seen of each log, and proofs between two of them.

The memory is that of `teehouse audit`, so that what one of them saw binds the other. Tiles come from the path; a proof
that does not hold fails the appraisal, and one that cannot be had does too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from teehouse.audit.memory import Memory
from teehouse.audit.pins import Head
from teehouse_core.appraise.checks_ledger import KnownCheckpoint, bundle_checkpoint
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.errors import MalformedError, TeehouseError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_core.log.tiles import TilePath, tile_path
from teehouse_core.log.walk import consistency_walk

__all__ = ["MAX_TILE", "SeenCheckpoints", "known_checkpoints", "remember", "takes_cacheable"]

MAX_TILE: Final = 256 * 32  # bytes
_Ask = TypeVar("_Ask")
_Reply = TypeVar("_Reply")


class SeenCheckpoints:
    """The newest checkpoint of each log that this user saw, below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, origin: str) -> Checkpoint | None:
        """Raises LocalError (`audit-state`) when the memory cannot be read: losing it must not go unseen."""
        with Memory.opened(self._folder, origin) as memory:
            return memory.checkpoint()

    def keep(self, head: Head) -> None:
        """Keep it when it is larger than what was seen; the caller has verified that one continues the other."""
        with Memory.opened(self._folder, head.checkpoint.origin) as memory:
            seen = memory.checkpoint()
            if seen is None or seen.size < head.size:
                memory.remember(head)


def takes_cacheable(policy: Policy) -> bool:
    """Whether evidence over a checkpoint could be accepted at all."""
    return bool(policy.ledger.logs) and policy.ledger.quorum > 0


def known_checkpoints(
    bundles: Sequence[bytes],
    policy: Policy,
    seen: SeenCheckpoints,
    ask: Callable[[str], _Ask],
    body: Callable[[_Reply], bytes],
) -> Generator[_Ask, _Reply, dict[bytes, KnownCheckpoint]]:
    """By bundle, what was seen of its log before, with the proof between both.

    `ask` makes a request for a path below the log, `body` takes the bytes out of its reply (b"" when there are none).
    """
    found: dict[bytes, KnownCheckpoint] = {}
    if not policy.ledger.logs:
        return found
    for raw in bundles:
        shown = _checkpoint_of(raw)
        if shown is None or not policy.ledger.log_keys(shown.origin):
            continue
        kept = seen.newest(shown.origin)
        if kept is None:
            continue
        old, new = sorted((kept.size, shown.size))
        proof = (yield from _proof(old, new, ask, body)) if old < new else ()
        found[raw] = KnownCheckpoint(kept, proof)
    return found


def _proof(
    old: int, new: int, ask: Callable[[str], _Ask], body: Callable[[_Reply], bytes]
) -> Generator[_Ask, _Reply, tuple[bytes, ...]]:
    walk = consistency_walk(old, new)
    try:
        path: TilePath = next(walk)
        while True:
            reply = yield ask(tile_path(path.level, path.index, path.width))
            path = walk.send(body(reply))
    except StopIteration as done:
        return tuple(done.value)
    except TeehouseError:
        return ()  # no proof: the check of consistency fails


def _checkpoint_of(raw: bytes) -> Checkpoint | None:
    try:
        shown = bundle_checkpoint(Bundle.parse(raw))
    except MalformedError:
        return None
    return shown[1] if shown is not None else None


def remember(accepted: Mapping[bytes, Verdict], policy: Policy, seen: SeenCheckpoints) -> None:
    """Keep the checkpoints of bundles that were accepted with their ledger checks passed."""
    for raw, verdict in accepted.items():
        if verdict.check("ledger.checkpoint").state != "passed":
            continue
        shown = bundle_checkpoint(Bundle.parse(raw))
        if shown is not None:
            note, checkpoint = shown
            quorum = WitnessPolicy(policy.ledger.pinned_witnesses(), policy.ledger.quorum).check(note)
            seen.keep(Head(checkpoint, note.to_bytes(), quorum))
