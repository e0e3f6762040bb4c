# SPDX-License-Identifier: Apache-2.0
"""Forges SIMULATED evidence over a checkpoint of a TEST ledger, right in everything but one thing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge_bundle import ENDPOINT, EVALUATE, NODE, NOW, Forge, keyset

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.checks_ledger import KnownCheckpoint
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_ledger import LedgerPolicy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.evidence.jsontext import b64_text
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import PublicEntry
from teehouse_core.log.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    new_nodes,
)
from teehouse_core.log.note import Note
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.signing import cosign, cosigner_key, log_key, sign_note
from teehouse_core.wire.keyset import Keyset

ORIGIN = "tks.test/public"
FILLERS = 11  # entries of others in the tree


def signer(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"TEST {name}".encode()).digest())


LOG = signer("log")
WITNESSES = {name: signer(name) for name in ("w1.test", "w2.test", "w3.test")}
OPERATORS = {"w1.test": "alpha", "w2.test": "beta", "w3.test": "beta"}
LOG_KEY = log_key(ORIGIN, LOG.public_key()).text
WITNESS_KEYS = tuple(
    f"{OPERATORS[name]} {cosigner_key(name, key.public_key()).text}" for name, key in WITNESSES.items()
)
PINNED = LedgerPolicy(logs=(LOG_KEY,), witnesses=WITNESS_KEYS, quorum=2)


class Tree:
    """All hashes of a small tree."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves
        hashes = [leaf_hash(leaf) for leaf in leaves]
        self._nodes = {(level, index): value for level, index, value in new_nodes(Frontier.empty(), hashes)}
        self._nodes |= {(0, index): value for index, value in enumerate(hashes)}
        self.frontiers = [Frontier.empty()]
        for value in hashes:
            self.frontiers.append(self.frontiers[-1].append(value))

    def source(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def checkpoint(self, size: int | None = None, origin: str = ORIGIN) -> Checkpoint:
        size = len(self.leaves) if size is None else size
        return Checkpoint(origin, size, self.frontiers[size].root())


def entry(parsed: Keyset, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "time": NOW - 300,
        "kind": "keyset",
        "id": "ab" * 16,
        "sha256": parsed.sha256,
        "endpoint": ENDPOINT,
        "node": NODE,
        **changes,
    }
    return PublicEntry(**fields).to_bytes()


def filler(number: int) -> bytes:
    return PublicEntry(NOW - 1000, "keyset", f"{number:032x}", f"{number:064x}", ENDPOINT, f"other-{number}").to_bytes()


@dataclass
class Scene:
    """Evidence over a checkpoint; each field is a place to be wrong in."""

    keyset: bytes = field(default_factory=keyset)
    kind: int = 2
    ledger: LedgerPolicy = PINNED
    policy: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    origin: str = ORIGIN
    log: Ed25519PrivateKey = LOG
    signed: dict[str, int] = field(default_factory=lambda: {"w1.test": NOW - 200, "w2.test": NOW - 100})
    note: Callable[[Note], Note] = lambda note: note
    proof: Callable[[TlogProof], TlogProof | None] = lambda proof: proof
    known: Callable[[Tree], KnownCheckpoint | None] = lambda tree: None
    now: int = NOW
    nonce: bytes | None = None

    def __post_init__(self) -> None:
        leaves = [filler(number) for number in range(FILLERS)]
        leaves.insert(7, entry(Keyset.parse(self.keyset), **self.entry))
        self.tree = Tree(leaves)

    def client(self) -> Policy:
        return replace(EVALUATE, ledger=self.ledger, **self.policy)

    def checkpoint_note(self) -> bytes:
        text = self.tree.checkpoint(origin=self.origin).text()
        cosigned = [cosign(text, name, WITNESSES[name], time) for name, time in self.signed.items()]
        return self.note(Note(text, (sign_note(text, self.origin, self.log), *cosigned))).to_bytes()

    def bundle(self) -> bytes:
        note = self.checkpoint_note()
        size = len(self.tree.leaves)
        hashes = tuple(inclusion_proof(self.tree.source, 7, size))
        proof = self.proof(TlogProof(7, hashes, note, self.tree.leaves[7]))

        def change(document: dict[str, Any]) -> None:
            asked = document["challenge"]
            if self.kind != 2:
                asked["cosigned_checkpoint"] = b64_text(note)
            if proof is not None:
                asked["keyset_inclusion"] = b64_text(proof.to_bytes())

        value = {"value": note} if self.kind == 2 else {}
        return Forge(keyset=self.keyset, kind=self.kind, bundle=change, **value).bytes()

    def known_checkpoint(self) -> KnownCheckpoint | None:
        return self.known(self.tree)

    def verdict(self) -> Verdict:
        return appraise(
            self.bundle(), self.client(), self.now, endpoint=ENDPOINT, nonce=self.nonce, known=self.known_checkpoint()
        )


def seen(size: int) -> Callable[[Tree], KnownCheckpoint]:
    """An earlier checkpoint of the same log."""

    def make(tree: Tree) -> KnownCheckpoint:
        proof = tuple(consistency_proof(tree.source, size, len(tree.leaves)))
        return KnownCheckpoint(tree.checkpoint(size), proof)

    return make


def seen_later(tree: Tree) -> KnownCheckpoint:
    """A later checkpoint of the same log: evidence may be over an earlier one."""
    longer = Tree([*tree.leaves, filler(90), filler(91)])
    size = len(tree.leaves)
    return KnownCheckpoint(longer.checkpoint(), tuple(consistency_proof(longer.source, size, size + 2)))


def forked(tree: Tree) -> KnownCheckpoint:
    """Another history of the same size."""
    return KnownCheckpoint(Tree([filler(99), *tree.leaves[1:]]).checkpoint())


def forked_earlier(tree: Tree) -> KnownCheckpoint:
    """An earlier checkpoint that this tree does not continue, with the proof of the tree that does."""
    other = Tree([filler(99), *tree.leaves[1:]])
    return KnownCheckpoint(other.checkpoint(5), tuple(consistency_proof(other.source, 5, len(tree.leaves))))


def pinned(**changes: Any) -> LedgerPolicy:
    return replace(PINNED, **changes)


def without_log_signature(note: Note) -> Note:
    return Note(note.text, note.signatures[1:])


def log_signature_of_a_stranger(note: Note) -> Note:
    wrong = replace(note.signatures[0], data=signer("stranger").sign(note.text.encode()))
    return Note(note.text, (wrong, *note.signatures[1:]))


def cosignature_spoilt(note: Note) -> Note:
    last = note.signatures[-1]
    return Note(note.text, (*note.signatures[:-1], replace(last, data=last.data[:-1] + bytes([last.data[-1] ^ 1]))))


def other_index(proof: TlogProof) -> TlogProof:
    return replace(proof, index=6)


def other_entry(proof: TlogProof) -> TlogProof:
    return replace(proof, extra=filler(3))


GOOD: dict[str, Callable[[], Scene]] = {
    "evidence over a checkpoint": Scene,
    "three witnesses signed": lambda: Scene(signed=dict.fromkeys(WITNESSES, NOW - 150)),
    "checkpoint seen before": lambda: Scene(known=seen(FILLERS + 1)),
    "earlier checkpoint seen before": lambda: Scene(known=seen(5)),
    "later checkpoint seen before": lambda: Scene(known=seen_later),
    "nonce, and the ledger demanded": lambda: Scene(kind=1, nonce=bytes(range(32)), ledger=pinned(required=True)),
}

CASES: dict[str, tuple[set[str], Callable[[], Scene]]] = {
    "checkpoint of a log not named": (
        {"ledger.checkpoint"},
        lambda: Scene(origin="other.test/public"),
    ),
    "checkpoint signed by a stranger": ({"ledger.checkpoint"}, lambda: Scene(log=signer("stranger"))),
    "checkpoint not signed by the log": ({"ledger.checkpoint"}, lambda: Scene(note=without_log_signature)),
    "log signature that does not verify": ({"ledger.checkpoint"}, lambda: Scene(note=log_signature_of_a_stranger)),
    "one witness of two": ({"ledger.quorum", "ledger.age"}, lambda: Scene(signed={"w1.test": NOW - 100})),
    "two witnesses of one operator": (
        {"ledger.quorum", "ledger.age"},
        lambda: Scene(signed={"w2.test": NOW - 100, "w3.test": NOW - 100}),
    ),
    "cosignature that does not verify": ({"ledger.quorum", "ledger.age"}, lambda: Scene(note=cosignature_spoilt)),
    "too few witnesses, where a nonce shows the age": (
        {"ledger.quorum"},
        lambda: Scene(kind=1, nonce=bytes(range(32)), ledger=pinned(required=True), signed={"w1.test": NOW - 100}),
    ),
    "no witness asked for, so no age": ({"ledger.age"}, lambda: Scene(ledger=pinned(quorum=0))),
    "checkpoint too old": (
        {"ledger.age"},
        lambda: Scene(signed={"w1.test": NOW - 9000, "w2.test": NOW - 3600}),
    ),
    "checkpoint of the future": (
        {"ledger.age"},
        lambda: Scene(signed={"w1.test": NOW, "w2.test": NOW + 61}),
    ),
    "no proof that the keyset stands in the ledger": ({"ledger.inclusion"}, lambda: Scene(proof=lambda _: None)),
    "proof for another place": ({"ledger.inclusion"}, lambda: Scene(proof=other_index)),
    "proof of another keyset": ({"ledger.inclusion"}, lambda: Scene(proof=other_entry)),
    "entry of another node": ({"ledger.inclusion"}, lambda: Scene(entry={"node": "other"})),
    "entry that is no keyset's": ({"ledger.inclusion"}, lambda: Scene(entry={"kind": "reference"})),
    "another history of the same size": ({"ledger.consistency"}, lambda: Scene(known=forked)),
    "a tree that does not continue the one seen": ({"ledger.consistency"}, lambda: Scene(known=forked_earlier)),
    "evidence over a checkpoint where a nonce was drawn": (
        {"challenge.kind", "challenge.nonce"},
        lambda: Scene(nonce=bytes(32)),
    ),
    "evidence over a checkpoint under a policy without logs": (
        {"challenge.kind", "challenge.nonce"},
        lambda: Scene(ledger=LedgerPolicy()),
    ),
}
