# SPDX-License-Identifier: Apache-2.0
"""The sheet on which checks are written down: each catalogue id at most once, and none left blank.

A check function that raises is a check that failed. That is the one place where an unexpected exception is caught: a
parser deep inside a library may raise anything on hostile bytes, and the answer to that is always "refused".
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from teehouse_core.appraise.anchors import PINNED, Anchors
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.verdict import Check, State
from teehouse_core.errors import LocalError, TeehouseError

__all__ = ["Outcome", "Sheet", "equal", "failed", "not_applicable", "one_of", "passed", "skipped"]

MAX_SHOWN = 200  # characters of a claimed or expected value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one check found."""

    state: State
    claimed: str = ""
    expected: str = ""
    hint: str = ""


def passed(claimed: object = "", expected: object = "") -> Outcome:
    return Outcome("passed", _show(claimed), _show(expected))


def failed(hint: str, claimed: object = "", expected: object = "") -> Outcome:
    return Outcome("failed", _show(claimed), _show(expected), hint)


def skipped(hint: str, claimed: object = "", expected: object = "") -> Outcome:
    return Outcome("skipped", _show(claimed), _show(expected), hint)


def not_applicable(hint: str) -> Outcome:
    return Outcome("not-applicable", hint=hint)


def equal(claimed: object, expected: object, hint: str) -> Outcome:
    """Passed when both are equal. Not for secrets: the comparison is not in constant time."""
    return passed(claimed, expected) if claimed == expected else failed(hint, claimed, expected)


def one_of(claimed: str, allowed: tuple[str, ...], hint: str) -> Outcome:
    expected = " or ".join(allowed) or "none"
    return passed(claimed, expected) if claimed in allowed else failed(hint, claimed, expected)


class Sheet:
    """Collects checks in the order they are made; `finish` orders them as the catalogue does.

    `anchors` are the roots under which its checks are made.
    """

    def __init__(self, anchors: Anchors = PINNED) -> None:
        self.anchors = anchors
        self._checks: dict[str, Check] = {}

    def run(
        self,
        check_id: str,
        check: Callable[[], Outcome],
        *,
        required: bool | None = None,
        needs: tuple[object, ...] = (),
        failure_refuses: bool = False,
    ) -> bool:
        """Make one check and write it down; True when it passed. A None among `needs` skips it.

        With `failure_refuses`, a check that need not be made still refuses when it was made and failed.
        """
        if any(need is None for need in needs):
            return self.write(check_id, skipped("what this check needs did not parse or is missing"), required)
        try:
            outcome = check()
        except TeehouseError as error:
            outcome = failed(f"{error.message} ({error.code})")
        except Exception:
            outcome = failed("the bytes this check reads are malformed")
        return self.write(check_id, outcome, required or (failure_refuses and outcome.state == "failed"))

    def write(self, check_id: str, outcome: Outcome, required: bool | None = None) -> bool:
        spec = CATALOGUE[check_id]
        if check_id in self._checks:
            raise LocalError(f"check {check_id} is made twice", code="check-id")
        self._checks[check_id] = Check(
            id=check_id,
            group=spec.group,
            state=outcome.state,
            claimed=outcome.claimed,
            expected=outcome.expected,
            source=spec.source,
            clause=spec.clause,
            hint=outcome.hint,
            required=spec.required or bool(required),
        )
        return outcome.state == "passed"

    def check(self, check_id: str) -> Check | None:
        """The check of that id, or None when it was not made yet."""
        return self._checks.get(check_id)

    def state(self, check_id: str) -> State | None:
        check = self._checks.get(check_id)
        return None if check is None else check.state

    def refusing(self) -> tuple[Check, ...]:
        """The checks made so far that refuse, in the order they were made."""
        return tuple(check for check in self._checks.values() if check.refuses)

    def finish(self, applies: Collection[str] | None = None, *, only: bool = False) -> tuple[Check, ...]:
        """Every id of the catalogue, in its order. One that nobody made is skipped, or not applicable when it is
        outside `applies` (None: all apply). With `only`, what is neither made nor in `applies` is left out.
        """
        for check_id in CATALOGUE:
            if check_id in self._checks:
                continue
            if applies is None or check_id in applies:
                self.write(check_id, skipped("this check was not made"))
            elif not only:
                self.write(check_id, not_applicable("a check of another technology"))
        return tuple(self._checks[check_id] for check_id in CATALOGUE if check_id in self._checks)


def _show(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
