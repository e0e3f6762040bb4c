# SPDX-License-Identifier: Apache-2.0
"""First tables: endpoints, nodes, reports, API keys, usage records, operator tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _serial() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_endpoints"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("url", sa.String(512), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=True),
        sa.Column("boot", sa.String(128), nullable=False),
        sa.Column("keysets", sa.JSON(), nullable=False),
        sa.Column("usage_boot", sa.String(128), nullable=False),
        sa.Column("usage_after", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["endpoint"], ["endpoints.id"], name="fk_nodes_endpoint_endpoints"),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_index("ix_nodes_endpoint", "nodes", ["endpoint"])
    op.create_table(
        "node_reports",
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("bundle", sa.LargeBinary(), nullable=False),
        sa.Column("bundle_sha256", sa.String(64), nullable=False),
        sa.Column("keyset_sha256", sa.String(64), nullable=False),
        sa.Column("fetched_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="fk_node_reports_node_nodes", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node", name="pk_node_reports"),
    )
    op.create_table(
        "api_keys",
        sa.Column("account", sa.String(16), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("endpoints", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("account", name="pk_api_keys"),
    )
    op.create_table(
        "usage_records",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("th", sa.String(64), nullable=False),
        sa.Column("kid", sa.String(64), nullable=False),
        sa.Column("keyset_sha256", sa.String(64), nullable=False),
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.Column("sig", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_records"),
        sa.UniqueConstraint("account", "th", name="uq_usage_records_account_th"),
    )
    op.create_index("ix_usage_records_account_id", "usage_records", ["account", "id"])
    op.create_table(
        "operator_tokens",
        sa.Column("id", _serial(), autoincrement=True, nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(32), nullable=False),
        sa.Column("label", sa.String(200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_operator_tokens"),
        sa.UniqueConstraint("token_sha256", name="uq_operator_tokens_token_sha256"),
    )


def downgrade() -> None:
    """Undo."""
    for table in ("operator_tokens", "usage_records", "api_keys", "node_reports", "nodes", "endpoints"):
        op.drop_table(table)
