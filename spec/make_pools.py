# SPDX-License-Identifier: Apache-2.0
"""Vectors of pools: signed pools, member certificates, requests to a pool and answers of its members (01 §9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kit import (
    ALPHA,
    BETA,
    ENDPOINT,
    NOW,
    Answer,
    Ed25519PrivateKey,
    Node,
    Sent,
    Vector,
    b64u,
    canonical,
    hpke_item,
    label,
    seed,
    send,
    sha,
    sign_item,
)

Change = Callable[[dict[str, Any]], Any]
TKS = Ed25519PrivateKey.from_private_bytes(seed("sign tks"))
POLICY = b'{"v":"release-policy/1"}'
SERVICE = {
    **ALPHA.document,
    "role": "key-service",
    "endpoint": "",
    "node": "tks-1",
    "sign": [sign_item(TKS)],
    "link": [],
    "model": {"name": "", "weights_sha256": ""},
}
FIRST = b'data: {"choices":[{"delta":{"content":"Because"}}]}\n\n'


@dataclass(frozen=True)
class PoolNode(Node):
    """A member of a pool: the pool's key and keyset, and a signing key of its own."""

    @property
    def document(self) -> dict[str, Any]:
        item = hpke_item(self.suite, self.key.pk) | {"not_before": NOW - 60, "not_after": NOW + 800}
        return {
            **Node("alpha").document,
            "role": "pool",
            "node": "",
            "hpke": [item],
            "sign": [],
            "link": [],
            "not_before": NOW - 60,
            "not_after": NOW + 800,
            "pool": {
                "tks_keyset_sha256": sha(canonical(SERVICE)).hex(),
                "release_policy_sha256": sha(POLICY).hex(),
                "ring": "ring-1",
                "key": "key-1",
                "version": "3",
            },
        }


POOL = PoolNode("pool")


def certificate(change: Change | None = None, node: Node = POOL) -> bytes:
    document: dict[str, Any] = {
        "v": "sealed/1",
        "pool_keyset_sha256": sha(POOL.keyset).hex(),
        "node": "member-1",
        "keyset_sha256": sha(b"the keyset of a release").hex(),
        "sign_pk": sign_item(node.signer)["pk"],
        "not_after": NOW + 1400,
    }
    if change:
        change(document)
    return canonical(document)


def sign_member(raw: bytes, signer: Ed25519PrivateKey = TKS) -> bytes:
    return signer.sign(label("pool member") + sha(raw))


def signed_pool(**changes: Any) -> bytes:
    sig = TKS.sign(label("pool keyset") + sha(POOL.keyset))
    return canonical({"v": "pool/1", "keyset": b64u(POOL.keyset), "sig": b64u(sig), "policy": b64u(POLICY), **changes})


def _documents() -> Iterator[Vector]:
    def pool(name: str, data: bytes, expect: str, text: str, clause: str = "01 §9.2") -> Vector:
        known = {"keyset_sha256": sha(POOL.keyset).hex()} if expect == "accept" else None
        return Vector(f"signed-pool-{name}", "signed-pool", clause, text, {"data": b64u(data)}, expect, known)

    yield pool("good", signed_pool(), "accept", "Keyset, signature and policy text as the key service publishes them.")
    node = signed_pool(keyset=b64u(ALPHA.keyset))
    yield pool("of-a-node", node, "reject/role-mismatch", "A node's keyset in the place of a pool's.")
    yield pool("signature-63", signed_pool(sig=b64u(bytes(63))), "reject/wrong-length", "A signature of 63 bytes.")
    big = signed_pool(policy=b64u(bytes(65537)))
    yield pool("policy-large", big, "reject/document-too-large", "A policy text of 65537 bytes.")
    yield pool("version", signed_pool(v="pool/2"), "reject/unknown-value", "Another version.")
    yield pool("unknown-member", signed_pool(note=""), "reject/unknown-member", "A member nobody knows.")
    broken = signed_pool(keyset=b64u(POOL.keyset[:-1]))
    yield pool("keyset-cut", broken, "reject/not-json", "A keyset that does not parse.")

    def member(name: str, change: Change | None, expect: str, text: str) -> Vector:
        given = {"data": b64u(certificate(change))}
        return Vector(f"pool-member-{name}", "pool-member", "01 §9.7", text, given, expect)

    def put(name: str, value: Any) -> Change:
        return lambda d: d.update({name: value})

    yield member("good", None, "accept", "A member certificate.")
    yield member("no-node", put("node", ""), "reject/wrong-form", "A member without a name.")
    yield member("version", put("v", "sealed/2"), "reject/unknown-value", "Another version.")
    yield member("pk-31", put("sign_pk", b64u(bytes(31))), "reject/wrong-length", "A signing key of 31 bytes.")
    yield member("pool-short", put("pool_keyset_sha256", "00"), "reject/wrong-form", "A digest of one byte.")
    yield member("missing", lambda d: d.pop("not_after"), "reject/missing-member", "No end.")
    yield member("unknown-member", put("role", "pool"), "reject/unknown-member", "A member nobody knows.")
    long = put("node", "n" * 256)
    yield member("long-name", long, "accept", "A name of 256 characters.")


def _requests() -> Iterator[Vector]:
    def make(name: str, lifetime: int, expect: str, text: str) -> Vector:
        sent = send(nodes=(POOL,), name=f"pool {name}", header=lambda h: h.update(expires_at=NOW + lifetime))
        proof = {"certificate": b64u(certificate()), "sig": b64u(sign_member(certificate()))}
        published = [
            {"keyset": b64u(POOL.keyset), "keys": [{"suite": POOL.suite, "seed": b64u(POOL.seed)}], "member": proof}
        ]
        given = {"endpoint": ENDPOINT, "now": NOW, "published": published, "frame": b64u(sent.frame)}
        return Vector(f"request-pool-{name}", "open-request", "02 §7.3", text, given, expect)

    yield make("120", 120, "accept", "A request to a pool that lives for 120 seconds.")
    yield make("121", 121, "reject/lifetime", "A request to a pool that lives for 121 seconds.")


def _responses() -> Iterator[Vector]:
    sent = send(nodes=(POOL,), name="pool base")

    def make(
        name: str,
        expect: str,
        text: str,
        headers: list[list[str]] | None = None,
        *,
        of: Sent = sent,
        service: bytes | None = canonical(SERVICE),
        **fields: Any,
    ) -> Vector:
        if headers is None:
            headers = shown(certificate())
        head = {"headers": [["content-type", "text/event-stream"], *headers], "status": 200}
        answer = Answer(of, head_json=canonical(head))
        data = answer.prefix + b"".join([answer.head(), answer.body(FIRST), answer.trailer(**fields)])
        given: dict[str, Any] = {
            "header": b64u(of.header_bytes),
            "secrets": [b64u(r) for r in of.secrets],
            "keysets": [b64u(node.keyset) for node in of.nodes],
            "request_plain": b64u(of.padded_plain),
            "armored": False,
            "response": b64u(data),
            "services": [b64u(service or b"")] * len(of.nodes),
        }
        known = {"kid": sign_item(POOL.signer)["kid"]} if expect == "accept" else None
        return Vector(f"response-pool-{name}", "open-response", "01 §9.8", text, given, expect, known)

    def shown(raw: bytes, signer: Ed25519PrivateKey = TKS, sig: bytes | None = None) -> list[list[str]]:
        made = sig if sig is not None else sign_member(raw, signer)
        return [["teehouse-pool-member", b64u(raw)], ["teehouse-pool-member-sig", b64u(made)]]

    def put(name: str, value: Any) -> Change:
        return lambda d: d.update({name: value})

    yield make("good", "accept", "A member shows its certificate and signs with the certified key.")
    wrong, unsigned = "reject/pool-member", "reject/pool-member-signature"
    yield make("no-certificate", wrong, "No certificate.", [])
    yield make("no-signature", wrong, "A certificate without its signature.", shown(certificate())[:1])
    yield make("twice", wrong, "The certificate twice.", [*shown(certificate()), shown(certificate())[0]])
    other = certificate(put("pool_keyset_sha256", sha(b"other").hex()))
    yield make("other-pool", wrong, "A certificate for another pool keyset.", shown(other))
    yield make(
        "over", wrong, "A certificate that ended when the request was sent.", shown(certificate(put("not_after", NOW)))
    )
    yield make("stranger", unsigned, "Signed by somebody else.", shown(certificate(), BETA.signer))
    changed = certificate(put("node", "member-2"))
    yield make("changed", unsigned, "Changed after it was signed.", shown(changed, sig=sign_member(certificate())))
    bare = TKS.sign(label("pool member") + certificate())
    yield make(
        "undigested", unsigned, "Signed over the certificate, not over its digest.", shown(certificate(), sig=bare)
    )
    purpose = TKS.sign(label("pool keyset") + sha(certificate()))
    yield make("other-label", unsigned, "Signed as a pool keyset.", shown(certificate(), sig=purpose))
    yield make(
        "other-service",
        unsigned,
        "The certificate of another key service.",
        service=canonical(SERVICE | {"sign": [sign_item(BETA.signer)]}),
    )
    yield make("other-member", "reject/receipt-kid", "Another member's certificate.", shown(certificate(node=BETA)))
    yield make("other-signer", "reject/receipt-signature", "The receipt is signed by another key.", signer=BETA.signer)
    alpha = send(nodes=(ALPHA,), name="pool none")
    yield make("in-a-node", wrong, "A node that is no pool member shows a certificate.", of=alpha, service=None)


def pools() -> Iterator[Vector]:
    """Every vector of this file."""
    for maker in (_documents, _requests, _responses):
        yield from maker()


__all__ = ["pools"]
