# SPDX-License-Identifier: Apache-2.0
"""Vectors of the documents: canonical JSON, keysets, frames, Binary HTTP, armour, derivations."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator
from typing import Any

import kit
from kit import ALPHA, BETA, DELTA, GAMMA, TALL, Vector, b64u, canonical, label, seed, send, sha

Change = Callable[[dict[str, Any]], Any]


def _canonical() -> Iterator[Vector]:
    def make(name: str, data: str | bytes, expect: str, description: str, clause: str = "01 §2.2") -> Vector:
        given = {"data": {"text": data} if isinstance(data, str) else b64u(data)}
        return Vector(f"canonical-{name}", "canonical", clause, description, given, expect)

    def deep(levels: int) -> str:
        return '{"a":' * levels + "0" + "}" * levels

    yield make("empty-object", "{}", "accept", "The smallest document.")
    yield make(
        "all-types",
        '{"a":[0,1,true,false,"",{}],"b":{"c":"x"},"d":[]}',
        "accept",
        "Objects, arrays, strings, integers and booleans.",
    )
    yield make("order", '{"A":1,"B":2,"_":3,"a":4,"aa":5,"b":6}', "accept", "Members sorted by code unit.")
    yield make("escapes", '{"a":"\\"\\\\/"}', "accept", "Only quote and backslash are escaped; the solidus is not.")
    yield make("empty-name", '{"":0}', "accept", "A member may have the empty name.")
    yield make("integer-largest", '{"a":9007199254740991}', "accept", "2^53 − 1.")
    yield make("depth-8", deep(8), "accept", "Eight levels.")

    same = "01 §2.4"
    yield make("space", '{"a": 1}', "reject/not-canonical", "A space after the colon.", same)
    yield make("newline-after", '{"a":1}\n', "reject/not-canonical", "A line end after the document.", same)
    yield make("space-before", ' {"a":1}', "reject/not-canonical", "A space before the document.", same)
    yield make("unsorted", '{"b":1,"a":2}', "reject/not-canonical", "Members out of order.", same)
    yield make("escape-letter", '{"a":"\\u0041"}', "reject/not-canonical", "A letter written as an escape.", same)
    yield make("escape-letter-in-name", '{"\\u0061":1}', "reject/not-canonical", "A name written as an escape.", same)
    yield make("escape-solidus", '{"a":"\\/"}', "reject/not-canonical", "An escaped solidus.", same)
    yield make("escape-quote-long", '{"a":"\\u0022"}', "reject/not-canonical", "A quote in the long escape.", same)
    yield make("minus-zero", '{"a":-0}', "reject/not-canonical", "A second spelling of 0.", same)

    yield make(
        "repeated-member", '{"a":1,"a":1}', "reject/repeated-member", "A member twice with one value.", "01 §2.3"
    )
    yield make("repeated-member-differs", '{"a":1,"a":2}', "reject/repeated-member", "A member twice.", "01 §2.3")
    yield make(
        "repeated-by-escape",
        '{"a":1,"\\u0061":2}',
        "reject/repeated-member",
        "A member twice, once escaped.",
        "01 §2.3",
    )

    number, why = "reject/number-not-integer", "integers are written in digits only."
    yield make("exponent", '{"a":1e3}', number, f"An exponent; {why}")
    yield make("fraction-zero", '{"a":1.0}', number, f"A fraction of zero; {why}")
    yield make("nan", '{"a":NaN}', number, "Not a number, which some parsers take.")
    yield make("infinity", '{"a":-Infinity}', number, "An infinity, which some parsers take.")
    yield make("negative", '{"a":-1}', "reject/integer-out-of-range", "Below 0.")
    yield make("integer-2-53", '{"a":9007199254740992}', "reject/integer-out-of-range", "2^53.")
    yield make("integer-long", '{"a":' + "9" * 400 + "}", "reject/integer-out-of-range", "400 digits.")
    yield make("leading-zero", '{"a":01}', "reject/not-json", "A leading zero.")
    yield make("plus", '{"a":+1}', "reject/not-json", "A plus sign.")

    ascii_only = "reject/string-not-printable-ascii"
    yield make("lone-surrogate", '{"a":"\\ud800"}', ascii_only, "Half of a surrogate pair.")
    yield make("surrogate-pair", '{"a":"\\ud83d\\ude00"}', ascii_only, "A character beyond ASCII by escapes.")
    yield make("del", '{"a":"\x7f"}', ascii_only, "DEL is ASCII, and not printable.")
    yield make("escape-newline", '{"a":"\\n"}', ascii_only, "A line end by escape.")
    yield make("escape-nul", '{"a":"\\u0000"}', ascii_only, "NUL by escape.")
    yield make("name-not-ascii", '{"\\u00e9":1}', ascii_only, "A name beyond ASCII.")
    yield make("utf-8", '{"a":"é"}', "reject/not-json", "Bytes above 7F.")
    yield make("raw-control", '{"a":"\t"}', "reject/not-json", "A raw control character.")
    yield make("byte-order-mark", '\ufeff{"a":1}', "reject/not-json", "A mark before the document.")
    yield make("utf-16", '{"a":1}'.encode("utf-16-le"), "reject/not-json", "Another encoding.")
    yield make("invalid-utf-8", b'{"a":"\xff"}', "reject/not-json", "No encoding at all.")
    yield make("nul-after", b'{"a":1}\0', "reject/not-json", "A NUL after the document.")
    yield make("null", '{"a":null}', "reject/type-not-allowed", "null; absent things are empty.")
    yield make("null-inside", '{"a":[null]}', "reject/type-not-allowed", "null inside an array.")
    yield make("depth-9", deep(9), "reject/too-deep", "Nine levels.")
    yield make("depth-9-array", '{"a":' + "[" * 8 + "]" * 8 + "}", "reject/too-deep", "Nine levels with arrays.")
    yield make("array", "[]", "reject/not-an-object", "An array on top.")
    yield make("string", '"a"', "reject/not-an-object", "A string on top.")
    yield make("empty", "", "reject/not-json", "No bytes.")
    yield make("cut", '{"a":1', "reject/not-json", "Cut.")
    yield make("two-documents", "{}{}", "reject/not-json", "Two documents.")
    yield make("trailing-comma", '{"a":1,}', "reject/not-json", "A comma too many.")
    yield make("comment", '{"a":1}//', "reject/not-json", "A comment.")
    yield make("single-quotes", "{'a':1}", "reject/not-json", "Single quotes.")
    yield make(
        "too-large", '{"a":"' + "x" * 262_144 + '"}', "reject/document-too-large", "More than 256 KiB.", "01 §3.1"
    )


def _keyset() -> Iterator[Vector]:
    def make(
        name: str, change: Change | bytes, expect: str, description: str, clause: str = "01 §3.2", node: Any = ALPHA
    ) -> Vector:
        document = copy.deepcopy(node.document)
        if isinstance(change, bytes):
            raw = change
        else:
            change(document)
            raw = canonical(document)
        known = {"keyset_sha256": sha(raw).hex()} if expect == "accept" else None
        return Vector(f"keyset-{name}", "keyset", clause, description, {"data": b64u(raw)}, expect, known)

    def put(name: str, value: Any) -> Change:
        return lambda d: d.update({name: value})

    def put_key(name: str, value: Any, listed: str = "hpke") -> Change:
        return lambda d: d[listed][0].update({name: value})

    def nothing(_d: dict[str, Any]) -> None:
        return

    group = seed("group", 16).hex()
    members = [{"node": f"m{i}", "keyset_sha256": seed(f"m{i}").hex()} for i in range(257)]
    pool = {
        "tks_keyset_sha256": seed("tks").hex(),
        "release_policy_sha256": seed("policy").hex(),
        "ring": "r",
        "key": "k",
        "version": "1",
    }
    yield make("node", nothing, "accept", "A node's keyset.")
    yield make("high-suite", nothing, "accept", "A key of the high suite.", node=TALL)
    yield make(
        "two-keys",
        lambda d: d["hpke"].append(kit.hpke_item(kit.LOW, BETA.key.pk)),
        "accept",
        "During rotation: the new key and the old one.",
    )
    yield make("group", lambda d: d.update(role="group", group=group, members=members[:2]), "accept", "A group.")
    yield make("member", lambda d: d.update(role="member", group=group), "accept", "A member of a group.")
    yield make("pool", lambda d: d.update(role="pool", node="", pool=pool), "accept", "A pool keyset.", "01 §5.3")
    yield make("key-service", lambda d: d.update(role="key-service", endpoint="", hpke=[]), "accept", "A key service.")

    yield make("version", put("v", "sealed/2"), "reject/unknown-value", "Another version.")
    yield make("role-unknown", put("role", "gateway"), "reject/unknown-value", "A role outside the list.")
    yield make("unknown-member", put("note", "hello"), "reject/unknown-member", "A member nobody knows.")
    yield make("unknown-member-key", put_key("use", "enc"), "reject/unknown-member", "The same inside a key.")
    yield make("unknown-member-model", lambda d: d["model"].update(x=1), "reject/unknown-member", "Inside model.")
    yield make("missing-member", lambda d: d.pop("link"), "reject/missing-member", "No `link`, not even empty.")
    yield make("pool-in-node", put("pool", pool), "reject/unknown-member", "`pool` in a node's keyset.", "01 §5.3")
    yield make("pool-missing", lambda d: d.update(role="pool", node=""), "reject/missing-member", "No pool.", "01 §5.3")
    yield make("endpoint-empty", put("endpoint", ""), "reject/wrong-form", "Only a key service has no endpoint.")
    yield make("endpoint-form", put("endpoint", "ep_demo"), "reject/wrong-form", "A character not allowed.")
    yield make("boolean-as-integer", put("not_before", True), "reject/wrong-type", "A boolean is no integer.")
    yield make("string-as-integer", put("not_after", "1"), "reject/wrong-type", "A string is no integer.")
    yield make("hpke-object", put("hpke", {}), "reject/wrong-type", "An object where a list stands.")
    yield make("key-not-object", put("hpke", ["x"]), "reject/wrong-type", "A string where a key stands.")
    yield make("hex-upper-case", put_key("kid", ALPHA.kid.upper()), "reject/wrong-form", "A kid in capitals.")
    yield make("digest-short", lambda d: d["software"].update(image_sha256="00"), "reject/wrong-form", "Not 32 bytes.")
    yield make("group-form", lambda d: d.update(role="member", group="g"), "reject/wrong-form", "Not 16 bytes.")
    yield make("doors-repeated", lambda d: d["capabilities"].update(doors=["a", "a"]), "reject/wrong-form", "Twice.")
    yield make("kid-wrong", put_key("kid", BETA.kid), "reject/wrong-kid", "The kid of another key.", "01 §4.2")
    yield make("pk-other", put_key("pk", b64u(BETA.key.pk)), "reject/wrong-kid", "Another key.", "01 §4.2")
    yield make("suite-other-length", put_key("suite", kit.HIGH), "reject/wrong-length", "Suite and key differ.")
    yield make("suite-unknown", put_key("suite", "x25519"), "reject/unknown-value", "A suite nobody knows.")
    yield make("alg-unknown", put_key("alg", "rsa", "sign"), "reject/unknown-value", "Only Ed25519 signs.")
    yield make(
        "sign-kid-wrong", put_key("kid", ALPHA.kid, "sign"), "reject/wrong-kid", "The kid of another.", "01 §4.2"
    )
    yield make("pk-padded", put_key("pk", b64u(bytes(1216)) + "=="), "reject/not-base64url", "Padding.", "01 §2.6")
    yield make(
        "pk-spare-bits",
        put_key("pk", ALPHA.document["sign"][0]["pk"][:-1] + "B", "sign"),
        "reject/not-base64url",
        "Spare bits set: a second text for the same bytes.",
        "01 §2.6",
    )
    yield make("kid-repeated", lambda d: d["hpke"].append(d["hpke"][0]), "reject/repeated-kid", "Twice.", "01 §4.3")
    yield make(
        "kid-repeated-link", lambda d: d.update(link=d["sign"]), "reject/repeated-kid", "In sign and link.", "01 §4.3"
    )
    yield make("key-validity", put_key("not_after", kit.NOW - 600), "reject/empty-validity", "Ends as it begins.")
    yield make("validity", put("not_after", kit.NOW - 601), "reject/empty-validity", "Ends before it begins.")
    yield make("members-in-node", put("members", members[:1]), "reject/role-mismatch", "A node has none.", "01 §5.2")
    yield make("group-in-node", put("group", group), "reject/role-mismatch", "A node is in no group.", "01 §5.2")
    yield make("node-empty", put("node", ""), "reject/role-mismatch", "A node has a name.", "01 §5.2")
    yield make(
        "pool-with-node", lambda d: d.update(role="pool", pool=pool), "reject/role-mismatch", "With name.", "01 §5.2"
    )
    yield make(
        "members-repeated",
        lambda d: d.update(role="group", group=group, members=members[:1] * 2),
        "reject/role-mismatch",
        "One member twice.",
        "01 §5.2",
    )
    yield make(
        "members-257",
        lambda d: d.update(role="group", group=group, members=members),
        "reject/out-of-range",
        "More than 256 members.",
    )
    yield make("not-canonical", ALPHA.keyset + b" ", "reject/not-canonical", "A space after it.", "01 §2.4")


def _frame() -> Iterator[Vector]:
    one = send(name="frame", nodes=(ALPHA,))
    four = send(name="frame four", nodes=(ALPHA, BETA, GAMMA, DELTA))

    def make(name: str, data: bytes, expect: str, description: str, clause: str = "02 §3.1") -> Vector:
        return Vector(f"frame-{name}", "frame", clause, description, {"frame": b64u(data)}, expect)

    def header(name: str, field: str, value: Any, code: str, description: str) -> Vector:
        return make(name, one.changed(field, value), f"reject/{code}", description, "02 §3.3")

    def candidate(name: str, field: str, value: Any, code: str, description: str) -> Vector:
        return make(name, one.changed_candidate(0, field, value), f"reject/{code}", description, "02 §3.3")

    yield make("one-candidate", one.frame, "accept", "The smallest request.")
    yield make("four-candidates", four.frame, "accept", "The largest number of candidates.")
    yield make("no-account", one.changed("account", ""), "accept", "An empty account.", "02 §3.3")
    yield make("empty", b"", "reject/frame-magic", "No bytes.")
    yield make("short", one.frame[:8], "reject/frame-magic", "Less than the first nine bytes.")
    rest = one.frame[9:]
    size = len(one.header_bytes)
    yield make("magic", b"TEEG\x01" + one.frame[5:], "reject/frame-magic", "Another magic.")
    yield make("version-2", b"TEEH\x02" + one.frame[5:], "reject/frame-magic", "Another version.")
    yield make("json", one.header_bytes, "reject/frame-magic", "The bare header.")
    too_long = b"TEEH\x01" + struct.pack(">I", 16385) + rest
    yield make("header-16385", too_long, "reject/frame-header-length", "Header longer than 16 KiB.")
    yield make("header-4-gib", b"TEEH\x01\xff\xff\xff\xff" + rest, "reject/frame-header-length", "Nearly 4 GiB.")
    yield make("header-1", b"TEEH\x01\0\0\0\1" + rest, "reject/frame-header-length", "Shorter than `{}`.")
    shorter = b"TEEH\x01" + struct.pack(">I", size - 1) + rest
    yield make("header-length-short", shorter, "reject/not-json", "Header length one less.")
    longer = b"TEEH\x01" + struct.pack(">I", size + 1) + rest
    yield make("header-length-long", longer, "reject/not-json", "Header length one more.")
    yield make("header-cut", one.frame[: 9 + size - 1], "reject/frame-length", "Ends inside the header.")
    yield make("envelope-cut", one.frame[: 9 + size + 100], "reject/frame-length", "Ends inside an envelope.")
    yield make("body-cut", one.frame[:-1], "reject/frame-length", "One byte less than announced.")
    yield make("trailing-byte", one.frame + b"\0", "reject/frame-length", "One byte more than announced.")
    yield make(
        "envelope-missing", kit.frame(four.header_bytes, *four.envelopes[:3], four.body), "reject/frame-length", ""
    )
    yield make("body-empty", one.frame[: -len(one.body)], "reject/frame-length", "No body.")
    five = one.header["candidates"] * 5
    yield make(
        "five-candidates",
        kit.frame(canonical(one.header | {"candidates": five}), *one.envelopes * 5, one.body),
        "reject/out-of-range",
        "More than four candidates.",
        "02 §3.3",
    )
    yield make(
        "no-candidate",
        kit.frame(canonical(one.header | {"candidates": []}), one.body),
        "reject/out-of-range",
        "No candidate.",
        "02 §3.3",
    )
    yield header("version-member", "v", "sealed/0", "unknown-value", "Another protocol version.")
    yield header("suite-unknown", "suite", "x25519-aes128gcm", "unknown-value", "A suite outside the table.")
    yield header("suite-other", "suite", kit.HIGH, "frame-length", "Envelopes have another size there.")
    yield header("endpoint-form", "endpoint", "ep.demo", "wrong-form", "A character not allowed.")
    yield header("endpoint-long", "endpoint", "e" * 65, "wrong-form", "65 characters.")
    yield header("op-unknown", "op", "files.delete", "unknown-value", "An operation outside the table.")
    yield header("op-path", "op", "/v1/chat/completions", "unknown-value", "A path is no operation.")
    yield header("model", "model", "demo-135m", "unknown-member", "The header names no model; who adds one is refused.")
    yield header("stream-string", "stream", "true", "wrong-type", "A string is no boolean.")
    yield header("stream-integer", "stream", 1, "wrong-type", "An integer is no boolean.")
    yield header("bucket-3", "max_tokens_bucket", 3, "out-of-range", "Not a power of two.")
    yield header("bucket-large", "max_tokens_bucket", 1 << 21, "out-of-range", "Above 2^20.")
    yield header("bucket-boolean", "max_tokens_bucket", True, "wrong-type", "A boolean is no integer, even if 1.")
    yield header("request-id-15", "request_id", b64u(bytes(15)), "wrong-length", "15 bytes.")
    yield header("request-id-padded", "request_id", b64u(bytes(16)) + "==", "not-base64url", "With padding.")
    yield header("attempt-2", "attempt", 2, "out-of-range", "A third attempt.")
    yield header("attempt-boolean", "attempt", False, "wrong-type", "A boolean is no integer, even if 0.")
    yield header("account-form", "account", "acme", "wrong-form", "Not 16 hex digits.")
    yield header("body-len-21", "body_len", 21, "out-of-range", "Less than one record of one byte.")
    yield header("body-len-large", "body_len", 67108865, "out-of-range", "More than 64 MiB.")
    yield header("body-len-other", "body_len", len(one.body) + 1, "frame-length", "Not what follows.")
    yield header("body-sha256-upper", "body_sha256", "A" * 64, "wrong-form", "Hex in capitals.")
    yield header("cek-commit-31", "cek_commit", b64u(bytes(31)), "wrong-length", "31 bytes.")
    yield header("header-large", "account", "0" * 17000, "frame-header-length", "A header above 16 KiB.")
    yield candidate("kid-form", "kid", "alpha", "wrong-form", "Not 16 bytes in hex.")
    yield candidate("commit-33", "commit", b64u(bytes(33)), "wrong-length", "33 bytes.")
    yield candidate("candidate-url", "url", "http://node", "unknown-member", "A candidate names no place.")
    for name, spell in {
        "space": lambda raw: raw.replace(b":", b": ", 1),
        "escape": lambda raw: raw.replace(b"ep-demo", b"ep\\u002ddemo"),
        "newline": lambda raw: raw + b"\n",
    }.items():
        spelled = send(name="frame", nodes=(ALPHA,), spell=spell)
        yield make(f"header-{name}", spelled.frame, "reject/not-canonical", "Sealed so by the client.", "01 §2.4")
    repeated = send(
        name="frame", nodes=(ALPHA,), spell=lambda raw: raw.replace(b'{"account"', b'{"account":"","account"')
    )
    yield make("header-repeated-member", repeated.frame, "reject/repeated-member", "Sealed so.", "01 §2.3")


def _bhttp() -> Iterator[Vector]:
    good = kit.binary_http(b"{}")

    def make(name: str, data: bytes, expect: str, description: str, clause: str = "02 §5.1") -> Vector:
        return Vector(f"bhttp-{name}", "bhttp", clause, description, {"data": b64u(data)}, expect)

    def raw(inner: bytes) -> bytes:
        return kit.padded(inner)

    yield make("chat", raw(kit.binary_http()), "accept", "A chat request.")
    yield make("no-headers", raw(kit.binary_http(b"", headers=())), "accept", "Nothing that may be left out.")
    exact = kit.binary_http(b"x" * (1024 - len(kit.binary_http(b"")) - 1))
    yield make("exact-1024", raw(exact), "accept", "A message that needs no padding.", "02 §5.3")
    yield make("exact-1025", raw(exact[:-1] + b"\0"), "accept", "Trailers length is the last byte.", "02 §5.3")
    wide = kit.binary_http(b"x" * 1500)
    yield make("bucket-2048", raw(wide), "accept", "The next step of the ladder.", "02 §5.3")
    yield make("bucket-9216", raw(kit.binary_http(b"x" * 8192)), "accept", "Steps of 1024 up to 8192, then.", "02 §5.3")
    yield make("bucket-18432", raw(kit.binary_http(b"x" * 16384)), "accept", "Steps of 2048 above 8192.", "02 §5.3")

    pad = "reject/inner-padding"
    yield make("unpadded", good, pad, "No padding.", "02 §5.3")
    yield make("padding-short", raw(good)[:-1], pad, "One byte less.", "02 §5.3")
    yield make("padding-long", raw(good) + b"\0", pad, "One byte more.", "02 §5.3")
    yield make("padding-next-bucket", raw(good) + bytes(1024), pad, "The next bucket.", "02 §5.3")
    yield make("padding-not-zero", raw(good)[:-1] + b"\1", pad, "The last byte is not zero.", "02 §5.3")
    yield make("empty", b"", "reject/inner-cut", "No bytes.")
    yield make("framing-response", raw(b"\1" + good[1:]), "reject/inner-framing", "A response.")
    yield make("framing-indeterminate", raw(b"\2" + good[1:]), "reject/inner-framing", "Indeterminate length.")
    yield make("varint-long", raw(b"\0\x40\4" + good[2:]), "reject/inner-varint", "4 in two bytes.")
    yield make("varint-eight", raw(b"\0\xc0" + bytes(6) + b"\4" + good[2:]), "reject/inner-varint", "4 in eight.")
    yield make("length-huge", raw(b"\0" + b"\xff" * 8), "reject/inner-field", "A method of 2^62 − 1 bytes.")
    yield make("field-4097", raw(kit.binary_http(path="/" * 4097)), "reject/inner-field", "A path of 4097 bytes.")
    beyond = good[: good.index(b"{}") - 1] + b"\xbf\xff\xff\xff"
    yield make("content-huge", raw(beyond), "reject/inner-cut", "Content longer than the message.")
    yield make("cut", good[:20], "reject/inner-cut", "Ends inside a header.")
    yield make("trailers", raw(good[:-1] + b"\4\1a\1b"), "reject/inner-trailers", "A trailer section.")
    yield make("header-17", raw(kit.binary_http(headers=[(f"h{i}", "") for i in range(17)])), "reject/inner-header", "")
    yield make("header-control", raw(kit.binary_http(headers=[("accept", "a\r\nb")])), "reject/inner-field", "CR LF.")
    yield make("header-latin", raw(kit.binary_http(headers=[("accept", "é")])), "reject/inner-field", "Not ASCII.")


def _armor() -> Iterator[Vector]:
    pieces = [bytes(34), b"one", b"\0" * 40]
    plain = kit.armor(*pieces)
    known = {"pieces": [b64u(piece) for piece in pieces]}
    clause = "02 §8.2"

    def make(name: str, data: bytes, expect: str, description: str, output: dict[str, Any] | None = None) -> Vector:
        return Vector(f"armor-{name}", "armor", clause, description, {"data": {"text": data.decode()}}, expect, output)

    yield make("plain", plain, "accept", "Three events.", known)
    yield make("crlf", plain.replace(b"\n", b"\r\n"), "accept", "Lines that end in CR LF.", known)
    yield make("no-space", plain.replace(b"data: ", b"data:"), "accept", "No space after the colon.", known)
    yield make("comments", b": ping\n\n" + plain.replace(b"data", b":x\ndata"), "accept", "Comments anywhere.", known)
    yield make("blank-lines", b"\n\n" + plain.replace(b"\n\n", b"\n\n\n\n"), "accept", "More blank lines.", known)
    yield make(
        "unfinished",
        plain[:-1],
        "accept",
        "An event without its blank line is not given.",
        {"pieces": known["pieces"][:2]},
    )
    yield make(
        "empty-data", b"data:\n\n", "accept", "An empty piece; §8.2 refuses it one step later.", {"pieces": [""]}
    )
    yield make("comment-cr", b": a\rdata: b\n" + plain, "accept", "A lone CR ends no line: still a comment.", known)
    field = "reject/armor-field"
    yield make("event", b"event: message\n" + plain, field, "An event field.")
    yield make("id", plain + b"id: 1\n", field, "An id field.")
    yield make("retry", b"retry: 1\n" + plain, field, "A retry field.")
    yield make("name-only", b"data\n\n", field, "A field name without a colon.")
    yield make("name-case", plain.replace(b"data", b"Data"), field, "Field names have a case.")
    yield make("space-before", b" data: AAAA\n\n", field, "A space before the name.")
    yield make("byte-order-mark", "\ufeffdata: AAAA\n\n".encode(), field, "A mark before the stream.")
    yield make("done", plain + b"[DONE]\n\n", field, "There is no [DONE] on this wire.")
    yield make("two-lines", b"data: AAAA\ndata: AAAA\n\n", "reject/armor-two-lines", "Two data lines in one event.")
    yield make("cr-only", b"data: AAAA\r\rdata: AAAA\r\r\n", "reject/not-base64url", "A lone CR ends no line.")
    yield make("padding", b"data: AA==\n\n", "reject/not-base64url", "Padding.")
    yield make("spare-bits", b"data: AB\n\n", "reject/not-base64url", "Spare bits set.")
    yield make("standard-alphabet", b"data: ++//\n\n", "reject/not-base64url", "The other alphabet.")
    yield make("two-spaces", b"data:  AAAA\n\n", "reject/not-base64url", "Only one space is skipped.")
    yield make("space-after", b"data: AAAA \n\n", "reject/not-base64url", "A space after the data.")
    yield make("done-data", b"data: [DONE]\n\n", "reject/not-base64url", "There is no [DONE] on this wire.")
    yield make("not-ascii", "data: é\n\n".encode(), "reject/armor-not-ascii", "Beyond ASCII.")
    yield make("comment-flood", b":" + b"x" * 100_000, "reject/armor-line-length", "A line that never ends.")
    yield make("comment-long", b":" + b"x" * 100_000 + b"\n", "reject/armor-line-length", "A line too long, ended.")


def _derive() -> Iterator[Vector]:
    for n, (kind, devices) in enumerate([(1, []), (2, [(1, b"gpu report", b"gpu chain"), (2, b"switch", b"chain")])]):
        cek, r, s, nonce, digest = (seed(f"{name} {n}") for name in ("cek", "r", "s", "nonce", "digest"))
        secret, value, header, pk = seed("cache"), seed(f"challenge {n}"), send(name="frame").header_bytes, ALPHA.key.pk
        keys = kit.kdf(cek, b"", "request", 76)
        th = sha(label("header"), header)
        context = th + bytes([n]) + nonce
        response = kit.kdf(r, context, "response", 44)
        asked = sha(label("challenge"), bytes([kind]), value)
        listed = b"".join(bytes([t]) + sha(report) + sha(chain) for t, report, chain in devices)
        digest_of_devices = sha(label("devices"), struct.pack(">H", len(devices)), listed)
        bound = kit.hashlib.sha512(label("report-data") + digest + digest_of_devices + asked).digest()
        out = {
            "k_req": keys[:32],
            "n_req": keys[32:44],
            "cek_commit": keys[44:],
            "scope": kit.kdf(secret, digest, "cache scope", 32),
            "commit": kit.kdf(r + s, b"", "candidate", 32),
            "th": th,
            "envelope_info": label("request") + th + bytes([n]),
            "k_res": response[:32],
            "n_res": response[32:],
            "receipt_salt": kit.kdf(r, context, "receipt salt", 32),
            "challenge": asked,
            "devices_digest": digest_of_devices,
            "device_nonce": sha(label("device"), digest, asked),
            "report_data": bound,
        }
        given: dict[str, Any] = {
            "cek": cek,
            "r": r,
            "s": s,
            "response_nonce": nonce,
            "header": header,
            "keyset_digest": digest,
            "cache_secret": secret,
            "challenge_value": value,
            "pk": pk,
        }
        given = {name: b64u(item) for name, item in given.items()} | {
            "index": n,
            "challenge_kind": kind,
            "alg": kit.LOW,
            "devices": [{"type": t, "report": b64u(report), "chain": b64u(chain)} for t, report, chain in devices],
        }
        output = {name: b64u(item) for name, item in out.items()} | {"kid": ALPHA.kid}
        what = "Every derivation, " + ("without devices." if not devices else "with two devices.")
        yield Vector(f"derive-{n}", "derive", "02 §4", what, given, "accept", output)


def documents() -> Iterator[Vector]:
    """Every vector of this file."""
    for maker in (_canonical, _keyset, _frame, _bhttp, _armor, _derive):
        yield from maker()


__all__ = ["documents"]
