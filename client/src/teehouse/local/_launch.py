# SPDX-License-Identifier: Apache-2.0
"""Becomes one child of the supervisor: `python -I -S _launch.py PARENT PROGRAM ARGS…`.

Before the exec it gives up core dumps, which could hold prompts, and asks the kernel to be killed when the supervisor
dies without a word (Linux; the wish survives an exec). It is a file of its own because doing this between fork and
exec inside a process with threads is not safe.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, program, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[2:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the supervisor died before the wish was made
            sys.exit(1)
    os.execv(program, arguments)  # noqa: S606  the supervisor's own list, no shell


if __name__ == "__main__":
    main()
