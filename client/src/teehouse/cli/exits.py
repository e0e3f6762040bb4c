# SPDX-License-Identifier: Apache-2.0
"""Exit codes of every command, and which error gives which. Stable: scripts and CI call them (EVIDENCE §4)."""

from __future__ import annotations

from typing import Final

from teehouse.keys.errors import KeyServiceError
from teehouse_core.errors import (
    LocalError,
    OperatorError,
    PeerError,
    RefusedError,
    TeehouseError,
    UnauthenticatedError,
)

__all__ = ["BUG", "INTERRUPTED", "MALFORMED", "OK", "REFUSED", "UNREACHABLE", "UNSUPPORTED", "USAGE", "exit_code"]

OK: Final = 0  # done, accepted
BUG: Final = 1  # a fault of ours
USAGE: Final = 2  # arguments, configuration, files of this machine
UNREACHABLE: Final = 3  # nobody answers, or who answers cannot do it now
REFUSED: Final = 10  # verification said no, or the key service did
UNSUPPORTED: Final = 20  # evidence of a kind that this version cannot appraise
MALFORMED: Final = 30  # bytes that no parser accepts
INTERRUPTED: Final = 130  # Ctrl-C

_UNREACHABLE_CODES: Final = frozenset({"unreachable", "no-answer", "connection-lost"})


def exit_code(error: TeehouseError) -> int:
    """The exit code of an error that ended a command."""
    if isinstance(error, KeyServiceError):
        return UNREACHABLE if error.passing else REFUSED
    if isinstance(error, RefusedError):
        return REFUSED
    if isinstance(error, OperatorError | UnauthenticatedError) or error.code in _UNREACHABLE_CODES:
        return UNREACHABLE
    if isinstance(error, PeerError):
        return MALFORMED
    return USAGE if isinstance(error, LocalError) else BUG
