# SPDX-License-Identifier: Apache-2.0
"""A slot whose deletion failed is deleted later: with the next deletion, or at the next start."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from keys_support import KEYSET, House, key_args, new_house, ring_args, tenant_args
from test_keys_evidence import ListLedger

from teehouse_core.log.quorum import WitnessPolicy
from teehouse_enclave.keys import journal_sqlite
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.commands import Tools, authorise
from teehouse_enclave.keys.journal import tenant_log
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.main import _first_due
from teehouse_enclave.keys.model import GRACE_SECONDS, Change, State
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.start import log_key_of, open_books
from teehouse_enclave.keys.vault import Vault

pytestmark = pytest.mark.anyio
NOW = 1_790_000_000
ROOT = Root(secrets.token_bytes(32))


@dataclass
class Scene:
    """A service over the journal in `folder`; `later` are seconds that were let pass."""

    folder: Path
    ledger: ListLedger = field(default_factory=ListLedger)
    house: House = field(default_factory=new_house)
    later: int = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        journal = SqliteJournal(self.folder / "journal.db")
        outside = Outside(self.ledger, {}, WitnessPolicy.none())
        key = log_key_of(ROOT)
        self.service = Service(
            origin="tks", journal=journal, box=Box(ROOT), log_key=key, outside=outside, now=lambda: NOW + self.later
        )
        await open_books(self.service, key)
        line = asyncio.create_task(self.service.run())
        try:
            yield self.service
        finally:
            line.cancel()
            await asyncio.gather(line, return_exceptions=True)
            self.service.stop()
            journal.close()

    async def do(self, op: str, args: dict[str, Any], ring: str = "", seq: int | None = None) -> None:
        service, log = self.service, tenant_log(self.house.tenant)
        self.house.state, self.house.now = service.state(self.house.tenant), NOW + self.later
        request = self.house.request(op, args, ring=ring, seq=seq)
        tools = Tools(Vault(Box(ROOT)), lambda *_: None, lambda name: service.journal.get_slot(log, name))

        def propose(state: State | None, now: int) -> Change:
            return authorise(state, request, {KEYSET}, now, tools)

        await service.commit(self.house.tenant, propose)

    async def destroy(self, key: str) -> None:
        await self.do("key.destroy", {"key": key}, "data")
        self.later += GRACE_SECONDS
        await self.service.commit(self.house.tenant, _first_due)

    def slot(self, key: str) -> bytes:
        state = self.service.state(self.house.tenant)
        assert state is not None
        data = self.service.journal.get_slot(
            tenant_log(self.house.tenant), state.rings["data"].keys[key].versions[0].slot
        )
        assert data is not None
        return data

    def files(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.folder.glob("journal.db*"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else writes to the file, from the moment that slots are to be deleted."""
        inner = SqliteJournal.shred

        def shred(journal: SqliteJournal, log: str, names: Sequence[str]) -> None:
            with contextlib.closing(sqlite3.connect(self.folder / "journal.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                inner(journal, log, names)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SqliteJournal, "shred", shred)
            yield


@pytest.mark.parametrize("restart", [False, True])
async def test_a_deletion_that_failed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    monkeypatch.setattr(journal_sqlite, "BUSY_SECONDS", 0.05)
    scene = Scene(tmp_path)
    async with scene.running():
        await scene.do("tenant.create", tenant_args(), seq=1)
        await scene.do("ring.create", ring_args("data"))
        for key in ("one", "two"):
            await scene.do("key.create", key_args(key), "data")
        slots = [scene.slot("one"), scene.slot("two")]
        with scene.locked():
            await scene.destroy("one")
            assert slots[0] in scene.files()
        if not restart:
            await scene.destroy("two")
            assert not any(slot in scene.files() for slot in slots)
    if restart:
        async with scene.running():
            assert slots[0] not in scene.files()
            assert slots[1] in scene.files()
