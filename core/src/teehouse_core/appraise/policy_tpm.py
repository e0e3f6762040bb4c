# SPDX-License-Identifier: Apache-2.0
"""The policy's table `tpm`: which registers a TPM quote must cover, their Reference Values, and whose keys count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.policy_fields import Reader, bad, digests, flag, table, texts

__all__ = ["TpmPolicy", "read_tpm"]

_REFERENCE: Final = re.compile(r"(?:[0-9]|1[0-9]|2[0-3])=[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TpmPolicy:
    """Register values are of the SHA-256 bank. The defaults ask for firmware and boot chain, and for their values."""

    pcrs: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)  # the quote must cover at least these
    references: tuple[str, ...] = ()  # "4=<hex SHA-256>"; several of one register mean one of these
    references_required: bool = True
    attestation_keys: tuple[str, ...] = ()  # hex SHA-256 of SubjectPublicKeyInfo: keys that need no certificate
    log_required: bool = False
    secure_boot_required: bool = False
    revocation_required: bool = False  # of an AK certificate: unknown refuses

    def to_json(self) -> dict[str, Any]:
        return {
            "pcrs": list(self.pcrs),
            "references": list(self.references),
            "references_required": self.references_required,
            "attestation_keys": list(self.attestation_keys),
            "log_required": self.log_required,
            "secure_boot_required": self.secure_boot_required,
            "revocation_required": self.revocation_required,
        }


def read_tpm(name: str, item: Any, current: TpmPolicy) -> TpmPolicy:
    """The table as a person wrote it, over the base's values. Raises `LocalError`."""
    return table(name, item, current, _READERS)


def _pcrs(name: str, item: Any) -> tuple[int, ...]:
    ok = isinstance(item, list) and all(type(i) is int and 0 <= i <= 23 for i in item)
    if not ok or len(set(item)) != len(item):
        raise bad(name, "a list of register numbers from 0 to 23, each once")
    return tuple(item)


def _references(name: str, item: Any) -> tuple[str, ...]:
    return texts(name, item, 'texts "<register>=<lower-case hex SHA-256>"', _REFERENCE.fullmatch)


_READERS: Final[dict[str, Reader]] = {
    "pcrs": _pcrs,
    "references": _references,
    "references_required": flag,
    "attestation_keys": digests(32),
    "log_required": flag,
    "secure_boot_required": flag,
    "revocation_required": flag,
}
