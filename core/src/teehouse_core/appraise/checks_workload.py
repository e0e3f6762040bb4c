# SPDX-License-Identifier: Apache-2.0
"""Checks of what runs inside: the workload log against the register that binds it, and against Reference Values.

A Reference Value that the policy lists is required to match; one that the policy requires but does not list is a
skipped required check, which refuses. Firmware measurements are compared by the technology's own checks.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, one_of, passed, skipped
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.replay import EVENTS, event_digest

__all__ = ["Measured", "check_reference", "check_workload"]

Measured = dict[str, str]
"""Event name to content, of a log that passed all three `workload.log.…` checks."""


def check_workload(
    sheet: Sheet,
    bundle: Bundle,
    register: bytes | None,
    log_register: Callable[[Iterable[bytes]], bytes] | None,
    name: str,
    policy: Policy,
) -> Measured | None:
    """Make the `workload.…` checks; the log's values, or None when it cannot be read.

    `register` is what the report holds under `name`, `log_register` what the log's digests make of it.
    """
    log_fits = sheet.run("workload.log.digests", lambda: _digests(bundle))
    log_fits &= sheet.run(
        "workload.log.replay", lambda: _replay(bundle, register, log_register, name), needs=(register, log_register)
    )
    events = sheet.run("workload.log.events", lambda: _events(bundle))
    measured = {e.event: e.content.decode("ascii") for e in bundle.workload_log} if events else None

    for event in ("image_sha256", "config_sha256", "weights_sha256", "release"):
        text = measured.get(event) if measured and log_fits else None
        check_reference(sheet, f"workload.reference.{event.replace('_', '-')}", event, text, policy)
    return measured


def _digests(bundle: Bundle) -> Outcome:
    for entry in bundle.workload_log:
        expected = event_digest(entry.event, entry.content)
        if not hmac.compare_digest(entry.digest, expected):
            return failed(f"the digest of {entry.event} is not that of its content", entry.digest, expected)
    return passed(f"{len(bundle.workload_log)} entries", "each digest recomputes")


def _replay(
    bundle: Bundle, register: bytes | None, log_register: Callable[[Iterable[bytes]], bytes] | None, name: str
) -> Outcome:
    held = register or b""
    replayed = log_register(entry.digest for entry in bundle.workload_log) if log_register else b""
    if replayed and hmac.compare_digest(replayed, held):
        return passed(replayed, held)
    return failed(f"the log is not what {name} stands for", replayed, held)


def _events(bundle: Bundle) -> Outcome:
    names = [entry.event for entry in bundle.workload_log]
    claimed, expected = " ".join(names), " ".join(EVENTS)
    if len(set(names)) != len(names):
        return failed("an event stands twice: what was measured is ambiguous", claimed, expected)
    if unknown := sorted(set(names) - set(EVENTS)):
        return failed(f"unknown events were measured: {' '.join(unknown)}", claimed, expected)
    if missing := [name for name in EVENTS if name not in names]:
        return failed(f"events were not measured: {' '.join(missing)}", claimed, expected)
    if not all(entry.content.isascii() for entry in bundle.workload_log):
        return failed("an event's content is not ASCII", claimed, expected)
    return passed(claimed, expected)


def check_reference(sheet: Sheet, check_id: str, name: str, value: str | None, policy: Policy) -> None:
    """Compare one measured value with the policy's list of that name; see the module's own text for what refuses."""
    allowed: tuple[str, ...] = getattr(policy.references, name)
    required = name in policy.required_references or bool(allowed)
    if not allowed:
        sheet.write(check_id, skipped(f"the policy lists no {name} to compare with", value or ""), required)
    else:
        hint = f"{name} is none of the policy's reference values"
        sheet.run(check_id, lambda: one_of(value or "", allowed, hint), required=required, needs=(value,))
