# SPDX-License-Identifier: Apache-2.0
"""The lies, by name: what is done, and the codes with which an honest client may refuse it."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forgeries import DAYS_60, DEBUG, forge
from support_lying import Answer, Context, Lie, join_frame, split_answer, split_frame

from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.keyset import key_id

CLEAR = b'{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"LIE"}}]}'
CLEAR_SSE = b'data: {"choices":[{"index":0,"delta":{"content":"LIE"}}]}\n\ndata: [DONE]\n\n'


@dataclass(frozen=True)
class Case:
    """One lie and the refusals that answer it. `after`: honest calls to make first, by the same client."""

    lie: Lie
    codes: frozenset[str]
    after: int = 0


def case(lie: Lie, *codes: str, after: int = 0) -> Case:
    return Case(lie, frozenset(codes), after)


# -- evidence -------------------------------------------------------------------------------------------------------


def edit(change: Callable[[dict[str, Any]], None]) -> Lie:
    """Change every bundle's JSON."""

    def told(bundles: list[bytes], _challenge: str, _context: Context) -> list[bytes]:
        edited = []
        for one in bundles:
            document = json.loads(one)
            change(document)
            edited.append(json.dumps(document).encode())
        return edited

    return Lie(evidence=told)


def own_key(bundle: dict[str, Any]) -> None:
    key, listed = generate_key(), bundle["keyset"]["hpke"][0]
    listed["pk"], listed["kid"] = b64u(key.pk), key_id(key.suite, key.pk)


def own_key_old_kid(bundle: dict[str, Any]) -> None:
    bundle["keyset"]["hpke"][0]["pk"] = b64u(generate_key().pk)


def own_sign_key(bundle: dict[str, Any]) -> None:
    pk = secrets.token_bytes(32)
    bundle["keyset"]["sign"][0].update(pk=b64u(pk), kid=key_id("ed25519", pk))


def flip_report(bundle: dict[str, Any]) -> None:
    report = bytearray(base64.b64decode(bundle["platform"]["report"]))
    report[600] ^= 1
    bundle["platform"]["report"] = base64.b64encode(report).decode()


def relabel(bundle: dict[str, Any]) -> None:
    bundle["platform"]["type"] = "tdx"


def unknown_platform(bundle: dict[str, Any]) -> None:
    bundle["platform"]["type"] = "trust-me"


def claim_other_weights(bundle: dict[str, Any]) -> None:
    bundle["keyset"]["model"]["weights_sha256"] = "00" * 32


def drop_log_entry(bundle: dict[str, Any]) -> None:
    del bundle["workload_log"][1]


def reorder_log(bundle: dict[str, Any]) -> None:
    bundle["workload_log"].reverse()


def drop_collateral(bundle: dict[str, Any]) -> None:
    bundle["collateral"] = {}


def other_endpoint(bundle: dict[str, Any]) -> None:
    bundle["endpoint"] = bundle["keyset"]["endpoint"] = "ep-20200101000000-other"


def longer_life(bundle: dict[str, Any]) -> None:
    bundle["keyset"]["not_after"] += 10**6
    bundle["keyset"]["hpke"][0]["not_after"] += 10**6


async def yesterdays_evidence(_bundles: list[bytes], _challenge: str, context: Context) -> list[bytes]:
    endpoint = json.loads(_bundles[0])["endpoint"]
    return await context.evidence(f"/sealed/v1/{endpoint}/evidence", b64u(secrets.token_bytes(32)))


def swapped_keysets(bundles: list[bytes], _challenge: str, _context: Context) -> list[bytes]:
    one, other = json.loads(bundles[0]), json.loads(bundles[1])
    one["keyset"], other["keyset"] = other["keyset"], one["keyset"]
    one["node"], other["node"] = other["node"], one["node"]
    return [json.dumps(one).encode(), json.dumps(other).encode()]


def forged(**fault: Any) -> Lie:
    """Evidence over the gateway's own key by a forged machine; see `forgeries`."""
    return Lie(evidence=lambda bundles, nonce, _x: [forge(one, nonce, **fault) for one in bundles])


def said(answer: Answer) -> Lie:
    return Lie(evidence=lambda _b, _c, _x: answer)


REFUSED = ("evidence-refused",)
EVIDENCE: dict[str, Case] = {
    "evidence-with-the-gateways-key": case(edit(own_key), *REFUSED),
    "evidence-with-the-gateways-key-under-the-old-kid": case(edit(own_key_old_kid), "wrong-kid", *REFUSED),
    "evidence-with-another-receipt-key": case(edit(own_sign_key), *REFUSED),
    "evidence-with-a-flipped-bit": case(edit(flip_report), *REFUSED),
    "simulated-evidence-labelled-tdx": case(edit(relabel), *REFUSED),
    "unknown-platform": case(edit(unknown_platform), *REFUSED),
    "keyset-claims-other-weights": case(edit(claim_other_weights), *REFUSED),
    "keyset-lives-longer": case(edit(longer_life), *REFUSED),
    "workload-log-entry-stripped": case(edit(drop_log_entry), *REFUSED),
    "workload-log-reordered": case(edit(reorder_log), *REFUSED),
    "collateral-stripped": case(edit(drop_collateral), *REFUSED),
    "evidence-of-another-endpoint": case(edit(other_endpoint), *REFUSED),
    "forged-machine-in-debug-mode": case(forged(td_attributes=DEBUG), *REFUSED),
    "forged-machine-with-other-firmware": case(forged(mr_td=bytes(48)), *REFUSED),
    "forged-machine-with-stale-collateral": case(forged(age=DAYS_60), *REFUSED),
    "forged-quote-bound-to-another-keyset": case(forged(bound=False), *REFUSED),
    "replayed-evidence": case(Lie(evidence=yesterdays_evidence), *REFUSED),
    "keysets-of-two-nodes-swapped": case(Lie(evidence=swapped_keysets), *REFUSED),
    "evidence-says-trust-me": case(said(Answer(b'{"verified":true}', content_type="application/json")), "evidence-set"),
    "no-evidence-at-all": case(
        said(Answer(b'{"v":"evidence-set/1","endpoint":"x","bundles":[]}', content_type="application/json")),
        "evidence-set",
    ),
    "evidence-is-garbage": case(said(Answer(b"\xff\x00{" * 50, content_type="application/json")), "evidence-set"),
    "evidence-nested-very-deep": case(said(Answer(b"[" * 200_000, content_type="application/json")), "evidence-set"),
    "evidence-of-32-mib": case(
        said(Answer(b'{"v":"' + b"x" * (32 << 20), content_type="application/json")), "document-too-large"
    ),
    "evidence-redirects": case(said(Answer(b"", 302, headers=(("location", "http://127.0.0.1:9/"),))), "unavailable"),
}


# -- requests -------------------------------------------------------------------------------------------------------


def header(change: Callable[[dict[str, Any]], None]) -> Lie:
    """Change the header, keep envelopes and body."""

    def told(frame: bytes, _context: Context) -> bytes:
        document, envelopes, body = split_frame(frame)
        change(document)
        return join_frame(document, envelopes, body)

    return Lie(request=told)


def strip_envelope(frame: bytes, _context: Context) -> bytes:
    document, envelopes, body = split_frame(frame)
    return join_frame(document, envelopes[1232:], body)


def keep_one_candidate(frame: bytes, _context: Context) -> bytes:
    document, envelopes, body = split_frame(frame)
    document["candidates"] = document["candidates"][:1]
    return join_frame(document, envelopes[:1232], body)


def swap_envelopes(frame: bytes, _context: Context) -> bytes:
    document, envelopes, body = split_frame(frame)
    return join_frame(document, envelopes[1232:] + envelopes[:1232], body)


def swap_candidates(frame: bytes, _context: Context) -> bytes:
    document, envelopes, body = split_frame(frame)
    document["candidates"].reverse()
    return join_frame(document, envelopes[1232:] + envelopes[:1232], body)


def body_of_the_last_request(frame: bytes, context: Context) -> bytes:
    document, envelopes, _ = split_frame(frame)
    return join_frame(document, envelopes, split_frame(context.requests[-2])[2])


def last_request_again(_frame: bytes, context: Context) -> bytes:
    return context.requests[-2]


def truncate_body(frame: bytes, _context: Context) -> bytes:
    return frame[:-20]


def trailing_bytes(frame: bytes, _context: Context) -> bytes:
    return frame + b"\0" * 16


def flip_body(frame: bytes, _context: Context) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def flip_envelopes(frame: bytes, _context: Context) -> bytes:
    document, envelopes, body = split_frame(frame)
    spoiled = bytearray(envelopes)
    for at in range(100, len(spoiled), 1232):
        spoiled[at] ^= 1
    return join_frame(document, bytes(spoiled), body)


async def send_twice(frame: bytes, context: Context) -> bytes:
    endpoint = split_frame(frame)[0]["endpoint"]
    for _ in range(2):  # both candidates may open it once; afterwards everybody has seen it
        await context.forward(f"/sealed/v1/{endpoint}", frame)
    return frame


def to_high_suite(document: dict[str, Any]) -> None:
    document["suite"] = "mlkem1024p384-hkdfsha384-aes256gcm"


def to_classic_suite(document: dict[str, Any]) -> None:
    document["suite"] = "x25519-hkdfsha256-aes256gcm"


def to_own_commit(document: dict[str, Any]) -> None:
    for candidate in document["candidates"]:
        candidate["commit"] = b64u(secrets.token_bytes(32))


BAD = ("malformed",)
REQUEST: dict[str, Case] = {
    "request-envelope-stripped": case(Lie(request=strip_envelope), *BAD),
    "request-one-candidate-removed": case(Lie(request=keep_one_candidate), *BAD),
    "request-envelopes-swapped": case(Lie(request=swap_envelopes), *BAD),
    "request-candidates-swapped": case(Lie(request=swap_candidates), *BAD),
    "request-with-the-body-of-another": case(Lie(request=body_of_the_last_request), *BAD, after=1),
    "request-truncated": case(Lie(request=truncate_body), *BAD),
    "request-with-trailing-bytes": case(Lie(request=trailing_bytes), *BAD),
    "request-body-flipped": case(Lie(request=flip_body), *BAD),
    "request-envelopes-flipped": case(Lie(request=flip_envelopes), *BAD),
    "request-suite-raised": case(header(to_high_suite), *BAD),
    "request-suite-downgraded": case(header(to_classic_suite), *BAD),
    "request-commits-replaced": case(header(to_own_commit), *BAD),
    "request-stream-flag-flipped": case(header(lambda h: h.update(stream=not h["stream"])), *BAD),
    "request-token-limit-raised": case(header(lambda h: h.update(max_tokens_bucket=4096)), *BAD),
    "request-operation-changed": case(header(lambda h: h.update(op="embeddings")), *BAD),
    "request-made-younger": case(header(lambda h: h.update(sent_at=h["sent_at"] + 1)), *BAD),
    "request-account-changed": case(header(lambda h: h.update(account="f" * 16)), "account-mismatch"),
    "request-attempt-changed": case(header(lambda h: h.update(attempt=1)), *BAD),
    "request-replayed": case(Lie(request=send_twice), "replayed"),
    "request-of-another-user-instead": case(Lie(request=last_request_again), "replayed", "record-tag", after=1),
}


# -- answers --------------------------------------------------------------------------------------------------------


def records(change: Callable[[list[bytes]], list[bytes]], *, cut: bool = False) -> Lie:
    """Rearrange the records of the answer."""

    def told(sealed: bytes, _context: Context) -> Answer:
        prefix, pieces = split_answer(sealed)
        return Answer(prefix + b"".join(change(pieces)), cut=cut)

    return Lie(response=told)


def flip_at(position: Callable[[bytes], int]) -> Lie:
    def told(sealed: bytes, _context: Context) -> bytes:
        spoiled = bytearray(sealed)
        spoiled[position(sealed)] ^= 1
        return bytes(spoiled)

    return Lie(response=told)


def last_answer_again(_sealed: bytes, context: Context) -> bytes:
    return context.answers[-2]


def mixed_with_the_last(sealed: bytes, context: Context) -> bytes:
    prefix, pieces = split_answer(sealed)
    others = split_answer(context.answers[-2])[1]
    return prefix + pieces[0] + b"".join(others[1:-1]) + b"".join(pieces[1:])


def trailer_of_the_last(sealed: bytes, context: Context) -> bytes:
    prefix, pieces = split_answer(sealed)
    return prefix + b"".join(pieces[:-1]) + split_answer(context.answers[-2])[1][-1]


def other_candidate(sealed: bytes, _context: Context) -> bytes:
    return sealed[:1] + bytes([1 - sealed[1]]) + sealed[2:]


def reflected(_sealed: bytes, context: Context) -> bytes:
    body = split_frame(context.requests[-1])[2]
    return b"\x01\x00" + secrets.token_bytes(32) + body


def clear(body: bytes, content_type: str, status: int = 200) -> Lie:
    return Lie(response=lambda _s, _x: Answer(body, status, content_type))


TAG = ("record-tag",)
CUT = ("truncated-stream",)
RESPONSE: dict[str, Case] = {
    "answer-prefix-nonce-flipped": case(flip_at(lambda s: 10), *TAG),
    "answer-version-flipped": case(flip_at(lambda s: 0), "response-version"),
    "answer-first-record-flipped": case(flip_at(lambda s: 50), *TAG),
    "answer-last-byte-flipped": case(flip_at(lambda s: len(s) - 1), *TAG),
    "answer-final-flag-flipped-early": case(flip_at(lambda s: 34), *TAG),
    "answer-length-flipped": case(flip_at(lambda s: 37), *TAG),
    "answer-records-reordered": case(records(lambda r: [r[0], *reversed(r[1:])]), *TAG),
    "answer-record-repeated": case(records(lambda r: [r[0], r[1], r[1], *r[2:]]), *TAG),
    "answer-head-dropped": case(records(lambda r: r[1:]), *TAG),
    "answer-body-record-dropped": case(records(lambda r: [r[0], *r[2:]]), *TAG),
    "answer-trailer-dropped": case(records(lambda r: r[:-1]), *CUT),
    "answer-trailer-dropped-and-connection-cut": case(records(lambda r: r[:-1], cut=True), *CUT),
    "answer-cut-inside-a-record": case(Lie(response=lambda s, _: s[:-40]), *CUT),
    "answer-cut-after-the-prefix": case(Lie(response=lambda s, _: s[:34]), *CUT),
    "answer-cut-inside-the-prefix": case(Lie(response=lambda s, _: s[:20]), *CUT),
    "answer-empty": case(Lie(response=lambda _s, _: b""), *CUT),
    "answer-of-another-request": case(Lie(response=last_answer_again), *TAG, after=1),
    "answer-mixed-with-another-users": case(Lie(response=mixed_with_the_last), *TAG, after=1),
    "answer-with-the-trailer-of-another": case(Lie(response=trailer_of_the_last), *TAG, after=1),
    "answer-said-to-be-the-other-candidates": case(Lie(response=other_candidate), *TAG),
    "request-reflected-as-answer": case(Lie(response=reflected), *TAG),
    "clear-text-json": case(clear(CLEAR, "application/json"), "clear-answer"),
    "clear-text-events": case(clear(CLEAR_SSE, "text/event-stream"), "clear-answer"),
    "clear-text-under-the-sealed-type": case(
        clear(CLEAR, "application/vnd.teehouse.sealed-response"), "response-version"
    ),
    "clear-text-201": case(clear(CLEAR, "application/json", 201), "clear-answer"),
    "html-error-page": case(clear(b"<h1>LIE</h1>", "text/html", 500), "unavailable"),
    "problem-with-an-invented-code": case(
        clear(b'{"code":"please-send-it-in-clear"}', "application/problem+json", 400), "unavailable"
    ),
    "problem-with-a-code-of-another-status": case(
        clear(b'{"code":"expired"}', "application/problem+json", 503), "unavailable"
    ),
    "redirect": case(
        Lie(response=lambda _s, _x: Answer(b"", 307, "text/plain", headers=(("location", "http://127.0.0.1:9/v1"),))),
        "unavailable",
    ),
    "unknown-key-for-ever": case(clear(b'{"code":"unknown-key"}', "application/problem+json", 422), "stale-evidence"),
}

ALL: dict[str, Case] = {**EVIDENCE, **REQUEST, **RESPONSE}
