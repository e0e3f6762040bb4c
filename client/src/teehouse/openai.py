# SPDX-License-Identifier: Apache-2.0
"""The official OpenAI clients over a sealed transport: `from teehouse import OpenAI` and go on as before.

Everything that the SDK sends passes the transport, which seals it or answers 404 itself. The SDK's own base URL and
WebSocket URL are names that no resolver knows (RFC 2606 `.invalid`), so that a part of the SDK that went around the
transport would reach nobody.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx2
import openai

from teehouse.session.aio import AsyncSession
from teehouse.session.sync import Session
from teehouse.settings import Settings
from teehouse.transport import AsyncSealedTransport, SealedTransport
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError

__all__ = ["AsyncOpenAI", "OpenAI"]

NOWHERE: Final = "https://sealed.invalid/v1"
NO_SOCKET: Final = "wss://sealed.invalid/v1"
PLACEHOLDER: Final = "sealed-by-teehouse"  # what the SDK believes to be its key; it never leaves the process


class _SealedClient(httpx2.Client):
    """An HTTP client that can do nothing but seal."""

    def __init__(self, settings: Settings) -> None:
        self.sealed = Session(settings)
        super().__init__(transport=SealedTransport(session=self.sealed), trust_env=False)

    def close(self) -> None:
        super().close()
        self.sealed.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # as the SDK's own wrapper: a forgotten client leaves no open sockets
            self.close()


class _AsyncSealedClient(httpx2.AsyncClient):
    """The same for async code."""

    def __init__(self, settings: Settings) -> None:
        self.sealed = AsyncSession(settings)
        super().__init__(transport=AsyncSealedTransport(session=self.sealed), trust_env=False)

    async def aclose(self) -> None:
        await super().aclose()
        await self.sealed.aclose()


class OpenAI(openai.OpenAI):
    """`openai.OpenAI` whose requests are sealed to verified nodes.

    `api_key`, `base_url` (the gateway), `endpoint`, `policy` (preset, file or Policy) and `candidates` are Teehouse
    settings; what is not given comes from `TEEHOUSE_*` and the config file. Everything else is the SDK's.
    Raises LocalError for wrong settings.
    """

    def __init__(
        self,
        *,
        api_key: Any = None,
        base_url: Any = None,
        endpoint: str | None = None,
        policy: Policy | str | Path | None = None,
        candidates: int | None = None,
        settings: Settings | None = None,
        http_client: httpx2.Client | None = None,
        **sdk: Any,
    ) -> None:
        if http_client is None:
            http_client = _SealedClient(settings or _settings(api_key, base_url, endpoint, policy, candidates))
        elif not isinstance(http_client, _SealedClient) or _changed(api_key, base_url, endpoint, policy, candidates):
            _refuse_client()
        super().__init__(http_client=http_client, **_fixed(sdk))
        self._sealed = http_client.sealed

    @property
    def teehouse(self) -> Session:
        """The session underneath: `verify()`, `last_receipt`."""
        return self._sealed


class AsyncOpenAI(openai.AsyncOpenAI):
    """`openai.AsyncOpenAI` whose requests are sealed to verified nodes; arguments as for `OpenAI`."""

    def __init__(
        self,
        *,
        api_key: Any = None,
        base_url: Any = None,
        endpoint: str | None = None,
        policy: Policy | str | Path | None = None,
        candidates: int | None = None,
        settings: Settings | None = None,
        http_client: httpx2.AsyncClient | None = None,
        **sdk: Any,
    ) -> None:
        if http_client is None:
            http_client = _AsyncSealedClient(settings or _settings(api_key, base_url, endpoint, policy, candidates))
        elif not isinstance(http_client, _AsyncSealedClient) or _changed(
            api_key, base_url, endpoint, policy, candidates
        ):
            _refuse_client()
        super().__init__(http_client=http_client, **_fixed(sdk))
        self._sealed = http_client.sealed

    @property
    def teehouse(self) -> AsyncSession:
        """The session underneath: `verify()`, `last_receipt`."""
        return self._sealed


def _settings(api_key: Any, base_url: Any, endpoint: Any, policy: Any, candidates: Any) -> Settings:
    given = {
        "api_key": api_key,
        "base_url": None if base_url is None else str(base_url),
        "endpoint": endpoint,
        "policy": policy,
        "candidates": candidates,
    }
    return Settings.load(**given)


def _changed(api_key: Any, base_url: Any, endpoint: Any, policy: Any, candidates: Any) -> bool:
    """Whether a copy (`with_options`) is asked to be for another platform, key or policy than its session."""
    same = api_key in (None, PLACEHOLDER) and str(base_url or NOWHERE).rstrip("/") == NOWHERE
    return not same or any(value is not None for value in (endpoint, policy, candidates))


def _fixed(sdk: dict[str, Any]) -> dict[str, Any]:
    """The SDK's arguments, with its addresses and key made harmless."""
    for name in ("provider", "workload_identity", "data_residency"):
        if sdk.pop(name, None) is not None:
            raise LocalError(f"{name} is for OpenAI's own service", code="sdk-argument", hint="leave it out")
    return {**sdk, "api_key": PLACEHOLDER, "base_url": NOWHERE, "websocket_base_url": NO_SOCKET}


def _refuse_client() -> NoReturn:
    raise LocalError(
        "this client sends through its own sealed session only",
        code="sdk-argument",
        hint="make a new client for another platform, key or policy",
    )
