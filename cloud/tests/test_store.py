# SPDX-License-Identifier: Apache-2.0
"""Migrations from nothing, models equal to them, and what the store keeps."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres_support import on_both_databases
from sqlalchemy import MetaData, Table, inspect, text
from sqlalchemy.engine import Connection

from teehouse_cloud.errors import DatabaseError, NotFoundError, SettingsError
from teehouse_cloud.ledger.entries import NewEntry, append, forget_opening
from teehouse_cloud.ledger.snapshots import delete_snapshot, get_snapshot, put_snapshot
from teehouse_cloud.store.database import Database, database_url
from teehouse_cloud.store.endpoints import put_endpoint
from teehouse_cloud.store.keys import create_key, get_key, key_hash, list_keys, revoke_key
from teehouse_cloud.store.migrate import alembic_config, current_revision, head_revision, is_current, upgrade
from teehouse_cloud.store.models import Base
from teehouse_cloud.store.nodes import get_node, put_node, update_node

pytestmark = pytest.mark.anyio


def at(url: str, *, create: bool = True) -> Database:
    return Database(url, create=create)


@on_both_databases
async def test_migrations_from_nothing_give_the_models(empty_url: str) -> None:
    database = at(empty_url)
    assert await current_revision(database) == ""
    assert not await is_current(database)
    assert await upgrade(database) == head_revision()
    assert await is_current(database)
    await upgrade(database)  # again does nothing

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        return list(compare_metadata(context, Base.metadata))

    def names(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert await connection.run_sync(names) == {*Base.metadata.tables, "alembic_version"}
    await database.close()


@on_both_databases
async def test_the_comparison_would_notice(empty_url: str) -> None:
    database = at(empty_url)
    await upgrade(database)
    async with database.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE nodes ADD COLUMN stray INTEGER"))

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences)
    await database.close()


@on_both_databases
async def test_downgrade_leaves_nothing(empty_url: str) -> None:
    database = at(empty_url)
    await upgrade(database)

    def down(connection: Connection) -> set[str]:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        return set(inspect(connection).get_table_names())

    async with database.engine.begin() as connection:
        assert await connection.run_sync(down) == {"alembic_version"}
    await database.close()


EARLIER = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][1:]


@on_both_databases
@pytest.mark.parametrize("revision", EARLIER)
async def test_migrations_from_every_earlier_revision(empty_url: str, revision: str) -> None:
    """A database that an earlier version made and filled comes to the same schema with its rows in place."""
    database = at(empty_url)

    def up(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with database.engine.begin() as connection:
        await connection.run_sync(up)
    assert await current_revision(database) == revision
    # written as that version knew its tables: the models of today may have columns that it lacks
    rows = {
        "endpoints": {"id": "ep", "name": "kept", "created_at": 1},
        "nodes": {
            "id": "n",
            "endpoint": "ep",
            "url": "http://a",
            "state": "new",
            "created_at": 1,
            "boot": "",
            "keysets": [],
            "usage_boot": "",
            "usage_after": 0,
        },
        "api_keys": {
            "account": "0" * 16,
            "secret_sha256": key_hash("x"),
            "label": "kept",
            "endpoints": ["ep"],
            "created_at": 10,
        },
    }

    def fill(connection: Connection) -> None:
        for name, row in rows.items():
            connection.execute(Table(name, MetaData(), autoload_with=connection).insert().values(row))

    async with database.engine.begin() as connection:
        await connection.run_sync(fill)
    assert await upgrade(database) == head_revision()

    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    stored = await get_key(database, "0" * 16)
    assert stored is not None
    assert stored.secret_sha256 == key_hash("x")
    assert (await get_node(database, "n")).url == "http://a"
    await database.close()


def test_there_is_an_earlier_revision() -> None:
    assert EARLIER


async def test_sqlite_is_set_up(tmp_path: Path) -> None:
    database = at(f"sqlite:///{tmp_path / 'x.db'}")
    await upgrade(database)
    async with database.engine.connect() as connection:
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
        assert (await connection.execute(text("PRAGMA foreign_keys"))).scalar() == 1
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar() == 2  # FULL: the ledger's promise
    assert stat.S_IMODE((tmp_path / "x.db").stat().st_mode) == 0o600
    await database.close()


def test_urls() -> None:
    assert database_url("sqlite:///a.db").drivername == "sqlite+aiosqlite"
    assert database_url("postgresql://u@h/d").drivername == "postgresql+asyncpg"
    for wrong in ("", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:"):
        with pytest.raises(SettingsError) as caught:
            database_url(wrong)
        assert caught.value.hint


def test_an_absent_file_is_not_made_by_accident(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as caught:
        at(f"sqlite:///{tmp_path / 'x.db'}", create=False)
    assert caught.value.code == "db-unreachable"
    assert not list(tmp_path.iterdir())


@on_both_databases
async def test_keys(empty_url: str) -> None:
    database = at(empty_url)
    await upgrade(database)
    key, row = await create_key(database, "label", ["ep-b", "ep-a", "ep-a"], 10)
    assert row.endpoints == ["ep-a", "ep-b"]
    stored = await get_key(database, row.account)
    assert stored is not None
    assert stored.secret_sha256 == key_hash(key)
    await revoke_key(database, row.account, 20)
    assert (await revoke_key(database, row.account, 30)).revoked_at == 20
    assert [one.revoked_at for one in await list_keys(database)] == [20]
    with pytest.raises(NotFoundError):
        await revoke_key(database, "0" * 16, 1)
    assert await get_key(database, "0" * 16) is None
    await database.close()


@on_both_databases
async def test_moving_a_node_forgets_what_was_seen(empty_url: str) -> None:
    database = at(empty_url)
    await upgrade(database)
    with pytest.raises(NotFoundError) as caught:
        await put_node(database, "n", "ep", "http://a", 1)
    assert caught.value.code == "endpoint-unknown"
    await put_endpoint(database, "ep", "x", 1)
    assert (await put_node(database, "n", "ep", "http://a", 1))[1]
    await update_node(database, "n", state="ready", keysets=["k"], usage_after=9)
    assert not (await put_node(database, "n", "ep", "http://a", 2))[1]
    assert (await get_node(database, "n")).usage_after == 9
    await put_node(database, "n", "ep", "http://b", 2)
    row = await get_node(database, "n")
    assert (row.state, row.keysets, row.usage_after) == ("new", [], 0)
    await update_node(database, "gone", state="x")
    await database.close()


async def test_what_the_ledger_deletes_leaves_the_disk(tmp_path: Path) -> None:
    """SQLite alone: PostgreSQL overwrites what was deleted at a time of its own choosing."""
    database = at(f"sqlite:///{tmp_path / 'x.db'}")
    await upgrade(database)
    name, slot = b"Rosalind Franklin", b"a wrapped key that is to be gone" * 200
    opening = json.dumps({"names": [name.decode()]})
    await append(database, "tenant-a", 0, [NewEntry(b"{}", opening, b"")], 1)
    await put_snapshot(database, "tenant-a", "slot", slot, 1)

    def kept(data: bytes) -> bool:
        return any(data in path.read_bytes() for path in tmp_path.iterdir())

    assert kept(name)
    assert kept(slot[:64])
    await delete_snapshot(database, "tenant-a", "slot")
    await forget_opening(database, "tenant-a", 0)
    assert not kept(name)
    assert not kept(slot[:64])
    with pytest.raises(NotFoundError):
        await get_snapshot(database, "tenant-a", "slot")
    await database.close()
