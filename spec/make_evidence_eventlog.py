# SPDX-License-Identifier: Apache-2.0

"""Vectors of boot event logs, held against registers: CCEL of a TD, TPM logs, dstack's JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from evidence_kit import Evidence, sentence, slug
from forge_tdx import ForgedQuote
from forge_tpm import EVENTS, NOW, digest_of, log, quote, replayed, secure_boot_variable
from make_evidence_tpm import BARE, LYING

from teehouse_core.evidence.eventlog import parse_event_log, rtmrs
from teehouse_core.evidence.tpm import encode_pcrs


def event_log(
    name: str, expect: str, make: Callable[[], tuple[bytes, dict[str, bytes]]], *, also: tuple[str, ...] = ()
) -> Evidence:
    def forge() -> dict[str, Any]:
        raw, files = make()
        return {"artifact": raw, "collateral": files}

    description = f"Event log: {name}." if expect == "accept" else sentence("Event log", name)
    return Evidence(
        f"eventlog-{slug(name)}",
        "eventlog",
        "artifact",
        description,
        expect,
        BARE,
        NOW,
        forge,
        {"type": "event-log"},
        also,
    )


CC_EVENTS = (
    (1, 0x8, b"firmware"),
    (2, 0x4, bytes(4)),
    (2, 0x80000007, b"kernel"),
    (3, 0xD, b"initrd"),
    (4, 0xD, b"application"),
)


def of_a_td(raw: bytes) -> dict[str, bytes]:
    """The quote of a TD whose registers are what this log leads to."""
    registers = rtmrs(parse_event_log(raw))
    return {"quote.bin": ForgedQuote(report=lambda r: replace(r, rtmr=tuple(registers))).quote()}


def of_a_tpm() -> dict[str, bytes]:
    values = {i: v for i, v in replayed(EVENTS).items() if i < 10}
    return {"pcrs.json": encode_pcrs({"sha256": values}).encode()}


def dstack(**payloads: bytes) -> list[dict[str, Any]]:
    """A JSON log as dstack writes it: boot events by digest, runtime events by name and payload."""
    found: list[dict[str, Any]] = []
    for index in range(3):
        found.append(
            {
                "imr": index,
                "event_type": 1,
                "digest": hashlib.sha384(b"boot %d" % index).hexdigest(),
                "event": "",
                "event_payload": "",
            }
        )
    for name, payload in payloads.items():
        digest = hashlib.sha384((0x08000001).to_bytes(4, "little") + b":" + name.encode() + b":" + payload).hexdigest()
        found.append(
            {"imr": 3, "event_type": 0x08000001, "digest": digest, "event": name, "event_payload": payload.hex()}
        )
    return found


def document(events: list[dict[str, Any]], shown: list[dict[str, Any]] | None = None) -> bytes:
    raw = json.dumps(events).encode()
    quote_bytes = of_a_td(raw)["quote.bin"]
    return json.dumps(
        {"quote": quote_bytes.hex(), "event_log": json.dumps(shown if shown is not None else events)}
    ).encode()


def vectors() -> Iterator[Evidence]:
    cc = log(CC_EVENTS, ("sha384",))
    tpm_log = log(EVENTS)
    yield event_log("CCEL of a TD", "accept", lambda: (cc, of_a_td(cc)))
    yield event_log("CCEL with its free space", "accept", lambda: (cc + b"\xff" * 64, of_a_td(cc)))
    yield event_log("TPM log with register values", "accept", lambda: (tpm_log, of_a_tpm()))
    yield event_log(
        "TPM log with a quote",
        "accept",
        lambda: (tpm_log, {"quote.msg": quote(b"", digest_of(replayed(EVENTS, range(10))), pcrs=range(10))}),
    )
    yield event_log("dstack document", "accept", lambda: (document(dstack(app=b"1", compose=b"2")), {}))
    for name, events in (
        ("last event left out", CC_EVENTS[:-1]),
        ("events exchanged", (CC_EVENTS[0], CC_EVENTS[2], CC_EVENTS[1], *CC_EVENTS[3:])),
        ("event twice", (*CC_EVENTS, CC_EVENTS[-1])),
        ("event of another register", (*CC_EVENTS[:-1], (3, *CC_EVENTS[-1][1:]))),
        ("another kernel", (*CC_EVENTS[:2], (2, 0x80000007, b"another kernel"), *CC_EVENTS[3:])),
    ):
        yield event_log(f"CCEL, {name}", "reject/eventlog.replay", lambda e=events: (log(e, ("sha384",)), of_a_td(cc)))
    yield event_log("CCEL of no register", "reject/eventlog.replay", lambda: (cc, {}))
    yield event_log("TPM log of another boot", "reject/eventlog.replay", lambda: (log(LYING), of_a_tpm()))
    yield event_log(
        "TPM log of another boot with a quote",
        "reject/eventlog.replay",
        lambda: (log(LYING), {"quote.msg": quote(b"", digest_of(replayed(EVENTS, range(10))), pcrs=range(10))}),
    )
    yield event_log(
        "TPM log without the quoted bank", "reject/eventlog.replay", lambda: (log(EVENTS, ("sha384",)), of_a_tpm())
    )
    changed = log(EVENTS).replace(secure_boot_variable(True), secure_boot_variable(False))
    yield event_log("TPM log, Secure Boot said to be off", "reject/eventlog.digests", lambda: (changed, of_a_tpm()))
    right = dstack(app=b"1", compose=b"2")
    other = [*right[:-1], {**right[-1], "event_payload": b"3".hex()}]
    yield event_log(
        "dstack document, payload of another digest", "reject/eventlog.digests", lambda: (document(right, other), {})
    )
    yield event_log(
        "dstack document, other payload and digest",
        "reject/eventlog.replay",
        lambda: (document(right, dstack(app=b"1", compose=b"3")), {}),
    )
    for name, raw in (
        ("that is empty", b""),
        ("cut in its last event", cc[:-1]),
        ("with an event of 4 GiB", cc[:-15] + b"\xff\xff\xff\xff" + cc[-11:]),
        ("with bytes behind its free space", cc + b"\xff" * 64 + b"\0"),
        ("of JSON without a log", b"{}"),
    ):
        yield event_log(f"log {name}", "malformed", lambda r=raw: (r, of_a_td(cc)))
