# SPDX-License-Identifier: Apache-2.0
"""House rules that no linter on the shelf knows. Part of `make lint`.

Rules, by the name printed with each finding:
- `too-long`: a source file has more than 600 lines.
- `no-spdx`: a source file does not name its licence in its first three lines.
- `plain-in-cloud`: `cloud/` names a variable `…_plain`; plaintext has no business there.
- `assert-in-product`: a product wheel uses `assert`, which `python -O` removes.
- `machine-path`: text names a folder of somebody's machine.
- `registry-host`: text names the address of a package registry; mirrors must work.

It reads the files that git tracks or would track (`git ls-files -co --exclude-standard`), or every file below a folder
that is no checkout. It does not check what the files mean. Exit codes: 0 clean, 1 findings, 2 usage.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_LINES = 600  # a file that needs more holds two nouns
SOURCE_SUFFIXES = {".py", ".sh", ".ts", ".tsx", ".toml"}
SOURCE_NAMES = {"Makefile", "run"}
LENGTH_SUFFIXES = {".py", ".ts", ".tsx", ".sh"}
PRODUCT_SOURCES = ("core/src/", "enclave/src/", "cloud/src/", "client/src/")
SKIPPED_FOLDERS = {".git", ".venv", ".cache", "node_modules", "__pycache__", "dist", "build"}
# Folders that are nobody's own: a checkout directly below one of them forbids no text.
SHARED_FOLDERS = {"/", "/home", "/opt", "/srv", "/tmp", "/usr", "/var"}  # noqa: S108  (names, nothing is written there)

PLAIN_NAME = re.compile(r"[A-Za-z0-9]_plain$")
HOME_FOLDER = re.compile(r"/(?:home|Users)/(?!you/|user/)[A-Za-z0-9._-]+/")
REGISTRY_HOST = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|registry\.npmjs\.org|registry\.yarnpkg\.com|deb\.debian\.org|"
    r"static\.crates\.io|proxy\.golang\.org)\b"
)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken rule at one line."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.message}"


def list_files(root: Path) -> list[str]:
    """Paths relative to `root`, with `/`, sorted."""
    if (root / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, check=True, capture_output=True
        ).stdout.decode()
        return sorted({name for name in listed.split("\0") if name and (root / name).is_file()})
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in SKIPPED_FOLDERS]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in files]
    return sorted(found)


def machine_folders(root: Path) -> tuple[str, ...]:
    """Folders of this machine that must stand in no text: the checkout's own place and the home folder."""
    here = (str(root.resolve().parent), os.path.expanduser("~"))
    return tuple(f"{folder}/" for folder in here if folder not in SHARED_FOLDERS)


def check_python(path: str, text: str) -> Iterator[Finding]:
    """Rules that need a syntax tree."""
    in_cloud = path.startswith("cloud/")
    in_product = path.startswith(PRODUCT_SOURCES)
    if not (in_cloud or in_product):
        return
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield Finding(path, error.lineno or 0, "syntax", "does not parse")
        return
    for node in ast.walk(tree):
        if in_product and isinstance(node, ast.Assert):
            yield Finding(path, node.lineno, "assert-in-product", "raise a typed error; python -O drops this")
        if in_cloud:
            name = _bound_name(node)
            if name is not None and PLAIN_NAME.search(name):
                yield Finding(path, getattr(node, "lineno", 0), "plain-in-cloud", f"{name}: cloud holds no plaintext")


def _bound_name(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=name):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
    return None


def check_text(path: str, text: str, folders: tuple[str, ...]) -> Iterator[Finding]:
    """Rules that hold for every text file."""
    for number, line in enumerate(text.splitlines(), start=1):
        if HOME_FOLDER.search(line) or any(folder in line for folder in folders):
            yield Finding(path, number, "machine-path", "names a folder of one machine")
        if REGISTRY_HOST.search(line):
            yield Finding(path, number, "registry-host", "names a package registry's address; say the package instead")


def check_file(path: str, text: str, folders: tuple[str, ...]) -> Iterator[Finding]:
    """Every rule, for one file."""
    name = PurePosixPath(path)
    lines = text.splitlines()
    if name.suffix in LENGTH_SUFFIXES and len(lines) > MAX_LINES:
        yield Finding(path, len(lines), "too-long", f"{len(lines)} lines; the ceiling is {MAX_LINES}")
    is_source = name.suffix in SOURCE_SUFFIXES or name.name in SOURCE_NAMES
    if is_source and not any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:3]):
        yield Finding(path, 1, "no-spdx", "name the licence: SPDX-License-Identifier: Apache-2.0")
    if name.suffix == ".py":
        yield from check_python(path, text)
    yield from check_text(path, text, folders)


def check_tree(root: Path) -> list[Finding]:
    """Every finding below `root`, in order."""
    folders = machine_folders(root)
    findings: list[Finding] = []
    for path in list_files(root):
        data = (root / path).read_bytes()
        if b"\0" in data:
            continue
        findings += check_file(path, data.decode("utf-8", errors="replace"), folders)
    return sorted(findings)


def main(argv: list[str] | None = None) -> int:
    """Print findings; 1 when there are any."""
    parser = argparse.ArgumentParser(description="House rules of Teehouse that no linter on the shelf knows.")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    root: Path = parser.parse_args(argv).root
    findings = check_tree(root)
    for finding in findings:
        print(finding)
    print(f"check_files: {len(findings)} findings" if findings else "check_files: clean", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
