# SPDX-License-Identifier: Apache-2.0
"""What the subcommands other than `serve` do: each works on the database directly and returns what is shown."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, NonNegativeInt, TypeAdapter, ValidationError

from teehouse_cloud.control.schemas import (
    AccountId,
    EndpointId,
    EndpointIn,
    EndpointOut,
    KeyIn,
    KeyOut,
    NodeId,
    NodeOut,
    check_node_url,
)
from teehouse_cloud.errors import DatabaseError, SettingsError
from teehouse_cloud.ledger.entries import forget_opening, list_logs
from teehouse_cloud.ledger.schemas import LogName, LogOut, TokenId, TokenIn, TokenOut
from teehouse_cloud.ledger.tokens import ANY_LOG, create_ledger_token, list_ledger_tokens, revoke_ledger_token
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.endpoints import list_endpoints, put_endpoint
from teehouse_cloud.store.keys import create_key, list_keys, revoke_key
from teehouse_cloud.store.migrate import is_current, upgrade
from teehouse_cloud.store.nodes import delete_node, get_node, list_nodes, put_node
from teehouse_cloud.store.operators import create_operator_token

__all__ = [
    "endpoint_list",
    "endpoint_put",
    "init",
    "key_create",
    "key_list",
    "key_revoke",
    "ledger_forget",
    "ledger_logs",
    "ledger_revoke",
    "ledger_token",
    "ledger_tokens",
    "migrate",
    "node_delete",
    "node_list",
    "node_put",
]


@contextlib.asynccontextmanager
async def _migrated(url: str) -> AsyncIterator[Database]:
    """The database, once its schema is known to be current. Raises `DatabaseError` (db-not-migrated)."""
    database = Database(url)
    try:
        if not await is_current(database):
            raise DatabaseError(
                "the database schema is not the one this version needs",
                code="db-not-migrated",
                hint="run: teehouse-cloud migrate",
            )
        yield database
    finally:
        await database.close()


def _check(kind: Any, value: Any, what: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as exc:
        message = exc.errors(include_url=False, include_input=False)[0]["msg"]
        raise SettingsError(f"{what} is unusable: {message.lower()}", code="usage") from exc


def _plain(model: type[BaseModel], row: Any) -> dict[str, Any]:
    return model.model_validate(row).model_dump()


async def migrate(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """Bring the schema up to date."""
    database = Database(url, create=True)
    try:
        return {"revision": await upgrade(database)}
    finally:
        await database.close()


async def init(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """Migrate and make an operator token, which is shown here and nowhere else."""
    database = Database(url, create=True)
    try:
        revision = await upgrade(database)
        token = await create_operator_token(database, "init", int(time.time()))
    finally:
        await database.close()
    return {"operator_token": token, "revision": revision}


async def key_create(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Make an API key, which is shown here and nowhere else."""
    wish = _check(KeyIn, {"label": args.label, "endpoints": args.endpoints}, "the key")
    async with _migrated(url) as database:
        api_key, row = await create_key(database, wish.label, wish.endpoints, int(time.time()))
    return {"api_key": api_key, **_plain(KeyOut, row)}


async def key_list(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """All keys without their secrets."""
    async with _migrated(url) as database:
        return {"keys": [_plain(KeyOut, row) for row in await list_keys(database)]}


async def key_revoke(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Revoke a key. A running gateway follows within its key cache time."""
    account = _check(AccountId, args.account, "the account")
    async with _migrated(url) as database:
        return _plain(KeyOut, await revoke_key(database, account, int(time.time())))


async def endpoint_put(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Create or rename an endpoint."""
    endpoint = _check(EndpointId, args.endpoint, "the endpoint id")
    wish = _check(EndpointIn, {"name": args.name}, "the endpoint")
    async with _migrated(url) as database:
        row, _ = await put_endpoint(database, endpoint, wish.name, int(time.time()))
    return _plain(EndpointOut, row)


async def endpoint_list(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """All endpoints."""
    async with _migrated(url) as database:
        return {"endpoints": [_plain(EndpointOut, row) for row in await list_endpoints(database)]}


async def node_put(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Register or move a node. A running gateway follows within a second."""
    node, endpoint = _check(NodeId, args.node, "the node id"), _check(EndpointId, args.endpoint, "the endpoint id")
    where = check_node_url(args.url)
    async with _migrated(url) as database:
        await put_node(database, node, endpoint, where, int(time.time()))
        return _plain(NodeOut, await get_node(database, node))


async def node_list(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """All nodes as the gateway last saw them."""
    async with _migrated(url) as database:
        return {"nodes": [_plain(NodeOut, row) for row in await list_nodes(database)]}


async def node_delete(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Forget a node."""
    node = _check(NodeId, args.node, "the node id")
    async with _migrated(url) as database:
        await delete_node(database, node)
    return {"deleted": node}


async def ledger_token(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Make a ledger token, which is shown here and nowhere else."""
    kind, log = ("writer", args.log or ANY_LOG) if args.writer else ("audit", args.log)
    if log is None:
        raise SettingsError("an audit token is for one log", code="usage", hint="give --log, or --writer for TKS")
    wish = _check(TokenIn, {"kind": kind, "log": log, "label": args.label}, "the ledger token")
    async with _migrated(url) as database:
        token, row = await create_ledger_token(database, wish.kind, wish.log, wish.label, int(time.time()))
    return {"token": token, **_plain(TokenOut, row)}


async def ledger_tokens(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """All ledger tokens without their secrets."""
    async with _migrated(url) as database:
        return {"tokens": [_plain(TokenOut, row) for row in await list_ledger_tokens(database)]}


async def ledger_revoke(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Revoke a ledger token. A running process follows within its key cache time."""
    token = _check(TokenId, args.token, "the token id")
    async with _migrated(url) as database:
        return _plain(TokenOut, await revoke_ledger_token(database, token, int(time.time())))


async def ledger_logs(url: str, _args: argparse.Namespace) -> dict[str, Any]:
    """All logs, how long they are and which checkpoint is the newest."""
    async with _migrated(url) as database:
        return {"logs": [_plain(LogOut, row) for row in await list_logs(database)]}


async def ledger_forget(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Delete the names that belong to an entry; the log and its proofs stay as they are."""
    log, index = _check(LogName, args.log, "the log's name"), _check(NonNegativeInt, args.index, "the index")
    async with _migrated(url) as database:
        await forget_opening(database, log, index)
    return {"log": log, "index": index}
