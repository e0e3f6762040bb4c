# SPDX-License-Identifier: Apache-2.0
"""What `teehouse-keys` is told at start, parsed once; `measured()` is the part that its evidence vouches for.

Measured is what decides about keys: origin, witnesses and quorum, who may publish, how the root key is held, what is
open to existing clients, the ceilings. Not measured is where things lie: addresses, paths, tokens, ports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.note import VerifierKey
from teehouse_core.log.quorum import Witness, WitnessPolicy
from teehouse_core.wire.canonical import b64u, encode, unb64u
from teehouse_core.wire.fields import HEX64
from teehouse_enclave.keys.stores import measured_root
from teehouse_enclave.platform.detect import PLATFORMS

__all__ = ["KeysConfig", "KeysLimits", "PublishConfig"]

_KNOWN: Final = frozenset(
    {
        "name",
        "release",
        "image_sha256",
        "platform",
        "listen",
        "ready_file",
        "origin",
        "root",
        "journal",
        "ledger",
        "witnesses",
        "quorum",
        "publish",
        "compat",
        "limits",
    }
)
MAX_ORIGIN: Final = 128  # characters: a tenant's log adds its id, and a checkpoint's origin has at most 255


@dataclass(frozen=True, slots=True)
class KeysLimits:
    """Ceilings of one service. All are measured."""

    max_active: int = 1024  # requests at a time
    max_inflight_bytes: int = 256 * 1024 * 1024  # bytes of bodies held at a time
    evidence_per_second: int = 50  # challenges of clients answered
    releases_per_second: int = 500  # challenges drawn for releases; each may become an entry
    open_challenges: int = 65_536
    max_tenants: int = 10_000
    max_backlog: int = 4096  # entries of a log that no published checkpoint covers
    commit_timeout_s: int = 15  # seconds that a caller waits for the quorum
    key_active_s: int = 3600  # seconds an HPKE key for imports is sealed to
    key_overlap_s: int = 600
    key_decrypt_only_s: int = 600
    drain_s: int = 20  # seconds that requests under way get at shutdown

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> KeysLimits:
        """Raises LocalError `config-*`."""
        known = {one.name for one in fields(cls)}
        for name, value in raw.items():
            if name not in known:
                raise LocalError(f"unknown limit {name!r}", code="config-unknown", hint="limits: " + ", ".join(known))
            if type(value) is not int or not 0 < value < 2**40:
                raise LocalError(f"limit {name} is no positive integer", code="config-value")
        limits = cls(**raw)
        if limits.key_overlap_s >= limits.key_active_s:
            raise LocalError("key_overlap_s must be smaller than key_active_s", code="config-value")
        return limits


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """Who may write into the public log: nodes whose evidence satisfies `policy`, statements signed by one of `keys`.

    Without a policy no node's keyset is taken, without keys no statement.
    """

    policy: Policy | None = None
    keys: tuple[bytes, ...] = ()  # Ed25519 public keys

    def measured(self) -> dict[str, Any]:
        return {"policy": self.policy.digest if self.policy else "", "keys": [b64u(key) for key in self.keys]}


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """One key service's configuration. `root`, `journal` and `compat` are read by who makes them."""

    name: str
    release: str
    image_sha256: str
    platform: str
    platform_root: str
    platform_collateral: str | None
    platform_ak_chain: str | None
    host: str
    port: int
    ready_file: str | None
    origin: str
    root: Mapping[str, Any] = field(repr=False)
    journal: Mapping[str, Any] = field(repr=False)
    ledger_url: str
    ledger_token: str = field(repr=False)
    witnesses: WitnessPolicy
    witness_urls: Mapping[str, str]
    publish: PublishConfig
    compat: Mapping[str, Any]
    limits: KeysLimits

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> KeysConfig:
        """Check a dictionary. Raises LocalError `config-*`, naming the member; tokens are never in a message."""
        if unknown := set(raw) - _KNOWN:
            raise LocalError(f"unknown setting {sorted(unknown)[0]!r}", code="config-unknown")
        platform, listen = _mapping(raw, "platform"), _mapping(raw, "listen", {})
        ledger = _mapping(raw, "ledger")
        image, origin = _text(raw, "image_sha256"), _text(raw, "origin")
        if not HEX64.fullmatch(image):
            raise LocalError("image_sha256 is not a SHA-256 in hex", code="config-value")
        if len(origin) > MAX_ORIGIN or "+" in origin or " " in origin or origin.startswith("/") or origin.endswith("/"):
            hint = "a name without a scheme, as keys.example.org"
            raise LocalError("origin has the wrong form", code="config-value", hint=hint)
        if unknown := set(platform) - {"type", "root", "collateral", "ak_chain"}:
            raise LocalError(f"unknown setting platform.{sorted(unknown)[0]!r}", code="config-unknown")
        if platform.get("type") not in PLATFORMS:
            raise LocalError(
                f"platform {platform.get('type')!r} is not supported by this release",
                code="platform-unsupported",
                hint=f"one of {', '.join(PLATFORMS)}",
            )
        port = listen.get("port", 0)
        if type(port) is not int or not 0 <= port <= 65535:
            raise LocalError("listen.port is no port", code="config-value")
        policy, urls = _witnesses(raw)
        return cls(
            name=_text(raw, "name"),
            release=_text(raw, "release"),
            image_sha256=image,
            platform=platform["type"],
            platform_root=_path(platform, "root") or "/",
            platform_collateral=_path(platform, "collateral"),
            platform_ak_chain=_path(platform, "ak_chain"),
            host=str(listen.get("host", "127.0.0.1")),
            port=port,
            ready_file=_path(raw, "ready_file"),
            origin=origin,
            root=_mapping(raw, "root"),
            journal=_mapping(raw, "journal"),
            ledger_url=_url(ledger, "url", "ledger.url"),
            ledger_token=_token(ledger),
            witnesses=policy,
            witness_urls=urls,
            publish=_publish(_mapping(raw, "publish", {})),
            compat=_mapping(raw, "compat", {}),
            limits=KeysLimits.parse(_mapping(raw, "limits", {})),
        )

    def measured(self) -> bytes:
        """Canonical JSON of all settings that change what happens to a key."""
        return encode(
            {
                "v": "keys-config/1",
                "platform": self.platform,
                "origin": self.origin,
                "root": measured_root(self.root),
                "journal": {"kind": str(self.journal.get("kind", ""))},
                "witnesses": self.witnesses.to_json(),
                "publish": self.publish.measured(),
                "compat": hashlib.sha256(_flat(self.compat)).hexdigest() if self.compat else "",
                "limits": {one.name: getattr(self.limits, one.name) for one in fields(KeysLimits)},
            }
        )

    @property
    def config_sha256(self) -> str:
        """64 hex digits over `measured()`."""
        return hashlib.sha256(self.measured()).hexdigest()


def _flat(value: Mapping[str, Any]) -> bytes:
    """What is open to existing clients, without the paths of two files (the digest of one stands beside it)."""
    try:
        return encode({name: item for name, item in value.items() if name not in ("accounts", "collateral")})
    except LocalError:
        raise LocalError("compat is not plain JSON", code="config-value") from None


def _witnesses(raw: Mapping[str, Any]) -> tuple[WitnessPolicy, dict[str, str]]:
    items, quorum = raw.get("witnesses", []), raw.get("quorum")
    if not isinstance(items, list) or type(quorum) is not int:
        hint = "a list of {name, vkey, url, operator}, and how many operators must sign; 0 is for evaluation"
        raise LocalError("witnesses and quorum are missing or have the wrong form", code="config-value", hint=hint)
    witnesses, urls = [], {}
    for item in items:
        if not isinstance(item, dict) or set(item) != {"name", "vkey", "url", "operator"}:
            raise LocalError("a witness has name, vkey, url and operator", code="config-value")
        try:
            vkey = VerifierKey.parse(_text(item, "vkey"))
        except MalformedError as error:
            raise LocalError(f"a witness's vkey does not parse: {error.code}", code="config-value") from None
        witnesses.append(Witness(_text(item, "name"), vkey, _text(item, "operator")))
        urls[witnesses[-1].name] = _url(item, "url", "a witness's url")
    if len(urls) != len(witnesses):
        raise LocalError("two witnesses have one name", code="config-value")
    return WitnessPolicy(tuple(witnesses), quorum), urls


def _publish(raw: Mapping[str, Any]) -> PublishConfig:
    if unknown := set(raw) - {"policy", "keys"}:
        raise LocalError(f"unknown setting publish.{sorted(unknown)[0]!r}", code="config-unknown")
    policy = None
    if "policy" in raw:
        given = raw["policy"]
        if isinstance(given, str):
            policy = Policy.preset(given)
        else:
            policy = Policy.load(encode(_mapping(raw, "policy")).decode("ascii"), "json")
    keys = raw.get("keys", [])
    try:
        return PublishConfig(policy, tuple(unb64u(key, 32) for key in keys))
    except (MalformedError, AttributeError, TypeError):
        raise LocalError("publish.keys is a list of Ed25519 keys in base64url", code="config-value") from None


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 512 or not value.isascii() or not value.isprintable():
        raise LocalError(f"{name} is missing or has the wrong form", code="config-value")
    return value


def _url(raw: Mapping[str, Any], name: str, shown: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value.startswith(("http://", "https://")) or len(value) > 512:
        raise LocalError(f"{shown} is no http(s) address", code="config-value")
    return value.rstrip("/")


def _token(ledger: Mapping[str, Any]) -> str:
    """The writer token itself, or the file that holds it."""
    if unknown := set(ledger) - {"url", "token", "token_file"}:
        raise LocalError(f"unknown setting ledger.{sorted(unknown)[0]!r}", code="config-unknown")
    token = ledger.get("token")
    if path := _path(ledger, "token_file"):
        try:
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise LocalError("ledger.token_file cannot be read", code="config-file") from None
    if not isinstance(token, str) or not 0 < len(token) <= 256 or not token.isascii() or not token.isprintable():
        raise LocalError("the ledger's writer token is missing", code="config-value", hint="ledger.token_file")
    return token


def _path(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise LocalError(f"{name} is no path", code="config-value")
    return value


def _mapping(raw: Mapping[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    value = raw.get(name, default)
    if not isinstance(value, dict):
        raise LocalError(f"{name} is missing or no object", code="config-value")
    return value
