# SPDX-License-Identifier: Apache-2.0
"""Alembic environment: runs on the connection it is handed, never opens one from a file of settings."""

from __future__ import annotations

from alembic import context

from teehouse_cloud.store.models import Base

connection = context.config.attributes["connection"]
# batch mode: SQLite cannot alter a column in place
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
