# SPDX-License-Identifier: Apache-2.0
"""A node gets keys from the key service: appraise it, answer its challenge, open what it grants (KEYS §2, spec 07).

The policy that the key service must satisfy is part of the node's measured configuration, its address is not: whoever
names another address gets nowhere without evidence that satisfies the policy. A node on real hardware takes no key from
a simulated key service, whatever the policy says.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode

import httpx2

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.verdict import Accepted
from teehouse_core.errors import MalformedError, OperatorError, RefusedError, TeehouseError
from teehouse_core.evidence.bundle import MAX_BUNDLE
from teehouse_core.seal.grant import open_grant
from teehouse_core.seal.pool import MemberProof
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.binding import KEY_RELEASE
from teehouse_core.wire.canonical import b64u, encode, unb64u
from teehouse_core.wire.fields import Fields
from teehouse_core.wire.grant import (
    MAX_ANSWER,
    MAX_REQUEST,
    Grant,
    LogPlace,
    Release,
    ReleaseAnswer,
    ReleaseRequest,
    challenge_value,
    parse_challenge,
)
from teehouse_core.wire.keyset import HpkeKey, Keyset, SignKey, build_keyset, key_id
from teehouse_core.wire.pool import MAX_SIGNED
from teehouse_core.wire.problem import MAX_PROBLEM
from teehouse_enclave.keys.algorithms import read_key_bytes
from teehouse_enclave.node.config import KeyServiceConfig
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.keys import Identity

__all__ = ["KeyServiceClient", "Released", "outbound_client"]

_CONNECT: Final = 3.0  # seconds
_SILENCE: Final = 30.0  # seconds of silence in an answer; a release waits for witnesses
MAX_PUBLISHED: Final = 512 * 1024  # bytes of the answer to a publication: checkpoint and proof
_ONE_TIME: Final = 300  # seconds that the one-time keyset is valid; its challenge ends long before
_MARGIN: Final = 30  # seconds before its end at which the key service is appraised again


@dataclass(frozen=True, slots=True)
class Released:
    """A key as the key service granted it; `member` where it was asked for as a member of a pool."""

    grant: Grant
    key: bytes = field(repr=False)
    service: Keyset = field(repr=False)
    member: MemberProof | None = None


def outbound_client() -> httpx2.AsyncClient:
    """No redirects, no proxies from the environment, bounded patience."""
    return httpx2.AsyncClient(
        follow_redirects=False,
        trust_env=False,
        timeout=httpx2.Timeout(_SILENCE, connect=_CONNECT),
        headers={"accept-encoding": "identity"},
    )


class KeyServiceClient:
    """One node's side of the key service. Not for concurrent calls about one key; the callers see to that."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        config: KeyServiceConfig,
        evidence: EvidenceMaker,
        identity: Identity,
        sign_key: SignKey,
        now: Callable[[], int],
    ) -> None:
        self._http = http
        self._config = config
        self._evidence = evidence
        self._identity = identity
        self._sign_key = sign_key
        self._now = now
        self._accepted: Accepted | None = None

    async def service(self, *, keyset_sha256: str | None = None) -> Keyset:
        """The key service's keyset, appraised in this process and not over; `keyset_sha256` names a wanted one.

        Raises RefusedError (`tks-simulated`, `tks-keyset`, `evidence-refused`…), OperatorError, MalformedError.
        """
        known = self._accepted
        fresh = known is not None and self._now() < known.not_after - _MARGIN
        if known is None or not fresh or (keyset_sha256 is not None and known.keyset.sha256 != keyset_sha256):
            known = self._accepted = await self._appraise()
        if keyset_sha256 is not None and known.keyset.sha256 != keyset_sha256:
            raise RefusedError("the key service names a keyset that its evidence does not speak for", code="tks-keyset")
        return known.keyset

    async def signed_pool(self, endpoint: str, tenant: str) -> bytes:
        """What the key service publishes about a tenant's pool for the endpoint, unread. Raises OperatorError."""
        return await self._ask("GET", f"/v1/pools/{endpoint}?{urlencode({'tenant': tenant})}", MAX_SIGNED)

    async def get_data_key(self, tenant: str, ring: str, key: str, version: str) -> Released:
        """A data key of the node's tenant, after attested release. Raises as `release`."""
        return await self.release(tenant=tenant, ring=ring, key=key, version=version)

    async def release(
        self, *, tenant: str, ring: str, key: str, version: str, pool_keyset_sha256: str = ""
    ) -> Released:
        """One key, by a fresh challenge, evidence over a one-time key, and a grant checked field by field.

        Raises RefusedError when the key service is not the one wanted, when it refuses, or when its grant does not
        hold; OperatorError when it cannot be reached now; MalformedError for answers that do not parse.
        """
        named, drawn = parse_challenge(await self._ask("POST", "/v1/release/challenge", MAX_REQUEST))
        service = await self.service(keyset_sha256=named)
        one_time = generate_key()
        requester = self._requester(HpkeKey(key_id(one_time.suite, one_time.pk), one_time.suite, one_time.pk, 0, 0))
        bundle = self._evidence.bundle(
            requester, challenge_value(service.digest, drawn), time.monotonic(), kind=KEY_RELEASE
        )
        request = ReleaseRequest(service.sha256, tenant, ring, key, version, pool_keyset_sha256).encode()
        body = await self._ask("POST", "/v1/release", MAX_ANSWER, Release(request, bundle).encode())
        answer = ReleaseAnswer.parse(body)
        grant, plain = open_grant(
            answer,
            request=request,
            requester_keyset=requester,
            evidence_sha256=hashlib.sha256(bundle).hexdigest(),
            key_service=service,
            one_time=one_time,
            now=self._now(),
            digest_of=_public_sha256,
        )
        del one_time  # the last reference: nothing sealed to it opens again
        member = MemberProof(answer.member, answer.member_sig) if answer.member else None
        return Released(grant, plain, service, member)

    async def publish(self, keyset: Keyset) -> tuple[int, str]:
        """Put one of this node's keysets into the public log: index and SHA-256 of the entry's bytes in hex.

        Both are the key service's word, for the client to check. Raises as `release`.
        """
        asked = _object(await self._ask("POST", "/v1/publish/challenge", MAX_REQUEST)).get("challenge")
        if not isinstance(asked, str):
            raise MalformedError("not a challenge", code="missing-member")
        bundle = self._evidence.bundle(keyset, unb64u(asked, 32), time.monotonic())
        document = encode({"kind": "keyset", "bundle": b64u(bundle)})
        entry = _object(await self._ask("POST", "/v1/publish", MAX_PUBLISHED, document)).get("entry")
        if not isinstance(entry, dict):
            raise MalformedError("not a publication", code="missing-member")
        place = LogPlace.read(Fields(entry, "entry"))
        return place.index, place.leaf_sha256

    async def _appraise(self) -> Accepted:
        nonce = secrets.token_bytes(32)
        bundle = await self._ask("GET", f"/v1/evidence?challenge={b64u(nonce)}", MAX_BUNDLE)
        accepted = appraise(bundle, self._config.policy, self._now(), endpoint="", nonce=nonce).accept()
        if accepted.keyset.role != "key-service":
            raise RefusedError("this is no key service", code="tks-role")
        if accepted.tier == "simulated" and self._evidence.platform_type != "simulated":
            raise RefusedError("a simulated key service protects no key of a machine that is not", code="tks-simulated")
        return accepted

    def _requester(self, one_time: HpkeKey) -> Keyset:
        """The keyset that the evidence for this one release speaks for: this node, its signing key, a one-time key."""
        now = self._now()
        end = now + _ONE_TIME
        raw = build_keyset(
            role="node",
            endpoint=self._identity.endpoint,
            node=self._identity.node,
            hpke=[HpkeKey(one_time.kid, one_time.suite, one_time.pk, now, end)],
            sign=[self._sign_key],
            model=self._identity.model,
            software=self._identity.software,
            capabilities=self._identity.capabilities,
            not_before=now,
            not_after=end,
        )
        return Keyset.parse(raw)

    async def _ask(self, method: str, path: str, limit: int, content: bytes = b"") -> bytes:
        """The body of a 200. Raises OperatorError (`tks-unreachable`, `tks-unavailable`), RefusedError (its code)."""
        parts: list[bytes] = []
        got = 0
        try:
            async with self._http.stream(method, self._config.url + path, content=content) as response:
                async for part in response.aiter_raw():
                    parts.append(part)
                    got += len(part)
                    if got > limit:
                        raise MalformedError("the key service's answer is too long", code="document-too-large")
                status = response.status_code
        except httpx2.HTTPError as error:
            raise OperatorError(
                f"the key service does not answer ({type(error).__name__})", code="tks-unreachable"
            ) from None
        body = b"".join(parts)
        if status == 200:
            return body
        code = _problem_code(body)
        if status in (429, 503):
            raise OperatorError(f"the key service cannot do it now: {code}", code="tks-unavailable")
        raise RefusedError(f"the key service refused: {code}", code="tks-refused", hint=code)


def _object(body: bytes) -> dict[str, object]:
    """A JSON object, its members unread. Raises MalformedError."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise MalformedError("not a JSON object", code="not-an-object")
    return document


def _problem_code(body: bytes) -> str:
    """The code of a problem document, for the log; a word or nothing."""
    try:
        document = json.loads(body[:MAX_PROBLEM])
    except (ValueError, RecursionError):
        return ""
    code = document.get("code") if isinstance(document, dict) else None
    return code if isinstance(code, str) and len(code) <= 64 and code.isascii() and code.isprintable() else ""


def _public_sha256(algorithm: str, key: bytes) -> str:
    try:
        return read_key_bytes(algorithm, key).public_sha256
    except TeehouseError as error:
        raise MalformedError("the released bytes are no such key", code=error.code) from None
