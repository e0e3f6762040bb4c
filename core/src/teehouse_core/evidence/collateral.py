# SPDX-License-Identifier: Apache-2.0
"""Intel collateral as stapled into a bundle: endorsements for a PCK certificate, chosen by whoever sent them.

The nine members are those of Intel's PCS v4 answers in the shape that `dcap_qvl.QuoteCollateralV3` reads, so that
collateral captured elsewhere drops in unchanged. Nothing here is believed before `appraise` checked its signatures;
the JSON texts are kept as the exact strings that were signed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import load_object

__all__ = [
    "IntelCollateral",
    "QeIdentity",
    "TcbInfo",
    "load_signed_text",
    "parse_qe_identity",
    "parse_rfc3339",
    "parse_tcb_info",
]

MAX_TEXT: Final = 256 * 1024  # bytes of one PEM chain or JSON text; genuine TCB info is under 8 KiB
MAX_CRL: Final = 2 * 1024 * 1024  # bytes; Intel's platform CRL is 3 KiB today and grows with each recovery
SIGNATURE: Final = 64  # bytes, raw r ‖ s

_TEXTS: Final = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_BLOBS: Final = {
    "root_ca_crl": MAX_CRL,
    "pck_crl": MAX_CRL,
    "tcb_info_signature": SIGNATURE,
    "qe_identity_signature": SIGNATURE,
}


@dataclass(frozen=True, slots=True)
class IntelCollateral:
    """PEM chains and JSON as text, CRLs (DER) and raw signatures as bytes."""

    pck_crl_issuer_chain: str
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: bytes
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: bytes

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> IntelCollateral:
        """Read the nine members, none missing and none unknown. Raises `MalformedError` (`collateral`)."""
        if set(value) != {*_TEXTS, *_BLOBS}:
            raise MalformedError("Intel collateral has missing or unknown members", code="collateral")
        fields: dict[str, Any] = {}
        for name in _TEXTS:
            text = value[name]
            if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isascii():
                raise MalformedError(f"collateral {name} is not a short ASCII text", code="collateral")
            fields[name] = text
        for name, limit in _BLOBS.items():
            fields[name] = _unhex(value[name], name, limit)
        return cls(**fields)

    def to_dict(self) -> dict[str, str]:
        """The JSON shape, blobs in hex."""
        out = {name: getattr(self, name) for name in _TEXTS}
        out.update({name: getattr(self, name).hex() for name in _BLOBS})
        return out

    def to_json(self) -> str:
        """The same as text, as `dcap_qvl.QuoteCollateralV3.from_json` takes it."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """The head of a TCB info v3 text; its levels are evaluated by `dcap_qvl`. Times are Unix seconds."""

    id: str
    version: int
    issued_at: int
    next_update: int
    fmspc: str  # lower-case hex, 6 bytes
    pce_id: str  # lower-case hex, 2 bytes
    evaluation_number: int


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """The quoting enclave that Intel names; masks as in Intel's text, most fields hex there and bytes here."""

    id: str
    version: int
    issued_at: int
    next_update: int
    misc_select: int
    misc_select_mask: int
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    evaluation_number: int


@functools.lru_cache(maxsize=4)
def load_signed_text(text: str) -> Mapping[str, Any]:
    """A TCB info or QE identity as JSON, to be read only. Raises `MalformedError`.

    One text is read several times in one appraisal, for its head and for its levels; the cache saves half the time.
    """
    return load_object(text.encode("utf-8"), limit=MAX_TEXT, what="a signed text")


def parse_tcb_info(text: str) -> TcbInfo:
    """Read the head of a TCB info text. Raises `MalformedError`."""
    v = load_signed_text(text)
    return TcbInfo(
        id=_text(v, "id"),
        version=_int(v, "version"),
        issued_at=parse_rfc3339(_text(v, "issueDate")),
        next_update=parse_rfc3339(_text(v, "nextUpdate")),
        fmspc=_unhex(v.get("fmspc"), "fmspc", 6).hex(),
        pce_id=_unhex(v.get("pceId"), "pceId", 2).hex(),
        evaluation_number=_int(v, "tcbEvaluationDataNumber"),
    )


def parse_qe_identity(text: str) -> QeIdentity:
    """Read a QE identity text without its levels. Raises `MalformedError`."""
    v = load_signed_text(text)
    return QeIdentity(
        id=_text(v, "id"),
        version=_int(v, "version"),
        issued_at=parse_rfc3339(_text(v, "issueDate")),
        next_update=parse_rfc3339(_text(v, "nextUpdate")),
        misc_select=_hex_le32(v, "miscselect"),
        misc_select_mask=_hex_le32(v, "miscselectMask"),
        attributes=_exact(v, "attributes", 16),
        attributes_mask=_exact(v, "attributesMask", 16),
        mr_signer=_exact(v, "mrsigner", 32),
        isv_prod_id=_int(v, "isvprodid"),
        evaluation_number=_int(v, "tcbEvaluationDataNumber"),
    )


def parse_rfc3339(text: str) -> int:
    """Unix seconds of an RFC 3339 time in UTC with whole seconds, as Intel writes them. Raises `MalformedError`."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        raise MalformedError("not a UTC time of the form YYYY-MM-DDThh:mm:ssZ", code="time") from None


def _text(v: Mapping[str, Any], name: str) -> str:
    value = v.get(name)
    if not isinstance(value, str) or len(value) > 256:
        raise MalformedError(f"{name} is missing or not a short text", code="collateral")
    return value


def _int(v: Mapping[str, Any], name: str) -> int:
    value = v.get(name)
    if type(value) is not int or value < 0:
        raise MalformedError(f"{name} is missing or not a number", code="collateral")
    return value


def _unhex(value: Any, name: str, limit: int) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * limit:
        raise MalformedError(f"collateral {name} is not hex of at most {limit} bytes", code="collateral")
    try:
        data = bytes.fromhex(value)
    except ValueError:
        raise MalformedError(f"collateral {name} is not hex", code="collateral") from None
    if 2 * len(data) != len(value) or not data:
        raise MalformedError(f"collateral {name} is empty or has spaces", code="collateral")
    return data


def _exact(v: Mapping[str, Any], name: str, size: int) -> bytes:
    data = _unhex(v.get(name), name, size)
    if len(data) != size:
        raise MalformedError(f"{name} is not {size} bytes", code="collateral")
    return data


def _hex_le32(v: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_exact(v, name, 4), "little")
