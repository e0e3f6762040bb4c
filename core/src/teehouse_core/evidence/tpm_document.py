# SPDX-License-Identifier: Apache-2.0
"""The JSON documents in which others keep a TPM quote and what belongs to it, read into one shape.

Known: Trustee's `az-snp-vtpm`, `az-tdx-vtpm` and `tpm` evidence (versions 0 to 2), attestation-rs' (the same, wrapped),
attested-tls' (its YAML as JSON), and our own, whose members are the names below. Blobs are lists of numbers, hex, or
base64 of either alphabet. Nothing is verified.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.tpm import ALG_RSASSA, encode_pcrs, parse_pcrs

__all__ = ["TpmDocument", "parse_document", "raw_rsassa"]

MAX_DOCUMENT: Final = 2 * 1024 * 1024  # bytes; a quote with its log and certificates is under 200 KiB
MAX_PCRS: Final = 24

_WRAPPERS: Final = ("evidence", "tpm_attestation")
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "hcl": ("hcl", "hcl_report", "hcl_report_base64", "report"),
    "td_quote": ("td_quote", "tdx_quote_base64"),
    "vcek": ("vcek",),
    "ak": ("ak",),
    "ak_public": ("ak_public",),
    "event_log": ("event_log",),
}


@dataclass(frozen=True, slots=True)
class TpmDocument:
    """The pieces, unparsed. `signature` is TPMT_SIGNATURE, `pcrs` the JSON text of `evidence.tpm`."""

    quote: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    pcrs: bytes | None = field(default=None, repr=False)
    ak: bytes | None = field(default=None, repr=False)
    ak_public: bytes | None = field(default=None, repr=False)
    ak_chain: bytes | None = field(default=None, repr=False)
    hcl: bytes | None = field(default=None, repr=False)
    td_quote: bytes | None = field(default=None, repr=False)
    vcek: bytes | None = field(default=None, repr=False)
    event_log: bytes | None = field(default=None, repr=False)


def parse_document(raw: bytes) -> TpmDocument:
    """Read one document. Raises `MalformedError` (`tpm-document`, and those of the JSON reader)."""
    value = load_object(raw, limit=MAX_DOCUMENT, what="TPM evidence")
    for name in _WRAPPERS:
        inner = value.get(name)
        if isinstance(inner, dict):
            value = {**{k: v for k, v in value.items() if k != name}, **inner}
    quote = next((value[name] for name in ("tpm_quote", "quote") if isinstance(value.get(name), dict)), value)
    message = quote.get("message", quote.get("quote"))
    found = {
        name: next((_blob(value[alias], name) for alias in aliases if value.get(alias)), None)
        for name, aliases in _NAMES.items()
    }
    return TpmDocument(
        quote=_blob(message, "quote"),
        signature=raw_rsassa(_blob(quote.get("signature"), "signature")),
        pcrs=_pcrs(quote.get("pcrs")),
        ak_chain=_chain(value),
        **found,
    )


def raw_rsassa(signature: bytes) -> bytes:
    """TPMT_SIGNATURE of a signature that is only the RSA number, as Azure's tools give it: RSASSA with SHA-256.

    Bytes that start like a TPMT_SIGNATURE, and those of another length than an RSA key's, are left as they are.
    """
    if len(signature) not in (256, 384, 512):
        return signature
    return ALG_RSASSA.to_bytes(2, "big") + b"\x00\x0b" + len(signature).to_bytes(2, "big") + signature


def _blob(value: Any, name: str) -> bytes:
    if isinstance(value, list) and all(type(i) is int and 0 <= i <= 255 for i in value):
        return bytes(value)
    if isinstance(value, str) and value.isascii():
        if value.startswith("-----BEGIN"):
            return value.encode("ascii")
        text = "".join(value.split())
        try:
            if len(text) % 2 == 0 and not text.strip("0123456789abcdefABCDEF"):
                return bytes.fromhex(text)
            plain = text.replace("-", "+").replace("_", "/").rstrip("=")
            return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except (ValueError, binascii.Error):
            pass
    raise MalformedError(f"{name} is missing, or is neither numbers, hex nor base64", code="tpm-document")


def _pcrs(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, dict):
        text = _own_pcrs(value)
    elif isinstance(value, list) and len(value) <= MAX_PCRS:
        text = encode_pcrs({"sha256": {index: _blob(item, "a register") for index, item in enumerate(value)}})
    else:
        raise MalformedError("the register values are no list", code="tpm-document")
    raw = text.encode("ascii")
    parse_pcrs(raw)
    return raw


def _own_pcrs(value: Mapping[str, Any]) -> str:
    """Our own shape, `{"sha256": {"0": hex}}`, as text again."""
    banks: dict[str, dict[int, bytes]] = {}
    for bank, registers in value.items():
        if not isinstance(registers, dict) or not all(isinstance(k, str) and k.isdigit() for k in registers):
            raise MalformedError("the register values are of another shape", code="tpm-document")
        if len(registers) > MAX_PCRS or any(len(k) > 2 for k in registers):
            raise MalformedError("there are too many register values", code="tpm-document")
        banks[bank] = {int(index): _blob(item, "a register") for index, item in registers.items()}
    if any(not bank.isalnum() and bank != "sm3_256" for bank in banks):
        raise MalformedError("a bank's name is none", code="tpm-document")
    return encode_pcrs(banks)


def _chain(value: Mapping[str, Any]) -> bytes | None:
    """Leaf first, then whatever is called intermediate, joined as PEM."""
    leaf = value.get("ak_certificate_pem", value.get("ak_chain"))
    more = value.get("ak_intermediate_certificates_pem", [])
    if leaf is None:
        return None
    if not isinstance(leaf, str) or not isinstance(more, list) or not all(isinstance(item, str) for item in more):
        raise MalformedError("the attestation key's certificates are no texts", code="tpm-document")
    return "\n".join((leaf, *more)).encode("utf-8")
