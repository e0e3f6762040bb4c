# SPDX-License-Identifier: Apache-2.0
"""Tables of the ledger: logs, entries, tiles, snapshots, tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LABELS = ("op", "ring", "key", "decision")


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "ledger_logs",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.LargeBinary(), nullable=False),
        sa.Column("checkpoint_origin", sa.String(512), nullable=False),
        sa.Column("checkpoint_size", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_root", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_logs"),
        sa.UniqueConstraint("name", name="uq_ledger_logs_name"),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("log", _serial(), autoincrement=False, nullable=False),
        sa.Column("position", _serial(), autoincrement=False, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("opening", sa.Text(), nullable=True),
        sa.Column("private", sa.LargeBinary(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("op", sa.String(64), nullable=False),
        sa.Column("ring", sa.String(128), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.ForeignKeyConstraint(["log"], ["ledger_logs.id"], name="fk_ledger_entries_log_ledger_logs"),
        sa.PrimaryKeyConstraint("log", "position", name="pk_ledger_entries"),
    )
    for label in _LABELS:
        op.create_index(f"ix_ledger_entries_log_{label}_position", "ledger_entries", ["log", label, "position"])
    op.create_table(
        "ledger_tiles",
        sa.Column("log", _serial(), autoincrement=False, nullable=False),
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", _serial(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.ForeignKeyConstraint(["log"], ["ledger_logs.id"], name="fk_ledger_tiles_log_ledger_logs"),
        sa.PrimaryKeyConstraint("log", "level", "position", name="pk_ledger_tiles"),
    )
    op.create_table(
        "ledger_snapshots",
        sa.Column("log", _serial(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["log"], ["ledger_logs.id"], name="fk_ledger_snapshots_log_ledger_logs"),
        sa.PrimaryKeyConstraint("log", "name", name="pk_ledger_snapshots"),
    )
    op.create_table(
        "ledger_tokens",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("log", sa.String(80), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_tokens"),
        sa.UniqueConstraint("token_sha256", name="uq_ledger_tokens_token_sha256"),
    )


def downgrade() -> None:
    """Undo."""
    for table in ("ledger_tokens", "ledger_snapshots", "ledger_tiles", "ledger_entries", "ledger_logs"):
        op.drop_table(table)
