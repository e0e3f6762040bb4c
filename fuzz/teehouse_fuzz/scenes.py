# SPDX-License-Identifier: Apache-2.0
"""Right evidence that targets stand on: what is beside a fuzzed artifact, and bundles that an input edits.

Keys and signatures differ from run to run; a corpus entry of `appraise-edited` names the places it edits, so it means
nearly the same in the next one.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import forge_nvidia
import forge_scenes
import forge_snp
import forge_tdx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge_scenes import NOW, Scene

from teehouse_core.appraise.artifacts.dispatch import artifact_policy
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.amd_collateral import AmdCollateral
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.nvidia import parse_report
from teehouse_core.weights.plan import Cut
from teehouse_core.weights.whole import seal_model

__all__ = [
    "MODEL_FILES",
    "NOW",
    "PUBLISHER_PK",
    "Scene",
    "beside",
    "changes_meaning",
    "device_chain",
    "edited",
    "policy_for",
    "scenes",
    "sealed_model",
]

LONG: Final = 128  # characters
_SIGNED: Final = {"tdx": 632, "simulated": 632, "sev-snp": 672, "tpm": 1 << 20}
"""Bytes of a platform's report that its signature covers from the start; a TPM quote is signed whole."""


_PUBLISHER: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLISHER_PK: Final = _PUBLISHER.public_key().public_bytes_raw()
MODEL_FILES: Final = {"config.json": b"{}", "empty": b"", "model.bin": bytes(range(256)) * 18}


@cache
def sealed_model() -> Mapping[str, bytes]:
    """Encrypted weights: three files, the last in three parts; the data key is zeros."""
    ident = b"teehouse fuzzing"
    return seal_model(
        MODEL_FILES,
        data_key=bytes(32),
        publisher=_PUBLISHER,
        ident=ident,
        salts=lambda part: part.object.encode().ljust(32, b"\0"),
        cut=Cut(ident, 1024, 2),
    )


@cache
def scenes() -> tuple[Scene, ...]:
    return (
        forge_scenes.tdx(4),
        forge_scenes.tdx(5),
        forge_scenes.snp(),
        forge_scenes.snp("Turin", "VLEK"),
        forge_scenes.tpm(),
        forge_scenes.nvidia(1),
        forge_scenes.nvidia(2, 1),
    )


@cache
def device_chain() -> tuple[x509.Certificate, ...]:
    return forge_nvidia.gpu().chain


@cache
def beside(kind: str) -> Mapping[str, Any]:
    """Chain and collateral that belong to one kind of artifact."""
    if kind == "tdx-quote":
        return {"chain": None, "collateral": forge_tdx.ForgedQuote().files()}
    if kind == "snp-report":
        made = forge_snp.Forge().collateral()
        pem = "".join(AmdCollateral(b"", (made.vcek, *made.chain)).to_dict()["chain"])
        return {"chain": pem.encode(), "collateral": {"list.crl": made.crl or b""}}
    if kind.startswith("nvidia"):
        device = forge_nvidia.gpu() if kind == "nvidia-gpu" else forge_nvidia.switch()
        files = {f"{n}.xml": rim for n, rim in enumerate(forge_nvidia.rims([device]))}
        files |= {f"{n}.der": answer for n, answer in enumerate(forge_nvidia.answers([device]))}
        return {"chain": device.pem.encode(), "collateral": files}
    if kind == "tpm-quote":
        return {"chain": None, "collateral": tpm_files()}
    return {"chain": None, "collateral": None}


def tpm_files() -> Mapping[str, bytes]:
    document = json.loads(scenes()[4].bundle)["platform"]
    named = {name: base64.b64decode(text) for name, text in document["aux"].items()}
    return {**named, "eventlog": base64.b64decode(document["event_log"])}


@cache
def policy_for(kind: str) -> Policy:  # noqa: ARG001  one for all, so far
    return artifact_policy(Policy.preset("evaluate"), fresh=False)


def edited(data: bytes) -> tuple[Scene, bytes]:
    """The first byte picks a scene; then edits: part, offset (2 bytes), how, and the bytes that this takes.

    A part from 0xC0 on is one of the short texts, below that one of the long ones: reports, chains, logs, collateral.
    How: the low five bits count; 0x20 inserts, 0x40 deletes, 0x80 cuts off there, else bytes are replaced.
    """
    scene = scenes()[(data[0] if data else 0) % len(scenes())]
    document = json.loads(scene.bundle)
    places = list(_places(document))
    long = [place for place in places if len(place[0][place[1]]) >= LONG]
    short = [place for place in places if len(place[0][place[1]]) < LONG]
    at = 1
    while at + 4 <= len(data):
        chosen = short if data[at] >= 0xC0 else long
        holder, name = chosen[data[at] % len(chosen)]
        offset, how = int.from_bytes(data[at + 1 : at + 3], "little"), data[at + 3]
        count = how & 0x1F
        at += 4
        old, binary = _bytes_of(holder[name])
        offset = offset % (len(old) + 1)
        if how & 0x80:
            new = old[:offset]
        elif how & 0x40:
            new = old[:offset] + old[offset + count :]
        else:
            given = data[at : at + count]
            at += count
            new = old[:offset] + given + old[offset if how & 0x20 else offset + len(given) :]
        holder[name] = base64.b64encode(new).decode() if binary else new.decode("utf-8", "replace")
    return scene, json.dumps(document).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every text in a document, as the container and its key or index."""
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, str):
            yield value, name
        elif isinstance(item, dict | list):
            yield from _places(item)


def _bytes_of(text: str) -> tuple[bytes, bool]:
    """What a text stands for; most are base64 of something."""
    try:
        return (base64.b64decode(text, validate=True), True) if len(text) >= 32 else (text.encode(), False)
    except (ValueError, binascii.Error):
        return text.encode(), False


def changes_meaning(scene: Scene, document: bytes) -> bool:
    """Whether an edited bundle says anything else in what must be signed or bound."""
    try:
        return _meaning(scene.bundle) != _meaning(document)
    except MalformedError:
        return True


def _meaning(document: bytes) -> tuple[Any, ...]:
    bundle = Bundle.parse(document)
    return (
        bundle.endpoint,
        bundle.node,
        bundle.keyset.raw,
        bundle.challenge_kind,
        bundle.challenge_value,
        bundle.platform.type,
        bundle.platform.report[: _SIGNED[bundle.platform.type]],
        bundle.workload_log,
        tuple((device.type, parse_report(device.report).signed) for device in bundle.devices),
    )
