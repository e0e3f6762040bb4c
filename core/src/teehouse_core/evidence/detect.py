# SPDX-License-Identifier: Apache-2.0
"""What a file is, by its own bytes: one name per kind of artifact, and the reader of its fields.

A guess for people who look; a verdict never rests on it. Readers are imported when first used, since some need optional
packages.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Final

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.fields import Field

__all__ = ["KINDS", "detect", "fields_of"]

MAX_PEEK: Final = 4 * 1024 * 1024  # bytes of a JSON text that is parsed only to name it

KINDS: Final[dict[str, tuple[str, str]]] = {
    "tdx-quote": ("teehouse_core.evidence.tdx_fields", "fields"),
    "tdreport": ("teehouse_core.evidence.tdreport", "fields"),
    "snp-report": ("teehouse_core.evidence.snp", "fields"),
    "nvidia-gpu": ("teehouse_core.evidence.nvidia", "fields"),
    "nvidia-nvswitch": ("teehouse_core.evidence.nvidia", "fields"),
    "rim": ("teehouse_core.evidence.rim", "fields"),
    "tpm-quote": ("teehouse_core.evidence.tpm", "fields"),
    "hcl-report": ("teehouse_core.evidence.hcl", "fields"),
    "event-log": ("teehouse_core.evidence.eventlog", "fields"),
    "certificate": ("teehouse_core.evidence.x509fields", "certificate_fields"),
    "crl": ("teehouse_core.evidence.x509fields", "crl_fields"),
}
"""Kinds whose fields have byte ranges: name to module and function. Further names of `detect` have none."""

_INTEL_MEMBERS: Final = ("tcb_info", "qe_identity", "pck_crl")


def detect(data: bytes) -> str | None:
    """The kind of `data`, or None: a key of `KINDS`, or `bundle`, `az-vtpm`, `collateral`, `verdict`, `parsed`, `pem`,
    `json`.
    """
    head = data.lstrip()[:1]
    if data.lstrip().startswith(b"-----BEGIN CERTIFICATE-----"):
        return "pem"
    if data[:4] == b"\xffTCG":
        return "tpm-quote"
    if data[2:6] == b"\xffTCG" and int.from_bytes(data[:2], "big") <= len(data) - 2:
        return "tpm-quote"
    if data[:4] == b"HCLA":
        return "hcl-report"
    if data[:4] == b"\x11\xe0\x01\xff":
        return "nvidia-gpu"
    if data[32:47] == b"Spec ID Event03" or data[32:48] == b"Spec ID Event00\0":
        return "event-log"
    if data[:1] == b"\x81" and len(data) == 1024:
        return "tdreport"
    if len(data) == 1184 and 2 <= int.from_bytes(data[:4], "little") <= 5:
        return "snp-report"
    if len(data) > 436 and data[0] in (3, 4, 5) and data[1] == 0 and data[2:4] in (b"\2\0", b"\3\0"):
        return "tdx-quote"
    if data[:1] == b"\x30":
        return _der_kind(data)
    if head == b"<":
        return "rim" if b"SoftwareIdentity" in data[:65536] else None
    return _json_kind(data) if head in (b"{", b"[") else None


def fields_of(kind: str, data: bytes) -> list[Field]:
    """Fields of `data` as `kind` (a key of `KINDS`).

    Raises `MalformedError` as the reader does, `LocalError` when the kind has no reader here or a package is missing.
    """
    place = KINDS.get(kind)
    if place is None:
        raise LocalError(f"no fields are known for {kind}", code="kind-unknown")
    try:
        reader: Callable[[bytes], list[Field]] = getattr(importlib.import_module(place[0]), place[1])
    except (ImportError, AttributeError):
        hint = "install the optional packages of teehouse-core"
        raise LocalError(f"this installation cannot read {kind}", code="kind-unavailable", hint=hint) from None
    return reader(data)


def _der_kind(data: bytes) -> str | None:
    for kind in ("certificate", "crl"):
        try:
            fields_of(kind, data)
        except MalformedError:
            continue
        return kind
    return None


def _json_kind(data: bytes) -> str | None:
    if len(data) > 4 * MAX_PEEK:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        events = value and all(isinstance(i, dict) and {"digest", "event"} <= set(i) for i in value)
        return "event-log" if events else "json"
    if not isinstance(value, dict):
        return None
    if value.get("v") == "evidence/1":
        return "bundle"
    if value.get("v") == "parsed/1":
        return "parsed"
    if value.get("v") == "collateral-pack/1" or all(name in value for name in _INTEL_MEMBERS):
        return "collateral"
    if {"result", "tier", "checks", "claims"} <= set(value):
        return "verdict"
    old, new = {"quote", "report", "vcek"} <= set(value), {"tpm_quote", "hcl_report"} <= set(value)
    return "az-vtpm" if old or new else "json"
