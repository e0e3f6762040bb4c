# SPDX-License-Identifier: Apache-2.0
"""JSON log lines on stderr. Bodies, keys and Authorization values are never handed to a logger; should a key slip into
a message all the same, the last processor blots it out.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

__all__ = ["configure", "get_logger"]

_SECRETS = re.compile(r"(sk-th-[0-9a-f]{1,16}|th-op|th-lw|th-la)-[A-Za-z0-9_-]{8,}")
_MARKS = ("sk-th-", "th-op-", "th-lw-", "th-la-")


def _blot(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and any(mark in value for mark in _MARKS):
            event[name] = _SECRETS.sub(r"\1-[redacted]", value)
    return event


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's loggers to `stream` (stderr) as one JSON object a line."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # format_exc_info prints file and line only; the variant with local variables could print a body
    tail: list[Any] = [structlog.processors.format_exc_info, _blot, structlog.processors.JSONRenderer()]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))  # libraries speak up only when something is wrong
    logging.getLogger("uvicorn.access").disabled = True  # would print paths and addresses


def get_logger() -> Any:
    """The structured logger."""
    return structlog.get_logger()
