# SPDX-License-Identifier: Apache-2.0
"""The actions of existing TKS clients, by the names of the signed gateway (B §2.1)."""

from __future__ import annotations

import asyncio
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.jsontext import b64_text, unb64_text
from teehouse_core.wire.canonical import unb64u
from teehouse_enclave.keys.compat.appraisal import appraise_coco, appraise_report
from teehouse_enclave.keys.compat.challenge import ChallengeDesk, report_data
from teehouse_enclave.keys.compat.coco import MAX_EVIDENCE, CocoEvidence, parse_evidence
from teehouse_enclave.keys.compat.errors import CompatError
from teehouse_enclave.keys.compat.exchange import ExchangeKeys
from teehouse_enclave.keys.compat.rules import Decision, Rule, Rules
from teehouse_enclave.keys.compat.store import ALGO, DESCRIPTION, NAME, SCENARIO, Caller, Store, algorithm_of
from teehouse_enclave.keys.compat.tokens import TokenSigner
from teehouse_enclave.keys.model import ROTATING, Key, Ring
from teehouse_enclave.keys.policy import ReleasePolicy
from teehouse_enclave.node.evidence import Rate
from teehouse_enclave.platform.base import Platform

__all__ = ["ACTIONS", "CHANGING", "Action", "Actions"]

MAX_NAME: Final = 256  # characters of a name or an algorithm
MAX_DESCRIPTION: Final = 1024  # characters
MAX_PAGE: Final = 1000  # rows
PATIENCE: Final = 10.0  # seconds that a caller waits for its turn at the platform
_HEX64: Final = re.compile(r"[0-9a-fA-F]{64}")
_EMPTY: Final = "empty"  # the status of a key that was announced and not imported


@dataclass(frozen=True, slots=True)
class Action:
    """One action: its path on the unsigned door, below `/api/tks/v1/` unless it begins with a slash."""

    path: str
    changing: bool = False


ACTIONS: Final[Mapping[str, Action]] = {
    "AttestTksSecurity": Action("security/attest"),
    "CreateTksRing": Action("ring/create", changing=True),
    "ListTksRing": Action("ring/list"),
    "CreateTksKey": Action("key/create", changing=True),
    "ImportTksKey": Action("key/import", changing=True),
    "ListTksKey": Action("key/list"),
    "GetTksKeyinfo": Action("key/getinfo"),
    "ExportTksKey": Action("key/export", changing=True),
    "SetTksPolicy": Action("policy/set", changing=True),
    "VerifyRasEvidence": Action("/api/ras/v1/verify"),
}
CHANGING: Final = frozenset(name for name, action in ACTIONS.items() if action.changing)


class Actions:
    """What each action does. `clock` gives monotonic seconds; `collateral` files that vendors signed, by name.

    `policies` are the release policies that `policyID` may name, in the service's measured configuration.
    """

    def __init__(
        self,
        store: Store,
        platform: Platform,
        policies: Mapping[str, ReleasePolicy],
        *,
        clock: Callable[[], float],
        collateral: Callable[[], Mapping[str, bytes]] = dict,
        evidence_per_second: float = 50.0,
    ) -> None:
        self._store = store
        self._platform = platform
        self._policies = dict(policies)
        self._clock = clock
        self._collateral = collateral
        self._exchange = ExchangeKeys(clock())
        self._desk = ChallengeDesk()
        self._signer = TokenSigner()
        self._rate = Rate(evidence_per_second)
        self._handlers: dict[str, Callable[[Caller, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "AttestTksSecurity": self._attest,
            "CreateTksRing": self._create_ring,
            "ListTksRing": self._list_rings,
            "CreateTksKey": self._create_key,
            "ImportTksKey": self._import_key,
            "ListTksKey": self._list_keys,
            "GetTksKeyinfo": self._key_info,
            "ExportTksKey": self._export,
            "SetTksPolicy": self._set_policy,
            "VerifyRasEvidence": self._verify,
        }

    async def run(self, action: str, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        """`Result` of one action. Raises `TeehouseError`."""
        return await self._handlers[action](caller, body)

    # ── key agreement ────────────────────────────────────────────────────────────────────────────────────────────

    async def _attest(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        nonce_up = _text(body, "NonceUp", 64)
        if not _HEX64.fullmatch(nonce_up):
            raise CompatError("nonce", "NonceUp is not 64 hex digits")
        both = _flag(body, "BiAuth")
        await self._turn()
        key, now = self._exchange.current(self._clock()), self._store.now()
        result: dict[str, Any] = {"RAType": self._platform.type, "DHParam": key.dh_param}
        down, ends = b"", 0
        if both:
            result["Challenge"] = challenge = self._desk.make(caller.account.id, key.id, now)
            down, ends = bytes.fromhex(challenge["NonceDown"]), challenge["ExpirationTime"]
        result["Report"] = self._report(report_data(bytes.fromhex(nonce_up), down, key.pem, ends))
        return result

    async def _turn(self) -> None:
        """Each report costs the platform a signature. These clients do not all try again, so they wait in line here."""
        began = self._clock()
        while not self._rate.take(self._clock()):
            if self._clock() - began > PATIENCE:
                raise CompatError("over-limit", "too many attestations", hint="try again in some seconds")
            await asyncio.sleep(0.02)

    def _report(self, data: bytes) -> str:
        """Our own evidence over these 64 bytes, in the dialect in which we read others'."""
        evidence = self._platform.collect(data)
        kind = self._platform.type
        if kind in ("tdx", "simulated"):
            document: dict[str, Any] = {"quote": b64_text(evidence.report), "collateral": dict(evidence.collateral)}
        elif kind == "sev-snp":
            document = {"snp_report": b64_text(evidence.report), "collateral": dict(evidence.collateral)}
        else:
            hint = "appraise the service by its own evidence instead (GET /v1/evidence)"
            raise CompatError("platform-unsupported", f"no report of {kind} in this dialect", hint=hint)
        return b64_text(json.dumps(document, separators=(",", ":")).encode("ascii"))

    async def _verify(self, _caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        evidence = _evidence(_text(body, "Evidence", 2 * MAX_EVIDENCE))
        policy = self._policies.get(_text(body, "PolicyId", MAX_NAME))
        if policy is None:
            raise CompatError("unknown-policy", "no such policy")
        given = body.get("ReportData")
        try:
            data = unb64u(_text(given if isinstance(given, dict) else {}, "Raw", 128), 64)
        except MalformedError:
            raise CompatError("malformed", "ReportData.Raw is not 64 bytes in base64url") from None
        now = self._store.now()
        if evidence.tee == "sample":
            raise CompatError("policy-denied", "sample evidence is signed by nobody: no result is given for it")
        verdict = appraise_report(evidence, policy.appraisal, data, now, self._collateral())
        if not verdict.accepted:
            raise CompatError("policy-denied", f"the policy refuses: {', '.join(verdict.failed)}")
        token = self._signer.result(
            report_data=data, policies=[policy.id], claims=verdict.claims, evidence_sha256=evidence.sha256, now=now
        )
        return {"AttestationResult": token}

    # ── rings and keys ───────────────────────────────────────────────────────────────────────────────────────────

    async def _create_ring(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        name, description = _text(body, "RingName", MAX_NAME), _text(body, "Description", MAX_DESCRIPTION, default="")
        ring = await self._store.create_ring(caller, name, description)
        return {"RingID": ring, "RingName": name, "Description": description, "AppID": caller.account.id, "Weak": True}

    async def _create_key(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        ring, algo = _text(body, "RingID", MAX_NAME), _text(body, "Algo", MAX_NAME)
        source = _text(body, "Source", 16, default="internal")
        if source not in ("internal", "external"):
            raise CompatError("malformed", "Source is neither internal nor external")
        algorithm_of(algo)
        labels = {
            NAME: _text(body, "KeyName", MAX_NAME, default=""),
            DESCRIPTION: _text(body, "Description", MAX_DESCRIPTION, default=""),
            SCENARIO: _text(body, "UsageScenario", MAX_NAME, default=""),
        }
        key = await self._store.create_key(caller, ring, algo, labels, source == "external")
        return self._row(caller, *self._pair(caller, ring, key))

    async def _import_key(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        if "Rules" in body and "Key" not in body:
            return await self._set_policy(caller, body)  # the client's set_key_policy sends it under this action
        ring, key = _text(body, "RingID", MAX_NAME), _text(body, "KeyID", MAX_NAME)
        self._store.key(caller, ring, key)
        clear = self._exchange.unwrap(
            _text(body, "DHParam", MAX_DESCRIPTION * 2), _text(body, "Key", MAX_EVIDENCE), self._clock()
        )
        await self._store.import_key(caller, ring, key, clear)
        return self._row(caller, *self._pair(caller, ring, key))

    async def _set_policy(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        if _text(body, "Range", 16) != "key":
            raise CompatError("malformed", "Range is not key")
        if body.get("IssueToken") not in (None, False):
            raise CompatError("bad-rules", "this service gives out no passports", hint="IssueToken false")
        key = _text(body, "ID", MAX_NAME)
        ring, _ = self._store.find_key(caller, key)
        rules = Rules.parse(body.get("Rules"), {policy.id: policy.sha256 for policy in self._policies.values()})
        await self._store.set_rules(caller, ring.id, key, rules)
        return {"RingID": ring.id, "KeyID": key, "PolicySHA256": rules.sha256}

    async def _key_info(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        return self._row(caller, *self._pair(caller, _text(body, "RingID", MAX_NAME), _text(body, "KeyID", MAX_NAME)))

    async def _list_rings(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        rows = [
            {
                "AppID": caller.account.id,
                "RingID": ring.id,
                "RingName": ring.labels.get(NAME, ""),
                "Description": ring.labels.get(DESCRIPTION, ""),
                "CreateTime": ring.created_at,
                "KeyCount": len(ring.keys),
                "Weak": ring.weak,
            }
            for ring in self._store.rings(caller)
        ]
        return _page(body, "RingList", rows)

    async def _list_keys(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        wanted = _text(body, "RingID", MAX_NAME, default="")
        status = _text(body, "Status", 32, default="")
        rings = [self._store.ring(caller, wanted)] if wanted else self._store.rings(caller)
        rows = [
            self._row(caller, ring, key)
            for ring in rings
            for key in sorted(ring.keys.values(), key=lambda key: (key.created_at, key.id))
        ]
        return _page(body, "KeyList", [row for row in rows if not status or row["Status"] == status])

    def _pair(self, caller: Caller, ring: str, key: str) -> tuple[Ring, Key]:
        return self._store.ring(caller, ring), self._store.key(caller, ring, key)

    def _row(self, caller: Caller, ring: Ring, key: Key) -> dict[str, Any]:
        state = key.state_at(self._store.now())
        rules = self._store.rules(key)
        return {
            "AppID": caller.account.id,
            "RingID": ring.id,
            "KeyID": key.id,
            "KeyName": key.labels.get(NAME, ""),
            "Algo": key.labels.get(ALGO, key.algorithm),
            "Algorithm": key.algorithm,
            "Source": "internal" if key.source == "internal" else "external",
            "Description": key.labels.get(DESCRIPTION, ""),
            "UsageScenario": key.labels.get(SCENARIO, ""),
            "Version": key.newest,
            "Status": _EMPTY if not key.versions else "active" if state == ROTATING else state,
            "CreateTime": key.created_at,
            "PolicyIDs": sorted({rule.policy_id for inner in rules.lists for rule in inner}),
            "PolicySHA256": rules.sha256,
            "Weak": True,
        }

    # ── export ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _export(self, caller: Caller, body: dict[str, Any]) -> dict[str, Any]:
        if body.get("AppID", caller.account.id) != caller.account.id:
            raise CompatError("account-mismatch", "AppID names another account")
        ring, key = _text(body, "RingID", MAX_NAME), _text(body, "KeyID", MAX_NAME)
        self._store.key(caller, ring, key)
        dh_param = _text(body, "DHParam", MAX_DESCRIPTION * 2)
        if "ClientChall" not in body:
            raise CompatError("missing-parameter", "ClientChall is missing", hint="attest with BiAuth true first")
        evidence = _given_evidence(body)
        nonce, identity = self._desk.take(caller.account.id, body["ClientChall"], self._store.now())
        exchange = self._exchange.by_id(identity, self._clock())
        if exchange is None:
            raise CompatError("challenge-expired", "the exchange key of this challenge has ended")
        exchange.wrap(dh_param, b"")  # a bad DHParam is refused before anything is decided

        def decide(rules: Rules) -> Decision:
            return self._decide(rules, evidence, nonce)

        number, material = await self._store.release(caller, ring, key, evidence.sha256 if evidence else "", decide)
        wrapped = exchange.wrap(dh_param, material)
        return {"AppID": caller.account.id, "RingID": ring, "KeyID": key, "Version": number, "Key": wrapped}

    def _decide(self, rules: Rules, evidence: CocoEvidence | None, nonce: str) -> Decision:
        if evidence is None:
            return Decision(False, ("coco.evidence",), "", tuple(r.policy_sha256 for i in rules.lists for r in i))
        found, now, collateral = evidence, self._store.now(), self._collateral()

        def verdict(rule: Rule) -> tuple[bool, tuple[str, ...], str]:
            policy = self._policies.get(rule.policy_id)
            if policy is None or policy.sha256 != rule.policy_sha256:
                return False, ("rules.policy-changed",), ""
            one = appraise_coco(found, policy, nonce, now, collateral)
            return one.accepted, one.failed, one.tier

        return rules.decide(evidence.tee, verdict)


def _given_evidence(body: Mapping[str, Any]) -> CocoEvidence | None:
    given = body.get("RAEvidence")
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("TEEType") != "coco":
        hint = 'TEEType "coco", Report the attestation agent\'s answer in base64'
        raise CompatError("evidence-unsupported", "RAEvidence is of an unknown type", hint=hint)
    return _evidence(_text(given, "Report", 2 * MAX_EVIDENCE))


def _evidence(text: str) -> CocoEvidence:
    """From base64, with or without its padding: one of the clients strips it."""
    try:
        raw = unb64_text(text + "=" * (-len(text) % 4), limit=MAX_EVIDENCE, what="evidence")
    except (MalformedError, binascii.Error):
        raise CompatError("evidence-malformed", "the evidence is not base64, or too large") from None
    return parse_evidence(raw)


def _text(body: Mapping[str, Any], name: str, limit: int, *, default: str | None = None) -> str:
    value = body.get(name, default)
    if value is None:
        raise CompatError("missing-parameter", f"{name} is missing")
    if not isinstance(value, str):
        raise CompatError("malformed", f"{name} is not a text")
    if len(value) > limit:
        raise CompatError("too-large", f"{name} is too long", hint=f"at most {limit} characters")
    if not value and default is None:
        raise CompatError("missing-parameter", f"{name} is empty")
    if any(ord(char) < 32 and char not in "\t\n\r" for char in value) or (not value.isascii() and _unpaired(value)):
        raise CompatError("malformed", f"{name} holds control characters")
    return value


def _unpaired(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if type(value) is not bool:
        raise CompatError("malformed", f"{name} is not true or false")
    return value


def _page(body: Mapping[str, Any], name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One page; page 0 is page 1, since one client counts from 0 and another from 1."""
    number, size = body.get("PageNumber", 0), body.get("PageSize", 10)
    if type(number) is not int or type(size) is not int or not 0 <= number <= 1 << 31 or not 1 <= size <= MAX_PAGE:
        raise CompatError("malformed", "PageNumber or PageSize is out of range", hint=f"1 to {MAX_PAGE} rows a page")
    first = max(number - 1, 0) * size
    return {name: rows[first : first + size], "Total": len(rows), "PageNumber": max(number, 1), "PageSize": size}
