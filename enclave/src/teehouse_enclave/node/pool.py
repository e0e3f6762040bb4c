# SPDX-License-Identifier: Apache-2.0
"""A node's share in a pool key: fetched from the key service at boot and for each new pool keyset (PROTOCOL §6).

Failures are tried again and cost nothing that the node has: a pair that is served stays until its own end, whatever the
key service says or does not say meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from teehouse_core.errors import MalformedError, RefusedError, TeehouseError
from teehouse_core.seal.keyring import Keyring
from teehouse_core.seal.pool import MemberProof, check_member, signed_by
from teehouse_core.seal.suite import SealingKey
from teehouse_core.wire.keyset import Keyset, SignKey, key_id
from teehouse_core.wire.pool import POOL_ACTIVE, SignedPool, pool_keyset_message
from teehouse_enclave.keys.algorithms import sealing_key
from teehouse_enclave.node.config import PoolConfig
from teehouse_enclave.node.log import log_event
from teehouse_enclave.node.release import KeyServiceClient, Released

__all__ = ["PoolKeys"]

_ALGORITHM: Final = "mlkem768x25519"
_BACKOFF: Final = 60.0  # seconds between two tries at most
_KEPT: Final = 2  # newest private keys kept for pool keysets that still list them


class PoolKeys:
    """Keeps `ring` holding the pool's newest keyset. `tick` makes one try, `run` goes on until it is cancelled."""

    def __init__(
        self,
        client: KeyServiceClient,
        config: PoolConfig,
        ring: Keyring,
        endpoint: str,
        sign_key: SignKey,
        now: Callable[[], int],
    ) -> None:
        self._client = client
        self._config = config
        self._ring = ring
        self._endpoint = endpoint
        self._sign_key = sign_key
        self._now = now
        self._keys: dict[str, SealingKey] = {}  # by kid, oldest first
        self.keyset: Keyset | None = None
        """The pool keyset that was taken last."""
        self.failures = 0

    @property
    def held(self) -> bool:
        """Whether the newest known pool keyset is served."""
        return self.keyset is not None and self.keyset.sha256 in self._ring.keysets(self._now())

    async def tick(self) -> bool:
        """Take the pool keyset that the key service publishes now; True when it is a new one.

        Raises TeehouseError; nothing that is held is lost then.
        """
        signed = SignedPool.parse(await self._client.signed_pool(self._endpoint, self._config.tenant))
        keyset = Keyset.parse(signed.keyset)
        if self.keyset is not None and keyset.sha256 == self.keyset.sha256:
            return False
        await self._check(keyset, signed.sig)
        pool = keyset.pool
        if pool is None:
            raise MalformedError("not a pool keyset", code="role-mismatch")
        released = await self._client.release(
            tenant=self._config.tenant,
            ring=pool.ring,
            key=pool.key,
            version=pool.version,
            pool_keyset_sha256=keyset.sha256,
        )
        self._take(keyset, released)
        return True

    async def run(self) -> None:
        """Look for a new pool keyset every few seconds; after a failure wait longer each time."""
        while True:
            try:
                if await self.tick() and self.keyset is not None:
                    log_event("pool-keyset", keyset_sha256=self.keyset.sha256)
                self.failures = 0
            except TeehouseError as error:
                self.failures += 1
                log_event("pool-failed", code=error.code, hint=error.hint or "", failures=self.failures)
            wait = min(self._config.poll_s * 2.0 ** min(self.failures, 5), _BACKOFF)
            await asyncio.sleep(wait * (0.5 + secrets.randbelow(500) / 1000))  # members do not all ask at once

    async def _check(self, keyset: Keyset, sig: bytes) -> None:
        """Raises RefusedError unless this is this endpoint's pool, valid now, of the appraised key service."""
        pool = keyset.pool
        named = pool.tks_keyset_sha256 if pool else ""
        service = await self._client.service(keyset_sha256=named)
        if not signed_by(service, pool_keyset_message(keyset.digest), sig):
            raise RefusedError("the key service did not sign this pool keyset", code="pool-signature")
        wanted = (self._endpoint, self._config.ring, self._config.key)
        if pool is None or (keyset.endpoint, pool.ring, pool.key) != wanted:
            raise RefusedError("the pool is not the one of this node's configuration", code="pool-other")
        spans = [(keyset.not_before, keyset.not_after), *((key.not_before, key.not_after) for key in keyset.hpke)]
        if any(end - start > POOL_ACTIVE for start, end in spans) or self._now() >= keyset.not_after:
            raise RefusedError("the pool keyset is over, or lives too long", code="pool-lifetime")

    def _take(self, keyset: Keyset, released: Released) -> None:
        """Raises RefusedError unless the key stands in the keyset and the certificate is this node's."""
        if released.grant.algorithm != _ALGORITHM or released.member is None:
            raise RefusedError("the key service granted no pool key", code="pool-key")
        key = sealing_key(released.key)
        kid = key_id(key.suite, key.pk)
        if keyset.hpke_key(kid) is None:
            raise RefusedError("the released key is not in the pool keyset", code="pool-key")
        member = self._member(keyset, released)
        self._keys[kid] = key
        while len(self._keys) > _KEPT:
            self._keys.pop(next(iter(self._keys)))
        self._ring.publish(keyset, list(self._keys.values()), member)
        self.keyset = keyset

    def _member(self, keyset: Keyset, released: Released) -> MemberProof:
        proof = released.member
        if proof is None:
            raise RefusedError("the key service gave no member certificate", code="pool-member")
        certificate = check_member(proof, service=released.service, pool=keyset, at=self._now())
        if certificate.sign_pk != self._sign_key.pk:
            raise RefusedError("the member certificate is for another signing key", code="pool-member")
        return proof
