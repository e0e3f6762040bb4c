# SPDX-License-Identifier: Apache-2.0
"""Azure's HCL report: a chip report of the paravisor, and the runtime data whose hash that report carries.

Layout (all little-endian): header 32 bytes ("HCLA", version, report size, request type, status, 12 reserved), chip
report area of 1184 bytes (an SNP report, or a TD report of 1024 bytes and zeros), runtime data header of 20 bytes
(size, version, report type, hash type, length of the JSON), the JSON, and zeros from the NV index. The chip report's
own field is H(JSON) ‖ zeros, so the JSON's `HCLAkPub` is vouched for exactly as far as the chip report is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.cursor import Cursor
from teehouse_core.evidence.fields import Field
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.tpm import rsa_key

__all__ = ["MAX_HCL", "HclReport", "fields", "parse_hcl"]

MAX_HCL: Final = 16 * 1024  # bytes; the NV index holds 2600
AREA: Final = 1184  # bytes for the chip report
TD_REPORT: Final = 1024  # bytes of TDREPORT_STRUCT inside that area
MAX_RUNTIME: Final = 8 * 1024  # bytes of JSON; 1100 to 1300 seen

_KINDS: Final = {2: "sev-snp", 4: "tdx"}
_HASHES: Final = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}


@dataclass(frozen=True, slots=True)
class HclReport:
    """`kind` is `sev-snp` or `tdx`; `tee_report` the SNP report or TD report; `report_data` what it must carry."""

    kind: str
    version: int
    tee_report: bytes = field(repr=False)
    runtime_data: bytes = field(repr=False)
    report_data: bytes
    ak: rsa.RSAPublicKey = field(repr=False)
    configuration: dict[str, Any]


def parse_hcl(raw: bytes) -> HclReport:
    """Read one HCL report. Raises `MalformedError` (`hcl-…`); verifies nothing."""
    return _parse(raw, None)


def fields(raw: bytes) -> list[Field]:
    """Every field of an HCL report by byte range. Raises as `parse_hcl` does."""
    found: list[Field] = []
    _parse(raw, found)
    return found


def _parse(raw: bytes, found: list[Field] | None) -> HclReport:
    if len(raw) > MAX_HCL:
        raise MalformedError(f"HCL report is larger than {MAX_HCL} bytes", code="hcl-too-large")
    r = Cursor(raw, "hcl", "little", fields=found)
    if r.take(4, "header.signature") != b"HCLA":
        raise MalformedError("not an HCL report", code="hcl-signature")
    version = r.uint(4, "header.version")
    size = r.uint(4, "header.report_size", MAX_HCL)
    r.uint(4, "header.request_type")
    r.uint(4, "header.status")
    r.take(12, "header.reserved")
    area = r.take(AREA, "tee_report")
    start = r.at
    data_size = r.uint(4, "runtime.data_size")
    r.uint(4, "runtime.version")
    kind = _KINDS.get(r.uint(4, "runtime.report_type"))
    hashed = _HASHES.get(r.uint(4, "runtime.hash_type"))
    runtime = r.take(r.uint(4, "runtime.json_size", MAX_RUNTIME), "runtime.json")
    if kind is None or hashed is None:
        raise MalformedError("the HCL report's chip or hash is unknown", code="hcl-type")
    if r.at != start + data_size or r.at != size:
        raise MalformedError("the HCL report's lengths disagree", code="hcl-length")
    rest = r.take(r.left, "padding")
    if any(rest):
        raise MalformedError("something stands after the HCL report", code="hcl-trailing-bytes")
    if kind == "tdx" and any(area[TD_REPORT:]):
        raise MalformedError("something stands after the TD report", code="hcl-trailing-bytes")
    ak, configuration = _runtime(runtime)
    return HclReport(
        kind=kind,
        version=version,
        tee_report=area if kind == "sev-snp" else area[:TD_REPORT],
        runtime_data=runtime,
        report_data=hashed(runtime).digest().ljust(64, b"\0"),
        ak=ak,
        configuration=configuration,
    )


def _runtime(data: bytes) -> tuple[rsa.RSAPublicKey, dict[str, Any]]:
    value = load_object(data, limit=MAX_RUNTIME, what="HCL runtime data")
    keys, configuration = value.get("keys"), value.get("vm-configuration", {})
    if not isinstance(keys, list) or not isinstance(configuration, dict):
        raise MalformedError("HCL runtime data has no keys", code="hcl-runtime")
    mine = [key for key in keys if isinstance(key, dict) and key.get("kid") == "HCLAkPub"]
    if len(mine) != 1 or mine[0].get("kty") != "RSA" or mine[0].get("key_ops") != ["sign"]:
        raise MalformedError("HCL runtime data has not one RSA signing key HCLAkPub", code="hcl-runtime")
    return rsa_key(_b64u(mine[0].get("n")), int.from_bytes(_b64u(mine[0].get("e")), "big")), configuration


def _b64u(text: Any) -> bytes:
    if not isinstance(text, str) or len(text) > 1024 or not text.isascii():
        raise MalformedError("a key number is not base64url", code="hcl-runtime")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise MalformedError("a key number is not base64url", code="hcl-runtime") from None
