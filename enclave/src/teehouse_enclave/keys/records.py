# SPDX-License-Identifier: Apache-2.0
"""From a change to what is journaled: public leaf, opening, and the private part that only this service reads.

The leaf commits to who acted and to the private part; the tree commits to the leaf. So whoever can prove an entry has
fixed the state that it made, without seeing it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import Final

from teehouse_core.errors import MalformedError
from teehouse_core.log.entry import SALT_SIZE, AuditEntry, Opening, PublicEntry
from teehouse_enclave.keys.box import Box, context
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import Record
from teehouse_enclave.keys.model import Change

__all__ = ["PublicDraft", "audit_record", "delta_of", "public_record"]

_LABEL: Final = "record"
_MAX_NAMES: Final = 16  # of `core.log.entry`
_MAX_NAME: Final = 256  # characters


@dataclass(frozen=True, slots=True)
class PublicDraft:
    """What an entry of the public log will say, before index, time and id."""

    kind: str
    sha256: str
    endpoint: str = ""
    node: str = ""
    name: str = ""
    evidence_sha256: str = ""


def audit_record(
    change: Change, *, tenant: str, origin: str, index: int, now: int, quorum: int, box: Box
) -> tuple[Record, AuditEntry]:
    """The record of `change` at `index` of the tenant's log. `quorum` is that of the witnesses in force."""
    draft = change.entry
    opening = _opening(change)
    private = _private(change, origin, index, box)
    entry = AuditEntry(
        time=now,
        op=draft.op,
        id=secrets.token_hex(16),
        decision=draft.decision,
        tenant=tenant,
        ring=draft.ring,
        key=draft.key,
        version=draft.version,
        actor=opening.actor if opening is not None else "",
        policy_sha256=draft.policy_sha256,
        evidence_sha256=draft.evidence_sha256,
        keyset_sha256=draft.keyset_sha256,
        request_sha256=draft.request_sha256,
        failed_checks=draft.failed_checks,
        reason=draft.reason,
        tier=draft.tier,
        witnesses=quorum,
        private_sha256=hashlib.sha256(private).hexdigest() if private else "",
    )
    shown = json.dumps(opening.to_json(), separators=(",", ":")).encode() if opening is not None else b""
    return Record(index, entry.to_bytes(), shown, private), entry


def public_record(draft: PublicDraft, *, index: int, now: int) -> tuple[Record, PublicEntry]:
    """The record of a publication at `index` of the public log."""
    entry = PublicEntry(
        time=now,
        kind=draft.kind,
        id=secrets.token_hex(16),
        sha256=draft.sha256,
        endpoint=draft.endpoint,
        node=draft.node,
        name=draft.name,
        evidence_sha256=draft.evidence_sha256,
    )
    return Record(index, entry.to_bytes(), b"", b""), entry


def delta_of(record: Record, *, tenant: str, origin: str, box: Box) -> bytes | None:
    """The delta that a journaled record of this tenant's log holds, None for one that changed nothing.

    Raises `StorageError` (`storage-corrupt`) when leaf and private part do not belong together or here.
    """
    try:
        entry = AuditEntry.parse(record.leaf)
    except MalformedError as error:
        raise StorageError("storage-corrupt", f"a journaled leaf does not parse: {error.code}") from None
    digest = hashlib.sha256(record.private).hexdigest() if record.private else ""
    if entry.tenant != tenant or entry.private_sha256 != digest:
        raise StorageError("storage-corrupt", "a journaled record is not the one that its leaf names")
    if not record.private:
        return None
    return box.open(_LABEL, context(origin, str(record.index)), record.private)


def _opening(change: Change) -> Opening | None:
    known = tuple(name for name in map(_printable, change.entry.actors) if name)[:_MAX_NAMES]
    return Opening(secrets.token_bytes(SALT_SIZE), known) if known else None


def _printable(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name)[:_MAX_NAME]


def _private(change: Change, origin: str, index: int, box: Box) -> bytes:
    """The delta, sealed to its place in its log; empty when the state stays as it is."""
    if change.delta is None:
        return b""
    return box.seal(_LABEL, context(origin, str(index)), change.delta)
