# SPDX-License-Identifier: Apache-2.0
"""Holds every artifact of ../shared/vectors to its manifest row, at the instants that are stated there; offline.

Prints a table (artifact, instant, expected, got), with the policy line that refuses what is genuine, then tries what
can be derived from each artifact. Part of `make vectors`. Without the folder it says so in one line and is content,
unless the environment has CI=true. Exit codes: 0 all as expected, 1 a difference, 2 usage.

`spec/real_evidence.json` keeps what was seen, for docs/en/check-coverage.md; `--write` renews it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from real_kit import SEEN, VECTORS, Row

SUMMARY = Path(__file__).parent / "real_evidence.json"


def sections() -> Iterator[tuple[str, Callable[[], Iterator[Row]]]]:
    import real_rows
    import real_tpm

    yield "Intel quotes", real_rows.tdx_rows
    yield "SEV-SNP reports", real_rows.snp_rows
    yield "NVIDIA reports", real_rows.nvidia_rows
    yield "NVIDIA manifests", real_rows.rim_rows
    yield "Azure vTPMs", real_tpm.azure_rows
    yield "TPM quotes", real_tpm.quote_rows
    yield "Boot logs", real_tpm.log_rows
    yield "Parts without a verdict of their own", real_tpm.part_rows


def show(title: str, rows: list[Row]) -> None:
    wide = min(max(len(row.artifact) for row in rows), 64)
    told = min(max(len(row.expected) for row in rows), 44)
    print(f"\n{title}\n{'artifact':{wide}}  {'instant':16}  {'expected':{told}}  ok  got")
    for row in rows:
        mark = "✓ " if row.ok else "✗ "
        print(f"{row.artifact[:wide]:{wide}}  {row.instant:16}  {row.expected[:told]:{told}}  {mark}  {row.got}")
        if row.why:
            print(f"{'':{wide}}  {'':16}  {'':{told}}      policy: {row.why}")


def summary(rows: int, negatives: dict[str, int]) -> dict[str, Any]:
    return {
        "rows": rows,
        "verdicts": SEEN.verdicts,
        "artifacts_spoilt": len(negatives),
        "derived_negatives": sum(negatives.values()),
        "checks": SEEN.to_json(),
    }


def main(argv: list[str] | None = None) -> int:
    """0 when everything is as the manifest says."""
    parser = argparse.ArgumentParser(description="Hold genuine evidence to the verdicts that its manifest states.")
    parser.add_argument("--write", action="store_true", help="renew spec/real_evidence.json")
    parser.add_argument("--quiet", action="store_true", help="print differences and totals only")
    arguments = parser.parse_args(argv)
    if not (VECTORS / "manifest.json").exists():
        print("REAL EVIDENCE NOT CHECKED: there is no ../shared/vectors beside the repository", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    import real_negatives

    total = different = 0
    for title, make in sections():
        rows = list(make())
        total += len(rows)
        different += sum(not row.ok for row in rows)
        shown = [row for row in rows if not row.ok] if arguments.quiet else rows
        if shown:
            show(title, shown)
    negatives, wrong = real_negatives.run()
    for line in wrong:
        print(line)
    found = summary(total, negatives)
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    stale = not SUMMARY.exists() or SUMMARY.read_text() != text
    if arguments.write:
        SUMMARY.write_text(text)
    elif stale:
        print("spec/real_evidence.json: differs from what is seen; run `python spec/real_evidence.py --write`")
    print(
        f"\nreal evidence: {total} rows, {different} different; {found['derived_negatives']} negatives derived from "
        f"{len(negatives)} artifacts, {len(wrong)} findings",
        file=sys.stderr,
    )
    return 1 if different or wrong or (stale and not arguments.write) else 0


if __name__ == "__main__":
    raise SystemExit(main())
