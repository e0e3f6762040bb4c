# SPDX-License-Identifier: Apache-2.0
"""Encrypted weights on a node: what is refused before anything is served, where plaintext is, and a real model."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.errors import LocalError, OperatorError, RefusedError, TeehouseError
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import KeyRef
from teehouse_core.weights.plan import Cut
from teehouse_core.weights.whole import seal_model
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.keyset import Model
from teehouse_enclave.engine import EngineSpec, make_engine, weights_digest
from teehouse_enclave.node import weights as module
from teehouse_enclave.node.config import NodeConfig
from teehouse_enclave.node.unlock import released_data_key, start_sealed
from teehouse_enclave.node.weights import SealedWeights, WeightsConfig

PUBLISHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PK = PUBLISHER.public_key().public_bytes_raw()
DATA_KEY = bytes(range(32, 64))
REFERENCE = KeyRef("tks", "t-1", "weights", "smollm2", "1")
FILES = {"model.gguf": b"GGUF" + secrets.token_bytes(9000), "mmproj.gguf": b"GGUF" + bytes(3000), "empty": b""}
SPEC = EngineSpec.parse({"kind": "llamacpp", "name": "m", "path": "(encrypted)"})


def write(folder: Path, files: dict[str, bytes], *, part_chunks: int = 3, ident: bytes = b"i" * 16) -> Path:
    objects = seal_model(
        files,
        data_key=DATA_KEY,
        publisher=PUBLISHER,
        ident=ident,
        salts=lambda _part: secrets.token_bytes(32),
        key=REFERENCE,
        cut=Cut(ident, 1024, part_chunks),
    )
    folder.mkdir()
    for name, data in objects.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "sealed", FILES)


@pytest.fixture
def memory_dir() -> Iterator[Path]:
    """A folder on a real tmpfs."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("missing a writable /dev/shm: the store tmpfs cannot be tested")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def config(folder: Path, **more: Any) -> WeightsConfig:
    return WeightsConfig.parse({"path": str(folder), "publishers": [b64u(PK)], "allow_swap": True, **more})


def read(path: str | None) -> bytes:
    return Path(path or "").read_bytes()


def test_into_sealed_memory(folder: Path) -> None:
    sealed = SealedWeights.open(config(folder, model_file="model.gguf", mmproj_file="mmproj.gguf"), SPEC)
    opened = sealed.load(DATA_KEY)
    assert read(opened.spec.path) == FILES["model.gguf"]
    assert read(opened.spec.mmproj) == FILES["mmproj.gguf"]
    with pytest.raises(OSError, match="not permitted"), open(opened.spec.path or "", "r+b") as file:
        file.write(b"x")
    assert all(data not in part.read_bytes() for data in (FILES["model.gguf"][:64],) for part in folder.iterdir())
    opened.close()
    assert not Path(opened.spec.path or "").exists()


def test_the_claimed_digest_is_what_the_node_hashes(folder: Path, memory_dir: Path, tmp_path: Path) -> None:
    """Evidence names weights before they are open: with every layout the engine must find exactly these."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("model.gguf", "mmproj.gguf", "empty"):
        (plain / name).write_bytes(FILES[name])
    upstream = EngineSpec.parse({"kind": "openai-upstream", "name": "m", "url": "http://x", "path": str(plain)})
    sealed = SealedWeights.open(config(folder, store="tmpfs", memory_dir=str(memory_dir)), upstream)
    opened = sealed.load(DATA_KEY)
    assert opened.spec.path == str(memory_dir / "model")
    assert sealed.weights_sha256 == sealed.manifest.weights_sha256 == weights_digest(plain)
    assert weights_digest(opened.spec.path) == weights_digest(plain)
    opened.close()
    assert list(memory_dir.iterdir()) == []

    (plain / "empty").unlink()
    both = SealedWeights.open(config(folder, model_file="model.gguf", mmproj_file="mmproj.gguf"), SPEC)
    assert both.weights_sha256 == weights_digest(plain)
    (plain / "mmproj.gguf").unlink()
    alone = SealedWeights.open(config(folder, model_file="model.gguf"), SPEC)
    assert alone.weights_sha256 == weights_digest(plain / "model.gguf")
    single = write(tmp_path / "single", {"m.gguf": FILES["model.gguf"]})
    assert SealedWeights.open(config(single), SPEC).weights_sha256 == weights_digest(plain / "model.gguf")


def cut_short(folder: Path) -> None:
    part = folder / "00002-00001.thw"
    part.write_bytes(part.read_bytes()[:-1])


def make_longer(folder: Path) -> None:
    with (folder / "00002-00001.thw").open("ab") as file:
        file.write(b"x")


def remove(folder: Path) -> None:
    (folder / "00002-00002.thw").unlink()


def add(folder: Path) -> None:
    (folder / "00002-00009.thw").write_bytes((folder / "00002-00001.thw").read_bytes())


def swap(folder: Path) -> None:
    a, b = folder / "00002-00000.thw", folder / "00002-00001.thw"
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)


def repeat(folder: Path) -> None:
    (folder / "00002-00001.thw").write_bytes((folder / "00002-00000.thw").read_bytes())


def flip(folder: Path) -> None:
    part = folder / "00002-00001.thw"
    data = bytearray(part.read_bytes())
    data[64 + 1040 + 7] ^= 1
    part.write_bytes(data)


def reorder(folder: Path) -> None:
    part = folder / "00002-00001.thw"
    data = part.read_bytes()
    part.write_bytes(data[:64] + data[64 + 1040 : 64 + 2080] + data[64 : 64 + 1040] + data[64 + 2080 :])


def mix(folder: Path) -> None:
    other = write(folder.parent / "other", FILES, ident=b"j" * 16)
    (folder / "00002-00001.thw").write_bytes((other / "00002-00001.thw").read_bytes())


def unsign(folder: Path) -> None:
    path = folder / "weights.json"
    data = path.read_bytes()
    at = data.index(b'"sig":"') + 8
    path.write_bytes(data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :])


def forge(folder: Path) -> None:
    (folder / "00002-00001.thw").write_bytes(b"\0" * len((folder / "00002-00001.thw").read_bytes()))


@pytest.mark.parametrize(
    ("manipulate", "code", "part", "chunk"),
    [
        (cut_short, "truncated-part", "00002-00001.thw", 5),
        (make_longer, "part-too-long", "00002-00001.thw", None),
        (remove, "missing-part", "00002-00002.thw", None),
        (add, "extra-part", "00002-00009.thw", None),
        (swap, "wrong-part", "00002-00000.thw", None),
        (repeat, "wrong-part", "00002-00001.thw", None),
        (flip, "chunk-refused", "00002-00001.thw", 4),
        (reorder, "chunk-refused", "00002-00001.thw", 3),
        (mix, "other-encryption", "00002-00001.thw", None),
        (forge, "not-a-part", "00002-00001.thw", None),
        (unsign, "manifest-signature", None, None),
    ],
)
def test_manipulated_weights_are_refused(
    folder: Path, manipulate: Callable[[Path], None], code: str, part: str | None, chunk: int | None
) -> None:
    manipulate(folder)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(WeightsError) as caught:
        SealedWeights.open(config(folder, model_file="model.gguf"), SPEC).load(DATA_KEY)
    assert (caught.value.code, caught.value.part, caught.value.chunk) == (code, part, chunk)
    if part is not None and code != "extra-part":
        assert caught.value.file == "model.gguf"
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.anyio
async def test_keys_and_publishers_of_others(folder: Path) -> None:
    async def wrong(_reference: KeyRef) -> bytes:
        return bytes(32)

    sealed = SealedWeights.open(config(folder, model_file="model.gguf"), SPEC)
    with pytest.raises(WeightsError) as caught:
        await sealed.unlock(wrong)
    assert caught.value.code == "wrong-data-key"
    stranger = b64u(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    with pytest.raises(RefusedError) as refused:
        SealedWeights.open(config(folder, publishers=[stranger]), SPEC)
    assert refused.value.code == "publisher-unknown"


def test_clear_errors_before_serving(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def code_of(action: Callable[[], object]) -> str:
        with pytest.raises(TeehouseError) as caught:
            action()
        assert caught.value.hint or caught.value.code == "weights-memory"
        return caught.value.code

    assert code_of(lambda: SealedWeights.open(config(tmp_path / "none"), SPEC)) == "weights-unreadable"
    assert code_of(lambda: SealedWeights.open(config(folder, model_file="x"), SPEC)) == "weights-choose"
    assert code_of(lambda: SealedWeights.open(config(folder), SPEC)) == "weights-choose"
    wanted = EngineSpec.parse({"kind": "llamacpp", "name": "m", "path": "x", "weights_sha256": "0" * 64})
    assert code_of(lambda: SealedWeights.open(config(folder, model_file="model.gguf"), wanted)) == "weights-mismatch"
    on_disk = config(folder, store="tmpfs", memory_dir="/proc")
    assert code_of(lambda: SealedWeights.open(on_disk, SPEC)) == "weights-not-memory"

    swaps = tmp_path / "swaps"
    swaps.write_text("Filename Type Size Used Priority\n/dev/x partition 1 0 -2\n")
    real = Path
    monkeypatch.setattr(module, "Path", lambda path: real(swaps) if path == "/proc/swaps" else real(path))
    assert code_of(lambda: SealedWeights.open(config(folder, allow_swap=False), SPEC)) == "weights-swap"
    monkeypatch.setattr(module, "_ROOM", 1 << 60)
    sealed = SealedWeights.open(config(folder, model_file="model.gguf"), SPEC)
    assert code_of(lambda: sealed.load(DATA_KEY)) == "weights-memory"


@pytest.mark.parametrize(
    "change",
    [
        {"publishers": []},
        {"publishers": ["x"]},
        {"publishers": None},
        {"path": 1},
        {"store": "disk"},
        {"store": "tmpfs"},
        {"memory_dir": "/dev/shm"},
        {"allow_swap": 1},
        {"else": 1},
    ],
)
def test_wrong_settings(change: dict[str, Any]) -> None:
    with pytest.raises(LocalError) as caught:
        WeightsConfig.parse({"path": "x", "publishers": [b64u(PK)], **change})
    assert caught.value.code == "weights-config"


def test_a_node_measures_its_publishers_and_needs_a_key_service() -> None:
    engine = {"kind": "llamacpp", "name": "m"}
    raw: dict[str, Any] = {
        "endpoint": "ep-x",
        "node": "n",
        "release": "r",
        "image_sha256": "0" * 64,
        "engine": engine,
        "key_service": {"url": "http://127.0.0.1:1", "policy": {"base": "evaluate", "roles": ["key-service"]}},
        "weights": {"path": "/w", "publishers": [b64u(PK)]},
    }
    parsed = NodeConfig.parse(raw)
    assert b64u(PK).encode() in parsed.measured()
    assert b"/w" not in parsed.measured()
    for wrong in (
        {key: value for key, value in raw.items() if key != "key_service"},
        raw | {"engine": engine | {"path": "/m.gguf"}},
        raw | {"engine": {"kind": "echo"}},
    ):
        with pytest.raises(LocalError):
            NodeConfig.parse(wrong)


class _Service:
    """A key service that is away at first."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    async def get_data_key(self, *reference: str) -> Any:
        self.asked.append(reference)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class _Released:
    def __init__(self, algorithm: str) -> None:
        self.grant = self
        self.algorithm = algorithm
        self.key = DATA_KEY


@pytest.mark.anyio
async def test_the_key_is_waited_for_and_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teehouse_enclave.node.unlock._PAUSE", 0.01)
    away = OperatorError("away", code="tks-unreachable")
    service = _Service(away, away, _Released("aes256"))
    assert await released_data_key(service, 5)(REFERENCE) == DATA_KEY  # type: ignore[arg-type]
    assert service.asked == [("t-1", "weights", "smollm2", "1")] * 3
    for answers, reference, code in (
        ((RefusedError("no", code="tks-refused"),), REFERENCE, "tks-refused"),
        ((_Released("aes128"),), REFERENCE, "weights-key-algorithm"),
        ((), KeyRef(), "weights-no-key"),
    ):
        with pytest.raises(RefusedError) as caught:
            await released_data_key(_Service(*answers), 5)(reference)  # type: ignore[arg-type]
        assert caught.value.code == code
    with pytest.raises(OperatorError):
        await released_data_key(_Service(away, away), 0)(REFERENCE)  # type: ignore[arg-type]


async def answer(engine: Any) -> str:
    body = {"messages": [{"role": "user", "content": "Tell a story."}], "temperature": 0, "max_tokens": 24}
    async with aclosing(engine.chat(body, tenant=b"t", request_id="r")) as chunks:
        return "".join([c["delta"].get("content", "") async for chunk in chunks for c in chunk["choices"]])


@pytest.mark.anyio
@pytest.mark.model
async def test_a_real_model_runs_from_encrypted_parts(model_path: Path, tmp_path: Path) -> None:
    encrypt = pytest.importorskip("teehouse.models.encrypt")
    manifest = encrypt.encrypt_model(
        model_path,
        tmp_path / "sealed",
        model="smollm2",
        data_key=DATA_KEY,
        publisher=PUBLISHER,
        key=REFERENCE,
        part_chunks=16,
    )
    with model_path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert manifest.weights_sha256 == digest
    raw = {"kind": "llamacpp", "name": "smollm2", "path": "x", "context": 512, "parallel": 1, "weights_sha256": digest}

    async def released(reference: KeyRef) -> bytes:
        assert reference == REFERENCE
        return DATA_KEY

    plain = make_engine(EngineSpec.parse(raw | {"path": str(model_path)}))
    await plain.start()
    expected = await answer(plain)
    await plain.close()
    assert expected

    sealed = SealedWeights.open(config(tmp_path / "sealed"), EngineSpec.parse(raw))
    engine = await start_sealed(sealed, released, Model("smollm2", digest))
    try:
        assert engine.info.weights_sha256 == digest
        maps = Path("/proc/self/maps").read_text()
        assert "memfd:teehouse-weights" in maps  # llama.cpp runs on the very pages that were decrypted
        assert await answer(engine.engine) == expected
    finally:
        await engine.close()
    with pytest.raises(OperatorError) as caught:
        await start_sealed(sealed, released, Model("smollm2", "0" * 64))
    assert caught.value.code == "weights-mismatch"
