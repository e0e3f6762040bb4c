# SPDX-License-Identifier: Apache-2.0
"""Records sealed for a store that nobody trusts: AES-256-GCM under a key of their own, derived from the root key.

    box = 01 ‖ salt(32) ‖ ciphertext ‖ tag(16)
    key(32) ‖ nonce(12) = HKDF-SHA256(root, salt, L("tks box") ‖ label ‖ 00 ‖ SHA-256(context), 44)
    aad = L("tks box") ‖ label ‖ 00 ‖ context

The salt is random, and key and nonce follow from it. Why not a nonce from the record's index: the store can be rolled
back, and a service that was killed before it wrote may seal another record at the same index, so an index is used
twice; with AES-GCM that gives both plaintexts and the authentication key away. Why not random 96-bit nonces under one
key: that holds for 2^32 records, this for more than anybody writes. `label` says what kind of record it is and
`context` which one, so no box opens in another's place.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teehouse_core.errors import LocalError
from teehouse_core.wire.canonical import encode
from teehouse_core.wire.labels import L
from teehouse_enclave.keys.errors import StorageError

__all__ = ["OVERHEAD", "ROOT_SIZE", "Box", "Root", "context"]

ROOT_SIZE: Final = 32  # bytes
OVERHEAD: Final = 1 + 32 + 16  # bytes that a box is longer than its content
_VERSION: Final = b"\x01"
_SALT: Final = 32  # bytes


def context(*parts: str) -> bytes:
    """Texts joined so that no two lists give the same bytes (canonical JSON)."""
    return encode(list(parts))


class Root:
    """The root key: it derives and is never handed out. No copy, no text form."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != ROOT_SIZE:
            raise LocalError(f"a root key has {ROOT_SIZE} bytes", code="root-size")
        self._secret = secret

    def derive(self, label: str, info: bytes = b"", *, salt: bytes = b"", length: int = 32) -> bytes:
        """HKDF-SHA256 for one purpose: the same bytes at each start."""
        return HKDF(hashes.SHA256(), length, salt or None, L("tks " + label) + info).derive(self._secret)

    def __repr__(self) -> str:
        return "Root()"

    def __reduce__(self) -> str:
        raise LocalError("a root key is not copied", code="root-copy")


class Box:
    """Seals and opens records under one root. `random` is an argument for tests of the layout."""

    def __init__(self, root: Root, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._root = root
        self._random = random

    def seal(self, label: str, where: bytes, plaintext: bytes) -> bytes:
        """One box. `where` (see `context`) must be known to whoever opens it."""
        salt = self._random(_SALT)
        cipher, nonce, aad = self._cipher(label, where, salt)
        return _VERSION + salt + cipher.encrypt(nonce, plaintext, aad)

    def open(self, label: str, where: bytes, sealed: bytes) -> bytes:
        """The content. Raises `StorageError` (`storage-corrupt`) when it is another's, or changed, or cut."""
        if len(sealed) < OVERHEAD or sealed[:1] != _VERSION:
            raise StorageError("storage-corrupt", f"a stored record ({label}) has an unknown form")
        cipher, nonce, aad = self._cipher(label, where, sealed[1 : 1 + _SALT])
        try:
            return cipher.decrypt(nonce, sealed[1 + _SALT :], aad)
        except InvalidTag:
            text = f"a stored record ({label}) does not authenticate"
            raise StorageError("storage-corrupt", text, hint="another root key, or a changed store") from None

    def _cipher(self, label: str, where: bytes, salt: bytes) -> tuple[AESGCM, bytes, bytes]:
        name = label.encode("ascii") + b"\0"
        both = self._root.derive("box", name + hashlib.sha256(where).digest(), salt=salt, length=44)
        return AESGCM(both[:32]), both[32:], L("tks box") + name + where
