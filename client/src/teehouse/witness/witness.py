# SPDX-License-Identifier: Apache-2.0
"""The witness's decision (C2SP tlog-witness): sign a checkpoint only when it continues the largest one ever signed.

Order: form, origin, log signature; then, under the state's lock, old size, consistency, signing, storing. The
cosignature leaves this module only after the new size is durable.
"""

from __future__ import annotations

from dataclasses import dataclass

from teehouse.witness.errors import OtherSize, StateError, WitnessRefusal
from teehouse.witness.key import WitnessKey
from teehouse.witness.state import Seen, State
from teehouse.witness.trust import LogTrust
from teehouse_core.errors import MalformedError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.errors import LogProofError, LogSignatureError
from teehouse_core.log.merkle import EMPTY_ROOT, verify_consistency
from teehouse_core.log.note import Note, Signature
from teehouse_core.log.signing import cosign, verify_detached
from teehouse_core.log.witness import AddCheckpoint, NewestStatement
from teehouse_core.wire.canonical import MAX_INTEGER

__all__ = ["MAX_ORIGINS", "Statement", "Witness"]

MAX_ORIGINS = 100_000  # logs that come by prefix may not fill the disk; about 1 KiB each
_NEVER = Seen(0, EMPTY_ROOT, 0, b"")


@dataclass(frozen=True, slots=True)
class Statement:
    """A signed `NewestStatement`."""

    statement: bytes
    sig: bytes


class Witness:
    """One key, one state, some logs. Calls block on the disk; times are Unix seconds and come from the caller."""

    def __init__(self, key: WitnessKey, state: State, trust: LogTrust, max_origins: int = MAX_ORIGINS) -> None:
        self._key = key
        self._state = state
        self._trust = trust
        self._max_origins = max_origins

    def add_checkpoint(self, body: bytes, now: int) -> Signature:
        """The cosignature, once the checkpoint is stored for good.

        Raises MalformedError (400); WitnessRefusal: 404 `origin-unknown`, 403 `log-signature`, 409 `other-size` and
        `fork`, 422 `proof`, 507 `origin-limit`; StateError.
        """
        request = AddCheckpoint.parse(body)
        head = request.checkpoint
        signed = self._log_signatures(request.note, head)
        fork: WitnessRefusal | None = None
        with self._state.writing() as state:
            known = state.read(head.origin)
            before = known or _NEVER
            if request.old != before.size:
                raise OtherSize(before.size)
            if known is None and state.count() >= self._max_origins:
                raise WitnessRefusal(507, "origin-limit", "this witness knows too many logs")
            if known is not None and head.size == before.size and head.root != before.root:
                # signed by the log, and it cannot be true: kept, as proof against whoever holds the log's key
                state.add_fork(head.origin, head.size, now, Note(request.note.text, signed).to_bytes())
                fork = WitnessRefusal(409, "fork", "another tree of this size is cosigned")
            else:
                signature = self._sign(request, head, before, now)
                stored = Seen(
                    head.size,
                    head.root,
                    max(now, before.time),
                    Note(request.note.text, (*signed, signature)).to_bytes(),
                )
                state.write(head.origin, stored)
        if fork is not None:
            raise fork
        return signature

    def _log_signatures(self, note: Note, head: Checkpoint) -> tuple[Signature, ...]:
        """The log's own signatures, verified; lines of others are dropped."""
        keys = self._trust.keys_for(head.origin)
        if not keys:
            raise WitnessRefusal(404, "origin-unknown", "this witness does not know the log")
        if head.size > MAX_INTEGER:
            raise WitnessRefusal(422, "proof", "the tree is larger than any this witness follows")
        found: list[Signature] = []
        for key in keys:
            for signature in note.by(key):
                try:
                    verify_detached(note.text, signature, key)
                except LogSignatureError:
                    continue
                found.append(signature)
        if not found:
            raise WitnessRefusal(403, "log-signature", "no key known for this log has signed the checkpoint")
        return tuple(dict.fromkeys(found))

    def _sign(self, request: AddCheckpoint, head: Checkpoint, before: Seen, now: int) -> Signature:
        try:
            verify_consistency(before.size, head.size, before.root, head.root, request.proof)
        except LogProofError as error:
            raise WitnessRefusal(422, "proof", error.message) from error
        # a clock that went back must not make a newer cosignature look older
        return cosign(request.note.text, self._key.name, self._key.private, max(now, before.time))

    def newest(self, origin: str, nonce: bytes, now: int) -> Statement:
        """What was signed last for `origin`, over the asker's nonce (32 bytes).

        Raises WitnessRefusal 404 for an origin that this witness would not sign for; StateError.
        """
        if not self._trust.keys_for(origin):
            raise WitnessRefusal(404, "origin-unknown", "this witness does not know the log")
        seen = self._state.read(origin) or _NEVER
        statement = NewestStatement(origin, seen.size, seen.root, nonce, max(now, seen.time), seen.note)
        try:
            data = statement.to_bytes()
            NewestStatement.parse(data)
        except MalformedError as error:
            raise StateError("the state holds something that was never signed") from error
        return Statement(data, self._key.private.sign(statement.signed()))
