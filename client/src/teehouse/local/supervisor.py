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
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, Final

from teehouse.local.blueprint import Blueprint
from teehouse.local.children import Child, last_words
from teehouse.local.events import Reporter
from teehouse.local.keys_plan import port_of
from teehouse.local.layout import Layout, write_private
from teehouse.local.lock import DirLock
from teehouse.local.model import ModelChoice
from teehouse.local.operator_api import Operator
from teehouse.local.options import UpOptions
from teehouse.local.probe import probe
from teehouse.local.programs import child_environment
from teehouse.local.state import forget, remember
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import OperatorError, TeehouseError

__all__ = ["Stopped", "Supervisor"]

TICK: Final = 0.05  # seconds between two looks
START_SECONDS: Final = 180.0  # a start that takes longer has failed; a large model loads in less
MAX_EARLY_DEATHS: Final = 3  # deaths in a row of one child before the first ready, after which the start has failed
DRAIN_SECONDS: Final = 12.0  # what answers under way get, then the process group is killed; nodes drain for 10
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818  nobody's fault
    """A signal asked to stop before the work was done."""


class Supervisor:
    """One run of one platform, as a context: inside it the platform answers, after it everything is stopped."""

    def __init__(self, options: UpOptions, reporter: Reporter) -> None:
        options.check()
        self._options = options
        self._plan = Blueprint(options)
        self._say = reporter
        self._lock = DirLock(self._plan.layout.lock)
        self._handlers: dict[int, Any] = {}
        self._signals = 0
        self._interruptible = False
        self._nodes: list[Child] = []
        self._cloud: Child | None = None
        self._keys: list[Child] = []  # witness and key service
        self._proxy: Child | None = None
        self._operator: Operator | None = None
        self._registered: dict[str, str] = {}
        self._state: dict[str, Any] | None = None

    @property
    def layout(self) -> Layout:
        """Where this platform keeps its files."""
        return self._plan.layout

    @property
    def model(self) -> ModelChoice:
        """What the nodes run."""
        return self._plan.model

    @property
    def state(self) -> dict[str, Any]:
        """The ready file's content."""
        return dict(self._state or {})

    # ── the whole run ────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Supervisor:
        """Start; returns when the platform can answer.

        Raises `LocalError`, `OperatorError` or `RefusedError` when the start fails, and `Stopped` when a signal ended
        it; both after stopping everything.
        """
        self.layout.create()
        self._lock.__enter__()
        try:
            for number in _SIGNALS:
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

    # ── start ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        plan, say = self._plan, self._say
        self._withdraw()
        plan.check()
        if self._options.remember:
            remember(self.layout.root)
        with self.interruptible():  # a download is waited for in one piece
            plan.choose_model(say)
        plan.identify()
        say.begin("measure", "reference values of this installation")
        self._nodes = plan.nodes()
        say.end("measure", "reference values computed here and pinned in policy.toml")
        say.begin("nodes", f"starting {_count(len(self._nodes))} with {plan.model.name}")
        for node in self._nodes:
            node.start()
        say.begin("gateway", "gateway starts")
        self._run_once(plan.migrate(), "the database cannot be used")
        self._cloud = plan.cloud()
        self._cloud.start()
        self._until(self._admitted)
        say.end("gateway", f"gateway listens on {plan.gateway}")
        self._start_keys()
        self._proxy = plan.proxy()
        self._proxy.start()
        self._settle_keys()
        self._until(lambda: len(self._registered) == len(self._nodes))
        say.end("nodes", f"{_count(len(self._nodes))} with {plan.model.name} on SIMULATED hardware")
        say.begin("check", "one verified, sealed request through everything")
        self._until(self._answers)
        say.end("check", "evidence accepted, a sealed request answered")
        self._publish()

    def _run_once(self, command: Sequence[str], failure: str) -> None:
        log = self.layout.log("cloud")
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
            self._until(lambda: process.poll() is not None)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            raise OperatorError(failure, code="child-start", hint=last_words(log) or None)

    def _start_keys(self) -> None:
        """Witness, then key service: it is told where the witness is, and its ledger is the gateway."""
        keys, operator = self._plan.keys, self._operator
        if keys is None or operator is None:
            return
        self._say.begin("keys", "key service and witness start")
        witness = keys.witness()
        self._keys = [witness]
        witness.start()
        self._until(lambda: witness.ready is not None)
        service = keys.service(witness.ready or {}, self._plan.gateway, operator, fresh=self._plan.fresh)
        self._keys = [witness, service]
        service.start()

    def _settle_keys(self) -> None:
        """Once the key service answers: this user's tenant, and who reads the logs."""
        keys, operator = self._plan.keys, self._operator
        if keys is None or operator is None:
            return
        service = self._keys[-1]
        self._until(lambda: service.ready is not None)
        policy = Policy.load(self.layout.policy.read_text(encoding="utf-8"), "toml")
        with self.interruptible():
            keys.settle(service.ready or {}, policy, operator, fresh=self._plan.fresh)
        self._say.end("keys", f"key service on {keys.url}, its evidence accepted")

    def _admitted(self) -> bool:
        """Once the gateway answers: make endpoint and key, forget nodes of an earlier run that are no more."""
        plan = self._plan
        if self._cloud is None or self._cloud.ready is None:
            return False
        plan.port = port_of(self._cloud.ready)  # a restart must come back where clients look for it
        operator = Operator(plan.gateway, plan.operator_token)
        operator.put_endpoint(plan.endpoint, "demo")
        names = {node.name for node in self._nodes}
        for row in operator.nodes():
            if row.get("id") not in names:
                operator.delete_node(str(row.get("id")))
        if not plan.api_key:
            plan.api_key = operator.create_key("local", [plan.endpoint])
        self.layout.keep_secret("api_key", plan.api_key)
        self._operator = operator
        return True

    def _answers(self) -> bool:
        """Whether a verified, sealed request comes back through the proxy. Raises `RefusedError`, `OperatorError`."""
        plan = self._plan
        if self._proxy is None or self._proxy.ready is None:
            return False
        plan.proxy_port = port_of(self._proxy.ready)
        with self.interruptible():
            return probe(plan.proxy_url, plan.proxy_token, plan.model.name)

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            self._watch(starting=True)
            if time.monotonic() > end:
                raise OperatorError(
                    "the platform did not start in time", code="start-timeout", hint=f"see {self.layout.logs}"
                )
            if self._signals:
                raise Stopped
            self._say.tick()
            time.sleep(TICK)

    # ── watch ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _children(self) -> list[Child]:
        return [
            child
            for child in (self._cloud, *self._keys, self._proxy, *self._nodes)
            if child is not None and child.lives
        ]

    def _watch(self, *, starting: bool = False) -> None:
        changed = False
        for child in self._children():
            news = child.watch()
            changed |= news is not None
            if news == "died":
                if starting and child.deaths >= MAX_EARLY_DEATHS:
                    raise OperatorError(
                        f"{child.name} does not start (exit {child.last_exit})",
                        code="child-start",
                        hint=last_words(child.log) or f"see {child.log}",
                    )
                self._say.note(f"{child.name} ended (exit {child.last_exit}), starting it again")
            elif news == "ready" and child.lives > 1:
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
                self._operator.put_node(node.name, self._plan.endpoint, url)
            except TeehouseError:
                return  # the gateway is not back yet; the next look tries again
            self._registered[node.name] = url

    # ── what others read ─────────────────────────────────────────────────────────────────────────────────────────

    def _publish(self) -> None:
        """Write the state file and the ready file."""
        plan = self._plan
        self._state = {
            "version": 1,
            "gateway": plan.gateway,
            "openai_base_url": plan.proxy_url,
            "openai_api_key": plan.proxy_token,
            "api_key": plan.api_key,
            "endpoints": {"demo": plan.endpoint},
            "policy": str(self.layout.policy),
            "data_dir": str(self.layout.root),
            "pids": {"supervisor": os.getpid()} | {c.name: c.pid for c in self._children() if c.pid is not None},
            "model": plan.model.name,
            "engine": self._options.engine,
            "tier": "simulated",
            **(plan.keys.state(plan.gateway) if plan.keys is not None else {}),
        }
        text = json.dumps(self._state, indent=2) + "\n"
        write_private(self.layout.state, text)
        if self._options.ready_file is not None:
            write_private(self._options.ready_file, text)

    def _withdraw(self) -> None:
        self.layout.state.unlink(missing_ok=True)
        if self._options.ready_file is not None:
            self._options.ready_file.unlink(missing_ok=True)

    # ── stop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stop(self) -> None:
        """Stop what was started: first who takes requests, last who answers them. One more signal skips the waiting."""
        self._withdraw()
        before = self._signals
        for group in ([self._proxy], self._keys[1:], [self._cloud], [*self._keys[:1], *self._nodes]):
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
            forget(self.layout.root)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.__exit__(None, None, None)


def _count(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"
