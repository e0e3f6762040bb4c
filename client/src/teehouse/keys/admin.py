# SPDX-License-Identifier: Apache-2.0
"""Admin keys: Ed25519 private keys in PEM files of mode 0600, held by people of the tenant and by nobody else.

Whoever holds enough of them commands the tenant's rings (KEYS §1); the platform never sees one.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from teehouse_core.errors import LocalError
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.commands import ADMIN_NAME, AdminKey

__all__ = ["Admin", "admin_of", "create_admin_key", "format_admin", "load_admin", "load_admin_key", "parse_admin"]

MAX_KEY_FILE: Final = 16 * 1024  # bytes
_PREFIX: Final = "th-admin-"
_TITLE: Final = "Teehouse admin key: "  # before the PEM block, where RFC 7468 §2 allows text


@dataclass(frozen=True, slots=True)
class Admin:
    """One admin who acts on this machine."""

    key: Ed25519PrivateKey = field(repr=False)
    name: str = ""

    @property
    def public(self) -> AdminKey:
        """As admin sets list it."""
        return admin_of(self.key, self.name)


def create_admin_key(path: Path, *, passphrase: str | None = None, name: str = "") -> Ed25519PrivateKey:
    """Make a key and write it to a file that must not exist yet; `name` stands in the file in clear.

    Raises `LocalError` (`admin-key-exists`, `admin-name`, `file-unwritable`).
    """
    if not ADMIN_NAME.fullmatch(name):
        raise LocalError("this is no name for an admin", code="admin-name", hint="at most 64 characters of plain ASCII")
    key = Ed25519PrivateKey.generate()
    wrap: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode("utf-8")) if passphrase else NoEncryption()
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, wrap)
    title = f"{_TITLE}{name}\n".encode("ascii") if name else b""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(title + pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise LocalError(
            f"{path} exists", code="admin-key-exists", hint="an admin key is never overwritten; choose another file"
        ) from None
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None
    return key


def load_admin_key(path: Path, *, passphrase: str | None = None) -> Ed25519PrivateKey:
    """The key alone. Raises as `load_admin`."""
    return load_admin(path, passphrase=passphrase).key


def load_admin(path: Path, *, passphrase: str | None = None) -> Admin:
    """Read an admin's file.

    Raises `LocalError`: `file-unreadable`, `admin-key-open`, `admin-key`, `admin-passphrase`.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file-unreadable") from None
    if mode & 0o077:
        raise LocalError(
            f"others on this machine may read {path}", code="admin-key-open", hint=f"chmod 600 {path}, if none did"
        )
    try:
        key = load_pem_private_key(data, passphrase.encode("utf-8") if passphrase else None)
    except TypeError:
        hint = "it is encrypted: set TEEHOUSE_ADMIN_PASSPHRASE" if not passphrase else "it has no passphrase"
        raise LocalError(f"cannot open {path}", code="admin-passphrase", hint=hint) from None
    except ValueError:
        hint = "a wrong passphrase, or no PEM key; `teehouse keys admin new` makes one"
        raise LocalError(f"cannot open {path}", code="admin-key", hint=hint) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise LocalError(f"{path} is no Ed25519 key", code="admin-key", hint="`teehouse keys admin new` makes one")
    return Admin(key, _name_in(data))


def _name_in(data: bytes) -> str:
    """What stands before the key as its owner's name; nothing else is made of it."""
    first = data.split(b"\n", 1)[0].decode("ascii", "replace")
    name = first.removeprefix(_TITLE) if first.startswith(_TITLE) else ""
    return name if ADMIN_NAME.fullmatch(name) else ""


def admin_of(key: Ed25519PrivateKey, name: str = "") -> AdminKey:
    """The public half, as admin sets list it."""
    return AdminKey(key.public_key().public_bytes_raw(), name)


def format_admin(admin: AdminKey) -> str:
    """`th-admin-<b64u>[:name]`: what a person sends to whoever makes the tenant."""
    return _PREFIX + b64u(admin.pk) + (f":{admin.name}" if admin.name else "")


def parse_admin(text: str) -> AdminKey:
    """Raises `LocalError` (`admin-public`)."""
    body, _, name = text.strip().partition(":")
    try:
        if not body.startswith(_PREFIX) or not ADMIN_NAME.fullmatch(name):
            raise ValueError
        return AdminKey(unb64u(body.removeprefix(_PREFIX), 32), name)
    except Exception:
        raise LocalError(
            "this is no admin's public key", code="admin-public", hint="`teehouse keys admin show FILE` prints it"
        ) from None
