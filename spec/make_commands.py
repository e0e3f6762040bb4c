# SPDX-License-Identifier: Apache-2.0
"""Vectors of commands to the key service and of release policies, by spec/07-keys.md and not by the code that reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kit import NOW, Vector, b64u, canonical, kid, label, seed, sha

from teehouse_core.appraise.policy import Policy

TENANT = "t-" + "5a" * 16
RIGHT: dict[str, Any] = {
    "v": "tks-command/1",
    "tks_keyset_sha256": sha(b"a keyset of the service").hex(),
    "tenant": TENANT,
    "ring": "models",
    "seq": 7,
    "op": "key.disable",
    "args": {"key": "llama"},
    "expires_at": NOW + 600,
}


def _admin(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed(f"admin {name}"))


def _pk(name: str) -> bytes:
    return _admin(name).public_key().public_bytes_raw()


def _person(name: str, **change: Any) -> dict[str, Any]:
    return {"kid": kid("ed25519", _pk(name)), "pk": b64u(_pk(name)), "name": name, **change}


def _admins(threshold: int, *names: str) -> dict[str, Any]:
    return {"threshold": threshold, "keys": [_person(name) for name in names]}


SET = _admins(2, "ann", "ben", "cyd")


def _signed(raw: bytes, name: str, over: str = "tks command", as_kid: str | None = None) -> dict[str, str]:
    signature = _admin(name).sign(label(over) + raw)
    return {"kid": as_kid or kid("ed25519", _pk(name)), "sig": b64u(signature)}


def _given(*by: str, admins: dict[str, Any] | None = None, raw: bytes | None = None, **change: Any) -> dict[str, Any]:
    data = canonical(RIGHT | change) if raw is None else raw
    return {"command": b64u(data), "signatures": [_signed(data, name) for name in by], "admins": admins or SET}


def _vector(name: str, clause: str, text: str, given: dict[str, Any], expect: str, **output: Any) -> Vector:
    return Vector(f"command-{name}", "command", clause, text, given, expect, output or None)


def _forms() -> Iterator[Vector]:
    raw = canonical(RIGHT)
    yield _vector(
        "plain",
        "07 §4.1",
        "Two of three sign.",
        _given("ann", "ben"),
        "accept",
        op="key.disable",
        ring="models",
        seq=7,
        sha256=sha(raw).hex(),
        signers=sorted(kid("ed25519", _pk(name)) for name in ("ann", "ben")),
    )
    yield _vector("all", "07 §4.3", "All three sign.", _given("cyd", "ben", "ann"), "accept")
    without = {name: value for name, value in RIGHT.items() if name != "expires_at"}
    rows: list[tuple[str, str, dict[str, Any], str]] = [
        ("lacks", "A member is missing.", _given("ann", "ben", raw=canonical(without)), "missing-member"),
        ("more", "A member too many.", _given("ann", "ben", more=1), "unknown-member"),
        ("spaces", "Spaces between members.", _given("ann", "ben", raw=raw.replace(b",", b", ")), "not-canonical"),
        ("version", "Another version.", _given("ann", "ben", v="tks-command/2"), "unknown-value"),
        ("op", "An unknown operation.", _given("ann", "ben", op="key.show"), "unknown-value"),
        (
            "seq",
            "A negative seq.",
            _given("ann", "ben", raw=raw.replace(b'"seq":7', b'"seq":-7')),
            "integer-out-of-range",
        ),
        ("tenant", "A tenant with a slash.", _given("ann", "ben", tenant="a/b"), "wrong-form"),
        ("ring", "A ring with a space.", _given("ann", "ben", ring="a b"), "wrong-form"),
        ("args", "Arguments that are a list.", _given("ann", "ben", args=[]), "wrong-type"),
        ("large", "More than 64 KiB.", _given("ann", "ben", args={"x": "y" * 65536}), "document-too-large"),
    ]
    for name, text, given, code in rows:
        yield _vector(name, "07 §4.1", text, given, f"reject/{code}")
    sent = _given("ann", "ben")
    short = [sent["signatures"][0], {**sent["signatures"][1], "sig": b64u(bytes(63))}]
    yield _vector("short-signature", "07 §4.2", "63 bytes.", {**sent, "signatures": short}, "reject/wrong-length")
    many = {**sent, "signatures": sent["signatures"] * 17}
    yield _vector("many-signatures", "07 §4.2", "34 signatures.", many, "reject/out-of-range")
    yield _vector("payload", "07 §4.2", "32 KiB of payload.", {**sent, "payload": b64u(bytes(32768))}, "accept")
    yield _vector(
        "large-payload",
        "07 §4.2",
        "One byte more.",
        {**sent, "payload": b64u(bytes(32769))},
        "reject/payload-too-large",
    )


def _signers() -> Iterator[Vector]:
    raw, sent = canonical(RIGHT), _given("ann", "ben")
    few = "reject/not-enough-signatures"
    other = canonical(RIGHT | {"seq": 8})
    rows: list[tuple[str, str, list[dict[str, str]]]] = [
        ("none", "Nobody signs.", []),
        ("one", "One of two.", [_signed(raw, "ann")]),
        ("twice", "One person twice.", [_signed(raw, "ann")] * 2),
        ("stranger", "One of the set and a stranger.", [_signed(raw, "ann"), _signed(raw, "eve")]),
        ("named", "A stranger under another's kid.",
         [_signed(raw, "ann"), _signed(raw, "eve", as_kid=kid("ed25519", _pk("ben")))]),
        ("other", "A signature over another command.", [_signed(raw, "ann"), _signed(other, "ben")]),
        ("label", "A signature for another purpose.", [_signed(raw, "ann"), _signed(raw, "ben", "tks export")]),
    ]  # fmt: skip
    for name, text, signatures in rows:
        yield _vector(f"signed-{name}", "07 §4.4", text, {**sent, "signatures": signatures}, few)
    yield _vector(
        "signed-noise",
        "07 §4.4",
        "Two of the set beside a stranger and a broken signature.",
        {
            **sent,
            "signatures": [
                _signed(raw, "eve"),
                {"kid": kid("ed25519", _pk("ann")), "sig": b64u(bytes(64))},
                *sent["signatures"],
            ],
        },
        "accept",
    )


def _sets() -> Iterator[Vector]:
    rows: list[tuple[str, str, dict[str, Any], str]] = [
        ("zero", "A threshold of nobody.", {**SET, "threshold": 0}, "out-of-range"),
        ("above", "More than there are.", {**SET, "threshold": 4}, "admin-threshold"),
        ("empty", "Nobody at all.", {"threshold": 1, "keys": []}, "out-of-range"),
        ("double", "One key twice.", _admins(2, "ann", "ann"), "repeated-key"),
        ("kid", "A kid of another key.", {"threshold": 1, "keys": [_person("ann", kid="00" * 16)]}, "wrong-kid"),
        ("many", "17 keys.", _admins(1, *(f"p{n}" for n in range(17))), "out-of-range"),
    ]
    for name, text, admins, code in rows:
        yield _vector(f"admins-{name}", "07 §1.3", text, _given("ann", "ben", admins=admins), f"reject/{code}")


def _tenants() -> Iterator[Vector]:
    args = {"admins": SET, "nonce": b64u(seed("nonce", 16)), "labels": {}}
    tenant = "t-" + sha(label("tks tenant"), canonical(args))[:16].hex()
    create: dict[str, Any] = {"op": "tenant.create", "ring": "", "seq": 1, "args": args}
    yield _vector(
        "tenant-id", "07 §1.2", "An id that follows.", _given("ann", "cyd", tenant=tenant, **create), "accept",
        tenant=tenant,
    )  # fmt: skip
    yield _vector(
        "tenant-taken",
        "07 §1.2",
        "An id that does not follow.",
        _given("ann", "cyd", **create),
        "reject/tenant-id",
    )


def _infos() -> Iterator[Vector]:
    names = {"tenant": TENANT, "ring": "models", "key": "llama", "algorithm": "aes256"}
    command = sha(canonical(RIGHT))
    yield Vector(
        "key-info-plain",
        "key-info",
        "07 §5.3",
        "What a key is sealed for on its way in and out.",
        {**names, "command_sha256": command.hex()},
        "accept",
        {
            "import_info": b64u(sha(label("tks import"), canonical(list(names.values())))),
            "export_info": b64u(sha(label("tks export"), command)),
        },
    )


def _policies() -> Iterator[Vector]:
    right: dict[str, Any] = {
        "v": "release-policy/1",
        "id": "members",
        "appraisal": Policy.preset("strict").to_json(),
        "roles": ["node"],
        "endpoints": ["ep-demo"],
        "grant_seconds": 900,
        "dialect": "teehouse",
        "coco": {"tees": [], "unbound_key": False},
    }

    def vector(name: str, text: str, expect: str, **change: Any) -> Vector:
        data = canonical(right | change)
        output = {"sha256": sha(data).hex()} if expect == "accept" else None
        given = {"data": b64u(data)}
        return Vector(f"release-policy-{name}", "release-policy", "07 §6.1", text, given, expect, output)

    appraisal = right["appraisal"]
    short = {name: value for name, value in appraisal.items() if name != "egress"}
    yield vector("plain", "Nodes of one endpoint.", "accept")
    yield vector("nobody", "Nobody.", "accept", roles=[], endpoints=[])
    yield vector("any", "Any endpoint.", "accept", endpoints=["*"])
    yield vector("any-and-one", "Any and one.", "reject/wrong-form", endpoints=["*", "ep-demo"])
    yield vector("default", "A field of the appraisal left out.", "reject/policy-incomplete", appraisal=short)
    yield vector(
        "field", "An unknown field of the appraisal.", "reject/policy-field", appraisal={**appraisal, "more": 1}
    )
    yield vector("role", "A pool may not ask.", "reject/unknown-value", roles=["pool"])
    yield vector("twice", "An endpoint twice.", "reject/wrong-form", endpoints=["ep-demo", "ep-demo"])
    yield vector("grant", "A grant of no time.", "reject/out-of-range", grant_seconds=0)
    yield vector("dialect", "An unknown dialect.", "reject/unknown-value", dialect="jwt")
    yield vector("more", "A member too many.", "reject/unknown-member", allow="all")


def commands() -> Iterator[Vector]:
    """Every vector of this file."""
    for maker in (_forms, _signers, _sets, _tenants, _infos, _policies):
        yield from maker()


__all__ = ["commands"]
