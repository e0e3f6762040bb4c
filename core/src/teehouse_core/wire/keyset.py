# SPDX-License-Identifier: Apache-2.0
"""The keyset: the one document that evidence speaks for (PROTOCOL §2, spec/01-keyset.md).

Parsing checks form only. That the keyset belongs to an accepted node, names the endpoint asked for and claims nothing
unmeasured is decided by `teehouse_core.appraise`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse
from teehouse_core.wire.fields import ENDPOINT, HEX32, HEX64, NAME, Fields
from teehouse_core.wire.labels import VERSION, hash_label
from teehouse_core.wire.suites import SUITES

__all__ = [
    "ED25519_PK",
    "MAX_KEYSET",
    "Capabilities",
    "HpkeKey",
    "Keyset",
    "Member",
    "Model",
    "Pool",
    "SignKey",
    "Software",
    "build_keyset",
    "key_id",
]

MAX_KEYSET = 256 * 1024  # bytes
MAX_KEYS = 16  # per list; a node needs two
MAX_MEMBERS = 256  # PROTOCOL §2
MAX_DOORS = 8
ED25519_PK = 32  # bytes
ROLES = ("node", "group", "member", "pool", "key-service")


def key_id(suite_or_alg: str, pk: bytes) -> str:
    """kid: hex of the first 16 bytes of SHA-256(L("kid") ‖ suite-or-alg ‖ 00 ‖ pk)."""
    return hash_label("kid", suite_or_alg.encode("ascii"), b"\0", pk)[:16].hex()


@dataclass(frozen=True, slots=True)
class HpkeKey:
    """A sealing key. Clients seal to it while not_before − 60 ≤ now < not_after (Unix seconds)."""

    kid: str
    suite: str
    pk: bytes
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class SignKey:
    """An Ed25519 key that signs receipts (`sign`) or group links (`link`)."""

    kid: str
    alg: str
    pk: bytes


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Software:
    release: str
    image_sha256: str
    config_sha256: str


@dataclass(frozen=True, slots=True)
class Capabilities:
    egress: str
    content_logging: str
    moderation: str
    doors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    node: str
    keyset_sha256: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Only in role `pool` (PROTOCOL §6)."""

    tks_keyset_sha256: str
    release_policy_sha256: str
    ring: str
    key: str
    version: str


@dataclass(frozen=True, slots=True)
class Keyset:
    """One parsed keyset; `raw` are the bytes that every digest is over."""

    raw: bytes = field(repr=False)
    role: str
    endpoint: str
    node: str
    hpke: tuple[HpkeKey, ...]
    sign: tuple[SignKey, ...]
    link: tuple[SignKey, ...]
    model: Model
    software: Software
    capabilities: Capabilities
    group: str
    members: tuple[Member, ...]
    not_before: int
    not_after: int
    pool: Pool | None
    v: str = VERSION

    @property
    def digest(self) -> bytes:
        """keyset_digest, 32 bytes."""
        return hashlib.sha256(self.raw).digest()

    @property
    def sha256(self) -> str:
        """keyset_sha256, 64 hex digits."""
        return self.digest.hex()

    def hpke_key(self, kid: str) -> HpkeKey | None:
        return next((key for key in self.hpke if key.kid == kid), None)

    def sign_key(self, kid: str) -> SignKey | None:
        return next((key for key in self.sign if key.kid == kid), None)

    @classmethod
    def parse(cls, data: bytes) -> Keyset:
        """Strict parse of canonical JSON; kids must recompute and none may repeat. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_KEYSET), "keyset")
        top.one_of("v", VERSION)
        role = top.one_of("role", *ROLES)
        endpoint = top.take("endpoint", str)
        if not (ENDPOINT.fullmatch(endpoint) or (role == "key-service" and endpoint == "")):
            raise MalformedError("keyset.endpoint has the wrong form", code="wrong-form")
        model, software, capabilities = top.fields("model"), top.fields("software"), top.fields("capabilities")
        keyset = cls(
            raw=data,
            role=role,
            endpoint=endpoint,
            node=top.text("node"),
            hpke=tuple(_hpke(Fields(item, "keyset.hpke")) for item in top.items("hpke", 0, MAX_KEYS)),
            sign=tuple(_ed25519(Fields(item, "keyset.sign")) for item in top.items("sign", 0, MAX_KEYS)),
            link=tuple(_ed25519(Fields(item, "keyset.link")) for item in top.items("link", 0, MAX_KEYS)),
            model=Model(model.text("name"), _digest_or_empty(model, "weights_sha256")),
            software=Software(
                software.text("release"),
                _digest_or_empty(software, "image_sha256"),
                _digest_or_empty(software, "config_sha256"),
            ),
            capabilities=Capabilities(
                capabilities.text("egress"),
                capabilities.text("content_logging"),
                capabilities.text("moderation"),
                _texts(capabilities, "doors", MAX_DOORS),
            ),
            group=_group(top),
            members=tuple(_member(Fields(item, "keyset.members")) for item in top.items("members", 0, MAX_MEMBERS)),
            not_before=top.integer("not_before", 0, MAX_INTEGER),
            not_after=top.integer("not_after", 0, MAX_INTEGER),
            pool=_pool(top.fields("pool")) if role == "pool" else None,
        )
        for part in (model, software, capabilities, top):
            part.done()
        kids = [k.kid for k in keyset.hpke] + [k.kid for k in keyset.sign + keyset.link]
        if len(set(kids)) != len(kids):
            raise MalformedError("a kid stands twice", code="repeated-kid")
        if keyset.not_before >= keyset.not_after:
            raise MalformedError("keyset ends before it begins", code="empty-validity")
        keyset._check_role()
        return keyset

    def _check_role(self) -> None:
        """What only one role may say: a keyset that claims members, a group or no node without it means to confuse."""
        fit = (
            (self.role == "pool") == (self.node == "")
            and (self.role == "group") == bool(self.members)
            and (self.role in ("group", "member")) == bool(self.group)
        )
        if not fit or len({member.keyset_sha256 for member in self.members}) != len(self.members):
            raise MalformedError("node, group or members do not fit the role", code="role-mismatch")


def _digest_or_empty(fields: Fields, name: str) -> str:
    value: str = fields.take(name, str)
    if value and not HEX64.fullmatch(value):
        raise MalformedError(f"{name} is not a SHA-256 in hex", code="wrong-form")
    return value


def _group(fields: Fields) -> str:
    value: str = fields.take("group", str)
    if value and not HEX32.fullmatch(value):
        raise MalformedError("keyset.group has the wrong form", code="wrong-form")
    return value


def _texts(fields: Fields, name: str, high: int) -> tuple[str, ...]:
    values = fields.items(name, 0, high)
    if not all(type(value) is str and NAME.fullmatch(value) for value in values) or len(set(values)) != len(values):
        raise MalformedError(f"{name} has the wrong form", code="wrong-form")
    return tuple(values)


def _check_kid(kid: str, alg: str, pk: bytes) -> None:
    if key_id(alg, pk) != kid:
        raise MalformedError("a kid is not the one its key has", code="wrong-kid")


def _hpke(item: Fields) -> HpkeKey:
    suite = item.one_of("suite", *SUITES)
    key = HpkeKey(
        item.text("kid", HEX32),
        suite,
        item.octets("pk", SUITES[suite].pk),
        item.integer("not_before", 0, MAX_INTEGER),
        item.integer("not_after", 0, MAX_INTEGER),
    )
    item.done()
    _check_kid(key.kid, suite, key.pk)
    if key.not_before >= key.not_after:
        raise MalformedError("a key ends before it begins", code="empty-validity")
    return key


def _ed25519(item: Fields) -> SignKey:
    key = SignKey(item.text("kid", HEX32), item.one_of("alg", "ed25519"), item.octets("pk", ED25519_PK))
    item.done()
    _check_kid(key.kid, key.alg, key.pk)
    return key


def _member(item: Fields) -> Member:
    member = Member(item.text("node"), item.text("keyset_sha256", HEX64))
    item.done()
    return member


def _pool(item: Fields) -> Pool:
    pool = Pool(
        item.text("tks_keyset_sha256", HEX64),
        item.text("release_policy_sha256", HEX64),
        item.text("ring"),
        item.text("key"),
        item.text("version"),
    )
    item.done()
    return pool


def build_keyset(
    *,
    role: str,
    endpoint: str,
    node: str,
    hpke: Sequence[HpkeKey],
    sign: Sequence[SignKey],
    model: Model,
    software: Software,
    capabilities: Capabilities,
    not_before: int,
    not_after: int,
    link: Sequence[SignKey] = (),
    group: str = "",
    members: Sequence[Member] = (),
    pool: Pool | None = None,
) -> bytes:
    """Canonical bytes of a keyset. Raises LocalError or MalformedError on unfit parts."""
    document: dict[str, Any] = {
        "v": VERSION,
        "role": role,
        "endpoint": endpoint,
        "node": node,
        "hpke": [
            {"kid": k.kid, "suite": k.suite, "pk": b64u(k.pk), "not_before": k.not_before, "not_after": k.not_after}
            for k in hpke
        ],
        "sign": [{"kid": k.kid, "alg": k.alg, "pk": b64u(k.pk)} for k in sign],
        "link": [{"kid": k.kid, "alg": k.alg, "pk": b64u(k.pk)} for k in link],
        "model": {"name": model.name, "weights_sha256": model.weights_sha256},
        "software": {
            "release": software.release,
            "image_sha256": software.image_sha256,
            "config_sha256": software.config_sha256,
        },
        "capabilities": {
            "egress": capabilities.egress,
            "content_logging": capabilities.content_logging,
            "moderation": capabilities.moderation,
            "doors": list(capabilities.doors),
        },
        "group": group,
        "members": [{"node": m.node, "keyset_sha256": m.keyset_sha256} for m in members],
        "not_before": not_before,
        "not_after": not_after,
    }
    if pool is not None:
        document["pool"] = {
            "tks_keyset_sha256": pool.tks_keyset_sha256,
            "release_policy_sha256": pool.release_policy_sha256,
            "ring": pool.ring,
            "key": pool.key,
            "version": pool.version,
        }
    raw = encode(document)
    Keyset.parse(raw)
    return raw
