# SPDX-License-Identifier: Apache-2.0
"""The evidence parsers: what they read, what they refuse, and that no bytes make them raise anything else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.evidence import der, jsontext, tdx
from teehouse_core.evidence.bundle import MAX_BUNDLE, Bundle, build_bundle, log_entry
from teehouse_core.evidence.collateral import IntelCollateral, parse_qe_identity, parse_rfc3339, parse_tcb_info
from teehouse_core.evidence.pck import parse_sgx_extension
from teehouse_core.evidence.replay import event_digest, extend, replay, valid_event, workload_events
from teehouse_core.wire.keyset import Capabilities, Model, Software, build_keyset

HEADER = bytes.fromhex("0400020081000000000000") + bytes(1) + tdx.QE_VENDOR_INTEL + bytes(20)
REPORT = bytes(range(256)) * 2 + bytes(72)
PARTS: dict[str, bytes] = {
    "signed": HEADER + REPORT,
    "signature": b"s" * 64,
    "attestation_key": b"k" * 64,
    "qe_report": bytes(384),
    "qe_signature": b"q" * 64,
    "qe_auth_data": b"auth",
    "pem_chain": b"pem",
}
QUOTE = tdx.encode_pem_bundle(**PARTS)
KEYSET = build_keyset(
    role="node",
    endpoint="ep-1",
    node="n",
    hpke=[],
    sign=[],
    model=Model("", ""),
    software=Software("", "", ""),
    capabilities=Capabilities("none", "none", "none", ()),
    not_before=0,
    not_after=1,
)
COLLATERAL = {
    "pck_crl_issuer_chain": "x",
    "root_ca_crl": "00",
    "pck_crl": "00",
    "tcb_info_issuer_chain": "x",
    "tcb_info": "{}",
    "tcb_info_signature": "00" * 64,
    "qe_identity_issuer_chain": "x",
    "qe_identity": "{}",
    "qe_identity_signature": "00" * 64,
}


def bundle(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "endpoint": "ep-1",
        "node": "n",
        "keyset": KEYSET,
        "challenge_kind": 1,
        "challenge_value": bytes(32),
        "platform_type": "tdx",
        "report": b"report",
        "workload_log": [log_entry("release", b"1")],
        "collateral": {"intel": COLLATERAL},
        "event_log": b"log",
        "aux": {"a": "b"},
    }
    return build_bundle(**{**fields, **changes})


def test_quote_fields_stand_where_the_format_says() -> None:
    quote = tdx.parse_quote(QUOTE)
    assert (quote.header.version, quote.header.key_type, quote.header.tee_type) == (4, 2, 0x81)
    assert quote.signed == PARTS["signed"]
    report = quote.report
    assert report.tee_tcb_svn == REPORT[:16]
    assert report.td_attributes == int.from_bytes(REPORT[120:128], "little")
    assert report.mr_td == REPORT[136:184]
    assert report.rtmr[3] == REPORT[472:520]
    assert report.report_data == REPORT[520:584]
    assert report.encode() == REPORT
    s = quote.signature
    got = (s.signature, s.attestation_key, s.qe_report.raw, s.qe_signature, s.qe_auth_data, s.pem_chain)
    assert got == tuple(PARTS.values())[1:]


def u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "quote-truncated"),
        (QUOTE[:-1], "quote-truncated"),
        (QUOTE + b"\0", "quote-trailing-bytes"),
        (bytes(tdx.MAX_QUOTE + 1), "quote-too-large"),
        (b"\6" + QUOTE[1:], "quote-version"),
        (QUOTE[:2] + b"\3" + QUOTE[3:], "quote-key-type"),
        (QUOTE[:4] + b"\0" + QUOTE[5:], "quote-tee-type"),
        (QUOTE[:764] + u16(5) + QUOTE[766:], "quote-cert-type"),
        (QUOTE[:766] + u16(1) + QUOTE[768:], "quote-trailing-bytes"),
        (QUOTE[:1218] + u16(0xFFFF) + QUOTE[1220:], "quote-length"),
        (QUOTE[:1224] + u16(6) + QUOTE[1226:], "quote-cert-type"),
    ],
)
def test_bad_quotes_have_their_code(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        tdx.parse_quote(data)
    assert caught.value.code == code


def test_reports_have_exact_sizes() -> None:
    for parse, size in ((tdx.TdReport.parse, 584), (tdx.QeReport.parse, 384)):
        for wrong in (size - 1, size + 1):
            with pytest.raises(MalformedError):
                parse(bytes(wrong))


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=2048)
    | st.builds(lambda at, put: QUOTE[:at] + put + QUOTE[at:], st.integers(0, 1400), st.binary())
)
def test_any_bytes_as_quote(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        tdx.parse_quote(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_as_der_and_extension(data: bytes) -> None:
    for parse in (der.children, der.oid_text, parse_sgx_extension):
        with contextlib.suppress(MalformedError):
            parse(data)


@pytest.mark.parametrize(
    "data",
    [b"\x30", b"\x1f\x01\x00", b"\x30\x80", b"\x30\x81\x05abcde", b"\x30\x82\x00\x80", b"\x30\x05a", b"\x04\x00" * 65],
)
def test_der_is_strict(data: bytes) -> None:
    with pytest.raises(MalformedError):
        der.children(data)


def test_der_reads_long_forms() -> None:
    assert der.children(b"\x04\x81\x80" + bytes(128)) == ((4, bytes(128)),)
    assert der.oid_text(bytes.fromhex("2a864886f84d010d01")) == "1.2.840.113741.1.13.1"
    for bad in (b"", b"\x80\x01", b"\x2a\x86"):
        with pytest.raises(MalformedError):
            der.oid_text(bad)


def sgx(members: bytes) -> bytes:
    return b"\x30\x82" + len(members).to_bytes(2, "big") + members


@pytest.mark.parametrize(
    "data",
    [
        bytes(5000),
        b"",
        b"\x04\x00",
        b"\x30\x00",
        b"\x30\x02\x04\x00",
        b"\x30\x04\x30\x02\x06\x00",
        sgx(bytes.fromhex("301e060a2a864886f84d010d01010410") + bytes(16) + bytes(130)),
    ],
)
def test_bad_sgx_extensions(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_sgx_extension(data)


def test_bundle_round_trip() -> None:
    parsed = Bundle.parse(bundle())
    assert (parsed.endpoint, parsed.node, parsed.challenge_kind, parsed.challenge_value) == ("ep-1", "n", 1, bytes(32))
    assert parsed.keyset.raw == KEYSET
    assert (parsed.platform.type, parsed.platform.report, parsed.platform.event_log) == ("tdx", b"report", b"log")
    assert parsed.platform.aux == {"a": "b"}
    assert parsed.workload_log[0].content == b"1"
    assert parsed.collateral.intel == IntelCollateral.parse(COLLATERAL)
    assert json.loads(IntelCollateral.parse(COLLATERAL).to_json()) == COLLATERAL
    assert len(parsed.report_data) == 64


def edited(change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = json.loads(bundle())
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(extra=1),
        lambda d: d.pop("platform"),
        lambda d: d.update(v="evidence/2"),
        lambda d: d.update(endpoint=None),
        lambda d: d.update(endpoint=1),
        lambda d: d.update(endpoint="x" * 300),
        lambda d: d.update(keyset=[]),
        lambda d: d["keyset"].update(not_after=-1),
        lambda d: d["keyset"].update(node="é"),
        lambda d: d["keyset"].update(extra=""),
        lambda d: d["challenge"].update(kind=4),
        lambda d: d["challenge"].update(kind=True),
        lambda d: d["challenge"].update(kind=1.5),
        lambda d: d["challenge"].update(value="AAAA"),
        lambda d: d["challenge"].update(value="", kind=2),
        lambda d: d["challenge"].update(nonce=""),
        lambda d: d["platform"].update(report="!!!!"),
        lambda d: d["platform"].update(report="AB=="),
        lambda d: d["platform"].update(report=5),
        lambda d: d["platform"].update(report="A" * 400000),
        lambda d: d["platform"].update(aux={"a": 1}),
        lambda d: d["platform"].update(aux={str(n): "" for n in range(33)}),
        lambda d: d.update(devices={}),
        lambda d: d.update(devices=[1]),
        lambda d: d.update(devices=[{}] * 65),
        lambda d: d.update(devices=[{"type": "gpu", "report": "", "chain": "", "arch": ""}]),
        lambda d: d.update(devices=[{"type": "nvidia-gpu", "report": "", "chain": "x", "arch": ""}]),
        lambda d: d.update(devices=[{"type": "nvidia-gpu", "report": "", "chain": 1, "arch": ""}]),
        lambda d: d.update(members=[{}] * 257),
        lambda d: d["workload_log"].append(1),
        lambda d: d["workload_log"][0].update(event="No Name"),
        lambda d: d["workload_log"][0].update(digest="AA" * 48),
        lambda d: d["workload_log"][0].update(digest="00"),
        lambda d: d.update(workload_log=[{}] * 257),
        lambda d: d["collateral"].update(other={}),
        lambda d: d["collateral"]["intel"].pop("pck_crl"),
        lambda d: d["collateral"]["intel"].update(pck_crl="xx"),
        lambda d: d["collateral"]["intel"].update(pck_crl="0 0"),
        lambda d: d["collateral"]["intel"].update(pck_crl=""),
        lambda d: d["collateral"]["intel"].update(tcb_info_signature="00" * 65),
        lambda d: d["collateral"]["intel"].update(tcb_info="é"),
        lambda d: d["collateral"].update(intel=[]),
        lambda d: d.update(release=[]),
    ],
)
def test_bad_bundles_are_malformed(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(MalformedError):
        Bundle.parse(edited(change))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not-json"),
        (b"\xff", "not-json"),
        (b"[" * 100_000, "not-json"),
        (b"[]", "not-an-object"),
        (b'{"v":1,"v":1}', "repeated-member"),
        (b'{"v":NaN}', "number"),
        (b'{"v":' + b"9" * 20 + b"}", "number"),
        (b'{"v":' + b"[" * 20 + b"]" * 20 + b"}", "too-deep"),
        (b'{"v":[null]}', "null-value"),
        (b"," * (jsontext.MAX_VALUES + 1), "too-many-values"),
        (b" " * (MAX_BUNDLE + 1), "too-large"),
    ],
)
def test_bad_json_has_its_code(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Bundle.parse(data)
    assert caught.value.code == code


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | st.text(alphabet='{}[]",:0a\\ ').map(str.encode))
def test_any_bytes_as_bundle(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Bundle.parse(data)


GOOD = bundle()


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(GOOD)), put=st.binary(max_size=4), skip=st.integers(0, 4))
def test_changed_bundle_parses_or_is_malformed(at: int, put: bytes, skip: int) -> None:
    with contextlib.suppress(MalformedError):
        Bundle.parse(GOOD[:at] + put + GOOD[at + skip :])


def test_build_refuses_what_is_no_keyset() -> None:
    with pytest.raises(LocalError):
        bundle(keyset=b"{")
    with pytest.raises(LocalError):
        log_entry("release", bytes(65 * 1024))
    with pytest.raises(LocalError):
        event_digest("Bad Name", b"")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_as_collateral(text: str) -> None:
    for parse in (parse_tcb_info, parse_qe_identity, parse_rfc3339):
        with pytest.raises(MalformedError):
            parse(text)


def test_times_are_utc_seconds() -> None:
    assert parse_rfc3339("2026-06-10T00:39:27Z") == 1781051967


def test_identity_texts_are_read_strictly() -> None:
    good = {
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2026-06-10T00:39:27Z",
        "nextUpdate": "2026-06-10T00:39:27Z",
        "tcbEvaluationDataNumber": 19,
        "miscselect": "01000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" * 16,
        "attributesMask": "FF" * 16,
        "mrsigner": "DC" * 32,
        "isvprodid": 2,
    }
    assert parse_qe_identity(json.dumps(good)).misc_select == 1
    for name, bad in {"attributes": "11", "isvprodid": "2", "id": 1, "mrsigner": "DC" * 33, "version": -1}.items():
        with pytest.raises(MalformedError):
            parse_qe_identity(json.dumps({**good, name: bad}))


def test_register_replay() -> None:
    first, second = event_digest("a", b"1"), event_digest("b", b"2")
    assert replay([first, second]) == extend(extend(bytes(48), first), second)
    assert replay([]) == bytes(48)
    assert event_digest("a", b"bc") != event_digest("ab", b"c")
    assert not valid_event("")
    assert not valid_event("a b")


def test_workload_events_name_every_event() -> None:
    events = dict(
        workload_events(
            release="1", image_sha256="a", config_sha256="b", weights_sha256="c", model="m", doors=("x", "y")
        )
    )
    assert events["doors"] == b"x,y"
    assert events["egress"] == b"none"
