# SPDX-License-Identifier: Apache-2.0
"""What each command does: an authorised `Call` becomes a `Change`, or a `KeysError` and nothing (spec/07-keys.md §5).

Every handler reads its arguments whole and strictly, then checks the state, then makes keys. None of them stores.
Here are tenants, rings and pools, and the table of all; keys are in `ops_keys`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from teehouse_core.wire.commands import NAME_PATTERN, AdminSet
from teehouse_core.wire.fields import ENDPOINT, Fields
from teehouse_enclave.keys import codec, ops_keys
from teehouse_enclave.keys.call import (
    SEALED,
    Call,
    Tools,
    arguments,
    change,
    existing,
    require,
    ring_of,
)
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.fold import build_delta
from teehouse_enclave.keys.model import (
    ACTIVE,
    COMPAT,
    INTERNAL,
    MAX_POOLS,
    MAX_RINGS,
    SESSION,
    USAGES,
    Change,
    EntryDraft,
    Key,
    Ring,
    State,
    Version,
    frozen,
)
from teehouse_enclave.keys.ops_keys import MAX_OVERLAP_COMPAT
from teehouse_enclave.keys.policy import ReleasePolicy

__all__ = ["MAX_OVERLAP_COMPAT", "Call", "Tools", "arguments", "destroyed", "perform", "releasable"]

POOL_ACTIVE: Final = 900  # seconds, PROTOCOL §6
POOL_OVERLAP: Final = 600
POOL_LEAST: Final = 60  # seconds; shorter epochs would fill the log


def perform(call: Call) -> Change:
    """Run the handler of `call.op`. Raises `KeysError`; the state is as before whatever happens."""
    scope, handler = _HANDLERS[call.op]
    if (call.ring is None) != (scope == "tenant"):
        hint = 'ring is ""' if scope == "tenant" else "name the ring"
        raise KeysError("bad-args", f"{call.op} is a command of the {scope}", hint=hint)
    with arguments(call.args) as args:
        return handler(call, args)


def releasable(state: State, ring: str, key: str, version: int, now: int) -> tuple[Ring, Key, Version]:
    """The version that a release may give out now; 0 is the newest. Raises `KeysError`: unknown…, `wrong-state`.

    Whether the evidence is good enough is another question.
    """
    found = state.rings.get(ring)
    if found is None:
        raise KeysError("unknown-ring", "no such ring")
    wanted = found.keys.get(key)
    if wanted is None:
        raise KeysError("unknown-key", "no such key")
    held = wanted.version(version)
    if held is None:
        raise KeysError("unknown-version", "no such version", hint=None if wanted.versions else "nothing was imported")
    if wanted.state != ACTIVE:
        raise KeysError("wrong-state", f"the key is {wanted.state}")
    if not held.opens(now):
        raise KeysError("wrong-state", "the version has ended")
    if held.policy_sha256 != wanted.policy_sha256:
        raise KeysError("wrong-state", "the version was made under an earlier policy")
    return found, wanted, held


def destroyed(op: str, ring: Ring, key: Key, versions: Sequence[Version], actor: str) -> Change:
    """The end of these versions' bytes: the entry first, then their slots go."""
    numbers = [version.number for version in versions]
    entry = EntryDraft(op, "done", ring=ring.id, key=key.id, version=",".join(map(str, numbers))[:256], actors=(actor,))
    delta = build_delta("destroyed", {"ring": ring.id, "key": key.id, "versions": numbers}, None)
    return Change(entry, delta, shred=tuple(version.slot for version in versions))


def _tenant_admins(call: Call, args: Fields) -> Change:
    return _set_admins(call, args, "")


def _ring_admins(call: Call, args: Fields) -> Change:
    return _set_admins(call, args, ring_of(call).id)


def _set_admins(call: Call, args: Fields, ring: str) -> Change:
    admins = AdminSet.read(args.fields("admins"))
    args.done()
    return change(call, "admins", {"ring": ring, "admins": admins.to_json()}, {})


def _create_ring(call: Call, args: Fields) -> Change:
    name, usage = args.text("ring", NAME_PATTERN), args.one_of("usage", *USAGES)
    admins = AdminSet.read(args.fields("admins")) if call.signed else AdminSet(0, ())
    labels = codec.read_labels(args)
    args.done()
    if call.signed == (usage == COMPAT):
        hint = "rings of existing clients are made by their calls, in their account's tenant"
        raise KeysError("usage-forbids", "this tenant has no such rings", hint=hint)
    if name in call.state.rings:
        raise KeysError("ring-exists", "the ring exists")
    if len(call.state.rings) >= MAX_RINGS:
        raise KeysError("too-many", f"a tenant has at most {MAX_RINGS} rings")
    ring = Ring(name, usage, admins, 0, "", call.now, labels, frozen({}))
    return change(call, "ring", {"ring": codec.ring_json(ring)}, {"ring": name}, ring=name)


def _create_pool(call: Call, args: Fields) -> Change:
    ring = ring_of(call)
    if args.has("ring"):
        raise KeysError("bad-args", "the command names the ring already")
    pool = codec.read_pool({**call.args, "ring": ring.id})
    key = existing(ring, pool.key)
    if ring.usage != SESSION or key.algorithm != SEALED or key.source != INTERNAL or key.exportable:
        raise KeysError("usage-forbids", f"a pool needs a session key {SEALED} that was made inside")
    if not (POOL_LEAST <= pool.active_seconds <= POOL_ACTIVE and POOL_LEAST <= pool.overlap_seconds <= POOL_OVERLAP):
        hint = f"active {POOL_LEAST} to {POOL_ACTIVE}, overlap {POOL_LEAST} to {POOL_OVERLAP} seconds"
        raise KeysError("bad-args", "an epoch of this length is not allowed", hint=hint)
    require(key, ACTIVE)
    if ReleasePolicy.stored(key.policy).denies_all:
        raise KeysError("wrong-state", "the key's policy gives it to nobody", hint="key.policy comes first")
    if pool.endpoint in call.state.pools:
        raise KeysError("pool-exists", "the endpoint has a pool")
    if any((p.ring, p.key) == (ring.id, key.id) for p in call.state.pools.values()):
        raise KeysError("pool-exists", "the key serves another pool")
    if len(call.state.pools) >= MAX_POOLS:
        raise KeysError("too-many", f"a tenant has at most {MAX_POOLS} pools")
    result = {"endpoint": pool.endpoint, "policy_sha256": key.policy_sha256}
    return change(call, "pool", {"pool": codec.pool_json(pool)}, result, key=key)


def _delete_pool(call: Call, args: Fields) -> Change:
    endpoint = args.text("endpoint", ENDPOINT)
    args.done()
    pool = call.state.pools.get(endpoint)
    if pool is None or pool.ring != ring_of(call).id:
        raise KeysError("unknown-pool", "no such pool")
    return change(call, "pool-end", {"endpoint": endpoint}, {}, key=existing(ring_of(call), pool.key))


_HANDLERS: Final[dict[str, tuple[str, Callable[[Call, Fields], Change]]]] = {
    "tenant.admins": ("tenant", _tenant_admins),
    "ring.create": ("tenant", _create_ring),
    "ring.admins": ("ring", _ring_admins),
    "key.create": ("ring", ops_keys.create_key),
    "key.expect": ("ring", ops_keys.expect_key),
    "key.import": ("ring", ops_keys.import_key),
    "key.rotate": ("ring", ops_keys.rotate),
    "key.policy": ("ring", ops_keys.set_policy),
    "key.disable": ("ring", ops_keys.disable),
    "key.enable": ("ring", ops_keys.enable),
    "key.destroy": ("ring", ops_keys.destroy),
    "key.cancel-destroy": ("ring", ops_keys.cancel_destroy),
    "key.export": ("ring", ops_keys.export),
    "pool.create": ("ring", _create_pool),
    "pool.delete": ("ring", _delete_pool),
}
