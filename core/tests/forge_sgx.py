# SPDX-License-Identifier: Apache-2.0
"""SGX quotes of version 3 under the SIMULATED root: the TDX forge with an enclave report in place of the TD report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from forge_tdx import REPORT_DATA, ForgedQuote, attestation_key, pki, qe_report, raw_public

from teehouse_enclave.platform import simulated, simulated_pki

__all__ = ["SgxQuote"]

INIT = 1  # flags of an enclave's attributes
DEBUG = 2


@dataclass(frozen=True)
class SgxQuote(ForgedQuote):
    """As `ForgedQuote`; `report` is not used. `broken` bytes are put into the enclave report after signing."""

    flags: int = INIT
    broken: tuple[int, bytes] = (0, b"")

    def quote(self) -> bytes:
        public = raw_public(attestation_key())
        body = bytearray(384)
        body[48:56] = self.flags.to_bytes(8, "little")
        body[64:96] = b"\x44" * 32
        body[320:384] = REPORT_DATA
        head = (3).to_bytes(2, "little") + simulated._HEADER[2:4] + bytes(4) + simulated._HEADER[8:]
        signed = self.header(head) + bytes(body)
        report = self.qe(qe_report(self.auth, public))
        parts = {
            "signature": simulated_pki.raw_signature(attestation_key(), signed),
            "attestation_key": public,
            "qe_report": report,
            "qe_signature": simulated_pki.raw_signature(pki().leaf_key, report),
            "qe_auth_data": self.auth,
            "pem_chain": pki().chain,
            **self.parts,
        }
        auth, chain = parts["qe_auth_data"], parts["pem_chain"]
        tail = b"".join(parts[name] for name in ("signature", "attestation_key", "qe_report", "qe_signature"))
        tail += len(auth).to_bytes(2, "little") + auth + (5).to_bytes(2, "little") + len(chain).to_bytes(4, "little")
        at, patch = 48 + self.broken[0], self.broken[1]
        signed = signed[:at] + patch + signed[at + len(patch) :]
        return signed + (len(tail) + len(chain)).to_bytes(4, "little") + tail + chain + self.tail

    def endorsements(self) -> dict[str, str]:
        def info(value: dict[str, Any]) -> None:
            value["id"] = "SGX"
            for name in ("tdxModule", "tdxModuleIdentities"):
                del value[name]
            for level in value["tcbLevels"]:
                del level["tcb"]["tdxtcbcomponents"]
            self.tcb_info(value)

        def identity(value: dict[str, Any]) -> None:
            value["id"] = "QE"
            self.qe_identity(value)

        plain = ForgedQuote(tcb_info=info, qe_identity=identity, collateral=self.collateral)
        return plain.endorsements()

    def but(self, **changes: Any) -> SgxQuote:
        return replace(self, **changes)
