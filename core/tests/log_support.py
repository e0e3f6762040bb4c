# SPDX-License-Identifier: Apache-2.0
"""Trees by the recursive text of RFC 6962 §2.1, so that the product's own arithmetic is held against another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import Frontier, HashSource, new_nodes
from teehouse_core.log.note import Note
from teehouse_core.log.quorum import Witness, WitnessPolicy
from teehouse_core.log.signing import cosign, cosigner_key, log_key, sign_note


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH over entries, as the text defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def nodes_of(hashes: Sequence[bytes]) -> tuple[HashSource, dict[tuple[int, int], bytes]]:
    """A source over everything that appending these leaf hashes completes."""
    nodes = {(level, index): value for level, index, value in new_nodes(Frontier.empty(), hashes)}
    return (lambda level, index: nodes[level, index]), nodes


def seeded(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


ORIGIN = "tks.example/tenant/demo"
LOG = seeded("log")
LOG_KEY = log_key(ORIGIN, LOG.public_key())


def signed(size: int, root: bytes, *, origin: str = ORIGIN, witnesses: Sequence[str] = (), time: int = 1000) -> Note:
    """A checkpoint by the log, cosigned by witnesses `wN.example` at `time`, `time` + 1, …"""
    text = Checkpoint(origin, size, root).text()
    note = Note(text, (sign_note(text, origin, LOG),))
    return note.add(*(cosign(text, name, seeded(name), time + n) for n, name in enumerate(witnesses)))


def policy(quorum: int, **operators: str) -> WitnessPolicy:
    """Witnesses by short name, with who operates them: `policy(2, w1="a", w2="b")`."""
    names = {f"{short}.example": operator for short, operator in operators.items()}
    witnesses = (Witness(name, cosigner_key(name, seeded(name).public_key()), who) for name, who in names.items())
    return WitnessPolicy(tuple(witnesses), quorum)
