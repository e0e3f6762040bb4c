# SPDX-License-Identifier: Apache-2.0
"""Events as JSON lines on standard error. Names, numbers and codes only; a prompt has no way in here."""

from __future__ import annotations

import json
import sys
import time

__all__ = ["log_event"]


def log_event(event: str, **facts: str | int | float | bool) -> None:
    """Write one event with its facts."""
    line = {"time": round(time.time(), 3), "event": event, **facts}
    sys.stderr.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stderr.flush()
