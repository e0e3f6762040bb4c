# SPDX-License-Identifier: Apache-2.0
"""Where the root key comes from: a backend seals 32 random bytes to this machine, or to an HSM, and gives them back.

The sealed form is no secret and lies in the journal's slots; that it opens here and nowhere else is the backend's work.
What each backend promises stands in its module and in docs/adr/0016. A store that loses or swaps the sealed root can
stop the service, but not move it: another root opens no record, and a fresh start is noticed by the witnesses.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from teehouse_core.errors import LocalError
from teehouse_enclave.keys.box import ROOT_SIZE, Root
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import PUBLIC_LOG, Journal

__all__ = ["ROOT_SLOT", "RootBackend", "open_root"]

ROOT_SLOT: Final = "root"
"""In the slots of the public log: the root belongs to no tenant."""


@runtime_checkable
class RootBackend(Protocol):
    """Seals one small secret. Slow calls are fine: it happens at start only."""

    @property
    def name(self) -> str:
        """`tpm`, `snp`, `pkcs11` or `simulated`."""
        ...

    @property
    def simulated(self) -> bool:
        """True when whoever holds the disk holds the key; such a service must say so in its evidence and its log."""
        ...

    def seal(self, secret: bytes) -> bytes:
        """The sealed form of 32 bytes. Raises `LocalError` or `OperatorError`."""
        ...

    def unseal(self, sealed: bytes) -> bytes:
        """The 32 bytes. Raises `LocalError` (`root-sealed-elsewhere`) when this machine, in this state, may not."""
        ...

    def close(self) -> None: ...


def open_root(backend: RootBackend, journal: Journal, *, random: Callable[[int], bytes] = secrets.token_bytes) -> Root:
    """The root key of this service; at the very first start, with an empty journal, it is made.

    Raises `StorageError` (`storage-corrupt`) when a journal with entries has lost its root: starting anew would only
    hide that.
    """
    sealed = journal.get_slot(PUBLIC_LOG, ROOT_SLOT)
    if sealed is None:
        if journal.logs():
            hint = "restore the slots; without the sealed root nothing here opens"
            raise StorageError("storage-corrupt", "the journal has entries and no root key", hint=hint)
        secret = random(ROOT_SIZE)
        sealed = backend.seal(secret)
        if backend.unseal(sealed) != secret:
            raise LocalError("the backend does not give back what it sealed", code="root-backend")
        journal.put_slot(PUBLIC_LOG, ROOT_SLOT, sealed)
        return Root(secret)
    return Root(backend.unseal(sealed))
