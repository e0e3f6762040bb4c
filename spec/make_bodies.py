# SPDX-License-Identifier: Apache-2.0
"""Vectors of stage open-request whose lie is in the sealed body: records (02 §6) and the inner message (02 §5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import kit
from kit import Vector, send
from make_requests import chat, flip, vector

Body = Callable[[bytes, bytes, bytes], bytes]


def _records() -> Iterator[Vector]:
    """A client seals a body whose records are wrong, and names its digest rightly."""

    def make(
        name: str, code: str, text: str, body: Body, plain: bytes | None = None, clause: str = "02 §7.8"
    ) -> Vector:
        sent = send(name=f"records {name}", body=body, plain=plain)
        return vector(f"records-{name}", sent, f"reject/{code}", text, clause)

    def cut(*sizes: int) -> Body:
        def body(key: bytes, nonce: bytes, plain: bytes) -> bytes:
            out, at = b"", 0
            for j, size in enumerate(sizes):
                out += kit.record(key, nonce, j, plain[at : at + size], final=j == len(sizes) - 1)
                at += size
            return out

        return body

    def order(*js: int) -> Body:
        """The right records in another order."""

        def body(key: bytes, nonce: bytes, plain: bytes) -> bytes:
            made = kit.records_of(key, nonce, plain)
            return b"".join(made[j] for j in js)

        return body

    def one(**fields: Any) -> Body:
        return lambda key, nonce, plain: kit.record(key, nonce, 0, plain, **({"final": True} | fields))

    two = kit.padded(kit.binary_http(chat(90_000)))
    three = kit.padded(kit.binary_http(chat(132_000)))
    tag = "record-tag"
    yield make("flag-2", "record-flag", "The flag is 2.", one(flag=2), clause="02 §6.2")
    yield make("flag-missing", "body-not-final", "No record is final.", one(final=False))
    yield make("cut", "body-not-final", "Cut inside the record.", lambda *a: one()(*a)[:-1])
    yield make(
        "cut-prefix",
        "body-not-final",
        "A second record is only begun.",
        lambda k, n, p: kit.record(k, n, 0, p, final=False) + b"\1\0\0",
    )
    yield make("trailing", "body-trailing", "Bytes after the final record.", lambda *a: one()(*a) + b"\0")
    yield make(
        "two-finals",
        "body-trailing",
        "A record after the final one.",
        lambda k, n, p: kit.record(k, n, 0, p, final=True) + kit.record(k, n, 1, p, final=True),
    )
    yield make(
        "length-16",
        "record-length",
        "A record of a tag alone.",
        lambda k, n, p: kit.record(k, n, 0, b"", final=False) + kit.record(k, n, 1, p, final=True),
        clause="02 §6.2",
    )
    yield make("length-65553", "record-length", "A record of 65537 bytes.", one(), two[:65537], clause="02 §6.2")
    huge = struct.pack(">BI", 1, 0xFFFFFFFF)
    yield make("length-4-gib", "record-length", "4 GiB announced.", lambda *_: huge + bytes(32), clause="02 §6.2")
    yield make("tag", tag, "A bit of the tag.", lambda *a: flip(one()(*a), -1))
    yield make("counter", tag, "The counter begins at 1.", lambda k, n, p: kit.record(k, n, 1, p, final=True))
    yield make(
        "flag-flipped",
        tag,
        "The flag is set after sealing.",
        lambda k, n, p: b"\1" + kit.record(k, n, 0, p, final=False)[1:],
    )
    yield make("key", tag, "Sealed under the commitment's bytes.", lambda _, n, p: one()(n + bytes(20), n, p))
    yield make("short-first", "body-short-record", "A record before the last is not full.", cut(512, 512))
    yield make("dropped", tag, "The first of two is left out.", order(1), two)
    yield make("last-dropped", "body-not-final", "The last of two is left out.", order(0), two)
    yield make("repeated", tag, "The first of two comes twice.", order(0, 0, 1), two)
    yield make("reordered", tag, "The first two of three change places.", order(1, 0, 2), three)


def _inner() -> Iterator[Vector]:
    """A client's inner message contradicts its header, or carries what it must not: refused inside the seal."""

    def make(name: str, code: str, text: str, clause: str, inner: bytes = b"", **fields: Any) -> Vector:
        sent = send(name=f"inner {name}", inner=inner, **fields)
        return vector(f"inner-{name}", sent, f"reject/{code}", text, clause, wire="sealed")

    def with_headers(*more: tuple[str, str], without: int = 0) -> bytes:
        return kit.binary_http(headers=[*kit.HEADERS[without:], *more])

    def content(old: bytes, new: bytes) -> bytes:
        return kit.binary_http(kit.CHAT.replace(old, new))

    ten = "02 §7.10"
    yield make("op", "op-mismatch", "The header says completions.", ten, header=lambda h: h.update(op="completions"))
    yield make("path", "op-mismatch", "A query on the path.", ten, kit.binary_http(path="/v1/chat/completions?a=b"))
    yield make(
        "stream-header", "stream-mismatch", "The header says no stream.", ten, header=lambda h: h.update(stream=False)
    )
    yield make("stream-body", "stream-mismatch", "The body says no stream.", ten, content(b"true", b"false"))
    yield make("stream-one", "stream-mismatch", "1 is not true.", ten, content(b"true", b"1"))
    yield make(
        "bucket-low",
        "max-tokens-mismatch",
        "The header says 128.",
        ten,
        header=lambda h: h.update(max_tokens_bucket=128),
    )
    yield make(
        "bucket-none",
        "max-tokens-mismatch",
        "The header says no limit.",
        ten,
        header=lambda h: h.update(max_tokens_bucket=0),
    )
    yield make("bucket-body", "max-tokens-mismatch", "257 belongs to 512.", ten, content(b"200", b"257"))
    yield make(
        "bucket-first-wins",
        "max-tokens-mismatch",
        "max_completion_tokens goes before max_tokens.",
        ten,
        content(b'"max_tokens":200', b'"max_tokens":200,"max_completion_tokens":9000'),
    )
    yield make("authority", "inner-target", "Inside, another endpoint.", ten, kit.binary_http(authority="ep-other"))
    yield make("method", "inner-target", "GET.", ten, kit.binary_http(method="GET"))
    yield make("scheme", "inner-target", "http.", ten, kit.binary_http(scheme="http"))
    five = "02 §5.5"
    api_key = "Bearer sk-th-0123456789abcdef-" + "A" * 43
    yield make("api-key", "inner-header", "An API key inside.", five, with_headers(("authorization", api_key)))
    yield make("cookie", "inner-header", "A cookie inside.", five, with_headers(("cookie", "a=b")))
    yield make("header-case", "inner-header", "A name in capitals.", five, with_headers(("Accept", "x"), without=1))
    yield make("header-twice", "inner-header", "A header twice.", five, with_headers(("accept", "x")))
    yield make("shape", "inner-header", "An unknown shape.", five, with_headers(("teehouse-shape", "x"), without=3))
    for name, value in (("1001", "1001"), ("negative", "-1"), ("empty", ""), ("long", "00015")):
        yield make(
            f"flush-{name}",
            "inner-header",
            "A flush time out of form.",
            five,
            kit.binary_http(headers=[*kit.HEADERS[:3], ("teehouse-flush-ms", value)]),
        )
    nine = "02 §7.9"
    good = kit.binary_http()
    yield make("padding-not-zero", "inner-padding", "A byte in the padding.", nine, plain=kit.padded(good)[:-1] + b"\1")
    yield make(
        "padding-large", "inner-padding", "Padded to the next bucket.", nine, plain=kit.padded(good) + bytes(1024)
    )
    yield make("padding-none", "inner-padding", "Not padded.", nine, plain=good)
    yield make("not-http", "inner-framing", "JSON instead of Binary HTTP.", nine, plain=kit.CHAT.ljust(1024, b"\0"))
    yield make("zero", "inner-target", "Nothing but zero bytes, which parse.", ten, plain=bytes(1024))


def bodies() -> Iterator[Vector]:
    """Every vector of this file."""
    yield from _records()
    yield from _inner()


__all__ = ["bodies"]
