# SPDX-License-Identifier: Apache-2.0
"""What the subcommands other than `serve` do: each works on the database directly and returns what is shown."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

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
