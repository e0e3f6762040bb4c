# SPDX-License-Identifier: Apache-2.0
"""The conformance stages of evidence: `appraise` for a bundle, `artifact` for one vendor artifact.

Both give `{"result":"accept","output":{"tier"}}`, `{"result":"reject","code","refusing","tier"}` or
`{"result":"malformed","code"}`. `refusing` lists the required checks that failed or were skipped, in the catalogue's
order, `code` is the first that failed (else the first). An artifact that this version cannot appraise is rejected with
the code `unsupported`.

`roots` in an input names TEST roots. This is the one door to `under_test_roots`: no policy and no other command has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography import x509

from teehouse.conformance_input import InputError, as_bytes, maybe, member, take, take_all
from teehouse_core.appraise.anchors import Anchors
from teehouse_core.appraise.appraise import appraise, appraise_release
from teehouse_core.appraise.artifacts.dispatch import verify
from teehouse_core.appraise.checks_ledger import KnownCheckpoint
from teehouse_core.appraise.newest import Seen
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.pool import appraise_pool
from teehouse_core.appraise.roots_amd import AmdRoot
from teehouse_core.appraise.under_test_roots import (
    anchors_for_tests,
    appraise_under_test_roots,
    verify_under_test_roots,
)
from teehouse_core.appraise.verdict import Check
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.checkpoint import Checkpoint

__all__ = ["EVIDENCE_STAGES"]

_ROOTS: Final = frozenset({"intel", "amd", "vtpm"})


def _appraise(given: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle, asked for with `nonce` by a client of `endpoint`, both optional.

    With `pool` the bundle is the key service's, and the pool is what is appraised. With `challenge` the bundle is for a
    key release. `known` is a checkpoint seen before, `{"checkpoint","proof"}`.
    """
    data, policy, now = take(given, "bundle"), _policy(given), member(given, "now", int)
    endpoint = member(given, "endpoint", str) if "endpoint" in given else None
    anchors, nonce, newest = _anchors(given), maybe(given, "nonce"), _newest(given)
    try:
        if "challenge" in given:
            verdict = appraise_release(data, policy, now, endpoint=endpoint, challenge=take(given, "challenge"))
        elif "pool" in given:
            verdict = appraise_pool(take(given, "pool"), data, policy, now, endpoint=endpoint or "", nonce=nonce)
        elif anchors is None:
            verdict = appraise(data, policy, now, endpoint=endpoint, nonce=nonce, known=_known(given), newest=newest)
        else:
            verdict = appraise_under_test_roots(
                anchors, data, policy, now, endpoint=endpoint, nonce=nonce, newest=newest
            )
    except MalformedError as error:
        return {"result": "malformed", "code": error.code}
    except LocalError as error:
        raise InputError(error.message) from None
    return _verdict(verdict.result, verdict.refusing, verdict.tier)


def _known(given: Mapping[str, Any]) -> KnownCheckpoint | None:
    """`checkpoint` is the text of a checkpoint, `proof` the hashes between it and the bundle's."""
    if "known" not in given:
        return None
    known = member(given, "known", dict)
    try:
        checkpoint = Checkpoint.parse(take(known, "checkpoint").decode("utf-8"))
    except (MalformedError, UnicodeDecodeError):
        raise InputError("known: not a checkpoint") from None
    return KnownCheckpoint(checkpoint, tuple(take_all(known, "proof")))


def _artifact(given: Mapping[str, Any]) -> dict[str, Any]:
    """One artifact of `type`, with `chain`, `collateral` (files by name), `nonce` and `report_data` where given."""
    kind, now = member(given, "type", str), member(given, "now", int)
    files = member(given, "collateral", dict) if "collateral" in given else {}
    options: dict[str, Any] = {
        "chain": maybe(given, "chain"),
        "collateral": {name: as_bytes(value, name) for name, value in files.items()},
        "nonce": maybe(given, "nonce"),
        "report_data": maybe(given, "report_data"),
        "policy": _policy(given),
        "now": now,
        "newest": _newest(given),
    }
    anchors, raw = _anchors(given), take(given, "artifact")
    try:
        if anchors is None:
            verdict = verify(kind, raw, **options)
        else:
            verdict = verify_under_test_roots(anchors, kind, raw, **options)
    except MalformedError as error:
        return {"result": "malformed", "code": error.code}
    except LocalError as error:
        raise InputError(error.message) from None
    if verdict.result == "unsupported":
        return {"result": "reject", "code": "unsupported", "refusing": [], "tier": verdict.tier}
    return _verdict(verdict.result, verdict.refusing, verdict.tier)


def _verdict(result: str, refusing: tuple[Check, ...], tier: str) -> dict[str, Any]:
    if result == "accepted":
        return {"result": "accept", "output": {"tier": tier}}
    first = next((check for check in refusing if check.state == "failed"), refusing[0] if refusing else None)
    return {
        "result": "reject",
        "code": first.id if first is not None else "floor",
        "refusing": [check.id for check in refusing],
        "tier": tier,
    }


def _policy(given: Mapping[str, Any]) -> Policy:
    try:
        return Policy.load(json.dumps(member(given, "policy", dict)), "json")
    except LocalError as error:
        raise InputError(f"policy: {error.message}") from None


def _newest(given: Mapping[str, Any]) -> dict[str, Seen] | None:
    """`newest`: series to `[number, issued]`."""
    if "newest" not in given:
        return None
    found = {}
    for series, pair in member(given, "newest", dict).items():
        if type(pair) is not list or len(pair) != 2 or not all(type(n) is int for n in pair):
            raise InputError("newest: expected [number, issued] for each series")
        found[series] = Seen(*pair)
    return found


def _anchors(given: Mapping[str, Any]) -> Anchors | None:
    """TEST roots: `intel` one certificate, `amd` `{product: {ark, ask, asvk}}`, `vtpm` a list; all DER."""
    if "roots" not in given:
        return None
    roots = member(given, "roots", dict)
    if not set(roots) <= _ROOTS:
        raise InputError("roots: unknown member")
    try:
        return anchors_for_tests(
            intel=_certificate(roots["intel"]) if "intel" in roots else None,
            amd=_amd(member(roots, "amd", dict)) if "amd" in roots else None,
            vtpm=tuple(map(_certificate, member(roots, "vtpm", list))) if "vtpm" in roots else None,
        )
    except ValueError:
        raise InputError("roots: a certificate does not parse") from None


def _amd(products: Mapping[str, Any]) -> dict[str, AmdRoot]:
    found = {}
    for product in products:
        parts = member(products, product, dict)
        found[product] = AmdRoot(product, take(parts, "ark"), take(parts, "ask"), take(parts, "asvk"))
    return found


def _certificate(value: Any) -> x509.Certificate:
    return x509.load_der_x509_certificate(as_bytes(value, "roots"))


EVIDENCE_STAGES: Final[dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "appraise": _appraise,
    "artifact": _artifact,
}
