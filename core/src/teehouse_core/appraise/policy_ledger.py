# SPDX-License-Identifier: Apache-2.0
"""The part of an Appraisal Policy that speaks of the public ledger: the table `ledger`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.policy_fields import Reader, count, flag, table, texts
from teehouse_core.errors import MalformedError
from teehouse_core.log.note import COSIGNATURE_V1, ED25519, VerifierKey
from teehouse_core.log.quorum import MAX_WITNESSES, Witness

__all__ = ["LedgerPolicy", "read_ledger"]


@dataclass(frozen=True, slots=True)
class LedgerPolicy:
    """Whose logs and witnesses count. No log: evidence over a checkpoint (challenge kind 2) is refused.

    `quorum` counts witnesses of different operators; 0 is *no witness*, and then a checkpoint proves no age. With
    `required` a keyset that is not in the ledger is refused, whatever the challenge.
    """

    logs: tuple[str, ...] = ()  # verifier keys, "<origin>+<id>+<key>"
    witnesses: tuple[str, ...] = ()  # "<operator> <verifier key>"
    quorum: int = 2
    required: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "logs": list(self.logs),
            "witnesses": list(self.witnesses),
            "quorum": self.quorum,
            "required": self.required,
        }

    def log_keys(self, origin: str) -> tuple[VerifierKey, ...]:
        """The pinned keys of the log of that origin."""
        return tuple(key for key in map(VerifierKey.parse, self.logs) if key.name == origin)

    def pinned_witnesses(self) -> tuple[Witness, ...]:
        return tuple(_witness(text) for text in self.witnesses)


def read_ledger(name: str, item: Any, current: LedgerPolicy) -> LedgerPolicy:
    """`current` changed by the members of `item`. Raises `LocalError` (`policy-field`, `policy-value`)."""
    return table(name, item, current, _READERS)


def _witness(text: str) -> Witness:
    operator, _, key = text.partition(" ")
    vkey = VerifierKey.parse(key)
    return Witness(vkey.name, vkey, operator)


def _is_log(text: str) -> bool:
    try:
        return VerifierKey.parse(text).alg == ED25519
    except MalformedError:
        return False


def _is_witness(text: str) -> bool:
    try:
        witness = _witness(text)
    except MalformedError:
        return False
    return bool(witness.operator) and witness.vkey.alg == COSIGNATURE_V1


def _logs(name: str, item: Any) -> tuple[str, ...]:
    return texts(name, item, 'log keys as "<origin>+<id>+<key>"', _is_log)


def _witnesses(name: str, item: Any) -> tuple[str, ...]:
    return texts(name, item, 'witnesses as "<operator> <name>+<id>+<key>"', _is_witness)


_READERS: Final[dict[str, Reader]] = {
    "logs": _logs,
    "witnesses": _witnesses,
    "quorum": count(0, MAX_WITNESSES),
    "required": flag,
}
