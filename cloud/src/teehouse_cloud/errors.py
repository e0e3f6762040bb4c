# SPDX-License-Identifier: Apache-2.0
"""Errors of the cloud wheel.

    OperatorError (core)      the person who runs the platform can fix it
     ├─ SettingsError         a flag, an environment variable or a file it names
     ├─ DatabaseError         database absent, not migrated, or not reachable
     └─ NotFoundError         named thing does not exist
    PeerError (core)          somebody on the wire
     ├─ UpstreamFailed        a node, before the first byte of its answer (so another may be tried)
     ├─ UpstreamLost          a node, after the first byte (the client must see a cut stream)
     ├─ ConflictError         a writer of the ledger, at odds with what is stored
     └─ ClientGone            the client hung up

No message of these ever holds a body, a key or an Authorization value.
"""

from __future__ import annotations

from teehouse_core.errors import OperatorError, PeerError

__all__ = [
    "ClientGone",
    "ConflictError",
    "DatabaseError",
    "NotFoundError",
    "SettingsError",
    "UpstreamFailed",
    "UpstreamLost",
]


class SettingsError(OperatorError):
    """A setting is missing or unusable. Code `settings`."""


class DatabaseError(OperatorError):
    """The database cannot be used as it is. Codes `db-unreachable`, `db-not-migrated`, `storage-full`."""


class NotFoundError(OperatorError):
    """No such endpoint, node, key or report. Code `<noun>-unknown`."""


class UpstreamFailed(PeerError):  # noqa: N818  an outcome of one attempt, not yet an error of the request
    """A node gave no usable answer and no byte of one has reached the client; `code` is the metric label."""


class UpstreamLost(PeerError):  # noqa: N818  an outcome of the stream
    """A node vanished in the middle of an answer; `code` is the metric label."""


class ConflictError(PeerError):
    """What TKS sends does not follow from what the ledger holds. `size` is where the log ends."""

    def __init__(self, message: str, *, code: str, size: int, index: int | None = None) -> None:
        super().__init__(message, code=code)
        self.size = size
        self.index = index  # the first position at odds, where there is one


class ClientGone(PeerError):  # noqa: N818  nobody is left to tell
    """The client closed the connection."""
