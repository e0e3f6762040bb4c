# SPDX-License-Identifier: Apache-2.0
"""`teehouse demo`: start everything, show that it works, and that what must be refused is refused."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.panel import Panel
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.local_commands import Engine, Model, Nodes
from teehouse.cli.options import Json
from teehouse.cli.output import Output, safe
from teehouse.cli.progress import Steps
from teehouse_core.errors import TeehouseError

__all__ = ["demo"]


def demo(
    question: Annotated[
        str | None, typer.Option("--ask", metavar="TEXT", help="Your own question.", show_default="one about health")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running until Ctrl-C.")] = False,
    engine: Engine = "llamacpp",
    model: Model = None,
    nodes: Nodes = 2,
    as_json: Json = False,
) -> int:
    """Ask a real model one question, verified and sealed, on SIMULATED hardware; then attack it three times.

    Starts a platform of its own on loopback and stops it at the end. Exit code 0 only if the answer was whole, no piece
    of the question or answer passed the gateway in clear, and every attack was refused.
    """
    from teehouse.demo.run import DEFAULT_QUESTION
    from teehouse.local.options import UpOptions
    from teehouse.local.supervisor import Stopped

    out = Output(as_json=as_json)
    asked = (question or "").strip() or DEFAULT_QUESTION
    folder = Path(tempfile.mkdtemp(prefix="teehouse-demo-"))  # 0700
    options = UpOptions(
        root=folder, port=0, proxy_port=0, engine=engine, model=model, nodes=nodes, remember=keep, keys=keep
    )
    try:
        options.check()
        return _play(options, asked, keep, out)
    except Stopped:
        out.say(Text("stopped", style="dim"))
        return exits.INTERRUPTED
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(options: Any, asked: str, keep: bool, out: Output) -> int:
    from teehouse.demo import show
    from teehouse.demo.run import run_demo
    from teehouse.local.supervisor import Supervisor
    from teehouse.settings import Settings

    console = out.talk if out.as_json else out.data
    console.print(show.headline(options.engine))
    with Steps(out.talk) as steps, Supervisor(options, steps) as platform:
        state = platform.state
        if platform.model.note:
            out.say(Text(f"  {safe(platform.model.note)}", style="dim"))
        endpoint = state["endpoints"]["demo"]
        settings = Settings.load(
            environ={},
            file=platform.layout.empty_config(),
            base_url=state["gateway"],
            api_key=state["api_key"],
            endpoint=endpoint,
            policy=state["policy"],
        )
        try:
            with platform.interruptible():
                result = run_demo(settings, endpoint, asked, out)
        except TeehouseError as error:
            console.print(Panel(Text(f"THE DEMO FAILED: {safe(error.message)}"), border_style="bad", style="bad"))
            raise
        console.print(show.part("✓", f"all of it held, in {result.seconds:.1f} s"))
        if out.as_json:
            document = result.to_json()
            if keep:
                document["platform"] = state
            out.json(document)
        console.print(show.next_steps(state if keep else None))
        if keep:
            platform.serve()
    return exits.OK
