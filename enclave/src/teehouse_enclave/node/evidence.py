# SPDX-License-Identifier: Apache-2.0
"""Evidence over the current keyset and a caller's challenge, at a bounded rate (PROTOCOL §2)."""

from __future__ import annotations

from collections.abc import Mapping

from teehouse_core.errors import OperatorError
from teehouse_core.evidence.bundle import build_bundle
from teehouse_core.wire.binding import INTERACTIVE, challenge, device_nonce, devices_digest, report_data
from teehouse_core.wire.keyset import Keyset
from teehouse_enclave.platform.base import Platform
from teehouse_enclave.platform.nvml import NvmlDevices

__all__ = ["EvidenceMaker", "Rate"]


class Rate:
    """A token bucket: `per_second` on average, twice that at once."""

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._full = 2 * per_second
        self._left = self._full
        self._at: float | None = None

    def take(self, monotonic: float) -> bool:
        """Whether one more is allowed at `monotonic` seconds."""
        if self._at is not None:
            self._left = min(self._full, self._left + (monotonic - self._at) * self._rate)
        self._at = monotonic
        if self._left < 1:
            return False
        self._left -= 1
        return True


class EvidenceMaker:
    """Answers interactive challenges; each costs the platform a signature, so the rate is bounded."""

    def __init__(self, platform: Platform, per_second: int, devices: NvmlDevices | None = None) -> None:
        self._platform = platform
        self._devices = devices
        self._rate = Rate(per_second)

    @property
    def platform_type(self) -> str:
        return self._platform.type

    def bundle(
        self,
        keyset: Keyset,
        value: bytes,
        monotonic: float,
        *,
        kind: int = INTERACTIVE,
        ledger: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """Bundle bytes over `keyset` for a challenge: the caller's 32 random bytes, or what this node asks itself.

        Only a caller's challenges count for the rate. `ledger` are further members of the challenge: the cosigned
        checkpoint, the keyset's proof. Raises OperatorError (over-limit).
        """
        if kind == INTERACTIVE and not self._rate.take(monotonic):
            raise OperatorError("too many challenges", code="over-limit", wire_code="over-limit")
        asked = challenge(kind, value)
        nonce = device_nonce(keyset.digest, asked)
        devices = self._devices.collect(nonce) if self._devices is not None else []
        data = report_data(keyset.digest, devices_digest([device[:3] for device in devices]), asked)
        evidence = self._platform.collect(data)
        return build_bundle(
            endpoint=keyset.endpoint,
            node=keyset.node,
            keyset=keyset.raw,
            challenge_kind=kind,
            challenge_value=value,
            platform_type=self._platform.type,
            report=evidence.report,
            workload_log=self._platform.workload_log(),
            collateral=evidence.collateral,
            event_log=evidence.event_log,
            aux=evidence.aux,
            devices=[device[3] for device in devices],
            ledger=ledger,
        )
