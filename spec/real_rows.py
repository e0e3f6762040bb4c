# SPDX-License-Identifier: Apache-2.0
"""Genuine TDX, SGX, SNP and NVIDIA evidence against the manifest's rows, at the instants these state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import test_nvidia_vectors as nvidia
import test_snp_vectors as snp
import test_tdx_artifacts as tdx
from real_kit import SEEN, Row, day, manifest, policy_lines, read, refusing, seconds, short, told

ANY_STATUS = dataclasses.replace(
    tdx.BOTH,
    tcb_statuses=(
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ),
)


def tdx_rows() -> Iterator[Row]:
    """The manifest's status at each instant, and the default policy's answer to it."""
    for row in manifest()["tdx"]:
        raw, name = read(row["file"]), short(row["file"])
        for run in row["verify"]:
            at = seconds(run["at"])
            verdict = tdx.appraise(raw, {"c.json": read(run["collateral"])}, tdx.BOTH, at)
            SEEN.note(verdict.checks)
            ids = refusing(verdict)
            if run["result"] == "REJECT":
                detail = run["detail"].removeprefix("Verification failed: ")
                reason = tdx.REASONS[detail]
                ok = verdict.result == "refused" and any(reason in check_id for check_id in ids)
                expected = f"REJECT ({detail})"
            else:
                wanted = set() if run["result"] == "UpToDate" else {"tdx.tcb.status"}
                ok = verdict.claims["tcb_status"] == run["result"] and ids - {"tdx.tcb.advisories"} == wanted
                ok &= verdict.claims["advisories"] == sorted(run["detail"])
                ok &= (verdict.result == "accepted") == (not ids)
                expected = run["result"]
            ok &= verdict.tier == "hardware"
            got = f"{verdict.claims.get('tcb_status', 'no level')}: {told(verdict)}"
            yield Row(name, run["at"][:16], expected, got, ok, policy_lines(verdict, tdx.BOTH))
        if not row["verify"]:
            verdict = tdx.appraise(raw, {}, tdx.BOTH, 1_780_000_000)
            SEEN.note(verdict.checks)
            genuine = "NOT genuine" not in row["origin"]
            signed = "tdx.quote.signature" not in refusing(verdict)
            ok = verdict.result == "refused" and (
                ("tdx.pck.chain" not in refusing(verdict) and signed) if genuine else verdict.tier == "none"
            )
            expected = "genuine, no collateral here: refused" if genuine else "not genuine: refused"
            yield Row(name, "2026-05-28", expected, told(verdict)[:60], ok)


def snp_rows() -> Iterator[Row]:
    """Under a policy that allows the old (accepted, debug alone refused), then under the default with its lines."""
    for row in snp.rows():
        name = short(row["file"])
        if not row["leaf_cert"]:
            verdict = snp.verify(row, snp.WIDE)
            SEEN.note(verdict.checks)
            ok = verdict.result == "refused" and "snp.leaf.format" in refusing(verdict)
            yield Row(name, "2026-01-01", "no leaf published: refused", told(verdict)[:60], ok)
            continue
        now, listed = snp.instant(row)
        verdict = snp.verify(row, snp.WIDE)
        SEEN.note(verdict.checks)
        wanted = {"snp.guest.debug"} if row["debug"] else set()
        expected = "debug: refused" if row["debug"] else "genuine: accepted"
        ok = refusing(verdict) == wanted and verdict.tier == "hardware"
        ok &= verdict.claims["revocation"] == ("good" if listed else "unknown")
        yield Row(name, day(now), expected, f"{told(verdict)}, revocation {verdict.claims['revocation']}", ok)
        default = snp.verify(row, snp.STANDARD)
        SEEN.note(default.checks)
        good = default.result == "accepted"
        expected = "accepted by default" if _young(row) and listed else "genuine, refused by default"
        ok = good == (_young(row) and listed) and default.tier == "hardware"
        yield Row(name, day(now), expected, told(default), ok, policy_lines(default, snp.STANDARD))


def _young(row: dict[str, Any]) -> bool:
    """Genoa or Turin, version 3 or later, a chip's own key, at VMPL 0, no debug: what the default accepts."""
    old = snp.product(row) == "Milan" or row["version"] < 3 or row["signing_key"] != "VCEK"
    return not (old or row["vmpl"] or row["debug"])


def nvidia_rows() -> Iterator[Row]:
    """Reports alone, then with manifests: matches, mismatches, a whole machine."""
    for row in nvidia.REPORTS:
        verdict = nvidia.report(row)
        SEEN.note(verdict.checks)
        valid = row["signature"] == "valid"
        ids = refusing(verdict)
        ok = (verdict.result == "accepted") if valid else ids >= {"gpu.report.signature", "gpu.certificate.chain"}
        ok &= verdict.tier == ("hardware" if valid else "none")
        expected = "valid, chains to NVIDIA" if valid else "no published key verifies it"
        yield Row(short(row["file"]), day(nvidia.NOW), expected, told(verdict)[:70], ok)
        if valid:
            policy = dataclasses.replace(nvidia.ALONE, gpu=nvidia.GpuPolicy(modes=nvidia.MODES))
            default = nvidia.report(row, policy)
            SEEN.note(default.checks)
            ok = default.result == "refused" and refusing(default) >= {"gpu.rim.present", "gpu.certificate.revocation"}
            yield Row(
                short(row["file"]),
                day(nvidia.NOW),
                "genuine, refused by default",
                f"{default.result}, no manifest and no answer",
                ok,
                policy_lines(default, policy)[:120],
            )
    for file, (rims, now) in nvidia.MATCHES.items():
        row = next(r for r in nvidia.VALID if nvidia.name(r) == file)
        verdict = nvidia.report(row, nvidia.MATCHED, now, collateral=nvidia.collateral(*rims))
        SEEN.note(verdict.checks)
        whole = len(rims) == 2 or row["arch"] == "LS10"
        ok = nvidia.state(verdict, "gpu.rim.measurements") == "passed"
        ok &= refusing(verdict) == (set() if whole else {"gpu.rim.present"})
        yield Row(f"{file} + {len(rims)} manifests", day(now), "every golden value is the device's", told(verdict), ok)
    for file, wrong, fails in nvidia.MISMATCHES:
        row = next(r for r in nvidia.VALID if nvidia.name(r) == file)
        now = nvidia.middle(next(r for r in nvidia.RIMS if nvidia.name(r) == wrong))
        verdict = nvidia.report(row, nvidia.ALONE, now, collateral=nvidia.collateral(wrong))
        SEEN.note(verdict.checks)
        ok = refusing(verdict) == fails
        yield Row(f"{file} + {wrong}", day(now), f"refused: {' '.join(sorted(fails))}", told(verdict), ok)
    devices = nvidia.machine()
    nonce = nvidia.nvidia.parse_report(devices[0].report).request_nonce
    sheet, refused = nvidia.check_machine(devices, nonce)
    ok = not refused and sheet.state("devices.topology") == "passed"
    yield Row("8 GPUs and 4 switches of one machine", day(nvidia.NOW), "wired to each other", "passed", ok)


def rim_rows() -> Iterator[Row]:
    for row in nvidia.RIMS:
        now = nvidia.middle(row)
        verdict = nvidia.rim_verdict(read(row["file"]), now)
        SEEN.note(verdict.checks)
        signed = row["digest_ok"] and row["signature_ok"]
        ok = nvidia.state(verdict, "gpu.rim.signature") == ("passed" if signed else "failed")
        ok &= nvidia.state(verdict, "gpu.rim.chain") == ("passed" if row["chain_ok"] else "failed")
        ok &= (verdict.result == "accepted") == (signed and row["chain_ok"])
        names = (("digest", "digest_ok"), ("signature", "signature_ok"), ("chain", "chain_ok"))
        wrong = " ".join(name for name, member in names if not row[member])
        yield Row(short(row["file"]), day(now), f"wrong: {wrong}" if wrong else "signed by NVIDIA", told(verdict), ok)
