# SPDX-License-Identifier: Apache-2.0
"""A key service without a network: admins who sign, and a house that commits to a journal in memory."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.seal.commands import sign_command
from teehouse_core.seal.suite import SealingKey, generate_key, hpke_open, hpke_seal
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import (
    AdminKey,
    AdminSet,
    Command,
    CommandRequest,
    build_command,
    import_info,
    tenant_id,
)
from teehouse_core.wire.keyset import key_id
from teehouse_enclave.keys import algorithms, commands
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.commands import Tools
from teehouse_enclave.keys.fold import fold
from teehouse_enclave.keys.model import Change, State
from teehouse_enclave.keys.policy import ReleasePolicy, preset
from teehouse_enclave.keys.vault import Vault

NOW = 1_790_000_000
KEYSET = "ab" * 32


@functools.cache
def admin(number: int) -> Ed25519PrivateKey:
    """The same few admin keys in all tests: making them is not what is tested."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"admin %d" % number).digest())


def admin_set(threshold: int, *numbers: int) -> AdminSet:
    keys = tuple(AdminKey(admin(n).public_key().public_bytes_raw(), f"person {n}") for n in numbers)
    return AdminSet(threshold, keys)


@functools.cache
def service_key() -> SealingKey:
    return generate_key()


@functools.cache
def good_policy() -> ReleasePolicy:
    return preset("evaluate", "all-nodes", "ep-1")


@dataclasses.dataclass
class House:
    """State, slots and deltas of one tenant, committed as the service does it."""

    now: int = NOW
    state: State | None = None
    deltas: list[bytes] = dataclasses.field(default_factory=list)
    slots: dict[str, bytes] = dataclasses.field(default_factory=dict)
    changes: list[Change] = dataclasses.field(default_factory=list)
    root: Root = dataclasses.field(default_factory=lambda: Root(secrets.token_bytes(32)))
    tenant: str = ""

    @property
    def vault(self) -> Vault:
        return Vault(Box(self.root))

    @property
    def tools(self) -> Tools:
        def open_import(kid: str, info: bytes, sealed: bytes) -> bytes | None:
            key = service_key()
            return hpke_open(key, info, sealed) if kid == key_id(key.suite, key.pk) else None

        return Tools(self.vault, open_import, self.slots.get)

    def commit(self, change: Change) -> Mapping[str, Any]:
        self.slots.update(change.slots)
        if change.delta is not None:
            self.deltas.append(change.delta)
            self.state = fold(self.state, change.delta)
        for name in change.shred:
            self.slots.pop(name, None)
        self.changes.append(change)
        return change.result

    def request(
        self,
        op: str,
        args: Mapping[str, Any],
        *,
        ring: str = "",
        seq: int | None = None,
        by: Sequence[int] = (1, 2),
        payload: bytes = b"",
        **parts: Any,
    ) -> CommandRequest:
        if seq is None:
            scope = None if self.state is None else (self.state.rings.get(ring) if ring else self.state)
            seq = 1 if scope is None else scope.seq + 1
        fields = {
            "tks_keyset_sha256": KEYSET,
            "tenant": self.tenant,
            "ring": ring,
            "seq": seq,
            "op": op,
            "args": args,
            "expires_at": self.now + 600,
        }
        raw = build_command(**{**fields, **parts})
        return CommandRequest(Command.parse(raw), tuple(sign_command(raw, admin(n)) for n in by), payload)

    def decide(self, request: CommandRequest) -> Change:
        return commands.authorise(self.state, request, {KEYSET}, self.now, self.tools)

    def do(self, op: str, args: Mapping[str, Any], **how: Any) -> Mapping[str, Any]:
        return self.commit(self.decide(self.request(op, args, **how)))

    def secret(self, ring: str, key: str, number: int = 0) -> bytes:
        assert self.state is not None
        held = self.state.rings[ring].keys[key].version(number)
        assert held is not None
        return self.vault.unwrap((self.state.tenant, ring, key, held.number), held, self.slots.get(held.slot))


def tenant_args(threshold: int = 2, *numbers: int) -> dict[str, Any]:
    return {
        "admins": admin_set(threshold, *(numbers or (1, 2, 3))).to_json(),
        "nonce": b64u(bytes(16)),
        "labels": {"name": b64u("客户甲".encode())},
    }


def new_house(**parts: Any) -> House:
    """A tenant of 2 of 3 admins."""
    house = House(**parts)
    args = tenant_args()
    house.tenant = tenant_id(args)
    house.do("tenant.create", args)
    return house


def ring_args(name: str, usage: str = "data", threshold: int = 2, *numbers: int) -> dict[str, Any]:
    return {
        "ring": name,
        "usage": usage,
        "admins": admin_set(threshold, *(numbers or (1, 2, 3))).to_json(),
        "labels": {},
    }


def key_args(name: str, algorithm: str = "aes256", **parts: Any) -> dict[str, Any]:
    return {
        "key": name,
        "algorithm": algorithm,
        "exportable": False,
        "policy": b64u(good_policy().raw),
        "labels": {},
        **parts,
    }


def sealed_args(house: House, ring: str, name: str, algorithm: str, secret: bytes) -> tuple[dict[str, str], bytes]:
    """The members about a sealed key, and the payload."""
    to = service_key()
    payload = hpke_seal(to.suite, to.pk, import_info(house.tenant, ring, name, algorithm), secret)
    try:
        public = algorithms.read_key_bytes(algorithm, secret).public_sha256
    except Exception:
        public = "00" * 32
    members = {
        "hpke_kid": key_id(to.suite, to.pk),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "public_sha256": public,
    }
    return members, payload


NOTHING_SEALED = {"hpke_kid": "", "payload_sha256": "", "public_sha256": ""}


def rotate_args(name: str, overlap: int = 600, *, keep: bool = False, **parts: Any) -> dict[str, Any]:
    return {"key": name, "overlap_seconds": overlap, "keep_old": keep, **NOTHING_SEALED, **parts}


def pool_args(**parts: Any) -> dict[str, Any]:
    return {
        "endpoint": "ep-1",
        "key": "pool",
        "active_seconds": 900,
        "overlap_seconds": 600,
        "model": {"name": "m", "weights_sha256": "cd" * 32},
        "software": {"release": "1", "image_sha256": "", "config_sha256": ""},
        "capabilities": {"egress": "none", "content_logging": "none", "moderation": "none"},
        **parts,
    }
