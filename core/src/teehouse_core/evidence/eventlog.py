# SPDX-License-Identifier: Apache-2.0
"""Boot event logs: what firmware, loader and guest say they measured, and the register values that follow from it.

Three forms: TCG crypto-agile logs (TCG PC Client Platform Firmware Profile §10: a legacy header event, then events
with one digest per bank), the older SHA-1 logs, and dstack's JSON list. A confidential-computing log (CCEL) has the
crypto-agile form; its index 0 is MRTD and 1 to 4 are RTMR0 to RTMR3. A log is only a claim until its replay equals
registers inside a verified report, and a digest says nothing about an event's data unless it is the hash of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives import hashes

from teehouse_core.errors import MalformedError
from teehouse_core.evidence.cursor import Cursor
from teehouse_core.evidence.fields import Field
from teehouse_core.evidence.jsontext import load_array

__all__ = [
    "BANKS",
    "MAX_EVENTS",
    "MAX_LOG",
    "Event",
    "EventLog",
    "bank_hash",
    "digest_problem",
    "fields",
    "parse_event_log",
    "replay",
    "rtmrs",
    "secure_boot",
]

MAX_LOG: Final = 4 * 1024 * 1024  # bytes; firmware reserves 64 KiB to 1 MiB
MAX_EVENTS: Final = 16384  # the longest genuine log seen has 158
MAX_DATA: Final = 1024 * 1024  # bytes of one event's data; a forbidden-signature list reaches some 100 KiB
MAX_BANKS: Final = 8  # hash algorithms in one log; 4 is the most seen
MAX_INDEX: Final = 31  # PCRs are 0 to 23, MR indices 0 to 4

EV_NO_ACTION: Final = 0x3
EV_SEPARATOR: Final = 0x4
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x8000_0001
EV_EFI_GPT_EVENT: Final = 0x8000_0006
EV_EFI_ACTION: Final = 0x8000_0007
DSTACK_RUNTIME_EVENT: Final = 0x0800_0001
_PLAIN: Final = frozenset({EV_SEPARATOR, EV_EFI_VARIABLE_DRIVER_CONFIG, EV_EFI_GPT_EVENT, EV_EFI_ACTION})
"""Events whose digest is the hash of the data beside it in every genuine log; others measure what the data names."""

_SPEC_ID: Final = b"Spec ID Event03\0"
_STARTUP: Final = b"StartupLocality\0"
_EFI_GLOBAL: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")

BANKS: Final = {0x0004: "sha1", 0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512", 0x0012: "sm3_256"}
"""TCG algorithm identifiers (TPM 2.0 Part 2 §6.3) of the banks that replay here."""
_SIZES: Final = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64, "sm3_256": 32}


@dataclass(frozen=True, slots=True)
class Event:
    """One event as claimed. `digests` are (bank, value); `start` and `end` its byte range; `name` dstack's own."""

    index: int
    type: int
    digests: tuple[tuple[str, bytes], ...]
    data: bytes = field(repr=False)
    start: int
    end: int
    name: str = ""

    def digest(self, bank: str) -> bytes | None:
        return next((value for known, value in self.digests if known == bank), None)


@dataclass(frozen=True, slots=True)
class EventLog:
    """`form` is `tcg2`, `tcg1` or `dstack`; `fill` counts the bytes of 00 or FF after the last event."""

    form: str
    banks: tuple[str, ...]
    events: tuple[Event, ...]
    fill: int = 0


def parse_event_log(raw: bytes) -> EventLog:
    """Read a log of any of the three forms, told apart by its first byte and its header event.

    Verifies nothing. Raises `MalformedError` (`eventlog-too-large`, `eventlog-truncated`, `eventlog-length`,
    `eventlog-banks`, `eventlog-digests`, `eventlog-too-many`, and those of the JSON reader).
    """
    return _parse(raw, None)


def fields(raw: bytes) -> list[Field]:
    """Every field of a log by byte range. Raises as `parse_event_log` does."""
    found: list[Field] = []
    _parse(raw, found)
    return found


def replay(log: EventLog, bank: str) -> dict[int, bytes]:
    """The register values that the log leads to in one bank, by index; indices without events are left out.

    An index with an event that has no digest in this bank is left out too: its value cannot be known.
    """
    hashed, size = bank_hash(bank), _SIZES.get(bank)
    if hashed is None or size is None:
        return {}
    values: dict[int, bytes] = {}
    broken: set[int] = set()
    for event in log.events:
        if event.type == EV_NO_ACTION:  # PFP §10.4.1: never extended; one of them says where PCR 0 starts
            if event.index == 0 and event.data[:16] == _STARTUP and len(event.data) == 17 and 0 not in values:
                values[0] = bytes(size - 1) + event.data[16:]
            continue
        digest = event.digest(bank)
        if digest is None:
            broken.add(event.index)
        else:
            values[event.index] = hashed(values.get(event.index, bytes(size)) + digest)
    return {index: value for index, value in values.items() if index not in broken}


def rtmrs(log: EventLog) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 of a CCEL or dstack log; 48 zero bytes where no event stands."""
    values = replay(log, "sha384")
    first = 0 if log.form == "dstack" else 1  # UEFI CC MR index 0 is MRTD
    a, b, c, d = (values.get(first + n, bytes(48)) for n in range(4))
    return a, b, c, d


def digest_problem(event: Event) -> str | None:
    """Why a digest is not that of the event's own data, or None; None too for types that measure something else."""
    if event.type == DSTACK_RUNTIME_EVENT and event.name:
        if event.digest("sha384") != _dstack_digest(event.type, event.name, event.data):
            return f"the digest of {event.name} is not that of its payload"
        return None
    if event.type not in _PLAIN or (event.name == "" and not event.data):
        return None
    for bank, value in event.digests:
        hashed = bank_hash(bank)
        if hashed is not None and hashed(event.data) != value:
            return f"the {bank} digest of event type 0x{event.type:x} in register {event.index} is not that of its data"
    return None


def secure_boot(log: EventLog) -> bool | None:
    """What the log's SecureBoot variable says (PFP §3.3.4.8); None when it says nothing, or not one thing."""
    said = {
        event.data[-1] == 1
        for event in log.events
        if event.type == EV_EFI_VARIABLE_DRIVER_CONFIG
        and event.data[:16] == _EFI_GLOBAL
        and event.data[32 : 32 + 20] == "SecureBoot".encode("utf-16-le")
        and event.data[16:24] == (10).to_bytes(8, "little")
    }
    return said.pop() if len(said) == 1 else None


def bank_hash(bank: str) -> Callable[[bytes], bytes] | None:
    """The hash function of a bank, or None when this version does not compute it."""
    if bank == "sm3_256":
        return _sm3
    return {"sha1": _sha1, "sha256": _sha256, "sha384": _sha384, "sha512": _sha512}.get(bank)


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()  # a bank that appraisal never relies on


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def _sha512(data: bytes) -> bytes:
    return hashlib.sha512(data).digest()


def _sm3(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SM3())
    digest.update(data)
    return digest.finalize()


def _parse(raw: bytes, found: list[Field] | None) -> EventLog:
    if len(raw) > MAX_LOG:
        raise MalformedError(f"event log is larger than {MAX_LOG} bytes", code="eventlog-too-large")
    if raw[:1] == b"[":
        return _dstack(raw, found)
    r = Cursor(raw, "eventlog", "little", fields=found)
    header = _legacy_event(r, 0)
    if header.type == EV_NO_ACTION and header.data[:16] == _SPEC_ID:
        return _agile(raw, r, header)
    events = [header]
    while r.left:
        _count(events)
        events.append(_legacy_event(r, len(events)))
    return EventLog("tcg1", ("sha1",), tuple(events))


def _legacy_event(r: Cursor, number: int) -> Event:
    """TCG_PCR_EVENT, PFP §10.2.1."""
    start, prefix = r.at, f"events[{number}]."
    index = r.uint(4, f"{prefix}index", MAX_INDEX)
    kind = r.uint(4, f"{prefix}type")
    digest = r.take(20, f"{prefix}digest.sha1")
    data = r.take(r.uint(4, f"{prefix}data.size", MAX_DATA), f"{prefix}data")
    return Event(index, kind, (("sha1", digest),), data, start, r.at)


def _agile(raw: bytes, r: Cursor, header: Event) -> EventLog:
    banks = _spec_id(header.data)
    events: list[Event] = []
    while r.left:
        if _ends(r.peek(12)):
            fill = _fill(raw, r)
            return EventLog("tcg2", tuple(name for name, _ in banks.values()), tuple(events), fill)
        _count(events)
        events.append(_agile_event(r, len(events) + 1, banks))
    return EventLog("tcg2", tuple(name for name, _ in banks.values()), tuple(events))


def _agile_event(r: Cursor, number: int, banks: dict[int, tuple[str, int]]) -> Event:
    """TCG_PCR_EVENT2, PFP §10.2.2."""
    start, prefix = r.at, f"events[{number}]."
    index = r.uint(4, f"{prefix}index", MAX_INDEX)
    kind = r.uint(4, f"{prefix}type")
    count = r.uint(4, f"{prefix}digests.count", len(banks))
    digests: dict[str, bytes] = {}
    for _ in range(count):
        algorithm = r.uint(2, f"{prefix}digests.algorithm")
        name, size = banks.get(algorithm, ("", 0))
        if not name or name in digests:
            raise MalformedError("an event has a digest of an unnamed or repeated bank", code="eventlog-digests")
        digests[name] = r.take(size, f"{prefix}digest.{name}")
    if not digests:
        raise MalformedError("an event has no digest", code="eventlog-digests")
    data = r.take(r.uint(4, f"{prefix}data.size", MAX_DATA), f"{prefix}data")
    return Event(index, kind, tuple(digests.items()), data, start, r.at)


def _spec_id(data: bytes) -> dict[int, tuple[str, int]]:
    """TCG_EfiSpecIDEvent, PFP §10.4.5.1: algorithm identifier to (bank, digest size)."""
    r = Cursor(data, "eventlog", "little")
    r.take(16 + 4 + 4, "signature")  # platform class, then minor, major, errata, size of UINTN
    banks: dict[int, tuple[str, int]] = {}
    for _ in range(r.uint(4, "algorithms", MAX_BANKS)):
        algorithm, size = r.uint(2, "algorithm"), r.uint(2, "digest size")
        name = BANKS.get(algorithm, f"alg_{algorithm:04x}")
        if algorithm in banks or not 1 <= size <= 64 or _SIZES.get(name, size) != size:
            raise MalformedError("the log's header names a bank twice or with a wrong size", code="eventlog-banks")
        banks[algorithm] = (name, size)
    if not banks:
        raise MalformedError("the log's header names no bank", code="eventlog-banks")
    r.take(r.uint(1, "vendor size"), "vendor")
    r.finish()
    return banks


def _ends(head: bytes) -> bool:
    """Whether the unused rest of a reserved log area starts here: no event has this index, nor type and count 0."""
    return head[:4] == b"\xff\xff\xff\xff" or not any(head)


def _fill(raw: bytes, r: Cursor) -> int:
    rest = raw[r.at :]
    if rest.count(rest[:1]) != len(rest):
        raise MalformedError("something stands after the end of the log", code="eventlog-trailing-bytes")
    r.take(r.left, "fill", f"{len(rest)} bytes of {rest[:1].hex()}")
    return len(rest)


def _dstack(raw: bytes, found: list[Field] | None) -> EventLog:
    values = load_array(raw, limit=MAX_LOG, what="event log")
    if len(values) > MAX_EVENTS:
        raise MalformedError(f"more than {MAX_EVENTS} events", code="eventlog-too-many")
    ranges = _item_ranges(raw, len(values))
    events = tuple(_dstack_event(value, *span) for value, span in zip(values, ranges, strict=True))
    if found is not None:
        at = 0
        for number, event in enumerate(events):
            shown = f"register {event.index}, type 0x{event.type:x}{', ' + event.name if event.name else ''}"
            found.append(Field(f"events[{number}]", at, event.end, shown))
            at = event.end
        found.append(Field("end", at, len(raw), "]"))
    return EventLog("dstack", ("sha384",), events)


def _item_ranges(raw: bytes, count: int) -> list[tuple[int, int]]:
    """Where each element of a JSON array stands, in bytes; `raw` has been read whole before, and is ASCII."""
    if not raw.isascii():
        raise MalformedError("the event log is not ASCII", code="eventlog-text")
    text, decoder, at, ranges = raw.decode("ascii"), json.JSONDecoder(), 1, []
    for _ in range(count):
        while text[at] in " \t\r\n,":
            at += 1
        _, end = decoder.raw_decode(text, at)
        ranges.append((at, end))
        at = end
    return ranges


def _dstack_event(value: Any, start: int, end: int) -> Event:
    if not isinstance(value, dict) or set(value) - {"imr", "event_type", "digest", "event", "event_payload"}:
        raise MalformedError("a dstack event is not of its shape", code="eventlog-event")
    index, kind, name = value.get("imr"), value.get("event_type"), value.get("event", "")
    if type(index) is not int or type(kind) is not int or not isinstance(name, str):
        raise MalformedError("a dstack event is not of its shape", code="eventlog-event")
    if not 0 <= index <= 3 or not 0 <= kind < 2**32 or len(name) > 256:
        raise MalformedError("a dstack event's register, type or name is out of range", code="eventlog-event")
    data, digest = _hex(value.get("event_payload", "")), _hex(value.get("digest", ""))
    if not digest and kind == DSTACK_RUNTIME_EVENT and name:
        digest = _dstack_digest(kind, name, data)  # newer logs leave out what can be recomputed
    if len(digest) != 48:
        raise MalformedError("a dstack event has no SHA-384 digest", code="eventlog-digests")
    return Event(index, kind, (("sha384", digest),), data, start, end, name)


def _dstack_digest(kind: int, name: str, payload: bytes) -> bytes:
    return hashlib.sha384(kind.to_bytes(4, "little") + b":" + name.encode("utf-8") + b":" + payload).digest()


def _hex(value: Any) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * MAX_DATA or len(value) % 2 or (not value.isalnum() and value):
        raise MalformedError("a dstack event has a member that is not hex", code="eventlog-event")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise MalformedError("a dstack event has a member that is not hex", code="eventlog-event") from None


def _count(events: list[Event]) -> None:
    if len(events) >= MAX_EVENTS:
        raise MalformedError(f"more than {MAX_EVENTS} events", code="eventlog-too-many")
