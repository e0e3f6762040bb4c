# SPDX-License-Identifier: Apache-2.0
"""What an auditor refuses. Every code says what somebody must have done; `index` is the first entry where it shows."""

from __future__ import annotations

from teehouse_core.errors import LocalError, RefusedError

__all__ = ["ExportVersion", "LogRefused"]


class LogRefused(RefusedError):  # noqa: N818  a verdict
    """A log that must not be believed. Codes:

    log-unsigned, log-signature, log-quorum   the checkpoint was not signed by whom it must be
    log-origin                                another log's checkpoint
    log-stale                                 the checkpoint is older than asked for
    log-rollback                              smaller than what this user saw before
    log-fork                                  another history than what this user saw before
    log-rewritten                             entries that are not those of the signed tree
    log-hidden                                an entry that the signed tree covers is not given, or another in its place
    log-foreign-entry                         an entry of another tenant or another kind of log
    log-repeated-id                           one id in two entries
    log-opening                               names that are not those that the entry commits to
    log-entry                                 an entry that no parser accepts
    """

    default_code = "log-refused"

    def __init__(self, message: str, *, code: str, index: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.index = index


class ExportVersion(LocalError):  # noqa: N818
    """An export of a form that this version does not know."""

    default_code = "export-version"
