# SPDX-License-Identifier: Apache-2.0
"""Vectors of pools, of evidence over a ledger checkpoint, and of evidence for a key release, all SIMULATED."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import forge_ledger
import forge_pool
from evidence_kit import Evidence, sentence, slug
from forge_bundle import ENDPOINT, EVALUATE, NONCE, NOW, Forge

# What refuses first, where a fault takes several checks with it.
SHOWN = {
    "release policy that leaves fields to defaults": "pool.policy-strength",
    "pool of another key service": "pool.service",
    "key service in the role of a node": "binding.endpoint",
    "one witness of two": "ledger.quorum",
    "two witnesses of one operator": "ledger.quorum",
    "cosignature that does not verify": "ledger.quorum",
    "evidence over a checkpoint where a nonce was drawn": "challenge.kind",
    "evidence over a checkpoint under a policy without logs": "challenge.kind",
}


def _fixed(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _verdict(name: str, failing: set[str]) -> tuple[str, tuple[str, ...]]:
    named = SHOWN.get(name) or next(iter(failing))
    return f"reject/{named}", tuple(sorted(failing - {named}))


def _pool(name: str, expect: str, make: Callable[[], forge_pool.Scene], also: tuple[str, ...] = ()) -> Evidence:
    scene = make()
    description = f"Pool: {name}." if expect == "accept" else sentence("Pool", name)
    fixed = _fixed(endpoint=scene.endpoint, nonce=scene.nonce)

    def forge() -> dict[str, Any]:
        return {"bundle": scene.bundle(), "pool": scene.pool().encode()}

    return Evidence(
        f"pool-{slug(name)}", "pool", "appraise", description, expect, scene.client(), scene.now, forge, fixed, also
    )


def pools() -> Iterator[Evidence]:
    yield _pool("good", "accept", forge_pool.Scene)
    for name, (failing, make) in forge_pool.CASES.items():
        expect, also = _verdict(name, failing)
        yield _pool(name, expect, make, also)


def _ledger(name: str, expect: str, make: Callable[[], forge_ledger.Scene], also: tuple[str, ...] = ()) -> Evidence:
    scene = make()
    description = f"Ledger: {name}." if expect == "accept" else sentence("Ledger", name)

    def forge() -> dict[str, Any]:
        known = scene.known_checkpoint()
        seen = {"checkpoint": known.checkpoint.text().encode(), "proof": list(known.proof)} if known else None
        return _fixed(bundle=scene.bundle(), known=seen)

    return Evidence(
        f"ledger-{slug(name)}",
        "ledger",
        "appraise",
        description,
        expect,
        scene.client(),
        scene.now,
        forge,
        _fixed(endpoint=ENDPOINT, nonce=scene.nonce),
        also,
    )


def ledgers() -> Iterator[Evidence]:
    for name, make in forge_ledger.GOOD.items():
        yield _ledger(name, "accept", make)
    for name, (failing, make) in forge_ledger.CASES.items():
        expect, also = _verdict(name, failing)
        yield _ledger(name, expect, make, also)


def releases() -> Iterator[Evidence]:
    """Challenge kind 3: taken where the key service asks, over its own keyset and its own 32 bytes, nowhere else."""
    asked = bytes(range(64))

    def one(name: str, expect: str, make: Callable[[], bytes], fixed: dict[str, Any], *also: str) -> Evidence:
        description = f"Key release: {name}." if expect == "accept" else sentence("Key release", name)
        given = {"endpoint": ENDPOINT, **fixed}
        forge = lambda: {"bundle": make()}  # noqa: E731
        return Evidence(
            f"release-{slug(name)}", "release", "appraise", description, expect, EVALUATE, NOW, forge, given, also
        )

    def made(value: bytes = asked, kind: int = 3) -> Callable[[], bytes]:
        return lambda: Forge(kind=kind, value=value).bytes()

    yield one("answers the key service", "accept", made(), {"challenge": asked})
    other_service = bytes(32) + asked[32:]
    yield one("made for another key service", "reject/challenge.nonce", made(other_service), {"challenge": asked})
    replayed = asked[:32] + bytes(32)
    yield one("made for an earlier challenge", "reject/challenge.nonce", made(replayed), {"challenge": asked})
    interactive = made(NONCE, 1)
    yield one(
        "a client's evidence shown to the key service",
        "reject/challenge.kind",
        interactive,
        {"challenge": asked},
        "challenge.nonce",
    )
    yield one("shown to a client", "reject/challenge.kind", made(), {"nonce": NONCE}, "challenge.nonce")


def vectors() -> Iterator[Evidence]:
    yield from pools()
    yield from ledgers()
    yield from releases()
