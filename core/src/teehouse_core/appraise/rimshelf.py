# SPDX-License-Identifier: Apache-2.0
"""The manifests and revocation answers of one appraisal: each read and verified once, however many devices need it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.revocation import RevocationPack, Status
from teehouse_core.appraise.roots_nvidia import NvidiaRoots
from teehouse_core.appraise.x509chain import chain_end, link_problem, signed_by
from teehouse_core.errors import TeehouseError
from teehouse_core.evidence.nvidia_collateral import NvidiaCollateral
from teehouse_core.evidence.rim import Rim, parse_rim, rim_support

__all__ = ["RIM_LINKS", "RimCase", "Shelf"]

MAX_REMEMBERED: Final = 32  # manifests; with MAX_REMEMBERED_RIM and what is read from it under 8 MiB in all
MAX_REMEMBERED_RIM: Final = 64 * 1024  # bytes; genuine ones have 18 to 26 KiB
RIM_LINKS: Final = 3  # signatures from a manifest's signer to the root: signer, L3, chip CA


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
            rim = _genuinely_sized(raw) if len(raw) <= MAX_REMEMBERED_RIM else parse_rim(raw)
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
    key = chain[0].public_key()
    p384 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
    r, s = (int.from_bytes(rim.signature[at : at + 48]) for at in (0, 48))
    if not p384 or not signed_by(chain[0], encode_dss_signature(r, s), rim.signed_info, hashes.SHA384()):
        return "the manifest's signature is not its signer's"
    return None


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def _genuinely_sized(raw: bytes) -> Rim:
    """`parse_rim`, remembered: the machines of a fleet show the same few manifests. What fails is not remembered."""
    return parse_rim(raw)
