# SPDX-License-Identifier: Apache-2.0
"""Tables of the cloud database. Metadata and ciphertext-side facts only; no table can hold a prompt or an answer.

Times are Unix seconds (64-bit). Secrets are stored as SHA-256 of a 256-bit random value: a slow password hash would add
nothing there and would cost a core per request.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = [
    "ApiKey",
    "Base",
    "Endpoint",
    "LedgerEntry",
    "LedgerLog",
    "LedgerSnapshot",
    "LedgerTile",
    "LedgerToken",
    "Node",
    "NodeReport",
    "OperatorToken",
    "UsageRecord",
]

# Fixed names, so that a migration can drop a constraint on either database.
_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# SQLite only auto-numbers a column declared exactly INTEGER.
_Serial = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Declarative base with fixed constraint names."""

    metadata = MetaData(naming_convention=_NAMING)


class Endpoint(Base):
    """An inference endpoint that clients may address."""

    __tablename__ = "endpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger)
    # Where the endpoint's pool is published, and whose it is; null for an endpoint without one (PROTOCOL §6).
    tks_url: Mapped[str | None] = mapped_column(String(512))
    tks_tenant: Mapped[str | None] = mapped_column(String(128))


class Node(Base):
    """A node process, and what this platform last saw of it (a claim of the node, appraised by nobody here)."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    endpoint: Mapped[str] = mapped_column(String(64), ForeignKey("endpoints.id"), index=True)
    url: Mapped[str] = mapped_column(String(512))
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(BigInteger)
    last_seen: Mapped[int | None] = mapped_column(BigInteger)
    boot: Mapped[str] = mapped_column(String(128))
    keysets: Mapped[list[str]] = mapped_column(JSON)
    # Where the usage pull stands: the newest sequence number stored, of the node process named by usage_boot.
    usage_boot: Mapped[str] = mapped_column(String(128))
    usage_after: Mapped[int] = mapped_column(BigInteger)


class NodeReport(Base):
    """The newest evidence bundle of a node, as the bytes it sent."""

    __tablename__ = "node_reports"

    node: Mapped[str] = mapped_column(String(64), ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True)
    bundle: Mapped[bytes] = mapped_column(LargeBinary)
    bundle_sha256: Mapped[str] = mapped_column(String(64))
    keyset_sha256: Mapped[str] = mapped_column(String(64))
    fetched_at: Mapped[int] = mapped_column(BigInteger)


class ApiKey(Base):
    """A platform API key. `account` is public; of the key itself only SHA-256 is kept."""

    __tablename__ = "api_keys"

    account: Mapped[str] = mapped_column(String(16), primary_key=True)
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    label: Mapped[str] = mapped_column(String(200))
    endpoints: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
    last_used: Mapped[int | None] = mapped_column(BigInteger)


class UsageRecord(Base):
    """A usage record signed by a node (PROTOCOL §7). One per account and transcript: cost is counted once.

    One transcript per `request_id` is the gateway's rule (`gateway/once.py`): an id may come
    again only as the retry of an `unknown-key`, which no node worked on.
    """

    __tablename__ = "usage_records"
    __table_args__ = (
        UniqueConstraint("account", "th"),
        Index(None, "account", "id"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    account: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    th: Mapped[str] = mapped_column(String(64))
    kid: Mapped[str] = mapped_column(String(64))
    keyset_sha256: Mapped[str] = mapped_column(String(64))
    node: Mapped[str] = mapped_column(String(64))
    endpoint: Mapped[str] = mapped_column(String(64))
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[int] = mapped_column(Integer)
    finished_at: Mapped[int] = mapped_column(BigInteger)
    record: Mapped[bytes] = mapped_column(LargeBinary)
    sig: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[int] = mapped_column(BigInteger)


class OperatorToken(Base):
    """A bearer token of the operator API; only its SHA-256 is kept."""

    __tablename__ = "operator_tokens"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    token_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    label: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger)


class LedgerLog(Base):
    """A transparency log that TKS writes and this platform only keeps (KEYS §3): it cannot add to it unnoticed."""

    __tablename__ = "ledger_logs"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    # The newest checkpoint as TKS sent it, b"" before the first; the three facts beside it are read out of it.
    checkpoint: Mapped[bytes] = mapped_column(LargeBinary)
    checkpoint_origin: Mapped[str] = mapped_column(String(512))
    checkpoint_size: Mapped[int] = mapped_column(BigInteger)
    checkpoint_root: Mapped[bytes] = mapped_column(LargeBinary(32))
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)


class LedgerEntry(Base):
    """One leaf with what belongs to it. `opening` may be deleted later; `private` is sealed by TKS.

    `op` … `decision` are copied out of the leaf so that a list can be narrowed; no proof covers the copies.
    """

    __tablename__ = "ledger_entries"
    __table_args__ = (
        Index(None, "log", "op", "position"),
        Index(None, "log", "ring", "position"),
        Index(None, "log", "key", "position"),
        Index(None, "log", "decision", "position"),
    )

    log: Mapped[int] = mapped_column(_Serial, ForeignKey("ledger_logs.id"), primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=False)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    opening: Mapped[str | None] = mapped_column(Text)
    private: Mapped[bytes] = mapped_column(LargeBinary)
    weight: Mapped[int] = mapped_column(Integer)  # bytes of leaf, opening and private: what a page is bounded by
    op: Mapped[str] = mapped_column(String(64))
    ring: Mapped[str] = mapped_column(String(128))
    key: Mapped[str] = mapped_column(String(128))
    decision: Mapped[str] = mapped_column(String(16))


class LedgerTile(Base):
    """A full tile: 256 hashes of one level (C2SP tlog-tiles) and the hash of the subtree they span.

    A row is written once, when its 256th hash is known, and never again. Partial tiles are put together from the
    entries or from the `root` of the tiles below.
    """

    __tablename__ = "ledger_tiles"

    log: Mapped[int] = mapped_column(_Serial, ForeignKey("ledger_logs.id"), primary_key=True, autoincrement=False)
    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=False)
    hashes: Mapped[bytes] = mapped_column(LargeBinary)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))


class LedgerSnapshot(Base):
    """A sealed snapshot of TKS state, which only saves it time: TKS holds it against the log before use."""

    __tablename__ = "ledger_snapshots"

    log: Mapped[int] = mapped_column(_Serial, ForeignKey("ledger_logs.id"), primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    updated_at: Mapped[int] = mapped_column(BigInteger)


class LedgerToken(Base):
    """A bearer token of the ledger: `writer` (TKS) or `audit` (reads one log); only its SHA-256 is kept."""

    __tablename__ = "ledger_tokens"

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    token_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    log: Mapped[str] = mapped_column(String(80))  # "*" for every log; a log may be named before it exists
    label: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)
