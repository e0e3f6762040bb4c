# SPDX-License-Identifier: Apache-2.0
"""Endpoints say where their pool is published."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("endpoints", sa.Column("tks_url", sa.String(512), nullable=True))
    op.add_column("endpoints", sa.Column("tks_tenant", sa.String(128), nullable=True))


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("endpoints") as table:
        table.drop_column("tks_tenant")
        table.drop_column("tks_url")
