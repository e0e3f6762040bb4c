# SPDX-License-Identifier: Apache-2.0
"""Parse a TDREPORT: what the TDX module gives a TD, to be turned into a quote by the quoting enclave.

Source: Intel TDX Module ABI, TDREPORT_STRUCT (1024 bytes: REPORTMACSTRUCT, TEE_TCB_INFO, TDINFO). It is protected by a
MAC that only the same processor can check, so nobody else can verify it: it is parsed, shown, and never accepted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.fields import Field
from teehouse_core.evidence.layout import Part, walk

__all__ = ["TDREPORT_SIZE", "TdReportStruct", "fields", "parse_tdreport"]

TDREPORT_SIZE: Final = 1024  # bytes
TEE_TYPE_TDX: Final = 0x81

_MAC: Final[tuple[Part, ...]] = (
    ("report_type.type", 1, "int"),
    ("report_type.subtype", 1, "int"),
    ("report_type.version", 1, "int"),
    ("report_type.reserved", 1, "hex"),
    ("reserved1", 12, "hex"),
    ("cpu_svn", 16, "hex"),
    ("tee_tcb_info_hash", 48, "hex"),
    ("tee_info_hash", 48, "hex"),
    ("report_data", 64, "hex"),
    ("reserved2", 32, "hex"),
    ("mac", 32, "hex"),
)
_TCB: Final[tuple[Part, ...]] = (
    ("valid", 8, "bits"),
    ("tee_tcb_svn", 16, "hex"),
    ("mr_seam", 48, "hex"),
    ("mr_signer_seam", 48, "hex"),
    ("attributes", 8, "bits"),
    ("tee_tcb_svn2", 16, "hex"),
    ("reserved", 95, "hex"),
)
_TD: Final[tuple[Part, ...]] = (
    ("attributes", 8, "bits"),
    ("xfam", 8, "bits"),
    ("mr_td", 48, "hex"),
    ("mr_config_id", 48, "hex"),
    ("mr_owner", 48, "hex"),
    ("mr_owner_config", 48, "hex"),
    *((f"rtmr{n}", 48, "hex") for n in range(4)),
    ("mr_service_td", 48, "hex"),
    ("reserved", 64, "hex"),
)


@dataclass(frozen=True, slots=True)
class TdReportStruct:
    """The members an auditor compares; `hashes_fit` says whether both inner hashes recompute (no proof of origin)."""

    raw: bytes
    report_data: bytes  # 64
    mr_td: bytes  # 48
    rtmr: tuple[bytes, bytes, bytes, bytes]
    td_attributes: int
    hashes_fit: bool


def parse_tdreport(data: bytes) -> TdReportStruct:
    """Parse exactly 1024 bytes. Raises `MalformedError` (`tdreport`)."""
    if len(data) != TDREPORT_SIZE or data[0] != TEE_TYPE_TDX or data[3]:
        raise MalformedError("not a TDREPORT of 1024 bytes", code="tdreport")
    td = data[512:1024]
    rtmr = (td[208:256], td[256:304], td[304:352], td[352:400])
    fits = hashlib.sha384(data[256:495]).digest() == data[32:80] and hashlib.sha384(td).digest() == data[80:128]
    return TdReportStruct(data, data[128:192], td[16:64], rtmr, int.from_bytes(td[:8], "little"), fits)


def fields(raw: bytes) -> list[Field]:
    """Every field with its byte range. Raises `MalformedError` (`tdreport`)."""
    parse_tdreport(raw)
    found = walk(raw, _MAC, 0, "report_mac")
    found += walk(raw, _TCB, 256, "tee_tcb_info")
    found.append(Field("reserved", 495, 512, raw[495:512].hex()))
    return found + walk(raw, _TD, 512, "td_info")
