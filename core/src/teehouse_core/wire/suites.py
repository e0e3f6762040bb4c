# SPDX-License-Identifier: Apache-2.0
"""The two suites of PROTOCOL §1 by name and size; the ciphers themselves are in `teehouse_core.seal`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_SUITE", "HIGH_SUITE", "SUITES", "SuiteSizes"]


@dataclass(frozen=True, slots=True)
class SuiteSizes:
    """Byte sizes of one HPKE suite."""

    pk: int  # public key, bytes
    enc: int  # encapsulated key, bytes

    @property
    def envelope(self) -> int:
        """enc ‖ sealed CEK ‖ R ‖ S ‖ tag, bytes."""
        return self.enc + 96 + 16


DEFAULT_SUITE = "mlkem768x25519-hkdfsha256-aes256gcm"
HIGH_SUITE = "mlkem1024p384-hkdfsha384-aes256gcm"
SUITES: dict[str, SuiteSizes] = {DEFAULT_SUITE: SuiteSizes(1216, 1120), HIGH_SUITE: SuiteSizes(1665, 1665)}
