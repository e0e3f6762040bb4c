# SPDX-License-Identifier: Apache-2.0
"""Signing and checking commands to the Trusted Key Service, and sealing keys on their way in and out (KEYS §1).

The client signs and seals with it, the service checks and opens; both use the same lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teehouse_core.seal.suite import SealingKey, hpke_open, hpke_seal
from teehouse_core.wire.commands import COMMAND_LABEL, CommandSignature, export_info, import_info
from teehouse_core.wire.keyset import HpkeKey, key_id
from teehouse_core.wire.labels import L

__all__ = ["open_export", "seal_import", "sign_command", "valid_signers"]


def sign_command(raw: bytes, key: Ed25519PrivateKey) -> CommandSignature:
    """One admin's signature over L("tks command") ‖ command."""
    pk = key.public_key().public_bytes_raw()
    return CommandSignature(key_id("ed25519", pk), key.sign(L(COMMAND_LABEL) + raw))


def valid_signers(raw: bytes, signatures: Iterable[CommandSignature], keys: Mapping[str, bytes]) -> frozenset[str]:
    """The distinct kids of `keys` (kid → Ed25519 public key) whose signature over the command holds.

    Signatures of other keys, and wrong ones, count for nothing; how many are enough is the caller's to say.
    """
    found: set[str] = set()
    message = L(COMMAND_LABEL) + raw
    for signature in signatures:
        pk = keys.get(signature.kid)
        if pk is None or signature.kid in found:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(pk).verify(signature.sig, message)
        except (InvalidSignature, ValueError):
            continue
        found.add(signature.kid)
    return frozenset(found)


def seal_import(to: HpkeKey, key: bytes, *, tenant: str, ring: str, name: str, algorithm: str) -> bytes:
    """Seal key bytes to a key of the accepted service keyset: the payload of `key.import` and `key.rotate`."""
    return hpke_seal(to.suite, to.pk, import_info(tenant, ring, name, algorithm), key)


def open_export(key: SealingKey, sealed: bytes, command_sha256: str) -> bytes:
    """Open what `key.export` answered to this command. Raises MalformedError (`envelope`)."""
    return hpke_open(key, export_info(command_sha256), sealed)
