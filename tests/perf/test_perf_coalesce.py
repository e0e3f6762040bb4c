# SPDX-License-Identifier: Apache-2.0
"""The first token of an answer does not wait for the beat of coalescing; later ones that come fast do."""

from __future__ import annotations

import time

import pytest

from teehouse_enclave.node.coalesce import Outbox, flushes

pytestmark = pytest.mark.anyio
FLUSH_MS = 600  # far above what scheduling on a busy machine can take


async def test_the_opening_piece_delays_nothing() -> None:
    outbox = Outbox()
    records = flushes(outbox, FLUSH_MS, time.monotonic)
    began = time.monotonic()
    await outbox.put(b"role")
    assert await anext(records) == b"role"
    await outbox.put(b"first")
    assert await anext(records) == b"first"
    assert time.monotonic() - began < FLUSH_MS / 2000
    await outbox.put(b"second")
    await outbox.put(b" third")
    assert await anext(records) == b"second third"
    assert time.monotonic() - began >= FLUSH_MS / 1000
    outbox.close()
    assert [record async for record in records] == []
