# SPDX-License-Identifier: Apache-2.0
"""Vectors of release requests and grants, by spec/07-keys.md §7 and not by the code that reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kit import NOW, Vector, b64u, canonical, kid, label, seed, sha
from make_pools import SERVICE, TKS

KEYSET = canonical(SERVICE)
REQUEST: dict[str, Any] = {
    "v": "release-request/1",
    "tks_keyset_sha256": sha(KEYSET).hex(),
    "tenant": "t-" + "5a" * 16,
    "ring": "models",
    "key": "llama",
    "version": "2",
    "pool_keyset_sha256": "",
}
EVIDENCE, REQUESTER = sha(b"a bundle").hex(), sha(b"a one-time keyset").hex()
GRANT: dict[str, Any] = {
    "v": "grant/1",
    "tks_keyset_sha256": REQUEST["tks_keyset_sha256"],
    "request_sha256": sha(canonical(REQUEST)).hex(),
    "requester_keyset_sha256": REQUESTER,
    "evidence_sha256": EVIDENCE,
    "tenant": REQUEST["tenant"],
    "ring": "models",
    "key": "llama",
    "version": "2",
    "algorithm": "aes256",
    "public_sha256": sha(b"a public part").hex(),
    "policy_sha256": sha(b"a policy").hex(),
    "log": {"origin": "tks.example/tenant/t-" + "5a" * 16, "index": 7, "leaf_sha256": sha(b"a leaf").hex()},
    "not_after": NOW + 900,
}
STRANGER = Ed25519PrivateKey.from_private_bytes(seed("sign a stranger"))


def _request(name: str, text: str, expect: str, raw: bytes | None = None, **change: Any) -> Vector:
    data = canonical(REQUEST | change) if raw is None else raw
    output = {"sha256": sha(data).hex()} if expect == "accept" else None
    given = {"data": b64u(data)}
    return Vector(f"release-request-{name}", "release-request", "07 §7.2", text, given, expect, output)


def _requests() -> Iterator[Vector]:
    raw = canonical(REQUEST)
    yield _request("plain", "A version of a key.", "accept")
    yield _request("pool", "The key of a pool keyset.", "accept", pool_keyset_sha256="ab" * 32)
    yield _request("version", "Another form.", "reject/unknown-value", v="release-request/2")
    yield _request("more", "A member too many.", "reject/unknown-member", more=1)
    without = canonical({name: value for name, value in REQUEST.items() if name != "tenant"})
    yield _request("lacks", "No tenant.", "reject/missing-member", without)
    yield _request("ring", "A ring without a name.", "reject/wrong-form", ring="")
    yield _request("keyset", "A keyset digest cut short.", "reject/wrong-form", tks_keyset_sha256="ab" * 31)
    yield _request("number", "A version that is a number.", "reject/wrong-type", version=2)
    yield _request("spaces", "Spaces between members.", "reject/not-canonical", raw.replace(b",", b", "))
    yield _request("large", "More than 4096 bytes.", "reject/document-too-large", b'{"x":"' + b"y" * 4096 + b'"}')


def _answer(grant: bytes, key: Ed25519PrivateKey = TKS, over: str = "grant", **change: Any) -> dict[str, Any]:
    return {
        "v": "release-answer/1",
        "grant": b64u(grant),
        "kid": kid("ed25519", key.public_key().public_bytes_raw()),
        "sig": b64u(key.sign(label(over) + grant)),
        "sealed": b64u(b"enc and ciphertext"),
        "checkpoint": b64u(b"a note"),
        "proof": "",
        "member": "",
        "member_sig": "",
        **change,
    }


def _grant(
    name: str,
    clause: str,
    text: str,
    expect: str,
    *,
    answer: dict[str, Any] | None = None,
    given: dict[str, Any] | None = None,
    **change: Any,
) -> Vector:
    raw = canonical(GRANT | change)
    sent: dict[str, Any] = {
        "answer": b64u(canonical(answer or _answer(raw))),
        "request": b64u(canonical(REQUEST)),
        "requester_keyset_sha256": REQUESTER,
        "evidence_sha256": EVIDENCE,
        "key_service": b64u(KEYSET),
        "now": NOW,
        **(given or {}),
    }
    output = {"index": 7, "info": b64u(label("release") + sha(raw))} if expect == "accept" else None
    return Vector(f"grant-{name}", "grant", clause, text, sent, expect, output)


def _grants() -> Iterator[Vector]:
    raw = canonical(GRANT)
    yield _grant("plain", "07 §7.9", "A grant for this request.", "accept")
    other = "reject/grant-other-request"
    for member in ("request_sha256", "requester_keyset_sha256", "evidence_sha256", "tks_keyset_sha256"):
        yield _grant(member.replace("_", "-"), "07 §7.9", f"Another {member}.", other, **{member: "cd" * 32})
    for member in ("tenant", "ring", "key", "version"):
        yield _grant(member, "07 §7.9", f"Another {member}.", other, **{member: "9"})
    asked = b64u(canonical(REQUEST | {"key": "mistral"}))
    yield _grant("asked", "07 §7.9", "The grant of another request.", other, given={"request": asked})
    wrong = "reject/grant-signature"
    yield _grant("stranger", "07 §7.9", "Signed by a key outside the keyset.", wrong, answer=_answer(raw, STRANGER))
    named = _answer(raw, STRANGER) | {"kid": kid("ed25519", TKS.public_key().public_bytes_raw())}
    yield _grant("named", "07 §7.9", "A stranger's signature under the service's kid.", wrong, answer=named)
    yield _grant("label", "07 §7.8", "A signature for another purpose.", wrong, answer=_answer(raw, over="release"))
    yield _grant("over", "07 §7.9", "A grant that has ended.", "reject/grant-over", given={"now": NOW + 900})
    yield _grant("last", "07 §7.9", "The last second.", "accept", given={"now": NOW + 899})
    yield _grant("more", "07 §7.7", "A member too many.", "reject/unknown-member", more=1)
    yield _grant("form", "07 §7.7", "Another form of grant.", "reject/unknown-value", v="grant/2")
    short = {**_answer(raw), "sig": b64u(bytes(63))}
    yield _grant("short", "07 §7.8", "A signature of 63 bytes.", "reject/wrong-length", answer=short)
    more = _answer(raw, more=1)
    yield _grant("answer", "07 §7.8", "An answer with a member too many.", "reject/unknown-member", answer=more)


def grants() -> Iterator[Vector]:
    """All of this file."""
    yield from _requests()
    yield from _grants()
