# SPDX-License-Identifier: Apache-2.0
"""Stages of logs for `teehouse-conformance`: trees, notes, checkpoints, quorums, proofs, entries (spec/04-log.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from teehouse.conformance_input import InputError, member, objects, take, take_all
from teehouse_core.errors import TeehouseError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import AuditEntry, Opening, parse_leaf
from teehouse_core.log.merkle import Frontier, leaf_hash, verify_consistency, verify_inclusion
from teehouse_core.log.note import Note, VerifierKey
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_core.log.signing import verify_signature, verify_statement
from teehouse_core.log.text import decode
from teehouse_core.log.tiles import parse_bundle, parse_path
from teehouse_core.log.witness import AddCheckpoint
from teehouse_core.wire.canonical import b64u

__all__ = ["LOG_STAGES"]

MAX_CHECKPOINT = 64 * 1024  # bytes of a checkpoint's text


def _root(given: Mapping[str, Any]) -> dict[str, Any]:
    frontier = Frontier.empty().extend(leaf_hash(entry) for entry in take_all(given, "entries"))
    return {"size": frontier.size, "root": b64u(frontier.root())}


def _inclusion(given: Mapping[str, Any]) -> dict[str, Any]:
    index, size = member(given, "index", int), member(given, "size", int)
    leaf = leaf_hash(take(given, "entry"))
    verify_inclusion(index, size, leaf, take_all(given, "proof"), take(given, "root"))
    return {"leaf_hash": b64u(leaf)}


def _consistency(given: Mapping[str, Any]) -> dict[str, Any]:
    old, new = member(given, "old", int), member(given, "new", int)
    verify_consistency(old, new, take(given, "old_root"), take(given, "new_root"), take_all(given, "proof"))
    return {}


def _checkpoint_facts(text: str) -> dict[str, Any]:
    checkpoint = Checkpoint.parse(text)
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": b64u(checkpoint.root)}


def _note(given: Mapping[str, Any]) -> dict[str, Any]:
    """`keys` are those that must have signed; `times` are those of cosignatures, in the order of `keys`, else 0."""
    note = Note.parse(take(given, "note"))
    keys = [VerifierKey.parse(text) for text in member(given, "keys", list)]
    return {
        "text": b64u(note.text.encode()),
        "names": [item.name for item in note.signatures],
        "times": [verify_signature(note, key) or 0 for key in keys],
    }


def _checkpoint(given: Mapping[str, Any]) -> dict[str, Any]:
    return _checkpoint_facts(decode(take(given, "data"), MAX_CHECKPOINT))


def _quorum(given: Mapping[str, Any]) -> dict[str, Any]:
    """`completed_at` is 0 where nothing shows any age."""
    try:
        policy = WitnessPolicy.read(member(given, "policy", dict))
    except TeehouseError as error:
        raise InputError(f"policy: {error}") from None
    result = policy.require(Note.parse(take(given, "note")))
    return {
        "count": result.count,
        "operators": list(result.operators),
        "names": list(result.names),
        "completed_at": result.completed_at or 0,
    }


def _proof(given: Mapping[str, Any]) -> dict[str, Any]:
    proof = TlogProof.parse(take(given, "proof"))
    verify_signature(proof.note, VerifierKey.parse(member(given, "key", str)))
    proof.verify_inclusion(leaf_hash(take(given, "entry")))
    return _checkpoint_facts(proof.note.text) | {"index": proof.index, "extra": b64u(proof.extra)}


def _tile_path(given: Mapping[str, Any]) -> dict[str, Any]:
    """`level` is −1 for a bundle."""
    path = parse_path(member(given, "path", str))
    return {"level": path.level, "index": path.index, "width": path.width}


def _bundle(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"entries": [hashlib.sha256(entry).hexdigest() for entry in parse_bundle(take(given, "data"))]}


def _entry(given: Mapping[str, Any]) -> dict[str, Any]:
    """A leaf of either log, and where given an opening (its JSON text) that must be this entry's."""
    data = take(given, "data")
    entry = parse_leaf(data)
    if "opening" in given and isinstance(entry, AuditEntry):
        Opening.read(json.loads(take(given, "opening"))).check(entry)
    return {"leaf_hash": b64u(leaf_hash(data)), "id": entry.id, "time": entry.time}


def _add_checkpoint(given: Mapping[str, Any]) -> dict[str, Any]:
    request = AddCheckpoint.parse(take(given, "data"))
    return _checkpoint_facts(request.note.text) | {"old": request.old, "proof": [b64u(item) for item in request.proof]}


def _statement(given: Mapping[str, Any]) -> dict[str, Any]:
    key = VerifierKey.parse(member(given, "key", str))
    statement = verify_statement(
        take(given, "statement"),
        take(given, "sig"),
        key,
        origin=member(given, "origin", str),
        nonce=take(given, "nonce"),
    )
    return {"size": statement.size, "root": b64u(statement.root), "time": statement.time}


def _grow(given: Mapping[str, Any]) -> dict[str, Any]:
    """Roots after each of `batches` of entries: a writer that keeps only a frontier."""
    frontier, roots = Frontier.empty(), []
    for batch in objects(given, "batches"):
        frontier = Frontier.from_bytes(frontier.to_bytes()).extend(map(leaf_hash, take_all(batch, "entries")))
        roots.append(b64u(frontier.root()))
    return {"roots": roots}


LOG_STAGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "log-root": _root,
    "log-grow": _grow,
    "log-inclusion": _inclusion,
    "log-consistency": _consistency,
    "log-note": _note,
    "log-checkpoint": _checkpoint,
    "log-quorum": _quorum,
    "log-proof": _proof,
    "log-tile-path": _tile_path,
    "log-bundle": _bundle,
    "log-entry": _entry,
    "log-add-checkpoint": _add_checkpoint,
    "log-statement": _statement,
}
