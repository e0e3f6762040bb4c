# SPDX-License-Identifier: Apache-2.0
"""A key service with its compat door and no network: real service, journal and vault; a STAND-IN ledger in memory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import warnings
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teehouse_core.appraise.policy import Policy
from teehouse_core.log.entry import AuditEntry
from teehouse_core.log.quorum import WitnessPolicy
from teehouse_core.wire.v4 import V4Request, sign
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.compat.door import CompatDoor
from teehouse_enclave.keys.compat.setup import open_door
from teehouse_enclave.keys.journal import Record, tenant_log
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.outbound import LedgerClient
from teehouse_enclave.keys.policy import COCO, ReleasePolicy
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.start import log_key_of, open_books
from teehouse_enclave.keys.vault import Vault
from teehouse_enclave.platform.simulated import SimulatedPlatform

ACCOUNT, OTHER, SIGNED_ONLY = "2100000001", "2100000002", "2100000003"
KEYS = {
    ACCOUNT: ("AKLTaccountone", "c2VjcmV0LW9mLWFjY291bnQtb25l"),
    OTHER: ("AKLTaccounttwo", "c2VjcmV0LW9mLWFjY291bnQtdHdv"),
    SIGNED_ONLY: ("AKLTaccountthree", "c2VjcmV0LW9mLWFjY291bnQtdGhyZWU"),
}
HOST = "tks.test:8443"


def sample_policy(identity: str = "sample-ok", **more: Any) -> ReleasePolicy:
    """Accepts the attestation agent's `sample` evidence, which is SIMULATED."""
    parts: dict[str, Any] = {"dialect": COCO, "coco_tees": ("sample",), "unbound_key": True, **more}
    return ReleasePolicy.build(id=identity, appraisal=Policy.preset("evaluate"), **parts)


def policies() -> list[ReleasePolicy]:
    return [
        sample_policy(),
        sample_policy("sample-too"),
        sample_policy("bound-only", unbound_key=False),
        ReleasePolicy.build(
            id="hardware", appraisal=Policy.preset("standard"), dialect=COCO, coco_tees=("tdx", "snp"), unbound_key=True
        ),
        ReleasePolicy.build(id="own-dialect", appraisal=Policy.preset("evaluate"), roles=("node",), endpoints=("*",)),
    ]


def rules(*lists: Sequence[Any]) -> str:
    """`Rules` in the first of the two spellings; each rule a policy id, or (id, members)."""
    spelled = []
    for inner in lists:
        members = [item if isinstance(item, tuple) else (item, {}) for item in inner]
        spelled.append([{"version": "v1", "type": "RAPolicy", "policyID": name, **more} for name, more in members])
    return json.dumps(spelled)


class StandInLedger:
    """Takes everything; `down` makes it refuse. What it was given is in `records`."""

    def __init__(self) -> None:
        self.records: dict[str, list[Record]] = {}
        self.notes: dict[str, bytes] = {}
        self.down = False

    async def sizes(self, log: str) -> tuple[int, int]:
        return len(self.records.get(log, [])), 0

    async def append(self, log: str, records: Sequence[Record]) -> int:
        if self.down:
            from teehouse_enclave.keys.outbound import OutsideError

            raise OutsideError("the stand-in is down", code="ledger-unreachable")
        held = self.records.setdefault(log, [])
        held[records[0].index :] = records
        return len(held)

    async def publish(self, log: str, note: bytes) -> None:
        self.notes[log] = note

    def entries(self, tenant: str) -> list[AuditEntry]:
        return [AuditEntry.parse(record.leaf) for record in self.records.get(tenant_log(tenant), [])]


@dataclass
class Reply:
    status: int
    document: dict[str, Any]

    @property
    def result(self) -> dict[str, Any]:
        assert self.status == 200, self.document
        found: dict[str, Any] = self.document["Result"]
        return found

    @property
    def code(self) -> str:
        assert self.status >= 400, self.document
        assert "Result" not in self.document
        code: str = self.document["ResponseMetadata"]["Error"]["Reason"]
        return code


@dataclass
class Compat:
    """One running service with its door."""

    service: Service
    door: CompatDoor
    ledger: StandInLedger
    http: httpx2.AsyncClient
    clock: list[float] = field(default_factory=lambda: [0.0])  # seconds that were let pass

    def now(self) -> int:
        return self.service.now()

    def entries(self, account: str = ACCOUNT) -> list[AuditEntry]:
        from teehouse_enclave.keys.commands import compat_tenant_id

        return self.ledger.entries(compat_tenant_id(account))

    async def signed(self, action: str, body: Any, *, account: str = ACCOUNT, once: str = "", **how: Any) -> Reply:
        """One call through the signed gateway."""
        access_key, secret = how.get("pair") or KEYS[account]
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        query = how.get("query", f"Action={action}&Version=2024-12-24")
        headers = [("Host", HOST), ("Content-Type", "application/json")]
        headers += [("X-Top-Account-Id", how.get("claims", account))]
        headers += [("X-Sdk-Invocation-Id", once or secrets.token_hex(16))]
        request = V4Request("POST", "/", query, tuple(headers), raw)
        parts = {"access_key": access_key, "secret": secret, "service": "pcc", "region": "cn-beijing"}
        added = sign(request, now=how.get("at", self.now()), **parts)
        answer = await self.http.post(f"http://{HOST}/?{query}", content=how.get("sent", raw), headers=list(added))
        return Reply(answer.status_code, answer.json())

    async def plain(self, path: str, body: Any, *, account: str = ACCOUNT, **headers: str) -> Reply:
        """One call that only names its account."""
        given = {"AppID": account, "X-Top-Account-Id": account, "Timestamp": str(self.now()), **headers}
        answer = await self.http.post(f"http://{HOST}{path}", json=body, headers=given)
        return Reply(answer.status_code, answer.json())

    async def ring(self, account: str = ACCOUNT) -> str:
        made = await self.signed("CreateTksRing", {"RingName": "环", "Description": ""}, account=account)
        ring: str = made.result["RingID"]
        return ring

    async def key(self, ring: str, algo: str = "SYMMETRIC_256", source: str = "internal", **more: Any) -> str:
        body = {"RingID": ring, "KeyName": "k", "Algo": algo, "Source": source, "Description": ""}
        made = await self.signed("CreateTksKey", {**body, "UsageScenario": "ModelEncryption"}, **more)
        key: str = made.result["KeyID"]
        return key

    async def imported(self, ring: str, key: str, clear: bytes) -> Reply:
        attested = (await self.signed("AttestTksSecurity", {"NonceUp": "ab" * 32, "BiAuth": False})).result
        local = Peer()
        body = {"RingID": ring, "KeyID": key, "Key": local.wrap(attested["DHParam"], clear), "DHParam": local.dh_param}
        return await self.signed("ImportTksKey", body)

    async def allow(self, key: str, text: str | None = None) -> Reply:
        body = {"ID": key, "Range": "key", "Rules": text if text is not None else rules(["sample-ok"])}
        return await self.signed("SetTksPolicy", body)

    async def export(self, ring: str, key: str, **how: Any) -> tuple[Reply, bytes]:
        """Attest, collect `sample` evidence (a stand-in's), export; the reply and the opened key."""
        account = how.get("account", ACCOUNT)
        challenge = how.get("challenge")
        attested = await self.signed("AttestTksSecurity", {"NonceUp": "cd" * 32, "BiAuth": True}, account=account)
        challenge = challenge or attested.result["Challenge"]
        local = Peer()
        body = {"AppID": account, "RingID": ring, "KeyID": key, "DHParam": local.dh_param, "ClientChall": challenge}
        evidence = how.get("evidence", sample(challenge["NonceDown"]))
        if evidence is not None:
            body["RAEvidence"] = {"TEEType": "coco", "Report": base64.b64encode(evidence).decode()}
        reply = await self.signed("ExportTksKey", {**body, **how.get("body", {})}, account=account)
        opened = local.unwrap(attested.result["DHParam"], reply.result["Key"]) if reply.status == 200 else b""
        return reply, opened


def sample(nonce: str, **more: Any) -> bytes:
    """What a Confidential Containers attestation agent without a TEE answers."""
    return json.dumps({"svn": "1", "report_data": base64.b64encode(nonce.encode()).decode(), **more}).encode()


class Peer:
    """The client's half of the key agreement, written from the wire facts."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.private = ec.generate_private_key(curve or ec.SECP384R1())
        form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.dh_param = base64.b64encode(self.private.public_key().public_bytes(*form)).decode()

    def kek(self, dh_param: str) -> bytes:
        peer = cast("ec.EllipticCurvePublicKey", serialization.load_pem_public_key(base64.b64decode(dh_param)))
        shared = self.private.exchange(ec.ECDH(), peer)
        return HKDF(hashes.SHA256(), 32, None, None).derive(shared)

    def wrap(self, dh_param: str, clear: bytes) -> str:
        iv = secrets.token_bytes(12)
        return base64.b64encode(iv + AESGCM(self.kek(dh_param)).encrypt(iv, clear, None)).decode()

    def unwrap(self, dh_param: str, wrapped: str) -> bytes:
        raw = base64.b64decode(wrapped)
        return AESGCM(self.kek(dh_param)).decrypt(raw[:12], raw[12:], None)


def accounts_file(folder: Path) -> dict[str, str]:
    """The members of `compat` about accounts."""
    accounts = [
        {"account": one, "access_key": pair[0], "secret_key": pair[1], "direct_rest": one != SIGNED_ONLY}
        for one, pair in KEYS.items()
    ]
    path = folder / "accounts.json"
    path.write_text(json.dumps({"v": "tks-accounts/1", "accounts": accounts}), encoding="utf-8")
    path.chmod(0o600)
    return {"accounts": str(path), "accounts_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@contextlib.asynccontextmanager
async def running(folder: Path, *, root: bytes = bytes(range(32)), **settings: Any) -> AsyncIterator[Compat]:
    """Start over the journal in `folder`; a second time is a restart."""
    import time

    passed = [0.0]
    ledger = StandInLedger()
    outside = Outside(cast("LedgerClient", ledger), {}, WitnessPolicy((), 0))
    key = Root(root)
    box = Box(key)
    service = Service(
        origin="tks.test",
        journal=SqliteJournal(folder / "journal.db"),
        box=box,
        log_key=log_key_of(key),
        outside=outside,
        now=lambda: int(time.time() + passed[0]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        platform = SimulatedPlatform()
    given = {**accounts_file(folder), "policies": [json.loads(p.raw) for p in policies()], "direct_rest": True}
    door = open_door(
        {**given, **settings},
        service,
        Vault(box),
        platform,
        now=service.now,
        clock=lambda: time.monotonic() + passed[0],
    )
    ledger_logs = service.journal.logs()
    for log in ledger_logs:
        ledger.records[log] = service.journal.read(log, 0, 10_000)
    await open_books(service, log_key_of(key))
    task = asyncio.create_task(service.run())
    transport = httpx2.ASGITransport(app=door)  # type: ignore[arg-type]
    try:
        async with httpx2.AsyncClient(transport=transport) as http:
            yield Compat(service, door, ledger, http, passed)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        service.stop()
        service.journal.close()
