# SPDX-License-Identifier: Apache-2.0
"""Where each field of an X.509 certificate or CRL stands in its DER, for the parsed view. Source: RFC 5280.

A display only: it walks the encoding and verifies nothing. Chains are checked in `teehouse_core.appraise.x509chain`.
"""

from __future__ import annotations

import binascii
import re
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from teehouse_core.errors import MalformedError
from teehouse_core.evidence import der
from teehouse_core.evidence.fields import Field

__all__ = ["certificate_fields", "crl_fields", "pem_certificates"]

MAX_DER: Final = 2 * 1024 * 1024  # bytes of one CRL; certificates are under 3 KiB
MAX_ENTRIES: Final = 4096  # revoked certificates shown one by one

_TIMES: Final = (0x17, 0x18)  # UTCTime, GeneralizedTime
_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_CRL_EXTENSIONS: Final = 0xA0
_ATTRIBUTES: Final = {
    "2.5.4.3": "CN",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
}
_EXTENSION_NAMES: Final = {
    "2.5.29.14": "subject_key_identifier",
    "2.5.29.15": "key_usage",
    "2.5.29.19": "basic_constraints",
    "2.5.29.20": "crl_number",
    "2.5.29.31": "crl_distribution_points",
    "2.5.29.32": "certificate_policies",
    "2.5.29.35": "authority_key_identifier",
    "2.5.29.37": "extended_key_usage",
    "1.3.6.1.5.5.7.1.1": "authority_information_access",
}


_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]{1,65536})-----END CERTIFICATE-----")
MAX_CHAIN: Final = 64  # certificates in one PEM text


def pem_certificates(text: str) -> list[bytes]:
    """DER of the certificates in a PEM text, not parsed: libraries refuse some that vendors really issue (serial 0).

    Raises `MalformedError` (`pem`) when there is none, or too many.
    """
    found: list[bytes] = []
    for match in _PEM.finditer(text):
        try:
            found.append(binascii.a2b_base64("".join(match[1].split()), strict_mode=True))
        except ValueError:
            raise MalformedError("a PEM certificate is not base64", code="pem") from None
        if len(found) > MAX_CHAIN:
            raise MalformedError("too many certificates in one text", code="pem")
    if not found:
        raise MalformedError("no certificate in the text", code="pem")
    return found


class _Node:
    """One DER element: its tag and where it, and its content, stand."""

    __slots__ = ("data", "end", "inner", "start", "tag")

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.start = data, at
        self.tag, self.inner, self.end = der.head(data, at)

    @property
    def content(self) -> bytes:
        return self.data[self.inner : self.end]

    def children(self, limit: int = 256) -> list[_Node]:
        found: list[_Node] = []
        at = self.inner
        while at < self.end:
            if len(found) == limit:
                raise MalformedError("too many elements in a DER sequence", code="der")
            found.append(_Node(self.data, at))
            at = found[-1].end
        if at != self.end:
            raise MalformedError("DER element runs over its parent", code="der")
        return found


def certificate_fields(raw: bytes) -> list[Field]:
    """Fields of one DER certificate, then its padding if any. Raises `MalformedError` (`der`)."""
    whole = _whole(raw)
    tbs, algorithm, signature = _exactly(whole, 3)
    parts = tbs.children()
    found: list[Field] = []
    if parts and parts[0].tag == _VERSION:
        number = _Node(raw, parts[0].inner)
        found.append(_field("version", parts.pop(0), str(int.from_bytes(number.content, "big") + 1)))
    if len(parts) < 6:
        raise MalformedError("a certificate lacks parts", code="der")
    serial, inner_algorithm, issuer, validity, subject, key = parts[:6]
    times = validity.children()
    if len(times) != 2:
        raise MalformedError("a certificate's validity is not two times", code="der")
    found += [
        _field("serial_number", serial, serial.content.hex()),
        _field("tbs_signature_algorithm", inner_algorithm, _algorithm(inner_algorithm)),
        _field("issuer", issuer, _name(issuer)),
        _field("validity.not_before", times[0], _time(times[0])),
        _field("validity.not_after", times[1], _time(times[1])),
        _field("subject", subject, _name(subject)),
        _field("subject_public_key", key, f"{_algorithm(_exactly(key, 2)[0])} {key.content.hex()}"),
    ]
    for part in parts[6:]:
        if part.tag == _EXTENSIONS:
            found += _extensions(part, "extensions")
        else:
            found.append(_field(f"unique_id.{part.tag:#x}", part, part.content.hex()))
    found += [
        _field("signature_algorithm", algorithm, _algorithm(algorithm)),
        _field("signature", signature, signature.content[1:].hex()),
    ]
    return _padded(raw, whole, found)


def crl_fields(raw: bytes) -> list[Field]:
    """Fields of one DER certificate revocation list. Raises `MalformedError` (`der`)."""
    whole = _whole(raw)
    tbs, algorithm, signature = _exactly(whole, 3)
    parts = tbs.children()
    found: list[Field] = []
    if parts and parts[0].tag == der.INTEGER:
        found.append(_field("version", parts[0], str(int.from_bytes(parts.pop(0).content, "big") + 1)))
    if len(parts) < 3:
        raise MalformedError("a CRL lacks parts", code="der")
    found += [
        _field("tbs_signature_algorithm", parts[0], _algorithm(parts[0])),
        _field("issuer", parts[1], _name(parts[1])),
        _field("this_update", parts[2], _time(parts[2])),
    ]
    for part in parts[3:]:
        if part.tag in _TIMES:
            found.append(_field("next_update", part, _time(part)))
        elif part.tag == der.SEQUENCE:
            for number, entry in enumerate(part.children(MAX_ENTRIES)):
                items = entry.children()
                text = " ".join([items[0].content.hex(), *(_time(i) for i in items[1:2])]) if items else ""
                found.append(_field(f"revoked.{number}", entry, text))
        elif part.tag == _CRL_EXTENSIONS:
            found += _extensions(part, "extensions")
    found += [
        _field("signature_algorithm", algorithm, _algorithm(algorithm)),
        _field("signature", signature, signature.content[1:].hex()),
    ]
    return _padded(raw, whole, found)


def _whole(raw: bytes) -> _Node:
    if len(raw) > MAX_DER:
        raise MalformedError("too large to be a certificate or CRL", code="too-large")
    whole = _Node(raw, 0)
    if whole.tag != der.SEQUENCE or raw[whole.end :].strip(b"\0"):
        raise MalformedError("not one DER sequence", code="der")
    return whole


def _exactly(node: _Node, count: int) -> list[_Node]:
    children = node.children()
    if len(children) != count:
        raise MalformedError(f"a DER sequence has {len(children)} elements, not {count}", code="der")
    return children


def _padded(raw: bytes, whole: _Node, found: list[Field]) -> list[Field]:
    if whole.end < len(raw):
        found.append(Field("padding", whole.end, len(raw), f"{len(raw) - whole.end} zero bytes"))
    return found


def _field(path: str, node: _Node, value: str) -> Field:
    return Field(path, node.start, node.end, value)


def _algorithm(node: _Node) -> str:
    children = node.children()
    if not children or children[0].tag != der.OID:
        raise MalformedError("an algorithm has no identifier", code="der")
    oid = der.oid_text(children[0].content)
    return getattr(x509.ObjectIdentifier(oid), "_name", oid)


def _name(node: _Node) -> str:
    parts: list[str] = []
    for group in node.children():
        for pair in group.children():
            items = pair.children()
            if len(items) == 2 and items[0].tag == der.OID:
                oid = der.oid_text(items[0].content)
                text = items[1].content.decode("utf-8", "replace")
                shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
                parts.append(f"{_ATTRIBUTES.get(oid, oid)}={shown}")
    return ", ".join(parts)


def _time(node: _Node) -> str:
    text = node.content.decode("ascii", "replace")
    form = "%y%m%d%H%M%SZ" if node.tag == _TIMES[0] else "%Y%m%d%H%M%SZ"
    try:
        moment = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if node.tag == _TIMES[0] and moment.year >= 2050:  # RFC 5280 §4.1.2.5.1: two digits mean 1950 to 2049
        moment = moment.replace(year=moment.year - 100)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _extensions(node: _Node, prefix: str) -> list[Field]:
    found: list[Field] = []
    for group in node.children():
        for extension in group.children():
            items = extension.children()
            if len(items) < 2 or items[0].tag != der.OID:
                raise MalformedError("an extension has no identifier", code="der")
            oid = der.oid_text(items[0].content)
            critical = " critical" if len(items) == 3 else ""
            name = _EXTENSION_NAMES.get(oid, oid)
            found.append(_field(f"{prefix}.{name}", extension, f"{items[-1].content.hex()}{critical}"))
    return found
