# SPDX-License-Identifier: Apache-2.0
"""`teehouse up`: one foreground process that starts the platform's processes, heals them, and stops them all.

Order of a start: lock the folder → weights → reference values and policy, computed here → nodes (they load the model)
while the database is migrated → gateway → endpoint and key → nodes registered → verifying proxy → one verified, sealed
request through everything → ready file. A child that dies is started again with growing pauses; a node that came back
on another port is registered anew. SIGTERM or SIGINT stops what was started, in an order that lets answers end.

It is one thread and a poll loop on purpose: children are reaped and signalled in one place, so no signal can reach a
process that is not its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final

from teehouse.local.children import Child, last_words
from teehouse.local.events import Reporter
from teehouse.local.layout import Layout, write_private
from teehouse.local.lock import DirLock
from teehouse.local.model import ModelChoice, choose_model
from teehouse.local.operator_api import Operator
from teehouse.local.options import HOST, UpOptions, free_port, make_endpoint_id, need_port, node_config
from teehouse.local.probe import probe
from teehouse.local.programs import child_environment, find_program, launch_command
from teehouse.local.reference import ReferenceValues, config_digest, image_digest, policy_text
from teehouse.local.state import forget, remember
from teehouse_core.errors import LocalError, OperatorError, TeehouseError

__all__ = ["Stopped", "Supervisor"]

TICK: Final = 0.05  # seconds between two looks
START_SECONDS: Final = 180.0  # a start that takes longer has failed; a large model loads in less
MAX_EARLY_DEATHS: Final = 3  # deaths in a row of one child before the first ready, after which the start has failed
DRAIN_SECONDS: Final = 12.0  # what answers under way get, then the process group is killed; nodes drain for 10
MIGRATE_SECONDS: Final = 60.0


class Stopped(Exception):  # noqa: N818  nobody's fault
    """A signal asked to stop before the work was done."""


class Supervisor:
    """One run of one platform, as a context: inside it the platform answers, after it everything is stopped."""

    def __init__(self, options: UpOptions, reporter: Reporter) -> None:
        options.check()
        self._options = options
        self._say = reporter
        self._layout = Layout(options.root.expanduser().resolve())
        self._lock = DirLock(self._layout.lock)
        self._handlers: dict[int, Any] = {}
        self._signals = 0
        self._interruptible = False
        self._nodes: list[Child] = []
        self._cloud: Child | None = None
        self._proxy: Child | None = None
        self._operator: Operator | None = None
        self._registered: dict[str, str] = {}
        self._port, self._proxy_port = options.port, 0
        self._endpoint = self._api_key = self._operator_token = ""
        self._state: dict[str, Any] | None = None
        self._model: ModelChoice | None = None

    # -- the whole run ------------------------------------------------------------------------------------------

    def __enter__(self) -> Supervisor:
        """Start; returns when the platform can answer.

        Raises `LocalError`, `OperatorError` or `RefusedError` when the start fails, and `Stopped` when a signal ended
        it; both after stopping everything.
        """
        self._layout.create()
        self._lock.__enter__()
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, self._on_signal)
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def serve(self) -> None:
        """Watch and heal until a signal comes."""
        while not self._signals:
            self._watch()
            self._say.tick()
            time.sleep(TICK)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a signal raises `Stopped` where the main thread stands, instead of being noted."""
        if self._signals:
            raise Stopped
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._interruptible:
            self._interruptible = False
            raise Stopped

    def _breathe(self) -> None:
        if self._signals:
            raise Stopped
        self._say.tick()
        time.sleep(TICK)

    # -- start --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._layout.state.unlink(missing_ok=True)
        if self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)
        need_port(self._port, "--port")
        self._choose_proxy_port()
        for program in ("teehouse-cloud", "teehouse-node", "teehouse"):
            find_program(program)
        if self._options.remember:
            remember(self._layout.root)
        with self.interruptible():  # a download is waited for in one piece
            self._model = choose_model(self._options, self._say)
        fresh = not self._layout.database.exists()
        self._identify(fresh)
        self._measure()
        self._say.begin("nodes", f"{self._options.nodes} nodes load {self._model.name}")
        for node in self._nodes:
            node.start()
        self._say.begin("gateway", "gateway starts")
        self._migrate()
        self._start_cloud()
        self._until(lambda: self._cloud is not None and self._cloud.ready is not None)
        self._admit()
        self._say.end("gateway", f"gateway listens on {self._gateway}")
        self._start_proxy()
        self._until(lambda: all(n.ready for n in self._nodes))
        self._say.end("nodes", f"{len(self._nodes)} nodes run {self._model.name} on SIMULATED hardware")
        self._until(lambda: self._proxy is not None and self._proxy.ready is not None)
        self._say.begin("check", "one verified, sealed request through everything")
        self._until(lambda: len(self._registered) == len(self._nodes))
        self._until(self._answers)
        self._say.end("check", "evidence accepted, a sealed request answered")
        self._publish()

    def _choose_proxy_port(self) -> None:
        wish = self._options.proxy_port
        if wish is None:
            after = self._port + 1
            self._proxy_port = after if self._port and after < 65536 and free_port(after) else 0
        else:
            need_port(wish, "--proxy-port")
            self._proxy_port = wish

    def _identify(self, fresh: bool) -> None:
        """Endpoint and secrets of this folder: those of the last run, or new ones. A key of a lost database is dropped."""
        layout = self._layout
        self._endpoint = (None if fresh else layout.secret("endpoint")) or make_endpoint_id()
        layout.keep_secret("endpoint", self._endpoint)
        self._operator_token = layout.secret("operator_token") or f"th-op-{secrets.token_urlsafe(32)}"
        layout.keep_secret("operator_token", self._operator_token)
        self._api_key = "" if fresh else layout.secret("api_key") or ""

    def _measure(self) -> None:
        """Write the node configurations and the policy that pins what they must measure."""
        model = self._model
        if model is None:
            raise LocalError("no model was chosen", code="option")
        self._say.begin("measure", "reference values of this installation")
        image, release = image_digest(), importlib.metadata.version("teehouse")
        for number in range(self._options.nodes):
            name = f"node-{number}"
            ready = self._layout.run / f"{name}.ready.json"
            path = self._layout.run / f"{name}.json"
            config = node_config(
                name=name,
                endpoint=self._endpoint,
                engine=model.engine,
                release=release,
                image_sha256=image,
                ready_file=ready,
            )
            write_private(path, json.dumps(config, indent=2) + "\n")
            command = launch_command(find_program("teehouse-node"), "--config", str(path))
            self._nodes.append(Child(name, lambda command=command: command, self._layout.log(name), ready))
        values = ReferenceValues(
            release=release,
            image_sha256=image,
            config_sha256=config_digest(self._layout.run / "node-0.json"),
            weights_sha256=model.weights_sha256,
            model=model.name,
        )
        write_private(self._layout.policy, policy_text(values))
        self._say.end("measure", "reference values computed here and pinned in policy.toml")

    def _migrate(self) -> None:
        command = launch_command(find_program("teehouse-cloud"), "migrate", "--db", self._db, "--json")
        log = self._layout.log("cloud")
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as out:
            process = subprocess.Popen(  # noqa: S603  our own list, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=child_environment(),
                start_new_session=True,
            )
        try:
            self._until(lambda: process.poll() is not None, MIGRATE_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            raise OperatorError("the database cannot be used", code="child-start", hint=last_words(log) or None)

    def _start_cloud(self) -> None:
        layout, ready = self._layout, self._layout.run / "cloud.ready.json"
        token_file = layout.secrets / "operator_token"

        def command() -> list[str]:
            return launch_command(
                find_program("teehouse-cloud"),
                *("serve", "--db", self._db, "--host", HOST, "--port", str(self._port)),
                *("--ready-file", str(ready), "--operator-token-file", str(token_file), "--drain-seconds", "10"),
            )

        self._cloud = Child("cloud", command, layout.log("cloud"), ready)
        self._cloud.start()

    def _admit(self) -> None:
        """The gateway answers: endpoint and key exist from here on."""
        self._port = int(self._gateway.rsplit(":", 1)[1])  # a restart must come back where clients look for it
        self._operator = Operator(self._gateway, self._operator_token)
        self._operator.put_endpoint(self._endpoint, "demo")
        for row in self._operator.nodes():
            if row.get("id") not in {node.name for node in self._nodes}:
                self._operator.delete_node(str(row.get("id")))  # of an earlier run with more nodes
        if not self._api_key:
            self._api_key = self._operator.create_key("local", [self._endpoint])
        self._layout.keep_secret("api_key", self._api_key)

    def _start_proxy(self) -> None:
        layout, ready = self._layout, self._layout.run / "proxy.ready.json"
        token_file = layout.secrets / "proxy_token"

        def command() -> list[str]:
            return launch_command(
                find_program("teehouse"),
                *("proxy", "--gateway", self._gateway, "--endpoint", self._endpoint, "--policy", str(layout.policy)),
                *("--api-key-file", str(layout.secrets / "api_key"), "--host", HOST, "--port", str(self._proxy_port)),
                *("--token-file", str(token_file), "--ready-file", str(ready), "--keep-token", "--quiet"),
            )

        self._proxy = Child("proxy", command, layout.log("proxy"), ready)
        self._proxy.start()

    def _answers(self) -> bool:
        """Whether a verified, sealed request comes back through the proxy. Raises `RefusedError` if evidence is refused."""
        base, token = self._proxy_url, self._layout.secret("proxy_token")
        model = self._model.name if self._model is not None else ""
        return base is not None and token is not None and probe(base, token, model)

    def _until(self, condition: Any, seconds: float = START_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            self._watch(starting=True)
            if time.monotonic() > end:
                raise OperatorError(
                    "the platform did not start in time", code="start-timeout", hint=f"see {self._layout.logs}"
                )
            self._breathe()

    # -- watch --------------------------------------------------------------------------------------------------

    def _children(self) -> list[Child]:
        return [child for child in (self._cloud, self._proxy, *self._nodes) if child is not None and child.lives]

    def _watch(self, *, starting: bool = False) -> None:
        changed = False
        for child in self._children():
            news = child.watch()
            if news == "died":
                changed = True
                if starting and child.deaths >= MAX_EARLY_DEATHS:
                    raise OperatorError(
                        f"{child.name} does not start (exit {child.last_exit})",
                        code="child-start",
                        hint=last_words(child.log) or f"see {child.log}",
                    )
                self._say.note(f"{child.name} ended (exit {child.last_exit}), starting it again")
            elif news == "ready":
                changed = True
                if child.lives > 1:
                    self._say.note(f"{child.name} is back (process {child.pid})")
        self._register()
        if changed and self._state is not None:
            self._publish()

    def _register(self) -> None:
        """Tell the gateway where each node listens now."""
        if self._operator is None or self._cloud is None or self._cloud.ready is None:
            return
        for node in self._nodes:
            url = node.ready.get("url") if node.ready else None
            if url is None or self._registered.get(node.name) == url:
                continue
            try:
                self._operator.put_node(node.name, self._endpoint, url)
            except TeehouseError:
                return  # the gateway is not back yet; the next look tries again
            self._registered[node.name] = url

    # -- what others read ---------------------------------------------------------------------------------------

    @property
    def _db(self) -> str:
        return f"sqlite:///{self._layout.database}"

    @property
    def _gateway(self) -> str:
        if self._cloud is not None and self._cloud.ready is not None:
            return str(self._cloud.ready["url"])
        return f"http://{HOST}:{self._port}"

    @property
    def _proxy_url(self) -> str | None:
        if self._proxy is None or self._proxy.ready is None:
            return None
        said = self._proxy.ready
        return str(said.get("base_url") or said.get("openai_base_url") or f"{said['url']}/v1")

    def _publish(self) -> None:
        """Write the state file, and the ready file when the platform can answer."""
        if self._proxy_url is not None:
            self._proxy_port = int(self._proxy_url.split("/")[2].rsplit(":", 1)[1])
        state = dict(self._state or {})
        state |= {
            "version": 1,
            "gateway": self._gateway,
            "openai_base_url": self._proxy_url or state.get("openai_base_url"),
            "openai_api_key": self._layout.secret("proxy_token"),
            "api_key": self._api_key,
            "endpoints": {"demo": self._endpoint},
            "policy": str(self._layout.policy),
            "data_dir": str(self._layout.root),
            "pids": {"supervisor": os.getpid()} | {c.name: c.pid for c in self._children() if c.pid is not None},
            "model": self._model.name if self._model else "",
            "engine": self._options.engine,
            "tier": "simulated",
        }
        self._state = state
        text = json.dumps(state, indent=2) + "\n"
        write_private(self._layout.state, text)
        if self._options.ready_file is not None:
            write_private(self._options.ready_file, text)

    @property
    def state(self) -> dict[str, Any]:
        """The ready file's content."""
        return dict(self._state or {})

    @property
    def layout(self) -> Layout:
        """Where this platform keeps its files."""
        return self._layout

    @property
    def model(self) -> ModelChoice | None:
        """What the nodes run."""
        return self._model

    # -- stop ---------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop what was started: first who takes requests, last who answers them. A second signal skips the waiting."""
        if self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)
        self._layout.state.unlink(missing_ok=True)
        before = self._signals
        rounds = [[self._proxy], [self._cloud], self._nodes]
        for group in rounds:
            children = [child for child in group if child is not None and child.lives]
            for child in children:
                child.terminate()
            end = time.monotonic() + DRAIN_SECONDS
            while time.monotonic() < end and self._signals <= before and any(c.alive for c in children):
                time.sleep(TICK)
            for child in children:
                child.finish()
        if self._operator is not None:
            self._operator.close()
        if self._options.remember:
            forget(self._layout.root)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.__exit__(None, None, None)
