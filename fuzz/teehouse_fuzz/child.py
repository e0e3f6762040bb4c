#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One target under libFuzzer, in a process of its own; started by `run.py`.

The environment names the target (`TEEHOUSE_FUZZ_TARGET`), since libFuzzer hands its own arguments on when it merges.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    warnings.simplefilter("ignore")  # a library's opinion about odd certificates is no crash
    with atheris.instrument_imports(include=["teehouse_core"], enable_loader_override=False):
        import teehouse_core

        for module in pkgutil.walk_packages(teehouse_core.__path__, "teehouse_core."):
            importlib.import_module(module.name)  # also those that the product imports when first used
    from teehouse_core.errors import TeehouseError
    from teehouse_fuzz import scenes
    from teehouse_fuzz.targets import TARGETS

    run = TARGETS[os.environ["TEEHOUSE_FUZZ_TARGET"]]
    scenes.scenes()  # made before the clock of the first input runs

    def one(data: bytes) -> None:
        with contextlib.suppress(TeehouseError):
            run(data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
