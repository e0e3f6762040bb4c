# SPDX-License-Identifier: Apache-2.0
"""`teehouse-cloud`: the command line. Data on stdout, talk on stderr; exit 0 done, 1 failed, 2 usage."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teehouse_cloud import commands
from teehouse_cloud.errors import SettingsError
from teehouse_cloud.logs import configure
from teehouse_cloud.settings import Settings, load
from teehouse_core.errors import TeehouseError

__all__ = ["main"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        settings = load(**{name: getattr(args, name, None) for name in Settings.model_fields})
        if not settings.db:
            raise SettingsError(
                "no database named", code="settings", hint="give --db sqlite:///file.db or set TEEHOUSE_CLOUD_DB"
            )
        configure(settings.log_level)
        if args.command == "serve":
            from teehouse_cloud.server import serve  # here: the other commands need none of its libraries

            serve(settings)
            return EXIT_OK
        result = asyncio.run(args.run(settings.db, args))
    except SettingsError as exc:
        return _fail(exc, EXIT_USAGE)
    except TeehouseError as exc:
        return _fail(exc, EXIT_FAILED)
    _show(result, as_json=args.json)
    return EXIT_OK


def _fail(exc: TeehouseError, status: int) -> int:
    sys.stderr.write(f"teehouse-cloud: {exc.message}\n")
    if exc.hint:
        sys.stderr.write(f"teehouse-cloud: hint: {exc.hint}\n")
    return status


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for row in value:
                sys.stdout.write("  ".join(f"{k}={_word(v)}" for k, v in row.items()) + "\n")
        else:
            sys.stdout.write(f"{name}: {_word(value)}\n")


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(str(item) for item in value) or "-"
    return "-" if value in (None, "") else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teehouse-cloud",
        description="Gateway and control plane of Teehouse. Sees ciphertext and metadata only.",
        epilog="every option of serve can also be set as TEEHOUSE_CLOUD_<NAME>",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--db", help="database URL, e.g. sqlite:///teehouse.db")
    common.add_argument("--json", action="store_true", help="one JSON object on stdout")
    nouns = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def leaf(where: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = where.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(run=run)
        return made

    leaf(nouns, "migrate", commands.migrate, "bring the database schema up to date")
    leaf(nouns, "init", commands.init, "migrate, and make an operator token (shown once)")
    _add_serve(leaf(nouns, "serve", None, "run the gateway and the operator API"))

    keys = nouns.add_parser("key", help="API keys").add_subparsers(dest="verb", required=True)
    made = leaf(keys, "create", commands.key_create, "make an API key (shown once)")
    made.add_argument("--label", required=True, help="what it is for")
    made.add_argument(
        "--endpoint", action="append", required=True, dest="endpoints", help="endpoint it opens, * for all; repeatable"
    )
    leaf(keys, "list", commands.key_list, "list API keys without their secrets")
    leaf(keys, "revoke", commands.key_revoke, "revoke an API key").add_argument("account")

    endpoints = nouns.add_parser("endpoint", help="inference endpoints").add_subparsers(dest="verb", required=True)
    made = leaf(endpoints, "put", commands.endpoint_put, "create or rename an endpoint")
    made.add_argument("endpoint")
    made.add_argument("--name", required=True)
    leaf(endpoints, "list", commands.endpoint_list, "list endpoints")

    nodes = nouns.add_parser("node", help="node processes").add_subparsers(dest="verb", required=True)
    made = leaf(nodes, "put", commands.node_put, "register a node")
    made.add_argument("node")
    made.add_argument("--endpoint", required=True)
    made.add_argument("--url", required=True, help="where the gateway reaches it, e.g. http://10.0.0.7:9000")
    leaf(nodes, "list", commands.node_list, "list nodes as last seen")
    leaf(nodes, "delete", commands.node_delete, "forget a node").add_argument("node")

    ledger = nouns.add_parser("ledger", help="transparency logs of TKS").add_subparsers(dest="verb", required=True)
    made = leaf(ledger, "token", commands.ledger_token, "make a ledger token (shown once)")
    made.add_argument("--log", help="public or tenant-<tenant id>; a writer token without it is for every log")
    made.add_argument("--writer", action="store_true", help="a token for TKS, which appends; otherwise one that reads")
    made.add_argument("--label", default="", help="who it is for")
    leaf(ledger, "tokens", commands.ledger_tokens, "list ledger tokens without their secrets")
    leaf(ledger, "revoke", commands.ledger_revoke, "revoke a ledger token").add_argument("token", help="its id")
    made = leaf(ledger, "forget", commands.ledger_forget, "delete the names that belong to an entry, for good")
    made.add_argument("log")
    made.add_argument("index", type=int)
    leaf(ledger, "logs", commands.ledger_logs, "list logs, their sizes and newest checkpoints")
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    kinds: dict[Any, Any] = {int: int, float: float, str: str}
    for name, field in Settings.model_fields.items():
        if name == "db":
            continue
        kind = kinds.get(field.annotation, Path)
        default = "" if field.default in (None, "") else f" (default {field.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, type=kind, help=f"{field.description}{default}")


if __name__ == "__main__":
    sys.exit(main())
