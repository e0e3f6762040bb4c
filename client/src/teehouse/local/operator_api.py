# SPDX-License-Identifier: Apache-2.0
"""The gateway's operator API, as far as the local deployer needs it: endpoint, nodes, one key."""

from __future__ import annotations

from typing import Any

import httpx2

from teehouse_core.errors import OperatorError

__all__ = ["Operator"]

TIMEOUT = 5.0  # seconds; the gateway is on this machine


class Operator:
    """Calls as the platform's operator. Methods raise `OperatorError` (`gateway-unreachable`, `gateway-refused`)."""

    def __init__(self, gateway: str, token: str) -> None:
        # trust_env off: a proxy of the environment has no business between two processes of one machine
        self._client = httpx2.Client(
            base_url=gateway, headers={"authorization": f"Bearer {token}"}, timeout=TIMEOUT, trust_env=False
        )

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            reply = self._client.request(method, path, json=body)
        except httpx2.HTTPError as exc:
            raise OperatorError("the gateway does not answer", code="gateway-unreachable") from exc
        if not reply.is_success:
            raise OperatorError(
                f"the gateway answered {reply.status_code} to {method} {path.split('?')[0]}",
                code="gateway-refused",
                hint="see logs/cloud.log",
            )
        return reply.json() if reply.content else None

    def put_endpoint(self, endpoint: str, name: str) -> None:
        """Make or rename the endpoint."""
        self._call("PUT", f"/api/v1/endpoints/{endpoint}", {"name": name})

    def put_node(self, node: str, endpoint: str, url: str) -> None:
        """Say where a node listens now."""
        self._call("PUT", f"/api/v1/nodes/{node}", {"endpoint": endpoint, "url": url})

    def delete_node(self, node: str) -> None:
        """Forget a node."""
        self._call("DELETE", f"/api/v1/nodes/{node}")

    def nodes(self) -> list[dict[str, Any]]:
        """Every node the gateway knows."""
        answer = self._call("GET", "/api/v1/nodes")
        rows = answer.get("nodes", []) if isinstance(answer, dict) else answer
        return [row for row in rows if isinstance(row, dict)]

    def create_key(self, label: str, endpoints: list[str]) -> str:
        """A new API key; the gateway shows it this once."""
        answer = self._call("POST", "/api/v1/keys", {"label": label, "endpoints": endpoints})
        key = answer.get("api_key") if isinstance(answer, dict) else None
        if not isinstance(key, str):
            raise OperatorError("the gateway made no key", code="gateway-refused", hint="see logs/cloud.log")
        return key

    def create_ledger_token(self, kind: str, log: str, label: str) -> str:
        """A new ledger token, `writer` or `audit`; the gateway shows it this once."""
        answer = self._call("POST", "/api/v1/ledger/tokens", {"kind": kind, "log": log, "label": label})
        token = answer.get("token") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise OperatorError("the gateway made no token", code="gateway-refused", hint="see logs/cloud.log")
        return token
