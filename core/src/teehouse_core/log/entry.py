# SPDX-License-Identifier: Apache-2.0
"""What stands in the logs: entries of a tenant's audit log and of the public log (spec/04-log.md §3, §9).

The bytes of an entry are the leaf: canonical JSON, hashed into the tree, never changed. Who acted is a commitment in
it; the `Opening` that shows the names lies beside the leaf and may be deleted without touching the tree.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.merkle import leaf_hash
from teehouse_core.log.tiles import MAX_ENTRY
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse
from teehouse_core.wire.fields import HEX32, HEX64, NAME, Fields

__all__ = [
    "DECISIONS",
    "KINDS",
    "PUBLIC",
    "SALT_SIZE",
    "TKS",
    "AuditEntry",
    "Opening",
    "PublicEntry",
    "commit",
    "parse_leaf",
]

TKS, PUBLIC = "tks-log/1", "public-log/1"
DECISIONS = ("done", "granted", "refused")
KINDS = ("keyset", "release", "reference")
SALT_SIZE = 32  # bytes
MAX_NAMES = 16  # persons in one entry: the admin keys of an m-of-n command
MAX_PERSON = 256  # characters
MAX_CHECKS = 64
MAX_QUORUM = 32
_OP = re.compile(r"[a-z][a-z0-9.-]{0,63}")
_CODE = re.compile(r"[ -~]{1,256}")
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")  # SHA-256 in hex, or absent


def commit(salt: bytes, text: str) -> str:
    """HMAC-SHA256(salt, UTF-8 text) in hex: hides a text until its salt is shown."""
    return hmac.new(salt, text.encode("utf-8"), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Opening:
    """The names that an entry's `actor` commits to, and the salt that made the commitment unguessable."""

    salt: bytes
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.salt) != SALT_SIZE or not 0 < len(self.names) <= MAX_NAMES:
            raise MalformedError("not an opening", code="opening-form")
        if not all(0 < len(name) <= MAX_PERSON and name.isprintable() for name in self.names):
            raise MalformedError("not a name", code="opening-form")

    @property
    def actor(self) -> str:
        """The commitment that stands in the leaf: over the names, one a line, the last one without an end."""
        return commit(self.salt, "\n".join(self.names))

    def check(self, entry: AuditEntry) -> None:
        """Raises MalformedError (`opening`) when these names are not the ones `entry` commits to."""
        if not hmac.compare_digest(self.actor, entry.actor):
            raise MalformedError("the names are not those that the entry commits to", code="opening")

    def to_json(self) -> dict[str, Any]:
        return {"salt": b64u(self.salt), "names": list(self.names)}

    @classmethod
    def read(cls, value: Any) -> Opening:
        """From parsed JSON, `{"salt","names"}`. Raises MalformedError."""
        top = Fields(value, "opening")
        names = top.items("names", 1, MAX_NAMES)
        if not all(type(name) is str for name in names):
            raise MalformedError("not a name", code="wrong-type")
        opening = cls(top.octets("salt", SALT_SIZE), tuple(names))
        top.done()
        return opening


class _Leaf:
    """Bytes and hash of an entry, the same way for both logs."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def read(cls, top: Fields) -> Self:
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The leaf. Raises LocalError when it would not parse or has more than 65535 bytes."""
        data = encode(self.to_json())
        if len(data) > MAX_ENTRY:
            raise LocalError("a log entry is too large", code="document-too-large")
        try:
            self.parse(data)
        except MalformedError as error:
            raise LocalError(f"not a log entry: {error.message}", code=error.code) from None
        return data

    def leaf_hash(self) -> bytes:
        return leaf_hash(self.to_bytes())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Strict parse of a leaf. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_ENTRY), "log entry")
        entry = cls.read(top)
        top.done()
        return entry


@dataclass(frozen=True, slots=True)
class AuditEntry(_Leaf):
    """One decision of a tenant's key service. Absent things are `""` or `()`; times are Unix seconds.

    `id` (hex of 16 random bytes) is unique in its log: an entry that was appended and not confirmed is appended again
    once. `witnesses` is the quorum in force when it was made; 0 says that nobody else saw it. `private_sha256` is over
    the encrypted part that the log's writer alone can read.
    """

    time: int
    op: str
    id: str
    decision: str
    tenant: str = ""
    ring: str = ""
    key: str = ""
    version: str = ""
    actor: str = ""
    policy_sha256: str = ""
    evidence_sha256: str = ""
    keyset_sha256: str = ""
    request_sha256: str = ""
    failed_checks: tuple[str, ...] = ()
    reason: str = ""
    tier: str = ""
    witnesses: int = 0
    private_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        return value | {"v": TKS, "failed_checks": list(self.failed_checks)}

    @classmethod
    def read(cls, top: Fields) -> AuditEntry:
        top.one_of("v", TKS)
        checks = top.items("failed_checks", 0, MAX_CHECKS)
        if not all(type(check) is str and _CODE.fullmatch(check) for check in checks):
            raise MalformedError("not the id of a check", code="wrong-form")
        return cls(
            time=top.integer("time", 0, MAX_INTEGER),
            op=top.text("op", _OP),
            id=top.text("id", HEX32),
            decision=top.one_of("decision", *DECISIONS),
            failed_checks=tuple(checks),
            witnesses=top.integer("witnesses", 0, MAX_QUORUM),
            **{name: top.text(name, NAME) for name in ("tenant", "ring", "key", "version", "reason", "tier")},
            **{name: top.text(name, _DIGEST) for name in _AUDIT_DIGESTS},
        )


_AUDIT_DIGESTS = ("actor", "policy_sha256", "evidence_sha256", "keyset_sha256", "request_sha256", "private_sha256")


@dataclass(frozen=True, slots=True)
class PublicEntry(_Leaf):
    """What endpoints served: `sha256` is that of a keyset, of a release's statement or of a reference-value document.

    `endpoint` and `node` are empty where they make no sense; `name` names a release or a set of reference values.
    """

    time: int
    kind: str
    id: str
    sha256: str
    endpoint: str = ""
    node: str = ""
    name: str = ""
    evidence_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"v": PUBLIC} | {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def read(cls, top: Fields) -> PublicEntry:
        top.one_of("v", PUBLIC)
        return cls(
            time=top.integer("time", 0, MAX_INTEGER),
            kind=top.one_of("kind", *KINDS),
            id=top.text("id", HEX32),
            sha256=top.text("sha256", HEX64),
            endpoint=top.text("endpoint", NAME),
            node=top.text("node", NAME),
            name=top.text("name", NAME),
            evidence_sha256=top.text("evidence_sha256", _DIGEST),
        )


_FORMS: Mapping[str, type[AuditEntry] | type[PublicEntry]] = {TKS: AuditEntry, PUBLIC: PublicEntry}


def parse_leaf(data: bytes) -> AuditEntry | PublicEntry:
    """A leaf of either log. Raises MalformedError."""
    version = parse(data, limit=MAX_ENTRY).get("v")
    form = _FORMS.get(version) if isinstance(version, str) else None
    if form is None:
        raise MalformedError("a log entry of an unknown version", code="unknown-value")
    return form.parse(data)
