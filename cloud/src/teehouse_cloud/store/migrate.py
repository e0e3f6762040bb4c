# SPDX-License-Identifier: Apache-2.0
"""Schema migrations by Alembic, run on the async engine of the process."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from teehouse_cloud.errors import DatabaseError
from teehouse_cloud.store.database import Database

__all__ = ["current_revision", "head_revision", "is_current", "upgrade"]


def alembic_config() -> Config:
    """The Alembic configuration; there is no alembic.ini, so an installed wheel can migrate."""
    config = Config()
    config.set_main_option("script_location", "teehouse_cloud:store/migrations")
    return config


def head_revision() -> str:
    """The newest revision this wheel knows."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    return head or ""


async def upgrade(database: Database) -> str:
    """Bring the schema to `head_revision()`; returns it. Raises `DatabaseError`."""

    def run(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    try:
        async with database.engine.begin() as connection:
            await connection.run_sync(run)
    except (SQLAlchemyError, OSError) as exc:
        raise DatabaseError(
            f"the migration failed ({type(exc).__name__})",
            code="db-unreachable",
            hint="is the database up, and may this user create tables?",
        ) from exc
    return head_revision()


async def current_revision(database: Database) -> str:
    """The revision the database is at, `""` when it has none. Raises `DatabaseError`."""

    def read(connection: Connection) -> str:
        return MigrationContext.configure(connection).get_current_revision() or ""

    try:
        async with database.engine.connect() as connection:
            return await connection.run_sync(read)
    except (SQLAlchemyError, OSError) as exc:
        raise DatabaseError(
            f"the database does not answer ({type(exc).__name__})", code="db-unreachable", hint="check --db"
        ) from exc


async def is_current(database: Database) -> bool:
    """Whether the schema is the one this wheel was written for."""
    return await current_revision(database) == head_revision()
