# SPDX-License-Identifier: Apache-2.0
"""The proxy's two files: its bearer token and its ready file, both for their owner alone (0600)."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from teehouse_core.errors import LocalError

__all__ = ["kept_token", "make_token", "write_private", "write_ready"]

_FORM: Final = re.compile(r"thp-[A-Za-z0-9_-]{43}")


def make_token() -> str:
    """A fresh bearer token: 32 random bytes."""
    return f"thp-{secrets.token_urlsafe(32)}"


def kept_token(path: Path) -> str | None:
    """The token of an earlier start, if the file is a plain one, ours alone, and holds one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(file.fileno())
        private = stat.S_ISREG(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o077
        text = file.read(256).decode("ascii", "replace").strip() if private else ""
    return text if _FORM.fullmatch(text) else None


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step by a file of mode 0600. Raises LocalError (`file-unwritable`)."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}", code="file-unwritable") from error


def write_ready(path: Path, url: str) -> None:
    """Tell whoever waits where the proxy listens."""
    write_private(path, json.dumps({"version": 1, "url": url, "pid": os.getpid()}) + "\n")
