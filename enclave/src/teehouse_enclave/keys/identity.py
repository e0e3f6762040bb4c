# SPDX-License-Identifier: Apache-2.0
"""The key service's own keyset, role `key-service`: HPKE keys for imports, a signing key per boot, the log's key.

The signing key and the HPKE keys live and die in this process. The log's key outlives it: it is derived from the root
key, so whoever holds the root is the same log. All of them stand in the keyset that evidence speaks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.seal.suite import SealingKey, generate_key, hpke_open
from teehouse_core.wire.keyset import Capabilities, HpkeKey, Keyset, Model, SignKey, Software, build_keyset, key_id
from teehouse_core.wire.suites import DEFAULT_SUITE

__all__ = ["CAPABILITIES", "ServiceKeys"]

CAPABILITIES = Capabilities(egress="none", content_logging="none", moderation="none", doors=())
NO_MODEL = Model("", "")


@dataclass(frozen=True, slots=True)
class _Published:
    keyset: Keyset
    keys: tuple[SealingKey, ...]
    ends: int  # Unix seconds at which nothing sealed to it opens any more


class ServiceKeys:
    """Makes the first keyset at once; `tick` makes the next when the newest HPKE key nears its end.

    `active`, `overlap` and `decrypt_only` are seconds, as of a node's keys (PROTOCOL §5).
    """

    def __init__(
        self,
        name: str,
        software: Software,
        log_key: Ed25519PrivateKey,
        now: int,
        *,
        active: int = 3600,
        overlap: int = 600,
        decrypt_only: int = 600,
        capabilities: Capabilities = CAPABILITIES,
    ) -> None:
        self._name = name
        self._software = software
        self._capabilities = capabilities
        self._active, self._overlap, self._decrypt_only = active, overlap, decrypt_only
        self._sign = Ed25519PrivateKey.generate()
        self._sign_key = _listed(self._sign)
        self._log_key = _listed(log_key)
        self._published: list[_Published] = []
        self._newest: tuple[SealingKey, HpkeKey] | None = None
        self.keyset: Keyset
        self._publish(now)

    @property
    def sign_kid(self) -> str:
        return self._sign_key.kid

    def sign(self, data: bytes) -> bytes:
        """Ed25519 by the key of this boot, 64 bytes."""
        return self._sign.sign(data)

    def digests(self, now: int) -> frozenset[str]:
        """keyset_sha256 of every keyset that a command or request may still name."""
        return frozenset(one.keyset.sha256 for one in self._published if now < one.ends)

    def keyset_of(self, keyset_sha256: str, now: int) -> Keyset | None:
        """The published keyset of that digest while it lives."""
        found = (one.keyset for one in self._published if one.keyset.sha256 == keyset_sha256 and now < one.ends)
        return next(found, None)

    def open(self, kid: str, info: bytes, sealed: bytes, now: int) -> bytes | None:
        """Open what was sealed to the HPKE key `kid` of a living keyset; None when there is no such key.

        Raises MalformedError (`envelope`).
        """
        for one in self._published:
            for key in one.keys:
                if now < one.ends and key_id(key.suite, key.pk) == kid:
                    return hpke_open(key, info, sealed)
        return None

    def tick(self, now: int, announce: Callable[[Keyset], None] | None = None) -> bool:
        """Rotate when due, forget what is over; True when a new keyset appeared."""
        self._published = [one for one in self._published if now < one.ends]
        if self._newest is not None and now < self._newest[1].not_after - self._overlap:
            return False
        self._publish(now)
        if announce is not None:
            announce(self.keyset)
        return True

    def _publish(self, now: int) -> None:
        key = generate_key(DEFAULT_SUITE)
        listed = HpkeKey(key_id(key.suite, key.pk), key.suite, key.pk, now, now + self._active)
        keys = [(key, listed)]
        if self._newest is not None and now < self._newest[1].not_after:
            keys.append(self._newest)
        raw = build_keyset(
            role="key-service",
            endpoint="",
            node=self._name,
            hpke=[one for _, one in keys],
            sign=[self._sign_key, self._log_key],
            model=NO_MODEL,
            software=self._software,
            capabilities=self._capabilities,
            not_before=now,
            not_after=listed.not_after,
        )
        self.keyset = Keyset.parse(raw)
        ends = listed.not_after + self._decrypt_only
        self._published.append(_Published(self.keyset, tuple(private for private, _ in keys), ends))
        self._newest = (key, listed)


def _listed(key: Ed25519PrivateKey) -> SignKey:
    pk = key.public_key().public_bytes_raw()
    return SignKey(key_id("ed25519", pk), "ed25519", pk)
