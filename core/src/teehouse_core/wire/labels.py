# SPDX-License-Identifier: Apache-2.0
"""Domain separation: L(s) of PROTOCOL §1."""

from __future__ import annotations

import hashlib

__all__ = ["L", "VERSION", "hash_label"]

VERSION = "sealed/1"


def L(label: str) -> bytes:  # noqa: N802  the specification's name
    """ASCII "teehouse sealed/1 " ‖ label ‖ 00."""
    return b"teehouse sealed/1 " + label.encode("ascii") + b"\0"


def hash_label(label: str, *parts: bytes) -> bytes:
    """SHA-256(L(label) ‖ parts…), 32 bytes."""
    digest = hashlib.sha256(L(label))
    for part in parts:
        digest.update(part)
    return digest.digest()
