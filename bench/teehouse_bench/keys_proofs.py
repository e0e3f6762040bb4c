# SPDX-License-Identifier: Apache-2.0
"""What it costs to verify a proof of one entry, beside the hashes and signatures that no verifier can leave out."""

from __future__ import annotations

import hashlib
import os
import secrets
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse.audit.pins import Pins
from teehouse_bench.keys_parts import TENANT, compared, leaves, timed
from teehouse_bench.results import Budget, Case, Result
from teehouse_bench.sides import Sides, turns
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import parse_leaf
from teehouse_core.log.merkle import (
    HASH_SIZE,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from teehouse_core.log.note import Note
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.quorum import Witness, WitnessPolicy
from teehouse_core.log.signing import cosign, cosigner_key, log_key, sign_note

__all__ = ["Signer", "measure_proofs"]

ORIGIN = f"bench.example/tenant/{TENANT}"
WITNESS = "witness.example/bench"
Check = Callable[[int], object]


class Signer:
    """The keys of a log and of its one witness, both in this process."""

    def __init__(self) -> None:
        self._log, self._witness = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        public = cosigner_key(WITNESS, self._witness.public_key())
        policy = WitnessPolicy((Witness(WITNESS, public, "operator"),), 1)
        self.pins = Pins((log_key(ORIGIN, self._log.public_key()),), policy)

    def note(self, size: int, root: bytes) -> bytes:
        """A cosigned checkpoint."""
        text = Checkpoint(ORIGIN, size, root).text()
        note = Note(text, (sign_note(text, ORIGIN, self._log),))
        return note.add(cosign(text, WITNESS, self._witness, int(time.time()))).to_bytes()

    def bare(self) -> Callable[[], None]:
        """Two signatures to verify, and nothing else."""
        text = secrets.token_bytes(160)
        pairs = [(key.public_key(), key.sign(text)) for key in (self._log, self._witness)]

        def verify() -> None:
            for public, signature in pairs:
                public.verify(signature, text)

        return verify


class _Tree:
    """All hashes of a tree in 64 bytes an entry; a `HashSource`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._levels = [bytearray()]
        for leaf, _ in leaves(size):
            self._levels[0] += leaf_hash(leaf)
        while len(self._levels[-1]) >= 2 * HASH_SIZE:
            below = memoryview(self._levels[-1])
            pairs = range(0, len(below) // (2 * HASH_SIZE) * 2 * HASH_SIZE, 2 * HASH_SIZE)
            self._levels.append(bytearray().join(hashlib.sha256(b"\1" + below[at : at + 64]).digest() for at in pairs))
        self.root = root_of(self, size)

    def __call__(self, level: int, index: int) -> bytes:
        return bytes(self._levels[level][index * HASH_SIZE : (index + 1) * HASH_SIZE])


def measure_proofs(result: Result, budget: Budget, *, rounds: int, size: int, proofs: int) -> None:
    """Three kinds of proof in a tree of `size`, each verified in another place `proofs` times a round."""

    def measure(case: Case) -> None:
        tree, signer = _Tree(size), Signer()
        _inclusion(case, budget, tree, rounds, proofs)
        _consistency(case, budget, tree, rounds, proofs)
        _alone(case, budget, tree, signer, rounds, proofs)
        case.notes.append("CPU time; beside it: SHA-256 of as many pairs of hashes or more, and the two signatures")

    result.run(f"proofs in a log of {size:,} entries", {"entries": size, "proofs": proofs}, measure)


def _places(size: int) -> list[int]:
    return [secrets.randbelow(size - 1) + 1 for _ in range(64)]


def _hashing(counts: list[int]) -> Check:
    """As many node hashes as the verifier of proof number n computes."""
    one, other = secrets.token_bytes(32), secrets.token_bytes(32)

    def check(at: int) -> None:
        for _ in range(counts[at]):
            node_hash(one, other)

    return check


def _inclusion(case: Case, budget: Budget, tree: _Tree, rounds: int, proofs: int) -> None:
    made = [(at, tree(0, at), inclusion_proof(tree, at, tree.size)) for at in _places(tree.size)]

    def ours(at: int) -> None:
        index, leaf, proof = made[at]
        verify_inclusion(index, tree.size, leaf, proof, tree.root)

    bare = _hashing([len(proof) for _, _, proof in made])
    _case(case, budget, "inclusion of one entry", {"ours": ours, "bare": bare}, rounds, proofs)


def _consistency(case: Case, budget: Budget, tree: _Tree, rounds: int, proofs: int) -> None:
    made = [(old, root_of(tree, old), consistency_proof(tree, old, tree.size)) for old in _places(tree.size)]

    def ours(at: int) -> None:
        old, root, proof = made[at]
        verify_consistency(old, tree.size, root, tree.root, proof)

    bare = _hashing([2 * len(proof) for _, _, proof in made])  # at most: two roots are recomputed
    _case(case, budget, "a larger log goes on from a smaller one", {"ours": ours, "bare": bare}, rounds, proofs)


def _alone(case: Case, budget: Budget, tree: _Tree, signer: Signer, rounds: int, proofs: int) -> None:
    """What `audit verify` does with a proof that carries its entry."""
    leaf, _ = next(iter(leaves(1)))
    path = [secrets.token_bytes(HASH_SIZE) for _ in inclusion_proof(tree, 0, tree.size)]
    root = leaf_hash(leaf)
    for item in path:
        root = node_hash(root, item)
    raw = TlogProof(0, tuple(path), signer.note(tree.size, root), leaf).to_bytes()

    def ours(_at: int) -> None:
        proof = TlogProof.parse(raw)
        head = signer.pins.authenticate(proof.checkpoint_note, origin=ORIGIN)
        verify_inclusion(proof.index, head.size, leaf_hash(proof.extra), proof.hashes, head.checkpoint.root)
        parse_leaf(proof.extra)

    hashing, signatures = _hashing([len(path)] * 64), signer.bare()

    def bare(at: int) -> None:
        hashing(at)
        signatures()

    sides: Mapping[str, Check] = {"ours": ours, "bare": bare}
    _case(case, budget, "a proof by itself: entry, path, log and witness signature", sides, rounds, proofs)


def _case(case: Case, budget: Budget, what: str, sides: Mapping[str, Check], rounds: int, proofs: int) -> None:
    def one(side: str) -> dict[str, Any]:
        call, used, places = sides[side], [], cycle(range(64))

        def work() -> dict[str, Any]:
            for _ in range(proofs):
                at, began = next(places), time.process_time_ns()
                call(at)
                used.append(time.process_time_ns() - began)
            return {"proof": what, "microseconds": statistics.median(used) / 1e3}

        return timed(work)

    before = len(case.rounds)
    for _ in turns(case, budget, tuple(sides), rounds, one):
        pass
    mine = Case(case.name, case.settings, rounds=case.rounds[before:])
    spreads = Sides(mine, "ours", "bare", os.cpu_count() or 1).compare(what, lambda one: float(one["microseconds"]))
    compared(case, f"{what}, µs", spreads, lambda value: f"{value:.1f}")
    case.summary |= mine.summary
    case.notes += [f"{what}: {note}" for note in mine.notes]
