# SPDX-License-Identifier: Apache-2.0
"""Bench `keys`: the key service and its log, as real processes on this machine, SIMULATED platform, one witness.

`releases` are whole ones: challenge, evidence, appraisal, entry, cosigned checkpoint, sealed key, opened grant.
`appends` are durable commits of what the service journals and the ledger stores, beside the barest inserts of the same
rows into the same databases. `proofs` is what an auditor's machine computes. `log` is a whole log, from the first
append to an export verified without a network, at a hundredth and then in full, so that its memory can be compared.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from teehouse_bench.keys_appends import measure_appends
from teehouse_bench.keys_log import measure_log
from teehouse_bench.keys_parts import support
from teehouse_bench.keys_proofs import measure_proofs
from teehouse_bench.keys_releases import measure_releases
from teehouse_bench.results import Budget, Result

__all__ = ["run_keys"]

LOG_SHARE = 0.8  # of the time: a log of a million entries takes most of it
ENDS_BY_ITSELF = 600.0  # seconds


def run_keys(result: Result, budget: Budget, *, quick: bool, tiny: bool) -> None:
    """Releases, appends, proofs, and with all the time that is left a whole log."""
    rounds = 2 if tiny else 3
    requesters = 4 if tiny else 32
    seconds = 0.4 if tiny else 1.5 if quick else 4.0
    sizes = (1, 16) if tiny else (1, 16, 256)
    tree = 2_000 if tiny else 50_000 if quick else 1_000_000
    size = 2_000 if tiny else 40_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="teehouse-bench-") as folder:
        world = support("support_keys").World(Path(folder), own_bytecode=False)
        try:
            world.start()
            few = Budget(ENDS_BY_ITSELF) if tiny else budget.part(0.5 if quick else 1 - LOG_SHARE)
            measure_releases(result, few, world, rounds=rounds, requesters=requesters, seconds=seconds)
            for process in (world.keys, *world.witnesses):
                process.kill()
            measure_appends(result, few, rounds=rounds, sizes=sizes, seconds=0.05 if tiny else 0.15 if quick else 0.4)
            measure_proofs(result, few, rounds=rounds, size=tree, proofs=50 if tiny else 500 if quick else 2_000)
            settings = {"entries": size, "small": size // 100}
            result.run(f"log of {size:,} entries", settings, partial(measure_log, budget=budget, world=world))
        finally:
            world.close()
