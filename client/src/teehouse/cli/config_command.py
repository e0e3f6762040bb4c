# SPDX-License-Identifier: Apache-2.0
"""`teehouse config show`: every setting, its value and where it came from."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import ApiKeyFile, Dir, Endpoint, Gateway, Json, PolicyOption, load_settings
from teehouse.cli.output import Output, safe

__all__ = ["show"]


def show(
    gateway: Gateway = None,
    endpoint: Endpoint = None,
    policy: PolicyOption = None,
    api_key_file: ApiKeyFile = None,
    directory: Dir = None,
    as_json: Json = False,
) -> int:
    """Show each setting with its source; secrets are masked."""
    out = Output(as_json=as_json)
    settings = load_settings(
        base_url=gateway, endpoint=endpoint, policy=policy, api_key_file=api_key_file, directory=directory
    )
    rows = settings.describe()
    if as_json:
        out.json({"settings": {name: {"value": value, "source": source} for name, value, source in rows}})
        return exits.OK
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("setting", style="key", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("source", overflow="fold")
    for name, value, source in rows:
        table.add_row(
            name, safe(value) or Text("–", style="dim"), Text(safe(source), style="dim" if source == "default" else "")
        )
    out.show(table)
    if settings.policy.simulated_allowed:
        out.say(Text("this policy accepts SIMULATED evidence, which protects nothing", style="warn"))
    return exits.OK
