# SPDX-License-Identifier: Apache-2.0
"""The list of what runs in the TEE: counted right, stale found, budget enforced."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tcb() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house_tcb", ROOT / "tools/tcb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["house_tcb"] = module
    spec.loader.exec_module(module)
    return module


def test_only_code_lines_count(tcb: ModuleType) -> None:
    source = '"""Doc.\n\nMore.\n"""\n\n# why\nx = (\n    1,  # unit\n)\n\n\n'
    source += 'def f() -> str:\n    """Doc."""\n    return """a\nb"""\n'
    assert tcb.count_lines(source) == 6


def test_purpose_is_the_first_sentence(tcb: ModuleType) -> None:
    assert tcb.purpose_of('"""Opens sealed requests.  Keeps\nnothing.\n\nMore."""\n') == "Opens sealed requests"
    assert tcb.purpose_of("x = 1\n") == "(no docstring)"


def test_closure_holds_the_enclave_and_no_other_ground(tcb: ModuleType) -> None:
    node, keys = (set(tcb.modules_in_tee(process)) for process in ("teehouse-node", "teehouse-keys"))
    assert "teehouse_enclave.node.exchange" in node - keys
    assert "teehouse_enclave.keys.commands" in keys - node
    assert not any(name.startswith("teehouse_enclave.engine") for name in keys), "the key service runs no model"
    assert {name.split(".")[0] for name in node | keys} <= {"teehouse_enclave", "teehouse_core"}


def test_no_file_of_the_enclave_is_left_out(tcb: ModuleType) -> None:
    listed = {file.path for process in tcb.MAX_LINES for file in tcb.source_files(ROOT, process)}
    present = {path.relative_to(ROOT).as_posix() for path in (ROOT / "enclave/src").rglob("*.py")}
    assert present <= listed


def test_packages_are_the_locked_ones(tcb: ModuleType) -> None:
    packages = {package.name: package for package in tcb.third_party(ROOT, "teehouse-node")}
    assert {"cryptography", "uvicorn", "xllamacpp", "lxml"} <= set(packages)
    assert "xllamacpp" not in {package.name for package in tcb.third_party(ROOT, "teehouse-keys")}
    assert not {"fastapi", "starlette", "sqlalchemy", "pydantic", "typer", "pytest"} & set(packages)
    locked = tcb.locked_versions(ROOT)
    assert all(package.version == locked[name] for name, package in packages.items())


def test_stale_document_fails(tcb: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "TCB.md"
    monkeypatch.setattr(tcb, "DOCUMENT", str(document))
    assert tcb.main(["--check"]) == 1
    assert tcb.main([]) == 0
    assert tcb.main(["--check"]) == 0
    document.write_text(document.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert tcb.main(["--check"]) == 1


@pytest.mark.parametrize("ceiling", ["MAX_LINES", "MAX_PACKAGES"])
@pytest.mark.parametrize("process", ["teehouse-node", "teehouse-keys"])
def test_exceeded_budget_fails(
    tcb: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ceiling: str,
    process: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tcb, "DOCUMENT", str(tmp_path / "TCB.md"))
    monkeypatch.setattr(tcb, ceiling, {**getattr(tcb, ceiling), process: -1})
    assert tcb.main([]) == 1
    assert tcb.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "0008-tcb-budget" in said
    assert process in said
