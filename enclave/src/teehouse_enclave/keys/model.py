# SPDX-License-Identifier: Apache-2.0
"""The objects of the key service, frozen: tenant → ring → key → version (KEYS §1).

`State` is everything about one tenant. It is changed by `fold` alone, which makes a new one; whoever holds an old one
keeps it. Key bytes stand here only as `Version.wrapped`, sealed under a key that is kept elsewhere (`vault`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from teehouse_core.wire.commands import AdminSet
from teehouse_core.wire.keyset import Capabilities, Model, Software

__all__ = [
    "ACTIVE",
    "ALGORITHMS",
    "COMPAT",
    "DATA",
    "DESTROYED",
    "DISABLED",
    "GRACE_SECONDS",
    "IMPORTED",
    "INTERNAL",
    "MAX_KEYS",
    "MAX_POOLS",
    "MAX_RINGS",
    "MAX_VERSIONS",
    "MODEL_ENCRYPTION",
    "NO_END",
    "ROTATING",
    "SCHEDULED",
    "SESSION",
    "SOURCES",
    "STATES",
    "USAGES",
    "Change",
    "EntryDraft",
    "Key",
    "Pool",
    "Ring",
    "State",
    "Version",
    "frozen",
]

ALGORITHMS: Final = ("mlkem768x25519", "p256", "rsa4096", "aes256", "aes128")

INTERNAL: Final = "internal"
IMPORTED: Final = "imported"
SOURCES: Final = (INTERNAL, IMPORTED)

SESSION: Final = "session"
MODEL_ENCRYPTION: Final = "model-encryption"
DATA: Final = "data"
COMPAT: Final = "compat"
USAGES: Final = (SESSION, MODEL_ENCRYPTION, DATA, COMPAT)

ACTIVE: Final = "active"
ROTATING: Final = "rotating"  # active, while an older version still opens: follows from times, is never stored
DISABLED: Final = "disabled"
SCHEDULED: Final = "scheduled"
DESTROYED: Final = "destroyed"
STATES: Final = (ACTIVE, ROTATING, DISABLED, SCHEDULED, DESTROYED)

GRACE_SECONDS: Final = 7 * 86400  # between key.destroy and the end of its bytes; KEYS §1
NO_END: Final = 0  # `opens_until` of a version that opens as long as its key lives

# Ceilings of one tenant: its state is held in memory and written into snapshots as one document.
MAX_RINGS: Final = 64
MAX_KEYS: Final = 1024  # in one ring
MAX_VERSIONS: Final = 64  # not yet destroyed, in one key
MAX_POOLS: Final = 64


def frozen(items: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy."""
    return MappingProxyType(dict(items))


@dataclass(frozen=True, slots=True)
class Version:
    """One version; `number` counts from 1. Times are Unix seconds.

    `policy_sha256` names the one release policy it was made under. `wrapped` is empty once it is destroyed; `slot`
    stays, so that a deletion that a crash interrupted is done again.
    """

    number: int
    created_at: int
    opens_until: int
    public: bytes  # canonical public part (`algorithms`); empty for aes
    public_sha256: str
    policy_sha256: str
    wrapped: bytes = field(repr=False)
    slot: str = field(repr=False)
    destroyed: bool = False

    def opens(self, now: int) -> bool:
        """Whether it may still be given out for opening."""
        return not self.destroyed and (self.opens_until == NO_END or now < self.opens_until)


@dataclass(frozen=True, slots=True)
class Key:
    """One key with its versions, oldest first; none as long as an announced import has not come.

    `policy` is canonical JSON (`policy.ReleasePolicy`).
    """

    id: str
    algorithm: str
    usage: str
    source: str
    exportable: bool
    state: str
    destroy_at: int  # 0 unless scheduled
    created_at: int
    policy: bytes = field(repr=False)
    labels: Mapping[str, str]
    versions: tuple[Version, ...]

    @property
    def policy_sha256(self) -> str:
        return hashlib.sha256(self.policy).hexdigest()

    @property
    def current(self) -> Version | None:
        """The newest version: the one to seal under."""
        return self.versions[-1] if self.versions else None

    @property
    def newest(self) -> int:
        """Number of the newest version, 0 when there is none."""
        return self.versions[-1].number if self.versions else 0

    def version(self, number: int) -> Version | None:
        """That version; 0 is the newest."""
        if number == 0:
            return self.current
        return next((version for version in self.versions if version.number == number), None)

    def state_at(self, now: int) -> str:
        """The stored state, or `rotating` while an active key has an older version with an end that still opens."""
        older = any(version.opens_until != NO_END and version.opens(now) for version in self.versions[:-1])
        return ROTATING if self.state == ACTIVE and older else self.state


@dataclass(frozen=True, slots=True)
class Ring:
    """Keys of one usage under one admin set. `seq` is that of the last command it took."""

    id: str
    usage: str
    admins: AdminSet
    seq: int
    last_command: str  # hex SHA-256, "" before the first
    created_at: int
    labels: Mapping[str, str]
    keys: Mapping[str, Key]

    @property
    def weak(self) -> bool:
        """Takes unsigned calls of existing clients: marked so everywhere, never in a sealed/1 keyset."""
        return self.usage == COMPAT


@dataclass(frozen=True, slots=True)
class Pool:
    """An endpoint whose session key is a key here (PROTOCOL §6), and what its pool keyset says."""

    endpoint: str
    ring: str
    key: str
    active_seconds: int
    overlap_seconds: int
    model: Model
    software: Software
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class State:
    """One tenant. `compat_account` is set for a tenant that exists for an existing client's account only."""

    tenant: str
    admins: AdminSet
    seq: int
    last_command: str
    created_at: int
    labels: Mapping[str, str]
    compat_account: str
    rings: Mapping[str, Ring]
    pools: Mapping[str, Pool]  # by endpoint

    def key(self, ring: str, key: str) -> Key | None:
        found = self.rings.get(ring)
        return None if found is None else found.keys.get(key)

    def all_keys(self) -> Iterator[tuple[Ring, Key]]:
        """Every key with its ring."""
        for ring in self.rings.values():
            for key in ring.keys.values():
                yield ring, key

    def destroyed_slots(self) -> list[str]:
        """Slots that must be gone: what a start deletes again, in case a crash came between entry and deletion."""
        return [v.slot for _, key in self.all_keys() for v in key.versions if v.destroyed]


@dataclass(frozen=True, slots=True)
class EntryDraft:
    """What a change says in the audit log, before the log writer adds tenant, time, id, salt and commitments.

    `actors` names persons or accounts in clear, for the entry's `Opening`: the leaf holds its commitment only.
    """

    op: str
    decision: str  # done | granted | refused
    ring: str = ""
    key: str = ""
    version: str = ""
    actors: tuple[str, ...] = ()
    policy_sha256: str = ""
    evidence_sha256: str = ""
    keyset_sha256: str = ""
    request_sha256: str = ""
    failed_checks: tuple[str, ...] = ()
    reason: str = ""
    tier: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """One accepted command, ready to be committed, in this order:

    (1) write `slots`, (2) journal the entry with `delta`, (3) fold `delta`, (4) shred `shred`, (5) quorum, (6) answer
    `result`. Nothing has happened until then.
    """

    entry: EntryDraft
    delta: bytes | None  # canonical bytes for `fold`; None when the state stays as it is
    slots: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    shred: tuple[str, ...] = field(default=(), repr=False)
    result: Mapping[str, Any] = field(default_factory=dict, repr=False)
