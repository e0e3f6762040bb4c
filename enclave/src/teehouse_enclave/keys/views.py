# SPDX-License-Identifier: Apache-2.0
"""A tenant's state as its admins see it: everything but key bytes, sealed or not."""

from __future__ import annotations

from typing import Any

from teehouse_core.wire.canonical import b64u
from teehouse_enclave.keys.codec import labels_json, pool_json
from teehouse_enclave.keys.model import Key, Ring, State, Version

__all__ = ["show_state"]


def show_state(state: State, now: int) -> dict[str, Any]:
    """JSON-ready answer of `state.read`; `now` (Unix seconds) tells an active key from a rotating one."""
    return {
        "tenant": state.tenant,
        "admins": state.admins.to_json(),
        "seq": state.seq,
        "created_at": state.created_at,
        "labels": labels_json(state.labels),
        "compat": bool(state.compat_account),
        "rings": [_ring(ring, now) for ring in state.rings.values()],
        "pools": [pool_json(pool) for pool in state.pools.values()],
    }


def _ring(ring: Ring, now: int) -> dict[str, Any]:
    return {
        "id": ring.id,
        "usage": ring.usage,
        "weak": ring.weak,
        "admins": ring.admins.to_json(),
        "seq": ring.seq,
        "created_at": ring.created_at,
        "labels": labels_json(ring.labels),
        "keys": [_key(key, now) for key in ring.keys.values()],
    }


def _key(key: Key, now: int) -> dict[str, Any]:
    return {
        "id": key.id,
        "algorithm": key.algorithm,
        "source": key.source,
        "exportable": key.exportable,
        "state": key.state_at(now),
        "destroy_at": key.destroy_at,
        "created_at": key.created_at,
        "policy": b64u(key.policy),
        "policy_sha256": key.policy_sha256,
        "labels": labels_json(key.labels),
        "versions": [_version(version) for version in key.versions],
    }


def _version(version: Version) -> dict[str, Any]:
    return {
        "number": version.number,
        "created_at": version.created_at,
        "opens_until": version.opens_until,
        "public": b64u(version.public),
        "public_sha256": version.public_sha256,
        "policy_sha256": version.policy_sha256,
        "destroyed": version.destroyed,
    }
