# SPDX-License-Identifier: Apache-2.0
"""Snapshots of one log's state, so that a start need not replay everything. They save time and prove nothing new.

    snapshot = box("snapshot", [origin], u32 length ‖ frontier ‖ state)

The box authenticates it, the frontier inside says which entries it stands for. An old snapshot is as good as none: what
came after it is replayed. One that does not read is left aside for a full replay.
"""

from __future__ import annotations

import struct
from typing import Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.errors import LogProofError
from teehouse_core.log.merkle import Frontier, consistency_proof, verify_consistency
from teehouse_enclave.keys.box import Box, context
from teehouse_enclave.keys.codec import decode_state, encode_state
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import Journal
from teehouse_enclave.keys.model import State

__all__ = ["load_snapshot", "save_snapshot", "stands_on"]

_LABEL: Final = "snapshot"


def save_snapshot(journal: Journal, box: Box, log: str, origin: str, frontier: Frontier, state: State | None) -> None:
    """Write the log's snapshot over the one before. Raises `StorageError`."""
    head = frontier.to_bytes()
    plain = struct.pack(">I", len(head)) + head + (encode_state(state) if state is not None else b"")
    journal.put_snapshot(log, box.seal(_LABEL, context(origin), plain))


def load_snapshot(journal: Journal, box: Box, log: str, origin: str) -> tuple[Frontier, State | None] | None:
    """Frontier and state of the newest snapshot; None when there is none, or none that reads."""
    try:
        sealed = journal.get_snapshot(log)
        if sealed is None:
            return None
        plain = box.open(_LABEL, context(origin), sealed)
        (length,) = struct.unpack_from(">I", plain)
        frontier = Frontier.from_bytes(plain[4 : 4 + length])
        state = plain[4 + length :]
        return frontier, decode_state(state) if state else None
    except (StorageError, MalformedError, struct.error):
        return None


def stands_on(journal: Journal, log: str, frontier: Frontier, size: int, root: bytes) -> bool:
    """Whether the snapshot's tree begins with (size, root), shown by the journal's nodes; they are not believed."""
    try:
        proof = consistency_proof(lambda level, index: journal.node(log, level, index), size, frontier.size)
        verify_consistency(size, frontier.size, root, frontier.root(), proof)
    except (StorageError, LocalError, LogProofError, MalformedError):
        return False
    return True
