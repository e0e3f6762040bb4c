# SPDX-License-Identifier: Apache-2.0
"""A release policy in a file, read here as the key service will read it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from teehouse.cli.offline import read_bytes
from teehouse_core.errors import LocalError, MalformedError

__all__ = ["MAX_POLICY_FILE", "read_release"]

MAX_POLICY_FILE: Final = 32 * 1024  # bytes, as the service takes them


def read_release(path: Path) -> bytes:
    """The policy's bytes. Raises `LocalError` (`release-policy`, `file-unreadable`)."""
    from teehouse_core.appraise.release_policy import ReleasePolicy

    try:
        raw = read_bytes(path.expanduser(), MAX_POLICY_FILE).strip()
        ReleasePolicy.parse(raw)
    except MalformedError as error:
        hint = "`teehouse keys policy new` writes one; it is canonical JSON"
        raise LocalError(f"{path} is no release policy: {error.message}", code="release-policy", hint=hint) from None
    return raw
