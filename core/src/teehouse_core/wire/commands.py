# SPDX-License-Identifier: Apache-2.0
"""Commands to the Trusted Key Service and the admin keys that sign them (KEYS §1, spec/07-keys.md).

Form only: who may command what, and whether a signature holds, is decided by `teehouse_core.seal.commands` and by the
service. The control plane carries these bytes and can make none of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse, unb64u
from teehouse_core.wire.fields import HEX32, HEX64, Fields
from teehouse_core.wire.keyset import key_id
from teehouse_core.wire.labels import hash_label

__all__ = [
    "ADMIN_NAME",
    "COMMAND_LABEL",
    "COMMAND_VERSION",
    "MAX_ADMINS",
    "MAX_COMMAND",
    "MAX_PAYLOAD",
    "NAME_PATTERN",
    "OPS",
    "READ_OP",
    "TENANT_PATTERN",
    "AdminKey",
    "AdminSet",
    "Command",
    "CommandRequest",
    "CommandSignature",
    "build_command",
    "export_info",
    "import_info",
    "parse_command_request",
    "tenant_id",
]

COMMAND_VERSION: Final = "tks-command/1"
COMMAND_LABEL: Final = "tks command"
MAX_COMMAND: Final = 64 * 1024  # bytes; a release policy is the largest argument
MAX_PAYLOAD: Final = 32 * 1024  # bytes of a sealed key; an RSA-4096 key in PKCS#8 has under 3 KiB
MAX_SIGNATURES: Final = 32
MAX_ADMINS: Final = 16  # keys in one admin set; people who must meet, so few
ED25519_SIGNATURE: Final = 64  # bytes
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # rings and keys
TENANT_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")  # also a path segment and part of a log's origin
RING_OR_NONE: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,63})?")
ADMIN_NAME: Final = re.compile(r"[ -~]{0,64}")

OPS: Final = (
    "tenant.create",
    "tenant.admins",
    "ring.create",
    "ring.admins",
    "key.create",
    "key.import",
    "key.rotate",
    "key.policy",
    "key.disable",
    "key.enable",
    "key.destroy",
    "key.cancel-destroy",
    "key.export",
    "pool.create",
    "pool.delete",
)
"""Commands that change state and stand in the log."""
READ_OP: Final = "state.read"
"""Shows a tenant's own state: any one admin key may sign it, `seq` is 0, nothing is logged."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """One Ed25519 key that a person of the tenant holds; `name` is for people."""

    pk: bytes
    name: str = ""

    @property
    def kid(self) -> str:
        return key_id("ed25519", self.pk)

    def to_json(self) -> dict[str, str]:
        return {"kid": self.kid, "pk": b64u(self.pk), "name": self.name}

    @classmethod
    def read(cls, item: Fields) -> AdminKey:
        """Raises MalformedError."""
        kid = item.text("kid", HEX32)
        key = cls(item.octets("pk", 32), item.text("name", ADMIN_NAME))
        item.done()
        if key.kid != kid:
            raise MalformedError("an admin kid is not the one its key has", code="wrong-kid")
        return key


@dataclass(frozen=True, slots=True)
class AdminSet:
    """`threshold` of `keys` must sign. An empty set signs nothing (tenants of existing clients have one)."""

    threshold: int
    keys: tuple[AdminKey, ...]

    def to_json(self) -> dict[str, Any]:
        return {"threshold": self.threshold, "keys": [key.to_json() for key in self.keys]}

    def by_kid(self) -> dict[str, bytes]:
        """kid → public key."""
        return {key.kid: key.pk for key in self.keys}

    @classmethod
    def read(cls, item: Fields, *, empty: bool = False) -> AdminSet:
        """Strict: 1 ≤ threshold ≤ number of keys ≤ 16, no key twice; with `empty` also none at all."""
        threshold = item.integer("threshold", 0 if empty else 1, MAX_ADMINS)
        keys = tuple(
            AdminKey.read(Fields(key, "admins.keys")) for key in item.items("keys", 0 if empty else 1, MAX_ADMINS)
        )
        item.done()
        if threshold > len(keys) or (keys and threshold == 0):
            raise MalformedError("the threshold fits no admin set of this size", code="admin-threshold")
        if len({key.pk for key in keys}) != len(keys):
            raise MalformedError("an admin key stands twice", code="repeated-key")
        return cls(threshold, keys)


@dataclass(frozen=True, slots=True)
class CommandSignature:
    """An Ed25519 signature over L("tks command") ‖ command by the admin key `kid`."""

    kid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Command:
    """One parsed command; `raw` are the bytes that signatures and digests are over. `ring` "" means the tenant."""

    raw: bytes = field(repr=False)
    tks_keyset_sha256: str
    tenant: str
    ring: str
    seq: int
    op: str
    args: Mapping[str, Any] = field(repr=False)
    expires_at: int

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the bytes: `request_sha256` in the log."""
        return hashlib.sha256(self.raw).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Command:
        """Strict parse of canonical JSON of at most 64 KiB; `args` stay as they are. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_COMMAND), "command")
        top.one_of("v", COMMAND_VERSION)
        command = cls(
            raw=data,
            tks_keyset_sha256=top.text("tks_keyset_sha256", HEX64),
            tenant=top.text("tenant", TENANT_PATTERN),
            ring=top.text("ring", RING_OR_NONE),
            seq=top.integer("seq", 0, MAX_INTEGER),
            op=top.one_of("op", *OPS, READ_OP),
            args=top.take("args", dict),
            expires_at=top.integer("expires_at", 0, MAX_INTEGER),
        )
        top.done()
        return command


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """The body of `POST /v1/commands`: a command, its signatures, and the sealed key that `args` may name by digest."""

    command: Command
    signatures: tuple[CommandSignature, ...]
    payload: bytes = field(default=b"", repr=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "command": b64u(self.command.raw),
            "signatures": [{"kid": s.kid, "sig": b64u(s.sig)} for s in self.signatures],
            "payload": b64u(self.payload),
        }


def build_command(
    *,
    tks_keyset_sha256: str,
    tenant: str,
    ring: str,
    seq: int,
    op: str,
    args: Mapping[str, Any],
    expires_at: int,
) -> bytes:
    """Canonical bytes of a command. Raises LocalError or MalformedError on unfit parts."""
    raw = encode(
        {
            "v": COMMAND_VERSION,
            "tks_keyset_sha256": tks_keyset_sha256,
            "tenant": tenant,
            "ring": ring,
            "seq": seq,
            "op": op,
            "args": dict(args),
            "expires_at": expires_at,
        }
    )
    Command.parse(raw)
    return raw


def parse_command_request(document: Any) -> CommandRequest:
    """The parsed JSON body of `POST /v1/commands`. Raises MalformedError."""
    top = Fields(document, "request")
    command = Command.parse(unb64u(top.take("command", str)))
    signatures = []
    for item in top.items("signatures", 0, MAX_SIGNATURES):
        part = Fields(item, "request.signatures")
        signatures.append(CommandSignature(part.text("kid", HEX32), part.octets("sig", ED25519_SIGNATURE)))
        part.done()
    payload = top.octets("payload") if top.has("payload") else b""
    top.done()
    if len(payload) > MAX_PAYLOAD:
        raise MalformedError(f"a payload has at most {MAX_PAYLOAD} bytes", code="payload-too-large")
    return CommandRequest(command, tuple(signatures), payload)


def tenant_id(args: Mapping[str, Any]) -> str:
    """The id that the arguments of `tenant.create` give: nobody can take a name before its owner.

    "t-" and hex of the first 16 bytes of SHA-256(L("tks tenant") ‖ canonical args).
    """
    return "t-" + hash_label("tks tenant", encode(dict(args)))[:16].hex()


def import_info(tenant: str, ring: str, key: str, algorithm: str) -> bytes:
    """HPKE info of a sealed import: it opens only as this key of this ring."""
    return hash_label("tks import", _joined((tenant, ring, key, algorithm)))


def export_info(command_sha256: str) -> bytes:
    """HPKE info of what `key.export` answers: it opens only as the answer to this command."""
    if not HEX64.fullmatch(command_sha256):
        raise LocalError("not a hex SHA-256", code="wrong-form")
    return hash_label("tks export", bytes.fromhex(command_sha256))


def _joined(parts: Sequence[str]) -> bytes:
    return encode(list(parts))
