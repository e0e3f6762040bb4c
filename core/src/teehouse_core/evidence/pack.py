# SPDX-License-Identifier: Apache-2.0
"""A pack of collateral: endorsements by file name in one JSON document; what each is and how long it holds.

`{"v":"collateral-pack/1","made_at":<Unix seconds>,"files":{"<name>":"<base64>"},"sources":{"<name>":"<URL>"}}`.
A pack is only a carrier: nobody signs it, and whoever appraises checks every signature and date inside by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.x509 import ocsp

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.collateral import IntelCollateral, parse_qe_identity, parse_rfc3339, parse_tcb_info
from teehouse_core.evidence.detect import detect
from teehouse_core.evidence.jsontext import b64_text, load_object, unb64_text
from teehouse_core.evidence.x509fields import certificate_fields, pem_certificates

__all__ = ["MAX_FILES", "MAX_PACK", "VERSION", "Pack", "PackItem", "build_pack", "describe", "is_pack", "parse_pack"]

VERSION: Final = "collateral-pack/1"
MAX_FILES: Final = 1024  # files in a pack
MAX_PACK: Final = 64 * 1024 * 1024  # bytes of all files; a hundred RIMs are about 20 MiB
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}(?:/[A-Za-z0-9_.-]{1,128}){0,4}")


@dataclass(frozen=True, slots=True)
class Pack:
    """The files by name. `sources` says where each came from, as told by whoever made the pack."""

    made_at: int
    files: Mapping[str, bytes] = field(repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackItem:
    """One endorsement in one file; times are Unix seconds, None where it names none or cannot be read."""

    file: str
    kind: str
    subject: str
    begins: int | None
    ends: int | None

    def state(self, now: int) -> str:
        """`current`, `expired`, `not yet` or `undated`, at `now`."""
        if self.begins is not None and now < self.begins:
            return "not yet"
        if self.ends is None:
            return "undated"
        return "current" if now < self.ends else "expired"


def is_pack(data: bytes) -> bool:
    """Whether the bytes look like a pack, rather than one file of one."""
    return data.lstrip()[:1] == b"{" and VERSION.encode() in data[:256]


def parse_pack(data: bytes) -> Pack:
    """Read a pack. Raises `MalformedError` (`pack` and those of the JSON reader)."""
    value = load_object(data, limit=2 * MAX_PACK, what="pack")
    files, sources, made_at = value.get("files"), value.get("sources", {}), value.get("made_at")
    if set(value) - {"v", "made_at", "files", "sources"} or value.get("v") != VERSION or type(made_at) is not int:
        raise MalformedError("not a collateral-pack/1 document", code="pack")
    if not isinstance(files, dict) or not isinstance(sources, dict) or len(files) > MAX_FILES:
        raise MalformedError("a pack's files or sources are no table of bounded size", code="pack")
    found: dict[str, bytes] = {}
    for name, text in files.items():
        if not _good_name(name) or not isinstance(text, str):
            raise MalformedError("a pack has a file without a plain relative name", code="pack")
        found[name] = unb64_text(text, limit=MAX_PACK, what="a file of the pack")
    if sum(map(len, found.values())) > MAX_PACK or not all(isinstance(s, str) for s in sources.values()):
        raise MalformedError("a pack is too large or has strange sources", code="pack")
    return Pack(made_at, found, {str(k): str(v) for k, v in sources.items()})


def build_pack(pack: Pack) -> bytes:
    """Write a pack; equal packs give equal bytes. Raises `LocalError` for names or sizes that `parse_pack` refuses."""
    if len(pack.files) > MAX_FILES or sum(map(len, pack.files.values())) > MAX_PACK:
        raise LocalError("too much for one pack", code="pack-too-large")
    if bad := [name for name in pack.files if not _good_name(name)]:
        raise LocalError(f"not a name for a file of a pack: {bad[0]}", code="pack-name")
    document = {
        "v": VERSION,
        "made_at": pack.made_at,
        "files": {name: b64_text(pack.files[name]) for name in sorted(pack.files)},
        "sources": {name: pack.sources[name] for name in sorted(pack.sources)},
    }
    return json.dumps(document, indent=1).encode("ascii")


def describe(files: Mapping[str, bytes]) -> list[PackItem]:
    """What the files are and their windows, for people; nothing is verified."""
    found: list[PackItem] = []
    for name in sorted(files):
        found += _items(name, files[name])
    return found


def _good_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and not set(name.split("/")) & {".", ".."}


def _items(name: str, data: bytes) -> list[PackItem]:
    kind = detect(data)
    try:
        if kind == "collateral":
            return _intel(name, load_object(data, limit=MAX_PACK, what=name))
        if kind == "pem":
            return [_certificate(name, der) for der in pem_certificates(data.decode("utf-8", "replace"))]
        if kind == "certificate":
            return [_certificate(name, data)]
        if kind == "crl":
            return [_crl(name, data)]
        if kind == "rim":
            return [_rim(name, data)]
        if data[:1] == b"\x30":
            return [_ocsp(name, data)]
        if b"-----BEGIN X509 CRL-----" in data[:4096]:
            crl = x509.load_pem_x509_crl(data)
            return [
                PackItem(
                    name, "crl", crl.issuer.rfc4514_string(), _unix(crl.last_update_utc), _unix(crl.next_update_utc)
                )
            ]
    except Exception:  # hostile bytes may raise anything from a library; what cannot be read is told as such
        return [PackItem(name, "unreadable", kind or "", None, None)]
    return [PackItem(name, kind or "unknown", f"{len(data)} bytes", None, None)]


def _intel(name: str, value: Mapping[str, Any]) -> list[PackItem]:
    inner = value.get("intel")
    c = IntelCollateral.parse(inner if isinstance(inner, dict) else value)
    info, identity = parse_tcb_info(c.tcb_info), parse_qe_identity(c.qe_identity)
    about = f"{info.id} FMSPC {info.fmspc}, evaluation {info.evaluation_number}"
    items = [
        PackItem(name, "tcb-info", about, info.issued_at, info.next_update),
        PackItem(name, "qe-identity", identity.id, identity.issued_at, identity.next_update),
        _crl(name, c.pck_crl),
        _crl(name, c.root_ca_crl),
    ]
    return [*items, _certificate(name, pem_certificates(c.tcb_info_issuer_chain)[0])]


def _crl(name: str, data: bytes) -> PackItem:
    crl = x509.load_der_x509_crl(data)
    count = len(crl)
    subject = f"{_common_name(crl.issuer)}, {count} revoked"
    return PackItem(name, "crl", subject, _unix(crl.last_update_utc), _unix(crl.next_update_utc))


def _certificate(name: str, der: bytes) -> PackItem:
    values = {field.path: field.value for field in certificate_fields(der)}
    subject = dict(part.partition("=")[::2] for part in values["subject"].split(", "))
    begins, ends = (parse_rfc3339(values[f"validity.{which}"]) for which in ("not_before", "not_after"))
    return PackItem(name, "certificate", subject.get("CN", values["subject"]), begins, ends)


def _rim(name: str, data: bytes) -> PackItem:
    from teehouse_core.evidence.rim import parse_rim

    rim = parse_rim(data)
    signer = _certificate(name, rim.certificates[0])
    return PackItem(name, "rim", f"{rim.product} {rim.version}", signer.begins, signer.ends)


def _ocsp(name: str, data: bytes) -> PackItem:
    response = ocsp.load_der_ocsp_response(data)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return PackItem(name, "ocsp", str(response.response_status.name).lower(), None, None)
    subject = f"serial {response.serial_number:x} {response.certificate_status.name.lower()}"
    return PackItem(name, "ocsp", subject, _unix(response.this_update_utc), _unix(response.next_update_utc))


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
