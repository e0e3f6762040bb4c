# SPDX-License-Identifier: Apache-2.0
"""One boot event log, held against registers that a report beside it carries: `verify_artifact`.

A log is unsigned. It is worth as much as the report whose registers it leads to, and that report is appraised by its
own command; so an accepted log has the tier `none`, and its claims say where the registers came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from teehouse_core.appraise.artifacts.base import ArtifactVerdict
from teehouse_core.appraise.checks_eventlog import log_digests
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Outcome, Sheet, failed, passed, skipped
from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence.eventlog import EventLog, parse_event_log, replay, rtmrs, secure_boot
from teehouse_core.evidence.jsontext import load_object
from teehouse_core.evidence.tdx import TdQuote, parse_any_quote
from teehouse_core.evidence.tpm import parse_pcrs, parse_quote, pcr_digest

__all__ = ["verify_artifact"]

REPORT_DATA: Final = 64  # bytes
MAX_FILE: Final = 4 * 1024 * 1024  # bytes of one file that may hold registers
_TPM_MAGIC: Final = b"\xffTCG"


@dataclass(frozen=True, slots=True)
class _Registers:
    """`rtmr` of a TD, `pcrs` by bank, or a quote's `digest` over `selections` in `bank`; and the file's name."""

    source: str
    rtmr: tuple[bytes, ...] = ()
    pcrs: Mapping[str, Mapping[int, bytes]] | None = None
    tpm: bytes = b""


def verify_artifact(
    raw: bytes,
    *,
    chain: bytes | None,  # noqa: ARG001  every technology has the same signature; a log carries no certificate
    collateral: Mapping[str, bytes] | None,
    nonce: bytes | None,
    report_data: bytes | None,
    policy: Policy,
    now: int,  # noqa: ARG001  nothing in a log ends
) -> ArtifactVerdict:
    """Appraise one event log against the registers found in `collateral`.

    Registers are a TDX quote (bytes, or JSON with a member `quote` in hex), a TPM quote, or a list of PCR values. A
    log answers no challenge: `nonce` and `report_data` raise `LocalError`. A JSON document with a member `event_log`
    (dstack's) is a log with its quote. Raises `MalformedError` when `raw` is no log.
    """
    if nonce is not None or report_data is not None:
        raise LocalError("an event log carries no nonce and no report data", code="not-applicable")
    text, inner = _unwrap(raw)
    log = parse_event_log(text)
    files = {**(collateral or {}), **inner}
    sheet = Sheet()
    shown = f"{len(log.events)} events, banks {' '.join(log.banks)}"
    sheet.write("eventlog.format", passed(shown, {"tcg2": "crypto-agile", "tcg1": "SHA-1"}.get(log.form, log.form)))
    sheet.run("eventlog.digests", lambda: log_digests(log))
    registers = next((r for name in sorted(files) if (r := _registers(name, files[name])) is not None), None)
    if registers is None:
        hint = "supply what the log should lead to: the TDX or TPM quote made after it, or a list of PCR values"
        sheet.write("eventlog.replay", skipped(hint))
    else:
        sheet.run("eventlog.replay", lambda: _replay(log, registers))
    checks = sheet.finish({"eventlog.format", "eventlog.digests", "eventlog.replay"}, only=True)
    accepted = all(check.state == "passed" for check in checks)
    claims = _claims(raw, log, policy, registers)
    return ArtifactVerdict("accepted" if accepted else "refused", "none", checks, claims)


def _replay(log: EventLog, registers: _Registers) -> Outcome:
    if registers.rtmr:
        replayed = rtmrs(log)
        wrong = [n for n in range(4) if replayed[n] != registers.rtmr[n]]
        if wrong:
            names = ", ".join(f"RTMR{n}" for n in wrong)
            hint = f"the log does not lead to {names} of the quote: stale, cut or forged"
            return failed(hint, replayed[wrong[0]], registers.rtmr[wrong[0]])
        return passed("RTMR0 to RTMR3", f"the registers of {registers.source}")
    if registers.pcrs is not None:
        return _pcrs(log, registers)
    quote = parse_quote(registers.tpm)
    values = {one.bank: replay(log, one.bank) for one in quote.selections}
    size = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3_256": 32}
    filled = {
        one.bank: {index: values[one.bank].get(index, bytes(size[one.bank])) for index in one.pcrs}
        for one in quote.selections
    }
    # The digest's hash is that of the signing key, which the quote does not name: the length says which.
    bank = {32: "sha256", 48: "sha384", 64: "sha512"}.get(len(quote.pcr_digest), "sha1")
    digest = pcr_digest(quote.selections, filled, bank) or b""
    if digest != quote.pcr_digest:
        return failed("the log does not lead to the quoted registers: stale, cut or forged", digest, quote.pcr_digest)
    return passed(digest, f"the digest of {registers.source}")


def _pcrs(log: EventLog, registers: _Registers) -> Outcome:
    compared = 0
    for bank, values in sorted((registers.pcrs or {}).items()):
        if bank not in log.banks:
            continue
        replayed = replay(log, bank)
        for index in sorted(set(replayed) & set(values)):
            if replayed[index] != values[index]:
                hint = f"the log does not lead to {bank} register {index}: stale, cut or forged"
                return failed(hint, replayed[index], values[index])
            compared += 1
    if not compared:
        return failed("no register of the log is among those given")
    return passed(f"{compared} registers", f"the registers of {registers.source}")


def _registers(name: str, data: bytes) -> _Registers | None:
    """The registers that a file carries, or None when it carries none."""
    if len(data) > MAX_FILE:
        return None
    try:
        if data.startswith(_TPM_MAGIC):
            parse_quote(data)
            return _Registers(name, tpm=data)
        if data.lstrip()[:1] == b"{":
            value = load_object(data, limit=MAX_FILE, what="registers")
            if isinstance(value.get("quote"), str):
                return _registers(name, bytes.fromhex(value["quote"]))
            return _Registers(name, pcrs=parse_pcrs(data))
        quote = parse_any_quote(data, padding=True)
    except (MalformedError, ValueError):
        return None
    return _Registers(name, rtmr=quote.report.rtmr) if isinstance(quote, TdQuote) else None


def _unwrap(raw: bytes) -> tuple[bytes, dict[str, bytes]]:
    if raw.lstrip()[:1] != b"{":
        return raw, {}
    value = load_object(raw, limit=MAX_FILE, what="event log")
    log = value.get("event_log")
    if not isinstance(log, str):
        raise MalformedError("the document has no event log", code="eventlog-document")
    return log.encode("utf-8"), {"the same document": raw}


def _claims(raw: bytes, log: EventLog, policy: Policy, registers: _Registers | None) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "artifact": "event-log",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "policy": policy.name,
        "policy_sha256": policy.digest,
        "form": log.form,
        "banks": list(log.banks),
        "events": len(log.events),
        "fill": log.fill,
        "registers_from": registers.source if registers is not None else "nowhere",
        "registers_verified": False,  # the report that carries them is appraised by itself
    }
    state = secure_boot(log)
    if state is not None:
        claims["secure_boot"] = state
    for bank in log.banks:
        claims[f"replay_{bank}"] = {str(index): value.hex() for index, value in sorted(replay(log, bank).items())}
    names = [event.name for event in log.events if event.name]
    if names:
        claims["runtime_events"] = names[:256]
    return claims
