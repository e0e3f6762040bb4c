# SPDX-License-Identifier: Apache-2.0
"""The tree of commands. Each lives in its own module, which is imported when it runs."""

from __future__ import annotations

import typer

from teehouse.cli import (
    chat_command,
    config_command,
    demo_command,
    local_commands,
    models_command,
    proxy_command,
    verify_command,
    version_command,
)

__all__ = ["app"]

app = typer.Typer(
    name="teehouse",
    help="Verified, sealed LLM inference from your own machine.\n\n"
    "Nothing is sent before a node's evidence was appraised here, under your policy; nothing travels unsealed.",
    epilog="Exit codes: 0 done or accepted · 10 refused · 20 not supported · 30 malformed · 3 unreachable · "
    "2 usage · 1 a fault of ours",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # cli.main is the boundary; a traceback with local values could show a prompt
    context_settings={"help_option_names": ["-h", "--help"]},
)

LOOK, USE, RUN = "Look", "Use", "Run a platform on this machine (SIMULATED hardware: it protects nothing)"

app.command("chat", rich_help_panel=USE)(chat_command.chat)
app.command("verify", rich_help_panel=USE)(verify_command.verify)
app.command("proxy", rich_help_panel=USE)(proxy_command.proxy)
app.command("demo", rich_help_panel=RUN)(demo_command.demo)
app.command("up", rich_help_panel=RUN)(local_commands.up)
app.command("down", rich_help_panel=RUN)(local_commands.down)
app.command("status", rich_help_panel=RUN)(local_commands.status)
app.command("models", rich_help_panel=RUN)(models_command.models)
app.command("version", rich_help_panel=LOOK)(version_command.version)

config = typer.Typer(help="Settings: where each value comes from.", no_args_is_help=True)
config.command("show")(config_command.show)
app.add_typer(config, name="config", rich_help_panel=LOOK)
