# SPDX-License-Identifier: Apache-2.0
"""`teehouse models`: what `up` and `demo` can fetch by name."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from teehouse.cli import exits
from teehouse.cli.options import Json
from teehouse.cli.output import Output

__all__ = ["models"]


def models(as_json: Json = False) -> int:
    """List the models that `up` and `demo` can fetch by name; any GGUF file works by path."""
    from teehouse.local.catalogue import CATALOGUE, DEFAULT_MODEL

    out = Output(as_json=as_json)
    if as_json:
        rows = [
            {
                "name": m.name,
                "title": m.title,
                "bytes": m.size,
                "context": m.context,
                "licence": m.licence,
                "weights_sha256": m.weights_sha256,
                "notes": m.notes,
                "images": m.adapter is not None,
                "default": m.name == DEFAULT_MODEL,
            }
            for m in CATALOGUE.values()
        ]
        out.json({"models": rows})
        return exits.OK
    for model in CATALOGUE.values():
        size = f"{model.size / 1e6:,.0f} MB" if model.size < 1e9 else f"{model.size / 1e9:.1f} GB"
        head = Text.assemble((model.name, "key"), ("  default" if model.name == DEFAULT_MODEL else "", "good"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=10, style="dim")
        grid.add_column(overflow="fold")
        grid.add_row("model", f"{model.title}, {size}, context {model.context} tokens")
        grid.add_row("licence", model.licence)
        grid.add_row("note", model.notes)
        if model.adapter is not None:
            grid.add_row("images", model.adapter.label)
        grid.add_row("weights", Text(model.weights_sha256, style="dim"))
        out.show(head)
        out.show(grid)
        out.show("")
    return exits.OK
