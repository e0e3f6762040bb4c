# SPDX-License-Identifier: Apache-2.0
"""What the commands about keys do (spec/07-keys.md §5.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from teehouse_core.seal.suite import hpke_seal
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import NAME_PATTERN, export_info
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.suites import SUITES
from teehouse_enclave.keys import codec
from teehouse_enclave.keys.algorithms import Material
from teehouse_enclave.keys.call import (
    SEALED,
    Call,
    change,
    named_key,
    new_version,
    opened,
    policy_bytes,
    read_sealed,
    require,
    ring_of,
    shown,
)
from teehouse_enclave.keys.errors import KeysError
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
    MAX_VERSIONS,
    MODEL_ENCRYPTION,
    NO_END,
    SCHEDULED,
    SESSION,
    Change,
    Key,
    Ring,
)

__all__ = [
    "MAX_OVERLAP_COMPAT",
    "cancel_destroy",
    "create_key",
    "destroy",
    "disable",
    "enable",
    "expect_key",
    "export",
    "import_key",
    "rotate",
    "set_policy",
]

ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    SESSION: (SEALED, "p256", "rsa4096"),
    MODEL_ENCRYPTION: ("aes256", "aes128"),
    DATA: ("aes256", "aes128"),
    COMPAT: ("aes256", "aes128", "rsa4096", "p256"),
}
EXPORTABLE: Final = (MODEL_ENCRYPTION, DATA)  # usages whose keys may go to their owner; a session key never
MAX_OVERLAP: Final = {SESSION: 30 * 86400, MODEL_ENCRYPTION: 10 * 365 * 86400, DATA: 10 * 365 * 86400}
MAX_OVERLAP_COMPAT: Final = 30 * 86400  # seconds; the existing clients keep a key for at most 21 days


def create_key(call: Call, args: Fields) -> Change:
    plan = _read_plan(call, args)
    args.done()
    return _new_key(call, plan, INTERNAL, call.tools.generate(plan.algorithm))


def import_key(call: Call, args: Fields) -> Change:
    plan = _read_plan(call, args)
    sealed = read_sealed(args)
    args.done()
    if plan.algorithm == SEALED:
        raise KeysError("usage-forbids", "a sealed/1 session key is made inside, never imported")
    return _new_key(call, plan, IMPORTED, opened(call, sealed, plan.name, plan.algorithm))


def expect_key(call: Call, args: Fields) -> Change:
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
    ring = ring_of(call)
    plan = _Plan(
        args.text("key", NAME_PATTERN),
        args.take("algorithm", str),
        args.boolean("exportable"),
        policy_bytes(ring, args.octets("policy")),
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
    ring, digest = ring_of(call), hashlib.sha256(plan.policy).hexdigest()
    version, slots = None, None
    if material is not None:
        version, slots = new_version(call, plan.name, 1, material, digest)
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
    return change(call, "key", body, shown(key, version), key=key, version=version, slots=slots)


def rotate(call: Call, args: Fields) -> Change:
    ring, key = named_key(call, args)
    overlap = args.integer("overlap_seconds", 0, MAX_OVERLAP.get(ring.usage, MAX_OVERLAP_COMPAT))
    keep, sealed = args.boolean("keep_old"), read_sealed(args)
    args.done()
    require(key, ACTIVE)
    if keep and ring.usage == SESSION:
        raise KeysError("usage-forbids", "a session key's old version must have an end")
    if (key.source == IMPORTED) != (sealed is not None or (not call.signed and bool(call.payload))):
        hint = "send the new key" if key.source == IMPORTED else "the new version is made inside: send none"
        raise KeysError("bad-args", f"the key is {key.source}", hint=hint)
    if key.source == IMPORTED:
        material = opened(call, sealed, key.id, key.algorithm)
    else:
        material = call.tools.generate(key.algorithm)
    return _rotated(call, ring, key, material, NO_END if keep else call.now + overlap)


def _rotated(call: Call, ring: Ring, key: Key, material: Material, old_opens_until: int, policy: bytes = b"") -> Change:
    if sum(not version.destroyed for version in key.versions) >= MAX_VERSIONS:
        raise KeysError("too-many", f"a key has at most {MAX_VERSIONS} versions", hint="end older versions first")
    digest = hashlib.sha256(policy or key.policy).hexdigest()
    version, slots = new_version(call, key.id, key.newest + 1, material, digest)
    body = {
        "ring": ring.id,
        "key": key.id,
        "version": codec.version_json(version),
        "previous_opens_until": old_opens_until,
        "policy": b64u(policy),
    }
    return change(
        call, "version", body, shown(key, version), key=key, version=version, slots=slots, policy_sha256=digest
    )


def set_policy(call: Call, args: Fields) -> Change:
    """A sealed/1 key gets a new version: whoever relies on a policy relies on no release ever under another."""
    ring, key = named_key(call, args)
    policy = policy_bytes(ring, args.octets("policy"))
    args.done()
    require(key, ACTIVE, DISABLED)
    digest = hashlib.sha256(policy).hexdigest()
    if digest == key.policy_sha256:
        raise KeysError("wrong-state", "the key has this policy already")
    if key.algorithm == SEALED:
        return _rotated(call, ring, key, call.tools.generate(key.algorithm), call.now, policy)
    body = {"ring": ring.id, "key": key.id, "policy": b64u(policy)}
    return change(call, "policy", body, {"policy_sha256": digest}, key=key, policy_sha256=digest)


def disable(call: Call, args: Fields) -> Change:
    return _step(call, args, (ACTIVE,), DISABLED)


def enable(call: Call, args: Fields) -> Change:
    return _step(call, args, (DISABLED,), ACTIVE)


def destroy(call: Call, args: Fields) -> Change:
    return _step(call, args, (ACTIVE, DISABLED), SCHEDULED, call.now + GRACE_SECONDS)


def cancel_destroy(call: Call, args: Fields) -> Change:
    return _step(call, args, (SCHEDULED,), DISABLED)


def _step(call: Call, args: Fields, sources: tuple[str, ...], target: str, destroy_at: int = 0) -> Change:
    ring, key = named_key(call, args)
    args.done()
    require(key, *sources)
    if target == SCHEDULED and any((p.ring, p.key) == (ring.id, key.id) for p in call.state.pools.values()):
        raise KeysError("wrong-state", "the key serves a pool", hint="pool.delete comes first")
    body = {"ring": ring.id, "key": key.id, "state": target, "destroy_at": destroy_at}
    return change(call, "key-state", body, {"state": target, "destroy_at": destroy_at}, key=key)


def export(call: Call, args: Fields) -> Change:
    ring, key = named_key(call, args)
    number, suite = args.integer("version", 0, 2**31), args.one_of("suite", *SUITES)
    pk = args.octets("pk", SUITES[suite].pk)
    args.done()
    if not key.exportable:
        raise KeysError("not-exportable", "the key was not made exportable")
    require(key, ACTIVE)
    version = key.version(number)
    if version is None:
        raise KeysError("unknown-version", "no such version")
    if not version.opens(call.now):
        raise KeysError("wrong-state", "the version has ended")
    where = (call.state.tenant, ring.id, key.id, version.number)
    secret = call.tools.vault.unwrap(where, version, call.tools.read_slot(version.slot))
    result = {**shown(key, version), "sealed": b64u(hpke_seal(suite, pk, export_info(call.request_sha256), secret))}
    return change(call, "nothing", {}, result, key=key, version=version)
