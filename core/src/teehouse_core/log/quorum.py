# SPDX-License-Identifier: Apache-2.0
"""Who must have seen a checkpoint before it is believed: a quorum of witnesses of different operators.

Stands on `signing`, so the store of a log cannot import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from teehouse_core.errors import LocalError
from teehouse_core.log.errors import LogQuorumError
from teehouse_core.log.note import COSIGNATURE_V1, Note, VerifierKey
from teehouse_core.log.signing import verify_signature
from teehouse_core.wire.fields import NAME, Fields

__all__ = ["MAX_WITNESSES", "QuorumResult", "Witness", "WitnessPolicy"]

MAX_WITNESSES = 32


@dataclass(frozen=True, slots=True)
class Witness:
    """A pinned witness. `operator` says who runs it; two witnesses of one operator count once."""

    name: str
    vkey: VerifierKey
    operator: str


@dataclass(frozen=True, slots=True)
class QuorumResult:
    """Which of the pinned witnesses signed.

    `count` is that of different operators. `completed_at` (Unix seconds) is the earliest time at which the quorum was
    complete; None without a quorum, and when the policy asks for none: then nothing shows any age.
    """

    quorum: int
    count: int
    operators: tuple[str, ...]
    names: tuple[str, ...]
    completed_at: int | None

    @property
    def met(self) -> bool:
        return self.count >= self.quorum


@dataclass(frozen=True, slots=True)
class WitnessPolicy:
    """Pinned witnesses, and how many different operators must have signed; 0 is shown as *no witness*."""

    witnesses: tuple[Witness, ...]
    quorum: int

    def __post_init__(self) -> None:
        operators = {item.operator for item in self.witnesses}
        if len(self.witnesses) > MAX_WITNESSES or not 0 <= self.quorum <= len(operators):
            raise LocalError(
                "the quorum asks for more operators than there are",
                code="witness-policy",
                hint="Pin at least as many witnesses of different operators as the quorum asks for.",
            )
        if len({item.vkey.key for item in self.witnesses}) != len(self.witnesses):
            # A cosignature/v1 does not cover the cosigner's name: one key under two names would count twice.
            raise LocalError("one witness key is pinned twice", code="witness-policy")
        for item in self.witnesses:
            if item.vkey.alg != COSIGNATURE_V1 or item.vkey.name != item.name or not item.operator:
                raise LocalError("a witness needs its name, cosignature key and operator", code="witness-policy")

    @classmethod
    def none(cls) -> WitnessPolicy:
        """Quorum 0 of nobody: *no witness*."""
        return cls((), 0)

    def check(self, note: Note) -> QuorumResult:
        """Count the pinned witnesses that signed. Raises LogSignatureError when a pinned witness's does not verify."""
        first: dict[str, int] = {}
        names = []
        for item in self.witnesses:
            if not note.by(item.vkey):
                continue
            time = verify_signature(note, item.vkey) or 0
            first[item.operator] = min(time, first.get(item.operator, time))
            names.append(item.name)
        times = sorted(first.values())
        complete = 0 < self.quorum <= len(times)
        return QuorumResult(
            quorum=self.quorum,
            count=len(first),
            operators=tuple(sorted(first)),
            names=tuple(names),
            completed_at=times[self.quorum - 1] if complete else None,
        )

    def require(self, note: Note) -> QuorumResult:
        """`check`, and LogQuorumError when too few signed."""
        result = self.check(note)
        if not result.met:
            raise LogQuorumError(
                f"{result.count} of {self.quorum} witness operators signed this checkpoint",
                hint="Wait for the witnesses, or ask the log's operator why they do not sign.",
            )
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "quorum": self.quorum,
            "witnesses": [{"vkey": item.vkey.text, "operator": item.operator} for item in self.witnesses],
        }

    @classmethod
    def read(cls, value: Any) -> WitnessPolicy:
        """`{"quorum","witnesses":[{"vkey","operator"}]}`. Raises MalformedError or LocalError."""
        top = Fields(value, "witness policy")
        witnesses = []
        for raw in top.items("witnesses", 0, MAX_WITNESSES):
            item = Fields(raw, "witness")
            vkey = VerifierKey.parse(item.take("vkey", str))
            witnesses.append(Witness(vkey.name, vkey, item.text("operator", NAME)))
            item.done()
        policy = cls(tuple(witnesses), top.integer("quorum", 0, MAX_WITNESSES))
        top.done()
        return policy
