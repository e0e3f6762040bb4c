# SPDX-License-Identifier: Apache-2.0
"""Where the key service keeps what must survive it: an append-only journal per log, and small slots that do not stay.

Everything behind this interface is untrusted. What it returns is believed because the tree hashes it and the boxes
authenticate it; that it is the newest is what the witnesses say. Calls block (a service runs them in a worker thread)
and raise `StorageError`: `storage-full` and `storage` (nothing was written, try later), `storage-conflict` (somebody
else wrote), `storage-corrupt` (what is there does not read).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from teehouse_enclave.keys.errors import StorageError

__all__ = ["LOG_PATTERN", "MAX_LEAF", "MAX_SLOT", "PUBLIC_LOG", "Batch", "Journal", "Record", "tenant_log"]

LOG_PATTERN: Final = re.compile(r"public|tenant-[a-z0-9][a-z0-9-]{0,63}")
PUBLIC_LOG: Final = "public"
MAX_LEAF: Final = 65535  # bytes, C2SP tlog-tiles: an entry's length is a u16
MAX_PRIVATE: Final = 1024 * 1024  # bytes of one sealed delta
MAX_SLOT: Final = 64 * 1024  # bytes; a slot holds one wrapped key, or one sealed root


def tenant_log(tenant: str) -> str:
    """The name of a tenant's log."""
    return f"tenant-{tenant}"


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as it is stored. `opening` is JSON text and may be deleted later; `private` may be empty."""

    index: int
    leaf: bytes
    opening: bytes = field(repr=False)
    private: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries for one log, its tree nodes that they complete, and slots that must exist before the entries do."""

    log: str
    first: int  # index of the first record = size of the log before
    records: Sequence[Record]
    nodes: Sequence[tuple[int, int, bytes]] = ()  # level, index, hash: levels from 0 (the leaf hashes)
    slots: Mapping[str, bytes] = field(default_factory=dict, repr=False)


class Journal(Protocol):
    """One writer, several logs."""

    def logs(self) -> list[str]:
        """Names of the logs that hold anything."""
        ...

    def size(self, log: str) -> int:
        """Entries in the log, 0 for an unknown one."""
        ...

    def append(self, batches: Sequence[Batch]) -> None:
        """Write all slots, then all records and nodes, and return when they are durable. Each batch is atomic.

        A batch that is there already, byte for byte, is fine (a repeat after a lost answer); another one at the same
        indexes, or one that leaves a gap, is `storage-conflict`.
        """
        ...

    def read(self, log: str, first: int, limit: int) -> list[Record]:
        """At most `limit` records from index `first` on, in order, without a gap."""
        ...

    def node(self, log: str, level: int, index: int) -> bytes:
        """Hash of the complete subtree [index·2^level, (index+1)·2^level). `storage-corrupt` when it is not there."""
        ...

    def put_snapshot(self, log: str, data: bytes) -> None:
        """Replace the log's snapshot, durably."""
        ...

    def get_snapshot(self, log: str) -> bytes | None: ...

    def put_slot(self, log: str, name: str, data: bytes) -> None:
        """Write a slot durably, over what it held."""
        ...

    def get_slot(self, log: str, name: str) -> bytes | None: ...

    def shred(self, log: str, names: Sequence[str]) -> None:
        """Remove slots so that this store does not hold their bytes any more. Missing ones are fine."""
        ...

    def close(self) -> None: ...


def check_batch(batch: Batch) -> None:
    """Form of a batch. Raises `StorageError` (`storage`): it is this process's own mistake."""
    if not LOG_PATTERN.fullmatch(batch.log):
        raise StorageError("storage", "a log has an impossible name")
    for at, record in enumerate(batch.records):
        if record.index != batch.first + at:
            raise StorageError("storage", "records of a batch do not follow each other")
        if len(record.leaf) > MAX_LEAF or len(record.private) > MAX_PRIVATE:
            raise StorageError("storage", "an entry is too large")
    for data in batch.slots.values():
        check_slot(data)


def check_slot(data: bytes) -> None:
    """Size of a slot."""
    if not 0 < len(data) <= MAX_SLOT:
        raise StorageError("storage", "a slot is empty or too large")


def same_record(held: Record, given: Record) -> bool:
    """Whether a repeated append is the same one: leaf and private part decide, openings may be gone."""
    return held.leaf == given.leaf and held.private == given.private
