# SPDX-License-Identifier: Apache-2.0
"""`teehouse up`, `down`, `status`: a whole platform on this machine, as processes."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import Dir, Json
from teehouse.cli.output import Output, simulated_badge
from teehouse.cli.progress import Steps
from teehouse.local.options import DEFAULT_PORT
from teehouse_core.errors import LocalError, OperatorError

__all__ = ["down", "show_platform", "status", "up"]

_START_SECONDS: Final = 3600.0  # a detached start may fetch a gigabyte

Engine = Annotated[str, typer.Option("--engine", metavar="ENGINE", help="llamacpp (a real model) or echo (for tests).")]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME|FILE", help="Catalogue name (`teehouse models`) or path of a GGUF file."),
]
Nodes = Annotated[int, typer.Option("--nodes", metavar="N", help="Node processes; each loads the model.")]


def up(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Where it keeps its files.", show_default="user data folder"),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="The gateway's port; 0 takes a free one.")
    ] = DEFAULT_PORT,
    proxy_port: Annotated[
        int | None,
        typer.Option(
            "--proxy-port", metavar="PORT", min=0, max=65535, help="The proxy's port.", show_default="the next, if free"
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", metavar="FILE", help="Written (0600) when everything can answer.")
    ] = None,
    engine: Engine = "llamacpp",
    model: Model = None,
    nodes: Nodes = 2,
    detach: Annotated[
        bool, typer.Option("--detach/--foreground", help="Return when it can answer, and leave it running.")
    ] = False,
    pace: Annotated[
        float, typer.Option("--pace", metavar="TOKENS", help="Tokens per second of the echo engine; 0 does not wait.")
    ] = 0.0,
    as_json: Json = False,
) -> int:
    """Start a platform on this machine: gateway, nodes and verifying proxy.

    It runs until SIGTERM or Ctrl-C, which stops all it started and nothing else. A process that dies is started again.
    The same folder gives the same endpoint and keys. SIMULATED hardware protects nothing.
    """
    from teehouse.local.layout import default_dir
    from teehouse.local.options import UpOptions
    from teehouse.local.supervisor import Stopped, Supervisor

    out = Output(as_json=as_json)
    options = UpOptions(
        root=(directory or default_dir()).expanduser().resolve(),
        port=port,
        proxy_port=proxy_port,
        ready_file=ready_file.expanduser().absolute() if ready_file is not None else None,
        engine=engine,
        model=model,
        nodes=nodes,
        pace=pace,
    )
    options.check()
    if detach:
        return _detached(options, out)
    try:
        with Steps(out.talk) as steps, Supervisor(options, steps) as platform:
            if as_json:
                out.json(platform.state)
            else:
                show_platform(out, platform.state, note=platform.model.note)
                out.say(Text("Ctrl-C or `teehouse down` stops it.", style="dim"))
            platform.serve()
            steps.note("stopping; answers under way may end")
    except Stopped:
        out.say(Text("stopped before it was ready", style="dim"))
    return exits.OK


def _detached(options: Any, out: Output) -> int:
    """Start `teehouse up` in a session of its own and wait until it answers."""
    from teehouse.local.layout import Layout
    from teehouse.local.lock import DirLock
    from teehouse.local.programs import find_program
    from teehouse.local.state import find_running

    layout = Layout(options.root)
    layout.create()
    with DirLock(layout.lock):
        pass  # refuses early, with the right words, when one runs here
    command = [str(find_program("teehouse")), "up", "--foreground", "--json", "--dir", str(options.root)]
    command += ["--port", str(options.port), "--engine", options.engine, "--nodes", str(options.nodes)]
    for flag, value in (
        ("--proxy-port", options.proxy_port),
        ("--ready-file", options.ready_file),
        ("--model", options.model),
        ("--pace", options.pace or None),
    ):
        command += [flag, str(value)] if value is not None else []
    said = layout.run / "up.json"
    with said.open("wb") as answer, layout.log("supervisor").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  ourselves
            command, stdin=subprocess.DEVNULL, stdout=answer, stderr=log, start_new_session=True
        )
    end = time.monotonic() + _START_SECONDS
    with Steps(out.talk) as steps:
        steps.begin("up", "platform starts")
        while True:
            running = find_running(options.root)
            if running is not None and running.state is not None and running.supervisor == process.pid:
                break
            if process.poll() is not None:
                raise _as_error(said, process.returncode)
            if time.monotonic() > end:
                process.terminate()
                raise OperatorError(
                    "the platform did not start in time", code="start-timeout", hint=f"see {layout.logs}"
                )
            steps.tick()
            time.sleep(0.05)
        steps.end("up", "platform runs in the background")
    if out.as_json:
        out.json(running.state)
    else:
        show_platform(out, running.state)
        out.say(Text("`teehouse down` stops it.", style="dim"))
    return exits.OK


def _as_error(said: Path, code: int) -> Exception:
    try:
        error = json.loads(said.read_text(encoding="utf-8"))["error"]
        kind = LocalError if code == exits.USAGE else OperatorError
        return kind(error["message"], code=error["code"], hint=error["hint"])
    except (OSError, ValueError, KeyError, TypeError):
        return OperatorError(f"the platform did not start (exit {code})", code="child-start")


def show_platform(out: Output, state: dict[str, Any], *, note: str = "") -> None:
    """How to use a running platform."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="key", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("hardware", Text.assemble(simulated_badge(state["tier"]), (" protects nothing", "warn")))
    table.add_row("model", Text(state["model"]) if not note else Text.assemble(state["model"], (f"  {note}", "dim")))
    table.add_row("endpoint", state["endpoints"]["demo"])
    table.add_row("gateway", state["gateway"])
    table.add_row("OPENAI_BASE_URL", state["openai_base_url"])
    table.add_row("OPENAI_API_KEY", state["openai_api_key"])
    table.add_row("policy", state["policy"])
    out.show("")
    out.show(table)
    out.show("")


def down(directory: Dir = None, as_json: Json = False) -> int:
    """Stop the platform that runs on this machine."""
    from teehouse.local.control import stop

    out = Output(as_json=as_json)
    with Steps(out.talk) as steps:
        steps.begin("down", "answers under way may end")
        stopped = stop(directory)
        if stopped is None:
            steps.end("down", "no platform runs here")
        else:
            steps.end("down", f"stopped the platform in {stopped.layout.root}")
    if as_json:
        out.json({"version": 1, "stopped": stopped is not None, "supervisor": stopped.supervisor if stopped else None})
    return exits.OK


_WORDS: Final = {
    "running": ("✓", "good"),
    "starting": ("◌", "warn"),
    "degraded": ("✗", "bad"),
    "stopped": ("–", "dim"),
}


def status(directory: Dir = None, as_json: Json = False) -> int:
    """Show what runs: processes, nodes, endpoint. Exit code 0 when it answers, 3 when it does not."""
    from teehouse.local.control import describe

    out = Output(as_json=as_json)
    said = describe(directory)
    state = said["state"]
    code = exits.OK if state == "running" else exits.UNREACHABLE
    if as_json:
        out.json(said)
        return code
    mark, style = _WORDS[state]
    badge = Text.assemble("  ", simulated_badge(said["tier"])) if said.get("tier") else Text("")
    out.show(Text.assemble((f"{mark} {state}", style), badge))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="key", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    states = {node["node"]: node for node in said["nodes"]}
    for name, process in said["processes"].items():
        alive = process["alive"]
        node = states.get(name)
        good = alive and (node is None or node["state"] == "ready")
        word = ("ready" if node is None else str(node["state"])) if alive else "gone"
        where = node["url"] if node is not None else ""
        line = Text.assemble(("✓ " if good else "✗ ", "good" if good else "bad"), word if node or not alive else "runs")
        table.add_row(name, line, Text.assemble((f"process {process['pid']}", "dim"), f"  {where}" if where else ""))
    for name in ("endpoint", "model", "gateway", "openai_base_url", "policy", "data_dir"):
        value = said["endpoints"]["demo"] if name == "endpoint" and "endpoints" in said else said.get(name)
        if value:
            table.add_row(name.replace("_", " "), Text("·", style="dim"), str(value))
    if said["processes"]:
        out.show(table)
    else:
        out.say(Text("hint: `teehouse up` starts one", style="hint"))
    return code
