# SPDX-License-Identifier: Apache-2.0
"""What the ledger's part of the operator API and of the command line takes and gives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["LogName", "LogOut", "LogsOut", "TokenId", "TokenIn", "TokenMade", "TokenOut", "TokensOut"]

LogName = Annotated[str, StringConstraints(pattern=r"^(\*|public|tenant-[A-Za-z0-9._-]{1,64})$")]
TokenId = Annotated[int, Field(ge=1, lt=2**31)]


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class TokenIn(BaseModel):
    """Wish for a token: `writer` for TKS, `audit` for somebody who reads `log`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["writer", "audit"] = "audit"
    log: LogName
    label: Annotated[str, StringConstraints(max_length=200)] = ""


class TokenOut(_Out):
    """A token without its secret. Times are Unix seconds."""

    id: int
    kind: str
    log: str
    label: str
    created_at: int
    revoked_at: int | None


class TokenMade(TokenOut):
    """The only answer that ever holds the token itself."""

    token: str


class TokensOut(_Out):
    """All tokens."""

    tokens: list[TokenOut]


class LogOut(_Out):
    """A log: entries stored, and the size and origin of its newest checkpoint (0 and "" before the first)."""

    name: str
    size: int
    checkpoint_size: int
    checkpoint_origin: str
    created_at: int
    updated_at: int


class LogsOut(_Out):
    """All logs."""

    logs: list[LogOut]
