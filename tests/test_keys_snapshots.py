# SPDX-License-Identifier: Apache-2.0
"""Snapshots save time and change nothing: same state, same tree, same refusal of old and forked stores."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest
from keys_support import KEYSET, key_args, new_house, ring_args, tenant_args
from test_keys_evidence import ListLedger

from teehouse_core.log.merkle import Frontier, leaf_hash
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_enclave.keys import service as service_module
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.commands import Tools, authorise
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import tenant_log
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.model import Change, State
from teehouse_enclave.keys.service import Service, origin_of
from teehouse_enclave.keys.snapshots import load_snapshot, save_snapshot, stands_on
from teehouse_enclave.keys.start import StartError, _Known, _replay, log_key_of, open_books
from teehouse_enclave.keys.vault import Vault

pytestmark = pytest.mark.anyio
NOW = 1_790_000_000


async def filled(folder: Path, root: Root, keys: int) -> tuple[str, State]:
    """A journal with a tenant of so many keys, and its state as the service left it."""
    journal = SqliteJournal(folder / "journal.db")
    outside = Outside(ListLedger(), {}, WitnessPolicy.none())
    service = Service(
        origin="tks", journal=journal, box=Box(root), log_key=log_key_of(root), outside=outside, now=lambda: NOW
    )
    await open_books(service, log_key_of(root))
    line = asyncio.create_task(service.run())
    house = new_house()
    tools = Tools(Vault(Box(root)), lambda *_: None, lambda name: journal.get_slot(tenant_log(house.tenant), name))

    async def do(op: str, args: dict[str, Any], ring: str = "", seq: int | None = None) -> None:
        house.state = service.state(house.tenant)
        request = house.request(op, args, ring=ring, seq=seq)

        def propose(state: State | None, now: int) -> Change:
            return authorise(state, request, {KEYSET}, now, tools)

        await service.commit(house.tenant, propose)

    await do("tenant.create", tenant_args(), seq=1)
    await do("ring.create", ring_args("data"))
    for at in range(keys):
        await do("key.create", key_args(f"k{at}"), ring="data")
    state = service.state(house.tenant)
    line.cancel()
    await asyncio.gather(line, return_exceptions=True)
    service.stop()
    journal.close()
    assert state is not None
    return house.tenant, state


async def test_a_start_from_a_snapshot_is_a_start_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "_SNAPSHOT", 5)
    root = Root(secrets.token_bytes(32))
    tenant, state = await filled(tmp_path, root, 9)
    log, origin, box = tenant_log(tenant), origin_of("tks", tenant_log(tenant)), Box(root)
    journal = SqliteJournal(tmp_path / "journal.db")
    found = load_snapshot(journal, box, log, origin)
    assert found is not None
    assert 5 <= found[0].size <= 11
    read: list[int] = []
    honest = journal.read
    monkeypatch.setattr(journal, "read", lambda name, first, limit: read.append(first) or honest(name, first, limit))
    records = honest(log, 0, 100)
    whole = Frontier.empty().extend([leaf_hash(record.leaf) for record in records])
    book, tree = _replay(journal, box, "tks", log, _Known())
    assert read == [found[0].size]
    assert (book.state, book.frontier, tree.root_at(11)) == (state, whole, whole.root())
    for size in range(1, 12):  # whatever size a witness stands at
        prefix = Frontier.empty().extend([leaf_hash(record.leaf) for record in records[:size]])
        right, wrong = _Known(roots={size: prefix.root()}), _Known(roots={size: bytes(32)})
        assert _replay(journal, box, "tks", log, right)[0].state == state
        with pytest.raises(StartError) as refused:
            _replay(journal, box, "tks", log, wrong)
        assert refused.value.code == "log-forked"
    with pytest.raises(StartError) as refused:
        _replay(journal, box, "tks", log, _Known(roots={12: bytes(32)}))
    assert refused.value.code == "rolled-back"
    journal.close()


async def test_a_snapshot_ahead_of_its_journal_or_of_another_is_not_used(tmp_path: Path) -> None:
    root = Root(secrets.token_bytes(32))
    tenant, state = await filled(tmp_path, root, 2)
    log, origin, box = tenant_log(tenant), origin_of("tks", tenant_log(tenant)), Box(root)
    journal = SqliteJournal(tmp_path / "journal.db")
    ahead = Frontier.empty().extend([bytes([n] * 32) for n in range(9)])
    save_snapshot(journal, box, log, origin, ahead, state)
    with pytest.raises(StartError) as refused:
        _replay(journal, box, "tks", log, _Known())
    assert refused.value.code == "rolled-back"
    assert not stands_on(journal, log, ahead, 2, bytes(32))
    save_snapshot(journal, box, log, "tks/tenant/another", ahead, state)  # a box opens in its own place only
    assert load_snapshot(journal, box, log, origin) is None
    assert _replay(journal, box, "tks", log, _Known())[0].state == state
    journal.put_snapshot(log, b"\x01" + bytes(100))
    assert _replay(journal, box, "tks", log, _Known())[0].state == state
    with pytest.raises(StorageError):
        box.open("snapshot", b"", bytes(100))
    journal.close()
