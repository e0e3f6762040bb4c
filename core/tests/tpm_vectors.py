# SPDX-License-Identifier: Apache-2.0
"""Reads the shared TPM vectors in the odd shapes they come in: YAML lists, protobuf, txtar."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_snp import SnpPolicy
from teehouse_core.appraise.policy_tpm import TpmPolicy

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
AZURE = VECTORS / "tpm" / "azure"


def vector(path: str) -> bytes:
    if not (VECTORS / path).exists():
        pytest.skip(f"missing shared vectors: {path}")
    return (VECTORS / path).read_bytes()


@cache
def collateral() -> dict[str, bytes]:
    """Every Intel collateral and AMD revocation list, by file name; the appraiser picks what fits."""
    if not VECTORS.exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    files = sorted((VECTORS / "tdx" / "collateral").glob("*.json")) + sorted((VECTORS / "snp" / "crl").glob("*.crl"))
    return {path.name: path.read_bytes() for path in files}


def policy(**tpm: Any) -> Policy:
    """What accepts genuine evidence of other people's machines: no reference values, old chips and old patch levels."""
    return dataclasses.replace(
        Policy.preset("standard"),
        name="vectors",
        platforms=("tpm", "az-snp-vtpm", "az-tdx-vtpm"),
        required_references=(),
        tcb_statuses=("UpToDate", "OutOfDate", "SWHardeningNeeded"),
        advisories_allowed=(),
        max_collateral_age=400 * 86400,
        snp=SnpPolicy(
            products=("Milan", "Genoa", "Turin"),
            report_version_minimum=2,
            alias_check_required=False,
            revocation=("good", "unknown"),
        ),
        tpm=TpmPolicy(**{"references_required": False, **tpm}),
    )


def flashbots(name: str) -> dict[str, Any]:
    """attested-tls' YAML as JSON: block texts, block lists and flow lists of numbers, nothing else."""
    text = vector(f"tpm/azure/{name}").decode("utf-8")
    block = r"{}: *[|>]-?\n((?: +.*\n|\n)+)"

    def joined(key: str) -> str:
        found = re.search(block.format(key), text)
        assert found is not None
        return "".join(found[1].split())

    def numbers(key: str, following: str) -> str:
        found = re.search(rf"\n {{4,}}{key}:([\s\S]*?)\n {{2,4}}{following}:", text)
        assert found is not None
        return found[1]

    pems = ["\n".join(p.split("\n")) for p in re.findall(r"-----BEGIN[\s\S]*?-----END CERTIFICATE-----", text)]
    certificates = ["\n".join(line.strip() for line in pem.split("\n")) + "\n" for pem in pems]
    pcrs = numbers("pcrs", "event_log")
    rows = re.split(r"\n +- - |\n +- \[", "\n" + pcrs.lstrip("\n") if pcrs.startswith("\n") else pcrs)
    values = [[int(n) for n in re.findall(r"\d+", row)] for row in rows]
    return {
        "hcl_report_base64": joined("hcl_report_base64"),
        "tdx_quote_base64": joined("tdx_quote_base64"),
        "tpm_attestation": {
            "ak_certificate_pem": certificates[0],
            "ak_intermediate_certificates_pem": certificates[1:],
            "quote": {
                "signature": [int(n) for n in re.findall(r"\d+", numbers("signature", "message"))],
                "message": [int(n) for n in re.findall(r"\d+", numbers("message", "pcrs"))],
                "pcrs": [row for row in values if row],
            },
            "event_log": [],
        },
    }


def txtar(path: str) -> dict[str, bytes]:
    """openpcc's archives: name to the bytes inside the PEM block."""
    found: dict[str, bytes] = {}
    for part in re.split(r"(?m)^-- ", vector(path).decode("ascii"))[1:]:
        name, _, body = part.partition(" --\n")
        blocks = re.findall(r"-----BEGIN [A-Z ]+-----([\s\S]*?)-----END", body)
        for number, block in enumerate(blocks):
            found[name if number == 0 else f"{name}#{number}"] = base64.b64decode("".join(block.split()))
    return found


def gce(path: str) -> dict[str, Any]:
    """go-tpm-tools' Attestation message: {"ak", "quotes": [(quote, signature, bank, pcrs)], "event_log"}."""
    out: dict[str, Any] = {"quotes": []}
    for number, value in _proto(vector(path)):
        if number == 1:
            out["ak"] = value
        elif number == 2:
            quote = dict(_proto(value))
            pcrs = {}
            bank = 0
            for key, item in _proto(quote[3]):
                if key == 1:
                    bank = item
                elif key == 2:
                    entry = dict(_proto(item))
                    pcrs[entry.get(1, 0)] = entry[2]
            out["quotes"].append((quote[1], quote[2], bank, pcrs))
        elif number == 3:
            out["event_log"] = value
    return out


def _proto(data: bytes) -> list[tuple[int, Any]]:
    at, found = 0, []

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            size = varint()
            found.append((tag >> 3, data[at : at + size]))
            at += size
    return found


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode("ascii")
