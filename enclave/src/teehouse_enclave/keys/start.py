# SPDX-License-Identifier: Apache-2.0
"""Before the key service answers anybody: is this store whole, is it ours, and is it the newest (KEYS §3)?

(1) Ask every witness, over a fresh nonce, for the newest checkpoint it signed of each log the journal holds; too few
answers stop the start. (2) Replay the journal, from a snapshot on: all authenticates, all folds, and where a witness
stands, the own root must be the one it signed. (3) A witness, or the ledger, that knows more than the journal means
that this is an old disk: stop. What the journal holds beyond the witnesses is healed later, by each log's first round.

Nothing here repairs anything by dropping it: a store that does not fit stops the service with a code that says why.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.errors import OperatorError
from teehouse_core.log.merkle import leaf_hash
from teehouse_core.log.signing import log_key
from teehouse_core.log.witness import NONCE_SIZE, NewestStatement
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.fold import fold
from teehouse_enclave.keys.journal import PUBLIC_LOG, Journal, Record
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.outbound import OutsideError, WitnessClient
from teehouse_enclave.keys.records import delta_of
from teehouse_enclave.keys.service import Book, Service, origin_of
from teehouse_enclave.keys.snapshots import load_snapshot, stands_on
from teehouse_enclave.keys.tree import Tree

__all__ = ["StartError", "log_key_of", "open_books"]

_PAGE: Final = 1024  # records read at a time
_AT_ONCE: Final = 16  # logs asked about at the same time
_TENANT: Final = "tenant-"


class StartError(OperatorError):
    """The service must not start: `rolled-back`, `log-forked`, `too-few-witnesses`, `ledger-ahead`."""

    default_code = "rolled-back"


def log_key_of(root: Root) -> Ed25519PrivateKey:
    """The key that signs this service's checkpoints: the same at each start, for it follows from the root key."""
    return Ed25519PrivateKey.from_private_bytes(root.derive("log key"))


@dataclass(slots=True)
class _Known:
    """What the witnesses said of one log."""

    sizes: dict[str, int] = field(default_factory=dict)  # by witness
    roots: dict[int, bytes] = field(default_factory=dict)  # root by size, all sizes above 0
    operators: set[str] = field(default_factory=set)


async def open_books(service: Service, log_signer: Ed25519PrivateKey) -> None:
    """Do (1) to (3) and hand each log to `service`. Raises `StartError`, `StorageError`."""
    journal = service.journal
    logs = sorted({*await asyncio.to_thread(journal.logs), PUBLIC_LOG})
    known = await _ask_all(service.outside, service.origin, logs, log_signer)
    for log in logs:
        book, tree = await asyncio.to_thread(_replay, journal, service.box, service.origin, log, known[log])
        service.adopt(book, tree, known[log].sizes)
    await _ask_ledger(service)
    for state in service.states():
        if gone := state.destroyed_slots():
            try:
                await asyncio.to_thread(journal.shred, f"{_TENANT}{state.tenant}", gone)
            except StorageError:
                service.owe_shred(f"{_TENANT}{state.tenant}", gone)


async def _ask_all(
    outside: Outside, origin: str, logs: Iterable[str], log_signer: Ed25519PrivateKey
) -> Mapping[str, _Known]:
    found: dict[str, _Known] = {}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def about(log: str) -> None:
        async with gate:
            found[log] = await _ask(outside, origin_of(origin, log), log_signer)

    async with asyncio.TaskGroup() as group:
        for log in logs:
            group.create_task(about(log))
    for known in found.values():
        if len(known.operators) < outside.policy.quorum:
            raise StartError(
                f"{len(known.operators)} of {outside.policy.quorum} witness operators answered",
                code="too-few-witnesses",
                hint="without them nobody can tell whether this store is an old copy",
            )
    return found


async def _ask(outside: Outside, origin: str, log_signer: Ed25519PrivateKey) -> _Known:
    """(1) for one log. An unreachable or lying witness counts as none."""
    key = log_key(origin, log_signer.public_key())
    known = _Known()

    async def one(witness: WitnessClient) -> NewestStatement | None:
        try:
            return await witness.newest(key, secrets.token_bytes(NONCE_SIZE))
        except OutsideError:
            return None

    witnesses = list(outside.witnesses.values())
    for witness, said in zip(witnesses, await asyncio.gather(*map(one, witnesses)), strict=True):
        if said is None:
            continue
        known.operators.add(witness.witness.operator)
        known.sizes[witness.witness.name] = said.size
        if said.size == 0:
            continue
        if known.roots.setdefault(said.size, said.root) != said.root:
            raise StartError(f"two witnesses hold two roots of {origin} at {said.size}", code="log-forked")
    return known


def _replay(journal: Journal, box: Box, origin: str, log: str, known: _Known) -> tuple[Book, Tree]:
    """(2) for one log: fold everything, and compare roots where witnesses stand."""
    tenant = log.removeprefix(_TENANT) if log != PUBLIC_LOG else ""
    book = Book(log, tenant, origin_of(origin, log))
    size = journal.size(log)
    if known.roots and (newest := max(known.roots)) > size:
        raise StartError(
            f"witnesses signed {newest} entries of {book.origin}, this store has {size}",
            code="rolled-back",
            hint="this is an old copy of the store; start from the newest one",
        )
    stops = sorted(known.roots)
    if (resumed := _resume(journal, box, book, size, known)) is not None:
        stops = [stop for stop in stops if stop > resumed]
    while book.frontier.size < size:
        page = journal.read(log, book.frontier.size, _PAGE)
        if not page or page[0].index != book.frontier.size:
            raise StorageError("storage-corrupt", "the journal does not give back what it holds")
        for record in page:
            _take(book, record, box)
            if stops and stops[0] == book.frontier.size:
                _compare(book, known.roots[stops.pop(0)])
    return book, Tree(book.frontier)


def _resume(journal: Journal, box: Box, book: Book, size: int, known: _Known) -> int | None:
    """Begin at the snapshot where it fits what the witnesses said; its size, or None for a replay from the start."""
    found = load_snapshot(journal, box, book.log, book.origin)
    if found is None:
        return None
    frontier, state = found
    if frontier.size > size:
        raise StartError(
            f"a snapshot of {book.origin} stands for {frontier.size} entries, this store has {size}",
            code="rolled-back",
            hint="this is an old copy of the store; start from the newest one",
        )
    before = {stop: root for stop, root in known.roots.items() if stop <= frontier.size}
    if not all(stands_on(journal, book.log, frontier, stop, root) for stop, root in before.items()):
        return None  # a full replay says what is the matter
    book.frontier, book.state, book.saved = frontier, state, frontier.size
    return frontier.size


def _take(book: Book, record: Record, box: Box) -> None:
    if book.tenant:
        delta = delta_of(record, tenant=book.tenant, origin=book.origin, box=box)
        if delta is not None:
            book.state = fold(book.state, delta)
        elif book.state is None:
            raise StorageError("storage-corrupt", "a log begins without its tenant")
    book.frontier = book.frontier.append(leaf_hash(record.leaf))


def _compare(book: Book, root: bytes) -> None:
    if book.frontier.root() != root:
        raise StartError(
            f"witnesses signed another tree of {book.origin} at {book.frontier.size}",
            code="log-forked",
            hint="this store is not the one whose checkpoints were signed",
        )


async def _ask_ledger(service: Service) -> None:
    """(3) The ledger proves nothing, but where it holds more than the journal nothing may be signed."""
    for log, book in service.books.items():
        try:
            held, _ = await service.outside.ledger.sizes(log)
        except OutsideError:
            return  # it is asked again in the first round, and what is missing there is sent then
        if held > book.frontier.size:
            raise StartError(
                f"the ledger holds {held} entries of {book.origin}, this store has {book.frontier.size}",
                code="ledger-ahead",
                hint="this is an old copy of the store, or the ledger makes entries up; neither can be served",
            )
