# SPDX-License-Identifier: Apache-2.0
"""Three attacks that the demo plays against itself, and what counts as refusing them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from teehouse.demo.liar import HONEST, Liar, Lie, cut_final_record, flip_bit, swap_keys
from teehouse.session.sync import Session
from teehouse.settings import Settings
from teehouse_core.errors import EvidenceRefused, MalformedError, TeehouseError, TruncatedStream

__all__ = ["ATTACKS", "Attack", "Outcome", "play", "play_honest"]


@dataclass(frozen=True, slots=True)
class Attack:
    """One lie. Refused means: this very error, for this very reason; anything else is a failure of the demo."""

    name: str
    title: str
    lie: Lie
    error: type[TeehouseError]
    because: Callable[[TeehouseError], bool]
    told: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attack ended. `shown` is the number of answer bytes that reached the user before the refusal."""

    attack: Attack
    refused: bool
    code: str
    detail: str
    shown: int


def _binding_failed(error: TeehouseError) -> bool:
    if not isinstance(error, EvidenceRefused) or error.verdict is None:
        return False
    return any(check.id == "binding.report-data" and check.state == "failed" for check in error.verdict.checks)


ATTACKS: Final = (
    Attack(
        "flip-bit",
        "a gateway that flips one bit of the answer",
        Lie(answer=flip_bit),
        MalformedError,
        lambda _error: True,
        "the record does not authenticate",
    ),
    Attack(
        "swap-key",
        "a gateway that swaps the node's key for its own",
        Lie(evidence=swap_keys),
        EvidenceRefused,
        _binding_failed,
        "the quote does not cover that keyset; nothing was sent",
    ),
    Attack(
        "truncate",
        "a gateway that cuts the answer's last record off",
        Lie(answer=cut_final_record),
        TruncatedStream,
        lambda _error: True,
        "the final record never came",
    ),
)


def play(attack: Attack, settings: Settings, endpoint: str, body: bytes) -> Outcome:
    """Ask through a lying gateway, in a session of its own that has accepted nothing yet."""
    shown = 0
    with Liar(settings.need_base_url(), attack.lie) as liar:
        try:
            with Session(dataclasses.replace(settings, base_url=liar.url)) as session:
                shown = _ask(session, endpoint, body)
        except TeehouseError as error:
            right = isinstance(error, attack.error) and attack.because(error) and liar.touched
            detail = attack.told if right else f"refused for another reason: {error.message}"
            return Outcome(attack, right, error.code, detail, shown)
    return Outcome(attack, False, "none", "NOT REFUSED: the answer was taken for whole", shown)


def play_honest(settings: Settings, endpoint: str, body: bytes) -> None:
    """The same relay without a lie must answer, or the refusals above would prove nothing. Raises what goes wrong."""
    relay = Liar(settings.need_base_url(), HONEST)
    with relay, Session(dataclasses.replace(settings, base_url=relay.url)) as session:
        _ask(session, endpoint, body)


def _ask(session: Session, endpoint: str, body: bytes) -> int:
    with session.request(endpoint, "chat.completions", body) as answer:
        return sum(len(piece) for piece in answer)
