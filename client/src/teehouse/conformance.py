# SPDX-License-Identifier: Apache-2.0
"""`teehouse-conformance <stage> < in.json > out.json`: one conformance vector's input in, this code's verdict out.

Other implementations of sealed/1 offer the same command, so one runner compares them (spec/README.md). Byte strings
are base64url without padding, or `{"text": "…"}` for bytes that are UTF-8 text. Times are Unix seconds. The stages of
evidence are `conformance_evidence`'s, those of logs `conformance_log`'s.

Exit codes: 0 accept, 10 reject or malformed, 30 the input is not what the stage takes, 2 usage, 1 bug.
Nothing here guards a secret: seeds and keys in vectors are public.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from teehouse.conformance_evidence import EVIDENCE_STAGES
from teehouse.conformance_input import InputError, member, objects, take, take_all
from teehouse.conformance_keys import KEY_STAGES
from teehouse.conformance_log import LOG_STAGES
from teehouse.conformance_weights import WEIGHTS_STAGES
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.seal.bhttp import decode_request
from teehouse_core.seal.client import AnswerBody, AnswerEnd, AnswerHead, ResponseOpener, SealedRequest
from teehouse_core.seal.keyring import Keyring
from teehouse_core.seal.node import open_request
from teehouse_core.seal.pool import MemberProof
from teehouse_core.seal.replay import SeenSet
from teehouse_core.seal.schedule import ExchangeSecrets, body_keys, cache_scope, candidate_commit, envelope_info
from teehouse_core.seal.suite import SealingKey, key_from_seed
from teehouse_core.wire.armor import ArmorReader
from teehouse_core.wire.binding import challenge, device_nonce, devices_digest, report_data
from teehouse_core.wire.canonical import b64u, parse
from teehouse_core.wire.frame import RequestFrame
from teehouse_core.wire.header import RequestHeader, transcript
from teehouse_core.wire.keyset import Keyset, key_id
from teehouse_core.wire.pool import MemberCertificate, SignedPool
from teehouse_core.wire.suites import DEFAULT_SUITE, SUITES

__all__ = ["ACCEPT", "BUG", "MALFORMED_INPUT", "REJECT", "STAGES", "USAGE", "InputError", "decide", "main"]

ACCEPT, BUG, USAGE, REJECT, MALFORMED_INPUT = 0, 1, 2, 10, 30
CANONICAL_LIMIT = 256 * 1024  # bytes; what a keyset may have, the largest canonical document


def _canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"value": parse(take(given, "data"), limit=CANONICAL_LIMIT)}


def _keyset(given: Mapping[str, Any]) -> dict[str, Any]:
    keyset = Keyset.parse(take(given, "data"))
    return {
        "keyset_sha256": keyset.sha256,
        "role": keyset.role,
        "endpoint": keyset.endpoint,
        "kids": [*(key.kid for key in keyset.hpke), *(key.kid for key in keyset.sign + keyset.link)],
    }


def _signed_pool(given: Mapping[str, Any]) -> dict[str, Any]:
    keyset = Keyset.parse(SignedPool.parse(take(given, "data")).keyset)
    return {"keyset_sha256": keyset.sha256, "endpoint": keyset.endpoint}


def _pool_member(given: Mapping[str, Any]) -> dict[str, Any]:
    certificate = MemberCertificate.parse(take(given, "data"))
    return {"node": certificate.node, "pool_keyset_sha256": certificate.pool_keyset_sha256}


def _header_facts(header: RequestHeader) -> dict[str, Any]:
    return {
        "suite": header.suite,
        "endpoint": header.endpoint,
        "op": header.op,
        "stream": header.stream,
        "max_tokens_bucket": header.max_tokens_bucket,
        "request_id": header.request_id,
        "candidates": [candidate.kid for candidate in header.candidates],
    }


def _frame(given: Mapping[str, Any]) -> dict[str, Any]:
    frame = RequestFrame.parse(take(given, "frame"))
    return _header_facts(frame.header) | {
        "th": b64u(transcript(frame.header_bytes)),
        "envelopes": [hashlib.sha256(envelope).hexdigest() for envelope in frame.envelopes],
        "body_len": len(frame.body),
    }


def _test_key(given: Mapping[str, Any]) -> SealingKey:
    """A key from `seed`: 32 bytes of X-Wing (expanded by SHAKE256), or all its secret bytes for the other suite."""
    suite, seed = member(given, "suite", str), take(given, "seed")
    if suite not in SUITES or len(seed) != (32 if suite == DEFAULT_SUITE else 112):
        raise InputError("published: unknown suite, or a seed of the wrong length")
    return key_from_seed(hashlib.shake_256(seed).digest(96) if suite == DEFAULT_SUITE else seed, suite)


def _open_request(given: Mapping[str, Any]) -> dict[str, Any]:
    """A node that published `published` and was sent `earlier` (whatever came of it) is now sent `frame`."""
    endpoint, now = member(given, "endpoint", str), member(given, "now", int)
    seen = SeenSet(member(given, "capacity", int)) if "capacity" in given else SeenSet()
    ring = Keyring()
    for item in objects(given, "published"):
        try:
            keyset = Keyset.parse(take(item, "keyset"))
        except MalformedError as error:
            raise InputError(f"published: {error}") from None
        member_of_pool = member(item, "member", dict) if "member" in item else None
        proof = (
            MemberProof(take(member_of_pool, "certificate"), take(member_of_pool, "sig")) if member_of_pool else None
        )
        try:
            ring.publish(keyset, [_test_key(key) for key in objects(item, "keys")], proof)
        except LocalError as error:
            raise InputError(f"published: {error}") from None
    for item in objects(given, "earlier") if "earlier" in given else []:
        try:
            open_request(take(item, "frame"), endpoint=endpoint, keyring=ring, seen=seen, now=member(item, "now", int))
        except TeehouseError:
            continue
    opened = open_request(take(given, "frame"), endpoint=endpoint, keyring=ring, seen=seen, now=now)
    try:
        inner, options, facts = opened.read()
    except MalformedError as error:
        raise _Sealed(error.code) from error
    return {
        "index": opened.index,
        "th": b64u(opened.th),
        "keyset_sha256": opened.keyset.sha256,
        "r": b64u(opened.r),
        "s": b64u(opened.scope),
        "method": inner.method,
        "path": inner.path,
        "headers": [list(pair) for pair in inner.headers],
        "content_sha256": hashlib.sha256(inner.content).hexdigest(),
        "shape": options.shape,
        "flush_ms": options.flush_ms,
        "stream": facts.stream,
        "max_tokens_bucket": facts.max_tokens_bucket,
    }


class _Sealed(Exception):  # noqa: N818  not an error of this program
    """Refused at check (9) or (10): the node says so inside the seal, and no code leaves in clear."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _open_response(given: Mapping[str, Any]) -> dict[str, Any]:
    """A client that sent `header` with `secrets` (R_i) to the nodes of `keysets` is answered `response`.

    `services`, where given, has for each keyset that of the key service that signed it, empty for a node's own.
    """
    header_bytes = take(given, "header")
    try:
        header = RequestHeader.parse(header_bytes)
        keysets = tuple(Keyset.parse(raw) for raw in take_all(given, "keysets"))
        raw_services = take_all(given, "services") if "services" in given else [b""] * len(keysets)
        services = tuple(Keyset.parse(raw) if raw else None for raw in raw_services)
    except MalformedError as error:
        raise InputError(f"header or keysets: {error}") from None
    secrets = tuple(take_all(given, "secrets"))
    if not len(keysets) == len(secrets) == len(header.candidates) == len(services):
        raise InputError("keysets, secrets and candidates differ in number")
    request = SealedRequest(
        header=header,
        header_bytes=header_bytes,
        parts=(),
        th=transcript(header_bytes),
        keysets=keysets,
        secrets=secrets,
        padded_plain=take(given, "request_plain"),
        services=services,
    )
    opener = ResponseOpener(request, armored=member(given, "armored", bool))
    out: dict[str, Any] = {}
    body = b""
    for event in opener.feed(take(given, "response")):
        if isinstance(event, AnswerHead):
            out |= {
                "status": event.status,
                "headers": [list(pair) for pair in event.headers],
                "keyset_sha256": event.keyset_sha256,
            }
        elif isinstance(event, AnswerBody):
            body += event.data
        elif isinstance(event, AnswerEnd):
            out |= {"finish": event.finish, "usage": event.receipt.usage.to_json(), "kid": event.receipt.kid}
    opener.end()
    return out | {"body": b64u(body)}


def _bhttp(given: Mapping[str, Any]) -> dict[str, Any]:
    inner = decode_request(take(given, "data"))
    return {
        "method": inner.method,
        "scheme": inner.scheme,
        "authority": inner.authority,
        "path": inner.path,
        "headers": [list(pair) for pair in inner.headers],
        "content": b64u(inner.content),
    }


def _armor(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"pieces": [b64u(piece) for piece in ArmorReader().feed(take(given, "data"))]}


def _derive(given: Mapping[str, Any]) -> dict[str, Any]:
    """Known answers of every derivation; nothing is refused here."""
    cek, r, s, nonce = (take(given, name) for name in ("cek", "r", "s", "response_nonce"))
    index, header, digest = member(given, "index", int), take(given, "header"), take(given, "keyset_digest")
    th = transcript(header)
    keys, exchange = body_keys(cek), ExchangeSecrets(r, th, index, nonce)
    response_key, response_base = exchange.response_keys()
    asked = challenge(member(given, "challenge_kind", int), take(given, "challenge_value"))
    devices = devices_digest(
        [(member(d, "type", int), take(d, "report"), take(d, "chain")) for d in objects(given, "devices")]
    )
    out = {
        "k_req": keys.key,
        "n_req": keys.nonce,
        "cek_commit": keys.commit,
        "scope": cache_scope(take(given, "cache_secret"), digest),
        "commit": candidate_commit(r, s),
        "th": th,
        "envelope_info": envelope_info(th, index),
        "k_res": response_key,
        "n_res": response_base,
        "receipt_salt": exchange.receipt_salt(),
        "challenge": asked,
        "devices_digest": devices,
        "device_nonce": device_nonce(digest, asked),
        "report_data": report_data(digest, devices, asked),
    }
    kid = key_id(member(given, "alg", str), take(given, "pk"))
    return {name: b64u(value) for name, value in out.items()} | {"kid": kid}


STAGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "canonical": _canonical,
    "keyset": _keyset,
    "signed-pool": _signed_pool,
    "pool-member": _pool_member,
    "frame": _frame,
    "bhttp": _bhttp,
    "armor": _armor,
    "derive": _derive,
    "open-request": _open_request,
    "open-response": _open_response,
    **LOG_STAGES,
    **KEY_STAGES,
    **WEIGHTS_STAGES,
}


HELP = f"""
Decides one input of a conformance vector, so that another implementation can be compared with this one: a stage, its
JSON on standard input, the verdict as JSON on standard output. spec/README.md says what each stage takes.
Exit codes: {ACCEPT} accepted, {REJECT} rejected, {MALFORMED_INPUT} not the input of that stage, {USAGE} usage.
"""


def decide(stage: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict on one vector's input: `{"result":"accept","output"}`, or `{"result":"reject","code"[,"wire"]}`.

    `wire` is what a node would let out in clear (stage open-request only): a code of the closed list, or `sealed`.
    A stage of evidence gives more, as `conformance_evidence` says. Raises InputError when `given` is not what `stage`
    takes.
    """
    if stage in EVIDENCE_STAGES:
        return EVIDENCE_STAGES[stage](given)
    try:
        return {"result": "accept", "output": STAGES[stage](given)}
    except _Sealed as refused:
        return {"result": "reject", "code": refused.code, "wire": "sealed"}
    except TeehouseError as error:
        verdict = {"result": "reject", "code": error.code}
        if stage == "open-request":
            verdict["wire"] = str(getattr(error, "wire_code", "unavailable"))
        return verdict


def _read_input(data: bytes) -> dict[str, Any]:
    try:
        given: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise InputError("expected JSON") from None
    if type(given) is not dict:
        raise InputError("expected an object")
    return given


def main(argv: list[str] | None = None) -> int:
    """The command; gives its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    stages = (*STAGES, *EVIDENCE_STAGES)
    usage = f"usage: teehouse-conformance {{{','.join(stages)}}} < in.json > out.json\n"
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(f"{usage}{HELP}")
        return ACCEPT
    if len(arguments) != 1 or arguments[0] not in stages:
        sys.stderr.write(usage)
        return USAGE
    try:
        verdict = decide(arguments[0], _read_input(sys.stdin.buffer.read()))
    except InputError as error:
        sys.stderr.write(f"teehouse-conformance: {error}\n")
        return MALFORMED_INPUT
    sys.stdout.write(json.dumps(verdict, sort_keys=True) + "\n")
    return ACCEPT if verdict["result"] == "accept" else REJECT


if __name__ == "__main__":
    raise SystemExit(main())
