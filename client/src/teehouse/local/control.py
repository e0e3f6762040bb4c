# SPDX-License-Identifier: Apache-2.0
"""Looking at a running platform from outside, and stopping it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx2

from teehouse.local.lock import holder
from teehouse.local.operator_api import Operator
from teehouse.local.state import Running, find_running
from teehouse_core.errors import OperatorError, TeehouseError

__all__ = ["describe", "stop"]

PATIENCE = 45.0  # seconds; three rounds of draining and then some
_LOOK = 2.0  # seconds for a health answer


def stop(root: Path | None = None) -> Running | None:
    """Stop the platform and wait until its last process is gone; None when none runs.

    Raises `OperatorError` (`still-running`) when it does not end in time.
    """
    running = find_running(root)
    if running is None:
        return None
    # The lock is held right now, so this number is the supervisor's and nobody else's.
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.supervisor, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while holder(running.layout.lock) == running.supervisor:
        if time.monotonic() > end:
            raise OperatorError(
                f"the platform still runs (process {running.supervisor})",
                code="still-running",
                hint=f"see {running.layout.logs}; a second `teehouse down` ends it at once",
            )
        time.sleep(0.05)
    return running


def describe(root: Path | None = None) -> dict[str, Any]:
    """What `teehouse status` shows: `state` is "stopped", "starting", "running" or "degraded"."""
    running = find_running(root)
    if running is None:
        return {"version": 1, "state": "stopped", "processes": {}, "nodes": []}
    base: dict[str, Any] = {
        "version": 1,
        "data_dir": str(running.layout.root),
        "processes": {"supervisor": {"pid": running.supervisor, "alive": True}},
        "nodes": [],
    }
    state = running.state
    if state is None:
        return base | {"state": "starting"}
    processes = {name: {"pid": pid, "alive": _alive(pid)} for name, pid in state["pids"].items()}
    nodes = _nodes(running, state)
    whole = all(p["alive"] for p in processes.values()) and all(n["state"] == "ready" for n in nodes) and bool(nodes)
    whole = whole and _healthy(state["gateway"])
    shown = ("gateway", "openai_base_url", "endpoints", "policy", "model", "engine", "tier")
    return (
        base
        | {key: state[key] for key in shown}
        | {"state": "running" if whole else "degraded", "processes": processes, "nodes": nodes}
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _healthy(gateway: str) -> bool:
    try:
        return httpx2.get(f"{gateway}/readyz", timeout=_LOOK, trust_env=False).is_success
    except httpx2.HTTPError:
        return False


def _nodes(running: Running, state: dict[str, Any]) -> list[dict[str, Any]]:
    token = running.layout.secret("operator_token")
    if token is None:
        return []
    operator = Operator(state["gateway"], token)
    try:
        rows = operator.nodes()
    except TeehouseError:
        return []
    finally:
        operator.close()
    return [{"node": row.get("id"), "state": row.get("state"), "url": row.get("url")} for row in rows]
