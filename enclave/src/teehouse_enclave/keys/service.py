# SPDX-License-Identifier: Apache-2.0
"""The one way anything happens: a proposal becomes an entry, is journaled, takes effect, and is brought out.

All proposals of all tenants pass through one line. A worker thread takes whatever waits, asks each proposal, in order
and under the exact state that the entries before it made, what is to happen, and journals the lot with one commit. So
the order of decisions is the order of the log, no decision is made on a state that was over, and callers share the cost
of the disk. Then each log's `LogWriter` brings the entries out; only when a cosigned checkpoint covers an entry does
its caller go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teehouse_core.errors import TeehouseError
from teehouse_core.log.entry import AuditEntry, PublicEntry
from teehouse_core.log.merkle import Frontier, leaf_hash, new_nodes
from teehouse_core.wire.grant import LogPlace
from teehouse_enclave.keys.box import Box
from teehouse_enclave.keys.errors import KeysError, StorageError
from teehouse_enclave.keys.fold import fold
from teehouse_enclave.keys.journal import PUBLIC_LOG, Batch, Journal, Record, tenant_log
from teehouse_enclave.keys.logwriter import LogWriter, Outside, unavailable
from teehouse_enclave.keys.model import Change, State
from teehouse_enclave.keys.records import PublicDraft, audit_record, delta_of, public_record
from teehouse_enclave.keys.snapshots import save_snapshot
from teehouse_enclave.keys.tree import Tree

__all__ = ["Book", "Committed", "Proposal", "Service", "ServiceLimits", "origin_of"]

_BATCH: Final = 256  # proposals journaled with one commit
_PAGE: Final = 1024  # records read at a time
_SNAPSHOT: Final = 4096  # entries of a log after which its state is written down whole: a start replays no more

Proposal = Callable[[State | None, int], Change]
"""(state of the tenant or None, Unix seconds) → what is to happen. Quick, no I/O; raises TeehouseError to refuse.

It runs in the journal's thread, once, at the entry's place in the order. Whatever it decided is final when it returns.
"""


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Ceilings of one service."""

    max_tenants: int = 10_000  # each has a log, a task and a state in memory
    max_queue: int = 4096  # proposals waiting; more are refused as over-limit
    max_backlog: int = 4096  # new entries of a log that no published checkpoint covers
    commit_timeout: float = 15.0  # seconds that a caller waits for the quorum


@dataclass(frozen=True, slots=True)
class Committed:
    """An entry under a published checkpoint with its quorum. `result` is what the change answers."""

    place: LogPlace
    entry: AuditEntry | PublicEntry
    result: Mapping[str, Any] = field(repr=False)
    checkpoint: bytes = field(repr=False)
    proof: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """`entry` and `checkpoint` members of an answer."""
        return {"entry": self.place.to_json(), "checkpoint": self.checkpoint.decode("utf-8")}


@dataclass(slots=True)
class Book:
    """One log as the journal has it. Only the journal's thread changes it."""

    log: str
    tenant: str  # "" for the public log
    origin: str
    state: State | None = None
    frontier: Frontier = field(default_factory=Frontier.empty)
    saved: int = 0  # size at the newest snapshot
    uncertain: bool = False  # a write failed: what the journal holds must be looked at before the next


@dataclass(slots=True)
class _Pending:
    log: str
    tenant: str
    propose: Proposal | PublicDraft
    future: asyncio.Future[_Placed]
    outcome: _Placed | TeehouseError | None = None


@dataclass(frozen=True, slots=True)
class _Placed:
    record: Record
    entry: AuditEntry | PublicEntry
    result: Mapping[str, Any]


@dataclass(slots=True)
class _Draft:
    """A book's next page, while it is being written."""

    book: Book
    state: State | None
    records: list[Record] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    slots: dict[str, bytes] = field(default_factory=dict)
    shred: list[str] = field(default_factory=list)
    pending: list[_Pending] = field(default_factory=list)


def origin_of(origin: str, log: str) -> str:
    """A log's own origin below the service's: `<origin>/public`, `<origin>/tenant/<id>`."""
    return f"{origin}/{log.replace('tenant-', 'tenant/', 1)}"


class Service:
    """Tenants' states, their logs, and the line of proposals. Made by `start`, run by `run`."""

    def __init__(
        self,
        *,
        origin: str,
        journal: Journal,
        box: Box,
        log_key: Ed25519PrivateKey,
        outside: Outside,
        now: Callable[[], int],
        limits: ServiceLimits | None = None,
        on_event: Callable[[str, str, str], None] = lambda _event, _log, _code: None,
    ) -> None:
        self.origin = origin
        self.journal = journal
        self.box = box
        self.outside = outside
        self.now = now
        self.limits = limits or ServiceLimits()
        self.books: dict[str, Book] = {}
        self.writers: dict[str, LogWriter] = {}
        self.journaled = 0  # entries journaled since start, for metrics
        self.commits = 0  # journal commits since start
        self._log_key = log_key
        self._on_event = on_event
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue(self.limits.max_queue)
        self._owed: dict[str, list[str]] = {}  # slots by log that are yet to be deleted
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running = False
        self.stopping = False

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def state(self, tenant: str) -> State | None:
        """The tenant's state as journaled, or None."""
        book = self.books.get(tenant_log(tenant))
        return book.state if book is not None else None

    def states(self) -> Iterable[State]:
        """Every tenant's state."""
        return [book.state for book in list(self.books.values()) if book.state is not None]

    async def slot(self, tenant: str, name: str) -> bytes | None:
        """A slot of the tenant. Raises `StorageError`."""
        return await asyncio.to_thread(self.journal.get_slot, tenant_log(tenant), name)

    @property
    def log_public_key(self) -> Ed25519PublicKey:
        """What every log of this service is signed with, each under the name of its origin."""
        return self._log_key.public_key()

    @property
    def stalled(self) -> dict[str, str]:
        """Logs whose last round failed, with the code of what it failed at."""
        return {log: writer.stalled for log, writer in self.writers.items() if writer.stalled}

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def commit(self, tenant: str, proposal: Proposal | Change) -> Committed:
        """Put one entry into the tenant's log and wait until a cosigned checkpoint covers it.

        A plain `Change` is for what does not depend on the state. Raises what the proposal raises (no entry then),
        `StorageError` (no entry), KeysError `over-limit` (no entry) or `unavailable` (the entry may stand: *granted*
        means *may have been sent*; nothing was).
        """
        if isinstance(proposal, Change):
            fixed = proposal
            return await self._commit(tenant_log(tenant), tenant, lambda _state, _now: fixed)
        return await self._commit(tenant_log(tenant), tenant, proposal)

    async def publish(self, draft: PublicDraft) -> Committed:
        """Put one entry into the public log; raises as `commit`."""
        return await self._commit(PUBLIC_LOG, "", draft)

    async def _commit(self, log: str, tenant: str, propose: Proposal | PublicDraft) -> Committed:
        writer = self.writers.get(log)
        if self.stopping:
            raise unavailable("stopping")
        if writer is not None and writer.stalled:
            raise unavailable(writer.stalled)  # nothing is journaled that could not be sent anyway
        if writer is not None and writer.unsent >= self.limits.max_backlog:
            raise KeysError("over-limit", "too many entries wait for the witnesses", hint="try again in a moment")
        pending = _Pending(log, tenant, propose, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(pending)
        except asyncio.QueueFull:
            raise KeysError("over-limit", "too many requests wait", hint="try again in a moment") from None
        placed = await pending.future
        record = placed.record
        try:
            async with asyncio.timeout(self.limits.commit_timeout):
                published = await self.writers[log].published_with(record.index)
        except TimeoutError:
            raise unavailable("witness-quorum") from None
        digest = hashlib.sha256(record.leaf).hexdigest()
        place = LogPlace(origin_of(self.origin, log), record.index, digest)
        return Committed(place, placed.entry, placed.result, published.note, published.proof)

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────

    def adopt(self, book: Book, tree: Tree, known: Mapping[str, int] | None = None) -> LogWriter:
        """Take in a log: its book, and the tree whose size is the book's. `known` are the witnesses' sizes."""
        self.books[book.log] = book
        writer = LogWriter(
            book.log,
            book.origin,
            self._log_key,
            tree,
            self.journal,
            self.outside,
            known=known,
            on_event=self._on_event,
        )
        self.writers[book.log] = writer
        if self._running:
            self._tasks[book.log] = asyncio.create_task(writer.run())
        return writer

    async def run(self) -> None:
        """Serve the line until cancelled. Every log is brought out once at the start: that is all healing takes."""
        self._running = True
        for log, writer in self.writers.items():
            self._tasks[log] = asyncio.create_task(writer.run())
            writer.wake()
        try:
            while True:
                batch = [await self._queue.get()]
                while len(batch) < _BATCH and not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                await self._serve(batch)
        finally:
            self._running = False
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Take no more, and let what is on its way come out, for at most so long."""
        self.stopping = True
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            if self._queue.empty() and not any(writer.waiting for writer in self.writers.values()):
                break
            await asyncio.sleep(0.02)

    def stop(self) -> None:
        """Let go of the thread; the journal stays open."""
        self._thread.shutdown(wait=True)

    async def _serve(self, batch: list[_Pending]) -> None:
        loop = asyncio.get_running_loop()
        adopted = await loop.run_in_executor(self._thread, self._write, batch, self.now())
        for book, records, hashes in adopted:
            if book.log not in self.writers:
                self.adopt(book, Tree())
            self.writers[book.log].journaled(records, hashes)
        for pending in batch:
            if pending.future.done():
                continue
            outcome = pending.outcome
            if isinstance(outcome, _Placed):
                pending.future.set_result(outcome)
            else:
                pending.future.set_exception(outcome or KeysError("internal", "a proposal was lost"))

    # ── the journal's thread ─────────────────────────────────────────────────────────────────────────────────────

    def _write(self, batch: list[_Pending], now: int) -> list[tuple[Book, list[Record], list[bytes]]]:
        """Form, journal, fold. Gives what belongs to which tree now; outcomes stand in the pending ones."""
        adopted = self._look_again()
        drafts = self._form(batch, now)
        written = [draft for draft in drafts.values() if draft.records]
        if written:
            try:
                self.journal.append([_batch(draft) for draft in written])
            except StorageError as error:
                for draft in written:
                    draft.book.uncertain = True
                    self.books.setdefault(draft.book.log, draft.book)
                    for pending in draft.pending:
                        pending.outcome = error
                return adopted
            self.commits += 1
        for draft in written:
            book = draft.book
            book.frontier = book.frontier.extend(draft.hashes)  # first: whoever sees the state sees its entry's place
            book.state = draft.state
            self.journaled += len(draft.records)
            adopted.append((book, draft.records, draft.hashes))
            if book.frontier.size - book.saved >= _SNAPSHOT:
                self._save(book)
            if draft.shred:
                self.owe_shred(book.log, draft.shred)
        if any(draft.shred for draft in written):
            self._shred()
        return adopted

    def owe_shred(self, log: str, names: Sequence[str]) -> None:
        """Slots that must go. What fails is done again with the next ones, and at the next start."""
        self._owed.setdefault(log, []).extend(names)

    def _shred(self) -> None:
        for log, names in list(self._owed.items()):
            with contextlib.suppress(StorageError):
                self.journal.shred(log, names)
                del self._owed[log]

    def _save(self, book: Book) -> None:
        book.saved = book.frontier.size  # also when it fails: it is tried again as much later
        with contextlib.suppress(StorageError):
            save_snapshot(self.journal, self.box, book.log, book.origin, book.frontier, book.state)

    def _form(self, batch: list[_Pending], now: int) -> dict[str, _Draft]:
        drafts: dict[str, _Draft] = {}
        for pending in batch:
            draft = drafts.get(pending.log)
            if draft is None:
                book = self.books.get(pending.log) or Book(
                    pending.log, pending.tenant, origin_of(self.origin, pending.log)
                )
                draft = drafts[pending.log] = _Draft(book, book.state)
            try:
                if draft.book.uncertain:
                    raise StorageError("storage", "the journal does not answer")
                self._add(draft, pending, now)
            except TeehouseError as error:
                pending.outcome = error
            except Exception as error:  # a fault of ours in one proposal is not everybody's
                self._on_event("proposal-failed", pending.log, type(error).__name__)
                pending.outcome = KeysError("internal", "the request could not be decided")
        return drafts

    def _add(self, draft: _Draft, pending: _Pending, now: int) -> None:
        book, index = draft.book, draft.book.frontier.size + len(draft.records)
        if isinstance(pending.propose, PublicDraft):
            record, public = public_record(pending.propose, index=index, now=now)
            pending.outcome = _Placed(record, public, {})
        else:
            change = pending.propose(draft.state, now)
            if draft.state is None and len(self.books) >= self.limits.max_tenants:
                raise KeysError("too-many", "this service takes no more tenants")
            state = fold(draft.state, change.delta) if change.delta is not None else draft.state
            if state is None:
                raise KeysError("unknown-tenant", "no such tenant")
            record, entry = audit_record(
                change,
                tenant=book.tenant,
                origin=book.origin,
                index=index,
                now=now,
                quorum=self.outside.policy.quorum,
                box=self.box,
            )
            draft.state = state
            draft.slots.update(change.slots)
            draft.shred.extend(change.shred)
            pending.outcome = _Placed(record, entry, change.result)
        draft.records.append(record)
        draft.hashes.append(leaf_hash(record.leaf))
        draft.pending.append(pending)

    def _look_again(self) -> list[tuple[Book, list[Record], list[bytes]]]:
        """After a failed write: what does the journal hold? What it holds is so, whatever its caller was told."""
        adopted = []
        for book in self.books.values():
            if not book.uncertain:
                continue
            try:
                records = read_from(self.journal, book.log, book.frontier.size)
            except StorageError:
                continue  # still uncertain: proposals on it are refused
            for record in records:
                if book.tenant:
                    delta = delta_of(record, tenant=book.tenant, origin=book.origin, box=self.box)
                    book.state = fold(book.state, delta) if delta is not None else book.state
            hashes = [leaf_hash(record.leaf) for record in records]
            book.frontier = book.frontier.extend(hashes)
            book.uncertain = False
            if records:
                adopted.append((book, records, hashes))
        return adopted


def read_from(journal: Journal, log: str, first: int) -> list[Record]:
    """All records from `first` on. Raises `StorageError`."""
    found: list[Record] = []
    size = journal.size(log)
    while first + len(found) < size:
        page = journal.read(log, first + len(found), _PAGE)
        if not page:
            raise StorageError("storage-corrupt", "the journal is shorter than it says")
        found += page
    return found


def _batch(draft: _Draft) -> Batch:
    frontier = draft.book.frontier
    return Batch(draft.book.log, frontier.size, draft.records, tuple(new_nodes(frontier, draft.hashes)), draft.slots)
