# SPDX-License-Identifier: Apache-2.0
"""Forges a pool and the SIMULATED evidence of the key service that signed it, right in everything but one thing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from forge_bundle import ENDPOINT, EVALUATE, NONCE, NOW, Forge, hpke_key, keyset

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_pool import PoolPolicy
from teehouse_core.appraise.policy_references import References
from teehouse_core.appraise.pool import appraise_pool
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.appraise.verdict import Verdict
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, Pool, SignKey, Software, key_id
from teehouse_core.wire.pool import SignedPool, build_pool_keyset, pool_keyset_message
from teehouse_core.wire.suites import HIGH_SUITE

SIGNER = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"TEST key service").digest())
STRANGER = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"TEST stranger").digest())
SERVICE_NODE = "tks-1"
WEIGHTS, IMAGE = "cc" * 32, "aa" * 32
MEMBERS = replace(
    EVALUATE,
    name="members",
    doors=(),
    references=replace(EVALUATE.references, weights_sha256=(WEIGHTS,), image_sha256=(IMAGE,)),
)
MODEL = Model("tiny", WEIGHTS)
SOFTWARE = Software("", IMAGE, "")
CAPABILITIES = Capabilities("none", "none", "", ())


def sign_key(signer: Ed25519PrivateKey = SIGNER) -> SignKey:
    pk = signer.public_key().public_bytes_raw()
    return SignKey(key_id("ed25519", pk), "ed25519", pk)


SERVICE = keyset(role="key-service", endpoint="", node=SERVICE_NODE, sign=[sign_key()])


def client_policy(release: bytes, **changes: Any) -> Policy:
    """A client that accepts pools under `release` alone."""
    listed = PoolPolicy(release_policies=(hashlib.sha256(release).hexdigest(),), references_required=False)
    return replace(EVALUATE, **{"roles": ("node", "pool"), "pool": listed, **changes})


@dataclass
class Scene:
    """A pool and what it is asked with; each field is a place to be wrong in."""

    release: ReleasePolicy = field(default_factory=lambda: ReleasePolicy("members-1", MEMBERS, (ENDPOINT,)))
    text: bytes | None = None  # instead of the release policy's own
    service: bytes = SERVICE
    named_service: bytes | None = None  # whose keyset the pool names
    signer: Ed25519PrivateKey = SIGNER
    hpke: Callable[[], HpkeKey] = lambda: hpke_key(not_after=NOW + 900)
    fields: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    shown: bytes | None = None  # the policy text that comes with the pool
    endpoint: str = ENDPOINT
    nonce: bytes | None = NONCE
    now: int = NOW
    evidence: dict[str, Any] = field(default_factory=dict)

    def release_text(self) -> bytes:
        return self.text if self.text is not None else self.release.encode()

    def client(self) -> Policy:
        return client_policy(self.release_text(), **self.policy)

    def pool(self) -> SignedPool:
        named = Keyset.parse(self.named_service or self.service).sha256
        document: dict[str, Any] = {
            "endpoint": ENDPOINT,
            "pool": Pool(named, hashlib.sha256(self.release_text()).hexdigest(), "ring-1", "key-1", "1"),
            "hpke": [self.hpke()],
            "model": MODEL,
            "software": SOFTWARE,
            "capabilities": CAPABILITIES,
            "not_before": NOW,
            "not_after": NOW + 900,
            **self.fields,
        }
        raw = build_pool_keyset(**document)
        sig = self.signer.sign(pool_keyset_message(Keyset.parse(raw).digest))
        return SignedPool(raw, sig, self.shown if self.shown is not None else self.release_text())

    def bundle(self) -> bytes:
        named: Callable[[dict[str, Any]], None] = lambda d: d.update(endpoint="", node=SERVICE_NODE)  # noqa: E731
        return Forge(keyset=self.service, bundle=named, **self.evidence).bytes()

    def verdict(self) -> Verdict:
        return appraise_pool(
            self.pool().encode(), self.bundle(), self.client(), self.now, endpoint=self.endpoint, nonce=self.nonce
        )


def incomplete() -> bytes:
    """A release policy that leaves a field to a default."""
    document = json.loads(ReleasePolicy("members-1", MEMBERS, (ENDPOINT,)).encode())
    del document["appraisal"]["max_evidence_age"]
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def released(**changes: Any) -> ReleasePolicy:
    return ReleasePolicy("members-1", replace(MEMBERS, **changes), (ENDPOINT,))


OTHER_SERVICE = keyset(role="key-service", endpoint="", node=SERVICE_NODE, sign=[sign_key(STRANGER)])
TEXT = ReleasePolicy("members-1", MEMBERS, (ENDPOINT,)).encode()

CASES: dict[str, tuple[set[str], Callable[[], Scene]]] = {
    "policy without pools": ({"pool.allowed"}, lambda: Scene(policy={"roles": ("node",)})),
    "release policy not listed": ({"pool.listed"}, lambda: Scene(policy={"pool": PoolPolicy(("00" * 32,), False)})),
    "no release policy listed": ({"pool.listed"}, lambda: Scene(policy={"pool": PoolPolicy((), False)})),
    "text of another release policy": (
        {"pool.policy-text"},
        lambda: Scene(shown=ReleasePolicy("members-2", MEMBERS, (ENDPOINT,)).encode()),
    ),
    "release policy that allows debuggable status": (
        {"pool.policy-strength"},
        lambda: Scene(release=released(tcb_statuses=("UpToDate", "OutOfDate"))),
    ),
    "release policy that pins other weights than the client": (
        {"pool.policy-strength"},
        lambda: Scene(policy={"references": References(weights_sha256=("00" * 32,))}),
    ),
    "release policy of a weak dialect": (
        {"pool.policy-strength"},
        lambda: Scene(release=replace(ReleasePolicy("members-1", MEMBERS, (ENDPOINT,)), dialect="coco-aa")),
    ),
    "TD attributes that cannot be compared": (
        {"pool.policy-strength"},
        lambda: Scene(release=released(td_attributes=0x10000001)),
    ),
    "release policy that leaves fields to defaults": (
        {"pool.policy-strength", "pool.endpoint", "pool.claims"},
        lambda: Scene(text=incomplete()),
    ),
    "pool that names another key service": ({"pool.service"}, lambda: Scene(named_service=OTHER_SERVICE)),
    "pool signed by a stranger": ({"pool.signature"}, lambda: Scene(signer=STRANGER)),
    "pool of another key service": (
        {"pool.service", "pool.signature"},
        lambda: Scene(named_service=OTHER_SERVICE, signer=STRANGER),
    ),
    "key service that signs nothing": (
        {"pool.signature"},
        lambda: Scene(service=keyset(role="key-service", endpoint="", node=SERVICE_NODE)),
    ),
    "pool of another endpoint": ({"pool.endpoint"}, lambda: Scene(fields={"endpoint": "ep-other"})),
    "release policy of another endpoint": (
        {"pool.endpoint"},
        lambda: Scene(release=ReleasePolicy("members-1", MEMBERS, ("ep-other",))),
    ),
    "pool keyset over": ({"pool.validity"}, lambda: Scene(fields={"not_before": NOW - 900, "not_after": NOW})),
    "pool keyset of the future": (
        {"pool.validity"},
        lambda: Scene(fields={"not_before": NOW + 61, "not_after": NOW + 900}),
    ),
    "pool keyset of a day": ({"pool.validity"}, lambda: Scene(fields={"not_after": NOW + 86400})),
    "pool keys over": ({"pool.suites"}, lambda: Scene(hpke=lambda: hpke_key(not_before=NOW - 900, not_after=NOW))),
    "pool key of a suite not allowed": (
        {"pool.suites"},
        lambda: Scene(
            hpke=lambda: hpke_key(HIGH_SUITE, 1665, not_after=NOW + 900),
            release=released(suites=(EVALUATE.suites[0],)),
            policy={"suites": (EVALUATE.suites[0],)},
        ),
    ),
    "pool that claims other weights": ({"pool.claims"}, lambda: Scene(fields={"model": Model("tiny", "dd" * 32)})),
    "pool that claims an image not pinned": (
        {"pool.claims"},
        lambda: Scene(fields={"software": Software("9.9.9", IMAGE, "")}),
    ),
    "pool that claims a moderation not pinned": (
        {"pool.claims"},
        lambda: Scene(fields={"capabilities": replace(CAPABILITIES, moderation="in-tee:x")}),
    ),
    "release policy that pins no weights": (
        {"pool.claims"},
        lambda: Scene(release=released(references=References(image_sha256=(IMAGE,)))),
    ),
    "key service in the role of a node": (
        {"binding.role", "binding.names", "binding.endpoint"},
        lambda: Scene(service=keyset(node=SERVICE_NODE, sign=[sign_key()])),
    ),
    "key service asked with another nonce": ({"challenge.nonce"}, lambda: Scene(nonce=bytes(32))),
    "key service of another image": (
        {"workload.reference.image-sha256"},
        lambda: Scene(policy={"key_service": References(image_sha256=("00" * 32,))}),
    ),
}
