# SPDX-License-Identifier: Apache-2.0
"""Vectors of stage open-request: what a node opens, and everything it must refuse (02 §7).

Three kinds of liar: `path` has no keys and rewrites what it carries; `client` has every key and lies in a request of
its own; `rogue` is an accepted candidate, knows the CEK, and tries to use another candidate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import kit
from kit import ALPHA, BETA, DELTA, ENDPOINT, GAMMA, NOW, TALL, Node, Sent, Vector, b64u, canonical, seed, send, sha


def vector(
    name: str,
    sent: Sent | bytes,
    expect: str,
    description: str,
    clause: str,
    *,
    wire: str | None = None,
    now: int = NOW + 5,
    held: list[dict[str, Any]] | None = None,
    known: dict[str, Any] | None = None,
    **more: Any,
) -> Vector:
    data = sent if isinstance(sent, bytes) else sent.frame
    given = {
        "endpoint": ENDPOINT,
        "now": now,
        "published": held if held is not None else kit.published(ALPHA),
        "frame": b64u(data),
    } | more
    output: dict[str, Any] | None = None
    if expect == "accept":
        output = known
        if isinstance(sent, Sent) and known is None:
            output = {"index": 0, "th": b64u(sent.th), "r": b64u(sent.secrets[0]), "s": b64u(sent.scopes[0])}
    else:
        output = {"wire": wire or "malformed"}
    return Vector(f"request-{name}", "open-request", clause, description, given, expect, output)


def _accepted() -> Iterator[Vector]:
    base = send(name="base")
    one = send(name="frame", nodes=(ALPHA,))
    ok = "accept"
    yield vector("one-candidate", one, ok, "One candidate.", "02 §7")
    yield vector("two-candidates", base, ok, "Two candidates, the first opens.", "02 §7")
    second = {"index": 1, "r": b64u(base.secrets[1]), "s": b64u(base.scopes[1])}
    yield vector(
        "second-candidate",
        base,
        ok,
        "The second opens the same bytes.",
        "02 §7",
        held=kit.published(BETA),
        known=second,
    )
    four = send(name="frame four", nodes=(ALPHA, BETA, GAMMA, DELTA))
    yield vector(
        "fourth-candidate", four, ok, "The last of four opens.", "02 §7", held=kit.published(DELTA), known={"index": 3}
    )
    yield vector(
        "high-suite", send(name="tall", nodes=(TALL,)), ok, "The high suite.", "02 §2", held=kit.published(TALL)
    )
    yield vector("attempt-1", send(name="retry", header=lambda h: h.update(attempt=1)), ok, "A retry.", "02 §10.7")
    yield vector("first-second", base, ok, "A client's clock 60 s ahead.", "02 §7.3", now=NOW - 60)
    yield vector("last-second", base, ok, "The second in which it expires.", "02 §7.3", now=NOW + 120)
    longest = send(name="longest", header=lambda h: h.update(expires_at=NOW + 300))
    yield vector("lifetime-300", longest, ok, "The longest lifetime.", "02 §7.3", now=NOW + 300)
    late = send(name="late", header=lambda h: h.update(sent_at=NOW + 3500, expires_at=NOW + 3620))
    yield vector("decrypt-only", late, ok, "The key's last second of decrypt-only.", "02 §10.2", now=NOW + 3600)
    inner = kit.binary_http(
        b'{"model":"demo","input":"x"}', path="/v1/embeddings", headers=[("content-type", "application/json")]
    )
    quiet = send(
        name="embed", inner=inner, header=lambda h: h.update(op="embeddings", stream=False, max_tokens_bucket=0)
    )
    yield vector("embeddings", quiet, ok, "Another operation; no limit, no stream.", "02 §5.4")
    not_json = send(
        name="not json",
        inner=kit.binary_http(b"\xff\xfe"),
        header=lambda h: h.update(stream=False, max_tokens_bucket=0),
    )
    yield vector("content-not-json", not_json, ok, "The node answers that inside the seal, later.", "02 §5.6")
    utf16 = send(
        name="utf-16",
        inner=kit.binary_http(kit.CHAT.decode().encode("utf-16")),
        header=lambda h: h.update(stream=False, max_tokens_bucket=0),
    )
    yield vector("content-utf-16", utf16, ok, "No JSON here: neither stream nor limit counts.", "02 §5.6")
    nan = kit.CHAT.replace(b"200}", b'200,"top_p":NaN}')
    with_nan = send(
        name="nan", inner=kit.binary_http(nan), header=lambda h: h.update(stream=False, max_tokens_bucket=0)
    )
    yield vector("content-nan", with_nan, ok, "NaN is not JSON: neither stream nor limit counts.", "02 §5.6")
    last = send(
        name="double", inner=kit.binary_http(kit.CHAT.replace(b'"stream":true', b'"stream":false,"stream":true'))
    )
    yield vector("content-repeated-member", last, ok, "In content the last of a repeated member counts.", "02 §5.6")
    large = send(name="large", inner=kit.binary_http(chat(90_000)))
    yield vector("two-records", large, ok, "A body of two records.", "02 §6.3")
    third = bytearray(base.frame)
    third[9 + len(base.header_bytes) + 1232 + 5] ^= 1
    yield vector(
        "other-envelope-flipped", bytes(third), ok, "A node reads its own envelope only.", "02 §7.5", known={"index": 0}
    )
    broken = _flip_envelope(base, 100)
    yield vector(
        "after-broken-copy",
        base,
        ok,
        "A spoilt copy sent before does not burn the request.",
        "02 §7.7",
        earlier=[{"frame": b64u(broken), "now": NOW + 4}],
    )
    both = [*kit.published(ALPHA), {"keyset": b64u(_with_old(BETA, ALPHA)), "keys": _keys(ALPHA, BETA)}]
    old = send(name="old pair", nodes=(BETA, GAMMA), keysets={0: _with_old(BETA, ALPHA)})
    yield vector("second-keyset", old, ok, "A node with two keysets is asked under the newer.", "02 §7.2", held=both)
    over = _expired(ALPHA)
    mixed = send(name="mixed", nodes=(ALPHA, BETA), keysets={0: over})
    held = [{"keyset": b64u(over), "keys": _keys(ALPHA)}, *kit.published(BETA)]
    yield vector(
        "own-pair-over",
        mixed,
        ok,
        "Its other pair is over and counts no more.",
        "02 §7.2",
        held=held,
        known={"index": 1},
    )


def chat(size: int) -> bytes:
    return kit.CHAT.replace(b"Why is", b"Why " * (size // 4) + b"is")


def _keys(*nodes: Node) -> list[dict[str, str]]:
    return [{"suite": node.suite, "seed": b64u(node.seed)} for node in nodes]


def _with_old(new: Node, old: Node) -> bytes:
    document = new.document
    document["hpke"].append(old.document["hpke"][0])
    return canonical(document)


def _expired(node: Node) -> bytes:
    document = node.document
    document["hpke"][0] |= {"not_before": NOW - 6000, "not_after": NOW - 1200}
    return canonical(document)


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= mask
    return bytes(changed)


def _flip_envelope(sent: Sent, at: int, mask: int = 1) -> bytes:
    return flip(sent.frame, 9 + len(sent.header_bytes) + at, mask)


def _path() -> Iterator[Vector]:
    """Somebody without keys rewrites a good request."""
    base, other = send(name="base"), send(name="other")
    unknown = "unknown-key"

    def changed(member: str, value: Any, code: str, wire: str | None = None, clause: str = "02 §7.5") -> Vector:
        text = f"The path writes another {member}."
        name = f"path-{member.replace('_', '-')}"
        return vector(name, base.changed(member, value), f"reject/{code}", text, clause, wire=wire)

    def candidate(i: int, member: str, value: str, code: str, wire: str | None = None) -> Vector:
        text = f"The path writes another {member} for candidate {i}."
        name = f"path-candidate-{i}-{member.replace('_', '-')}"
        return vector(name, base.changed_candidate(i, member, value), f"reject/{code}", text, "02 §7.5", wire=wire)

    yield changed("v", "sealed/0", "unknown-value", clause="02 §7.1")
    yield changed("suite", kit.HIGH, "frame-length", clause="02 §7.1")
    yield changed("endpoint", "ep-other", "wrong-endpoint", unknown, "02 §7.2")
    yield changed("op", "completions", "envelope")
    yield changed("stream", False, "envelope")
    yield changed("max_tokens_bucket", 128, "envelope")
    yield changed("request_id", b64u(seed("other id", 16)), "envelope")
    yield changed("attempt", 1, "envelope")
    yield changed("account", "fedcba9876543210", "envelope")
    yield changed("sent_at", NOW - 1, "envelope")
    yield changed("expires_at", NOW + 121, "envelope")
    yield changed("body_len", len(base.body) - 1, "frame-length", clause="02 §7.1")
    yield changed("body_sha256", sha(b"other").hex(), "body-digest", clause="02 §7.4")
    yield changed("cek_commit", b64u(seed("commit")), "envelope")
    yield changed("model", "demo-135m", "unknown-member", clause="02 §7.1")
    yield candidate(0, "kid", GAMMA.kid, unknown, unknown)
    yield candidate(0, "keyset_sha256", sha(b"other").hex(), unknown, unknown)
    yield candidate(0, "commit", b64u(seed("commit")), "envelope")
    yield candidate(1, "kid", GAMMA.kid, "envelope")
    yield candidate(1, "keyset_sha256", sha(b"other").hex(), "envelope")
    yield candidate(1, "commit", b64u(seed("commit")), "envelope")
    turned = canonical(base.header | {"candidates": base.header["candidates"][::-1]})
    yield vector(
        "path-candidates-swapped",
        kit.frame(turned, *base.envelopes[::-1], base.body),
        "reject/envelope",
        "Candidates and envelopes change places.",
        "02 §7.5",
    )
    alone = canonical(base.header | {"candidates": base.header["candidates"][:1]})
    yield vector(
        "path-candidate-dropped",
        kit.frame(alone, base.envelopes[0], base.body),
        "reject/envelope",
        "The other candidate is taken out.",
        "02 §7.5",
    )
    yield vector(
        "path-envelopes-swapped",
        kit.frame(base.header_bytes, *base.envelopes[::-1], base.body),
        "reject/envelope",
        "Only the envelopes change places.",
        "02 §7.5",
    )
    yield vector(
        "path-envelope-of-other-request",
        kit.frame(base.header_bytes, other.envelopes[0], *base.envelopes[1:], base.body),
        "reject/envelope",
        "An envelope of another request.",
        "02 §7.5",
    )
    yield vector(
        "path-body-of-other-request",
        kit.frame(base.header_bytes, *base.envelopes, other.body),
        "reject/body-digest",
        "The bodies of two requests change places.",
        "02 §7.4",
    )
    fitted = canonical(base.header | {"body_sha256": other.header["body_sha256"]})
    yield vector(
        "path-body-and-digest",
        kit.frame(fitted, *base.envelopes, other.body),
        "reject/envelope",
        "The other body together with its digest.",
        "02 §7.5",
    )
    for name, at, mask in (
        ("mlkem-first", 0, 1),
        ("mlkem-last", 1087, 0x80),
        ("x25519-first", 1088, 1),
        ("x25519-top-bit", 1119, 0x80),
        ("ciphertext-first", 1120, 1),
        ("ciphertext-last", 1215, 1),
        ("tag-first", 1216, 1),
        ("tag-last", 1231, 0x80),
    ):
        yield vector(
            f"path-flip-{name}",
            _flip_envelope(base, at, mask),
            "reject/envelope",
            f"One bit of the envelope, byte {at}.",
            "02 §7.5",
        )
    body_at = len(base.frame) - len(base.body)
    for name, at in (("flag", 0), ("length", 4), ("first", 5), ("tag", len(base.body) - 1)):
        yield vector(
            f"path-flip-body-{name}",
            flip(base.frame, body_at + at),
            "reject/body-digest",
            "One bit of the sealed body.",
            "02 §7.4",
        )
    yield vector("path-trailing-byte", base.frame + b"\0", "reject/frame-length", "A byte after the body.", "02 §7.1")
    yield vector("path-cut", base.frame[:-1], "reject/frame-length", "A byte is missing.", "02 §7.1")
    yield vector(
        "path-oversize",
        base.changed("body_len", 64 * 1024 * 1024 + 1),
        "reject/out-of-range",
        "More than 64 MiB announced.",
        "02 §7.1",
    )
    tall = send(name="tall two", nodes=(TALL,))
    down = canonical(tall.header | {"suite": kit.LOW})
    yield vector(
        "path-downgrade",
        kit.frame(down, tall.envelopes[0][:1232], tall.body),
        "reject/suite-mismatch",
        "The lower suite is written over the higher.",
        "02 §7.2",
        wire=unknown,
        held=kit.published(TALL),
    )


def _replay() -> Iterator[Vector]:
    base, other, third = send(name="base"), send(name="other"), send(name="third")
    twice = [{"frame": b64u(base.frame), "now": NOW + 4}]
    yield vector(
        "replayed", base, "reject/replayed", "The same bytes again.", "02 §7.3", wire="replayed", earlier=twice
    )
    resealed = kit.frame(
        base.header_bytes,
        kit.ENVELOPES.seal(
            kit.LOW, ALPHA.key.pk, kit.label("request") + base.th + b"\0", base.cek + base.secrets[0] + base.scopes[0]
        ),
        flip(base.envelopes[1], 0),
        base.body,
    )
    yield vector(
        "replayed-other-envelope",
        resealed,
        "reject/replayed",
        "The same header, an envelope changed.",
        "02 §7.3",
        wire="replayed",
        earlier=twice,
    )
    yield vector(
        "replayed-last-second",
        base,
        "reject/replayed",
        "Remembered until the last second.",
        "02 §7.7",
        wire="replayed",
        now=NOW + 120,
        earlier=twice,
    )
    dead = send(name="dead", body=lambda key, nonce, plain: kit.record(key, nonce, 1, plain, final=True))
    yield vector(
        "replayed-after-bad-body",
        dead,
        "reject/replayed",
        "Seen at (7), though (8) refused it.",
        "02 §7.7",
        wire="replayed",
        earlier=[{"frame": b64u(dead.frame), "now": NOW + 4}],
    )
    late = send(name="late other", header=lambda h: h.update(sent_at=NOW + 100, expires_at=NOW + 220))
    stale = [*twice, {"frame": b64u(late.frame), "now": NOW + 121}]
    yield vector(
        "replayed-stale-clock",
        base,
        "reject/expired",
        "It waited while time went on; its entry is forgotten, and so it is refused.",
        "02 §10.4",
        wire="expired",
        now=NOW + 120,
        earlier=stale,
    )
    filled = [{"frame": b64u(one.frame), "now": NOW + 4} for one in (other, third)]
    yield vector(
        "memory-full",
        base,
        "reject/replay-memory-full",
        "A full memory refuses; it forgets nobody.",
        "02 §7.7",
        wire="unavailable",
        capacity=2,
        earlier=filled,
    )
    yield vector(
        "memory-freed",
        base,
        "accept",
        "An entry whose time has passed makes room.",
        "02 §7.7",
        capacity=1,
        now=NOW + 60,
        earlier=[{"frame": b64u(_early().frame), "now": NOW + 4}],
    )


def _early() -> Sent:
    return send(name="early", header=lambda h: h.update(sent_at=NOW - 60, expires_at=NOW + 10))


def _client() -> Iterator[Vector]:
    """A client seals a request that is wrong in one thing."""
    unknown = "unknown-key"

    def lie(name: str, code: str, text: str, clause: str, change: Any, wire: str | None = None, **more: Any) -> Vector:
        return vector(name, send(name=f"lie {name}", header=change), f"reject/{code}", text, clause, wire=wire, **more)

    def times(sent_at: int, expires_at: int) -> Callable[[dict[str, Any]], None]:
        return lambda h: h.update(sent_at=NOW + sent_at, expires_at=NOW + expires_at)

    expired = "expired"
    yield lie("expired", expired, "One second too late.", "02 §7.3", None, expired, now=NOW + 121)
    yield lie("not-yet", expired, "More than 60 s ahead.", "02 §7.3", None, expired, now=NOW - 61)
    yield lie("lifetime-301", "lifetime", "Too long a life.", "02 §7.3", times(0, 301), expired)
    yield lie("lifetime-0", "lifetime", "No life at all.", "02 §7.3", times(5, 5), expired)
    yield lie("lifetime-negative", "lifetime", "Ends before it begins.", "02 §7.3", times(5, 4), expired)
    yield lie(
        "lifetime-years", "lifetime", "Ends at 2^53 − 1.", "02 §7.3", lambda h: h.update(expires_at=2**53 - 1), expired
    )
    yield lie(
        "endpoint",
        "wrong-endpoint",
        "Sealed for another endpoint.",
        "02 §7.2",
        lambda h: h.update(endpoint="ep-other"),
        unknown,
    )
    yield _suite_lie()
    yield lie(
        "body-digest",
        "body-digest",
        "The digest of another body.",
        "02 §7.4",
        lambda h: h.update(body_sha256=sha(b"x").hex()),
    )
    yield lie(
        "cek-commit",
        "cek-commit",
        "A commitment to another CEK.",
        "02 §7.6",
        lambda h: h.update(cek_commit=b64u(seed("x"))),
    )

    yield vector(
        "key-over",
        send(name="key over", header=times(3540, 3660)),
        f"reject/{unknown}",
        "One second after decrypt-only.",
        "02 §10.2",
        wire=unknown,
        now=NOW + 3601,
    )
    yield vector(
        "key-never",
        send(name="base"),
        f"reject/{unknown}",
        "A node that is no candidate.",
        "02 §7.2",
        wire=unknown,
        held=kit.published(GAMMA),
    )
    yield vector(
        "keyset-never",
        send(name="old", keysets={0: _with_old(ALPHA, GAMMA)}),
        f"reject/{unknown}",
        "Its key, in a keyset it never published.",
        "02 §7.2",
        wire=unknown,
    )
    thief = DELTA.document
    thief["hpke"] = [ALPHA.document["hpke"][0]]
    borrowed = canonical(thief)
    yield vector(
        "keyset-borrowed",
        send(name="borrowed", nodes=(ALPHA,), keysets={0: borrowed}),
        f"reject/{unknown}",
        "Another node's keyset lists this node's key.",
        "02 §7.2",
        wire=unknown,
    )
    yield vector(
        "kid-twice",
        send(name="kid twice", nodes=(ALPHA, ALPHA), keysets={1: borrowed}),
        "reject/candidate-repeated",
        "The owner and the borrower, both candidates.",
        "02 §7.2",
        wire=unknown,
    )
    yield vector(
        "kid-twice-other",
        send(name="kid twice other", nodes=(ALPHA, BETA, BETA)),
        "reject/candidate-repeated",
        "Two other candidates share a kid.",
        "02 §7.2",
        wire=unknown,
    )
    yield vector(
        "own-twice",
        send(name="own twice"),
        "reject/candidate-own-twice",
        "Two candidates are this one node.",
        "02 §7.2",
        wire=unknown,
        held=kit.published(ALPHA, BETA),
    )
    yield vector(
        "info-index",
        send(name="info index", info_index={0: 1}),
        "reject/envelope",
        "The envelope is bound to another place.",
        "02 §7.5",
    )
    yield vector(
        "info-th",
        send(name="info th", info_th=seed("th")),
        "reject/envelope",
        "The envelope is bound to another header.",
        "02 §7.5",
    )
    yield vector(
        "info-kid",
        send(name="info pk", pks={0: BETA.key.pk}),
        "reject/envelope",
        "The envelope is sealed to another candidate's key.",
        "02 §7.5",
    )
    spaced = send(name="spaced", spell=lambda raw: raw.replace(b":", b": ", 1))
    yield vector("header-not-canonical", spaced, "reject/not-canonical", "A space in the header, sealed so.", "02 §7.1")


def _suite_lie() -> Vector:
    """A request to TALL whose header names the low suite, with everything else made for that."""
    sent = send(name="suite lie", nodes=(ALPHA, BETA))
    lied = copy.deepcopy(sent.header)
    lied["candidates"][0] |= {"kid": TALL.kid, "keyset_sha256": sha(TALL.keyset).hex()}
    return vector(
        "suite",
        kit.frame(canonical(lied), *sent.envelopes, sent.body),
        "reject/suite-mismatch",
        "A suite that its key does not have.",
        "02 §7.2",
        wire="unknown-key",
        held=kit.published(TALL),
    )


def _rogue() -> Iterator[Vector]:
    """BETA, an accepted candidate, knows the CEK and wraps it anew for ALPHA."""
    r, s, cek = seed("rogue r"), seed("rogue s"), seed("rogue cek")
    for name, code, text, content in (
        ("r", "candidate-commit", "An R of its own: it could have answered for ALPHA.", lambda c, _r, s0: c + r + s0),
        ("s", "candidate-commit", "An S of its own: another tenant's cache.", lambda c, r0, _s: c + r0 + s),
        ("r-and-s", "candidate-commit", "Both its own.", lambda c, _r, _s: c + r + s),
        ("r-s-turned", "candidate-commit", "R and S change places.", lambda c, r0, s0: c + s0 + r0),
        ("cek", "cek-commit", "Another CEK: AES-GCM does not commit to its key.", lambda _c, r0, s0: cek + r0 + s0),
        ("own-envelope", "candidate-commit", "Its own R and S, sent on.", None),
    ):
        base = send(name="base")
        wrap = content or (lambda c, _r, _s, b=base: c + b.secrets[1] + b.scopes[1])
        sent = send(name="base", envelope={0: wrap})
        yield vector(f"rogue-{name}", sent, f"reject/{code}", f"A rogue candidate re-wraps. {text}", "02 §7.6")


def requests() -> Iterator[Vector]:
    """Every vector of this file."""
    for maker in (_accepted, _path, _replay, _client, _rogue):
        yield from maker()


__all__ = ["chat", "flip", "requests", "vector"]
