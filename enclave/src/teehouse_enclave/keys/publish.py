# SPDX-License-Identifier: Apache-2.0
"""The public log: which keysets, releases and reference values were served (KEYS §4).

A node's keyset is taken only with fresh evidence that satisfies the service's publication policy: an entry then means
that such a node had it. Statements about releases and reference values are taken from pinned publishers. The service's
own keysets go in at each start and rotation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teehouse_core.appraise.appraise import NONCE_SIZE, appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import EvidenceRefused, MalformedError, TeehouseError
from teehouse_core.evidence.bundle import CHALLENGE_INTERACTIVE, Bundle
from teehouse_core.wire.canonical import b64u, parse, unb64u
from teehouse_core.wire.fields import HEX32, HEX64, NAME, Fields
from teehouse_core.wire.keyset import Keyset, key_id
from teehouse_core.wire.labels import L
from teehouse_enclave.keys.challenges import Challenges
from teehouse_enclave.keys.config import PublishConfig
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.records import PublicDraft
from teehouse_enclave.keys.release import ReleaseRefused
from teehouse_enclave.keys.service import Committed

__all__ = ["PublishDesk", "publication_message"]

MAX_STATEMENT: Final = 4096  # bytes
_MAX_KNOWN: Final = 4096  # keysets whose entries are remembered, so that a repeat makes no second one


def publication_message(statement: bytes) -> bytes:
    """What a publisher signs: L("publication") ‖ statement."""
    return L("publication") + statement


class PublishDesk:
    """Takes publications; raises KeysError `publish-off`, `publish-signature`, `malformed`, and as a release."""

    def __init__(self, desk: Desk, config: PublishConfig, challenges: Challenges) -> None:
        self._desk = desk
        self._policy = config.policy
        self._keys = {key_id("ed25519", key): key for key in config.keys}
        self._challenges = challenges
        self._known: OrderedDict[str, Committed] = OrderedDict()

    def challenge(self) -> str:
        """A nonce for interactive evidence, b64u of 32 bytes. Raises KeysError."""
        if self._policy is None:
            raise KeysError("publish-off", "this service publishes no keysets")
        return b64u(self._challenges.draw(self._desk.monotonic()))

    async def publish(self, document: Any) -> dict[str, Any]:
        """`{"kind":"keyset","bundle"}` or `{"kind":"statement","statement","kid","sig"}`, binary parts in b64u."""
        try:
            top = Fields(document, "publication")
            if top.one_of("kind", "keyset", "statement") == "keyset":
                bundle = top.octets("bundle")
                top.done()
                draft = await asyncio.to_thread(self._keyset, bundle)
            else:
                draft = self._statement(top)
        except MalformedError as error:
            raise KeysError("malformed", f"the publication does not parse: {error.code}", hint=error.message) from None
        return await self._commit(draft)

    async def own(self, keyset: Keyset) -> None:
        """Publish a keyset of this service itself."""
        await self._commit(PublicDraft("keyset", keyset.sha256, keyset.endpoint, keyset.node))

    async def _commit(self, draft: PublicDraft) -> dict[str, Any]:
        committed = self._known.get(draft.sha256) if draft.kind == "keyset" else None
        if committed is None:
            committed = await self._desk.service.publish(draft)
            if draft.kind == "keyset":
                self._known[draft.sha256] = committed
                while len(self._known) > _MAX_KNOWN:
                    self._known.popitem(last=False)
        return {**committed.to_json(), "proof": b64u(committed.proof)}

    def _keyset(self, raw: bytes) -> PublicDraft:
        policy = self._policy
        if policy is None:
            raise KeysError("publish-off", "this service publishes no keysets")
        bundle = Bundle.parse(raw)
        if bundle.challenge_kind != CHALLENGE_INTERACTIVE:
            failed = (("challenge.kind", "a publication answers an interactive challenge of this service"),)
            raise ReleaseRefused("evidence-refused", "evidence refused: challenge.kind", failed, None)
        nonce = bundle.challenge_value[:NONCE_SIZE]
        self._challenges.take(nonce, self._desk.monotonic())
        self._appraise(bundle, policy, nonce)
        keyset = bundle.keyset
        return PublicDraft("keyset", keyset.sha256, keyset.endpoint, keyset.node, evidence_sha256=bundle.sha256)

    def _appraise(self, bundle: Bundle, policy: Policy, nonce: bytes) -> None:
        endpoint = bundle.keyset.endpoint
        verdict = appraise(bundle.raw, policy, self._desk.now(), endpoint=endpoint, nonce=nonce)
        try:
            verdict.accept()
        except EvidenceRefused as error:
            failed = tuple((check.id, check.hint) for check in verdict.refusing)
            raise ReleaseRefused("evidence-refused", error.message[:500], failed, None) from None
        except TeehouseError as error:
            raise ReleaseRefused("evidence-refused", error.message, ((error.code, ""),), None) from None

    def _statement(self, top: Fields) -> PublicDraft:
        raw, kid = top.octets("statement"), top.text("kid", HEX32)
        sig = unb64u(top.take("sig", str), 64)
        top.done()
        key = self._keys.get(kid)
        try:
            if key is None:
                raise InvalidSignature
            Ed25519PublicKey.from_public_bytes(key).verify(sig, publication_message(raw))
        except InvalidSignature:
            hint = "publishers' keys stand in the service's measured configuration"
            raise KeysError("publish-signature", "not signed by a publisher", hint=hint) from None
        item = Fields(parse(raw, limit=MAX_STATEMENT), "statement")
        item.one_of("v", "publication/1")
        draft = PublicDraft(
            kind=item.one_of("kind", "release", "reference"),
            sha256=item.text("sha256", HEX64),
            endpoint=item.text("endpoint", NAME),
            name=item.text("name", NAME),
        )
        item.done()
        return draft
