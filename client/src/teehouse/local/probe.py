# SPDX-License-Identifier: Apache-2.0
"""Whether the platform can answer: one real request through proxy, gateway, node and engine, verified and sealed."""

from __future__ import annotations

import httpx2

from teehouse_core.errors import OperatorError, RefusedError

__all__ = ["probe"]

TIMEOUT = 60.0  # seconds; a large model's first token on a small machine
REFUSED = 502  # what the proxy answers when verification said no
_LATER = (429, 503, 504)  # not yet; anything else that is no success will not get better by waiting


def probe(base_url: str, token: str, model: str) -> bool:
    """True when one token came back, False when it may come later.

    Raises `RefusedError` when the proxy says that evidence was refused, `OperatorError` when it refuses the request.
    """
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
    if reply.is_success:
        return True
    if reply.status_code in _LATER:
        return False
    message, code = _error(reply)
    if reply.status_code == REFUSED:
        if code in ("unreachable", "no-answer", "connection-lost", "truncated-stream", "unavailable"):
            return False
        raise RefusedError(message, code=code, hint="see logs/proxy.log")
    raise OperatorError(message, code=code, hint="see logs/proxy.log and logs/cloud.log")


def _error(reply: httpx2.Response) -> tuple[str, str]:
    try:
        error = reply.json()["error"]
        return str(error["message"])[:300], str(error.get("code") or "probe-refused")[:64]
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"the platform's own test request was answered {reply.status_code}", "probe-refused"
