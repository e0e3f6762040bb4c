# SPDX-License-Identifier: Apache-2.0
"""A few lives of the crash drill in each run of the suite; `tests/crash/run.py --points 500` does the many."""

from __future__ import annotations

import os
import time
from pathlib import Path

from crash.run import drill

POINTS = int(os.environ.get("CRASH_POINTS", "8"))


def test_nothing_is_lost_forked_or_unlogged(tmp_path: Path) -> None:
    run = drill(tmp_path, POINTS, seed=int(time.time()))
    assert run.book.done
    assert run.book.leaves
