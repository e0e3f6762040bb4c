# SPDX-License-Identifier: Apache-2.0
"""State is the fold of deltas: `fold(state, delta) → state`, pure, and the only way a state comes to be.

A delta is canonical JSON of what an accepted command did, every value resolved (times, versions, wrapped keys), so
that folding needs no clock, no randomness and no key. It travels in the private part of a log entry. A delta that does
not fit its state is damage of the store, never a caller's fault: `StorageError` (`storage-corrupt`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.wire import canonical
from teehouse_core.wire.canonical import MAX_INTEGER
from teehouse_core.wire.commands import AdminSet
from teehouse_core.wire.fields import HEX64, Fields
from teehouse_enclave.keys.codec import read_key, read_labels, read_pool, read_ring, read_version
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.model import (
    ACTIVE,
    ALGORITHMS,
    COMPAT,
    DESTROYED,
    DISABLED,
    MAX_VERSIONS,
    SCHEDULED,
    Key,
    Ring,
    State,
    Version,
    frozen,
)

__all__ = ["KEPT_DESTROYED", "MAX_DELTA", "CommandMark", "build_delta", "fold", "fold_all"]

DELTA_VERSION: Final = "tks-delta/1"
KEPT_DESTROYED: Final = MAX_VERSIONS  # destroyed versions that a key remembers: all that one entry may end, for a crash
MAX_DELTA: Final = 256 * 1024  # bytes; the largest holds a policy and an RSA key


@dataclass(frozen=True, slots=True)
class CommandMark:
    """Which command did it: the scope it counts in (`ring` "" is the tenant), its seq and digest."""

    ring: str
    seq: int
    sha256: str


def build_delta(kind: str, body: Mapping[str, Any], mark: CommandMark | None) -> bytes:
    """Canonical bytes; `mark` is None for what the service does by itself or for an existing client."""
    command = {} if mark is None else {"ring": mark.ring, "seq": mark.seq, "sha256": mark.sha256}
    return canonical.encode({"v": DELTA_VERSION, "kind": kind, "command": command, "body": dict(body)})


def fold(state: State | None, delta: bytes) -> State:
    """The state after `delta`; `None` before a tenant's first. Raises `StorageError` (`storage-corrupt`)."""
    try:
        top = Fields(canonical.parse(delta, limit=MAX_DELTA), "delta")
        top.one_of("v", DELTA_VERSION)
        kind = top.one_of("kind", "tenant", *_KINDS)
        command, body = top.take("command", dict), top.fields("body")
        top.done()
        if kind == "tenant":
            if state is not None:
                raise _misfit("a tenant begins twice")
            after = _tenant(body)
        elif state is None:
            raise _misfit("a tenant's first delta does not begin it")
        else:
            after = _KINDS[kind](state, body)
        body.done()
        return _marked(after, Fields(command, "command")) if command else after
    except MalformedError as error:
        raise StorageError("storage-corrupt", f"a journaled delta does not fold: {error.code}") from None


def fold_all(deltas: Iterable[bytes], state: State | None = None) -> State | None:
    """Fold many, in order."""
    for delta in deltas:
        state = fold(state, delta)
    return state


def _misfit(why: str) -> MalformedError:
    return MalformedError(why, code="delta-misfit")


def _marked(state: State, command: Fields) -> State:
    ring, seq, sha256 = (
        command.text("ring"),
        command.integer("seq", 1, MAX_INTEGER),
        command.text("sha256", HEX64),
    )
    command.done()
    if not ring:
        if seq != state.seq + 1:
            raise _misfit("seq does not rise by one")
        return dataclasses.replace(state, seq=seq, last_command=sha256)
    found = _ring(state, ring)
    if seq != found.seq + 1:
        raise _misfit("seq does not rise by one")
    return _with_ring(state, dataclasses.replace(found, seq=seq, last_command=sha256))


def _ring(state: State, name: str) -> Ring:
    if name not in state.rings:
        raise _misfit("no such ring")
    return state.rings[name]


def _key(state: State, ring: str, name: str) -> tuple[Ring, Key]:
    found = _ring(state, ring)
    if name not in found.keys:
        raise _misfit("no such key")
    return found, found.keys[name]


def _with_ring(state: State, ring: Ring) -> State:
    return dataclasses.replace(state, rings=frozen({**state.rings, ring.id: ring}))


def _with_key(state: State, ring: Ring, key: Key) -> State:
    return _with_ring(state, dataclasses.replace(ring, keys=frozen({**ring.keys, key.id: key})))


def _tenant(body: Fields) -> State:
    return State(
        tenant=body.text("tenant"),
        admins=AdminSet.read(body.fields("admins"), empty=True),
        seq=0,
        last_command="",
        created_at=body.integer("created_at", 0, MAX_INTEGER),
        labels=read_labels(body),
        compat_account=body.text("compat_account"),
        rings=frozen({}),
        pools=frozen({}),
    )


def _admins(state: State, body: Fields) -> State:
    ring, admins = body.text("ring"), AdminSet.read(body.fields("admins"))
    if not ring:
        return dataclasses.replace(state, admins=admins)
    return _with_ring(state, dataclasses.replace(_ring(state, ring), admins=admins))


def _new_ring(state: State, body: Fields) -> State:
    ring = read_ring(body.take("ring", dict))
    if ring.id in state.rings or ring.keys or ring.seq:
        raise _misfit("a ring begins twice, or not empty")
    return _with_ring(state, ring)


def _new_key(state: State, body: Fields) -> State:
    ring, key = _ring(state, body.text("ring")), read_key(body.take("key", dict))
    if key.id in ring.keys or key.usage != ring.usage or [v.number for v in key.versions] not in ([], [1]):
        raise _misfit("a key begins twice, or not as one")
    return _with_key(state, ring, key)


def _new_version(state: State, body: Fields) -> State:
    """A rotation: the version before gets its end; `policy` replaces the key's when it is not ""."""
    ring, key = _key(state, body.text("ring"), body.text("key"))
    version = read_version(body.take("version", dict))
    ends, policy = body.integer("previous_opens_until", 0, MAX_INTEGER), body.octets("policy")
    # Existing clients announce an import before they show it, and have no word for an RSA key: the first version tells.
    algorithm = body.one_of("algorithm", *ALGORITHMS) if body.has("algorithm") else key.algorithm
    if algorithm != key.algorithm and (key.versions or ring.usage != COMPAT):
        raise _misfit("a key changes its algorithm")
    if version.number != key.newest + 1 or key.state not in (ACTIVE, DISABLED):
        raise _misfit("a version follows no other, or its key is at its end")
    before = [dataclasses.replace(v, opens_until=ends) for v in key.versions[-1:]]
    versions = (*key.versions[:-1], *before, version)
    changed = dataclasses.replace(key, algorithm=algorithm, versions=versions, policy=policy or key.policy)
    return _with_key(state, ring, changed)


def _policy(state: State, body: Fields) -> State:
    """Another policy for the whole key: every living version is released under it from now on."""
    ring, key = _key(state, body.text("ring"), body.text("key"))
    changed = dataclasses.replace(key, policy=body.octets("policy"))
    versions = tuple(
        v if v.destroyed else dataclasses.replace(v, policy_sha256=changed.policy_sha256) for v in key.versions
    )
    return _with_key(state, ring, dataclasses.replace(changed, versions=versions))


def _labelled(state: State, body: Fields) -> State:
    ring, key = _key(state, body.text("ring"), body.text("key"))
    return _with_key(state, ring, dataclasses.replace(key, labels=read_labels(body)))


_NEXT: Final[dict[str, tuple[str, ...]]] = {
    ACTIVE: (DISABLED, SCHEDULED),
    DISABLED: (ACTIVE, SCHEDULED),
    SCHEDULED: (DISABLED,),  # cancelling leaves a key disabled: giving it out again is a second decision
    DESTROYED: (),
}


def _key_state(state: State, body: Fields) -> State:
    ring, key = _key(state, body.text("ring"), body.text("key"))
    target, at = body.one_of("state", ACTIVE, DISABLED, SCHEDULED), body.integer("destroy_at", 0, MAX_INTEGER)
    if target not in _NEXT[key.state] or (target == SCHEDULED) != (at > 0):
        raise _misfit("no such step between states")
    return _with_key(state, ring, dataclasses.replace(key, state=target, destroy_at=at))


def _destroyed(state: State, body: Fields) -> State:
    """The bytes of these versions end; when none is left, the key has ended too."""
    ring, key = _key(state, body.text("ring"), body.text("key"))
    numbers = body.items("versions", 0, 1 << 20)
    living = {version.number for version in key.versions if not version.destroyed}
    if any(type(number) is not int for number in numbers) or not set(numbers) <= living:
        raise _misfit("a version ends that does not live")
    versions = _forget_old(tuple(_ended(v) if v.number in numbers else v for v in key.versions))
    ended = all(version.destroyed for version in versions)
    if ended and key.state != SCHEDULED:
        raise _misfit("a key ends that was not scheduled")
    if not numbers and not ended:
        raise _misfit("nothing ends")
    changed = dataclasses.replace(key, versions=versions)
    if ended:
        changed = dataclasses.replace(changed, state=DESTROYED, destroy_at=0)
    return _with_key(state, ring, changed)


def _ended(version: Version) -> Version:
    return dataclasses.replace(version, wrapped=b"", public=b"", destroyed=True)


def _forget_old(versions: tuple[Version, ...]) -> tuple[Version, ...]:
    """Without the oldest of many destroyed ones: the log tells of them, and a pool makes a hundred a day."""
    gone = [version.number for version in versions if version.destroyed]
    return tuple(version for version in versions if version.number not in gone[:-KEPT_DESTROYED])


def _pool(state: State, body: Fields) -> State:
    pool = read_pool(body.take("pool", dict))
    if pool.endpoint in state.pools:
        raise _misfit("a pool begins twice")
    _key(state, pool.ring, pool.key)
    return dataclasses.replace(state, pools=frozen({**state.pools, pool.endpoint: pool}))


def _pool_end(state: State, body: Fields) -> State:
    endpoint = body.text("endpoint")
    if endpoint not in state.pools:
        raise _misfit("no such pool")
    return dataclasses.replace(state, pools=frozen({e: p for e, p in state.pools.items() if e != endpoint}))


def _nothing(state: State, _body: Fields) -> State:
    """A command that changes no object (an export): only its seq counts."""
    return state


_KINDS: Final[dict[str, Callable[[State, Fields], State]]] = {
    "admins": _admins,
    "ring": _new_ring,
    "key": _new_key,
    "version": _new_version,
    "policy": _policy,
    "labels": _labelled,
    "key-state": _key_state,
    "destroyed": _destroyed,
    "pool": _pool,
    "pool-end": _pool_end,
    "nothing": _nothing,
}
