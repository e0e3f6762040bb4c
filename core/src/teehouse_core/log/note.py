# SPDX-License-Identifier: Apache-2.0
"""Signed notes and verifier keys (C2SP signed-note v1). Form only: `signing` verifies.

A note's text means nothing until a signature by a known key has verified.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.text import b64, decode, lines_of, unb64

__all__ = [
    "COSIGNATURE_V1",
    "ED25519",
    "MAX_NOTE",
    "MAX_SIGNATURES",
    "Note",
    "Signature",
    "VerifierKey",
    "key_id",
    "parse_signatures",
]

ED25519, COSIGNATURE_V1 = 0x01, 0x04  # signature types
MAX_NOTE = 64 * 1024  # bytes; a checkpoint with 16 post-quantum cosignatures has about 55 KiB
MAX_SIGNATURES = 64  # C2SP asks for 16 at least
MAX_NAME = 256  # characters
_DASH = "— "  # U+2014 and a space begin a signature line
_ID_SIZE = 4  # bytes
_KEY_SIZE = 32  # bytes of an Ed25519 public key
_HEX_ID = re.compile(r"[0-9a-f]{8}")


def _check_name(name: str) -> str:
    if not 0 < len(name) <= MAX_NAME or "+" in name or not name.isprintable() or any(c.isspace() for c in name):
        raise MalformedError("not a key name", code="key-name")
    return name


def key_id(name: str, alg: int, key: bytes) -> bytes:
    """SHA-256(name ‖ 0A ‖ type ‖ public key)[:4]."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + bytes([alg]) + key).digest()[:_ID_SIZE]


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who says to have signed, and the bytes that must show it."""

    name: str
    key_id: bytes
    data: bytes

    def line(self) -> str:
        return f"{_DASH}{self.name} {b64(self.key_id + self.data)}\n"

    @classmethod
    def parse(cls, line: str) -> Signature:
        """One line without its end. Raises MalformedError."""
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or not space:
            raise MalformedError("not a signature line", code="signature-line")
        data = unb64(encoded)
        if len(data) <= _ID_SIZE:
            raise MalformedError("not a signature line", code="signature-line")
        return cls(_check_name(name), data[:_ID_SIZE], data[_ID_SIZE:])


def parse_signatures(data: bytes) -> tuple[Signature, ...]:
    """One to MAX_SIGNATURES signature lines: the answer of a witness. Raises MalformedError."""
    return _signatures(decode(data, MAX_NOTE))


def _signatures(text: str) -> tuple[Signature, ...]:
    lines = lines_of(text)
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError("too many signatures", code="too-many-signatures")
    return tuple(Signature.parse(line) for line in lines)


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends with a newline, and its signature lines in their order."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Strict parse of at most MAX_NOTE bytes with at least one signature line. Raises MalformedError."""
        text, blank, signatures = decode(data, MAX_NOTE).rpartition("\n\n")
        if not blank:
            raise MalformedError("no signatures", code="note-form")
        return cls(text + "\n", _signatures(signatures))

    def to_bytes(self) -> bytes:
        """Text, blank line, signature lines. Raises LocalError when the text cannot stand in a note."""
        if not self.text.endswith("\n") or not self.signatures:
            raise LocalError("a note needs a text that ends with a newline, and a signature", code="note-form")
        return (self.text + "\n" + "".join(item.line() for item in self.signatures)).encode("utf-8")

    def add(self, *signatures: Signature) -> Note:
        """With more signatures; those that are there already are not repeated."""
        fresh = tuple(item for item in dict.fromkeys(signatures) if item not in self.signatures)
        return Note(self.text, self.signatures + fresh)

    def by(self, key: VerifierKey) -> tuple[Signature, ...]:
        """The signatures that claim to be by `key`."""
        return tuple(item for item in self.signatures if (item.name, item.key_id) == (key.name, key.key_id))


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as it is pinned: `name+hex(key id)+base64(type ‖ key)`; only Ed25519 types are taken."""

    name: str
    alg: int
    key: bytes

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.alg not in (ED25519, COSIGNATURE_V1) or len(self.key) != _KEY_SIZE:
            raise MalformedError("not an Ed25519 key or cosignature key", code="verifier-key")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Strict parse; the key id must be that of name, type and key. Raises MalformedError."""
        name, _, rest = text.partition("+")
        hexed, plus, encoded = rest.partition("+")
        if not plus or not _HEX_ID.fullmatch(hexed):
            raise MalformedError("not a verifier key", code="verifier-key")
        data = unb64(encoded)
        if not data:
            raise MalformedError("not a verifier key", code="verifier-key")
        key = cls(name, data[0], data[1:])
        if key.key_id.hex() != hexed:
            raise MalformedError("the key id is not this key's", code="key-id")
        return key

    @property
    def key_id(self) -> bytes:
        return key_id(self.name, self.alg, self.key)

    @property
    def text(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([self.alg]) + self.key)}"
