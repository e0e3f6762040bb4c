# SPDX-License-Identifier: Apache-2.0
"""Whether the platform can answer: one real request through proxy, gateway, node and engine, verified and sealed."""

from __future__ import annotations

import httpx2

from teehouse_core.errors import RefusedError

__all__ = ["probe"]

TIMEOUT = 60.0  # seconds; a large model's first token on a small machine
REFUSED = 502  # what the proxy answers when verification said no


def probe(base_url: str, token: str, model: str) -> bool:
    """True when one token came back. Raises `RefusedError` when the proxy says that evidence was refused."""
    body = {"model": model, "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
    try:
        reply = httpx2.post(
            f"{base_url}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT,
            trust_env=False,
        )
    except httpx2.HTTPError:
        return False
    if reply.status_code == REFUSED:
        raise RefusedError(_text(reply), code=_code(reply), hint="see logs/proxy.log")
    return reply.is_success


def _error(reply: httpx2.Response) -> dict[str, object]:
    try:
        error = reply.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def _code(reply: httpx2.Response) -> str:
    return str(_error(reply).get("code") or "evidence-refused")[:64]


def _text(reply: httpx2.Response) -> str:
    return str(_error(reply).get("message") or "the proxy refused the platform's evidence")[:300]
