# SPDX-License-Identifier: Apache-2.0
"""The manifests and revocation answers of one appraisal: each read and verified once, however many devices need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.revocation import RevocationPack, Status
from teehouse_core.appraise.roots_nvidia import NvidiaRoots
from teehouse_core.appraise.x509chain import chain_end, link_problem, verify_raw_p384
from teehouse_core.errors import TeehouseError
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.evidence.rim import Rim, parse_rim, rim_support

__all__ = ["RIM_LINKS", "RimCase", "Shelf"]

RIM_LINKS = 3  # signatures from a manifest's signer to the root: signer, L3, chip CA


@dataclass(frozen=True, slots=True)
class RimCase:
    """One manifest and what was found about it; problems are None where there is none."""

    rim: Rim
    signature_problem: str | None
    chain_problem: str | None
    revocation: Status
    end: int | None  # Unix second at which its signer's chain ends

    @property
    def good(self) -> bool:
        return self.signature_problem is None and self.chain_problem is None and self.revocation.state != "revoked"


class Shelf:
    """`problems` says why stapled manifests could not be read; `rims` are the ones that could."""

    def __init__(self, collateral: NvidiaCollateral | None, roots: NvidiaRoots, policy: Policy, now: int) -> None:
        given = collateral or NvidiaCollateral()
        self.roots = roots
        self.now = now
        self.revocation = RevocationPack(given.ocsp, given.crl, now, policy.max_collateral_age)
        self.supported = rim_support()
        self.stapled = len(given.rims)
        self.problems: list[str] = []
        self.rims: list[RimCase] = []
        for raw in dict.fromkeys(given.rims) if self.supported else ():
            self._add(raw)

    def find(self, product: str, version: str | None) -> list[RimCase]:
        """Every manifest for this chip and version. There can be several: NVIDIA signs the same version again."""
        return [case for case in self.rims if (case.rim.product, case.rim.version) == (product, version)]

    def _add(self, raw: bytes) -> None:
        try:
            rim = parse_rim(raw)
            chain = tuple(x509.load_der_x509_certificate(data) for data in rim.certificates)
            signature = _signature_problem(rim, chain)
            problem = link_problem(chain, self.roots.rim, self.now, links=RIM_LINKS)
            path = (*chain[:RIM_LINKS], self.roots.rim)
            status = self.revocation.chain(path) if problem is None else Status("unknown", "its chain is not verified")
            self.rims.append(RimCase(rim, signature, problem, status, chain_end(path)))
        except TeehouseError as error:
            self.problems.append(f"{error.message} ({error.code})")
        except Exception:  # as in Sheet.run: certificate libraries raise more than ValueError on hostile bytes
            self.problems.append("a manifest's certificates are malformed")


def _signature_problem(rim: Rim, chain: Sequence[x509.Certificate]) -> str | None:
    if rim.digest != rim.claimed_digest:
        return "the manifest was changed after it was signed"
    if not verify_raw_p384(chain[0].public_key(), rim.signature, rim.signed_info):
        return "the manifest's signature is not its signer's"
    return None
