# SPDX-License-Identifier: Apache-2.0
"""Genuine boot logs: every one parses, each byte has a name, and each replay is what the registers beside it say."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from forge_tpm import EVENTS, log, replayed
from hypothesis import given, settings
from hypothesis import strategies as st
from tpm_vectors import VECTORS, gce, vector

from teehouse_core.appraise.artifacts.eventlog import verify_artifact
from teehouse_core.appraise.checks_eventlog import check_td_log
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.sheet import Sheet
from teehouse_core.errors import LocalError, MalformedError, TeehouseError
from teehouse_core.evidence.eventlog import (
    MAX_LOG,
    digest_problem,
    fields,
    parse_event_log,
    replay,
    secure_boot,
)

POLICY = Policy.preset("standard")
NOT_LOGS = ("ccel_table", "quote", "nonce", "tdreport", "attestation", "vcek", "ask", "getquote")


def verdict(raw: bytes, **files: bytes) -> Any:
    return verify_artifact(
        raw, chain=None, collateral=files, nonce=None, report_data=None, policy=POLICY, now=1_780_000_000
    )


def logs() -> list[Path]:
    if not VECTORS.exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    found = [p for p in sorted((VECTORS / "eventlog").rglob("*")) if p.is_file()]
    return [p for p in found if not any(word in p.name for word in NOT_LOGS)]


def test_every_genuine_log_parses_to_the_last_byte() -> None:
    found = logs()
    assert len(found) == 26
    for path in found:
        raw = path.read_bytes()
        parsed = parse_event_log(raw)
        assert len(parsed.events) >= 5, path.name
        assert [p for e in parsed.events if (p := digest_problem(e))] == [], path.name
        at = 0
        for field in fields(raw):
            assert field.start == at, (path.name, field)
            at = field.end
        assert at == len(raw), path.name
        assert replay(parsed, parsed.banks[-1]), path.name


PAIRS = [
    ("gcp-cos113_ccel_data.dat", "gcp-cos113_cos-113-tdx-quote.dat", True),
    ("lunal_tdx_ccel_live2.dat", "lunal_tdx_quote_live.dat", True),
    ("lunal_tdx_ccel_live.bin", "lunal_tdx_quote_live.dat", False),  # the manifest's stale log: RTMR2 differs
    ("lunal_tdx_ccel_live2.dat", "gcp-cos113_cos-113-tdx-quote.dat", False),
]


@pytest.mark.parametrize(("name", "quote", "fits"), PAIRS)
def test_ccel_logs_lead_to_their_quotes(name: str, quote: str, fits: bool) -> None:
    raw = vector(f"eventlog/ccel/{name}")
    found = verdict(raw, quote=vector(f"eventlog/ccel/{quote}"))
    assert found.result == ("accepted" if fits else "refused")
    assert found.tier == "none"  # a log is unsigned, and the quote beside it is not appraised here
    if "live.bin" in name:
        assert "RTMR2" in found.refusing[0].hint
        assert "RTMR1" not in found.refusing[0].hint


def test_the_gcp_quote_answers_the_nonce_beside_it() -> None:
    quote, nonce = (
        vector("eventlog/ccel/gcp-cos113_cos-113-tdx-quote.dat"),
        vector("eventlog/ccel/gcp-cos113_nonce.dat"),
    )
    assert quote[48 + 520 : 48 + 584] == nonce


@pytest.mark.parametrize("name", ["quote-report.json", "tdx-lite-getquote.json"])
def test_dstack_logs_lead_to_the_quote_in_their_document(name: str) -> None:
    raw = vector(f"eventlog/dstack/{name}")
    found = verdict(raw)
    assert found.result == "accepted"
    assert "compose-hash" in found.claims["runtime_events"]
    changed = json.loads(raw)
    events = json.loads(changed["event_log"])
    runtime = next(e for e in events if e["event"] == "compose-hash")
    runtime["event_payload"] = "00" * 32
    changed["event_log"] = json.dumps(events)
    refused = verdict(json.dumps(changed).encode())
    # With a digest beside it the payload is caught by itself; where it is left out, the replay moves instead.
    assert [c.id for c in refused.refusing] == (["eventlog.digests"] if runtime["digest"] else ["eventlog.replay"])


@pytest.mark.parametrize("name", ["gce-cos-85-no-nonce.pb", "gce-cos-85-nonce9009.pb"])
def test_gce_logs_lead_to_all_three_banks_of_their_quotes(name: str) -> None:
    found = gce(f"tpm/gce/{name}")
    parsed = parse_event_log(found["event_log"])
    for (_, _, bank, pcrs), title in zip(found["quotes"], ("sha1", "sha256", "sha384"), strict=True):
        assert bank == {"sha1": 4, "sha256": 11, "sha384": 12}[title]
        values = replay(parsed, title)
        assert [i for i in values if i not in pcrs or values[i] != pcrs[i]] == []


def negatives(raw: bytes) -> dict[str, bytes]:
    parsed = parse_event_log(raw)
    at = next(e.start for e in parsed.events if e.index == 1 and e.type != 3)
    last = max(e.end for e in parsed.events)
    removed = parsed.events[3]
    flip = bytearray(raw)
    flip[at + 14] ^= 1  # inside the event's first digest
    index = bytearray(raw)
    index[at] ^= 3  # the event of another register
    return {
        "digest": bytes(flip),
        "register": bytes(index),
        "removed": raw[: removed.start] + raw[removed.end :],
        "repeated": raw[: removed.end] + raw[removed.start : removed.end] + raw[removed.end :],
        "swapped": _swap(raw, parsed.events[2], parsed.events[3]),
        "truncated": raw[: last - 1],
        "trailing": raw[:last] + b"\xff\xff\xff\xff\x00",
        "banks": raw.replace(b"\x0c\x000\x00", b"\x0c\x001\x00", 1),
        "empty": b"",
    }


def _swap(raw: bytes, a: Any, b: Any) -> bytes:
    return raw[: a.start] + raw[b.start : b.end] + raw[a.start : a.end] + raw[b.end :]


@pytest.mark.parametrize(("name", "quote"), [pair[:2] for pair in PAIRS[:2]])
def test_derived_negatives_are_refused_or_malformed(name: str, quote: str) -> None:
    raw, beside = vector(f"eventlog/ccel/{name}"), vector(f"eventlog/ccel/{quote}")
    for what, wrong in negatives(raw).items():
        with contextlib.suppress(MalformedError):
            assert verdict(wrong, quote=beside).result == "refused", what
    assert verdict(raw).result == "refused"  # nothing to hold it against


def test_a_log_answers_no_challenge() -> None:
    raw = log(EVENTS)
    with pytest.raises(LocalError):
        verify_artifact(
            raw, chain=None, collateral=None, nonce=bytes(32), report_data=None, policy=POLICY, now=1_780_000_000
        )


def test_synthetic_logs_replay_in_every_bank_and_know_their_fill() -> None:
    raw = log(EVENTS, ("sha1", "sha256", "sha384", "sha512"), fill=b"\xff" * 100)
    parsed = parse_event_log(raw)
    assert parsed.fill == 100
    assert secure_boot(parsed) is True
    expected = {i: v for i, v in replayed(EVENTS).items() if any(e[0] == i for e in EVENTS)}
    assert replay(parsed, "sha256") == expected
    assert set(replay(parsed, "sha512")) == set(expected)
    assert replay(parsed, "sm3_256").keys() == set()
    locality = log([(0, 3, b"StartupLocality\0\x03"), (0, 4, bytes(4))])
    plain = log([(0, 4, bytes(4))])
    assert replay(parse_event_log(locality), "sha256")[0] != replay(parse_event_log(plain), "sha256")[0]


def test_limits_hold() -> None:
    with pytest.raises(MalformedError, match="larger"):
        parse_event_log(bytes(MAX_LOG + 1))
    many = log([(0, 4, b"")] * 16_500)
    with pytest.raises(MalformedError, match="more than"):
        parse_event_log(many)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_any_bytes_give_only_our_errors(data: bytes, at: int, patch: bytes) -> None:
    right = log(EVENTS)
    for raw in (data, right[:at] + patch + right[at + len(patch) :], right[:68] + data, b"[" + data):
        with contextlib.suppress(TeehouseError):
            parsed = parse_event_log(raw)
            for bank in parsed.banks:
                replay(parsed, bank)
            secure_boot(parsed)
            fields(raw)
        with contextlib.suppress(TeehouseError):
            verdict(raw, quote=data)


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.integers() | st.text() | st.booleans(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_any_json_gives_only_our_errors(value: Any) -> None:
    for raw in (json.dumps([value]), json.dumps([{"imr": 0, "event_type": 1, "digest": value}])):
        with contextlib.suppress(TeehouseError):
            parse_event_log(raw.encode())


ALL = ["eventlog.format", "eventlog.digests", "eventlog.replay"]


@pytest.mark.parametrize(
    ("name", "quote", "refusing"),
    [
        ("gcp-cos113_ccel_data.dat", "gcp-cos113_cos-113-tdx-quote.dat", []),
        ("lunal_tdx_ccel_live2.dat", "lunal_tdx_quote_live.dat", []),
        ("lunal_tdx_ccel_live.bin", "lunal_tdx_quote_live.dat", ["eventlog.replay"]),
        ("gcp-cos113_ccel_table.dat", "lunal_tdx_quote_live.dat", ALL),
    ],
)
def test_the_log_of_a_td_bundle_is_held_against_its_quote(name: str, quote: str, refusing: list[str]) -> None:
    registers = vector(f"eventlog/ccel/{quote}")[48 + 328 : 48 + 520]
    sheet = Sheet()
    rtmr = tuple(registers[48 * n : 48 * n + 48] for n in range(4))
    check_td_log(sheet, vector(f"eventlog/ccel/{name}"), rtmr)
    assert [check.id for check in sheet.refusing()] == refusing
    none = Sheet()
    check_td_log(none, None, rtmr)
    assert none.refusing() == ()
