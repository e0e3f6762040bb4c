# SPDX-License-Identifier: Apache-2.0
"""The keys a node holds and the (kid, keyset) pairs it published (PROTOCOL §5). In memory only, by construction."""

from __future__ import annotations

from dataclasses import dataclass

from teehouse_core.errors import LocalError
from teehouse_core.seal.pool import MemberProof
from teehouse_core.seal.suite import SealingKey
from teehouse_core.wire.keyset import Keyset, key_id

__all__ = ["DECRYPT_ONLY", "HeldKey", "Keyring"]

DECRYPT_ONLY = 600  # seconds after not_after in which a request under way may still be opened


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A private key together with one keyset that this node published it in, or that the key service did (a pool)."""

    key: SealingKey
    keyset: Keyset
    end: int  # Unix seconds; after it the pair is not served
    member: MemberProof | None = None  # of a pool: that this node was given the key


class Keyring:
    """Answers only for pairs published *together*: another node's keyset that borrows our key opens nothing here."""

    def __init__(self, decrypt_only: int = DECRYPT_ONLY) -> None:
        self._decrypt_only = decrypt_only
        self._pairs: dict[tuple[str, str], HeldKey] = {}

    def publish(self, keyset: Keyset, keys: list[SealingKey], member: MemberProof | None = None) -> None:
        """Serve every key of `keys` that stands in `keyset`, until its decrypt-only time is over.

        `member` is given for a pool keyset and for no other: without it no client takes an answer.
        """
        if (keyset.pool is not None) != (member is not None):
            raise LocalError("a pool keyset is served with a member certificate, another without", code="pool-member")
        for key in keys:
            kid = key_id(key.suite, key.pk)
            listed = keyset.hpke_key(kid)
            if listed is not None:
                self._pairs[kid, keyset.sha256] = HeldKey(key, keyset, listed.not_after + self._decrypt_only, member)

    def get(self, kid: str, keyset_sha256: str, now: int) -> HeldKey | None:
        """The pair, unless it was never published or is over at `now`."""
        held = self._pairs.get((kid, keyset_sha256))
        return held if held is not None and now <= held.end else None

    def drop_expired(self, now: int) -> None:
        """Forget pairs that are over; their private keys go with them."""
        self._pairs = {pair: held for pair, held in self._pairs.items() if now <= held.end}

    def keysets(self, now: int) -> list[str]:
        """keyset_sha256 of every keyset still served."""
        return sorted({sha for (_, sha), held in self._pairs.items() if now <= held.end})
