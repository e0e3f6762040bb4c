# SPDX-License-Identifier: Apache-2.0
"""Sealing on SEV-SNP: a key that the security processor derives for this measurement on this chip.

SNP_GET_DERIVED_KEY (AMD 56860 §7.2; include/uapi/linux/sev-guest.h) mixes into a secret of the chip what `FIELDS` and
`svn` name. Bound are: the chip, the guest policy, the launch measurement, family and image id, and nothing of the
workload that HOST_DATA stands for, because the firmware cannot mix it: the measured image must itself refuse to start
another workload. The key is the same at each start and on no other chip: moving the guest, or another launch image,
loses the root, so have a second service or an HSM before that.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from teehouse_core.errors import LocalError
from teehouse_core.wire.labels import L
from teehouse_enclave.platform.sev_guest import SevDevice

__all__ = ["FIELDS", "SnpBackend"]

FIELDS: Final = 0b00_1111  # guest policy, image id, family id, measurement; not SVN and TCB, which may rise
NONCE: Final = 12  # bytes
_AAD: Final = L("tks snp root")


class SnpBackend:
    """Implements `RootBackend` over /dev/sev-guest."""

    name = "snp"
    simulated = False

    def __init__(self, device: SevDevice | None = None) -> None:
        derived = (device or SevDevice()).derived_key(FIELDS)
        self._key = HKDF(SHA256(), 32, None, _AAD).derive(derived)

    def seal(self, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE)  # one or two records in a machine's life
        return nonce + AESGCM(self._key).encrypt(nonce, secret, _AAD)

    def unseal(self, sealed: bytes) -> bytes:
        try:
            return AESGCM(self._key).decrypt(sealed[:NONCE], sealed[NONCE:], _AAD)
        except (InvalidTag, ValueError):
            hint = "the root was sealed on another chip, or for another launch measurement or guest policy"
            raise LocalError("the root does not open here", code="root-sealed-elsewhere", hint=hint) from None

    def close(self) -> None:
        """Nothing is held."""
