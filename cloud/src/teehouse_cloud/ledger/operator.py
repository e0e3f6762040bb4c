# SPDX-License-Identifier: Apache-2.0
"""The ledger's part of the operator API: which logs there are, and who holds tokens for them."""

from __future__ import annotations

import time
from typing import Annotated, Protocol

from fastapi import FastAPI, Path

from teehouse_cloud.ledger.entries import forget_opening, list_logs
from teehouse_cloud.ledger.schemas import LogName, LogOut, LogsOut, TokenId, TokenIn, TokenMade, TokenOut, TokensOut
from teehouse_cloud.ledger.tokens import create_ledger_token, list_ledger_tokens, revoke_ledger_token
from teehouse_cloud.store.database import Database

__all__ = ["Forgets", "add_ledger"]


class Forgets(Protocol):
    """What remembers tokens for a moment."""

    def forget(self) -> None:
        """Look again."""


def add_ledger(api: FastAPI, database: Database, guard: Forgets) -> None:
    """Add the routes below /api/v1/ledger."""

    @api.get("/api/v1/ledger/logs")
    async def list_logs_() -> LogsOut:
        """All logs: how long, and which checkpoint is the newest."""
        return LogsOut(logs=[LogOut.model_validate(row) for row in await list_logs(database)])

    @api.post("/api/v1/ledger/tokens", status_code=201)
    async def create_token_(wish: TokenIn) -> TokenMade:
        """Make a token. This answer is the only place where it is ever shown."""
        token, row = await create_ledger_token(database, wish.kind, wish.log, wish.label, int(time.time()))
        guard.forget()
        return TokenMade(**TokenOut.model_validate(row).model_dump(), token=token)

    @api.get("/api/v1/ledger/tokens")
    async def list_tokens_() -> TokensOut:
        """All tokens, without their secrets."""
        return TokensOut(tokens=[TokenOut.model_validate(row) for row in await list_ledger_tokens(database)])

    @api.delete("/api/v1/ledger/tokens/{token}")
    async def revoke_token_(token: TokenId) -> TokenOut:
        """Revoke a token for good. Other replicas follow within the key cache time."""
        row = await revoke_ledger_token(database, token, int(time.time()))
        guard.forget()
        return TokenOut.model_validate(row)

    @api.delete("/api/v1/ledger/logs/{log}/openings/{index}", status_code=204)
    async def forget_opening_(log: LogName, index: Annotated[int, Path(ge=0, lt=2**53)]) -> None:
        """Delete the names that belong to an entry, for good; the log and its proofs stay as they are."""
        await forget_opening(database, log, index)
