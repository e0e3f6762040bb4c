# SPDX-License-Identifier: Apache-2.0
"""What each command to the key service says: op, arguments and, for an import, the sealed key (spec/07-keys.md §5)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teehouse_core.seal.commands import seal_import
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import AdminSet, tenant_id
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Model, Software

__all__ = [
    "Operation",
    "Sealing",
    "create_key",
    "create_pool",
    "create_ring",
    "create_tenant",
    "delete_pool",
    "export_key",
    "import_key",
    "on_key",
    "rotate_key",
    "set_admins",
    "set_policy",
]


@dataclass(frozen=True, slots=True)
class Operation:
    """`ring` "" is the tenant itself; `tenant` is set only where the arguments make it."""

    op: str
    ring: str
    args: Mapping[str, Any]
    payload: bytes = field(default=b"", repr=False)
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Sealing:
    """Where an imported key is sealed to, and what it is: `public_sha256` is of its public part (spec §5)."""

    to: HpkeKey
    tenant: str
    key: bytes = field(repr=False)
    public_sha256: str


def create_tenant(admins: AdminSet, labels: Mapping[str, str]) -> Operation:
    """A new tenant; its id follows from the arguments, so nobody can take it before its admins do."""
    args = {"admins": admins.to_json(), "labels": _labels(labels), "nonce": b64u(secrets.token_bytes(16))}
    return Operation("tenant.create", "", args, tenant=tenant_id(args))


def set_admins(ring: str, admins: AdminSet) -> Operation:
    """Another admin set, by m of the old one."""
    return Operation("ring.admins" if ring else "tenant.admins", ring, {"admins": admins.to_json()})


def create_ring(name: str, usage: str, admins: AdminSet, labels: Mapping[str, str]) -> Operation:
    """A new ring with the admin set that commands it from then on."""
    args = {"ring": name, "usage": usage, "admins": admins.to_json(), "labels": _labels(labels)}
    return Operation("ring.create", "", args)


def create_key(
    ring: str, key: str, algorithm: str, policy: bytes, *, exportable: bool, labels: Mapping[str, str]
) -> Operation:
    """A key that the service makes; `policy` is a release policy's text, empty for nobody."""
    return Operation("key.create", ring, _key_args(key, algorithm, policy, exportable, labels))


def import_key(
    ring: str, key: str, algorithm: str, policy: bytes, sealing: Sealing, *, exportable: bool, labels: Mapping[str, str]
) -> Operation:
    """A key of the tenant's own, sealed to the appraised service."""
    sealed, payload = _sealed(sealing, ring, key, algorithm)
    return Operation("key.import", ring, {**_key_args(key, algorithm, policy, exportable, labels), **sealed}, payload)


def rotate_key(
    ring: str, key: str, *, overlap_seconds: int, keep_old: bool, algorithm: str = "", sealing: Sealing | None = None
) -> Operation:
    """The next version; an imported key's comes with the command."""
    sealed = {"hpke_kid": "", "payload_sha256": "", "public_sha256": ""}
    payload = b""
    if sealing is not None:
        sealed, payload = _sealed(sealing, ring, key, algorithm)
    args = {"key": key, "overlap_seconds": overlap_seconds, "keep_old": keep_old, **sealed}
    return Operation("key.rotate", ring, args, payload)


def set_policy(ring: str, key: str, policy: bytes) -> Operation:
    """Another release policy."""
    return Operation("key.policy", ring, {"key": key, "policy": b64u(policy)})


def on_key(op: str, ring: str, key: str) -> Operation:
    """`key.disable`, `key.enable`, `key.destroy`, `key.cancel-destroy`."""
    return Operation(op, ring, {"key": key})


def export_key(ring: str, key: str, version: int, suite: str, pk: bytes) -> Operation:
    """An exportable key, sealed to `pk`."""
    return Operation("key.export", ring, {"key": key, "version": version, "suite": suite, "pk": b64u(pk)})


def create_pool(
    ring: str,
    key: str,
    endpoint: str,
    *,
    active_seconds: int,
    overlap_seconds: int,
    model: Model,
    software: Software,
    capabilities: Capabilities,
) -> Operation:
    """Let a session key serve an endpoint as its pool key."""
    args = {
        "endpoint": endpoint,
        "key": key,
        "active_seconds": active_seconds,
        "overlap_seconds": overlap_seconds,
        "model": {"name": model.name, "weights_sha256": model.weights_sha256},
        "software": {name: getattr(software, name) for name in ("release", "image_sha256", "config_sha256")},
        "capabilities": {name: getattr(capabilities, name) for name in ("egress", "content_logging", "moderation")},
    }
    return Operation("pool.create", ring, args)


def delete_pool(ring: str, endpoint: str) -> Operation:
    """End a pool."""
    return Operation("pool.delete", ring, {"endpoint": endpoint})


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """`name=text` options."""
    from teehouse_core.errors import LocalError

    labels = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise LocalError("a label is name=text", code="usage")
        labels[name] = value
    return labels


def _key_args(key: str, algorithm: str, policy: bytes, exportable: bool, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "key": key,
        "algorithm": algorithm,
        "exportable": exportable,
        "policy": b64u(policy),
        "labels": _labels(labels),
    }


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: b64u(text.encode()) for name, text in labels.items()}


def _sealed(sealing: Sealing, ring: str, key: str, algorithm: str) -> tuple[dict[str, str], bytes]:
    payload = seal_import(sealing.to, sealing.key, tenant=sealing.tenant, ring=ring, name=key, algorithm=algorithm)
    described = {
        "hpke_kid": sealing.to.kid,
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "public_sha256": sealing.public_sha256,
    }
    return described, payload
