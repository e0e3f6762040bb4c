# SPDX-License-Identifier: Apache-2.0
"""Azure confidential machines under TEST roots: a vTPM quote, the HCL report that names its key, chip evidence."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from forge_snp import Forge as SnpForge
from forge_tdx import ForgedQuote
from forge_tpm import TpmBundle, rsa_key

from teehouse_core.evidence.jsontext import b64_text

__all__ = ["AzureBundle", "hcl_report", "runtime_data"]

AREA = 1184  # bytes for the chip report
TYPES = {"sev-snp": 2, "tdx": 4}


def _b64u(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()


def runtime_data(key: rsa.RSAPrivateKey, **configuration: str) -> bytes:
    """The JSON that names the attestation key."""
    numbers = key.public_key().public_numbers()
    ak = {"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": _b64u(numbers.e), "n": _b64u(numbers.n)}
    return json.dumps({"keys": [ak], "vm-configuration": {"secure-boot": "true", **configuration}}).encode()


def hcl_report(kind: str, chip: bytes, runtime: bytes) -> bytes:
    """The report as the NV index holds it; `chip` an SNP report, or anything for a TD."""
    tail = struct.pack("<IIIII", 20 + len(runtime), 1, TYPES[kind], 1, len(runtime)) + runtime
    size = 32 + AREA + len(tail)
    return b"HCLA" + struct.pack("<IIII", 2, size, 2, 0) + bytes(12) + chip.ljust(AREA, b"\0") + tail


@dataclass
class AzureBundle:
    """A whole bundle of type `az-snp-vtpm` or `az-tdx-vtpm`; each part can be set wrong."""

    kind: str = "sev-snp"
    snp: SnpForge = field(default_factory=SnpForge)
    td: ForgedQuote = field(default_factory=ForgedQuote)
    tpm: TpmBundle = field(default_factory=lambda: TpmBundle(key=rsa_key()))
    bound: bytes | None = None  # what the chip report carries in place of the hash of the runtime data
    hcl: Callable[[bytes], bytes] = lambda raw: raw  # after it was made
    aux: Mapping[str, str] = field(default_factory=dict)

    @property
    def runtime(self) -> bytes:
        return runtime_data(rsa_key())

    @property
    def report_data(self) -> bytes:
        bound = hashlib.sha256(self.runtime).digest() if self.bound is None else self.bound
        return bound.ljust(64, b"\0")

    def parts(self) -> tuple[bytes, bytes | None, dict[str, Any]]:
        """The HCL report, the TD quote, the collateral."""
        if self.kind == "sev-snp":
            chip = self.snp.but(report_data=self.report_data)
            hcl = hcl_report("sev-snp", chip.report(), self.runtime)
            return self.hcl(hcl), None, {"amd": chip.collateral().to_dict()}
        change = self.td.report
        td = self.td.with_(report=lambda r: change(replace(r, report_data=self.report_data)))
        collateral = {"intel": td.endorsements()}
        return self.hcl(hcl_report("tdx", b"\x81" * 1024, self.runtime)), td.quote(), collateral

    def build(self) -> bytes:
        """The bundle's bytes."""
        document = json.loads(self.tpm.build())
        hcl, quote, collateral = self.parts()
        aux = document["platform"]["aux"]
        aux["hcl"] = b64_text(hcl)
        if quote is not None:
            aux["td_quote"] = b64_text(quote)
        aux.update(self.aux)
        document["platform"]["type"] = "az-snp-vtpm" if self.kind == "sev-snp" else "az-tdx-vtpm"
        document["collateral"] = collateral
        return json.dumps(document).encode()

    def artifact(self) -> tuple[bytes, dict[str, bytes]]:
        """The same as one document with its files, as `az-vtpm` takes them."""
        document = json.loads(self.build())
        platform = document["platform"]
        aux = platform["aux"]
        found: dict[str, Any] = {
            "quote": {
                "message": platform["report"],
                "signature": aux["signature"],
                "pcrs": json.loads(aux["pcrs"]),
            },
            "hcl": aux["hcl"],
        }
        if "td_quote" in aux:
            found["td_quote"] = aux["td_quote"]
        if "event_log" in platform:
            found["event_log"] = platform["event_log"]
        collateral = document["collateral"]
        return json.dumps(found).encode(), {"collateral.json": json.dumps(collateral).encode()}
