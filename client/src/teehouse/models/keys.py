# SPDX-License-Identifier: Apache-2.0
"""The two keys of encrypted weights on this machine: the data key that opens them, the publisher's key that signs them.

A data key file holds 32 bytes: raw (how `new_data_key` writes them, and `teehouse keys import` reads them), as 64 hex
digits, or in base64. It must be readable by its owner only. A publisher's key is an Ed25519 private key in PEM.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.weights.chunks import DATA_KEY_SIZE
from teehouse_core.weights.signing import PK_SIZE
from teehouse_core.wire.canonical import b64u, unb64u

__all__ = [
    "fingerprint",
    "new_data_key",
    "new_publisher_key",
    "publisher_pk",
    "read_data_key",
    "read_publisher_key",
    "write_secret",
]

_MAX_KEY_FILE = 4096  # bytes


def read_data_key(path: Path) -> bytes:
    """32 bytes. Raises LocalError `key-file*`."""
    data = _read_secret(path)
    if len(data) == DATA_KEY_SIZE:
        return data
    try:
        text = data.decode("ascii").strip()
        key = bytes.fromhex(text) if len(text) == 2 * DATA_KEY_SIZE else _base64(text)
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != DATA_KEY_SIZE:
        raise LocalError(f"{path} holds no data key", code="key-file-form", hint="32 bytes: raw, as hex, or in base64")
    return key


def new_data_key(path: Path) -> bytes:
    """A new data key, in a new file of mode 0600. Raises LocalError `key-file-exists`."""
    key = secrets.token_bytes(DATA_KEY_SIZE)
    write_secret(path, key)
    return key


def read_publisher_key(path: Path) -> Ed25519PrivateKey:
    """The key that signs manifests. Raises LocalError `key-file*`."""
    try:
        key = serialization.load_pem_private_key(_read_secret(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise LocalError(f"{path} holds no Ed25519 private key in PEM", code="key-file-form")
    return key


def new_publisher_key(path: Path) -> Ed25519PrivateKey:
    """A new signing key, in a new file of mode 0600. Raises LocalError `key-file-exists`."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_secret(path, pem)
    return key


def publisher_pk(text: str) -> bytes:
    """A publisher's public key: 43 characters of base64url, or a PEM file. Raises LocalError `publisher-form`."""
    try:
        return unb64u(text, PK_SIZE)
    except TeehouseError:
        pass
    try:
        pem = Path(text).read_bytes()[:_MAX_KEY_FILE]
        public = (
            serialization.load_pem_private_key(pem, None).public_key()
            if b"PRIVATE KEY" in pem
            else serialization.load_pem_public_key(pem)
        )
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise LocalError(
            "this is no publisher's key",
            code="publisher-form",
            hint="43 characters of base64url, as `teehouse model inspect` shows them, or a PEM file",
        )
    return public.public_bytes_raw()


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600, durably. Raises LocalError `key-file-exists`, `file-unwritable`."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise LocalError(
            f"{path} exists; a key is never overwritten", code="key-file-exists", hint="use it, or name another file"
        ) from None
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from None


def fingerprint(key: Ed25519PrivateKey) -> str:
    """The public key as texts and configurations name it."""
    return b64u(key.public_key().public_bytes_raw())


def _read_secret(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_KEY_FILE)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="key-file") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise LocalError(f"others may read {path}", code="key-file-open", hint=f"chmod 600 {path}")
    return data


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=_alphabet(text))
    except binascii.Error:
        return b""


def _alphabet(text: str) -> bytes:
    return b"-_" if "-" in text or "_" in text else b"+/"
