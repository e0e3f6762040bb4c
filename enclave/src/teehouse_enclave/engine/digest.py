# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of model weights, as the keyset publishes it (EVIDENCE §1).

A single file: the SHA-256 of its bytes. A directory: SHA-256 over the lines `path ‖ 00 ‖ sha256 ‖ 0A`, sorted by path
as bytes, where `path` is relative with `/` and `sha256` is 64 lower-case hex digits. A model with an adapter beside it
(`mmproj`) is the directory {`mmproj.gguf`, `model.gguf`}, whatever the files are called on this disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from teehouse_core.errors import OperatorError

__all__ = ["digest_of_parts", "file_digest", "weights_digest"]

_BLOCK = 1 << 20  # bytes; large enough that Python's share of the hashing time is below one percent
_MAX_FILES = 100_000  # files; a model directory has tens


def file_digest(file: BinaryIO) -> str:
    """Hex SHA-256 of an open file, from its start; leaves the position at its start."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def digest_of_parts(parts: Mapping[str, str]) -> str:
    """Hex digest of a set of named parts, each given by its own hex SHA-256."""
    digest = hashlib.sha256()
    for name, part in sorted((name.encode(), part) for name, part in parts.items()):
        digest.update(name + b"\x00" + part.encode("ascii") + b"\n")
    return digest.hexdigest()


def weights_digest(path: str | os.PathLike[str]) -> str:
    """Hex digest of a weights file or directory. Blocks: run it in a thread.

    Links to files are followed (model caches are made of them) and counted under the link's name; links to
    directories are not. Raises OperatorError `weights-unreadable`.
    """
    root = Path(path)
    try:
        if not root.is_dir():
            with root.open("rb") as file:
                return file_digest(file)
        parts: dict[str, str] = {}
        for item in sorted(root.rglob("*")):
            if item.is_dir():
                if item.is_symlink():
                    raise _unreadable("a weights directory holds a link to a directory")
                continue
            if not item.is_file():
                raise _unreadable("a weights directory holds something that is not a file")
            if len(parts) >= _MAX_FILES:
                raise _unreadable("a weights directory holds too many files")
            name = item.relative_to(root).as_posix()
            if "\n" in name:
                raise _unreadable("a weights directory holds a file with a line break in its name")
            with item.open("rb") as file:
                parts[name] = file_digest(file)
    except OSError as exc:
        raise _unreadable(f"cannot read the model weights: {exc.strerror}") from exc
    if not parts:
        raise _unreadable("the weights directory is empty")
    return digest_of_parts(parts)


def _unreadable(message: str) -> OperatorError:
    return OperatorError(message, code="weights-unreadable", hint="give the path of a weights file or directory")
