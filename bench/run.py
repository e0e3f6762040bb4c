#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`make bench`: measure the sealed path beside the plain one. Exit status: 0 measured (also when an aim was missed),
1 a bench broke, 2 usage.

    python bench/run.py [stream|real|gateway|seal|verify|weights|keys …] [--quick] [--resume] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from teehouse_bench.gateway import run_gateway
from teehouse_bench.keys import run_keys
from teehouse_bench.real import run_real
from teehouse_bench.results import Budget, Result
from teehouse_bench.seal import run_seal
from teehouse_bench.stream import run_stream
from teehouse_bench.table import write_table
from teehouse_bench.verify import run_verify
from teehouse_bench.weights import run_weights

RESULTS = Path(__file__).resolve().parent / "results"
# Seconds, with the start of the processes. What one bench leaves over, the next ones may use.
FULL = {  # ≤ 18 minutes together
    "seal": 50.0,
    "verify": 20.0,
    "weights": 40.0,
    "keys": 330.0,
    "gateway": 155.0,
    "stream": 265.0,
    "real": 190.0,
}
# ≤ 130 seconds together
QUICK = {"seal": 7.0, "verify": 9.0, "weights": 7.0, "keys": 40.0, "gateway": 18.0, "stream": 25.0, "real": 24.0}
TINY = 60.0  # each; a tiny run ends by itself
MODEL = "smollm2-135m-instruct"


def say(text: str) -> None:
    """Talk goes to stderr; the table is the data."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description="Measure the sealed path beside the plain one, in turns, in one run."
    )
    parser.add_argument("names", nargs="*", metavar="BENCH", help=f"of {', '.join(FULL)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="130 seconds instead of 18 minutes; into results/local")
    parser.add_argument(
        "--tiny", action="store_true", help="seconds, to see that the bench works; numbers mean nothing"
    )
    parser.add_argument("--resume", action="store_true", help="keep the finished cases of a run that broke off")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--model", default=MODEL, help=f"catalogue name or GGUF file for `real` (default {MODEL})")
    parser.add_argument("--seconds", type=float, help="time for each named bench instead of its usual")
    given = parser.parse_args(argv)
    unknown = [name for name in given.names if name not in FULL]
    if unknown:
        parser.error(f"no bench {unknown[0]!r}; there are {', '.join(FULL)}")
    small = given.quick or given.tiny
    folder = (given.out or (RESULTS / "local" if small else RESULTS)).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the context managers, so children are stopped
    kinds: dict[str, Callable[..., None]] = {
        "seal": run_seal,
        "verify": run_verify,
        "weights": run_weights,
        "keys": run_keys,
        "gateway": run_gateway,
        "stream": run_stream,
        "real": partial(run_real, model=given.model),
    }
    broken = 0
    shares = dict.fromkeys(FULL, TINY) if given.tiny else QUICK if small else FULL
    names = given.names or list(FULL)
    whole = Budget(sum(shares[name] for name in names))
    for place, name in enumerate(names):
        share = shares[name] / sum(shares[later] for later in names[place:])
        budget = Budget(given.seconds) if given.seconds else whole.part(share)
        result = Result(name, folder, resume=given.resume, say=say)
        try:
            kinds[name](result, budget, quick=small, tiny=given.tiny)
        except Exception:  # one broken bench leaves the others their turn, and the exit status says so
            broken += 1
            traceback.print_exc()
            say(f"{name}: BROKE; its finished cases are kept, go on with --resume")
            continue
        say(f"{name}: written to {result.finish()}")
    print(write_table(folder))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
