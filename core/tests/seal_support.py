# SPDX-License-Identifier: Apache-2.0
"""What the tests of core.wire and core.seal share: nodes, a client, and one exchange between them.

`AcceptedStandIn` stands in for `Accepted`, which only an appraisal can make; nothing in the product takes its place.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings

from teehouse_core.errors import TeehouseError
from teehouse_core.seal.client import AnswerBody, Event, ResponseOpener, SealedRequest
from teehouse_core.seal.client import seal_request as real_seal_request
from teehouse_core.seal.keyring import Keyring
from teehouse_core.seal.node import OpenedRequest, ResponseSealer, open_request
from teehouse_core.seal.replay import SeenSet
from teehouse_core.seal.suite import SealingKey, generate_key, key_from_seed
from teehouse_core.wire.keyset import (
    Capabilities,
    HpkeKey,
    Keyset,
    Model,
    SignKey,
    Software,
    build_keyset,
    key_id,
)
from teehouse_core.wire.receipts import Usage
from teehouse_core.wire.suites import DEFAULT_SUITE

NOW = 1_800_000_000
ENDPOINT = "ep-demo"
ACCOUNT = "0123456789abcdef"
CONTENT = b'{"model":"demo","messages":[],"stream":true,"max_tokens":100}'
HEADERS = (("content-type", "text/event-stream"),)

bounded = settings(
    deadline=5000, max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
"""Every example within five seconds, also on a busy machine: no parser may take its time over a few kilobytes."""


@dataclass(frozen=True)
class AcceptedStandIn:
    """Has the members of `appraise.verdict.Accepted` that sealing reads, and no appraisal behind it."""

    keyset: Keyset
    tier: str = "simulated"
    not_after: int = NOW + 3000
    evidence_time: int = NOW - 5
    policy_digest: str = "00" * 32
    bundle_sha256: str = "11" * 32
    service: Keyset | None = None

    @property
    def keyset_digest(self) -> bytes:
        return self.keyset.digest


@dataclass
class NodeStandIn:
    """A node without HTTP, engine and evidence: keys, a keyset, a ring and a replay memory."""

    name: str
    key: SealingKey
    sign: Ed25519PrivateKey
    keyset: Keyset
    ring: Keyring = field(default_factory=Keyring)
    seen: SeenSet = field(default_factory=SeenSet)

    def __post_init__(self) -> None:
        self.ring.publish(self.keyset, [self.key])

    @property
    def accepted(self) -> AcceptedStandIn:
        return AcceptedStandIn(self.keyset)

    @property
    def sign_kid(self) -> str:
        return self.keyset.sign[0].kid

    def open(self, frame: bytes, now: int = NOW, endpoint: str = ENDPOINT) -> OpenedRequest:
        return open_request(frame, endpoint=endpoint, keyring=self.ring, seen=self.seen, now=now)

    def answer(
        self,
        opened: OpenedRequest,
        body: Sequence[bytes],
        *,
        nonce: bytes = b"\7" * 32,
        cover: bool = False,
        **fields: Any,
    ) -> list[bytes]:
        """Head, pieces and trailer as sent."""
        sealer = ResponseSealer(opened, nonce, **fields)
        sent = [sealer.head(200, HEADERS)]
        for piece in body:
            sent += [sealer.cover()] if cover else []
            sent.append(sealer.body(piece))
        usage = Usage(3, len(body), 0)
        times = {"started_at": NOW, "finished_at": NOW + 1}
        sent.append(
            sealer.trailer(status=200, finish="stop", usage=usage, kid=self.sign_kid, sign=self.sign.sign, **times)
        )
        return sent


def make_keyset(
    name: str, keys: Sequence[SealingKey], sign: Ed25519PrivateKey, *, not_before: int = NOW - 600, **fields: Any
) -> Keyset:
    """A node's keyset over `keys`, each active until NOW + 3000."""
    pk = sign.public_key().public_bytes_raw()
    listed = [HpkeKey(key_id(k.suite, k.pk), k.suite, k.pk, NOW - 600, NOW + 3000) for k in keys]
    document: dict[str, Any] = {
        "role": "node",
        "endpoint": ENDPOINT,
        "node": name,
        "hpke": listed,
        "sign": [SignKey(key_id("ed25519", pk), "ed25519", pk)],
        "model": Model("demo", "aa" * 32),
        "software": Software("0.1.0", "bb" * 32, "cc" * 32),
        "capabilities": Capabilities("none", "none", "none", ()),
        "not_before": not_before,
        "not_after": NOW + 3000,
    }
    return Keyset.parse(build_keyset(**(document | fields)))


@functools.cache
def _keys(name: str, suite: str) -> tuple[SealingKey, Ed25519PrivateKey]:
    seed = hashlib.shake_256(name.encode()).digest(96 + 32)
    key = key_from_seed(seed[:96]) if suite == DEFAULT_SUITE else generate_key(suite)
    return key, Ed25519PrivateKey.from_private_bytes(seed[96:])


def make_node(name: str = "alpha", suite: str = DEFAULT_SUITE, **fields: Any) -> NodeStandIn:
    """A node whose keys depend on its name alone (default suite), with empty memory."""
    key, sign = _keys(name, suite)
    return NodeStandIn(name, key, sign, make_keyset(name, [key], sign, **fields))


class Drawer:
    """Randomness that never repeats and is the same in every run."""

    def __init__(self, seed: str = "client") -> None:
        self._seed = seed
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed} {self._count}".encode()).digest(size)


def seal(nodes: Sequence[NodeStandIn | AcceptedStandIn], content: bytes = CONTENT, **fields: Any) -> SealedRequest:
    """A request by the client of the product."""
    candidates: Any = [node if isinstance(node, AcceptedStandIn) else node.accepted for node in nodes]
    given: dict[str, Any] = {
        "endpoint": ENDPOINT,
        "op": "chat.completions",
        "content": content,
        "account": ACCOUNT,
        "now": NOW,
        "random": Drawer(),
        "cache_secret": b"c" * 32,
    }
    return real_seal_request(candidates, **(given | fields))


def with_header(request: SealedRequest, **fields: Any) -> SealedRequest:
    """The same request as its client would remember it, had its header been another."""
    return replace(request, header=replace(request.header, **fields))


def read_all(opener: ResponseOpener, pieces: Sequence[bytes]) -> list[Event]:
    """Every event of `pieces`, to the end."""
    events: list[Event] = []
    for piece in pieces:
        events += opener.feed(piece)
    opener.end()
    return events


def body_of(events: Sequence[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, AnswerBody))


def outcome(make: Callable[[], ResponseOpener], pieces: Sequence[bytes]) -> tuple[list[Any], str | None]:
    """What a client gets of `pieces` however they are cut: events with joined body, and the code it ends with."""
    opener = make()
    got: list[Any] = []
    code: str | None = None
    try:
        for piece in pieces:
            for event in opener.feed(piece):
                if isinstance(event, AnswerBody):
                    if event.data:
                        got.append(event.data)
                else:
                    got.append(event)
        opener.end()
    except TeehouseError as error:
        code = error.code
    return got, code
