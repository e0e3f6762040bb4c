# SPDX-License-Identifier: Apache-2.0
"""`teehouse`: the command line of the client wheel, and the boundary at which every error becomes an exit code.

Commands import what they need when they run, so that `teehouse --help` is quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from teehouse.cli import exits
from teehouse.cli.app import app
from teehouse.cli.output import fail
from teehouse_core.errors import TeehouseError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. No traceback leaves here, and no content."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        result = app(arguments, prog_name="teehouse", standalone_mode=False)
    except TeehouseError as error:
        fail(error, as_json=as_json)
        return exits.exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\nstopped\n")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone; leave Python nothing to flush into the closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.BUG
    except Exception as error:  # the boundary: typer's own, or a bug of ours
        return _unexpected(error, as_json=as_json)
    return result if isinstance(result, int) else exits.OK


def _unexpected(error: Exception, *, as_json: bool) -> int:
    show = getattr(error, "format_message", None)
    if show is not None and hasattr(error, "exit_code"):  # a usage error, from typer
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "teehouse"
        fail(TeehouseError(_lower(str(show())), code="usage", hint=f"see `{command} --help`"), as_json=as_json)
        return exits.USAGE
    # The message of an unexpected exception could quote what a user typed: only its type is shown.
    where = _where(error)
    message = f"a fault of ours: {type(error).__name__}{where}"
    fail(
        TeehouseError(message, code="bug", hint="set TEEHOUSE_DEBUG=1 to see the traceback; it may show content"),
        as_json=as_json,
    )
    if os.environ.get("TEEHOUSE_DEBUG") == "1":
        sys.excepthook(type(error), error, error.__traceback__)
    return exits.BUG


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
