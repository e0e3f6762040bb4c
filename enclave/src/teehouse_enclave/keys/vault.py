# SPDX-License-Identifier: Apache-2.0
"""Key bytes at rest, in two halves, so that an append-only journal can forget (docs/adr/0015).

Each version has a random key of its own (KEK). The journal holds the key bytes sealed under the KEK; a *slot*, in a
small store that is not append-only, holds the KEK sealed under the root. Destroying a version removes the slot: what
the journal keeps for ever is then noise, also for this service and its root key. It says nothing about copies of the
slot that somebody made before; the ADR does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from teehouse_enclave.keys.algorithms import Material
from teehouse_enclave.keys.box import Box, Root, context
from teehouse_enclave.keys.errors import KeysError, StorageError
from teehouse_enclave.keys.model import Version

__all__ = ["Vault", "Where"]

_KEK: Final = 32  # bytes
_SLOT: Final = 16  # bytes of a slot's random name


Where = tuple[str, str, str, int]
"""tenant, ring, key, version number: what both halves are bound to."""


class Vault:
    """Wraps and unwraps versions. It keeps nothing between calls."""

    def __init__(self, box: Box, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        self._box = box
        self._random = random

    def wrap(self, where: Where, material: Material) -> tuple[bytes, str, bytes]:
        """(wrapped, slot name, slot bytes). The slot must be written before the journal entry that holds `wrapped`."""
        kek = self._random(_KEK)
        name = "v-" + self._random(_SLOT).hex()
        place = _place(where)
        wrapped = Box(Root(kek), self._random).seal(
            "version", place + bytes.fromhex(material.public_sha256), material.secret
        )
        return wrapped, name, self._box.seal("slot", place + name.encode("ascii"), kek)

    def unwrap(self, where: Where, version: Version, slot: bytes | None) -> bytes:
        """The key bytes. Raises `KeysError` (`wrong-state`) for a destroyed one, `StorageError` for a damaged one."""
        if version.destroyed:
            raise KeysError("wrong-state", "the version is destroyed")
        if slot is None:
            raise StorageError("storage-corrupt", "a living version has lost its slot", hint="restore the slots")
        place = _place(where)
        kek = self._box.open("slot", place + version.slot.encode("ascii"), slot)
        return Box(Root(kek)).open("version", place + bytes.fromhex(version.public_sha256), version.wrapped)


def _place(where: Where) -> bytes:
    tenant, ring, key, number = where
    return context(tenant, ring, key, str(number))
