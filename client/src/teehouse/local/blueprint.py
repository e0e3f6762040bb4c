# SPDX-License-Identifier: Apache-2.0
"""What one platform is made of: endpoint, secrets, model, node configurations, the policy, and each process's command.

It writes files and starts nothing; `supervisor` brings it to life.
"""

from __future__ import annotations

import importlib.metadata
import json
import secrets
from collections.abc import Callable
from pathlib import Path

from teehouse.local.children import Child
from teehouse.local.events import Reporter
from teehouse.local.keys_plan import KEYS_PROGRAMS, KeysPlan
from teehouse.local.layout import Layout, write_private
from teehouse.local.model import ModelChoice, choose_model
from teehouse.local.options import HOST, UpOptions, free_port, make_endpoint_id, need_port, node_config
from teehouse.local.programs import find_program, launch_command
from teehouse.local.reference import ReferenceValues, config_digest, image_digest, policy_text
from teehouse_core.errors import LocalError

__all__ = ["PROGRAMS", "Blueprint"]

PROGRAMS = ("teehouse-cloud", "teehouse-node", "teehouse")


class Blueprint:
    """One folder's platform. `port` and `proxy_port` are 0 until a free one was taken."""

    def __init__(self, options: UpOptions) -> None:
        self.options = options
        self.layout = Layout(options.root.expanduser().resolve())
        self.port, self.proxy_port = options.port, 0
        self.endpoint = self.operator_token = self.api_key = ""
        self.fresh = False  # whether the database is new
        self.keys: KeysPlan | None = None
        self._model: ModelChoice | None = None

    @property
    def model(self) -> ModelChoice:
        """What the nodes run. Raises `LocalError` before it was chosen."""
        if self._model is None:
            raise LocalError("no model was chosen", code="option")
        return self._model

    def check(self) -> None:
        """Programs and ports. Raises `LocalError` (`wheel-missing`, `port-taken`)."""
        for program in (*PROGRAMS, *(KEYS_PROGRAMS if self.options.keys else ())):
            find_program(program)
        need_port(self.port, "--port")
        wish = self.options.proxy_port
        if wish is None:
            after = self.port + 1
            self.proxy_port = after if self.port and after < 65536 and free_port(after) else 0
        else:
            need_port(wish, "--proxy-port")
            self.proxy_port = wish

    def choose_model(self, say: Reporter) -> None:
        """Fetches weights if need be. Raises what `teehouse.local.weights` raises."""
        self._model = choose_model(self.options, say)

    def identify(self) -> None:
        """Endpoint and secrets, of the last run in this folder or new. A key of a lost database is dropped."""
        layout, self.fresh = self.layout, not self.layout.database.exists()
        fresh = self.fresh
        self.endpoint = (None if fresh else layout.secret("endpoint")) or make_endpoint_id()
        layout.keep_secret("endpoint", self.endpoint)
        self.operator_token = layout.secret("operator_token") or f"th-op-{secrets.token_urlsafe(32)}"
        layout.keep_secret("operator_token", self.operator_token)
        self.api_key = "" if fresh else layout.secret("api_key") or ""

    def nodes(self) -> list[Child]:
        """Write the node configurations, and the policy that pins what those nodes must measure."""
        image, release = image_digest(), importlib.metadata.version("teehouse")
        children: list[Child] = []
        for number in range(self.options.nodes):
            name = f"node-{number}"
            ready, path = self._ready(name), self.layout.run / f"{name}.json"
            config = node_config(
                name=name,
                endpoint=self.endpoint,
                engine=self.model.engine,
                release=release,
                image_sha256=image,
                ready_file=ready,
            )
            write_private(path, json.dumps(config, indent=2) + "\n")
            children.append(self._child(name, _fixed("teehouse-node", "--config", str(path))))
        values = ReferenceValues(
            release=release,
            image_sha256=image,
            config_sha256=config_digest(self.layout.run / "node-0.json"),
            weights_sha256=self.model.weights_sha256,
            model=self.model.name,
        )
        expected = None
        if self.options.keys:
            self.keys = KeysPlan(self.layout, release, image)
            expected = self.keys.prepare()
        write_private(self.layout.policy, policy_text(values, expected))
        return children

    def migrate(self) -> list[str]:
        """The command that brings the database up to date."""
        return launch_command(find_program("teehouse-cloud"), "migrate", "--db", self._db, "--json")

    def cloud(self) -> Child:
        """The gateway; it comes back on the port it had."""
        token = self.layout.secrets / "operator_token"

        def command() -> list[str]:
            return launch_command(
                find_program("teehouse-cloud"),
                *("serve", "--db", self._db, "--host", HOST, "--port", str(self.port)),
                *("--ready-file", str(self._ready("cloud")), "--operator-token-file", str(token)),
                *("--drain-seconds", "10"),
            )

        return self._child("cloud", command)

    def proxy(self) -> Child:
        """The verifying proxy; it comes back on its port and with its token."""
        layout = self.layout

        def command() -> list[str]:
            return launch_command(
                find_program("teehouse"),
                *("proxy", "--gateway", self.gateway, "--endpoint", self.endpoint, "--policy", str(layout.policy)),
                *("--api-key-file", str(layout.secrets / "api_key"), "--host", HOST, "--port", str(self.proxy_port)),
                *("--token-file", str(layout.secrets / "proxy_token"), "--keep-token"),
                *("--ready-file", str(self._ready("proxy")), "--quiet"),
            )

        return self._child("proxy", command)

    @property
    def gateway(self) -> str:
        """The gateway's address, once `port` is known."""
        return f"http://{HOST}:{self.port}"

    @property
    def proxy_url(self) -> str:
        """The proxy's OpenAI base URL, once `proxy_port` is known."""
        return f"http://{HOST}:{self.proxy_port}/v1"

    @property
    def proxy_token(self) -> str:
        """The proxy's bearer token, empty before its first start."""
        return self.layout.secret("proxy_token") or ""

    @property
    def _db(self) -> str:
        return f"sqlite:///{self.layout.database}"

    def _ready(self, name: str) -> Path:
        return self.layout.run / f"{name}.ready.json"

    def _child(self, name: str, command: Callable[[], list[str]]) -> Child:
        return Child(name, command, self.layout.log(name), self._ready(name))


def _fixed(program: str, *arguments: str) -> Callable[[], list[str]]:
    return lambda: launch_command(find_program(program), *arguments)
