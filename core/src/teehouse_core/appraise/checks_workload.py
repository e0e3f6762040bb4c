# SPDX-License-Identifier: Apache-2.0
"""Checks of what runs inside: the workload log against RTMR3, and measurements against Reference Values.

A Reference Value that the policy lists is required to match; one that the policy requires but does not list is a
skipped required check, which refuses. Firmware event logs (RTMR0 to RTMR2) are compared as final values only.
"""

from __future__ import annotations

import hmac

from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, one_of, passed, skipped
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.replay import EVENTS, event_digest, replay
from teehouse_core.evidence.tdx import TdReport

__all__ = ["Measured", "check_workload"]

Measured = dict[str, str]
"""Event name to content, of a log that passed all three `workload.log.…` checks."""


def check_workload(sheet: Sheet, bundle: Bundle, report: TdReport | None, policy: Policy) -> Measured | None:
    """Make the `workload.…` and `tdx.reference.…` checks; the log's values, or None when it cannot be read."""
    log_fits = sheet.run("workload.log.digests", lambda: _digests(bundle))
    log_fits &= sheet.run("workload.log.replay", lambda: _replay(bundle, report), needs=(report,))
    events = sheet.run("workload.log.events", lambda: _events(bundle))
    measured = {e.event: e.content.decode("ascii") for e in bundle.workload_log} if events else None

    rtmr = dict(enumerate(report.rtmr)) if report else {}
    for name, value in {
        "mrtd": report.mr_td if report else None,
        **{f"rtmr{n}": rtmr.get(n) for n in range(4)},
    }.items():
        _reference(sheet, f"tdx.reference.{name}", name, value.hex() if value is not None else None, policy)
    for name in ("image_sha256", "config_sha256", "weights_sha256", "release"):
        text = measured.get(name) if measured and log_fits else None
        _reference(sheet, f"workload.reference.{name.replace('_', '-')}", name, text, policy)
    return measured


def _digests(bundle: Bundle) -> Outcome:
    for entry in bundle.workload_log:
        expected = event_digest(entry.event, entry.content)
        if not hmac.compare_digest(entry.digest, expected):
            return failed(f"the digest of {entry.event} is not that of its content", entry.digest, expected)
    return passed(f"{len(bundle.workload_log)} entries", "each digest recomputes")


def _replay(bundle: Bundle, report: TdReport | None) -> Outcome:
    replayed = replay(entry.digest for entry in bundle.workload_log)
    register = report.rtmr[3] if report else b""
    if hmac.compare_digest(replayed, register):
        return passed(replayed, register)
    return failed("the log is not what was extended into RTMR3", replayed, register)


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


def _reference(sheet: Sheet, check_id: str, name: str, value: str | None, policy: Policy) -> None:
    allowed: tuple[str, ...] = getattr(policy.references, name)
    required = name in policy.required_references or bool(allowed)
    if not allowed:
        sheet.write(check_id, skipped(f"the policy lists no {name} to compare with", value or ""), required)
    else:
        hint = f"{name} is none of the policy's reference values"
        sheet.run(check_id, lambda: one_of(value or "", allowed, hint), required=required, needs=(value,))
