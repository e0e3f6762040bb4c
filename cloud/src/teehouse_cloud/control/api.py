# SPDX-License-Identifier: Apache-2.0
"""Operator API under /api/v1. Stands behind `OperatorGuard`, so every caller here holds an operator token."""

from __future__ import annotations

import time
from typing import Annotated, Protocol

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from teehouse_cloud.control.guard import problem
from teehouse_cloud.control.schemas import (
    AccountId,
    EndpointId,
    EndpointIn,
    EndpointOut,
    EndpointsOut,
    KeyIn,
    KeyMade,
    KeyOut,
    KeysOut,
    NodeId,
    NodeIn,
    NodeOut,
    NodesOut,
    UsageOut,
    UsagePage,
)
from teehouse_cloud.errors import DatabaseError, NotFoundError
from teehouse_cloud.ledger.operator import Forgets, add_ledger
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.endpoints import list_endpoints, put_endpoint
from teehouse_cloud.store.keys import create_key, list_keys, revoke_key
from teehouse_cloud.store.models import UsageRecord
from teehouse_cloud.store.nodes import delete_node, get_node, list_nodes, put_node
from teehouse_cloud.store.reports import get_report
from teehouse_cloud.store.usage import list_usage
from teehouse_core.errors import TeehouseError
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import EVIDENCE_TYPE
from teehouse_core.wire.problem import PROBLEM_TYPE

__all__ = ["build_api"]

PAGE = 100  # usage records of one page unless asked otherwise
MAX_PAGE = 1000


class _Accounts(Protocol):
    def forget(self, account_id: str) -> None: ...


class _Registry(Protocol):
    async def changed(self) -> None: ...


def build_api(database: Database, accounts: _Accounts, registry: _Registry, ledger: Forgets) -> FastAPI:
    """The API over `database`; tells `accounts`, `registry` and `ledger` at once what it changed."""
    api = FastAPI(
        title="Teehouse operator API", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json"
    )
    _add_errors(api)
    _add_fleet(api, database, registry)
    _add_keys(api, database, accounts)
    _add_usage(api, database)
    add_ledger(api, database, ledger)
    return api


def _add_fleet(api: FastAPI, database: Database, registry: _Registry) -> None:
    @api.put("/api/v1/endpoints/{endpoint}", responses={201: {"model": EndpointOut}})
    async def put_endpoint_(endpoint: EndpointId, wish: EndpointIn, response: Response) -> EndpointOut:
        """Create an endpoint, or say anew what it is called and where its pool is published."""
        row, created = await put_endpoint(
            database, endpoint, wish.name, int(time.time()), tks_url=wish.tks_url, tks_tenant=wish.tks_tenant
        )
        await registry.changed()
        response.status_code = 201 if created else 200
        return EndpointOut.model_validate(row)

    @api.get("/api/v1/endpoints")
    async def list_endpoints_() -> EndpointsOut:
        """All endpoints."""
        return EndpointsOut(endpoints=[EndpointOut.model_validate(row) for row in await list_endpoints(database)])

    @api.put("/api/v1/nodes/{node}", responses={201: {"model": NodeOut}})
    async def put_node_(node: NodeId, wish: NodeIn, response: Response) -> NodeOut:
        """Register a node, or move it; it is asked for its health before this answers."""
        _, created = await put_node(database, node, wish.endpoint, wish.url, int(time.time()))
        await registry.changed()
        response.status_code = 201 if created else 200
        return NodeOut.model_validate(await get_node(database, node))

    @api.get("/api/v1/nodes")
    async def list_nodes_() -> NodesOut:
        """All nodes as last seen."""
        return NodesOut(nodes=[NodeOut.model_validate(row) for row in await list_nodes(database)])

    @api.get("/api/v1/nodes/{node}")
    async def get_node_(node: NodeId) -> NodeOut:
        """One node as last seen."""
        return NodeOut.model_validate(await get_node(database, node))

    @api.delete("/api/v1/nodes/{node}", status_code=204)
    async def delete_node_(node: NodeId) -> None:
        """Forget a node; what it is answering now goes on."""
        await delete_node(database, node)
        await registry.changed()

    @api.get("/api/v1/nodes/{node}/report", response_class=Response)
    async def get_report_(node: NodeId) -> Response:
        """The newest stored evidence bundle, byte for byte as the node sent it; appraised by nobody here."""
        row = await get_report(database, node)
        headers = {
            "teehouse-bundle-sha256": row.bundle_sha256,
            "teehouse-keyset-sha256": row.keyset_sha256,
            "teehouse-fetched-at": str(row.fetched_at),
        }
        return Response(row.bundle, media_type=EVIDENCE_TYPE, headers=headers)


def _add_keys(api: FastAPI, database: Database, accounts: _Accounts) -> None:
    @api.post("/api/v1/keys", status_code=201)
    async def create_key_(wish: KeyIn) -> KeyMade:
        """Make an API key. This answer is the only place where it is ever shown."""
        api_key, row = await create_key(database, wish.label, wish.endpoints, int(time.time()))
        accounts.forget(row.account)
        return KeyMade(**KeyOut.model_validate(row).model_dump(), api_key=api_key)

    @api.get("/api/v1/keys")
    async def list_keys_() -> KeysOut:
        """All keys, without their secrets."""
        return KeysOut(keys=[KeyOut.model_validate(row) for row in await list_keys(database)])

    @api.delete("/api/v1/keys/{account}")
    async def revoke_key_(account: AccountId) -> KeyOut:
        """Revoke a key for good. Other replicas follow within the key cache time."""
        row = await revoke_key(database, account, int(time.time()))
        accounts.forget(account)
        return KeyOut.model_validate(row)


def _add_usage(api: FastAPI, database: Database) -> None:
    @api.get("/api/v1/usage")
    async def list_usage_(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
        account: Annotated[AccountId | None, Query()] = None,
    ) -> UsagePage:
        """Signed usage records, oldest first. Signatures are not checked here."""
        rows = await list_usage(database, after=after, limit=limit, account=account)
        return UsagePage(records=[_usage_out(row) for row in rows], next=rows[-1].id if len(rows) == limit else None)


def _usage_out(row: UsageRecord) -> UsageOut:
    plain = {name: getattr(row, name) for name in UsageOut.model_fields if name not in ("record", "sig")}
    return UsageOut(**plain, record=b64u(row.record), sig=b64u(row.sig))


def _add_errors(api: FastAPI) -> None:
    @api.exception_handler(TeehouseError)
    async def teehouse_error(_request: Request, exc: Exception) -> Response:
        status = _status_of(exc)
        code, hint = getattr(exc, "code", "error"), getattr(exc, "hint", None)
        message = exc.message if isinstance(exc, TeehouseError) else code
        return Response(problem(status, code, message, hint), status, media_type=PROBLEM_TYPE)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, exc: Exception) -> Response:
        first = exc.errors()[0] if isinstance(exc, RequestValidationError) and exc.errors() else {}
        where = ".".join(str(part) for part in first.get("loc", ()))
        return Response(
            problem(422, "invalid", f"{where}: {first.get('msg', 'not valid')}"), 422, media_type=PROBLEM_TYPE
        )

    @api.exception_handler(StarletteHTTPException)
    async def http_error(_request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, StarletteHTTPException) else 500
        code = {404: "not-found", 405: "method-not-allowed"}.get(status, "refused")
        return Response(problem(status, code, code), status, media_type=PROBLEM_TYPE)


def _status_of(exc: Exception) -> int:
    if isinstance(exc, NotFoundError):
        return 404
    if isinstance(exc, DatabaseError):
        return 503
    return 400
