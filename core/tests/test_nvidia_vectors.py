# SPDX-License-Identifier: Apache-2.0
"""Genuine NVIDIA reports and manifests get the verdict that their row states, and each spoilt one is refused."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from teehouse_core.appraise.artifacts import nvidia as nvidia_artifact
from teehouse_core.appraise.artifacts import rim as rim_artifact
from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.checks_devices import check_set
from teehouse_core.appraise.checks_nvidia import GPU_CHECKS, DeviceEvidence
from teehouse_core.appraise.policy import GpuPolicy, Policy
from teehouse_core.appraise.roots_nvidia import NVIDIA_DEVICE_ROOT_PEM, NVIDIA_RIM_ROOT_PEM, nvidia_roots_for
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.errors import TeehouseError
from teehouse_core.evidence import nvidia, rim

VECTORS = Path(os.environ.get("TEEHOUSE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))
NOW = 1_750_000_000  # device chains never end, so any instant serves for a report alone
MODES = ("SPT", "MPT", "PPCIE", "unreported")
ALONE = Policy(name="alone", gpu=GpuPolicy(rim_required=False, revocation_required=False, modes=MODES))
MATCHED = Policy(name="with manifests", gpu=GpuPolicy(revocation_required=False, modes=MODES))


def manifest(kind: str) -> list[dict[str, Any]]:
    path = VECTORS / "manifest.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())[kind] if path.exists() else []
    return rows


REPORTS, RIMS = manifest("nvidia"), manifest("rim")
VALID = [row for row in REPORTS if row["signature"] == "valid"]

pytestmark = pytest.mark.skipif(not REPORTS, reason="missing shared vectors: NVIDIA evidence")


def name(row: dict[str, Any]) -> str:
    return str(row["file"]).rpartition("/")[2]


def read(path: str) -> bytes:
    return (VECTORS / path).read_bytes()


def report(row: dict[str, Any], policy: Policy = ALONE, now: int = NOW, **changes: Any) -> ArtifactVerdict:
    given: dict[str, Any] = {
        "raw": read(row["file"]),
        "chain": read(row["chain"]) if row["chain"] else None,
        "collateral": None,
        "nonce": bytes.fromhex(row["nonce"]),
        "report_data": None,
        "kind": "nvidia-nvswitch" if row["arch"] == "LS10" else "nvidia-gpu",
        **changes,
    }
    return nvidia_artifact.verify_artifact(given.pop("raw"), policy=policy, now=now, **given)


def rim_verdict(raw: bytes, now: int, policy: Policy = ALONE) -> ArtifactVerdict:
    return rim_artifact.verify_artifact(
        raw, chain=None, collateral=None, nonce=None, report_data=None, policy=policy, now=now
    )


def middle(row: dict[str, Any]) -> int:
    days = [datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() for day in row["leaf_valid"]]
    return int(sum(days) / 2)


def refusing(verdict: ArtifactVerdict) -> set[str]:
    return {check.id for check in verdict.refusing}


def state(verdict: ArtifactVerdict, check_id: str) -> str:
    return next(check.state for check in verdict.checks if check.id == check_id)


@pytest.mark.parametrize("row", REPORTS, ids=name)
def test_every_report_gets_the_verdict_of_its_row(row: dict[str, Any]) -> None:
    verdict = report(row)
    if row["signature"] != "valid":
        assert verdict.result == "refused"
        assert refusing(verdict) >= {"gpu.report.signature", "gpu.certificate.chain"}
        for other in VALID:  # "no published key verifies it"
            tried = report(row, chain=read(other["chain"]))
            assert "gpu.report.signature" in refusing(tried)
        return
    assert (verdict.result, verdict.tier, refusing(verdict)) == ("accepted", "hardware", set())
    assert row["chain_root"] == "NVIDIA Device Identity CA"
    claims = verdict.claims
    assert claims.get("driver_version", "") == row["driver"]
    assert claims["arch"] == ("LS10" if row["arch"] == "LS10" else row["arch"].split("-")[0])
    assert (claims.get("project", ""), claims.get("project_sku", "")) == (row["project"], row["project_sku"])
    assert claims.get("fwid", "") == row["fwid"]


@pytest.mark.parametrize("row", REPORTS, ids=name)
def test_every_byte_of_a_report_has_a_name(row: dict[str, Any]) -> None:
    raw = read(row["file"])
    found = nvidia.fields(raw)
    assert (found[0].start, found[-1].end) == (0, len(raw))
    assert all(a.end == b.start for a, b in pairwise(found))
    parsed = nvidia.parse_report(raw)
    assert len(parsed.measurements) == row["n_measurements"]
    assert parsed.opaque[6].hex() == row["vbios"]
    flag = parsed.opaque.get(36, b"").hex()
    assert (parsed.opaque.get(21, b"").hex(), flag) == (row["ppcie_status"], row["feature_flag"])


@pytest.mark.parametrize("row", VALID, ids=name)
def test_a_firmware_id_in_the_report_is_the_one_in_the_certificate(row: dict[str, Any]) -> None:
    assert state(report(row), "gpu.certificate.fwid") == ("passed" if row["fwid"] else "not-applicable")


def other_pem(row: dict[str, Any]) -> list[x509.Certificate]:
    other = next(r for r in VALID if r["arch"] == row["arch"] and read(r["chain"]) != read(row["chain"]))
    return x509.load_pem_x509_certificates(read(other["chain"]))


def pem(chain: list[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in chain)


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def negatives(row: dict[str, Any]) -> dict[str, Callable[[], ArtifactVerdict]]:
    raw, chain = read(row["file"]), x509.load_pem_x509_certificates(read(row["chain"]))
    other = other_pem(row)
    nonce = bytes.fromhex(row["nonce"])
    before = int(chain[0].not_valid_before_utc.timestamp()) - 1
    return {
        "bit in a measurement": lambda: report(row, raw=flip(raw, 37 + 8 + 20)),
        "bit in the opaque data": lambda: report(row, raw=flip(raw, len(raw) - 97)),
        "bit in r": lambda: report(row, raw=flip(raw, len(raw) - 90)),
        "bit in s": lambda: report(row, raw=flip(raw, len(raw) - 1)),
        "another nonce asked": lambda: report(row, nonce=flip(nonce, 0)),
        "nonce changed to the one asked": lambda: report(row, raw=flip(raw, 4), nonce=flip(nonce, 0)),
        "no nonce given": lambda: report(row, nonce=None),
        "another device's chain": lambda: report(row, chain=pem(other)),
        "another device's leaf": lambda: report(row, chain=pem([other[0], *chain[1:]])),
        "another device under this leaf": lambda: report(row, chain=pem([chain[0], other[1], *chain[2:]])),
        "chain turned round": lambda: report(row, chain=pem(chain[::-1])),
        "chain without the provisioner": lambda: report(row, chain=pem([*chain[:2], *chain[3:]])),
        "chain without the device": lambda: report(row, chain=pem([chain[0], *chain[2:]])),
        "no chain": lambda: report(row, chain=None),
        "before the leaf": lambda: report(row, now=before),
        "after the leaf": lambda: report(row, now=253_402_300_799),
        "declared as the other kind": lambda: report(
            row, kind="nvidia-gpu" if row["arch"] == "LS10" else "nvidia-nvswitch"
        ),
        "truncated": lambda: report(row, raw=raw[:-1]),
        "cut in the middle": lambda: report(row, raw=raw[: len(raw) // 2]),
        "trailing byte": lambda: report(row, raw=raw + b"\0"),
        "two reports": lambda: report(row, raw=raw + raw),
    }


@pytest.mark.parametrize("row", VALID, ids=name)
def test_each_genuine_report_spoilt_is_refused(row: dict[str, Any]) -> None:
    cases = negatives(row)
    for what, case in cases.items():
        try:
            verdict = case()
        except TeehouseError:
            continue
        assert verdict.result == "refused", what
    assert len(cases) >= 8


@pytest.mark.parametrize("row", VALID, ids=name)
def test_what_is_missing_refuses_by_default_and_says_what_to_supply(row: dict[str, Any]) -> None:
    verdict = report(row, policy=replace(ALONE, gpu=GpuPolicy(modes=MODES)))
    assert refusing(verdict) >= {"gpu.certificate.revocation", "gpu.rim.present"}
    hints = {check.id: check.hint for check in verdict.refusing}
    assert "staple" in hints["gpu.certificate.revocation"]
    assert "manifest" in hints["gpu.rim.present"]


@pytest.mark.parametrize("row", RIMS, ids=name)
def test_every_manifest_gets_the_verdict_of_its_row(row: dict[str, Any]) -> None:
    verdict = rim_verdict(read(row["file"]), middle(row))
    signed = row["digest_ok"] and row["signature_ok"]
    assert state(verdict, "gpu.rim.signature") == ("passed" if signed else "failed")
    assert state(verdict, "gpu.rim.chain") == ("passed" if row["chain_ok"] else "failed")
    assert verdict.result == ("accepted" if signed and row["chain_ok"] else "refused")
    claims = verdict.claims
    assert (claims["version"], claims["product"], claims["edition"]) == (row["version"], row["product"], row["edition"])


GOOD_RIMS = [row for row in RIMS if row["digest_ok"] and row["signature_ok"] and row["chain_ok"]]


def rim_negatives(row: dict[str, Any]) -> dict[str, tuple[bytes, int]]:
    raw, now = read(row["file"]), middle(row)
    begin, end = (int(datetime.fromisoformat(d).replace(tzinfo=UTC).timestamp()) for d in row["leaf_valid"])
    value = raw.index(b"SignatureValue>") + 40
    hashed = raw.index(b'active="True"')
    digest = raw.index(b'Hash0="', hashed) + 7
    swapped = b"1" if raw[digest : digest + 1] != b"1" else b"2"
    certificate = raw.index(b"X509Certificate>") + 200
    letter = b"A" if raw[certificate : certificate + 1] != b"A" else b"B"
    signature = raw[raw.index(b"<ds:Signature ") : raw.rindex(b"</ds:Signature>") + 15]
    return {
        "golden digest": (raw[:digest] + swapped + raw[digest + 1 :], now),
        "golden value made inactive": (raw.replace(b'active="True"', b'active="False"', 1), now),
        "version": (raw.replace(row["version"].encode(), b"99" + row["version"].encode()[2:], 1), now),
        "signature": (raw[:value] + (b"A" if raw[value : value + 1] != b"A" else b"B") + raw[value + 1 :], now),
        "certificate": (raw[:certificate] + letter + raw[certificate + 1 :], now),
        "before its signer": (raw, begin - 86400),
        "after its signer": (raw, end + 2 * 86400),
        "truncated": (raw[:-20], now),
        "trailing": (raw + b"<x/>", now),
        "a comment": (raw.replace(b"<ds:SignatureValue>", b"<!-- x --><ds:SignatureValue>"), now),
        "a DOCTYPE": (b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + raw, now),
        "no signature": (raw.replace(signature, b""), now),
        "two signatures": (raw.replace(signature, signature + signature), now),
        "another root element": (b'<x xmlns="y">' + raw + b"</x>", now),
    }


@pytest.mark.parametrize("row", GOOD_RIMS, ids=name)
def test_each_genuine_manifest_spoilt_is_refused(row: dict[str, Any]) -> None:
    cases = rim_negatives(row)
    for what, (raw, now) in cases.items():
        try:
            verdict = rim_verdict(raw, now)
        except TeehouseError:
            continue
        assert verdict.result == "refused", what
    assert len(cases) >= 8


MATCHES = {  # report → manifests that are its own, and an instant at which their signers are valid
    "HOPPER-GH100_545.00_go-nvtrust_712fc6408b.bin": (
        ("Driver_RIM_test_no_gpu_0ffea7.xml", "1010_0200_882_96005E0001_test_no_gpu_5bd2aa.xml"),
        1_720_000_000,
    ),
    "HOPPER-GH100_535.86.09_attestation-sdk_30cddcd0b0.bin": (
        ("1010_0200_882_96005E0001_PROD_d43e1f.xml",),
        1_720_000_000,
    ),
    "LS10_nvswitch_attestation-sdk_352fc991e8.bin": (
        ("switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001_8d7e7d.xml",),
        1_800_000_000,
    ),
}


def collateral(*names: str) -> dict[str, bytes]:
    return {n: read(f"nvidia/rim/{n}") for n in names}


@pytest.mark.parametrize("file", MATCHES)
def test_genuine_manifests_match_genuine_reports(file: str) -> None:
    row = next(r for r in VALID if name(r) == file)
    rims, now = MATCHES[file]
    whole = len(rims) == 2 or row["arch"] == "LS10"
    verdict = report(row, MATCHED, now, collateral=collateral(*rims))
    assert state(verdict, "gpu.rim.measurements") == "passed"
    assert refusing(verdict) == (set() if whole else {"gpu.rim.present"})
    assert verdict.result == ("accepted" if whole else "refused")
    late = report(row, MATCHED, now + 5 * 365 * 86400, collateral=collateral(*rims))
    assert "gpu.rim.chain" in refusing(late)


MISMATCHES: list[tuple[str, str, set[str]]] = [
    (
        "HOPPER-GH100_535.86.09_attestation-sdk_30cddcd0b0.bin",
        "NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch_6835a5.xml",
        {"gpu.rim.signature", "gpu.rim.measurements"},
    ),
    (
        "HOPPER-GH100_535.86.09_attestation-sdk_30cddcd0b0.bin",
        "NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch_9b1029.xml",
        {"gpu.rim.measurements"},
    ),
    (
        "HOPPER-GH100_580.95.05_trustee_40782a2b61.bin",
        "1010_0200_882_960074001A_PROD_fc0862.xml",
        {"gpu.rim.measurements"},
    ),
    (
        "LS10_nvswitch_attestation-sdk_352fc991e8.bin",
        "NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature_8ac003.xml",
        {"gpu.rim.signature", "gpu.rim.measurements"},
    ),
]
"""A report, a manifest that is not its own, and what refuses."""


@pytest.mark.parametrize(("file", "wrong", "fails"), MISMATCHES)
def test_a_manifest_that_does_not_match_refuses_even_where_none_is_demanded(
    file: str, wrong: str, fails: set[str]
) -> None:
    row = next(r for r in VALID if name(r) == file)
    now = middle(next(r for r in RIMS if name(r) == wrong))
    assert refusing(report(row, ALONE, now, collateral=collateral(wrong))) == fails


def test_of_two_manifests_for_one_version_the_holding_one_counts() -> None:
    row = next(r for r in VALID if "545.00" in name(r))
    rims, now = MATCHES[name(row)]
    both = collateral(*rims, "1010_0200_882_96005E0001_PROD_d43e1f.xml")
    assert report(row, MATCHED, now, collateral=both).result == "accepted"


def machine() -> list[DeviceEvidence]:
    rows = [r for r in VALID if r["nonce"].startswith("4760e3")]
    found = []
    for number, row in enumerate(rows):
        kind = "nvidia-nvswitch" if row["arch"] == "LS10" else "nvidia-gpu"
        chain = tuple(x509.load_pem_x509_certificates(read(row["chain"])))
        found.append(DeviceEvidence(f"d{number}", kind, row["arch"].split("-")[0], read(row["file"]), chain))
    return found


def check_machine(devices: list[DeviceEvidence], nonce: bytes) -> tuple[Sheet, set[str]]:
    sheet = Sheet()
    check_set(sheet, devices, None, nvidia_roots_for("tdx"), nonce, ALONE, NOW)
    ids = (*GPU_CHECKS, "devices.unique", "devices.topology", "policy.devices")
    return sheet, {c.id for c in sheet.finish(ids, only=True) if c.refuses}


def test_a_genuine_machine_of_eight_gpus_and_four_switches() -> None:
    devices = machine()
    nonce = nvidia.parse_report(devices[0].report).request_nonce
    assert len(devices) == 12
    sheet, refused = check_machine(devices, nonce)
    assert refused == set()
    assert sheet.state("devices.topology") == "passed"
    gpus, switches = devices[:8], devices[8:]
    # A machine with one device less, one twice, or a foreign switch is not that machine.
    assert check_machine([*gpus[:7], *switches], nonce)[1] == {"devices.topology"}
    assert check_machine([*gpus, *switches[:3]], nonce)[1] == {"devices.topology"}
    assert check_machine(gpus, nonce)[1] == {"devices.topology"}
    assert check_machine([*devices, gpus[0]], nonce)[1] == {"devices.unique"}
    assert check_machine(devices, bytes(32))[1] == {"gpu.report.nonce"}
    foreign = next(r for r in VALID if "352fc991e8" in name(r))
    chain = tuple(x509.load_pem_x509_certificates(read(foreign["chain"])))
    stranger = replace(switches[0], report=read(foreign["file"]), chain=chain)
    assert check_machine([*gpus, *switches[1:], stranger], nonce)[1] == {"gpu.report.nonce", "devices.topology"}


def test_the_pinned_roots_are_those_of_the_vectors() -> None:
    for path, pinned in (
        ("NVIDIA_Device_Identity_CA.pem", NVIDIA_DEVICE_ROOT_PEM),
        ("nvswitch_device_root.pem", NVIDIA_DEVICE_ROOT_PEM),
        ("NVIDIA_RIM_root.pem", NVIDIA_RIM_ROOT_PEM),
    ):
        given = x509.load_pem_x509_certificate(read(f"nvidia/roots/{path}"))
        assert given == x509.load_pem_x509_certificate(pinned)
    prints = [
        x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
        for pem in (NVIDIA_DEVICE_ROOT_PEM, NVIDIA_RIM_ROOT_PEM)
    ]
    assert prints == [
        "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
        "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
    ]


@pytest.mark.parametrize("row", RIMS, ids=name)
def test_the_fields_of_a_manifest_stand_where_they_say(row: dict[str, Any]) -> None:
    raw = read(row["file"])
    for part in rim.fields(raw)[1:]:
        assert (part.start, part.end) == (0, len(raw)) or raw[part.start : part.end] == part.value.encode()


def test_speed_of_one_gpu_and_of_a_whole_machine() -> None:
    """A loose guard against a slide by an order of magnitude; the measured figures come from `make bench`."""
    row = VALID[0]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        report(row)
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.2
    devices = machine()
    start = time.perf_counter()
    check_machine(devices, bytes(32))
    assert time.perf_counter() - start < 3
