# SPDX-License-Identifier: Apache-2.0
"""What each command does: an authorised `Call` becomes a `Change`, or a `KeysError` and nothing (spec/07-keys.md §5).

Every handler reads its arguments whole and strictly, then checks the state, then makes keys. None of them stores.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.seal.suite import hpke_seal
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import NAME_PATTERN, AdminSet, export_info, import_info
from teehouse_core.wire.fields import ENDPOINT, HEX32, HEX64, Fields
from teehouse_core.wire.suites import SUITES
from teehouse_enclave.keys import algorithms, codec
from teehouse_enclave.keys.algorithms import Material
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.fold import CommandMark, build_delta
from teehouse_enclave.keys.model import (
    ACTIVE,
    ALGORITHMS,
    COMPAT,
    DATA,
    DESTROYED,
    DISABLED,
    GRACE_SECONDS,
    IMPORTED,
    INTERNAL,
    MAX_KEYS,
    MAX_POOLS,
    MAX_RINGS,
    MAX_VERSIONS,
    MODEL_ENCRYPTION,
    NO_END,
    SCHEDULED,
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
from teehouse_enclave.keys.policy import COCO, DENY, ReleasePolicy
from teehouse_enclave.keys.vault import Vault, Where

__all__ = ["Call", "Tools", "arguments", "destroyed", "perform", "releasable"]

SEALED: Final = "mlkem768x25519"  # the one algorithm whose keys stand in a sealed/1 keyset
ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    SESSION: (SEALED, "p256", "rsa4096"),
    MODEL_ENCRYPTION: ("aes256", "aes128"),
    DATA: ("aes256", "aes128"),
    COMPAT: ("aes256", "aes128", "rsa4096", "p256"),
}
EXPORTABLE: Final = (MODEL_ENCRYPTION, DATA)  # usages whose keys may go to their owner; a session key never
MAX_OVERLAP: Final = {SESSION: 30 * 86400, MODEL_ENCRYPTION: 10 * 365 * 86400, DATA: 10 * 365 * 86400}
MAX_OVERLAP_COMPAT: Final = 30 * 86400  # seconds; the existing clients keep a key for at most 21 days
POOL_ACTIVE: Final = 900  # seconds, PROTOCOL §6
POOL_OVERLAP: Final = 600
POOL_LEAST: Final = 60  # seconds; shorter epochs would fill the log


@dataclass(frozen=True, slots=True)
class Tools:
    """What a command may need beside the state.

    `open_import(kid, info, sealed)` opens what was sealed to an HPKE key of the service's current keysets: None when
    there is no such key, MalformedError when it does not open. `read_slot(name)` reads the tenant's slot. RSA takes
    seconds, so whoever decides commands one after another hands in a `generate` that has made the key before.
    """

    vault: Vault
    open_import: Callable[[str, bytes, bytes], bytes | None]
    read_slot: Callable[[str], bytes | None]
    generate: Callable[[str], Material] = algorithms.generate


@dataclass(frozen=True, slots=True)
class Call:
    """One authorised request. `mark` is None and `payload` is clear key bytes for calls that nobody signed."""

    state: State
    ring: Ring | None
    op: str
    args: Mapping[str, Any] = field(repr=False)
    payload: bytes = field(repr=False)
    mark: CommandMark | None
    actors: tuple[str, ...]
    request_sha256: str
    now: int
    tools: Tools = field(repr=False)

    @property
    def signed(self) -> bool:
        return self.mark is not None


def perform(call: Call) -> Change:
    """Run the handler of `call.op`. Raises `KeysError`; the state is as before whatever happens."""
    scope, handler = _HANDLERS[call.op]
    if (call.ring is None) != (scope == "tenant"):
        hint = 'ring is ""' if scope == "tenant" else "name the ring"
        raise KeysError("bad-args", f"{call.op} is a command of the {scope}", hint=hint)
    with arguments(call.args) as args:
        return handler(call, args)


@contextmanager
def arguments(given: Mapping[str, Any]) -> Iterator[Fields]:
    """Arguments to read; what does not read is `bad-args`."""
    try:
        yield Fields(given, "args")
    except MalformedError as error:
        raise KeysError("bad-args", f"the arguments do not fit: {error.code}", hint=error.message) from None


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


# Tenants and rings


def _tenant_admins(call: Call, args: Fields) -> Change:
    return _set_admins(call, args, "")


def _ring_admins(call: Call, args: Fields) -> Change:
    return _set_admins(call, args, _ring(call).id)


def _set_admins(call: Call, args: Fields, ring: str) -> Change:
    admins = AdminSet.read(args.fields("admins"))
    args.done()
    return _change(call, "admins", {"ring": ring, "admins": admins.to_json()}, {})


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
    return _change(call, "ring", {"ring": codec.ring_json(ring)}, {"ring": name}, ring=name)


# Keys


def _create_key(call: Call, args: Fields) -> Change:
    plan = _read_plan(call, args)
    args.done()
    return _new_key(call, plan, INTERNAL, call.tools.generate(plan.algorithm))


def _import_key(call: Call, args: Fields) -> Change:
    plan = _read_plan(call, args)
    sealed = _read_sealed(args)
    args.done()
    if plan.algorithm == SEALED:
        raise KeysError("usage-forbids", "a sealed/1 session key is made inside, never imported")
    return _new_key(call, plan, IMPORTED, _opened(call, sealed, plan.name, plan.algorithm))


def _expect_key(call: Call, args: Fields) -> Change:
    """Announce an import of an existing client: its key id is needed before its key bytes come (`key.rotate`)."""
    plan = _read_plan(call, args)
    args.done()
    return _new_key(call, plan, IMPORTED, None)


@dataclass(frozen=True, slots=True)
class _Plan:
    name: str
    algorithm: str
    exportable: bool
    policy: bytes
    labels: Mapping[str, str]


def _read_plan(call: Call, args: Fields) -> _Plan:
    """What create and import have in common, checked against the ring."""
    ring = _ring(call)
    plan = _Plan(
        args.text("key", NAME_PATTERN),
        args.take("algorithm", str),
        args.boolean("exportable"),
        _policy(ring, args.octets("policy")),
        codec.read_labels(args),
    )
    if plan.algorithm not in ALGORITHMS:
        raise KeysError("wrong-algorithm", "no such algorithm", hint=f"one of {', '.join(ALGORITHMS)}")
    if plan.algorithm not in ALLOWED[ring.usage]:
        raise KeysError("usage-forbids", f"a ring of usage {ring.usage} has no {plan.algorithm} keys")
    if plan.exportable and ring.usage not in EXPORTABLE:
        raise KeysError("usage-forbids", f"keys of usage {ring.usage} are not exportable by command")
    if plan.name in ring.keys:
        raise KeysError("key-exists", "the key exists", hint="key.rotate makes a new version")
    if sum(key.state != DESTROYED for key in ring.keys.values()) >= MAX_KEYS:
        raise KeysError("too-many", f"a ring has at most {MAX_KEYS} keys")
    if ring.usage == SESSION and any(key.algorithm != plan.algorithm for key in ring.keys.values()):
        raise KeysError("usage-forbids", "keys of a session ring have one algorithm", hint="make another ring")
    return plan


def _new_key(call: Call, plan: _Plan, source: str, material: Material | None) -> Change:
    ring, digest = _ring(call), hashlib.sha256(plan.policy).hexdigest()
    version, slots = None, None
    if material is not None:
        version, slots = _version(call, plan.name, 1, material, digest)
    key = Key(
        id=plan.name,
        algorithm=plan.algorithm,
        usage=ring.usage,
        source=source,
        exportable=plan.exportable,
        state=ACTIVE,
        destroy_at=0,
        created_at=call.now,
        policy=plan.policy,
        labels=plan.labels,
        versions=(version,) if version else (),
    )
    body = {"ring": ring.id, "key": codec.key_json(key)}
    return _change(call, "key", body, _shown(key, version), key=key, version=version, slots=slots)


def _rotate(call: Call, args: Fields) -> Change:
    ring, key = _named_key(call, args)
    overlap = args.integer("overlap_seconds", 0, MAX_OVERLAP.get(ring.usage, MAX_OVERLAP_COMPAT))
    keep, sealed = args.boolean("keep_old"), _read_sealed(args)
    args.done()
    _require(key, ACTIVE)
    if keep and ring.usage == SESSION:
        raise KeysError("usage-forbids", "a session key's old version must have an end")
    if (key.source == IMPORTED) != (sealed is not None or (not call.signed and bool(call.payload))):
        hint = "send the new key" if key.source == IMPORTED else "the new version is made inside: send none"
        raise KeysError("bad-args", f"the key is {key.source}", hint=hint)
    if key.source == IMPORTED:
        material = _opened(call, sealed, key.id, key.algorithm)
    else:
        material = call.tools.generate(key.algorithm)
    return _rotated(call, ring, key, material, NO_END if keep else call.now + overlap)


def _rotated(call: Call, ring: Ring, key: Key, material: Material, old_opens_until: int, policy: bytes = b"") -> Change:
    if sum(not version.destroyed for version in key.versions) >= MAX_VERSIONS:
        raise KeysError("too-many", f"a key has at most {MAX_VERSIONS} versions", hint="end older versions first")
    digest = hashlib.sha256(policy or key.policy).hexdigest()
    version, slots = _version(call, key.id, key.newest + 1, material, digest)
    body = {
        "ring": ring.id,
        "key": key.id,
        "version": codec.version_json(version),
        "previous_opens_until": old_opens_until,
        "policy": b64u(policy),
    }
    return _change(
        call, "version", body, _shown(key, version), key=key, version=version, slots=slots, policy_sha256=digest
    )


def _set_policy(call: Call, args: Fields) -> Change:
    """A sealed/1 key gets a new version: whoever relies on a policy relies on no release ever under another."""
    ring, key = _named_key(call, args)
    policy = _policy(ring, args.octets("policy"))
    args.done()
    _require(key, ACTIVE, DISABLED)
    digest = hashlib.sha256(policy).hexdigest()
    if digest == key.policy_sha256:
        raise KeysError("wrong-state", "the key has this policy already")
    if key.algorithm == SEALED:
        return _rotated(call, ring, key, call.tools.generate(key.algorithm), call.now, policy)
    body = {"ring": ring.id, "key": key.id, "policy": b64u(policy)}
    return _change(call, "policy", body, {"policy_sha256": digest}, key=key, policy_sha256=digest)


def _disable(call: Call, args: Fields) -> Change:
    return _step(call, args, (ACTIVE,), DISABLED)


def _enable(call: Call, args: Fields) -> Change:
    return _step(call, args, (DISABLED,), ACTIVE)


def _destroy(call: Call, args: Fields) -> Change:
    return _step(call, args, (ACTIVE, DISABLED), SCHEDULED, call.now + GRACE_SECONDS)


def _cancel_destroy(call: Call, args: Fields) -> Change:
    return _step(call, args, (SCHEDULED,), DISABLED)


def _step(call: Call, args: Fields, sources: tuple[str, ...], target: str, destroy_at: int = 0) -> Change:
    ring, key = _named_key(call, args)
    args.done()
    _require(key, *sources)
    if target == SCHEDULED and any((p.ring, p.key) == (ring.id, key.id) for p in call.state.pools.values()):
        raise KeysError("wrong-state", "the key serves a pool", hint="pool.delete comes first")
    body = {"ring": ring.id, "key": key.id, "state": target, "destroy_at": destroy_at}
    return _change(call, "key-state", body, {"state": target, "destroy_at": destroy_at}, key=key)


def _export(call: Call, args: Fields) -> Change:
    ring, key = _named_key(call, args)
    number, suite = args.integer("version", 0, 2**31), args.one_of("suite", *SUITES)
    pk = args.octets("pk", SUITES[suite].pk)
    args.done()
    if not key.exportable:
        raise KeysError("not-exportable", "the key was not made exportable")
    _require(key, ACTIVE)
    version = key.version(number)
    if version is None:
        raise KeysError("unknown-version", "no such version")
    if not version.opens(call.now):
        raise KeysError("wrong-state", "the version has ended")
    where = (call.state.tenant, ring.id, key.id, version.number)
    secret = call.tools.vault.unwrap(where, version, call.tools.read_slot(version.slot))
    result = {**_shown(key, version), "sealed": b64u(hpke_seal(suite, pk, export_info(call.request_sha256), secret))}
    return _change(call, "nothing", {}, result, key=key, version=version)


# Pools


def _create_pool(call: Call, args: Fields) -> Change:
    ring = _ring(call)
    if args.has("ring"):
        raise KeysError("bad-args", "the command names the ring already")
    pool = codec.read_pool({**call.args, "ring": ring.id})
    key = _existing(ring, pool.key)
    if ring.usage != SESSION or key.algorithm != SEALED or key.source != INTERNAL or key.exportable:
        raise KeysError("usage-forbids", f"a pool needs a session key {SEALED} that was made inside")
    if not (POOL_LEAST <= pool.active_seconds <= POOL_ACTIVE and POOL_LEAST <= pool.overlap_seconds <= POOL_OVERLAP):
        hint = f"active {POOL_LEAST} to {POOL_ACTIVE}, overlap {POOL_LEAST} to {POOL_OVERLAP} seconds"
        raise KeysError("bad-args", "an epoch of this length is not allowed", hint=hint)
    _require(key, ACTIVE)
    if ReleasePolicy.stored(key.policy).denies_all:
        raise KeysError("wrong-state", "the key's policy gives it to nobody", hint="key.policy comes first")
    if pool.endpoint in call.state.pools:
        raise KeysError("pool-exists", "the endpoint has a pool")
    if any((p.ring, p.key) == (ring.id, key.id) for p in call.state.pools.values()):
        raise KeysError("pool-exists", "the key serves another pool")
    if len(call.state.pools) >= MAX_POOLS:
        raise KeysError("too-many", f"a tenant has at most {MAX_POOLS} pools")
    result = {"endpoint": pool.endpoint, "policy_sha256": key.policy_sha256}
    return _change(call, "pool", {"pool": codec.pool_json(pool)}, result, key=key)


def _delete_pool(call: Call, args: Fields) -> Change:
    endpoint = args.text("endpoint", ENDPOINT)
    args.done()
    pool = call.state.pools.get(endpoint)
    if pool is None or pool.ring != _ring(call).id:
        raise KeysError("unknown-pool", "no such pool")
    return _change(call, "pool-end", {"endpoint": endpoint}, {}, key=_existing(_ring(call), pool.key))


# Parts


def _ring(call: Call) -> Ring:
    if call.ring is None:
        raise KeysError("bad-args", "a ring is missing")
    return call.ring


def _existing(ring: Ring, name: str) -> Key:
    if name not in ring.keys:
        raise KeysError("unknown-key", "no such key")
    return ring.keys[name]


def _named_key(call: Call, args: Fields) -> tuple[Ring, Key]:
    ring = _ring(call)
    return ring, _existing(ring, args.text("key", NAME_PATTERN))


def _require(key: Key, *states: str) -> None:
    if key.state not in states:
        raise KeysError(
            "wrong-state", f"the key is {key.state}", hint=f"this needs a key that is {' or '.join(states)}"
        )


def _policy(ring: Ring, given: bytes) -> bytes:
    """The policy's bytes; none means nobody."""
    policy = ReleasePolicy.parse(given) if given else DENY
    if policy.dialect == COCO and ring.usage != COMPAT:
        raise KeysError("bad-policy", "the dialect coco-aa is for rings of usage compat only")
    return policy.raw


@dataclass(frozen=True, slots=True)
class _Sealed:
    kid: str
    payload_sha256: str
    public_sha256: str


def _read_sealed(args: Fields) -> _Sealed | None:
    """The three members about a sealed key; all "" when there is none."""
    names = ("hpke_kid", "payload_sha256", "public_sha256")
    values = [args.take(name, str) for name in names]
    if not any(values):
        return None
    if not all(p.fullmatch(v) for p, v in zip((HEX32, HEX64, HEX64), values, strict=True)):
        raise MalformedError("the members about the sealed key have the wrong form", code="wrong-form")
    return _Sealed(*values)


def _opened(call: Call, sealed: _Sealed | None, name: str, algorithm: str) -> Material:
    """The imported key: a signed command carries it sealed to this service, an unsigned call brought it opened."""
    if not call.signed:
        return algorithms.read_key_bytes(algorithm, call.payload)
    if sealed is None:
        raise KeysError("bad-args", "no sealed key", hint="hpke_kid, payload_sha256 and public_sha256 say which")
    if not hmac.compare_digest(hashlib.sha256(call.payload).hexdigest(), sealed.payload_sha256):
        raise KeysError("import-mismatch", "the payload is not the one that was signed")
    info = import_info(call.state.tenant, _ring(call).id, name, algorithm)
    try:
        clear = call.tools.open_import(sealed.kid, info, call.payload)
    except MalformedError:
        hint = "seal it for this tenant, ring, key and algorithm"
        raise KeysError("import-sealed", "the sealed key does not open", hint=hint) from None
    if clear is None:
        raise KeysError("unknown-keyset", "sealed to a key that is not in use", hint="appraise the service anew")
    material = algorithms.read_key_bytes(algorithm, clear)
    if not hmac.compare_digest(material.public_sha256, sealed.public_sha256):
        raise KeysError("import-mismatch", "the key is not the one that public_sha256 names")
    return material


def _version(
    call: Call, key: str, number: int, material: Material, policy_sha256: str
) -> tuple[Version, dict[str, bytes]]:
    where: Where = (call.state.tenant, _ring(call).id, key, number)
    wrapped, name, slot = call.tools.vault.wrap(where, material)
    version = Version(number, call.now, NO_END, material.public, material.public_sha256, policy_sha256, wrapped, name)
    return version, {name: slot}


def _shown(key: Key, version: Version | None) -> dict[str, Any]:
    if version is None:
        return {"key": key.id, "version": 0, "algorithm": key.algorithm, "policy_sha256": key.policy_sha256}
    return {
        "key": key.id,
        "version": version.number,
        "algorithm": key.algorithm,
        "public": b64u(version.public),
        "public_sha256": version.public_sha256,
        "policy_sha256": version.policy_sha256,
    }


def _change(
    call: Call,
    kind: str,
    body: Mapping[str, Any],
    result: Mapping[str, Any],
    *,
    ring: str = "",
    key: Key | None = None,
    version: Version | None = None,
    slots: Mapping[str, bytes] | None = None,
    policy_sha256: str = "",
) -> Change:
    entry = EntryDraft(
        op=call.op,
        decision="done",
        ring=ring or (call.ring.id if call.ring else ""),
        key=key.id if key else "",
        version=str(version.number) if version else "",
        actors=call.actors,
        policy_sha256=policy_sha256 or (key.policy_sha256 if key else ""),
        request_sha256=call.request_sha256,
        reason="compat, weak" if call.state.compat_account else "",
    )
    return Change(entry, build_delta(kind, body, call.mark), slots or {}, (), result)


_HANDLERS: Final[dict[str, tuple[str, Callable[[Call, Fields], Change]]]] = {
    "tenant.admins": ("tenant", _tenant_admins),
    "ring.create": ("tenant", _create_ring),
    "ring.admins": ("ring", _ring_admins),
    "key.create": ("ring", _create_key),
    "key.expect": ("ring", _expect_key),
    "key.import": ("ring", _import_key),
    "key.rotate": ("ring", _rotate),
    "key.policy": ("ring", _set_policy),
    "key.disable": ("ring", _disable),
    "key.enable": ("ring", _enable),
    "key.destroy": ("ring", _destroy),
    "key.cancel-destroy": ("ring", _cancel_destroy),
    "key.export": ("ring", _export),
    "pool.create": ("ring", _create_pool),
    "pool.delete": ("ring", _delete_pool),
}
