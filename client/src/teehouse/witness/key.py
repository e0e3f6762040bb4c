# SPDX-License-Identifier: Apache-2.0
"""The witness's key: one Ed25519 key and a name, in a file of mode 0600, in the form of Go's note package.

`PRIVATE+KEY+<name>+<hex key id>+<base64 of type ‖ seed>`, one line.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.note import COSIGNATURE_V1, VerifierKey
from teehouse_core.log.signing import cosigner_key
from teehouse_core.log.text import b64, unb64

__all__ = ["WitnessKey", "load_key", "make_key"]

_HEAD = "PRIVATE+KEY+"
_SEED = 32  # bytes
MAX_FILE = 1024  # bytes


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """Signs cosignatures and statements under `name`."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """What clients pin."""
        return cosigner_key(self.name, self.private.public_key())


def make_key(path: Path, name: str) -> WitnessKey:
    """Make a key and write it. Raises LocalError: a name no key can have, a file that exists or cannot be written."""
    key = WitnessKey(name, Ed25519PrivateKey.generate())
    try:
        vkey = key.verifier
    except MalformedError as error:
        raise LocalError("not a witness name", code="key-name", hint="a host name, e.g. witness.example/w1") from error
    line = f"{_HEAD}{name}+{vkey.key_id.hex()}+{b64(bytes([COSIGNATURE_V1]) + key.private.private_bytes_raw())}\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise LocalError(
            f"{path} exists already",
            code="file-exists",
            hint="a witness keeps its key; a new one has another path",
        ) from None
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from error
    return key


def load_key(path: Path) -> WitnessKey:
    """Read a key. Raises LocalError: no such file, one that others may read, one that holds no key."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        hint = "make it with: teehouse-witness init"
        raise LocalError(f"cannot read {path}: {error.strerror}", code="witness-key", hint=hint) from error
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077:
            raise LocalError(f"others may read {path}", code="witness-key", hint=f"chmod 600 {path}")
        data = file.read(MAX_FILE)
    try:
        name, hexed, encoded = data.decode("utf-8").strip().removeprefix(_HEAD).split("+", 2)
        raw = unb64(encoded)
        if not data.startswith(_HEAD.encode()) or len(raw) != 1 + _SEED or raw[0] != COSIGNATURE_V1:
            raise MalformedError("not a cosigner's key")
        key = WitnessKey(name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
        if key.verifier.key_id.hex() != hexed:
            raise MalformedError("the key id is not this key's")
    except (UnicodeDecodeError, ValueError, MalformedError):
        # (from None: the cause could quote the file)
        raise LocalError(f"{path} holds no witness key", code="witness-key") from None
    return key
