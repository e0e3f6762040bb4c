# SPDX-License-Identifier: Apache-2.0
"""`teehouse proxy`: a verifying, sealing OpenAI-compatible server on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import ApiKeyFile, Dir, Endpoint, Gateway, Json, PolicyOption, load_settings
from teehouse.cli.output import Output

__all__ = ["proxy"]


def proxy(
    gateway: Gateway = None,
    endpoint: Endpoint = None,
    policy: PolicyOption = None,
    api_key_file: ApiKeyFile = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDR", help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 takes a free one.")] = 7331,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="FILE", help="Where its bearer token is kept (0600).", show_default="made anew"
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", metavar="FILE", help="Written (0600) when it can answer.")
    ] = None,
    keep_token: Annotated[
        bool, typer.Option("--keep-token", help="Use the token that the file already holds, if it holds one.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Serve any OpenAI-compatible tool: it verifies the nodes and seals each request.

    Point the tool's base URL at it and give it the token as API key. A node that is refused gives a 502 with the
    failed check; nothing is ever forwarded unsealed.
    """
    from teehouse.proxy.server import Listening, serve

    out = Output(as_json=as_json, quiet=quiet)
    settings = load_settings(
        base_url=gateway, endpoint=endpoint, policy=policy, api_key_file=api_key_file, directory=directory
    )

    def ready(listening: Listening) -> None:
        base = f"{listening.url}/v1"
        if as_json:
            out.json({"version": 1, "url": listening.url, "base_url": base, "token_file": str(listening.token_file)})
        if settings.policy.simulated_allowed:
            out.say(Text("the policy accepts SIMULATED evidence, which protects nothing", style="warn"))
        out.say(Text.assemble(("✓ ", "good"), "proxy listens"))
        out.say(Text.assemble(("  OPENAI_BASE_URL=", "key"), base), soft_wrap=True)
        out.say(Text.assemble(("  OPENAI_API_KEY=", "key"), f'"$(cat {listening.token_file})"'), soft_wrap=True)

    serve(
        settings,
        host=host,
        port=port,
        token_file=token_file,
        ready_file=ready_file,
        keep_token=keep_token,
        quiet=quiet,
        on_ready=ready,
    )
    return exits.OK
