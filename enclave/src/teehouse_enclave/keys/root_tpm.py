# SPDX-License-Identifier: Apache-2.0
"""Sealing to a TPM 2.0 under a policy over its registers: this machine, booted as it was when the root was made.

The registers name what firmware and boot loader measured: the image and, where it is verified by its root hash, all of
its programs. PCR 15, which this service extends with its workload log, is left out: any program on the same booted
image could extend it alike, so it would guard nothing, and each change of the configuration would lose the root. So the
measured image must run nothing else, and what configuration the service runs under is for its evidence to show. After
an update of the image the registers differ and the root does not open: keep it in an HSM where that must go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from teehouse_core.errors import LocalError
from teehouse_core.evidence.tpm import WORKLOAD_PCR
from teehouse_enclave.platform.tpm import QUOTED
from teehouse_enclave.platform.tpm2 import Tpm, TpmError, Transport, open_transport
from teehouse_enclave.platform.tpm2_seal import POLICY_FAIL, seal, unseal

__all__ = ["SEALED_UNDER", "TpmBackend"]

SEALED_UNDER: Final = tuple(pcr for pcr in QUOTED if pcr != WORKLOAD_PCR)
_INTEGRITY: Final = 0x1DF  # TPM_RC_INTEGRITY in parameter 1: the blob is another TPM's


class TpmBackend:
    """Implements `RootBackend` over a TPM device, or a socket that speaks the bare protocol."""

    name = "tpm"
    simulated = False

    def __init__(
        self, device: str = "/dev/tpmrm0", *, pcrs: Sequence[int] = SEALED_UNDER, transport: Transport | None = None
    ) -> None:
        self._tpm = Tpm(transport or open_transport(device))
        self._pcrs = tuple(pcrs)

    def seal(self, secret: bytes) -> bytes:
        return seal(self._tpm, secret, self._pcrs)

    def unseal(self, sealed: bytes) -> bytes:
        try:
            return unseal(self._tpm, sealed)
        except TpmError as error:
            if error.rc not in (POLICY_FAIL, _INTEGRITY):
                raise
            why = "its registers differ" if error.rc == POLICY_FAIL else "it is another TPM, or was cleared"
            hint = "boot the image that sealed it, on that machine"
            text = f"the TPM does not give the root: {why}"
            raise LocalError(text, code="root-sealed-elsewhere", hint=hint) from error

    def close(self) -> None:
        self._tpm.close()
