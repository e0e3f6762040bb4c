# SPDX-License-Identifier: Apache-2.0
"""What a service goes on with after a failure or a restart: deletions that are owed, and a log that is long."""

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
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.journal import PUBLIC_LOG, tenant_log
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.main import _first_due
from teehouse_enclave.keys.model import GRACE_SECONDS, Change, State
from teehouse_enclave.keys.service import Service, ServiceLimits
from teehouse_enclave.keys.start import log_key_of, open_books
from teehouse_enclave.keys.vault import Vault

pytestmark = pytest.mark.anyio
NOW = 1_790_000_000
ROOT = Root(secrets.token_bytes(32))


class GatedLedger(ListLedger):
    """Publishes while `open` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()

    async def publish(self, log: str, note: bytes) -> None:
        await self.open.wait()


@dataclass
class Scene:
    """A service over the journal in `folder`; `later` are seconds that were let pass."""

    folder: Path
    ledger: GatedLedger = field(default_factory=GatedLedger)
    house: House = field(default_factory=new_house)
    later: int = 0
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    events: list[tuple[str, str, str]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        journal = SqliteJournal(self.folder / "journal.db")
        outside = Outside(self.ledger, {}, WitnessPolicy.none())
        key = log_key_of(ROOT)
        self.service = Service(
            origin="tks",
            journal=journal,
            box=Box(ROOT),
            log_key=key,
            outside=outside,
            now=lambda: NOW + self.later,
            limits=self.limits,
            on_event=lambda *event: self.events.append(event),
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


async def test_a_long_log_is_no_backlog(tmp_path: Path) -> None:
    """Until its first checkpoint after a start a service does not know what of a log is out; callers need not wait."""
    scene = Scene(tmp_path, limits=ServiceLimits(max_backlog=3))
    async with scene.running():
        await scene.do("tenant.create", tenant_args(), seq=1)
        await scene.do("ring.create", ring_args("data"))
        for at in range(4):
            await scene.do("key.create", key_args(f"k{at}"), "data")
    async with scene.running() as service:
        await scene.do("key.create", key_args("at-once"), "data")
        assert service.writers[tenant_log(scene.house.tenant)].backlog == 0
        scene.ledger.open.clear()
        waiting = []
        for at in range(3):
            waiting.append(asyncio.create_task(scene.do("key.create", key_args(f"w{at}"), "data")))
            while service.journaled < at + 2:
                await asyncio.sleep(0.001)
        with pytest.raises(KeysError) as refused:
            await scene.do("key.create", key_args("too-many"), "data")
        assert refused.value.code == "over-limit"
        scene.ledger.open.set()
        await asyncio.gather(*waiting)


async def test_an_empty_log_is_not_brought_out(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with scene.running() as service:
        await asyncio.sleep(0.1)
        assert scene.events == []
        assert service.writers[PUBLIC_LOG].rounds == 0
