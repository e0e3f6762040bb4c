# SPDX-License-Identifier: Apache-2.0
"""The workload log: what the node measured about itself, and the register that holds it to its word.

An entry is (event, digest, content); digest = SHA-384(L("workload-log") ‖ event ‖ 00 ‖ content), hex, and
RTMR3' = SHA-384(RTMR3 ‖ digest), starting from 48 zero bytes (Intel TDX Module ABI, TDG.MR.RTMR.EXTEND).
The log is only a claim until its replay equals the register inside a verified report.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from teehouse_core.errors import LocalError
from teehouse_core.wire.labels import L

__all__ = [
    "EVENTS",
    "MAX_CONTENT",
    "MAX_ENTRIES",
    "RTMR_SIZE",
    "WorkloadEntry",
    "event_digest",
    "extend",
    "host_data",
    "replay",
    "valid_event",
    "workload_events",
]

RTMR_SIZE: Final = 48  # bytes, SHA-384
MAX_ENTRIES: Final = 256  # entries in one log; a node writes one of each event
MAX_CONTENT: Final = 64 * 1024  # bytes of one entry's content

_EVENT: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")

EVENTS: Final = (
    "release",
    "image_sha256",
    "config_sha256",
    "weights_sha256",
    "model",
    "doors",
    "egress",
    "content_logging",
    "moderation",
)
"""Every event a node measures, each exactly once, in this order; an unknown, missing or repeated one is refused."""


@dataclass(frozen=True, slots=True)
class WorkloadEntry:
    """One entry as claimed: `digest` is the 48 bytes the sender wrote, not a recomputation."""

    event: str
    digest: bytes
    content: bytes


def valid_event(event: str) -> bool:
    """Whether `event` is a name the log may carry: 1 to 64 of `a-z 0-9 _ . -`, starting with a letter or digit."""
    return _EVENT.fullmatch(event) is not None


def event_digest(event: str, content: bytes) -> bytes:
    """48 bytes that bind the event name to its content; the name holds no zero byte, so the join is unambiguous."""
    if not valid_event(event):
        raise LocalError(f"not an event name: {event!r}", code="event-name")
    return hashlib.sha384(L("workload-log") + event.encode("ascii") + b"\0" + content).digest()


def extend(register: bytes, digest: bytes) -> bytes:
    """One extension: SHA-384(register ‖ digest)."""
    return hashlib.sha384(register + digest).digest()


def replay(digests: Iterable[bytes], start: bytes = bytes(RTMR_SIZE)) -> bytes:
    """Fold `extend` over the digests, in log order."""
    register = start
    for digest in digests:
        register = extend(register, digest)
    return register


def host_data(digests: Iterable[bytes]) -> bytes:
    """The 32 bytes of HOST_DATA that stand for a log: SHA-256(L("host-data") ‖ the register it replays to).

    The host sets HOST_DATA once, at launch, before the guest runs; so the log must be known by then. The measured guest
    compares its own log with it and serves nothing when they differ (spec 03 §3).
    """
    return hashlib.sha256(L("host-data") + replay(digests)).digest()


def workload_events(
    *,
    release: str,
    image_sha256: str,
    config_sha256: str,
    weights_sha256: str,
    model: str,
    doors: Sequence[str] = (),
    egress: str = "none",
    content_logging: str = "none",
    moderation: str = "none",
) -> tuple[tuple[str, bytes], ...]:
    """The (event, content) pairs a node must extend at start, and the ones its keyset is compared with.

    Contents are the ASCII of the values; `doors` is joined by commas in keyset order, empty for none.
    """
    values = (
        release,
        image_sha256,
        config_sha256,
        weights_sha256,
        model,
        ",".join(doors),
        egress,
        content_logging,
        moderation,
    )
    return tuple((event, value.encode("utf-8")) for event, value in zip(EVENTS, values, strict=True))
