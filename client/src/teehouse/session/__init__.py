# SPDX-License-Identifier: Apache-2.0
"""Sessions: verified, sealed requests, over one set of flows for blocking and async code."""

from __future__ import annotations

from teehouse.session.aio import AsyncSealedAnswer, AsyncSession
from teehouse.session.answer import ReceiptRecord, Timeouts
from teehouse.session.errors import Unreachable
from teehouse.session.sync import SealedAnswer, Session

__all__ = [
    "AsyncSealedAnswer",
    "AsyncSession",
    "ReceiptRecord",
    "SealedAnswer",
    "Session",
    "Timeouts",
    "Unreachable",
]
