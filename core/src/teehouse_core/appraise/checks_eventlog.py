# SPDX-License-Identifier: Apache-2.0
"""Checks of a boot event log: its digests are those of its data, and it leads to the registers of a TD.

RTMR3 is not compared: the node extends it after the firmware's log ended, and `workload.log.replay` holds it. A log
says what was measured, and the registers alone already say that it was; so a bundle without one is judged by its
Reference Values, and a log that is there must be right.
"""

from __future__ import annotations

from teehouse_core.appraise.sheet import Outcome, Sheet, failed, not_applicable, passed
from teehouse_core.evidence.eventlog import EventLog, digest_problem, parse_event_log, rtmrs

__all__ = ["check_td_log", "log_digests"]

_IDS = ("eventlog.format", "eventlog.digests", "eventlog.replay")


def check_td_log(sheet: Sheet, raw: bytes | None, registers: tuple[bytes, ...] | None) -> None:
    """Make the `eventlog.…` checks of a bundle of a TD; `registers` are RTMR0 to RTMR3 of its quote."""
    if raw is None:
        for check_id in _IDS:
            sheet.write(check_id, not_applicable("the bundle carries no event log"))
        return
    found: list[EventLog] = []

    def parse() -> Outcome:
        found.append(parse_event_log(raw))
        return passed(f"{len(found[0].events)} events, banks {' '.join(found[0].banks)}", "an event log")

    def boot() -> Outcome:
        replayed = rtmrs(found[0])
        for number, (mine, quoted) in enumerate(zip(replayed[:3], (registers or ())[:3], strict=True)):
            if mine != quoted:
                return failed(f"the log does not lead to RTMR{number} of the quote: stale, cut or forged", mine, quoted)
        return passed("RTMR0 to RTMR2", "the registers of the quote")

    sheet.run("eventlog.format", parse)
    log = found[0] if found else None
    sheet.run("eventlog.digests", lambda: log_digests(found[0]), needs=(log,))
    sheet.run("eventlog.replay", boot, needs=(log, registers))


def log_digests(log: EventLog) -> Outcome:
    """Whether each digest that must be the hash of its event's data is that."""
    for event in log.events:
        if problem := digest_problem(event):
            return failed(problem)
    return passed(f"{len(log.events)} events", "each digest that is the hash of its event's data recomputes")
