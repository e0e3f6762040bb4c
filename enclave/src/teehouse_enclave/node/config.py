# SPDX-License-Identifier: Apache-2.0
"""What a node is told at start, parsed once; `measured()` is the part that evidence vouches for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError
from teehouse_core.wire.canonical import encode
from teehouse_core.wire.fields import ENDPOINT, HEX64
from teehouse_enclave.engine.spec import EngineSpec
from teehouse_enclave.node.weights import WeightsConfig
from teehouse_enclave.platform.detect import PLATFORMS

__all__ = ["KeyServiceConfig", "LedgerConfig", "Limits", "NodeConfig", "PoolConfig"]

# Where things lie on this host, and secrets: they say nothing about what the node does with a prompt.
_UNMEASURED_ENGINE = frozenset({"path", "mmproj", "url", "api_key", "threads", "start_timeout"})


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings of one node. All are measured: a node cannot quietly keep keys for longer than it says."""

    max_active: int = 512  # requests at a time; more are refused as over-limit
    max_inflight_bytes: int = 512 * 1024 * 1024  # bytes of request frames held at a time
    evidence_per_second: int = 50  # kind 1 challenges answered
    seen_capacity: int = 1 << 20  # transcripts remembered
    key_active_s: int = 3600  # seconds a key is sealed to
    key_overlap_s: int = 600  # seconds before its end at which the next key appears
    key_decrypt_only_s: int = 600  # seconds after its end in which it still opens
    drain_s: int = 30  # seconds that answers under way get at shutdown

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Limits:
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
class KeyServiceConfig:
    """Where the key service is, and what its evidence must satisfy. Only the policy is measured, so only it counts."""

    url: str
    policy: Policy

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> KeyServiceConfig:
        if unknown := set(raw) - {"url", "policy"}:
            raise LocalError(f"unknown setting key_service.{sorted(unknown)[0]!r}", code="config-unknown")
        given = raw.get("policy")
        if not isinstance(given, dict):
            raise LocalError(
                "key_service.policy is missing",
                code="key-service-policy",
                hint="a key service that only its address names is not believed; write what its evidence must satisfy",
            )
        policy = Policy.load(json.dumps(given), "json")
        if policy.roles != ("key-service",):
            raise LocalError("key_service.policy accepts the role key-service and no other", code="config-value")
        return cls(_url(raw, "key_service.url"), policy)


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Which pool this node serves in: the tenant, ring and key that its keysets must name."""

    tenant: str
    ring: str
    key: str
    poll_s: int = 5  # seconds between looks for a new pool keyset; not measured, it hides nothing

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> PoolConfig:
        if unknown := set(raw) - {"tenant", "ring", "key", "poll_s"}:
            raise LocalError(f"unknown setting pool.{sorted(unknown)[0]!r}", code="config-unknown")
        poll = raw.get("poll_s", 5)
        if type(poll) is not int or not 1 <= poll <= 60:
            raise LocalError("pool.poll_s is a number of seconds from 1 to 60", code="config-value")
        return cls(_text(raw, "tenant"), _text(raw, "ring"), _text(raw, "key"), poll)


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """The public ledger that cacheable evidence is made over. Nothing here is believed: the client checks it all."""

    url: str  # base of the ledger's HTTP surface, without /ledger/v1
    log: str = "public"
    every_s: int = 300  # seconds between two pieces of evidence; PROTOCOL §2: at least every 10 minutes

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> LedgerConfig:
        if unknown := set(raw) - {"url", "log", "every_s"}:
            raise LocalError(f"unknown setting ledger.{sorted(unknown)[0]!r}", code="config-unknown")
        every = raw.get("every_s", 300)
        if type(every) is not int or not 1 <= every <= 600:
            raise LocalError("ledger.every_s is a number of seconds from 1 to 600", code="config-value")
        log = _text(raw, "log") if "log" in raw else "public"
        return cls(_url(raw, "ledger.url"), log, every)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's configuration. `image_sha256` is what the deployer says was booted; a real platform measures it.

    `platform` may be `auto`; `platform_root` is where the machine's interfaces lie, "/" outside tests. `devices` asks
    for GPU evidence. Neither paths nor the root are measured: evidence says by itself what made it.
    """

    endpoint: str
    node: str
    release: str
    image_sha256: str
    engine: EngineSpec
    platform: str
    platform_root: str
    platform_collateral: str | None
    platform_ak_chain: str | None
    devices: bool
    host: str
    port: int
    ready_file: str | None
    limits: Limits
    key_service: KeyServiceConfig | None = None
    pool: PoolConfig | None = None
    ledger: LedgerConfig | None = None
    weights: WeightsConfig | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> NodeConfig:
        """Check a dictionary. Raises LocalError `config-*`, naming the member."""
        known = {"endpoint", "node", "release", "image_sha256", "engine", "platform", "listen", "ready_file", "limits"}
        known |= {"key_service", "pool", "ledger", "weights"}
        if unknown := set(raw) - known:
            raise LocalError(f"unknown setting {sorted(unknown)[0]!r}", code="config-unknown")
        platform = _mapping(raw, "platform", {"type": "simulated"})
        listen = _mapping(raw, "listen", {"host": "127.0.0.1", "port": 0})
        endpoint, image = _text(raw, "endpoint"), _text(raw, "image_sha256")
        if not ENDPOINT.fullmatch(endpoint):
            raise LocalError("endpoint has the wrong form", code="config-value", hint="letters, digits and '-' only")
        if not HEX64.fullmatch(image):
            raise LocalError("image_sha256 is not a SHA-256 in hex", code="config-value")
        if unknown := set(platform) - {"type", "root", "collateral", "ak_chain", "devices"}:
            raise LocalError(f"unknown setting platform.{sorted(unknown)[0]!r}", code="config-unknown")
        if platform.get("type") not in PLATFORMS:
            raise LocalError(
                f"platform {platform.get('type')!r} is not supported by this release",
                code="platform-unsupported",
                hint=f"one of {', '.join(PLATFORMS)}",
            )
        if type(platform.get("devices", False)) is not bool:
            raise LocalError("platform.devices is true or false", code="config-value")
        port = listen.get("port", 0)
        if type(port) is not int or not 0 <= port <= 65535:
            raise LocalError("listen.port is no port", code="config-value")
        ready_file = raw.get("ready_file")
        service = KeyServiceConfig.parse(_mapping(raw, "key_service", {})) if "key_service" in raw else None
        pool = PoolConfig.parse(_mapping(raw, "pool", {})) if "pool" in raw else None
        if ("pool" in raw or "ledger" in raw) and service is None:
            raise LocalError("pool and ledger need a key service", code="key-service-policy", hint="write key_service")
        weights = WeightsConfig.parse(_mapping(raw, "weights", {})) if "weights" in raw else None
        if weights is not None and service is None:
            raise LocalError(
                "encrypted weights need a key service", code="key-service-policy", hint="write key_service too"
            )
        return cls(
            endpoint=endpoint,
            node=_text(raw, "node"),
            release=_text(raw, "release"),
            image_sha256=image,
            engine=_engine(_mapping(raw, "engine", {}), weights),
            platform=platform["type"],
            platform_root=_path(platform, "root") or "/",
            platform_collateral=_path(platform, "collateral"),
            platform_ak_chain=_path(platform, "ak_chain"),
            devices=platform.get("devices", False),
            host=str(listen.get("host", "127.0.0.1")),
            port=port,
            ready_file=str(ready_file) if ready_file is not None else None,
            limits=Limits.parse(_mapping(raw, "limits", {})),
            key_service=service,
            pool=pool,
            ledger=LedgerConfig.parse(_mapping(raw, "ledger", {})) if "ledger" in raw else None,
            weights=weights,
        )

    def measured(self) -> bytes:
        """Canonical JSON of all settings that change what happens to a prompt."""
        engine = {
            one.name: _canonical(getattr(self.engine, one.name))
            for one in fields(EngineSpec)
            if one.name not in _UNMEASURED_ENGINE
        }
        engine["mmproj"] = self.engine.mmproj is not None
        limits = {one.name: getattr(self.limits, one.name) for one in fields(Limits)}
        document = {"v": "node-config/1", "platform": self.platform, "engine": engine, "limits": limits}
        if self.key_service is not None:
            document["key_service"] = {"policy_sha256": self.key_service.policy.digest}
        if self.pool is not None:
            document["pool"] = {"tenant": self.pool.tenant, "ring": self.pool.ring, "key": self.pool.key}
        if self.weights is not None:
            document["weights"] = self.weights.measured()
        return encode(document)

    @property
    def config_sha256(self) -> str:
        """64 hex digits over `measured()`."""
        return hashlib.sha256(self.measured()).hexdigest()


def _engine(raw: Mapping[str, Any], weights: WeightsConfig | None) -> EngineSpec:
    """The engine's settings. With encrypted weights its files are not on this disk: `weights` says what they are."""
    if weights is None:
        return EngineSpec.parse(raw)
    store = {"llamacpp": "memfd", "openai-upstream": "tmpfs"}.get(str(raw.get("kind")))
    if store != weights.store or {"path", "mmproj"} & set(raw):
        raise LocalError(
            "engine and encrypted weights do not fit",
            code="weights-config",
            hint="llamacpp with the store memfd, openai-upstream with tmpfs; engine.path and engine.mmproj left out",
        )
    files = {"path": weights.path} | ({"mmproj": weights.mmproj_file} if weights.mmproj_file else {})
    return EngineSpec.parse({**raw, **files})


def _canonical(value: Any) -> Any:
    """Canonical JSON has neither null nor fractions."""
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else (str(value) if isinstance(value, int) and value < 0 else value)


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isascii() or not value.isprintable():
        raise LocalError(f"{name} is missing or has the wrong form", code="config-value")
    return value


def _url(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name.rpartition(".")[2])
    if not isinstance(value, str) or not value.startswith(("http://", "https://")) or len(value) > 2048:
        raise LocalError(f"{name} is no http address", code="config-value")
    return value.rstrip("/")


def _path(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and (not isinstance(value, str) or not value or "\0" in value):
        raise LocalError(f"platform.{name} is no path", code="config-value")
    return value


def _mapping(raw: Mapping[str, Any], name: str, default: dict[str, Any]) -> dict[str, Any]:
    value = raw.get(name, default)
    if not isinstance(value, dict):
        raise LocalError(f"{name} is no object", code="config-value")
    return value
