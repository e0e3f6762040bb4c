# SPDX-License-Identifier: Apache-2.0
"""Writes enclave/TCB.md: every file and every third-party package that runs inside the TEE.

The files are those of `enclave/src` and the modules of `core` that they import, followed to the end of the import
graph. The packages are the closure of what the two wheels require, with the versions of `requirements.lock`, as
resolved for one fixed target (CPython 3.11 on Linux x86-64), so that the text is the same on every machine.

It does not count the interpreter and its standard library, compiled code inside packages, the kernel or the firmware;
the document says so. `--check` exits 1 when the document is stale or a budget is exceeded.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
import tomllib
from dataclasses import dataclass
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import grimp
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = "enclave/TCB.md"
PACKAGES = {"teehouse_enclave": "enclave/src", "teehouse_core": "core/src"}
EXTRA = "llamacpp"  # the embedded engine is the default, so it counts
OWN = {"teehouse", "teehouse-core", "teehouse-enclave", "teehouse-cloud"}

# Ceilings. Raising one is a decision: change docs/adr/0008-tcb-budget.md with it and argue there.
BUDGET_ADR = "docs/adr/0008-tcb-budget.md"
MAX_LINES = 9000  # lines of our own code inside the TEE
MAX_PACKAGES = 18  # third-party packages inside the TEE

TARGET = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.0",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Linux",
    "platform_version": "",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One of our files that runs in the TEE."""

    path: str
    lines: int
    purpose: str


@dataclass(frozen=True, slots=True)
class Package:
    """One third-party package that is installed in the TEE."""

    name: str
    version: str
    needed_by: tuple[str, ...]


def count_lines(source: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def purpose_of(source: str) -> str:
    """First sentence of the module docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s+(?=[A-Z`])", text, maxsplit=1)[0]
    return sentence.rstrip(".").replace("|", "\\|") or "(no docstring)"


def modules_in_tee() -> list[str]:
    """Every module of the enclave wheel and every module of core that it imports, packages' `__init__` included."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = {name for name in graph.modules if name.split(".")[0] == "teehouse_enclave"}
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        parent = name.rpartition(".")[0]
        reached = set(graph.find_modules_directly_imported_by(name)) | ({parent} if parent else set())
        waiting += reached - found
        found |= reached
    return sorted(found)


def source_files(root: Path) -> list[SourceFile]:
    """The files of `modules_in_tee`, by path."""
    files = []
    for module in modules_in_tee():
        stem = root / PACKAGES[module.split(".")[0]] / Path(*module.split("."))
        path = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        files.append(SourceFile(path.relative_to(root).as_posix(), count_lines(source), purpose_of(source)))
    return sorted(files, key=lambda file: file.path)


def locked_versions(root: Path) -> dict[str, str]:
    """Package name → version for `TARGET`, out of requirements.lock."""
    versions: dict[str, str] = {}
    for line in (root / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate(TARGET):
                versions[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return versions


def third_party(root: Path) -> list[Package]:
    """Closure of the requirements of core and enclave (with the embedded engine)."""
    versions = locked_versions(root)
    needed_by: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str, Requirement]] = []
    for wheel in ("core", "enclave"):
        project = tomllib.loads((root / wheel / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = [*project["dependencies"]]
        if wheel == "enclave":
            texts += project["optional-dependencies"][EXTRA]
        waiting += [(project["name"], Requirement(text)) for text in texts]
    while waiting:
        by, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in OWN:
            continue
        needed_by.setdefault(name, set()).add(by)
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(name, below) for below in _requirements(name, extra)]
    missing = sorted(set(needed_by) - set(versions))
    if missing:
        raise SystemExit(f"tcb: not in requirements.lock: {', '.join(missing)}; run `make lock`")
    return [Package(name, versions[name], tuple(sorted(needed_by[name]))) for name in sorted(needed_by)]


def _requirements(name: str, extra: str) -> list[Requirement]:
    """What an installed package requires on `TARGET`: always (`extra` empty), or because of one extra."""
    found = []
    for text in requires(name) or []:
        requirement = Requirement(text)
        plain = requirement.marker is None or requirement.marker.evaluate(TARGET | {"extra": ""})
        wanted = plain if not extra else not plain and requirement.marker is not None
        if wanted and (not extra or (requirement.marker and requirement.marker.evaluate(TARGET | {"extra": extra}))):
            found.append(requirement)
    return found


def direct_imports() -> dict[str, set[str]]:
    """Distribution name → our modules in the TEE that import it themselves."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    inside = set(modules_in_tee())
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for module in inside:
        for imported in graph.find_modules_directly_imported_by(module):
            for distribution in distributions.get(imported.split(".")[0], []):
                found.setdefault(canonicalize_name(distribution), set()).add(module)
    return found


def render(files: list[SourceFile], packages: list[Package], imported: dict[str, set[str]]) -> str:
    """The document."""
    total = sum(file.lines for file in files)
    out = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "<!-- Generated by `make tcb`. Do not edit: `make lint` fails when this is stale. -->",
        "# What runs inside the TEE",
        "",
        "Every file and third-party package below can read prompts, so each is part of the trusted computing base.",
        "Lines are lines of code: no blanks, comments or docstrings. Packages are what `teehouse-enclave` with the",
        f"embedded engine (`{EXTRA}`) installs on CPython 3.11, Linux x86-64, in the versions of `requirements.lock`.",
        "",
        "Not counted here: the Python interpreter and its standard library, compiled code inside the packages",
        "(llama.cpp in `xllamacpp`, OpenSSL in `cryptography`, libuv in `uvloop`), the operating system of the guest,",
        "the firmware and the processor. They are trusted too, and a measurement covers them only on real hardware.",
        "",
        "| | now | budget |",
        "| --- | ---: | ---: |",
        f"| lines of our code | {total} | {MAX_LINES} |",
        f"| third-party packages | {len(packages)} | {MAX_PACKAGES} |",
        "",
        f"The budget is a decision: [{Path(BUDGET_ADR).stem}](../{BUDGET_ADR}).",
        "",
    ]
    for title, prefix in (("Enclave", "enclave/"), ("Core, as far as the enclave imports it", "core/")):
        part = [file for file in files if file.path.startswith(prefix)]
        out += [
            f"## {title}: {sum(file.lines for file in part)} lines",
            "",
            "| file | lines | purpose |",
            "| --- | ---: | --- |",
        ]
        out += [f"| `{file.path}` | {file.lines} | {file.purpose} |" for file in part]
        out.append("")
    out += [
        f"## Third-party packages: {len(packages)}",
        "",
        "| package | version | required by | imported by our code in |",
    ]
    out.append("| --- | --- | --- | --- |")
    for package in packages:
        users = sorted({".".join(module.split(".")[:2]) for module in imported.get(package.name, set())})
        names = ", ".join(f"`{user}`" for user in users) or "nothing of ours"
        out.append(f"| {package.name} | {package.version} | {', '.join(package.needed_by)} | {names} |")
    return "\n".join(out) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the document, or with `--check` compare it; 1 when stale or over budget."""
    parser = argparse.ArgumentParser(description="Generate enclave/TCB.md.")
    parser.add_argument("--check", action="store_true", help="exit 1 when the document is stale; write nothing")
    check = parser.parse_args(argv).check
    files, packages = source_files(ROOT), third_party(ROOT)
    text = render(files, packages, direct_imports())
    path = ROOT / DOCUMENT
    failed = False
    if check:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            print(
                f"{DOCUMENT}: stale; run `make tcb` and read what changed in the trusted computing base",
                file=sys.stderr,
            )
            failed = True
    else:
        path.write_text(text, encoding="utf-8")
    for what, now, most in (
        ("lines", sum(file.lines for file in files), MAX_LINES),
        ("packages", len(packages), MAX_PACKAGES),
    ):
        if now > most:
            print(f"{DOCUMENT}: {now} {what} inside the TEE, the budget is {most}: {BUDGET_ADR}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
