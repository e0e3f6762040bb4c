# SPDX-License-Identifier: Apache-2.0
"""The evidence bundle: one JSON file with everything a Verifier needs, parsed once into frozen values.

Form: EVIDENCE §1 and spec/03-evidence.md. Parsing checks shape, sizes and the keyset's own rules; it verifies no
signature and compares nothing with a policy. Unknown platform types parse, so that they appraise to "not supported"
instead of looking like a broken file. Unknown members are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.collateral import IntelCollateral
from teehouse_core.evidence.jsontext import b64_text, load_object, unb64_text
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.evidence.replay import MAX_CONTENT, MAX_ENTRIES, WorkloadEntry, event_digest, valid_event
from teehouse_core.wire import binding, canonical
from teehouse_core.wire.keyset import Keyset

__all__ = [
    "CHALLENGE_INTERACTIVE",
    "CHALLENGE_KEY_RELEASE",
    "CHALLENGE_LEDGER",
    "MAX_BUNDLE",
    "VERSION",
    "Bundle",
    "Collateral",
    "Device",
    "PlatformReport",
    "build_bundle",
    "device_entry",
    "log_entry",
]

VERSION: Final = "evidence/1"
MAX_BUNDLE: Final = 16 * 1024 * 1024  # bytes; 256 group members of about 60 KiB
MAX_REPORT: Final = 256 * 1024  # bytes; the largest kernel report blob is 32 KiB
MAX_EVENT_LOG: Final = 4 * 1024 * 1024  # bytes; firmware reserves 64 KiB to 1 MiB
MAX_CHECKPOINT: Final = 64 * 1024  # bytes of a signed ledger checkpoint with cosignatures
MAX_INCLUSION: Final = 256 * 1024  # bytes of a tlog-proof with the entry and a checkpoint in it
MAX_CHAIN: Final = 64 * 1024  # bytes of one device's PEM chain
MAX_CHAIN_CERTIFICATES: Final = 8  # a device chain has five, with its root
MAX_DEVICES: Final = 64  # 8 GPUs and 4 switches are a full machine
MAX_MEMBERS: Final = 256  # PROTOCOL §2
MAX_AUX: Final = 32  # members of `aux`
MAX_NAME: Final = 256  # characters of a name

CHALLENGE_INTERACTIVE: Final = 1
CHALLENGE_LEDGER: Final = 2
CHALLENGE_KEY_RELEASE: Final = 3

_DEVICE_TYPES: Final = {"nvidia-gpu": binding.GPU, "nvidia-nvswitch": binding.NVSWITCH}
_TOP_REQUIRED: Final = frozenset({"v", "endpoint", "node", "keyset", "challenge", "platform", "workload_log"})
_TOP: Final = _TOP_REQUIRED | {"devices", "members", "collateral", "release"}


@dataclass(frozen=True, slots=True)
class PlatformReport:
    """What the machine signed. `type` may be one this version cannot appraise."""

    type: str
    report: bytes = field(repr=False)
    event_log: bytes | None = field(default=None, repr=False)
    aux: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Device:
    """One device's evidence; `chain` is the DER of its `certificates`, leaf first, joined."""

    type: str
    arch: str
    report: bytes = field(repr=False)
    chain: bytes = field(repr=False)
    certificates: tuple[x509.Certificate, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Collateral:
    """Stapled endorsements by vendor."""

    intel: IntelCollateral | None = None
    amd: AmdCollateral | None = None
    nvidia: NvidiaCollateral | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """One parsed bundle. `raw` are the bytes as received; `keyset.raw` is the canonical encoding of its member."""

    raw: bytes = field(repr=False)
    endpoint: str
    node: str
    keyset: Keyset
    challenge_kind: int
    challenge_value: bytes
    cosigned_checkpoint: bytes | None
    keyset_inclusion: bytes | None
    platform: PlatformReport
    devices: tuple[Device, ...]
    workload_log: tuple[WorkloadEntry, ...]
    collateral: Collateral
    member_count: int
    has_release: bool

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the bytes as received."""
        return hashlib.sha256(self.raw).hexdigest()

    @property
    def report_data(self) -> bytes:
        """The 64 bytes the platform must have signed for this keyset, these devices and this challenge."""
        devices = binding.devices_digest([(_DEVICE_TYPES[d.type], d.report, d.chain) for d in self.devices])
        challenge = binding.challenge(self.challenge_kind, self.challenge_value)
        return binding.report_data(self.keyset.digest, devices, challenge)

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Parse bundle bytes (≤ `MAX_BUNDLE`). Raises `MalformedError`, whatever the bytes are."""
        top = load_object(data, limit=MAX_BUNDLE, what="bundle")
        _members(top, _TOP, _TOP_REQUIRED, "bundle")
        if _text(top, "v") != VERSION:
            raise MalformedError("not an evidence/1 bundle", code="bundle-version")
        asked = _object(top, "challenge")
        kind, value = _challenge(asked)
        return cls(
            raw=data,
            endpoint=_text(top, "endpoint"),
            node=_text(top, "node"),
            keyset=_keyset(_object(top, "keyset")),
            challenge_kind=kind,
            challenge_value=value,
            cosigned_checkpoint=_maybe(asked, "cosigned_checkpoint", MAX_CHECKPOINT),
            keyset_inclusion=_maybe(asked, "keyset_inclusion", MAX_INCLUSION),
            platform=_platform(_object(top, "platform")),
            devices=tuple(_device(item) for item in _list(top, "devices", MAX_DEVICES)),
            workload_log=tuple(_entry(item) for item in _list(top, "workload_log", MAX_ENTRIES)),
            collateral=_collateral(_object(top, "collateral") if "collateral" in top else {}),
            member_count=len(_list(top, "members", MAX_MEMBERS)),
            has_release=bool(_object(top, "release")) if "release" in top else False,
        )


def build_bundle(
    *,
    endpoint: str,
    node: str,
    keyset: bytes,
    challenge_kind: int,
    challenge_value: bytes,
    platform_type: str,
    report: bytes,
    workload_log: Sequence[Mapping[str, str]],
    collateral: Mapping[str, Any],
    event_log: bytes | None = None,
    aux: Mapping[str, str] | None = None,
    devices: Sequence[Mapping[str, str]] = (),
    ledger: Mapping[str, bytes] | None = None,
) -> bytes:
    """Write the bundle of a node. `keyset` is its canonical encoding, embedded unchanged in meaning.

    `devices` are members as `device_entry` makes them, in the order that the devices digest has. `ledger` are further
    members of the challenge: `cosigned_checkpoint`, `keyset_inclusion`.

    Checks little: whoever reads it parses it. Raises `LocalError` when `keyset` is not JSON.
    """
    try:
        document = json.loads(keyset)
    except ValueError:
        raise LocalError("keyset is not JSON", code="keyset") from None
    platform: dict[str, Any] = {"type": platform_type, "report": b64_text(report)}
    if event_log is not None:
        platform["event_log"] = b64_text(event_log)
    platform["aux"] = dict(aux or {})
    bundle = {
        "v": VERSION,
        "endpoint": endpoint,
        "node": node,
        "keyset": document,
        "challenge": {
            "kind": challenge_kind,
            "value": b64_text(challenge_value),
            **{name: b64_text(value) for name, value in (ledger or {}).items()},
        },
        "platform": platform,
        "devices": [dict(device) for device in devices],
        "workload_log": [dict(entry) for entry in workload_log],
        "collateral": dict(collateral),
    }
    return json.dumps(bundle, separators=(",", ":")).encode("utf-8")


def log_entry(event: str, content: bytes) -> dict[str, str]:
    """One `workload_log` member: event, SHA-384 digest in hex, content in base64. Raises `LocalError`."""
    if len(content) > MAX_CONTENT:
        raise LocalError(f"content of {event} is over {MAX_CONTENT} bytes", code="log-content")
    return {"event": event, "digest": event_digest(event, content).hex(), "content": b64_text(content)}


def device_entry(kind: str, arch: str, report: bytes, chain_pem: str) -> dict[str, str]:
    """One `devices` member; `kind` is `nvidia-gpu` or `nvidia-nvswitch`, `chain_pem` leaf first."""
    return {"type": kind, "arch": arch, "report": b64_text(report), "chain": chain_pem}


def _challenge(value: Mapping[str, Any]) -> tuple[int, bytes]:
    _members(value, {"kind", "value", "cosigned_checkpoint", "keyset_inclusion"}, {"kind", "value"}, "challenge")
    kind = value["kind"]
    if type(kind) is not int or kind not in (CHALLENGE_INTERACTIVE, CHALLENGE_LEDGER, CHALLENGE_KEY_RELEASE):
        raise MalformedError("challenge kind is not 1, 2 or 3", code="challenge-kind")
    data = _b64(value, "value", MAX_CHECKPOINT)
    size = {CHALLENGE_INTERACTIVE: 32, CHALLENGE_KEY_RELEASE: 64}.get(kind)
    if not data or (size is not None and len(data) != size):
        raise MalformedError("challenge value has the wrong size", code="challenge-value")
    return kind, data


def _maybe(value: Mapping[str, Any], name: str, limit: int) -> bytes | None:
    """An optional base64 member; what another party's bytes mean is not judged here."""
    return _b64(value, name, limit) if name in value else None


def _keyset(value: Mapping[str, Any]) -> Keyset:
    try:
        raw = canonical.encode(value)
    except TeehouseError as error:  # outside the canonical subset: the sender's fault here, not ours
        raise MalformedError("keyset is not canonical JSON", code=error.code) from None
    return Keyset.parse(raw)


def _platform(value: Mapping[str, Any]) -> PlatformReport:
    _members(value, {"type", "report", "event_log", "aux"}, {"type", "report"}, "platform")
    aux = _object(value, "aux") if "aux" in value else {}
    if len(aux) > MAX_AUX or not all(isinstance(item, str) for item in aux.values()):
        raise MalformedError(f"aux is not at most {MAX_AUX} texts", code="aux")
    event_log = _b64(value, "event_log", MAX_EVENT_LOG) if "event_log" in value else None
    return PlatformReport(_text(value, "type"), _b64(value, "report", MAX_REPORT), event_log, dict(aux))


def _device(value: Any) -> Device:
    if not isinstance(value, dict):
        raise MalformedError("a device is not an object", code="wrong-type")
    _members(value, {"type", "report", "chain", "arch"}, {"type", "report", "chain", "arch"}, "device")
    kind = _text(value, "type")
    if kind not in _DEVICE_TYPES:
        raise MalformedError("unknown device type", code="device-type")
    pem = value["chain"]
    if not isinstance(pem, str) or len(pem) > MAX_CHAIN:
        raise MalformedError("device chain is not a short text", code="device-chain")
    try:
        chain = x509.load_pem_x509_certificates(pem.encode("utf-8"))
        der = b"".join(c.public_bytes(Encoding.DER) for c in chain)
    except (ValueError, x509.InvalidVersion):
        raise MalformedError("device chain is not PEM", code="device-chain") from None
    if not 1 <= len(chain) <= MAX_CHAIN_CERTIFICATES:
        raise MalformedError(f"device chain has {len(chain)} certificates", code="device-chain")
    return Device(kind, _text(value, "arch"), _b64(value, "report", MAX_REPORT), der, tuple(chain))


def _entry(value: Any) -> WorkloadEntry:
    if not isinstance(value, dict):
        raise MalformedError("a log entry is not an object", code="wrong-type")
    _members(value, {"event", "digest", "content"}, {"event", "digest", "content"}, "log entry")
    event, digest = _text(value, "event"), _text(value, "digest")
    if not valid_event(event):
        raise MalformedError("a log entry has no event name", code="event-name")
    if len(digest) != 96 or digest.strip("0123456789abcdef"):
        raise MalformedError("a log digest is not 96 hex digits", code="event-digest")
    return WorkloadEntry(event, bytes.fromhex(digest), _b64(value, "content", MAX_CONTENT))


def _collateral(value: Mapping[str, Any]) -> Collateral:
    _members(value, {"intel", "amd", "nvidia"}, set(), "collateral")
    intel = IntelCollateral.parse(_object(value, "intel")) if "intel" in value else None
    nvidia = NvidiaCollateral.parse(_object(value, "nvidia")) if "nvidia" in value else None
    amd = AmdCollateral.parse(_object(value, "amd")) if "amd" in value else None
    return Collateral(intel, amd, nvidia)


def _members(value: Mapping[str, Any], known: Set[str], required: Set[str], what: str) -> None:
    names = set(value)
    if not names <= known:
        raise MalformedError(f"{what} has unknown members", code="unknown-member")
    if not required <= names:
        raise MalformedError(f"{what} lacks members", code="missing-member")


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    item = value[name]
    if not isinstance(item, dict):
        raise MalformedError(f"{name} is not an object", code="wrong-type")
    return item


def _list(value: Mapping[str, Any], name: str, limit: int) -> list[Any]:
    items = value.get(name, [])
    if not isinstance(items, list) or len(items) > limit:
        raise MalformedError(f"{name} is not a list of at most {limit}", code="wrong-type")
    return items


def _text(value: Mapping[str, Any], name: str) -> str:
    item = value[name]
    if not isinstance(item, str) or len(item) > MAX_NAME or not (item.isascii() and item.isprintable()):
        raise MalformedError(f"{name} is not a short printable text", code="wrong-type")
    return item


def _b64(value: Mapping[str, Any], name: str, limit: int) -> bytes:
    item = value[name]
    if not isinstance(item, str):
        raise MalformedError(f"{name} is not base64", code="base64")
    return unb64_text(item, limit=limit, what=name)
