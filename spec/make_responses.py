# SPDX-License-Identifier: Apache-2.0
"""Vectors of stage open-response: what a client takes as an answer, and everything it must refuse (02 §8, 05)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import kit
from kit import ALPHA, BETA, GAMMA, NOW, Answer, Node, Sent, Vector, armor, b64u, canonical, seed, send, sha

Change = Callable[[dict[str, Any]], Any]
FIRST, SECOND = b'data: {"choices":[{"delta":{"content":"Because"}}]}\n\n', b"data: [DONE]\n\n"


def _vector(
    name: str,
    sent: Sent,
    response: bytes,
    expect: str,
    description: str,
    clause: str,
    *,
    armored: bool = False,
    known: dict[str, Any] | None = None,
) -> Vector:
    given = {
        "header": b64u(sent.header_bytes),
        "secrets": [b64u(r) for r in sent.secrets],
        "keysets": [b64u(node.keyset) for node in sent.nodes],
        "request_plain": b64u(sent.padded_plain),
        "armored": armored,
        "response": b64u(response),
    }
    return Vector(f"response-{name}", "open-response", clause, description, given, expect, known)


def _parts(answer: Answer) -> list[bytes]:
    """Head, two pieces of body, trailer."""
    return [answer.head(), answer.body(FIRST), answer.body(SECOND), answer.trailer()]


def _whole(answer: Answer) -> bytes:
    return answer.prefix + b"".join(_parts(answer))


def _accepted(sent: Sent) -> Iterator[Vector]:
    def make(name: str, data: bytes, text: str, clause: str, *, armored: bool = False, **known: Any) -> Vector:
        expected = {"status": 200, "finish": "stop", "body": b64u(FIRST + SECOND)} | known
        return _vector(name, sent, data, "accept", text, clause, armored=armored, known=expected)

    plain = _whole(Answer(sent))
    yield make("plain", plain, "Head, two pieces, trailer.", "02 §8.1", keyset_sha256=sha(ALPHA.keyset).hex())
    yield make(
        "second-candidate",
        _whole(Answer(sent, index=1)),
        "The other candidate answers.",
        "02 §8.1",
        keyset_sha256=sha(BETA.keyset).hex(),
    )
    answer = Answer(sent)
    covered = [
        answer.head(),
        answer.cover(),
        answer.body(FIRST),
        answer.cover(),
        answer.cover(),
        answer.body(SECOND),
        answer.cover(),
        answer.trailer(),
    ]
    yield make("cover", answer.prefix + b"".join(covered), "Cover between the pieces.", "02 §8.3")
    for shape in ("off", "constant"):
        answer = Answer(sent)
        parts = [answer.head(shape), answer.body(FIRST, shape), answer.body(SECOND, shape), answer.trailer(shape=shape)]
        yield make(f"shape-{shape}", answer.prefix + b"".join(parts), f"Shape {shape}.", "02 §8.6")
    answer = Answer(sent)
    parts = [answer.head(), answer.body(b""), answer.body(FIRST + SECOND), answer.body(b""), answer.trailer()]
    yield make("empty-body-record", answer.prefix + b"".join(parts), "Type 1 with no bytes.", "02 §8.3")
    answer = Answer(sent)
    parts = [answer.head(), answer.trailer()]
    yield make("no-body", answer.prefix + b"".join(parts), "No body at all.", "02 §8.4", body="")
    answer = Answer(sent, head_json=b'{"headers":[],"status":400}')
    error = b'{"error":{"code":"context_length_exceeded"}}'
    parts = [
        answer.head(),
        answer.body(error),
        answer.trailer(
            lambda r: r.update(status=400, finish="error"), trailer=lambda t: t.update(status=400, finish="error")
        ),
    ]
    yield make(
        "error-inside",
        answer.prefix + b"".join(parts),
        "An error, sealed.",
        "02 §7.11",
        status=400,
        finish="error",
        body=b64u(error),
    )
    answer = Answer(sent)
    parts = [
        answer.head(),
        answer.body(FIRST + SECOND),
        answer.trailer(
            lambda r: r.update(status=500, finish="error"), trailer=lambda t: t.update(status=500, finish="error")
        ),
    ]
    yield make(
        "fails-late",
        answer.prefix + b"".join(parts),
        "200 in the head, failed in the trailer.",
        "05 §3.2",
        finish="error",
    )
    yield make("bytes-after", plain + b"anything", "Bytes after the end are not read.", "02 §8.4")
    yield make("answer-after", plain + plain, "Nor is a second answer.", "02 §8.4")

    prefix, parts = Answer(sent).prefix, _parts(Answer(sent))
    events = armor(prefix, *parts)
    yield make("armored", events, "As server-sent events.", "02 §8.2", armored=True)
    messy = b": hello\n\n" + events.replace(b"\n", b"\r\n").replace(b"data: ", b": ping\r\ndata:")
    yield make("armored-comments", messy, "With comments, CR LF and no space.", "02 §8.2", armored=True)
    yield make(
        "armored-bytes-after", events + b"event: x\n\n", "Nothing after the end is read.", "02 §8.4", armored=True
    )


def _prefix(sent: Sent) -> Iterator[Vector]:
    plain, other = _whole(Answer(sent)), send(name="other")
    tag = "reject/record-tag"
    yield _vector("version-2", sent, b"\2" + plain[1:], "reject/response-version", "Another version.", "02 §8.1")
    yield _vector(
        "candidate-none",
        sent,
        b"\1\2" + plain[2:],
        "reject/response-candidate",
        "A candidate this request does not have.",
        "02 §8.1",
    )
    yield _vector(
        "candidate-255", sent, b"\1\xff" + plain[2:], "reject/response-candidate", "The last number.", "02 §8.1"
    )
    yield _vector("candidate-other", sent, b"\1\1" + plain[2:], tag, "The other candidate's number.", "02 §8.1")
    yield _vector(
        "candidate-poses",
        sent,
        _whole(Answer(sent, index=0, r=sent.secrets[1])),
        tag,
        "Candidate 1 answers as candidate 0.",
        "02 §8.1",
    )
    yield _vector("nonce-flipped", sent, plain[:2] + b"\0" + plain[3:], tag, "Another response nonce.", "02 §8.1")
    yield _vector("other-request", sent, _whole(Answer(other)), tag, "The answer to another request.", "02 §8.1")
    yield _vector(
        "other-transcript",
        sent,
        _whole(Answer(sent, th=other.th)),
        tag,
        "The right secret, another transcript.",
        "02 §8.1",
    )
    yield _vector("reflected-frame", sent, sent.frame, "reject/response-version", "The request itself.", "02 §8.1")
    yield _vector("reflected-body", sent, Answer(sent).prefix + sent.body, tag, "The request's records.", "02 §8.1")
    keys = kit.kdf(sent.cek, b"", "request", 76)
    forged = kit.record(keys[:32], keys[32:44], 0, b"\0\0\0\0\x1e" + Answer(sent).head_json, final=False)
    yield _vector("request-key", sent, Answer(sent).prefix + forged, tag, "Sealed under the request's key.", "02 §8.1")
    clear = b'{"choices":[{"message":{"content":"hello"}}]}'
    yield _vector("clear-json", sent, clear, "reject/response-version", "An answer in clear.", "02 §8.7")
    yield _vector(
        "clear-events",
        sent,
        b"data: " + clear + b"\n\n",
        "reject/not-base64url",
        "A clear stream.",
        "02 §8.7",
        armored=True,
    )
    cut = "reject/truncated-stream"
    yield _vector("empty", sent, b"", cut, "No bytes.", "02 §8.4")
    yield _vector("cut-prefix", sent, plain[:33], cut, "Cut inside the prefix.", "02 §8.4")
    yield _vector("cut-after-prefix", sent, plain[:34], cut, "Nothing but the prefix.", "02 §8.4")


def _records(sent: Sent) -> Iterator[Vector]:
    prefix, parts = Answer(sent).prefix, _parts(Answer(sent))
    tag, cut, order = "reject/record-tag", "reject/truncated-stream", "reject/record-order"

    def make(name: str, pieces: list[bytes], expect: str, text: str, clause: str = "02 §6.4") -> Vector:
        return _vector(name, sent, prefix + b"".join(pieces), expect, text, clause)

    def flip(piece: bytes, at: int, mask: int = 1) -> bytes:
        changed = bytearray(piece)
        changed[at] ^= mask
        return bytes(changed)

    head, one, two, end = parts
    yield make("flip-flag", [flip(head, 0), one, two, end], tag, "The head is marked final.")
    yield make("flip-flag-end", [head, one, two, flip(end, 0)], tag, "The mark of the end is taken off.")
    yield make("flip-flag-2", [flip(head, 0, 2), one, two, end], "reject/record-flag", "The flag is 2.", "02 §6.2")
    yield make("flip-length", [flip(head, 4, 16), one, two, end], tag, "Another length.")
    yield make("flip-first", [flip(head, 5), one, two, end], tag, "A bit of the head.")
    yield make("flip-body", [head, flip(one, 40), two, end], tag, "A bit of the body.")
    yield make("flip-tag", [head, one, flip(two, -1), end], tag, "A bit of a tag.")
    yield make("flip-end", [head, one, two, flip(end, 60)], tag, "A bit of the trailer.")
    yield make("reordered", [head, two, one, end], tag, "Two pieces change places.")
    yield make("repeated", [head, one, one, two, end], tag, "A piece comes twice.")
    yield make("dropped", [head, two, end], tag, "A piece is left out.")
    yield make("head-dropped", [one, two, end], tag, "The head is left out.")
    yield make("head-repeated", [head, head, one, two, end], tag, "The head comes twice.")
    yield make(
        "spliced",
        [head, one, _parts(Answer(sent, nonce=seed("second nonce")))[2], end],
        tag,
        "A piece of a second answer to the same request.",
    )
    yield make("end-missing", [head, one, two], cut, "The final record never comes.", "02 §8.4")
    yield make("end-cut", [head, one, two, end[:-1]], cut, "The final record lacks a byte.", "02 §8.4")
    yield make("body-cut", [head, one[:50]], cut, "Cut inside a piece.", "02 §8.4")
    yield make("length-16", [struct.pack(">BI", 0, 16) + bytes(16)], "reject/record-length", "A tag alone.", "02 §6.2")
    yield make("length-65553", [head, struct.pack(">BI", 0, 65553)], "reject/record-length", "65537 bytes.", "02 §6.2")
    yield make("length-4-gib", [head, b"\0\xff\xff\xff\xff"], "reject/record-length", "4 GiB announced.", "02 §6.2")

    def sealed(name: str, expect: str, text: str, build: Callable[[Answer], list[bytes]], clause: str) -> Vector:
        """Records that the node itself sealed, in an order or form that no node may use."""
        return make(name, build(Answer(sent)), expect, text, clause)

    four, three = "02 §8.4", "02 §8.3"
    wrong = "reject/record-content"
    yield sealed("no-head", order, "Body first.", lambda a: [a.body(FIRST), a.trailer()], four)
    yield sealed("cover-first", order, "Cover first.", lambda a: [a.cover(), a.head(), a.trailer()], four)
    yield sealed("trailer-first", order, "A trailer alone.", lambda a: [a.trailer()], four)
    yield sealed("second-head", order, "A second head.", lambda a: [a.head(), a.head(), a.trailer()], four)
    yield sealed(
        "trailer-not-final",
        order,
        "A trailer without the mark.",
        lambda a: [a.head(), a.trailer(final=False), a.trailer()],
        four,
    )
    yield sealed(
        "body-after-trailer",
        order,
        "A trailer without the mark, then body.",
        lambda a: [a.head(), a.trailer(final=False), a.piece(1, b"x", final=True)],
        four,
    )
    yield sealed("final-head", order, "A head with the mark.", lambda a: [a.piece(0, a.head_json, final=True)], four)
    yield sealed("final-body", order, "A body with the mark.", lambda a: [a.head(), a.piece(1, b"x", final=True)], four)
    yield sealed("final-cover", order, "Cover with the mark.", lambda a: [a.head(), a.piece(2, b"", final=True)], four)
    yield sealed("cover-content", wrong, "Cover that says something.", lambda a: [a.head(), a.piece(2, b"x")], three)
    yield sealed("type-4", wrong, "A type nobody knows.", lambda a: [a.head(), a.piece(4, b"")], three)
    yield sealed("type-255", wrong, "The last type.", lambda a: [a.piece(255, a.head_json)], three)
    yield sealed("content-short", wrong, "Four bytes of plaintext.", lambda a: [a.raw(b"\0\0\0\0")], three)
    yield sealed(
        "content-overflow", wrong, "More content than plaintext.", lambda a: [a.head(), a.raw(b"\1\0\0\0\2x")], three
    )
    yield sealed(
        "content-4-gib", wrong, "Content of 4 GiB.", lambda a: [a.head(), a.raw(b"\1\xff\xff\xff\xffx")], three
    )
    yield sealed(
        "filling",
        "reject/record-filling",
        "The filling is not zero.",
        lambda a: [a.head(), a.raw(b"\1\0\0\0\1x\0\0\1")],
        three,
    )

    def head_of(name: str, text: bytes, code: str, what: str) -> Vector:
        answer = Answer(sent, head_json=text)
        return make(f"head-{name}", [answer.head(), answer.trailer()], f"reject/{code}", what, "02 §8.5")

    yield head_of("space", b'{"headers":[], "status":200}', "not-canonical", "A space.")
    yield head_of("unknown-member", b'{"headers":[],"reason":"OK","status":200}', "unknown-member", "A reason.")
    yield head_of("no-status", b'{"headers":[]}', "missing-member", "No status.")
    yield head_of("status-199", b'{"headers":[],"status":199}', "out-of-range", "Below 200.")
    yield head_of("status-boolean", b'{"headers":[],"status":true}', "wrong-type", "A boolean.")
    yield head_of("header-triple", b'{"headers":[["a","b","c"]],"status":200}', "wrong-form", "Three parts.")
    yield head_of("header-case", b'{"headers":[["Accept","b"]],"status":200}', "wrong-form", "A name in capitals.")
    yield head_of("header-empty-name", b'{"headers":[["","b"]],"status":200}', "wrong-form", "An empty name.")
    yield head_of("header-space", b'{"headers":[["a"," b"]],"status":200}', "wrong-form", "A space in front.")
    many = canonical({"headers": [["a", "b"]] * 33, "status": 200})
    yield head_of("headers-33", many, "out-of-range", "33 headers.")


def _armored(sent: Sent) -> Iterator[Vector]:
    prefix, parts = Answer(sent).prefix, _parts(Answer(sent))
    head, one, two, end = parts
    piece = "reject/armor-piece"

    def make(name: str, data: bytes, expect: str, text: str) -> Vector:
        return _vector(f"armored-{name}", sent, data, expect, text, "02 §8.2", armored=True)

    yield make("prefix-and-record", armor(prefix + head, one, two, end), piece, "Prefix and head in one event.")
    yield make("no-prefix", armor(*parts), piece, "The prefix is missing.")
    yield make("prefix-cut", armor(prefix[:20], prefix[20:], *parts), piece, "The prefix in two events.")
    yield make("two-records", armor(prefix, head + one, two, end), piece, "Two records in one event.")
    yield make("record-split", armor(prefix, head[:30], head[30:], one, two, end), piece, "A record over two events.")
    yield make("record-and-half", armor(prefix, head + one[:9], one[9:], two, end), piece, "And a half.")
    yield make("after-final", armor(prefix, head, one, two, end + b"\0"), piece, "Bytes after the end, in its event.")
    yield make("empty-event", armor(prefix, b"", *parts), piece, "An event without data.")
    yield make(
        "event-field",
        armor(prefix, head) + b"event: x\n" + armor(one, two, end),
        "reject/armor-field",
        "An event field.",
    )
    yield make("two-lines", armor(prefix, head)[:-1] + armor(one), "reject/armor-two-lines", "Two data lines.")
    yield make("reordered", armor(prefix, head, two, one, end), "reject/record-tag", "Two events change places.")
    yield make("end-missing", armor(prefix, head, one, two), "reject/truncated-stream", "No final event.")
    yield make(
        "blank-missing", armor(*[prefix, *parts])[:-1], "reject/truncated-stream", "The last event is not ended."
    )


def _receipts(sent: Sent) -> Iterator[Vector]:
    older = ALPHA.document | {"not_before": NOW - 700}

    def make(
        name: str, code: str, text: str, change: Change | None = None, clause: str = "05 §4.1", **fields: Any
    ) -> Vector:
        answer = Answer(sent)
        pieces = [answer.head(), answer.body(FIRST), answer.trailer(change, **fields)]
        return _vector(f"receipt-{name}", sent, answer.prefix + b"".join(pieces), f"reject/{code}", text, clause)

    def put(member: str, value: Any) -> Change:
        return lambda r: r.update({member: value})

    def usage(document: dict[str, Any]) -> None:
        document["usage"] = document["usage"] | {"output_tokens": 8}

    link = ALPHA.document["link"][0]["kid"]
    link_key = kit.Ed25519PrivateKey.from_private_bytes(seed("link alpha"))
    same = "receipt-mismatch"
    yield make("th", "receipt-th", "Another transcript.", put("th", b64u(send(name="other").th)))
    yield make("request", "receipt-request", "Another request.", put("request_commit", b64u(seed("x"))))
    yield make("response", "receipt-response", "Another answer.", put("response_commit", b64u(seed("x"))))
    yield make("request-id", same, "Another request id.", put("request_id", b64u(seed("x", 16))))
    yield make("keyset", same, "An older keyset of the same node.", put("keyset_sha256", sha(canonical(older)).hex()))
    yield make("keyset-other", same, "The other candidate's keyset.", put("keyset_sha256", sha(BETA.keyset).hex()))
    yield make("model", same, "Another model.", put("model", {"name": "demo-7b", "weights_sha256": sha(b"w").hex()}))
    yield make("usage", same, "Other counts than the trailer.", usage)
    yield make("trailer-usage", same, "The trailer has other counts.", trailer=usage)
    yield make("status", same, "Another status than the trailer.", put("status", 500))
    yield make("finish", same, "Another finish than the trailer.", put("finish", "length"))
    yield make("kid", "receipt-kid", "A key outside the keyset.", put("kid", GAMMA.document["sign"][0]["kid"]))
    yield make("kid-link", "receipt-kid", "A link key signs no receipts.", put("kid", link), signer=link_key)
    yield make("signer", "receipt-signature", "Signed by the other candidate.", signer=BETA.signer)
    yield make("signature", "receipt-signature", "A bit of the signature.", sig=lambda s: s[:-1] + bytes([s[-1] ^ 1]))
    yield make("label", "receipt-signature", "Signed as a usage record.", over="usage")
    yield make("signature-63", "wrong-length", "63 bytes.", sig=lambda s: s[:-1], clause="05 §3.1")
    yield make("unknown-member", "unknown-member", "A member nobody knows.", put("note", ""), clause="05 §1.2")
    yield make("version", "unknown-value", "Another version.", put("v", "sealed/2"), clause="05 §1.2")
    yield make("commit-short", "wrong-length", "31 bytes.", put("request_commit", b64u(bytes(31))), clause="05 §1.2")
    yield make(
        "count-huge",
        "out-of-range",
        "Above 2^40.",
        put("usage", {"input_tokens": 2**41, "output_tokens": 0, "cached_tokens": 0}),
        clause="05 §1.2",
    )
    yield make("trailer-unknown", "unknown-member", "In the trailer.", trailer=put("note", ""), clause="05 §3.1")
    yield make(
        "trailer-receipt", "not-json", "The receipt is no JSON.", trailer=put("receipt", "AAAA"), clause="05 §3.1"
    )
    # an answer of which the path cannot say less: the body is bound
    answer = Answer(sent)
    head = answer.head()
    lied = answer.body(FIRST)
    answer.text = SECOND
    yield _vector(
        "receipt-other-body",
        sent,
        answer.prefix + head + lied + answer.trailer(),
        "reject/receipt-response",
        "The receipt speaks of another body.",
        "05 §4.1",
    )
    poser = Answer(sent, index=1)
    node: Node = ALPHA
    pieces = [
        poser.head(),
        poser.body(FIRST),
        poser.trailer(
            lambda r: r.update(kid=node.document["sign"][0]["kid"], keyset_sha256=sha(node.keyset).hex()),
            signer=node.signer,
        ),
    ]
    yield _vector(
        "receipt-of-other-candidate",
        sent,
        poser.prefix + b"".join(pieces),
        "reject/receipt-kid",
        "Candidate 1 answers with a receipt of candidate 0.",
        "05 §4.1",
    )


def responses() -> Iterator[Vector]:
    """Every vector of this file."""
    sent = send(name="base")
    for maker in (_accepted, _prefix, _records, _armored, _receipts):
        yield from maker(sent)


__all__ = ["responses"]
