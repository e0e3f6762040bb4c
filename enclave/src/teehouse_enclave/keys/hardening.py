# SPDX-License-Identifier: Apache-2.0
"""Keep key bytes of this process out of files: no core dumps, no debugger, no swap where that is possible."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

__all__ = ["harden"]

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # sys/mman.h


def harden() -> bool:
    """No core file, not dumpable, memory locked; False where locking is not allowed, the rest always holds.

    Without the right to lock all memory nothing is locked: a limit reached later would end the process.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold keys
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        return False
    return bool(libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)
