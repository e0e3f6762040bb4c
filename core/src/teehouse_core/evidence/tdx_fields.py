# SPDX-License-Identifier: Apache-2.0
"""Where each field of an Intel quote stands, for the parsed view. Same sources as `teehouse_core.evidence.tdx`."""

from __future__ import annotations

from typing import Final

from teehouse_core.evidence.fields import Field
from teehouse_core.evidence.layout import Part, walk
from teehouse_core.evidence.tdx import (
    CERT_TYPE_PEM_CHAIN,
    DESCRIPTOR_SIZE,
    HEADER_SIZE,
    VERSION_3,
    VERSION_5,
    SgxQuote,
    parse_any_quote,
)

__all__ = ["fields"]

_HEADER: Final[tuple[Part, ...]] = (
    ("version", 2, "int"),
    ("attestation_key_type", 2, "int"),
    ("tee_type", 4, "bits"),
    ("qe_svn", 2, "int"),
    ("pce_svn", 2, "int"),
    ("qe_vendor_id", 16, "hex"),
    ("user_data", 20, "hex"),
)
_DESCRIPTOR: Final[tuple[Part, ...]] = (("type", 2, "int"), ("size", 4, "int"))
_TD: Final[tuple[Part, ...]] = (
    ("tee_tcb_svn", 16, "hex"),
    ("mr_seam", 48, "hex"),
    ("mr_signer_seam", 48, "hex"),
    ("seam_attributes", 8, "bits"),
    ("td_attributes", 8, "bits"),
    ("xfam", 8, "bits"),
    ("mr_td", 48, "hex"),
    ("mr_config_id", 48, "hex"),
    ("mr_owner", 48, "hex"),
    ("mr_owner_config", 48, "hex"),
    *((f"rtmr{n}", 48, "hex") for n in range(4)),
    ("report_data", 64, "hex"),
)
_TD_15: Final[tuple[Part, ...]] = (*_TD, ("tee_tcb_svn2", 16, "hex"), ("mr_service_td", 48, "hex"))
_TD_15_EX: Final[tuple[Part, ...]] = (
    *_TD_15,
    ("vmid", 1, "int"),
    ("td_id", 32, "hex"),
    ("dev_info", 48, "hex"),
    ("init_service_td_hash", 48, "hex"),
    ("init_service_td_attributes", 8, "bits"),
    ("init_cpu_svn", 16, "hex"),
    ("init_tee_tcb_svn", 16, "hex"),
    ("init_tee_fmspc", 12, "hex"),
    ("cur_service_td_hash", 48, "hex"),
    ("cur_service_td_attributes", 8, "bits"),
)
_ENCLAVE: Final[tuple[Part, ...]] = (
    ("cpu_svn", 16, "hex"),
    ("misc_select", 4, "bits"),
    ("reserved1", 12, "hex"),
    ("isv_ext_prod_id", 16, "hex"),
    ("attributes.flags", 8, "bits"),
    ("attributes.xfrm", 8, "bits"),
    ("mr_enclave", 32, "hex"),
    ("reserved2", 32, "hex"),
    ("mr_signer", 32, "hex"),
    ("reserved3", 32, "hex"),
    ("config_id", 64, "hex"),
    ("isv_prod_id", 2, "int"),
    ("isv_svn", 2, "int"),
    ("config_svn", 2, "int"),
    ("reserved4", 42, "hex"),
    ("isv_family_id", 16, "hex"),
    ("report_data", 64, "hex"),
)


def fields(raw: bytes) -> list[Field]:
    """Every field of one quote, every byte named, padding included. Raises `MalformedError` as `parse_any_quote`."""
    quote = parse_any_quote(raw, padding=True)
    found = walk(raw, _HEADER, 0, "header")
    at = HEADER_SIZE
    if quote.header.version == VERSION_5:
        found += walk(raw, _DESCRIPTOR, at, "body")
        at += DESCRIPTOR_SIZE
    if isinstance(quote, SgxQuote):
        found += walk(raw, _ENCLAVE, at, "enclave_report")
    else:
        later = _TD_15 if quote.report.extension is None else _TD_15_EX
        found += walk(raw, _TD if quote.report.mr_service_td is None else later, at, "td_report")
    signature = quote.signature
    head: list[Part] = [("size", 4, "int"), ("signature", 64, "hex"), ("attestation_key", 64, "hex")]
    if quote.header.version != VERSION_3:
        head += [("certification.type", 2, "int"), ("certification.size", 4, "int")]
    found += walk(raw, head, quote.body_end, "signature_data")
    found += walk(raw, _ENCLAVE, found[-1].end, "signature_data.qe_report")
    tail: list[Part] = [
        ("qe_signature", 64, "hex"),
        ("qe_auth_data.size", 2, "int"),
        ("qe_auth_data.data", len(signature.qe_auth_data), "hex"),
        ("pck_certification.type", 2, "int"),
        ("pck_certification.size", 4, "int"),
        (
            "pck_certification.data",
            len(signature.cert_data),
            "text" if signature.cert_type == CERT_TYPE_PEM_CHAIN else "hex",
        ),
    ]
    found += walk(raw, tail, found[-1].end, "signature_data")
    if quote.padding:
        found.append(Field("padding", found[-1].end, len(raw), f"{quote.padding} zero bytes"))
    return found
