# SPDX-License-Identifier: Apache-2.0
"""What every door of the key service works with: the service, its own keys, the vault, one clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teehouse_core.wire.keyset import Keyset
from teehouse_enclave.keys.commands import Tools
from teehouse_enclave.keys.identity import ServiceKeys
from teehouse_enclave.keys.journal import tenant_log
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.vault import Vault

__all__ = ["Desk"]


@dataclass(frozen=True, slots=True)
class Desk:
    """`now` gives Unix seconds that never go back, `monotonic` seconds for lives of challenges."""

    service: Service
    keys: ServiceKeys
    vault: Vault
    now: Callable[[], int]
    monotonic: Callable[[], float]

    @property
    def keyset(self) -> Keyset:
        return self.keys.keyset

    def tools(self, tenant: str) -> Tools:
        """What a command on this tenant may need; for use in the journal's thread."""
        log = tenant_log(tenant)
        return Tools(
            vault=self.vault,
            open_import=lambda kid, info, sealed: self.keys.open(kid, info, sealed, self.now()),
            read_slot=lambda name: self.service.journal.get_slot(log, name),
        )
