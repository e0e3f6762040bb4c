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
    from teehouse.session import Unreachable as Unreachable
    from teehouse.settings import Settings as Settings
    from teehouse.transport import AsyncSealedTransport as AsyncSealedTransport
    from teehouse.transport import SealedTransport as SealedTransport
    from teehouse_core.appraise.policy import Policy as Policy
    from teehouse_core.errors import EvidenceRefused as EvidenceRefused
    from teehouse_core.errors import LocalError as LocalError
    from teehouse_core.errors import MalformedError as MalformedError
    from teehouse_core.errors import OperatorError as OperatorError
    from teehouse_core.errors import PeerError as PeerError
    from teehouse_core.errors import RefusedError as RefusedError
    from teehouse_core.errors import StaleEvidence as StaleEvidence
    from teehouse_core.errors import TeehouseError as TeehouseError
    from teehouse_core.errors import TruncatedStream as TruncatedStream
    from teehouse_core.errors import UnauthenticatedError as UnauthenticatedError

__all__ = [
    "AsyncOpenAI",
    "AsyncSealedTransport",
    "AsyncSession",
    "EvidenceRefused",
    "LocalError",
    "MalformedError",
    "OpenAI",
    "OperatorError",
    "PeerError",
    "Policy",
    "RefusedError",
    "SealedTransport",
    "Session",
    "Settings",
    "StaleEvidence",
    "TeehouseError",
    "TruncatedStream",
    "UnauthenticatedError",
    "Unreachable",
]

_HOMES = {
    "AsyncOpenAI": "teehouse.openai",
    "AsyncSealedTransport": "teehouse.transport",
    "AsyncSession": "teehouse.session",
    "OpenAI": "teehouse.openai",
    "Policy": "teehouse_core.appraise.policy",
    "SealedTransport": "teehouse.transport",
    "Session": "teehouse.session",
    "Settings": "teehouse.settings",
    "Unreachable": "teehouse.session",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'teehouse' has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "teehouse_core.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
