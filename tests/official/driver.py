# SPDX-License-Identifier: Apache-2.0
"""Runs in the environment of the official clients and calls them, unmodified, as asked: one JSON line in, one out.

    {"client": {app_id, addr, top_config?, pod_name?}, "call": name, "args": {…}}
    → {"ok": value} or {"error": class, "http_status", "text"}

Bytes travel as {"b64": …}. The call `server` makes a `jeddak_secure_channel.server.Server`: its public key.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

# The clients print and log to standard output, from their import on; answers go to a copy of it that they do not know.
OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

from bytedance.jeddak_secure_channel.config import ServerConfig  # noqa: E402
from bytedance.jeddak_secure_channel.server import Server  # noqa: E402
from bytedance.tks.client import TKSClient, TKSConfig  # noqa: E402


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value


def given(value: Any) -> Any:
    return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value


def client(settings: dict[str, Any]) -> TKSClient:
    config = TKSConfig(
        addr=settings["addr"],
        pod_name=settings.get("pod_name", ""),
        top_config=dict(settings.get("top_config") or {}),
    )
    return TKSClient(settings["app_id"], config)


def server(settings: dict[str, Any]) -> Any:
    made = Server(ServerConfig(**settings))
    return None if made.session_key is None else made.session_key.get_public_key()


def run(request: dict[str, Any]) -> Any:
    arguments = {name: given(value) for name, value in request.get("args", {}).items()}
    if request["call"] == "server":
        return server(arguments)
    return getattr(client(request["client"]), request["call"])(**arguments)


def main() -> None:
    for line in sys.stdin:
        try:
            answer = {"ok": plain(run(json.loads(line)))}
        except Exception as error:
            status = getattr(error, "http_status", None)
            answer = {"error": type(error).__name__, "http_status": status, "text": str(error)}
        OUT.write(json.dumps(answer) + "\n")
        OUT.flush()


if __name__ == "__main__":
    main()
