# SPDX-License-Identifier: Apache-2.0
"""What a node asks of the machine it runs in: extend a register, and sign a report.

A platform is an Attester (RFC 9334): it produces Evidence and judges none. Real ones read the kernel; `simulated`
writes the real wire format under a root whose private key is public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from teehouse_core.evidence.replay import workload_events

__all__ = ["InsecurePlatformWarning", "Platform", "PlatformEvidence", "measure_workload"]


class InsecurePlatformWarning(UserWarning):
    """The platform in use protects nothing; every policy but `evaluate` refuses its evidence."""


@dataclass(frozen=True, slots=True)
class PlatformEvidence:
    """One report over given report data, with the collateral to appraise it offline.

    `collateral` is the bundle's member, `{"intel": {…}}`; `aux` the platform's own texts.
    """

    report: bytes = field(repr=False)
    event_log: bytes | None = field(default=None, repr=False)
    aux: Mapping[str, str] = field(default_factory=dict)
    collateral: Mapping[str, Any] = field(default_factory=dict, repr=False)


@runtime_checkable
class Platform(Protocol):
    """One machine's attestation interface; its methods are quick enough to call from an event loop."""

    @property
    def type(self) -> str:
        """The bundle's `platform.type`."""
        ...

    def extend(self, event: str, content: bytes) -> None:
        """Append to the workload log and extend RTMR3 with its digest. Raises `LocalError` for a bad event name."""
        ...

    def workload_log(self) -> list[dict[str, str]]:
        """The log so far, as the bundle carries it."""
        ...

    def collect(self, report_data: bytes) -> PlatformEvidence:
        """A fresh report over exactly 64 bytes. Raises `LocalError` for another length."""
        ...

    def close(self) -> None:
        """Let go of devices; nothing is collected afterwards."""
        ...


def measure_workload(
    platform: Platform,
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
) -> None:
    """Extend every event that appraisal compares with a keyset, once, before the first keyset is published.

    The values must be the ones the keyset will state; a node that says more in its keyset than it measured here is
    refused (checks `binding.*`). Call it exactly once per platform: a second call repeats events and is refused too.
    """
    for event, content in workload_events(
        release=release,
        image_sha256=image_sha256,
        config_sha256=config_sha256,
        weights_sha256=weights_sha256,
        model=model,
        doors=doors,
        egress=egress,
        content_logging=content_logging,
        moderation=moderation,
    ):
        platform.extend(event, content)
