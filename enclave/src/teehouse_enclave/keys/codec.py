# SPDX-License-Identifier: Apache-2.0
"""State and its parts as canonical JSON, there and back.

Strict in both directions: what does not read is damage of the store and raises `StorageError` (`storage-corrupt`),
since these bytes are only ever written by this service. Free text (labels) is UTF-8 in base64url, because canonical
JSON here is ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.wire import canonical
from teehouse_core.wire.canonical import MAX_INTEGER, b64u
from teehouse_core.wire.commands import AdminSet
from teehouse_core.wire.fields import ENDPOINT, HEX64, Fields
from teehouse_core.wire.keyset import Capabilities, Model, Software
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.model import ALGORITHMS, SOURCES, STATES, USAGES, Key, Pool, Ring, State, Version, frozen

__all__ = [
    "MAX_LABELS",
    "MAX_LABEL_TEXT",
    "MAX_STATE",
    "decode_state",
    "encode_state",
    "key_json",
    "labels_json",
    "pool_json",
    "read_key",
    "read_labels",
    "read_pool",
    "read_ring",
    "read_version",
    "ring_json",
    "version_json",
]

STATE_VERSION: Final = "tks-state/1"
MAX_STATE: Final = 256 * 1024 * 1024  # bytes; far above what the ceilings of `model` give for ordinary keys
MAX_LABELS: Final = 16
MAX_LABEL_TEXT: Final = 4096  # bytes of UTF-8 of one label
_PLENTY: Final = 1 << 20  # items of a list in a snapshot; destroyed versions are kept and counted by nobody


def labels_json(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: b64u(text.encode()) for name, text in labels.items()}


def read_labels(item: Fields, name: str = "labels") -> Mapping[str, str]:
    """Labels out of an object of b64u texts. Raises MalformedError."""
    given = item.take(name, dict)
    if len(given) > MAX_LABELS:
        raise MalformedError(f"at most {MAX_LABELS} labels", code="out-of-range")
    fields, found = Fields(given, name), {}
    for label in given:
        raw = fields.octets(label)
        if not 0 < len(label) <= 64 or len(raw) > MAX_LABEL_TEXT:
            raise MalformedError("a label is too long", code="out-of-range")
        try:
            found[label] = raw.decode()
        except UnicodeDecodeError:
            raise MalformedError("a label is not UTF-8", code="wrong-form") from None
    return frozen(found)


def version_json(version: Version) -> dict[str, Any]:
    return {
        "number": version.number,
        "created_at": version.created_at,
        "opens_until": version.opens_until,
        "public": b64u(version.public),
        "public_sha256": version.public_sha256,
        "policy_sha256": version.policy_sha256,
        "wrapped": b64u(version.wrapped),
        "slot": version.slot,
        "destroyed": version.destroyed,
    }


def read_version(value: Any) -> Version:
    item = Fields(value, "version")
    version = Version(
        number=item.integer("number", 1, MAX_INTEGER),
        created_at=item.integer("created_at", 0, MAX_INTEGER),
        opens_until=item.integer("opens_until", 0, MAX_INTEGER),
        public=item.octets("public"),
        public_sha256=item.text("public_sha256", HEX64),
        policy_sha256=item.text("policy_sha256", HEX64),
        wrapped=item.octets("wrapped"),
        slot=item.text("slot"),
        destroyed=item.boolean("destroyed"),
    )
    item.done()
    return version


def key_json(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "algorithm": key.algorithm,
        "usage": key.usage,
        "source": key.source,
        "exportable": key.exportable,
        "state": key.state,
        "destroy_at": key.destroy_at,
        "created_at": key.created_at,
        "policy": b64u(key.policy),
        "labels": labels_json(key.labels),
        "versions": [version_json(version) for version in key.versions],
    }


def read_key(value: Any) -> Key:
    item = Fields(value, "key")
    key = Key(
        id=item.text("id"),
        algorithm=item.one_of("algorithm", *ALGORITHMS),
        usage=item.one_of("usage", *USAGES),
        source=item.one_of("source", *SOURCES),
        exportable=item.boolean("exportable"),
        state=item.one_of("state", *STATES),
        destroy_at=item.integer("destroy_at", 0, MAX_INTEGER),
        created_at=item.integer("created_at", 0, MAX_INTEGER),
        policy=item.octets("policy"),
        labels=read_labels(item),
        versions=tuple(read_version(version) for version in item.items("versions", 0, _PLENTY)),
    )
    item.done()
    return key


def ring_json(ring: Ring) -> dict[str, Any]:
    return {
        "id": ring.id,
        "usage": ring.usage,
        "admins": ring.admins.to_json(),
        "seq": ring.seq,
        "last_command": ring.last_command,
        "created_at": ring.created_at,
        "labels": labels_json(ring.labels),
        "keys": [key_json(key) for key in ring.keys.values()],
    }


def read_ring(value: Any) -> Ring:
    item = Fields(value, "ring")
    ring = Ring(
        id=item.text("id"),
        usage=item.one_of("usage", *USAGES),
        admins=AdminSet.read(item.fields("admins"), empty=True),
        seq=item.integer("seq", 0, MAX_INTEGER),
        last_command=item.text("last_command"),
        created_at=item.integer("created_at", 0, MAX_INTEGER),
        labels=read_labels(item),
        keys=frozen({key.id: key for key in map(read_key, item.items("keys", 0, _PLENTY))}),
    )
    item.done()
    return ring


def pool_json(pool: Pool) -> dict[str, Any]:
    return {
        "endpoint": pool.endpoint,
        "ring": pool.ring,
        "key": pool.key,
        "active_seconds": pool.active_seconds,
        "overlap_seconds": pool.overlap_seconds,
        "model": {"name": pool.model.name, "weights_sha256": pool.model.weights_sha256},
        "software": {
            "release": pool.software.release,
            "image_sha256": pool.software.image_sha256,
            "config_sha256": pool.software.config_sha256,
        },
        "capabilities": {
            "egress": pool.capabilities.egress,
            "content_logging": pool.capabilities.content_logging,
            "moderation": pool.capabilities.moderation,
        },
    }


def read_pool(value: Any) -> Pool:
    """A pool's JSON, as in a command and in the state. A pool opens no compatibility door, so it names none."""
    item = Fields(value, "pool")
    model, software, capabilities = (item.fields(name) for name in ("model", "software", "capabilities"))
    pool = Pool(
        endpoint=item.text("endpoint", ENDPOINT),
        ring=item.text("ring"),
        key=item.text("key"),
        active_seconds=item.integer("active_seconds", 1, MAX_INTEGER),
        overlap_seconds=item.integer("overlap_seconds", 1, MAX_INTEGER),
        model=Model(model.text("name"), _digest(model, "weights_sha256")),
        software=Software(
            software.text("release"), _digest(software, "image_sha256"), _digest(software, "config_sha256")
        ),
        capabilities=Capabilities(
            capabilities.text("egress"), capabilities.text("content_logging"), capabilities.text("moderation"), ()
        ),
    )
    for part in (model, software, capabilities, item):
        part.done()
    return pool


def encode_state(state: State) -> bytes:
    """A snapshot's content: clear, so it is sealed before it leaves."""
    return canonical.encode(
        {
            "v": STATE_VERSION,
            "tenant": state.tenant,
            "admins": state.admins.to_json(),
            "seq": state.seq,
            "last_command": state.last_command,
            "created_at": state.created_at,
            "labels": labels_json(state.labels),
            "compat_account": state.compat_account,
            "rings": [ring_json(ring) for ring in state.rings.values()],
            "pools": [pool_json(pool) for pool in state.pools.values()],
        }
    )


def decode_state(data: bytes) -> State:
    """Read what `encode_state` wrote. Raises `StorageError` (`storage-corrupt`)."""
    try:
        item = Fields(canonical.parse(data, limit=MAX_STATE), "state")
        item.one_of("v", STATE_VERSION)
        state = State(
            tenant=item.text("tenant"),
            admins=AdminSet.read(item.fields("admins"), empty=True),
            seq=item.integer("seq", 0, MAX_INTEGER),
            last_command=item.text("last_command"),
            created_at=item.integer("created_at", 0, MAX_INTEGER),
            labels=read_labels(item),
            compat_account=item.text("compat_account"),
            rings=frozen({ring.id: ring for ring in map(read_ring, item.items("rings", 0, _PLENTY))}),
            pools=frozen({pool.endpoint: pool for pool in map(read_pool, item.items("pools", 0, _PLENTY))}),
        )
        item.done()
    except MalformedError as error:
        raise StorageError("storage-corrupt", f"a snapshot does not read: {error.code}") from None
    return state


def _digest(item: Fields, name: str) -> str:
    value: str = item.take(name, str)
    if value and not HEX64.fullmatch(value):
        raise MalformedError(f"{name} is no hex SHA-256", code="wrong-form")
    return value
