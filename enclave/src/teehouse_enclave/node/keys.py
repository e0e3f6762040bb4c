# SPDX-License-Identifier: Apache-2.0
"""The node's keys: made here, never exported, never written; one process, one life (PROTOCOL §5)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.seal.keyring import Keyring
from teehouse_core.seal.suite import SealingKey, generate_key
from teehouse_core.wire.keyset import (
    Capabilities,
    HpkeKey,
    Keyset,
    Model,
    SignKey,
    Software,
    build_keyset,
    key_id,
)
from teehouse_core.wire.suites import DEFAULT_SUITE
from teehouse_enclave.node.config import Limits

__all__ = ["Identity", "NodeKeys"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What every keyset of this node states besides keys; all of it was measured."""

    endpoint: str
    node: str
    model: Model
    software: Software
    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class _Sealing:
    key: SealingKey
    listed: HpkeKey


class NodeKeys:
    """Makes the first keyset at once; `tick` makes the next when the newest key nears its end."""

    def __init__(self, identity: Identity, limits: Limits, now: int) -> None:
        self._identity = identity
        self._limits = limits
        self._sign = Ed25519PrivateKey.generate()
        pk = self._sign.public_key().public_bytes_raw()
        self._sign_key = SignKey(key_id("ed25519", pk), "ed25519", pk)
        self._newest: _Sealing | None = None
        self.ring = Keyring(limits.key_decrypt_only_s)
        self.tenant_secret = secrets.token_bytes(32)
        """Separates callers' prefix caches; a cache salt is HMAC(this, S) and leaves the process in no other form."""
        self.keyset: Keyset
        self._publish(now)

    @property
    def sign_key(self) -> SignKey:
        """The public half of the key that signs receipts and usage records."""
        return self._sign_key

    @property
    def sign_kid(self) -> str:
        return self._sign_key.kid

    def sign(self, data: bytes) -> bytes:
        """Ed25519 by the key that every keyset of this node lists, 64 bytes."""
        return self._sign.sign(data)

    def tick(self, now: int) -> bool:
        """Rotate when due, forget what is over; True when a new keyset appeared."""
        self.ring.drop_expired(now)
        newest = self._newest
        if newest is not None and now < newest.listed.not_after - self._limits.key_overlap_s:
            return False
        self._publish(now)
        return True

    def _publish(self, now: int) -> None:
        key = generate_key(DEFAULT_SUITE)
        listed = HpkeKey(key_id(key.suite, key.pk), key.suite, key.pk, now, now + self._limits.key_active_s)
        fresh = _Sealing(key, listed)
        # The old key stands beside the new one while it is still active, so that nobody is turned away.
        old = [self._newest] if self._newest is not None and now < self._newest.listed.not_after else []
        raw = build_keyset(
            role="node",
            endpoint=self._identity.endpoint,
            node=self._identity.node,
            hpke=[one.listed for one in (fresh, *old)],
            sign=[self._sign_key],
            model=self._identity.model,
            software=self._identity.software,
            capabilities=self._identity.capabilities,
            not_before=now,
            not_after=listed.not_after,
        )
        self.keyset = Keyset.parse(raw)
        self.ring.publish(self.keyset, [one.key for one in (fresh, *old)])
        self._newest = fresh
