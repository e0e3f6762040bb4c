# SPDX-License-Identifier: Apache-2.0
"""`teehouse proxy`: a loopback OpenAI-compatible server that verifies and seals. Needs the `proxy` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from teehouse.proxy.server import Listening as Listening
    from teehouse.proxy.server import serve as serve

__all__ = ["Listening", "serve"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from teehouse.proxy import server

        return getattr(server, name)
    raise AttributeError(f"module 'teehouse.proxy' has no attribute {name!r}")
