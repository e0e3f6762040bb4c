# SPDX-License-Identifier: Apache-2.0
"""What every command's handler works with: the call, its tools, and the parts that several handlers share."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import NAME_PATTERN, import_info
from teehouse_core.wire.fields import HEX32, HEX64, Fields
from teehouse_enclave.keys import algorithms
from teehouse_enclave.keys.algorithms import Material
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.fold import CommandMark, build_delta
from teehouse_enclave.keys.model import COMPAT, NO_END, Change, EntryDraft, Key, Ring, State, Version
from teehouse_enclave.keys.policy import COCO, DENY, ReleasePolicy
from teehouse_enclave.keys.vault import Vault, Where

__all__ = [
    "SEALED",
    "Call",
    "Sealed",
    "Tools",
    "arguments",
    "change",
    "existing",
    "named_key",
    "new_version",
    "opened",
    "policy_bytes",
    "read_sealed",
    "require",
    "ring_of",
    "shown",
]

SEALED: Final = "mlkem768x25519"  # the one algorithm whose keys stand in a sealed/1 keyset


@dataclass(frozen=True, slots=True)
class Tools:
    """What a command may need beside the state.

    `open_import(kid, info, sealed)` opens what was sealed to an HPKE key of the service's current keysets: None when
    there is no such key, MalformedError when it does not open. `read_slot(name)` reads the tenant's slot. RSA takes
    seconds, so whoever decides commands one after another hands in a `generate` that has made the key before.
    """

    vault: Vault
    open_import: Callable[[str, bytes, bytes], bytes | None]
    read_slot: Callable[[str], bytes | None]
    generate: Callable[[str], Material] = algorithms.generate


@dataclass(frozen=True, slots=True)
class Call:
    """One authorised request. `mark` is None and `payload` is clear key bytes for calls that nobody signed."""

    state: State
    ring: Ring | None
    op: str
    args: Mapping[str, Any] = field(repr=False)
    payload: bytes = field(repr=False)
    mark: CommandMark | None
    actors: tuple[str, ...]
    request_sha256: str
    now: int
    tools: Tools = field(repr=False)

    @property
    def signed(self) -> bool:
        return self.mark is not None


@contextmanager
def arguments(given: Mapping[str, Any]) -> Iterator[Fields]:
    """Arguments to read; what does not read is `bad-args`."""
    try:
        yield Fields(given, "args")
    except MalformedError as error:
        raise KeysError("bad-args", f"the arguments do not fit: {error.code}", hint=error.message) from None


def ring_of(call: Call) -> Ring:
    if call.ring is None:
        raise KeysError("bad-args", "a ring is missing")
    return call.ring


def existing(ring: Ring, name: str) -> Key:
    if name not in ring.keys:
        raise KeysError("unknown-key", "no such key")
    return ring.keys[name]


def named_key(call: Call, args: Fields) -> tuple[Ring, Key]:
    ring = ring_of(call)
    return ring, existing(ring, args.text("key", NAME_PATTERN))


def require(key: Key, *states: str) -> None:
    if key.state not in states:
        raise KeysError(
            "wrong-state", f"the key is {key.state}", hint=f"this needs a key that is {' or '.join(states)}"
        )


def policy_bytes(ring: Ring, given: bytes) -> bytes:
    """The policy's bytes; none means nobody."""
    policy = ReleasePolicy.parse(given) if given else DENY
    if policy.dialect == COCO and ring.usage != COMPAT:
        raise KeysError("bad-policy", "the dialect coco-aa is for rings of usage compat only")
    return policy.raw


@dataclass(frozen=True, slots=True)
class Sealed:
    kid: str
    payload_sha256: str
    public_sha256: str


def read_sealed(args: Fields) -> Sealed | None:
    """The three members about a sealed key; all "" when there is none."""
    names = ("hpke_kid", "payload_sha256", "public_sha256")
    values = [args.take(name, str) for name in names]
    if not any(values):
        return None
    if not all(p.fullmatch(v) for p, v in zip((HEX32, HEX64, HEX64), values, strict=True)):
        raise MalformedError("the members about the sealed key have the wrong form", code="wrong-form")
    return Sealed(*values)


def opened(call: Call, sealed: Sealed | None, name: str, algorithm: str) -> Material:
    """The imported key: a signed command carries it sealed to this service, an unsigned call brought it opened."""
    if not call.signed:
        return algorithms.read_key_bytes(algorithm, call.payload)
    if sealed is None:
        raise KeysError("bad-args", "no sealed key", hint="hpke_kid, payload_sha256 and public_sha256 say which")
    if not hmac.compare_digest(hashlib.sha256(call.payload).hexdigest(), sealed.payload_sha256):
        raise KeysError("import-mismatch", "the payload is not the one that was signed")
    info = import_info(call.state.tenant, ring_of(call).id, name, algorithm)
    try:
        clear = call.tools.open_import(sealed.kid, info, call.payload)
    except MalformedError:
        hint = "seal it for this tenant, ring, key and algorithm"
        raise KeysError("import-sealed", "the sealed key does not open", hint=hint) from None
    if clear is None:
        raise KeysError("unknown-keyset", "sealed to a key that is not in use", hint="appraise the service anew")
    material = algorithms.read_key_bytes(algorithm, clear)
    if not hmac.compare_digest(material.public_sha256, sealed.public_sha256):
        raise KeysError("import-mismatch", "the key is not the one that public_sha256 names")
    return material


def new_version(
    call: Call, key: str, number: int, material: Material, policy_sha256: str
) -> tuple[Version, dict[str, bytes]]:
    where: Where = (call.state.tenant, ring_of(call).id, key, number)
    wrapped, name, slot = call.tools.vault.wrap(where, material)
    version = Version(number, call.now, NO_END, material.public, material.public_sha256, policy_sha256, wrapped, name)
    return version, {name: slot}


def shown(key: Key, version: Version | None) -> dict[str, Any]:
    if version is None:
        return {"key": key.id, "version": 0, "algorithm": key.algorithm, "policy_sha256": key.policy_sha256}
    return {
        "key": key.id,
        "version": version.number,
        "algorithm": key.algorithm,
        "public": b64u(version.public),
        "public_sha256": version.public_sha256,
        "policy_sha256": version.policy_sha256,
    }


def change(
    call: Call,
    kind: str,
    body: Mapping[str, Any],
    result: Mapping[str, Any],
    *,
    ring: str = "",
    key: Key | None = None,
    version: Version | None = None,
    slots: Mapping[str, bytes] | None = None,
    policy_sha256: str = "",
) -> Change:
    entry = EntryDraft(
        op=call.op,
        decision="done",
        ring=ring or (call.ring.id if call.ring else ""),
        key=key.id if key else "",
        version=str(version.number) if version else "",
        actors=call.actors,
        policy_sha256=policy_sha256 or (key.policy_sha256 if key else ""),
        request_sha256=call.request_sha256,
        reason="compat, weak" if call.state.compat_account else "",
    )
    return Change(entry, build_delta(kind, body, call.mark), slots or {}, (), result)
