# SPDX-License-Identifier: Apache-2.0
"""Whom an auditor believes: log keys and witnesses, pinned in a file, and what a checkpoint must show under them.

    {"v": "audit-pins/1", "log_keys": ["<origin>+<id>+<key>", …], "quorum": 2,
     "witnesses": [{"vkey": "<name>+<id>+<key>", "operator": "…"}, …]}

A log key is a `sign` key of the key service's keyset under the name of the log's origin: take it from an appraised
service. Quorum 0 is shown as *no witness*.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teehouse.audit.errors import LogRefused
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.errors import LogQuorumError, LogSignatureError
from teehouse_core.log.note import ED25519, Note, VerifierKey
from teehouse_core.log.quorum import QuorumResult, WitnessPolicy
from teehouse_core.log.signing import verify_signature
from teehouse_core.wire.fields import Fields

__all__ = ["Head", "Pins", "is_origin_of"]

PINS: Final = "audit-pins/1"
MAX_FILE: Final = 256 * 1024  # bytes
MAX_KEYS: Final = 1024


@dataclass(frozen=True, slots=True)
class Head:
    """A checkpoint whose log signature and quorum were verified; made by `Pins.authenticate` alone."""

    checkpoint: Checkpoint
    note: bytes
    quorum: QuorumResult

    @property
    def size(self) -> int:
        return self.checkpoint.size

    def to_json(self) -> dict[str, Any]:
        return {
            "origin": self.checkpoint.origin,
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "witnesses": list(self.quorum.names),
            "operators": list(self.quorum.operators),
            "quorum": self.quorum.quorum,
            "completed_at": self.quorum.completed_at,
        }


def is_origin_of(origin: str, log: str) -> bool:
    """Whether a log that the ledger names so (`public`, `tenant-<id>`) may have this origin."""
    return origin.endswith("/" + log.replace("tenant-", "tenant/", 1))


@dataclass(frozen=True, slots=True)
class Pins:
    """Log keys by origin, and the witnesses."""

    log_keys: tuple[VerifierKey, ...]
    witnesses: WitnessPolicy

    def origin_of(self, log: str) -> str:
        """The pinned origin of the log that a ledger names so. Raises `LocalError` when it is not exactly one."""
        origins = {key.name for key in self.log_keys if is_origin_of(key.name, log)}
        if len(origins) != 1:
            raise LocalError(
                f"{len(origins)} origins are pinned for {log}",
                code="audit-pins",
                hint="Pin the keys of one log of that name, whose origin ends with /public or /tenant/<id>.",
            )
        return origins.pop()

    def authenticate(self, data: bytes, *, origin: str | None = None) -> Head:
        """Verify a checkpoint, of `origin` or of any pinned one. Raises `LogRefused`, `MalformedError`."""
        note = Note.parse(data)
        checkpoint = Checkpoint.parse(note.text)
        if origin is not None and checkpoint.origin != origin:
            raise LogRefused(f"a checkpoint of {checkpoint.origin} instead of {origin}", code="log-origin")
        keys = [key for key in self.log_keys if key.name == checkpoint.origin]
        if not keys:
            raise LogRefused(
                f"no key is pinned for {checkpoint.origin}",
                code="log-origin",
                hint="Pin the log's key, from an appraised key service; or this is another log than it should be.",
            )
        known = [key for key in keys if note.by(key)]
        try:
            for key in known or keys:  # one that is missing is told; each that is there must verify
                verify_signature(note, key)
            return Head(checkpoint, data, self.witnesses.require(note))
        except (LogSignatureError, LogQuorumError) as error:
            raise LogRefused(error.message, code=error.code, hint=error.hint) from None

    def to_json(self) -> dict[str, Any]:
        return {"v": PINS, "log_keys": [key.text for key in self.log_keys], **self.witnesses.to_json()}

    @classmethod
    def read(cls, value: Any) -> Pins:
        """From parsed JSON. Raises `MalformedError`, `LocalError`."""
        top = Fields(value, "pins")
        top.one_of("v", PINS)
        keys = tuple(VerifierKey.parse(text) for text in _texts(top.items("log_keys", 1, MAX_KEYS)))
        if any(key.alg != ED25519 for key in keys):
            raise MalformedError("a log key is of a witness's type", code="verifier-key")
        witnesses = WitnessPolicy.read(
            {"quorum": top.take("quorum", int), "witnesses": top.items("witnesses", 0, MAX_KEYS)}
        )
        top.done()
        return cls(keys, witnesses)

    @classmethod
    def load(cls, path: Path) -> Pins:
        """From a file. Raises `LocalError` (`file-unreadable`, `audit-pins`)."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
        try:
            if len(data) > MAX_FILE:
                raise MalformedError("too large")
            return cls.read(json.loads(data))
        except (ValueError, RecursionError, TeehouseError) as error:
            why = error.message if isinstance(error, TeehouseError) else "not JSON"
            raise LocalError(
                f"{path} holds no pins: {why}",
                code="audit-pins",
                hint='{"v":"audit-pins/1","log_keys":[…],"quorum":2,"witnesses":[{"vkey","operator"}]}',
            ) from None


def _texts(items: list[Any]) -> list[str]:
    if not all(type(item) is str for item in items):
        raise MalformedError("a log key is no text", code="wrong-type")
    return items
