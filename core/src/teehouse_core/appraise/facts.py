# SPDX-License-Identifier: Apache-2.0
"""What a technology's own checks hand on to the checks that all technologies share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from teehouse_core.appraise.newest import Seen

__all__ = ["PlatformFacts"]


@dataclass(slots=True)
class PlatformFacts:
    """None where something did not parse. Believe nothing here without the checks that made it.

    `report_data`: the 64 bytes of the caller's choosing that the platform signed. `register`: the value that binds the
    workload log (RTMR3, HOST_DATA, a PCR). `claims`: JSON-ready members of the verdict's `cpu0`. `ends`: Unix seconds
    at which some part of the evidence stops being valid. `newest`: numbers of signed collateral, by series.
    """

    report_data: bytes | None = None
    register: bytes | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    ends: list[int] = field(default_factory=list)
    newest: dict[str, Seen] = field(default_factory=dict)
