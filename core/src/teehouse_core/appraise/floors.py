# SPDX-License-Identifier: Apache-2.0
"""By platform type: the checks without which nothing is accepted, whatever else a verdict says.

Data only, so that `verdict` can hold every verdict to it without importing the technologies' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["COMMON", "FLOOR"]

COMMON: Final = frozenset(
    {
        "policy.supported",
        "policy.platform",
        "workload.log.digests",
        "workload.log.replay",
        "workload.log.events",
        "binding.report-data",
        "binding.role",
        "binding.validity",
    }
)
_INTEL: Final = COMMON | {
    "tdx.quote.format",
    "tdx.quote.signature",
    "tdx.quote.attestation-key",
    "tdx.qe.signature",
    "tdx.pck.chain",
    "tdx.pck.revocation",
    "tdx.dcap",
    "tdx.tcb.status",
    "tdx.td.debug",
}

_TPM: Final = frozenset({"tpm.quote.format", "tpm.quote.signature", "tpm.quote.pcr-digest", "tpm.ak.trust"})
_HCL: Final = _TPM | {"hcl.format", "hcl.runtime-data"}

FLOOR: Final[Mapping[str, frozenset[str]]] = {
    "tdx": _INTEL,
    "simulated": _INTEL,
    "tpm": COMMON | _TPM,
    "az-tdx-vtpm": _INTEL | _HCL,
}
"""Its keys are the platform types that this version can appraise; `technologies.TECHNOLOGIES` has the same keys."""
