# SPDX-License-Identifier: Apache-2.0
"""Checks that the documents hold together. Part of `make lint`.

Findings that fail:
- `dead-link`: a relative link of a Markdown file leads nowhere.
- `adr`: a decision is missing from the index, or lacks a section.
- `change-note`: a file of `changes/` is not named `<issue>.<category>.md`, or is empty.
- `translation`: a page has no Chinese pair, or the pair does not say which text it translates.

A translation older than its source is listed, and does not fail: a correction should not wait for its translation.
`--stamp PAGE…` records in a translation that it now says what its source says. It does not check that it does.
Exit codes: 0 clean, 1 findings, 2 usage.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from check_files import Finding, list_files

CATEGORIES = ("added", "changed", "fixed", "security", "measured")
ADR_SECTIONS = ("## Context", "## Options", "## Decision", "## Consequences")
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")
STAMP = re.compile(r"<!-- translates: (\S+) sha256:([0-9a-f]{64}) -->")


def check_links(root: Path, path: str) -> Iterator[Finding]:
    """Relative links only; nothing is fetched."""
    text = (root / path).read_text(encoding="utf-8")
    text = FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(text.splitlines(), start=1):
        for target in LINK.findall(INLINE_CODE.sub("", line)):
            file = target.partition("#")[0]
            if not file or re.match(r"[a-z]+:", file):
                continue
            if not ((root / path).parent / file).exists():
                yield Finding(path, number, "dead-link", target)


def check_decisions(root: Path) -> Iterator[Finding]:
    """Each ADR stands in the index and argues its options."""
    folder = root / "docs/adr"
    index = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").exists() else ""
    for page in sorted(folder.glob("[0-9]*.md")):
        path = page.relative_to(root).as_posix()
        if f"({page.name})" not in index:
            yield Finding(path, 1, "adr", "not in docs/adr/README.md")
        lines = page.read_text(encoding="utf-8").splitlines()
        for section in ADR_SECTIONS:
            if section not in lines:
                yield Finding(path, 1, "adr", f"no section {section!r}")


def check_changes(root: Path) -> Iterator[Finding]:
    """Names are `<issue>.<category>.md`."""
    name = re.compile(rf"\d+\.({'|'.join(CATEGORIES)})\.md")
    for note in sorted((root / "changes").glob("*")):
        if note.name == "README.md":
            continue
        path = note.relative_to(root).as_posix()
        if not name.fullmatch(note.name):
            yield Finding(path, 1, "change-note", f"not named <issue>.<{'|'.join(CATEGORIES)}>.md")
        elif not note.read_text(encoding="utf-8").strip():
            yield Finding(path, 1, "change-note", "empty")


def translations(root: Path) -> dict[str, str]:
    """Chinese page → its English source."""
    pairs = {"README.zh.md": "README.md"}
    for page in sorted((root / "docs/en").rglob("*.md")):
        name = page.relative_to(root / "docs/en").as_posix()
        pairs[f"docs/zh/{name}"] = f"docs/en/{name}"
    return pairs


def check_translations(root: Path) -> tuple[list[Finding], list[str]]:
    """Findings, and the pages that are older than their source."""
    findings, stale = [], []
    for page, source in translations(root).items():
        if not (root / page).exists():
            findings.append(Finding(page, 1, "translation", f"missing; it pairs {source}"))
            continue
        stamp = STAMP.search((root / page).read_text(encoding="utf-8"))
        if stamp is None or stamp[1] != source:
            findings.append(Finding(page, 1, "translation", f"does not say that it translates {source}"))
        elif stamp[2] != _digest(root / source):
            stale.append(page)
    return findings, stale


def stamp_page(root: Path, page: str) -> None:
    """Write the source's digest into the first line of a translation."""
    source = translations(root)[page]
    text = STAMP.sub("", (root / page).read_text(encoding="utf-8")).lstrip("\n")
    (root / page).write_text(f"<!-- translates: {source} sha256:{_digest(root / source)} -->\n{text}", encoding="utf-8")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str] | None = None) -> int:
    """Print findings; 1 when there are any."""
    parser = argparse.ArgumentParser(description="Check that the documents of Teehouse hold together.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--stamp", nargs="+", metavar="PAGE", help="translations that now match their source")
    args = parser.parse_args(argv)
    root: Path = args.root
    for page in args.stamp or []:
        if page not in translations(root):
            parser.error(f"{page} is no translation")
        stamp_page(root, page)
    findings = [*check_decisions(root), *check_changes(root)]
    for path in list_files(root):
        if path.endswith(".md"):
            findings += check_links(root, path)
    missing, stale = check_translations(root)
    findings = sorted(findings + missing)
    for finding in findings:
        print(finding)
    for page in stale:
        print(f"check_docs: {page} is older than its source (listed, not counted)", file=sys.stderr)
    print(f"check_docs: {len(findings)} findings" if findings else "check_docs: clean", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
