# SPDX-License-Identifier: Apache-2.0
"""Teehouse: verified, sealed LLM inference from your own machine.

    from teehouse import OpenAI
    client = OpenAI(base_url="https://gateway…", api_key="sk-th-…", endpoint="ep-…")

Names are imported when they are first used: `import teehouse` alone loads nothing heavy and reads no environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teehouse.openai import AsyncOpenAI as AsyncOpenAI
    from teehouse.openai import OpenAI as OpenAI
    from teehouse.session import AsyncSession as AsyncSession
    from teehouse.session import Session as Session
    from teehouse.settings import Settings as Settings
    from teehouse.transport import AsyncSealedTransport as AsyncSealedTransport
    from teehouse.transport import SealedTransport as SealedTransport

__all__ = [
    "AsyncOpenAI",
    "AsyncSealedTransport",
    "AsyncSession",
    "OpenAI",
    "SealedTransport",
    "Session",
    "Settings",
]

_HOMES = {
    "AsyncOpenAI": "teehouse.openai",
    "AsyncSealedTransport": "teehouse.transport",
    "AsyncSession": "teehouse.session",
    "OpenAI": "teehouse.openai",
    "SealedTransport": "teehouse.transport",
    "Session": "teehouse.session",
    "Settings": "teehouse.settings",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'teehouse' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
