# SPDX-License-Identifier: Apache-2.0
"""The checks of the public ledger: a checkpoint that pinned witnesses signed, and the keyset in its tree (KEYS §4).

A checkpoint dates evidence that was made over it (challenge kind 2): the evidence is not older than the time at which
the quorum of cosignatures was complete. Without a quorum it shows no age. Inclusion and consistency make a keyset that
is shown to one user alone visible to everybody who reads the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_ledger import LedgerPolicy
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, not_applicable, passed, skipped
from teehouse_core.errors import TeehouseError
from teehouse_core.evidence.bundle import CHALLENGE_LEDGER, Bundle
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import PublicEntry
from teehouse_core.log.errors import LogSignatureError
from teehouse_core.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from teehouse_core.log.note import Note
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.quorum import QuorumResult, WitnessPolicy
from teehouse_core.log.signing import verify_signature

__all__ = ["LEDGER_CHECKS", "KnownCheckpoint", "bundle_checkpoint", "check_ledger"]

LEDGER_CHECKS: Final = (
    "ledger.checkpoint",
    "ledger.quorum",
    "ledger.age",
    "ledger.inclusion",
    "ledger.consistency",
)
AHEAD: Final = 60  # seconds by which a witness's clock may be before ours


@dataclass(frozen=True, slots=True)
class KnownCheckpoint:
    """The newest checkpoint of an origin that this user saw, and the proof between it and the one in a bundle.

    `proof` goes from the smaller of both trees to the larger; it is empty when they have one size.
    """

    checkpoint: Checkpoint
    proof: tuple[bytes, ...] = field(default=(), repr=False)


def bundle_checkpoint(bundle: Bundle) -> tuple[Note, Checkpoint] | None:
    """The checkpoint that a bundle shows, unverified; None when it shows none that parses."""
    raw = bundle.challenge_value if bundle.challenge_kind == CHALLENGE_LEDGER else bundle.cosigned_checkpoint
    if raw is None:
        return None
    try:
        note = Note.parse(raw)
        return note, Checkpoint.parse(note.text)
    except TeehouseError:
        return None


def check_ledger(
    sheet: Sheet, bundle: Bundle, policy: Policy, now: int, place: int, known: KnownCheckpoint | None
) -> int | None:
    """Make the `ledger.…` checks; gives the time (Unix seconds) that evidence of kind 2 is not older than."""
    dated = bundle.challenge_kind == CHALLENGE_LEDGER == place
    if not dated and not policy.ledger.required:
        for check_id in LEDGER_CHECKS:
            sheet.write(check_id, not_applicable("neither the challenge nor the policy asks for the ledger"))
        return None
    shown = bundle_checkpoint(bundle)
    note, checkpoint = shown if shown is not None else (None, None)
    sheet.run("ledger.checkpoint", lambda: _checkpoint(note, checkpoint, policy.ledger))
    quorum = _quorum_of(note, policy.ledger)
    sheet.write("ledger.quorum", _quorum(quorum, policy.ledger))
    completed = quorum.completed_at if isinstance(quorum, QuorumResult) else None
    sheet.write("ledger.age", _age(completed, policy, now) if dated else not_applicable("the nonce shows the age"))
    sheet.run("ledger.inclusion", lambda: _inclusion(bundle, checkpoint))
    sheet.run("ledger.consistency", lambda: _consistency(checkpoint, known), needs=(checkpoint,))
    good = sheet.state("ledger.checkpoint") == sheet.state("ledger.age") == "passed"
    return completed if dated and good else None


def _checkpoint(note: Note | None, checkpoint: Checkpoint | None, ledger: LedgerPolicy) -> Outcome:
    if note is None or checkpoint is None:
        return failed("the bundle shows no checkpoint of a log")
    keys = ledger.log_keys(checkpoint.origin)
    origins = " or ".join(sorted({text.partition("+")[0] for text in ledger.logs})) or "none"
    if not keys:
        return failed("the checkpoint is of a log that the policy does not name", checkpoint.origin, origins)
    signed = [key for key in keys if note.by(key)]
    if not signed:
        return failed("no pinned key of the log signed the checkpoint", checkpoint.origin, origins)
    for key in signed:
        verify_signature(note, key)
    return passed(f"{checkpoint.origin} size {checkpoint.size}", origins)


def _quorum_of(note: Note | None, ledger: LedgerPolicy) -> QuorumResult | str:
    """What the pinned witnesses signed, or why that cannot be said."""
    if note is None:
        return "the bundle shows no checkpoint of a log"
    try:
        return WitnessPolicy(ledger.pinned_witnesses(), ledger.quorum).check(note)
    except LogSignatureError as error:
        return error.message
    except TeehouseError as error:
        return f"the policy's witnesses make no quorum: {error.message}"


def _quorum(quorum: QuorumResult | str, ledger: LedgerPolicy) -> Outcome:
    wanted = f"{ledger.quorum} operators"
    if isinstance(quorum, str):
        return failed(quorum, "", wanted)
    if ledger.quorum == 0:
        return not_applicable("no witness: the policy asks for none, so the log could show everybody another history")
    claimed = f"{quorum.count} operators: {' '.join(quorum.operators)}".removesuffix(": ")
    if not quorum.met:
        return failed("too few witnesses of different operators signed the checkpoint", claimed, wanted)
    return passed(claimed, wanted)


def _age(completed: int | None, policy: Policy, now: int) -> Outcome:
    if completed is None:
        hint = "without a witness quorum a checkpoint proves no age"
        return skipped(hint) if policy.freshness_required else not_applicable(hint)
    claimed, expected = f"{now - completed} s", f"{policy.max_evidence_age} s at most"
    if completed > now + AHEAD:
        return failed("the witnesses signed in the future; check the clock", claimed, expected)
    if now - completed >= policy.max_evidence_age:
        return failed("the checkpoint is too old, and evidence over it may be as old", claimed, expected)
    return passed(claimed, expected)


def _inclusion(bundle: Bundle, checkpoint: Checkpoint | None) -> Outcome:
    keyset = bundle.keyset
    if checkpoint is None or bundle.keyset_inclusion is None:
        return failed("the bundle does not show that the keyset stands in the ledger", "", keyset.sha256)
    proof = TlogProof.parse(bundle.keyset_inclusion)
    entry = PublicEntry.parse(proof.extra)
    claimed = (entry.kind, entry.sha256, entry.endpoint, entry.node)
    wanted = ("keyset", keyset.sha256, keyset.endpoint, keyset.node)
    if claimed != wanted:
        return failed("the entry is of another keyset", entry.sha256, keyset.sha256)
    verify_inclusion(proof.index, checkpoint.size, leaf_hash(proof.extra), proof.hashes, checkpoint.root)
    return passed(f"entry {proof.index}", f"size {checkpoint.size}")


def _consistency(checkpoint: Checkpoint | None, known: KnownCheckpoint | None) -> Outcome:
    if checkpoint is None or known is None:
        return not_applicable("no earlier checkpoint of this log was seen here")
    seen = known.checkpoint
    if seen.origin != checkpoint.origin:
        return failed("the checkpoint seen before is of another log", checkpoint.origin, seen.origin)
    old, new = sorted((seen, checkpoint), key=lambda one: one.size)
    verify_consistency(old.size, new.size, old.root, new.root, known.proof)
    return passed(f"size {checkpoint.size}", f"size {seen.size}")
