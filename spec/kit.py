# SPDX-License-Identifier: Apache-2.0
"""Everything that makes vectors: test nodes, and a sealing half written from the text of spec/02-session.md alone.

It shares no code with the packages except HPKE key loading, so that a vector which both accept says something. Every
step can be made wrong on purpose. HPKE takes no randomness from its caller, so the envelopes ever made are kept in
`vectors/envelopes.json`; with that file the generator writes the same bytes each time.

The keys here are public. Nothing sealed to them is secret.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teehouse_core.seal.suite import SealingKey, hpke_seal, key_from_seed

LOW = "mlkem768x25519-hkdfsha256-aes256gcm"
HIGH = "mlkem1024p384-hkdfsha384-aes256gcm"
ENVELOPE = {LOW: 1232, HIGH: 1777}  # bytes
NOW = 1_800_000_000  # Unix seconds; every vector happens about then
ENDPOINT = "ep-demo"
ACCOUNT = "0123456789abcdef"
CHAT = b'{"model":"demo","messages":[{"role":"user","content":"Why is the sky blue?"}],"stream":true,"max_tokens":200}'
CACHE_SECRET = hashlib.sha256(b"teehouse test cache secret").digest()
HEADERS = (
    ("content-type", "application/json"),
    ("accept", "text/event-stream"),
    ("teehouse-shape", "pad"),
    ("teehouse-flush-ms", "15"),
)
VECTORS = Path(__file__).parent / "vectors"


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def label(text: str) -> bytes:
    return b"teehouse sealed/1 " + text.encode() + b"\0"


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def seed(name: str, size: int = 32) -> bytes:
    """Fixed bytes that a name stands for."""
    return hashlib.shake_256(b"teehouse test vector " + name.encode()).digest(size)


def kdf(ikm: bytes, salt: bytes, text: str, size: int) -> bytes:
    return HKDF(hashes.SHA256(), size, salt or bytes(32), label(text)).derive(ikm)


class Envelopes:
    """Envelopes made so far, by what is in them and whom they are for."""

    def __init__(self) -> None:
        path = VECTORS / "envelopes.json"
        self._known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        self.used: dict[str, str] = {}

    def seal(self, suite: str, pk: bytes, info: bytes, plaintext: bytes) -> bytes:
        name = sha(suite.encode(), b"\0", pk, struct.pack(">I", len(info)), info, plaintext).hex()
        if name not in self._known:
            self._known[name] = b64u(hpke_seal(suite, pk, info, plaintext))
        self.used[name] = text = self._known[name]
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


ENVELOPES = Envelopes()


@dataclass(frozen=True)
class Node:
    """A test node: one sealing key, one signing key, one keyset (a dict, so that vectors can spoil it)."""

    name: str
    suite: str = LOW
    suffix: str = ""

    @property
    def seed(self) -> bytes:
        return seed(f"hpke {self.name}{self.suffix}", 32 if self.suite == LOW else 112)

    @property
    def key(self) -> SealingKey:
        expanded = hashlib.shake_256(self.seed).digest(96) if self.suite == LOW else self.seed
        return key_from_seed(expanded, self.suite)

    @property
    def kid(self) -> str:
        return kid(self.suite, self.key.pk)

    @property
    def signer(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(seed(f"sign {self.name}"))

    @property
    def document(self) -> dict[str, Any]:
        link = Ed25519PrivateKey.from_private_bytes(seed(f"link {self.name}"))
        return {
            "v": "sealed/1",
            "role": "node",
            "endpoint": ENDPOINT,
            "node": self.name,
            "hpke": [hpke_item(self.suite, self.key.pk)],
            "sign": [sign_item(self.signer)],
            "link": [sign_item(link)],
            "model": {"name": "demo-135m", "weights_sha256": sha(b"weights").hex()},
            "software": {
                "release": "0.1.0",
                "image_sha256": sha(b"image").hex(),
                "config_sha256": sha(b"config").hex(),
            },
            "capabilities": {"egress": "none", "content_logging": "none", "moderation": "none", "doors": []},
            "group": "",
            "members": [],
            "not_before": NOW - 600,
            "not_after": NOW + 3000,
        }

    @property
    def keyset(self) -> bytes:
        return canonical(self.document)


def kid(alg: str, pk: bytes) -> str:
    return sha(label("kid"), alg.encode(), b"\0", pk)[:16].hex()


def hpke_item(suite: str, pk: bytes) -> dict[str, Any]:
    return {
        "kid": kid(suite, pk),
        "suite": suite,
        "pk": b64u(pk),
        "not_before": NOW - 600,
        "not_after": NOW + 3000,
    }


def sign_item(key: Ed25519PrivateKey) -> dict[str, Any]:
    pk = key.public_key().public_bytes_raw()
    return {"kid": kid("ed25519", pk), "alg": "ed25519", "pk": b64u(pk)}


ALPHA, BETA, GAMMA, DELTA = Node("alpha"), Node("beta"), Node("gamma"), Node("delta")
TALL = Node("tall", HIGH)


def varint(value: int) -> bytes:
    if value < 1 << 6:
        return bytes([value])
    if value < 1 << 14:
        return struct.pack(">H", value | 1 << 14)
    return struct.pack(">I", value | 2 << 30)


def text(value: str) -> bytes:
    raw = value.encode("latin-1")
    return varint(len(raw)) + raw


def binary_http(
    content: bytes = CHAT,
    *,
    method: str = "POST",
    scheme: str = "https",
    authority: str = ENDPOINT,
    path: str = "/v1/chat/completions",
    headers: Sequence[tuple[str, str]] = HEADERS,
) -> bytes:
    lines = b"".join(text(name) + text(value) for name, value in headers)
    control = text(method) + text(scheme) + text(authority) + text(path)
    return b"\0" + control + varint(len(lines)) + lines + varint(len(content)) + content + b"\0"


def bucket(length: int) -> int:
    if length <= 1024:
        return 1024
    log = 0
    while 1 << log < length:
        log += 1
    step = max(1024, 1 << (log - 3))
    return (length + step - 1) // step * step


def padded(inner: bytes) -> bytes:
    return inner + bytes(bucket(len(inner)) - len(inner))


def record(key: bytes, base: bytes, j: int, plaintext: bytes, *, final: bool, flag: int | None = None) -> bytes:
    """Record j; `flag` overrides the byte that says whether it is the last."""
    nonce = (int.from_bytes(base, "big") ^ j).to_bytes(12, "big")
    aad = struct.pack(">BI", int(final) if flag is None else flag, len(plaintext) + 16)
    return aad + AESGCM(key).encrypt(nonce, plaintext, aad)


def records_of(key: bytes, base: bytes, plaintext: bytes) -> list[bytes]:
    cuts = [plaintext[at : at + 65536] for at in range(0, len(plaintext), 65536)]
    return [record(key, base, j, cut, final=j == len(cuts) - 1) for j, cut in enumerate(cuts)]


@dataclass(frozen=True)
class Sent:
    """A request as its client knows it."""

    header: dict[str, Any]
    header_bytes: bytes
    envelopes: list[bytes]
    body: bytes
    padded_plain: bytes
    secrets: list[bytes]
    scopes: list[bytes]
    cek: bytes
    nodes: Sequence[Node]

    @property
    def th(self) -> bytes:
        return sha(label("header"), self.header_bytes)

    @property
    def frame(self) -> bytes:
        return frame(self.header_bytes, *self.envelopes, self.body)

    def changed(self, name: str, value: Any) -> bytes:
        """The frame after somebody without keys wrote `value` over one member of the header."""
        header = copy.deepcopy(self.header)
        header[name] = value
        return frame(canonical(header), *self.envelopes, self.body)

    def changed_candidate(self, i: int, name: str, value: str) -> bytes:
        candidates = copy.deepcopy(self.header["candidates"])
        candidates[i][name] = value
        return self.changed("candidates", candidates)


def frame(header: bytes, *rest: bytes, magic: bytes = b"TEEH\x01") -> bytes:
    return magic + struct.pack(">I", len(header)) + header + b"".join(rest)


@dataclass
class Plan:
    """How to make a request; each field is a place to be wrong in."""

    nodes: Sequence[Node] = (ALPHA, BETA)
    name: str = "one"  # draws CEK, R_i and the request id
    inner: bytes = b""  # Binary HTTP bytes; empty: CHAT
    plain: bytes | None = None  # padded plaintext
    body: Callable[[bytes, bytes, bytes], bytes] | None = None  # (key, nonce, plaintext) -> sealed body
    header: Callable[[dict[str, Any]], None] | None = None  # changes the header before it is sealed
    spell: Callable[[bytes], bytes] | None = None  # spells the header's bytes differently
    envelope: dict[int, Callable[[bytes, bytes, bytes], bytes]] = field(default_factory=dict)  # (CEK, R, S) -> content
    info_index: dict[int, int] = field(default_factory=dict)
    info_th: bytes | None = None
    pks: dict[int, bytes] = field(default_factory=dict)
    keysets: dict[int, bytes] = field(default_factory=dict)


def send(plan: Plan | None = None, **fields: Any) -> Sent:
    """Make a request by §3.2, wrong only where the plan says so."""
    p = plan or Plan(**fields)
    suite = p.nodes[0].suite
    cek = seed(f"cek {p.name}")
    derived = kdf(cek, b"", "request", 76)
    key, base, commit = derived[:32], derived[32:44], derived[44:]
    plain = p.plain if p.plain is not None else padded(p.inner or binary_http())
    body = p.body(key, base, plain) if p.body else b"".join(records_of(key, base, plain))
    secrets = [seed(f"r {p.name} {i}") for i in range(len(p.nodes))]
    keysets = [p.keysets.get(i, node.keyset) for i, node in enumerate(p.nodes)]
    scopes = [kdf(CACHE_SECRET, sha(raw), "cache scope", 32) for raw in keysets]
    header = {
        "v": "sealed/1",
        "suite": suite,
        "endpoint": ENDPOINT,
        "op": "chat.completions",
        "stream": True,
        "max_tokens_bucket": 256,
        "request_id": b64u(seed(f"request id {p.name}", 16)),
        "attempt": 0,
        "account": ACCOUNT,
        "sent_at": NOW,
        "expires_at": NOW + 120,
        "body_len": len(body),
        "body_sha256": sha(body).hex(),
        "cek_commit": b64u(commit),
        "candidates": [
            {"kid": node.kid, "keyset_sha256": sha(raw).hex(), "commit": b64u(kdf(r + s, b"", "candidate", 32))}
            for node, raw, r, s in zip(p.nodes, keysets, secrets, scopes, strict=True)
        ],
    }
    if p.header:
        p.header(header)
    header_bytes = canonical(header)
    if p.spell:
        header_bytes = p.spell(header_bytes)
    th = p.info_th or sha(label("header"), header_bytes)
    envelopes = []
    for i, node in enumerate(p.nodes):
        content = p.envelope.get(i, lambda c, r, s: c + r + s)(cek, secrets[i], scopes[i])
        info = label("request") + th + bytes([p.info_index.get(i, i)])
        envelopes.append(ENVELOPES.seal(node.suite, p.pks.get(i, node.key.pk), info, content))
    return Sent(header, header_bytes, envelopes, body, plain, secrets, scopes, cek, p.nodes)


def published(*nodes: Node, keysets: dict[str, bytes] | None = None) -> list[dict[str, Any]]:
    """What a node holds, as stage open-request takes it."""
    return [
        {
            "keyset": b64u((keysets or {}).get(node.name, node.keyset)),
            "keys": [{"suite": node.suite, "seed": b64u(node.seed)}],
        }
        for node in nodes
    ]


@dataclass
class Answer:
    """An answer under construction, by §4 and §7; `r` and `th` may be somebody else's."""

    sent: Sent
    index: int = 0
    nonce: bytes = seed("response nonce")
    r: bytes | None = None
    th: bytes | None = None
    j: int = 0
    head_json: bytes = b'{"headers":[["content-type","text/event-stream"]],"status":200}'
    text: bytes = b""

    def _derive(self, name: str, size: int) -> bytes:
        context = (self.th or self.sent.th) + bytes([self.index]) + self.nonce
        return kdf(self.r or self.sent.secrets[self.index], context, name, size)

    @property
    def prefix(self) -> bytes:
        return bytes([1, self.index]) + self.nonce

    def raw(self, plaintext: bytes, *, final: bool = False, flag: int | None = None) -> bytes:
        keys = self._derive("response", 44)
        made = record(keys[:32], keys[32:], self.j, plaintext, final=final, flag=flag)
        self.j += 1
        return made

    def piece(self, kind: int, content: bytes, *, final: bool = False, shape: str = "pad") -> bytes:
        plaintext = struct.pack(">BI", kind, len(content)) + content
        size = len(plaintext)
        if shape != "off":
            steps = [128, 256, 512]
            size = next((step for step in steps if size <= step), (size + 511) // 512 * 512)
            size = max(size, 512) if shape == "constant" else size
        return self.raw(plaintext + bytes(size - len(plaintext)), final=final)

    def head(self, shape: str = "pad") -> bytes:
        return self.piece(0, self.head_json, shape=shape)

    def body(self, data: bytes, shape: str = "pad") -> bytes:
        self.text += data
        return self.piece(1, data, shape=shape)

    def cover(self, shape: str = "pad") -> bytes:
        return self.piece(2, b"", shape=shape)

    def trailer_json(
        self,
        change: Callable[[dict[str, Any]], None] | None = None,
        *,
        signer: Ed25519PrivateKey | None = None,
        over: str = "receipt",
        sig: Callable[[bytes], bytes] = bytes,
        trailer: Callable[[dict[str, Any]], None] | None = None,
    ) -> bytes:
        node = self.sent.nodes[self.index]
        salt = self._derive("receipt salt", 32)

        def commit(tag: int, data: bytes) -> str:
            return b64u(hmac.digest(salt, bytes([tag]) + data, "sha256"))

        usage = {"input_tokens": 12, "output_tokens": 7, "cached_tokens": 0}
        receipt: dict[str, Any] = {
            "v": "sealed/1",
            "kid": sign_item(node.signer)["kid"],
            "th": b64u(self.sent.th),
            "request_id": self.sent.header["request_id"],
            "request_commit": commit(0, self.sent.padded_plain),
            "response_commit": commit(1, self.head_json + b"\0" + self.text),
            "model": dict(node.document["model"]),
            "keyset_sha256": sha(node.keyset).hex(),
            "usage": dict(usage),
            "status": 200,
            "finish": "stop",
            "started_at": NOW,
            "finished_at": NOW + 1,
        }
        if change:
            change(receipt)
        raw = canonical(receipt)
        end: dict[str, Any] = {
            "status": 200,
            "finish": "stop",
            "usage": usage,
            "receipt": b64u(raw),
            "sig": b64u(sig((signer or node.signer).sign(label(over) + raw))),
        }
        if trailer:
            trailer(end)
        return canonical(end)

    def trailer(self, *args: Any, final: bool = True, shape: str = "pad", **fields: Any) -> bytes:
        return self.piece(3, self.trailer_json(*args, **fields), final=final, shape=shape)


def armor(*pieces: bytes) -> bytes:
    return b"".join(b"data: " + b64u(piece).encode() + b"\n\n" for piece in pieces)


@dataclass(frozen=True)
class Vector:
    """One vector; `expect` is `accept` or `reject/<code>`."""

    id: str
    stage: str
    clause: str
    description: str
    given: dict[str, Any]
    expect: str
    output: dict[str, Any] | None = None

    def document(self) -> dict[str, Any]:
        made = {
            "id": self.id,
            "clause": self.clause,
            "stage": self.stage,
            "description": self.description,
            "input": self.given,
            "expect": self.expect,
        }
        return made | ({"output": self.output} if self.output is not None else {})
