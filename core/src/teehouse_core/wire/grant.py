# SPDX-License-Identifier: Apache-2.0
"""Attested release on the wire: what a node asks for, what the key service grants, how it refuses (KEYS §2, spec 07).

Only forms and the bytes to sign and to bind are here. Signatures and the sealed key are checked in
`teehouse_core.seal.grant`; whether evidence is good enough is for the key service's appraisal.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.wire.canonical import MAX_INTEGER, b64u, encode, parse, unb64u
from teehouse_core.wire.fields import HEX32, HEX64, NAME, Fields
from teehouse_core.wire.labels import L

__all__ = [
    "CHALLENGE_LIFE",
    "CHALLENGE_SIZE",
    "MAX_ANSWER",
    "MAX_GRANT",
    "MAX_RELEASE",
    "MAX_REQUEST",
    "Grant",
    "LogPlace",
    "Release",
    "ReleaseAnswer",
    "ReleaseRequest",
    "challenge_value",
    "grant_info",
    "grant_message",
    "parse_challenge",
]

CHALLENGE_SIZE: Final = 32  # bytes that the key service draws for one release
CHALLENGE_LIFE: Final = 60  # seconds in which they may be used, once (KEYS §2)
MAX_REQUEST: Final = 4096  # bytes of a release request
MAX_GRANT: Final = 4096  # bytes of a grant
MAX_RELEASE: Final = 4 * 1024 * 1024  # bytes of request and bundle together; a machine with 8 GPUs has about 1 MiB
MAX_ANSWER: Final = 256 * 1024  # bytes of an answer: grant, sealed key, proof with cosignatures
SIGNATURE: Final = 64  # bytes of an Ed25519 signature


def challenge_value(tks_keyset_digest: bytes, drawn: bytes) -> bytes:
    """The value of a challenge of kind 3: keyset_digest of the key service ‖ the 32 bytes it drew."""
    return tks_keyset_digest + drawn


def grant_message(grant: bytes) -> bytes:
    """What a `sign` key of the key service signs: L("grant") ‖ grant."""
    return L("grant") + grant


def grant_info(grant: bytes) -> bytes:
    """The HPKE info under which the key is sealed: L("release") ‖ SHA-256(grant)."""
    return L("release") + hashlib.sha256(grant).digest()


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Which version of which key, and for which pool keyset (`""`: for none).

    The name of a ring is unique in its tenant only, so the tenant stands here too.
    """

    tks_keyset_sha256: str
    tenant: str
    ring: str
    key: str
    version: str
    pool_keyset_sha256: str = ""

    def encode(self) -> bytes:
        return encode(
            {
                "v": "release-request/1",
                "tks_keyset_sha256": self.tks_keyset_sha256,
                "tenant": self.tenant,
                "ring": self.ring,
                "key": self.key,
                "version": self.version,
                "pool_keyset_sha256": self.pool_keyset_sha256,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> ReleaseRequest:
        """Strict parse of canonical JSON, ≤ MAX_REQUEST bytes. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_REQUEST), "release request")
        top.one_of("v", "release-request/1")
        request = cls(
            tks_keyset_sha256=top.text("tks_keyset_sha256", HEX64),
            tenant=_name(top, "tenant"),
            ring=_name(top, "ring"),
            key=_name(top, "key"),
            version=_name(top, "version"),
            pool_keyset_sha256=_digest_or_empty(top, "pool_keyset_sha256"),
        )
        top.done()
        return request


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where an entry stands: the log's origin, the index, and SHA-256 of the leaf's bytes in hex."""

    origin: str
    index: int
    leaf_sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"origin": self.origin, "index": self.index, "leaf_sha256": self.leaf_sha256}

    @classmethod
    def read(cls, item: Fields) -> LogPlace:
        place = cls(_name(item, "origin"), item.integer("index", 0, MAX_INTEGER), item.text("leaf_sha256", HEX64))
        item.done()
        return place


@dataclass(frozen=True, slots=True)
class Grant:
    """The key service's signed word that one key version went to one requester; `not_after` in Unix seconds.

    `public_sha256` is over the public bytes of the algorithm; for a secret key it is a check value (spec 07 §3).
    """

    tks_keyset_sha256: str
    request_sha256: str
    requester_keyset_sha256: str
    evidence_sha256: str
    tenant: str
    ring: str
    key: str
    version: str
    algorithm: str
    public_sha256: str
    policy_sha256: str
    log: LogPlace
    not_after: int

    def encode(self) -> bytes:
        document: dict[str, Any] = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("log", "not_after")
        }
        return encode({"v": "grant/1", **document, "log": self.log.to_json(), "not_after": self.not_after})

    @classmethod
    def parse(cls, data: bytes) -> Grant:
        """Strict parse of canonical JSON, ≤ MAX_GRANT bytes. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_GRANT), "grant")
        top.one_of("v", "grant/1")
        grant = cls(
            tks_keyset_sha256=top.text("tks_keyset_sha256", HEX64),
            request_sha256=top.text("request_sha256", HEX64),
            requester_keyset_sha256=top.text("requester_keyset_sha256", HEX64),
            evidence_sha256=top.text("evidence_sha256", HEX64),
            tenant=_name(top, "tenant"),
            ring=_name(top, "ring"),
            key=_name(top, "key"),
            version=_name(top, "version"),
            algorithm=_name(top, "algorithm"),
            public_sha256=top.text("public_sha256", HEX64),
            policy_sha256=top.text("policy_sha256", HEX64),
            log=LogPlace.read(top.fields("log")),
            not_after=top.integer("not_after", 0, MAX_INTEGER),
        )
        top.done()
        return grant


@dataclass(frozen=True, slots=True)
class Release:
    """The body of `POST /v1/release`: a request and the requester's evidence bundle, both as bytes."""

    request: bytes = field(repr=False)
    bundle: bytes = field(repr=False)

    def encode(self) -> bytes:
        return encode({"v": "release/1", "request": b64u(self.request), "bundle": b64u(self.bundle)})

    @classmethod
    def parse(cls, data: bytes) -> Release:
        """Strict parse of canonical JSON, ≤ MAX_RELEASE bytes; request and bundle are not parsed here.

        Raises MalformedError.
        """
        top = Fields(parse(data, limit=MAX_RELEASE), "release")
        top.one_of("v", "release/1")
        release = cls(top.octets("request"), top.octets("bundle"))
        top.done()
        return release


@dataclass(frozen=True, slots=True)
class ReleaseAnswer:
    """What a granted release brings: the grant, its signature by `kid`, the sealed key, where it stands in the log.

    `checkpoint` is the cosigned checkpoint that covers the entry, `proof` the C2SP tlog-proof of it (empty when the
    service did not make one). `member` is the member certificate of PROTOCOL §6 where the request named a pool keyset.
    """

    grant: bytes = field(repr=False)
    kid: str
    sig: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    checkpoint: bytes = field(repr=False)
    proof: bytes = field(repr=False, default=b"")
    member: bytes = field(repr=False, default=b"")
    member_sig: bytes = field(repr=False, default=b"")

    def encode(self) -> bytes:
        document = {name: b64u(getattr(self, name)) for name in self.__dataclass_fields__ if name != "kid"}
        return encode({"v": "release-answer/1", "kid": self.kid, **document})

    @classmethod
    def parse(cls, data: bytes) -> ReleaseAnswer:
        """Strict parse of canonical JSON, ≤ MAX_ANSWER bytes; proves nothing by itself. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_ANSWER), "release answer")
        top.one_of("v", "release-answer/1")
        answer = cls(
            grant=top.octets("grant"),
            kid=top.text("kid", HEX32),
            sig=top.octets("sig", SIGNATURE),
            sealed=top.octets("sealed"),
            checkpoint=top.octets("checkpoint"),
            proof=top.octets("proof"),
            member=top.octets("member"),
            member_sig=top.octets("member_sig"),
        )
        top.done()
        return answer


def parse_challenge(data: bytes) -> tuple[str, bytes]:
    """Read the answer of `POST /v1/release/challenge`: (keyset_sha256 of the key service, the 32 bytes it drew).

    Unknown members are ignored: nothing here is believed before the key service was appraised.
    Raises MalformedError.
    """
    if len(data) > MAX_REQUEST:
        raise MalformedError("a challenge is small", code="document-too-large")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedError("not JSON", code="not-json") from None
    if not isinstance(document, dict):
        raise MalformedError("not a JSON object", code="not-an-object")
    digest, drawn = document.get("tks_keyset_sha256"), document.get("challenge")
    if not isinstance(digest, str) or not HEX64.fullmatch(digest) or not isinstance(drawn, str):
        raise MalformedError("a challenge lacks a member", code="missing-member")
    return digest, unb64u(drawn, CHALLENGE_SIZE)


def _name(fields: Fields, name: str) -> str:
    value = fields.text(name, NAME)
    if not value:
        raise MalformedError(f"{name} is empty", code="wrong-form")
    return value


def _digest_or_empty(fields: Fields, name: str) -> str:
    value: str = fields.take(name, str)
    if value and not HEX64.fullmatch(value):
        raise MalformedError(f"{name} is not a SHA-256 in hex", code="wrong-form")
    return value
