# SPDX-License-Identifier: Apache-2.0
"""The verifying proxy in a thread of this process, with real HTTP in front and behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from teehouse.proxy.server import ProxyServer
from teehouse.settings import Settings


@dataclass(frozen=True)
class RunningProxy:
    base_url: str
    token: str


@contextlib.contextmanager
def running_proxy(**settings: Any) -> Iterator[RunningProxy]:
    """`settings` as for `teehouse.OpenAI`."""
    ready = threading.Event()
    server = ProxyServer(Settings.load(**settings), on_ready=ready.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(20)
        yield RunningProxy(server.url + "/v1", server.token)
    finally:
        server.should_exit = True
        thread.join()
