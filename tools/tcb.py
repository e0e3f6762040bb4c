# SPDX-License-Identifier: Apache-2.0
"""Writes enclave/TCB.md: every file and every third-party package that runs inside a TEE, counted per process.

Two processes run in TEEs, each in a machine of its own: a node sees prompts and no other tenant's keys, the key service
sees keys and no prompt. The files of a process are its part of `enclave/src` and whatever those import, followed to the
end of the import graph; what belongs to neither counts for the node. The packages are the closure of what the two
wheels require for it, with the versions of `requirements.lock`, as resolved for one fixed target (CPython 3.11 on Linux
x86-64), so that the text is the same on every machine.

It does not count the interpreter and its standard library, compiled code inside packages, the kernel or the firmware;
the document says so. `--check` exits 1 when the document is stale or a budget is exceeded.
"""

from __future__ import annotations

import argparse
import ast
import functools
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
OWN = {"teehouse", "teehouse-core", "teehouse-enclave", "teehouse-cloud"}

# Ceilings. Raising one is a decision: change docs/adr/0008-tcb-budget.md with it and argue there.
BUDGET_ADR = "docs/adr/0008-tcb-budget.md"
MAX_LINES = {"teehouse-node": 17500, "teehouse-keys": 20000}  # lines of our own code in the process
MAX_PACKAGES = {"teehouse-node": 18, "teehouse-keys": 18}  # third-party packages installed beside it

KEYS_PART = "teehouse_enclave.keys"
# Extras that count: the embedded engine is the default of a node, and both appraise evidence of every platform.
# Not counted: nvml and pkcs11, which are installed only where such a device is used.
EXTRAS = {
    "teehouse-node": {"core": ("nvidia", "tdx"), "enclave": ("llamacpp",)},
    "teehouse-keys": {"core": ("nvidia", "tdx"), "enclave": ()},
}

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
    """One of our files that runs in a TEE."""

    path: str
    lines: int
    purpose: str


@dataclass(frozen=True, slots=True)
class Package:
    """One third-party package that is installed in a TEE."""

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


@functools.cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def modules_in_tee(process: str) -> list[str]:
    """Every module that the process's part of the enclave wheel imports, packages' `__init__` included."""
    graph = _graph()
    enclave = {name for name in graph.modules if name.split(".")[0] == "teehouse_enclave"}
    keys = {name for name in enclave if name == KEYS_PART or name.startswith(f"{KEYS_PART}.")}
    found = keys if process == "teehouse-keys" else enclave - keys
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        parent = name.rpartition(".")[0]
        reached = set(graph.find_modules_directly_imported_by(name)) | ({parent} if parent else set())
        waiting += reached - found
        found |= reached
    return sorted(found)


def source_files(root: Path, process: str) -> list[SourceFile]:
    """The files of `modules_in_tee`, by path."""
    files = []
    for module in modules_in_tee(process):
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


def third_party(root: Path, process: str) -> list[Package]:
    """Closure of the requirements of core and enclave, with the extras that count for the process."""
    versions = locked_versions(root)
    needed_by: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str, Requirement]] = []
    for wheel in ("core", "enclave"):
        project = tomllib.loads((root / wheel / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = [*project["dependencies"]]
        for extra in EXTRAS[process][wheel]:
            texts += project["optional-dependencies"][extra]
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
    """Distribution name → our modules in a TEE that import it themselves."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    inside = {name for process in MAX_LINES for name in modules_in_tee(process)}
    distributions = packages_distributions()
    found: dict[str, set[str]] = {}
    for module in inside:
        for imported in graph.find_modules_directly_imported_by(module):
            for distribution in distributions.get(imported.split(".")[0], []):
                found.setdefault(canonicalize_name(distribution), set()).add(module)
    return found


def render(
    files: dict[str, list[SourceFile]], packages: dict[str, list[Package]], imported: dict[str, set[str]]
) -> str:
    """The document."""
    out = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        "<!-- Generated by `make tcb`. Do not edit: `make lint` fails when this is stale. -->",
        "# What runs inside the TEE",
        "",
        "Two processes run in TEEs, each in its own: `teehouse-node` can read prompts, `teehouse-keys` can read keys.",
        "Every file and third-party package below is part of the trusted computing base of the processes it is ticked",
        "for. Lines are lines of code: no blanks, comments or docstrings. Packages are what the process needs on",
        "CPython 3.11, Linux x86-64, in the versions of `requirements.lock`: for the node with the embedded engine,",
        "for both with what they need to appraise evidence of every platform. The extras `nvml` and `pkcs11` are for",
        "machines with such a device and not counted.",
        "",
        "Not counted here: the Python interpreter and its standard library, compiled code inside the packages",
        "(llama.cpp in `xllamacpp`, OpenSSL in `cryptography`, libuv in `uvloop`, libxml2 in `lxml`), the operating",
        "system of the guest, the firmware and the processor. They are trusted too, and a measurement covers them only",
        "on real hardware.",
        "",
        "| | now | budget |",
        "| --- | ---: | ---: |",
    ]
    for process in MAX_LINES:
        total = sum(file.lines for file in files[process])
        out += [
            f"| `{process}`: lines of our code | {total} | {MAX_LINES[process]} |",
            f"| `{process}`: third-party packages | {len(packages[process])} | {MAX_PACKAGES[process]} |",
        ]
    out += ["", f"The budget is a decision: [{Path(BUDGET_ADR).stem}](../{BUDGET_ADR}).", ""]
    columns = " | ".join(process.removeprefix("teehouse-") for process in MAX_LINES)
    everything = {file.path: file for part in files.values() for file in part}
    inside = {process: {file.path for file in part} for process, part in files.items()}
    for title, prefix in (("Enclave", "enclave/"), ("Core, as far as the enclave imports it", "core/")):
        part = [file for path, file in sorted(everything.items()) if path.startswith(prefix)]
        sums = ", ".join(
            f"{sum(file.lines for file in part if file.path in inside[process])} in `{process}`"
            for process in MAX_LINES
        )
        out += [
            f"## {title}: {sums}",
            "",
            f"| file | lines | {columns} | purpose |",
            "| --- | ---: | :---: | :---: | --- |",
        ]
        out += [f"| `{file.path}` | {file.lines} | {_ticks(file.path, inside)} | {file.purpose} |" for file in part]
        out.append("")
    names = {process: {package.name for package in part} for process, part in packages.items()}
    out += [
        "## Third-party packages",
        "",
        f"| package | version | {columns} | required by | imported by our code in |",
        "| --- | --- | :---: | :---: | --- | --- |",
    ]
    for package in sorted({p.name: p for part in packages.values() for p in part}.values(), key=lambda p: p.name):
        users = sorted({".".join(module.split(".")[:2]) for module in imported.get(package.name, set())})
        by = ", ".join(f"`{user}`" for user in users) or "nothing of ours"
        ticks = _ticks(package.name, names)
        out.append(f"| {package.name} | {package.version} | {ticks} | {', '.join(package.needed_by)} | {by} |")
    return "\n".join(out) + "\n"


def _ticks(name: str, inside: dict[str, set[str]]) -> str:
    return " | ".join("✓" if name in inside[process] else "" for process in MAX_LINES)


def main(argv: list[str] | None = None) -> int:
    """Write the document, or with `--check` compare it; 1 when stale or over budget."""
    parser = argparse.ArgumentParser(description="Generate enclave/TCB.md.")
    parser.add_argument("--check", action="store_true", help="exit 1 when the document is stale; write nothing")
    check = parser.parse_args(argv).check
    files = {process: source_files(ROOT, process) for process in MAX_LINES}
    packages = {process: third_party(ROOT, process) for process in MAX_LINES}
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
    for process in MAX_LINES:
        for what, now, most in (
            ("lines", sum(file.lines for file in files[process]), MAX_LINES[process]),
            ("packages", len(packages[process]), MAX_PACKAGES[process]),
        ):
            if now > most:
                text = f"{DOCUMENT}: {now} {what} inside {process}, the budget is {most}: {BUDGET_ADR}"
                print(text, file=sys.stderr)
                failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
