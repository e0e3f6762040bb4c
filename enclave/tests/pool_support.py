# SPDX-License-Identifier: Apache-2.0
"""A key service without storage, log and HTTP server: real evidence, real appraisal, real grants; over a transport."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.appraise.appraise import appraise_release
from teehouse_core.appraise.checks_pool import pool_claims
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_references import References
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.errors import MalformedError, RefusedError
from teehouse_core.seal.grant import seal_grant
from teehouse_core.seal.suite import SealingKey
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.grant import (
    Grant,
    LogPlace,
    Release,
    ReleaseAnswer,
    ReleaseRequest,
    challenge_value,
    grant_message,
)
from teehouse_core.wire.keyset import HpkeKey, Keyset, Pool, Software, key_id
from teehouse_core.wire.pool import (
    MemberCertificate,
    SignedPool,
    build_pool_keyset,
    pool_keyset_message,
    pool_member_message,
)
from teehouse_enclave.keys.algorithms import Material, generate, sealing_key
from teehouse_enclave.keys.identity import CAPABILITIES, ServiceKeys
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.platform.base import InsecurePlatformWarning, measure_workload
from teehouse_enclave.platform.simulated import SimulatedPlatform

TENANT, RING, KEY = "tenant-1", "ring-1", "key-1"
EVALUATE = Policy.preset("evaluate")
SOFTWARE = Software("tks-test", "ce" * 32, "fe" * 32)
SERVICE_POLICY = replace(EVALUATE, roles=("key-service",), references=References(image_sha256=(SOFTWARE.image_sha256,)))


def reply(status: int, body: bytes) -> httpx2.Response:
    return httpx2.Response(status, stream=httpx2.ByteStream(body))


def wall() -> int:
    return int(time.time())


@dataclass
class KeyServiceStandIn:
    """Each `next_epoch` makes a new version of the pool's key; `restart` makes new service keys, as a process would."""

    endpoint: str
    weights_sha256: str
    now: Callable[[], int] = wall
    spoil: Callable[[str, bytes], bytes] = lambda _path, body: body  # a path, and the body it would answer
    fail: set[str] = field(default_factory=set)  # paths that answer 503
    active: int = 900

    def __post_init__(self) -> None:
        appraisal = replace(
            EVALUATE, name="members", doors=(), references=References(weights_sha256=(self.weights_sha256,))
        )
        self.release_policy = ReleasePolicy("members-1", appraisal, (self.endpoint,))
        self.versions: list[Material] = []
        self.listed: list[HpkeKey] = []
        self.data_key = generate("aes256")
        self.drawn: set[bytes] = set()
        self.released: list[str] = []
        self.asked: list[str] = []
        self.restart()
        self.next_epoch()

    def restart(self) -> None:
        """New process: new signing key, new evidence; the pool's keys are kept, its keyset is made and signed anew."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecurePlatformWarning)
            platform = SimulatedPlatform()
        measure_workload(
            platform,
            release=SOFTWARE.release,
            image_sha256=SOFTWARE.image_sha256,
            config_sha256=SOFTWARE.config_sha256,
            weights_sha256="",
            model="",
        )
        self.evidence = EvidenceMaker(platform, 1000)
        self.keys = ServiceKeys("tks-1", SOFTWARE, Ed25519PrivateKey.generate(), self.now(), capabilities=CAPABILITIES)
        if self.versions:
            self.publish()

    def next_epoch(self) -> None:
        material = generate("mlkem768x25519")
        key = self.sealing(material)
        now = self.now()
        self.versions.append(material)
        self.listed.append(HpkeKey(key_id(key.suite, key.pk), key.suite, key.pk, now, now + self.active))
        self.publish()

    @staticmethod
    def sealing(material: Material) -> SealingKey:
        return sealing_key(material.secret)

    def publish(self) -> None:
        now = self.now()
        model, software, capabilities = pool_claims(self.release_policy.appraisal, "pooled")
        newest = self.listed[-1]
        raw = build_pool_keyset(
            endpoint=self.endpoint,
            pool=Pool(self.keys.keyset.sha256, self.release_policy.sha256, RING, KEY, str(len(self.versions))),
            hpke=[newest, *(one for one in self.listed[-2:-1] if now < one.not_after)],
            model=model,
            software=software,
            capabilities=capabilities,
            not_before=now,
            not_after=newest.not_after,
        )
        keyset = Keyset.parse(raw)
        self.pool = SignedPool(raw, self.keys.sign(pool_keyset_message(keyset.digest)), self.release_policy.encode())

    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self.handle)

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=self.transport())

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        self.asked.append(path)
        if path in self.fail:
            return reply(503, b'{"code":"unavailable"}')
        try:
            body = self.answer(request.method, path, dict(request.url.params), request.content)
        except (RefusedError, MalformedError) as error:
            return reply(403, json.dumps({"code": error.code}).encode())
        return reply(200, self.spoil(path, body))

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> bytes:
        if path == "/v1/evidence":
            return self.evidence.bundle(self.keys.keyset, unb64u(query["challenge"], 32), time.monotonic())
        if path == f"/v1/pools/{self.endpoint}":
            return self.pool.encode()
        if (method, path) == ("POST", "/v1/release/challenge"):
            drawn = secrets.token_bytes(32)
            self.drawn.add(drawn)
            return json.dumps({"tks_keyset_sha256": self.keys.keyset.sha256, "challenge": b64u(drawn)}).encode()
        if (method, path) == ("POST", "/v1/release"):
            return self.release(Release.parse(body))
        raise MalformedError("no such path", code="not-found")

    def release(self, release: Release) -> bytes:
        request = ReleaseRequest.parse(release.request)
        for drawn in list(self.drawn):
            challenge = challenge_value(self.keys.keyset.digest, drawn)
            verdict = appraise_release(
                release.bundle, self.release_policy.appraisal, self.now(), endpoint=self.endpoint, challenge=challenge
            )
            if verdict.check("challenge.nonce").state == "passed":
                self.drawn.discard(drawn)
                break
        else:
            raise RefusedError("challenge", code="challenge-unknown")
        if verdict.result != "accepted":
            raise RefusedError("evidence", code="evidence-refused")
        pooled = bool(request.pool_keyset_sha256)
        material = self.versions[int(request.version) - 1] if pooled else self.data_key
        grant = Grant(
            tks_keyset_sha256=self.keys.keyset.sha256,
            request_sha256=hashlib.sha256(release.request).hexdigest(),
            requester_keyset_sha256=verdict.keyset.sha256,
            evidence_sha256=hashlib.sha256(release.bundle).hexdigest(),
            tenant=request.tenant,
            ring=request.ring,
            key=request.key,
            version=request.version,
            algorithm=material.algorithm,
            public_sha256=material.public_sha256,
            policy_sha256=self.release_policy.sha256,
            log=LogPlace("tks.test/tenant/tenant-1", len(self.released), "00" * 32),
            not_after=self.now() + 300,
        ).encode()
        key = verdict.keyset.hpke[0]
        member = b""
        if pooled:
            member = MemberCertificate(
                pool_keyset_sha256=request.pool_keyset_sha256,
                node=verdict.keyset.node,
                keyset_sha256=verdict.keyset.sha256,
                sign_pk=verdict.keyset.sign[0].pk,
                not_after=self.now() + self.active + 600,
            ).encode()
        self.released.append(verdict.keyset.node)
        return ReleaseAnswer(
            grant=grant,
            kid=self.keys.sign_kid,
            sig=self.keys.sign(grant_message(grant)),
            sealed=seal_grant(key.suite, key.pk, grant, material.secret),
            checkpoint=b"",
            member=member,
            member_sig=self.keys.sign(pool_member_message(member)) if member else b"",
        ).encode()


def edit_json(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Spoils a JSON body: `change` edits it in place."""

    def spoil(body: bytes) -> bytes:
        document = json.loads(body)
        change(document)
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    return spoil
