# SPDX-License-Identifier: Apache-2.0
"""Nothing that C++ code prints may leave the TEE.

llama.cpp keeps quiet at its lowest verbosity, except where it does not: a grammar that fails to parse is written to
file descriptor 2 whatever the setting, and that grammar is made of the user's own JSON schema. So descriptors 1 and 2
are pointed at the null device for the whole process, after Python's own `sys.stdout` and `sys.stderr` have been moved
to private copies of them: the node's log goes on, text that bypasses Python goes nowhere. So does the message of a
crash, which may hold prompt text just as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any

__all__ = ["mute_native_output"]

_muted: dict[int, int] = {}


def mute_native_output() -> None:
    """Mute descriptors 1 and 2 for code outside Python. Idempotent; process-wide; never undone."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            if descriptor not in _muted:
                with contextlib.suppress(OSError):  # a process may be started without it
                    _muted[descriptor] = os.dup(descriptor)
                    _move(stream, descriptor, _muted[descriptor])
            os.dup2(null, descriptor)
        finally:
            os.close(null)


def _move(stream: Any, old: int, new: int) -> None:
    """Let a Python stream write to `new`. In place: log handlers keep hold of the stream object they were given."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # with PYTHONUNBUFFERED there is no buffer in between
    if isinstance(raw, io.FileIO) and raw.fileno() == old:
        stream.flush()
        raw.__init__(new, "wb", closefd=False)  # type: ignore[misc]
