# SPDX-License-Identifier: Apache-2.0
"""By platform type: the checks without which nothing is accepted, whatever else a verdict says.

Data only, so that `verdict` can hold every verdict to it without importing the technologies' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["COMMON", "FLOOR", "POOL_FLOOR"]

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
POOL_FLOOR: Final = frozenset(
    {
        "pool.allowed",
        "pool.listed",
        "pool.policy-text",
        "pool.policy-strength",
        "pool.service",
        "pool.signature",
        "pool.endpoint",
        "pool.validity",
        "pool.suites",
        "pool.claims",
    }
)
"""Of a pool, beside what its key service's own evidence must pass."""

_INTEL: Final = COMMON | {
    "tdx.quote.format",
    "tdx.quote.signature",
    "tdx.quote.attestation-key",
    "tdx.qe.signature",
    "tdx.pck.chain",
    "tdx.pck.revocation",
    "tdx.tcb.level",
    "tdx.dcap",
    "tdx.tcb.status",
    "tdx.td.debug",
}

_TPM: Final = frozenset({"tpm.quote.format", "tpm.quote.signature", "tpm.quote.pcr-digest", "tpm.ak.trust"})
_HCL: Final = _TPM | {"hcl.format", "hcl.runtime-data"}

_AMD: Final = COMMON | {
    "snp.report.format",
    "snp.report.algorithm",
    "snp.report.signature",
    "snp.key.kind",
    "snp.leaf.format",
    "snp.leaf.tcb",
    "snp.chain.signatures",
    "snp.chain.dates",
    "snp.product.match",
    "snp.product.allowed",
    "snp.guest.policy",
    "snp.guest.debug",
}

FLOOR: Final[Mapping[str, frozenset[str]]] = {
    "tdx": _INTEL,
    "simulated": _INTEL,
    "sev-snp": _AMD,
    "tpm": COMMON | _TPM,
    "az-snp-vtpm": _AMD | _HCL,
    "az-tdx-vtpm": _INTEL | _HCL,
}
"""Its keys are the platform types that this version can appraise; `technologies.TECHNOLOGIES` has the same keys."""
