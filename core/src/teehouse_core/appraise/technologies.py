# SPDX-License-Identifier: Apache-2.0
"""The technologies that `appraise` knows, one row each: who checks, what proves the chain, which tier that is worth.

To add one: its checks in `checks_<name>.py` (a function that returns `PlatformFacts`), their ids in `catalogue`, its
floor in `floors`, a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.checks_hcl import check_az_snp, check_az_tdx
from teehouse_core.appraise.checks_snp import check_snp
from teehouse_core.appraise.checks_tdx import check_tdx
from teehouse_core.appraise.checks_tpm import check_tpm
from teehouse_core.appraise.facts import PlatformFacts
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.appraise.verdict import Tier
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.replay import host_data, replay
from teehouse_core.evidence.tpm import workload_register

__all__ = ["SHARED", "TECHNOLOGIES", "UNSUPPORTED_HINT", "Technology", "check_ids"]

SHARED: Final = frozenset({"policy", "workload", "release", "challenge", "binding", "gpu", "devices"})
"""First words of the check ids that are made for every platform type."""


@dataclass(frozen=True, slots=True)
class Technology:
    """One platform type. `words` are the first words of its check ids, beside the shared ones.

    `tier` is what the type is worth once `chain_check` passed, and "none" until then. `log_register` turns the log's
    digests into the value that `PlatformFacts.register` must have; `register_name` says what that is called.
    """

    check: Callable[[Sheet, Bundle, Policy, int], PlatformFacts]
    words: frozenset[str]
    chain_check: str
    tier: Tier
    register_name: str
    log_register: Callable[[Iterable[bytes]], bytes]


_TDX_WORDS: Final = frozenset({"tdx", "eventlog"})
_SNP_WORDS: Final = frozenset({"snp"})
_TPM_WORDS: Final = frozenset({"tpm"})
_HCL_WORDS: Final = _TPM_WORDS | {"hcl"}
_PCR: Final = "PCR 15"

TECHNOLOGIES: Final[Mapping[str, Technology]] = {
    "tdx": Technology(check_tdx, _TDX_WORDS, "tdx.pck.chain", "hardware", "RTMR3", replay),
    "simulated": Technology(check_tdx, _TDX_WORDS, "tdx.pck.chain", "simulated", "RTMR3", replay),
    "sev-snp": Technology(check_snp, _SNP_WORDS, "snp.chain.signatures", "hardware", "HOST_DATA", host_data),
    "tpm": Technology(check_tpm, _TPM_WORDS, "tpm.ak.trust", "vtpm", _PCR, workload_register),
    "az-snp-vtpm": Technology(
        check_az_snp, _SNP_WORDS | _HCL_WORDS, "snp.chain.signatures", "hardware", _PCR, workload_register
    ),
    "az-tdx-vtpm": Technology(
        check_az_tdx, _TDX_WORDS | _HCL_WORDS, "tdx.pck.chain", "hardware", _PCR, workload_register
    ),
}

UNSUPPORTED_HINT: Final = f"this version appraises {', '.join(TECHNOLOGIES)} evidence only"


def check_ids(platform_type: str) -> tuple[str, ...]:
    """The ids that apply to a platform type, in the catalogue's order; the shared ones only for an unknown type."""
    technology = TECHNOLOGIES.get(platform_type)
    words = SHARED | (technology.words if technology else frozenset())
    return tuple(check_id for check_id in CATALOGUE if check_id.partition(".")[0] in words)
