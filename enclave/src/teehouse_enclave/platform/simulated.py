# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED TDX machine: the real wire format, no protection whatever.

It makes a genuine-looking TDX v4 quote with full collateral, under a root whose private key is public, so that all
parsing, replay, binding and policy code of a Verifier runs without hardware. Memory is not encrypted, the registers
are Python objects, and its evidence is refused by every policy but `evaluate`.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import warnings
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from teehouse_core.errors import LocalError
from teehouse_core.evidence.bundle import log_entry
from teehouse_core.evidence.replay import MAX_ENTRIES, event_digest, extend
from teehouse_core.evidence.tdx import QE_VENDOR_INTEL, TdReport, encode_pem_bundle
from teehouse_enclave.platform.base import InsecurePlatformWarning, PlatformEvidence
from teehouse_enclave.platform.simulated_pki import (
    QE_ATTRIBUTES,
    QE_MR_SIGNER,
    QE_PROD_ID,
    QE_SVN,
    TEE_TCB_SVN,
    SimulatedPki,
    raw_signature,
)

__all__ = ["SimulatedPlatform"]

REFRESH: Final = 12 * 3600  # seconds; collateral is made anew this often, long before its nextUpdate
TD_ATTRIBUTES: Final = 0x1000_0000  # SEPT_VE_DISABLE, as genuine production TDs have
XFAM: Final = 0x0006_02E7  # as genuine production TDs have
AUTH_DATA: Final = bytes(range(32))  # what Intel's quoting enclave sends
_HEADER: Final = (
    (4).to_bytes(2, "little")  # version
    + (2).to_bytes(2, "little")  # ECDSA P-256
    + (0x81).to_bytes(4, "little")  # TDX
    + bytes(4)
    + QE_VENDOR_INTEL
    + b"SIMULATED".ljust(20, b"\0")  # user data
)


def _measurement(what: str) -> bytes:
    return hashlib.sha384(b"SIMULATED " + what.encode("ascii")).digest()


class SimulatedPlatform:
    """Implements `Platform`. `clock` gives Unix seconds; `machine` (16 bytes, random by default) is its PPID."""

    type = "simulated"

    def __init__(self, *, clock: Callable[[], float] = time.time, machine: bytes | None = None) -> None:
        warnings.warn(
            "SIMULATED platform: no hardware protects this process; only the policy `evaluate` accepts it",
            InsecurePlatformWarning,
            stacklevel=2,
        )
        if machine is not None and len(machine) != 16:
            raise LocalError("a simulated machine id has 16 bytes", code="machine-id")
        self._clock = clock
        now = int(clock())
        self._pki = SimulatedPki.create(now, machine or secrets.token_bytes(16))
        self._issued = now
        self._collateral = self._pki.collateral(now)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        self._qe_report = _qe_report(hashlib.sha256(self._public + AUTH_DATA).digest())
        self._qe_signature = raw_signature(self._pki.leaf_key, self._qe_report)
        self._log: list[dict[str, str]] = []
        self._rtmr3 = bytes(48)

    def extend(self, event: str, content: bytes) -> None:
        """Append to the log and extend RTMR3. Raises `LocalError` for a bad name, too long a content, a full log."""
        if len(self._log) >= MAX_ENTRIES:
            raise LocalError(f"the workload log holds {MAX_ENTRIES} entries", code="log-full")
        entry = log_entry(event, content)
        self._rtmr3 = extend(self._rtmr3, event_digest(event, content))
        self._log.append(entry)

    def workload_log(self) -> list[dict[str, str]]:
        """A copy of the log, as the bundle carries it."""
        return [dict(entry) for entry in self._log]

    def close(self) -> None:
        """Nothing is held."""

    def collect(self, report_data: bytes) -> PlatformEvidence:
        """A fresh quote over 64 bytes with current collateral. Raises `LocalError` (`report-data`)."""
        if len(report_data) != 64:
            raise LocalError("report data has 64 bytes", code="report-data")
        self._refresh()
        signed = _HEADER + self._report(report_data).encode()
        quote = encode_pem_bundle(
            signed,
            raw_signature(self._key, signed),
            self._public,
            self._qe_report,
            self._qe_signature,
            AUTH_DATA,
            self._pki.chain,
        )
        return PlatformEvidence(report=quote, collateral={"intel": self._collateral.to_dict()})

    def _refresh(self) -> None:
        now = int(self._clock())
        if not 0 <= now - self._issued < REFRESH:  # also when the clock was set back
            self._collateral = self._pki.collateral(now)
            self._issued = now

    def _report(self, report_data: bytes) -> TdReport:
        return TdReport(
            tee_tcb_svn=TEE_TCB_SVN,
            mr_seam=_measurement("seam"),
            mr_signer_seam=bytes(48),
            seam_attributes=0,
            td_attributes=TD_ATTRIBUTES,
            xfam=XFAM,
            mr_td=_measurement("mrtd"),
            mr_config_id=bytes(48),
            mr_owner=bytes(48),
            mr_owner_config=bytes(48),
            rtmr=(_measurement("rtmr0"), _measurement("rtmr1"), _measurement("rtmr2"), self._rtmr3),
            report_data=report_data,
        )


def _qe_report(report_data: bytes) -> bytes:
    """An SGX report body, 384 bytes, of the simulated quoting enclave."""
    return b"".join(
        (
            bytes([1] * 16),  # CPU SVN
            bytes(4 + 28),  # misc select, reserved
            QE_ATTRIBUTES,
            hashlib.sha256(b"SIMULATED quoting enclave").digest(),
            bytes(32),
            QE_MR_SIGNER,
            bytes(96),
            QE_PROD_ID.to_bytes(2, "little"),
            QE_SVN.to_bytes(2, "little"),
            bytes(60),
            report_data.ljust(64, b"\0"),
        )
    )
