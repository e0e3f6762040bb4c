# SPDX-License-Identifier: Apache-2.0
"""Signed usage records, kept in a bounded ring until the gateway has fetched them (PROTOCOL §7)."""

from __future__ import annotations

from collections import deque
from typing import Any

from teehouse_core.wire.canonical import b64u

__all__ = ["UsageRing"]

CAPACITY = 10_000  # records; a gateway that does not fetch for this long loses what it could have billed
PAGE = 500  # records per fetch


class UsageRing:
    """Numbers records from 1. Holds ids and counts only; nothing about content."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._records: deque[tuple[int, bytes, bytes]] = deque(maxlen=CAPACITY)
        self._next = 1

    def add(self, record: bytes, sig: bytes) -> None:
        self._records.append((self._next, record, sig))
        self._next += 1

    def after(self, seq: int) -> dict[str, Any]:
        """The records after number `seq`, PAGE at most."""
        page = [one for one in self._records if one[0] > seq][:PAGE]
        return {
            "v": 1,
            "boot": self._boot,
            "next": page[-1][0] if page else max(seq, 0),
            "records": [{"seq": number, "record": b64u(record), "sig": b64u(sig)} for number, record, sig in page],
        }
