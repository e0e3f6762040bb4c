# SPDX-License-Identifier: Apache-2.0
"""Every setting of the `teehouse-cloud` process, in one frozen class. Flags win over TEEHOUSE_CLOUD_* variables.

Nothing reads the environment at import time: `load` does, once, when a command starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from teehouse_cloud.errors import SettingsError

__all__ = ["Settings", "load"]


class Settings(BaseSettings):
    """Settings of one process. Times are seconds, sizes bytes, rates per minute, unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="TEEHOUSE_CLOUD_", frozen=True, extra="forbid")

    db: str = Field("", description="database URL: sqlite:///file.db or postgresql://user@host/name")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    ready_file: Path | None = Field(None, description="JSON file written when the process can answer")
    operator_token_file: Path | None = Field(None, description="file with one more operator token to accept")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="lowest level logged")
    forwarded_allow_ips: str = Field(
        "", description="proxies (comma separated) whose X-Forwarded-For names the client; empty trusts none"
    )

    key_rpm: int = Field(6000, ge=1, description="sealed requests per minute and API key")
    key_streams: int = Field(1024, ge=1, description="open sealed requests per API key")
    evidence_rpm: int = Field(600, ge=1, description="evidence requests per minute and client address")
    ledger_rpm: int = Field(6000, ge=1, description="open reads of the public ledger per minute and client address")
    auth_failure_rpm: int = Field(120, ge=1, description="failed authentications per minute and client address")
    key_cache_seconds: float = Field(5.0, ge=0, le=60, description="how long a key's row is believed without a look")

    inflight_body_bytes: int = Field(
        512 * 1024 * 1024, ge=1024 * 1024, description="request bytes held in memory at once, all clients together"
    )
    body_seconds: float = Field(60.0, gt=0, description="longest time a client may take to send one request")
    connect_seconds: float = Field(2.0, gt=0, description="longest wait for a connection to a node")
    first_byte_seconds: float = Field(300.0, gt=0, description="longest wait for a node's first answer byte")
    idle_seconds: float = Field(300.0, gt=0, description="longest silence of a node inside an answer")
    stall_seconds: float = Field(60.0, gt=0, description="longest time a client may refuse to take bytes")
    drain_seconds: float = Field(30.0, ge=0, description="how long open streams may finish after SIGTERM")

    poll_seconds: float = Field(1.0, gt=0, description="pause between two health polls of a node")
    poll_timeout_seconds: float = Field(2.0, gt=0, description="longest wait for a node's health answer")
    report_seconds: float = Field(600.0, gt=0, description="age at which a node's stored report is fetched anew")
    usage_seconds: float = Field(2.0, gt=0, description="pause between two usage pulls from a node")


def load(**flags: Any) -> Settings:
    """Settings from the environment, overridden by every flag that is not None. Raises `SettingsError`."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"setting {name} is unusable: {first['msg'].lower()}",
            code="settings",
            hint=f"look at --{name.replace('_', '-')} and TEEHOUSE_CLOUD_{name.upper()}",
        ) from exc
