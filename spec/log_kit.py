# SPDX-License-Identifier: Apache-2.0
"""Trees, notes and signatures by spec/04-log.md and RFC 6962 alone: no code of `teehouse_core.log` makes them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kit import Vector, b64u, seed, sha

ORIGIN = "tks.example/tenant/demo"
EMPTY = sha(b"")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def mth(entries: Sequence[bytes]) -> bytes:
    if len(entries) < 2:
        return sha(b"\0", entries[0]) if entries else EMPTY
    k = _split(len(entries))
    return sha(b"\1", mth(entries[:k]), mth(entries[k:]))


def _split(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    if len(entries) == 1:
        return []
    k = _split(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def subproof(m: int, entries: Sequence[bytes], whole: bool) -> list[bytes]:
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = _split(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


def signer(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed(f"log signer {name}"))


def key_id(name: str, kind: int) -> bytes:
    return sha(name.encode(), b"\n", bytes([kind]), signer(name).public_key().public_bytes_raw())[:4]


def vkey(name: str, kind: int = 1) -> str:
    raw = bytes([kind]) + signer(name).public_key().public_bytes_raw()
    return f"{name}+{key_id(name, kind).hex()}+{b64(raw)}"


def line(name: str, signature: bytes, kind: int = 1) -> str:
    return f"— {name} {b64(key_id(name, kind) + signature)}\n"


def signed(text: str, name: str = ORIGIN, over: str | None = None) -> str:
    return line(name, signer(name).sign((over or text).encode()))


def cosigned(text: str, name: str, time: int, *, says: int | None = None) -> str:
    signature = signer(name).sign(f"cosignature/v1\ntime {time}\n{text}".encode())
    return line(name, struct.pack(">Q", time if says is None else says) + signature, 4)


def head(size: int, root: bytes, origin: str = ORIGIN) -> str:
    return f"{origin}\n{size}\n{b64(root)}\n"


ENTRIES = [b"entry %d" % n for n in range(13)]
ROOT = mth(ENTRIES)
HEAD = head(13, ROOT)
NOTE = HEAD + "\n" + signed(HEAD)


def vectors(stage: str, clause: str, rows: Sequence[tuple[str, dict[str, Any], str, str]]) -> Iterator[Vector]:
    for name, given, expect, description in rows:
        yield Vector(f"{stage}-{name}", stage, clause, description, given, expect)


def listed(items: Sequence[bytes]) -> list[str]:
    return [b64u(item) for item in items]
