# SPDX-License-Identifier: Apache-2.0
"""Evidence in the dialect of the Confidential Containers attestation agent (guest-components), parsed by its shape.

| tee | document |
| sample | `{"svn","report_data": b64}`: signed by nobody, so SIMULATED |
| tdx | `{"quote": b64, "cc_eventlog"?: b64}` |
| snp | `{"attestation_report": {…}, "cert_chain"?: [{"cert_type","data"}]}`, the `sev` crate's own JSON |

Our own report to clients has these shapes too, with `snp_report` (b64 of the chip's bytes) for a machine of AMD.
Members that this version does not know are ignored here: nothing but quote, report and report data is used, and what
those say is signed (or, for `sample`, worth nothing). `collateral` is our own addition, which other agents leave out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import unb64_text
from teehouse_core.evidence.snp import REPORT_SIZE
from teehouse_enclave.keys.compat.errors import CompatError
from teehouse_enclave.keys.compat.snpjson import snp_report

__all__ = ["MAX_EVIDENCE", "CocoEvidence", "parse_evidence"]

MAX_EVIDENCE: Final = 1024 * 1024  # bytes; a quote with a boot log has under 200 KiB
MAX_QUOTE: Final = 64 * 1024  # bytes
MAX_CERTIFICATES: Final = 8
MAX_CERTIFICATE: Final = 8192  # bytes
MAX_VALUES: Final = 1 << 16  # separators in one document; an SNP report as arrays of numbers has 3,000
MAX_DEPTH: Final = 8
_MAX_DIGITS: Final = 20  # of 2^64


@dataclass(frozen=True, slots=True)
class CocoEvidence:
    """One parsed document. `report` is the signed quote or report; empty for `sample`.

    `report_data` is what `sample` claims; for the others it stands in the report. `sha256` is over the bytes received.
    """

    tee: str
    report: bytes = field(repr=False)
    report_data: bytes
    certificates: tuple[bytes, ...] = field(repr=False)
    collateral: Mapping[str, bytes] = field(repr=False)
    sha256: str


def parse_evidence(raw: bytes) -> CocoEvidence:
    """Parse what an agent answered. Raises `CompatError` (`evidence-malformed`, `evidence-unsupported`)."""
    top = _load(raw)
    digest = hashlib.sha256(raw).hexdigest()
    try:
        collateral = _collateral(top)
        if "attestation_report" in top:
            report = snp_report(top["attestation_report"])
            return CocoEvidence("snp", report, report[0x50:0x90], _certificates(top), collateral, digest)
        if "snp_report" in top:
            report = _b64(top, "snp_report", REPORT_SIZE)
            return CocoEvidence("snp", report, report[0x50:0x90], (), collateral, digest)
        if "quote" in top:
            quote = _b64(top, "quote", MAX_QUOTE)
            return CocoEvidence("tdx", quote, b"", (), collateral, digest)
        if "svn" in top and "report_data" in top:
            return CocoEvidence("sample", b"", _b64(top, "report_data", 1024), (), {}, digest)
    except MalformedError as error:
        raise CompatError("evidence-malformed", f"the evidence does not parse: {error.code}") from None
    hint = "sample, TDX and SNP evidence of the Confidential Containers attestation agent are read here"
    raise CompatError("evidence-unsupported", "no evidence of a kind that is read here", hint=hint)


def _load(raw: bytes) -> dict[str, Any]:
    """JSON with nulls dropped: the agent writes what it lacks as null."""
    if len(raw) > MAX_EVIDENCE:
        raise CompatError("evidence-malformed", "the evidence is too large", hint=f"at most {MAX_EVIDENCE} bytes")
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_VALUES:
        raise CompatError("evidence-malformed", "the evidence has too many values")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_refuse,
            parse_constant=_refuse,
            parse_int=_integer,
        )
    except (ValueError, RecursionError, MalformedError):
        raise CompatError("evidence-malformed", "the evidence is not JSON, or repeats a member") from None
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        raise CompatError("evidence-malformed", "the evidence is not a flat JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise MalformedError("a member stands twice", code="repeated-member")
    return {name: value for name, value in pairs if value is not None}


def _refuse(_text: str) -> NoReturn:
    raise MalformedError("a number is not an integer", code="number")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or text.startswith("-"):
        raise MalformedError("an integer is out of range", code="number")
    return int(text)


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(_depth, items), default=0)


def _b64(top: Mapping[str, Any], name: str, limit: int) -> bytes:
    value = top[name]
    if not isinstance(value, str):
        raise MalformedError(f"{name} is not base64", code="base64")
    return unb64_text(value, limit=limit, what=name)


def _certificates(top: Mapping[str, Any]) -> tuple[bytes, ...]:
    entries = top.get("cert_chain", [])
    if not isinstance(entries, list) or len(entries) > MAX_CERTIFICATES:
        raise MalformedError("cert_chain is not a short list", code="cert-chain")
    found = []
    for entry in entries:
        data = entry.get("data") if isinstance(entry, dict) else None
        if isinstance(data, str):
            found.append(unb64_text(data, limit=MAX_CERTIFICATE, what="certificate"))
        elif isinstance(data, list) and len(data) <= MAX_CERTIFICATE and all(type(b) is int and b < 256 for b in data):
            found.append(bytes(data))
        else:
            raise MalformedError("cert_chain holds something else", code="cert-chain")
    return tuple(found)


def _collateral(top: Mapping[str, Any]) -> Mapping[str, bytes]:
    given = top.get("collateral")
    return {} if not isinstance(given, dict) else {"stapled.json": json.dumps({"collateral": given}).encode("ascii")}
