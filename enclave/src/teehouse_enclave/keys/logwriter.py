# SPDX-License-Identifier: Apache-2.0
"""What happens to an entry once it is journaled: ledger, checkpoint, witnesses, ledger again; then callers go on.

One `LogWriter` for each log. A round takes everything journaled so far, so callers who wait share its cost:

(2) append to the ledger, (3) sign a checkpoint of exactly what is journaled, (4) collect cosignatures until the quorum
of different operators is there, (5) publish the cosigned checkpoint, (6) release the callers.

A step that fails releases nobody: all who wait are told `unavailable`, the entries stay, and the writer tries again by
itself until it succeeds. Meanwhile the log is `stalled`. Only journaled trees are signed, so no size has two roots.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.merkle import consistency_proof
from teehouse_core.log.note import Note, Signature, VerifierKey
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_core.log.signing import log_key, sign_note
from teehouse_core.log.witness import AddCheckpoint
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.journal import Journal, Record
from teehouse_enclave.keys.outbound import (
    BATCH_ENTRIES,
    LedgerClient,
    LedgerGapError,
    OutsideError,
    WitnessClient,
    WitnessElsewhere,
    batches,
)
from teehouse_enclave.keys.tree import Tree

__all__ = ["LogWriter", "Outside", "Published"]

_FIRST_RETRY: Final = 0.1  # seconds after a failed round
_LAST_RETRY: Final = 5.0  # seconds, where doubling ends
_COSIGN_WAIT: Final = 10.0  # seconds in which the quorum must be there
_TRIES: Final = 3  # at one witness in one round, when it says that it knows another size


@dataclass(frozen=True, slots=True)
class Published:
    """A cosigned checkpoint that the ledger has, and for one entry its proof (C2SP tlog-proof)."""

    note: bytes = field(repr=False)
    size: int
    proof: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outside:
    """Whom every log of this service speaks to."""

    ledger: LedgerClient
    witnesses: Mapping[str, WitnessClient]
    policy: WitnessPolicy


class LogWriter:
    """Brings one log's journaled entries out. `on_event(event, log, code)` is told of stalls and recoveries."""

    def __init__(
        self,
        log: str,
        origin: str,
        key: Ed25519PrivateKey,
        tree: Tree,
        journal: Journal,
        outside: Outside,
        *,
        known: Mapping[str, int] | None = None,
        on_event: Callable[[str, str, str], None] = lambda _event, _log, _code: None,
    ) -> None:
        self.log = log
        self.origin = origin
        self.tree = tree
        self.stalled = ""
        """Code of what the last round failed at; empty while all is well."""
        self.published = -1  # size under the newest published checkpoint; -1: not known since this start
        self.note = b""
        self.rounds = 0
        self._opened = tree.size
        self._key = key
        self._journal = journal
        self._outside = outside
        self._known: dict[str, int] = dict(known or {})  # size that each witness signed last
        self._asking: dict[str, asyncio.Task[Signature]] = {}
        self._fresh: deque[Record] = deque()  # journaled, not known to be in the ledger
        self._ledger_size: int | None = None
        self._waiting: list[tuple[int, asyncio.Future[Published]]] = []
        self._wake = asyncio.Event()
        self._on_event = on_event

    @property
    def verifier_key(self) -> VerifierKey:
        """The log's key under the name of its origin, as clients and witnesses pin it."""
        return log_key(self.origin, self._key.public_key())

    @property
    def backlog(self) -> int:
        """Entries that no published checkpoint covers yet."""
        return self.tree.size - max(self.published, 0)

    @property
    def unsent(self) -> int:
        """Entries of this start that no published checkpoint covers: a long log is no backlog when it is opened."""
        return self.tree.size - max(self.published, self._opened)

    @property
    def waiting(self) -> int:
        """Callers that wait for a checkpoint."""
        return len(self._waiting)

    def journaled(self, records: list[Record], leaf_hashes: list[bytes]) -> None:
        """These records are durable: they belong to the tree, and a round is due."""
        self.tree.append(leaf_hashes)
        self._fresh.extend(records)
        self._wake.set()

    def wake(self) -> None:
        """A round is due, whatever is new."""
        self._wake.set()

    def published_with(self, index: int) -> asyncio.Future[Published]:
        """Resolves when a published, cosigned checkpoint covers `index`; fails with KeysError `unavailable`."""
        future: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._waiting.append((index, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        """Rounds until cancelled."""
        pause = _FIRST_RETRY
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                size = self.tree.size
                if size in (0, self.published) and not self._waiting:  # an empty log has nothing to bring out
                    continue
                try:
                    await self._round(size)
                except TeehouseError as error:
                    self._failed(error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LAST_RETRY)
                    self._wake.set()
                else:
                    pause = _FIRST_RETRY
        finally:
            for task in self._asking.values():
                task.cancel()
            for _, future in self._waiting:
                future.cancel()

    async def _round(self, size: int) -> None:
        await self._to_ledger(size)  # (2)
        checkpoint = Checkpoint(self.origin, size, self.tree.root_at(size))
        text = checkpoint.text()
        note = Note(text, (sign_note(text, self.origin, self._key),))  # (3)
        note = note.add(*await self._cosignatures(note, size))  # (4)
        raw = note.to_bytes()
        await self._outside.ledger.publish(self.log, raw)  # (5)
        self.published, self.note = size, raw
        self.rounds += 1
        if self.stalled:
            self.stalled = ""
            self._on_event("log-recovered", self.log, "")
        self._release(size, raw)  # (6)
        self.tree.trim(min([size, *(self._known.get(name, 0) for name in self._outside.witnesses)]))

    def _release(self, size: int, raw: bytes) -> None:
        ready = [(index, future) for index, future in self._waiting if index < size]
        self._waiting = [(index, future) for index, future in self._waiting if index >= size]
        for index, future in ready:
            if not future.done():
                future.set_result(Published(raw, size, self._proof(index, size, raw)))

    def _proof(self, index: int, size: int, raw: bytes) -> bytes:
        try:
            hashes = self.tree.inclusion(index, size)
        except LocalError:  # an entry from before this start: whoever wants its proof makes it from the tiles
            return b""
        return TlogProof(index, tuple(hashes), raw).to_bytes()

    def _failed(self, error: TeehouseError) -> None:
        if self.stalled != error.code:
            self._on_event("log-stalled", self.log, error.code)
        self.stalled = error.code
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(unavailable(error.code))
                future.exception()  # a caller may be gone; that is no fault to report

    async def _to_ledger(self, size: int) -> None:
        ledger = self._outside.ledger
        if self._ledger_size is None:
            self._ledger_size, _ = await ledger.sizes(self.log)
        if self._ledger_size > size:
            raise OutsideError("the ledger says that it holds more than was journaled", code="ledger-ahead")
        while self._ledger_size < size:
            for part in batches(await self._records(self._ledger_size, size)):
                try:
                    held = await ledger.append(self.log, part)
                except LedgerGapError as gap:  # it lost entries, or was restored: it gets them again
                    self._ledger_size = gap.size
                    break
                self._ledger_size = min(max(held, self._ledger_size), size)
        while self._fresh and self._fresh[0].index < self._ledger_size:
            self._fresh.popleft()

    async def _records(self, first: int, size: int) -> list[Record]:
        """Journaled records from `first` on, as many as one or a few appends take."""
        if self._fresh and self._fresh[0].index <= first:
            skip = first - self._fresh[0].index
            return [record for at, record in enumerate(self._fresh) if at >= skip and record.index < size]
        count = min(BATCH_ENTRIES, size - first)
        records = await asyncio.to_thread(self._journal.read, self.log, first, count)
        if not records or records[0].index != first:
            raise OutsideError("the journal does not give back what it holds", code="storage-corrupt")
        return records

    async def _cosignatures(self, note: Note, size: int) -> list[Signature]:
        """Signatures that make the quorum, as soon as they do. Raises `OutsideError` (`witness-quorum`)."""
        policy = self._outside.policy
        if policy.quorum == 0:
            return []
        asked: set[asyncio.Task[Signature]] = set()
        for name, witness in self._outside.witnesses.items():
            before = self._asking.get(name)
            if before is None or before.done():  # one that still hangs is not asked a second time
                task = asyncio.create_task(self._cosign(witness, note, size))
                self._asking[name] = task
                asked.add(task)
        signed: list[Signature] = []
        codes: list[str] = []
        end = asyncio.get_running_loop().time() + _COSIGN_WAIT
        while asked:
            left = end - asyncio.get_running_loop().time()
            done, asked = await asyncio.wait(asked, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                error = task.exception()
                if error is None:
                    signed.append(task.result())
                else:
                    codes.append(error.code if isinstance(error, TeehouseError) else "witness-answer")
            if policy.check(note.add(*signed)).met:
                for late in asked:
                    late.add_done_callback(_seen)
                return signed
        for late in asked:
            late.add_done_callback(_seen)
        serious = next((code for code in codes if code in ("witness-ahead", "witness-refused")), None)
        raise OutsideError("too few witnesses signed", code=serious or "witness-quorum")

    async def _cosign(self, witness: WitnessClient, note: Note, size: int) -> Signature:
        name = witness.witness.name
        old = self._known.get(name, 0)
        for _ in range(_TRIES):
            if old > size:
                raise OutsideError(f"witness {name} signed a larger tree", code="witness-ahead")
            proof = await self._consistency(old, size)
            try:
                signature = await witness.cosign(AddCheckpoint(old, tuple(proof), note))
            except WitnessElsewhere as elsewhere:
                old = elsewhere.size
                continue
            self._known[name] = size
            return signature
        raise OutsideError(f"witness {name} keeps changing its mind", code="witness-answer")

    async def _consistency(self, old: int, new: int) -> list[bytes]:
        with contextlib.suppress(LocalError):
            return self.tree.consistency(old, new)
        return await asyncio.to_thread(
            consistency_proof, lambda level, index: self._journal.node(self.log, level, index), old, new
        )


def unavailable(step: str) -> KeysError:
    """What a caller is told while a log cannot be brought out: nothing was sent; `step` says what did not happen."""
    return KeysError("unavailable", "the log cannot be published now", hint=f"{step}; nothing was sent, try again")


def _seen(task: asyncio.Task[Signature]) -> None:
    """A witness that answers after the quorum: its errors are nobody's."""
    if not task.cancelled():
        task.exception()
