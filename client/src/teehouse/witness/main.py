# SPDX-License-Identifier: Apache-2.0
"""`teehouse-witness`: the command line. Data on stdout, talk on stderr; exit 0 done, 1 failed, 2 usage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from teehouse.witness.config import DEFAULT_LISTEN, load_config
from teehouse.witness.key import make_key
from teehouse.witness.state import State, make_state
from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.wire.canonical import b64u

__all__ = ["main"]

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        result: dict[str, Any] | None = args.run(args)
    except LocalError as error:
        return _fail(error, EXIT_USAGE)
    except TeehouseError as error:
        return _fail(error, EXIT_FAILED)
    if result is not None:
        sys.stdout.write(json.dumps(result, indent=None if args.json else 2) + "\n")
    return EXIT_OK


def _fail(error: TeehouseError, status: int) -> int:
    sys.stderr.write(f"teehouse-witness: {error.message} [{error.code}]\n")
    if error.hint:
        sys.stderr.write(f"teehouse-witness: hint: {error.hint}\n")
    return status


def _init(args: argparse.Namespace) -> dict[str, Any]:
    if args.state.exists():
        raise LocalError(
            f"{args.state} exists already", code="file-exists", hint="a witness that forgets what it signed is none"
        )
    key = make_key(args.key, args.name)
    make_state(args.state, key.verifier)
    return {"name": key.name, "vkey": key.verifier.text}


def _serve(args: argparse.Namespace) -> None:
    config = load_config(
        args.config,
        key=args.key,
        state=args.state,
        listen=args.listen,
        logs=args.log,
        prefixes=args.log_prefix,
        ready_file=args.ready_file,
    )
    try:
        from teehouse.witness.server import serve  # here: the other commands need none of its libraries
    except ModuleNotFoundError as error:
        raise LocalError(
            f"the server's library {error.name} is not installed",
            code="witness-extra",
            hint="pip install 'teehouse[witness]'",
        ) from error
    serve(config)


def _show(args: argparse.Namespace) -> dict[str, Any]:
    state = State(args.state, None)
    try:
        origins = [
            {"origin": origin, "size": seen.size, "root": seen.root.hex(), "time": seen.time}
            for origin, seen in state.origins()
        ]
        forks = [
            {"origin": origin, "size": size, "time": time, "note": b64u(note)}
            for origin, size, time, note in state.forks()
        ]
    finally:
        state.close()
    return {"vkey": state.vkey, "origins": origins, "forks": forks}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="teehouse-witness",
        description="Countersigns checkpoints of transparency logs that continue what it signed before, and nothing"
        " else. Run it on a machine that the log's operator does not command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def leaf(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run, json=False)
        return made

    init = leaf("init", _init, "make a key and an empty state; show the verifier key that clients pin")
    init.add_argument("--key", type=Path, required=True, metavar="FILE", help="key file to make, mode 0600")
    init.add_argument("--state", type=Path, required=True, metavar="FILE", help="state file to make, mode 0600")
    init.add_argument("--name", required=True, help="name of the witness, e.g. witness.example/w1")
    init.add_argument("--json", action="store_true", help="one JSON object on one line")

    serve = leaf("serve", _serve, "answer /add-checkpoint and /newest until SIGTERM")
    serve.add_argument("--config", type=Path, metavar="FILE", help="JSON: key, state, listen, logs, log_prefixes, …")
    serve.add_argument("--key", type=Path, metavar="FILE", help="key file")
    serve.add_argument("--state", type=Path, metavar="FILE", help="state file")
    serve.add_argument("--listen", metavar="HOST:PORT", help=f"address, port 0 for any (default {DEFAULT_LISTEN})")
    serve.add_argument(
        "--log", action="append", default=[], metavar="ORIGIN=VKEY", help="a log to sign for; repeatable"
    )
    serve.add_argument(
        "--log-prefix",
        action="append",
        default=[],
        metavar="PREFIX=VKEY",
        help="sign for every log at or below PREFIX/ that this key signs, from its first checkpoint on; repeatable",
    )
    serve.add_argument("--ready-file", type=Path, metavar="FILE", help="JSON file written when it can answer")

    show = leaf("show", _show, "what the state holds: the newest cosigned size of each log, and forks that were seen")
    show.add_argument("--state", type=Path, required=True, metavar="FILE")
    show.add_argument("--json", action="store_true", help="one JSON object on one line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
