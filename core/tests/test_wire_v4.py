# SPDX-License-Identifier: Apache-2.0
"""V4 signatures: requests that the unmodified official SDKs sent, and every way in which one can be wrong.

`v4_captured.json` was recorded from volcengine-python-sdk 5.0.54 and volcengine-python-sdk-aicc 0.0.42 against a
loopback server, with made-up keys.
"""

from __future__ import annotations

import calendar
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.wire.v4 import MAX_SKEW, SignedRequest, V4Refused, V4Request, canonical_query, sign

CAPTURED: list[dict[str, Any]] = json.loads(Path(__file__).with_name("v4_captured.json").read_text(encoding="utf-8"))
BY_NAME = {item["name"]: item for item in CAPTURED}
# One of the SDK's ways leaves `X-…` headers outside its signature; our signer covers them all.
FULLY_SIGNED = [item for item in CAPTURED if any(name == "X-Sdk-Invocation-Id" for name, _ in item["headers"])]
# The SDK's `url_rewrite` signs the host of `url` or `addr` and sends the rewritten one.
HOSTS = ("pcc.volcengineapi.com",)


def request_of(item: dict[str, Any]) -> V4Request:
    path, _, query = item["target"].partition("?")
    headers = tuple((name, value) for name, value in item["headers"])
    return V4Request(item["method"], path, query, headers, item["body"].encode())


def time_of(request: V4Request) -> int:
    return calendar.timegm(time.strptime(request.values("x-date")[0], "%Y%m%dT%H%M%SZ"))


def check(request: V4Request, secret: str | None, *, now: int, **more: Any) -> SignedRequest:
    signed = SignedRequest.parse(request)
    signed.verify(secret, now=now, **{"service": signed.service, "hosts": HOSTS, **more})
    return signed


def with_header(request: V4Request, name: str, value: str | None) -> V4Request:
    kept = tuple((k, v) for k, v in request.headers if k.lower() != name.lower())
    return dataclasses.replace(request, headers=kept if value is None else (*kept, (name, value)))


def refused(request: V4Request, secret: str | None, *, now: int, **more: Any) -> V4Refused:
    with pytest.raises(V4Refused) as caught:
        check(request, secret, now=now, **more)
    return caught.value


@pytest.fixture
def captured() -> tuple[V4Request, str, int]:
    item = BY_NAME["tks-create-ring"]
    request = request_of(item)
    return request, item["secret_key"], time_of(request)


@pytest.mark.parametrize("item", CAPTURED, ids=lambda item: item["name"])
def test_requests_of_the_official_sdks_verify(item: dict[str, Any]) -> None:
    request = request_of(item)
    signed = check(request, item["secret_key"], now=time_of(request))
    assert signed.access_key == item["access_key"]
    assert signed.region == "cn-beijing"


def test_a_rewritten_host_needs_to_be_named() -> None:
    item = BY_NAME["tks-url-rewrite"]
    request = request_of(item)
    assert refused(request, item["secret_key"], now=time_of(request), hosts=()).code == "signature-mismatch"


@pytest.mark.parametrize("item", FULLY_SIGNED, ids=lambda item: item["name"])
def test_our_signer_makes_what_the_sdk_made(item: dict[str, Any]) -> None:
    request = request_of(item)
    bare = request
    for name in ("X-Date", "X-Content-Sha256", "Authorization"):
        bare = with_header(bare, name, None)
    made = sign(
        bare,
        access_key=item["access_key"],
        secret=item["secret_key"],
        service=SignedRequest.parse(request).service,
        region="cn-beijing",
        now=time_of(request),
    )
    assert dict(made)["Authorization"] == request.values("authorization")[0]


def test_another_body_is_refused(captured: tuple[V4Request, str, int]) -> None:
    request, secret, now = captured
    assert refused(dataclasses.replace(request, body=b"{}"), secret, now=now).code == "signature-body"


def test_the_real_body_counts_and_not_its_claimed_hash(captured: tuple[V4Request, str, int]) -> None:
    request, secret, now = captured
    other = dataclasses.replace(request, body=b"{}")
    hashed = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert refused(with_header(other, "X-Content-Sha256", hashed), secret, now=now).code == "signature-mismatch"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"path": "/other"},
        {"query": "Action=DeleteTksRing&Version=2024-12-24"},
        {"query": "Action=CreateTksRing&Version=2024-12-24&More=1"},
    ],
)
def test_what_is_signed_cannot_change(captured: tuple[V4Request, str, int], change: dict[str, str]) -> None:
    request, secret, now = captured
    assert refused(dataclasses.replace(request, **change), secret, now=now).code == "signature-mismatch"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["X-Top-Account-Id", "X-Sdk-Invocation-Id", "Host", "Content-Type"])
def test_a_signed_header_cannot_change_or_go(captured: tuple[V4Request, str, int], name: str) -> None:
    request, secret, now = captured
    assert refused(with_header(request, name, "2100000002"), secret, now=now).code == "signature-mismatch"
    assert refused(with_header(request, name, None), secret, now=now).code == "signature-headers"


def test_a_header_that_stands_twice_is_refused(captured: tuple[V4Request, str, int]) -> None:
    request, secret, now = captured
    twice = dataclasses.replace(request, headers=(*request.headers, ("x-top-account-id", "2100000002")))
    assert refused(twice, secret, now=now).code == "signature-headers"


def test_unknown_key_and_wrong_secret_look_the_same(captured: tuple[V4Request, str, int]) -> None:
    request, secret, now = captured
    unknown, wrong = refused(request, None, now=now), refused(request, secret + "x", now=now)
    assert (unknown.code, unknown.status, str(unknown)) == (wrong.code, wrong.status, str(wrong))
    assert unknown.code == "signature-mismatch"
    assert refused(request, "", now=now).code == "signature-mismatch"


@pytest.mark.parametrize("drift", [MAX_SKEW + 1, -MAX_SKEW - 1, 86400])
def test_a_clock_that_is_off_is_refused(captured: tuple[V4Request, str, int], drift: int) -> None:
    request, secret, now = captured
    assert refused(request, secret, now=now + drift).code == "signature-time"


@pytest.mark.parametrize("drift", [MAX_SKEW, -MAX_SKEW])
def test_fifteen_minutes_either_way_are_allowed(captured: tuple[V4Request, str, int], drift: int) -> None:
    request, secret, now = captured
    check(request, secret, now=now + drift)


def test_another_day_service_or_region_is_refused(captured: tuple[V4Request, str, int]) -> None:
    request, secret, now = captured
    line = request.values("authorization")[0]
    date = SignedRequest.parse(request).date
    other = with_header(request, "Authorization", line.replace(f"/{date}/", "/20200101/"))
    assert refused(other, secret, now=now).code == "signature-time"
    assert refused(request, secret, now=now, service="ark").code == "signature-scope"
    assert refused(request, secret, now=now, region="cn-shanghai").code == "signature-scope"


@pytest.mark.parametrize("dropped", ["host", "x-date", "x-content-sha256", "content-type"])
def test_required_headers_must_be_signed(captured: tuple[V4Request, str, int], dropped: str) -> None:
    request, secret, now = captured
    line = request.values("authorization")[0].replace(f"{dropped};", "")
    assert refused(with_header(request, "Authorization", line), secret, now=now).code == "signature-headers"


def test_a_session_token_must_be_signed(captured: tuple[V4Request, str, int]) -> None:
    request, secret, now = captured
    assert refused(with_header(request, "X-Security-Token", "STS"), secret, now=now).code == "signature-token"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Bearer x",
        "AWS4-HMAC-SHA256 Credential=A/20261123/cn-beijing/pcc/request, SignedHeaders=host, Signature=" + "0" * 64,
        "HMAC-SHA256 Credential=A/20261123/cn-beijing/pcc/request, SignedHeaders=host;host, Signature=" + "0" * 64,
        "HMAC-SHA256 Credential=A/20261123/cn-beijing/pcc/request, SignedHeaders=x-date;host, Signature=" + "0" * 64,
        "HMAC-SHA256 Credential=A/20261123/cn-beijing/pcc/request, SignedHeaders=host, Signature=" + "G" * 64,
        "HMAC-SHA256 Credential=A/20261123/cn-beijing/pcc/aws4, SignedHeaders=host, Signature=" + "0" * 64,
        "HMAC-SHA256 " + "x" * 5000,
    ],
)
def test_authorization_of_another_form_is_refused(captured: tuple[V4Request, str, int], line: str) -> None:
    request, _, _ = captured
    with pytest.raises(V4Refused) as caught:
        SignedRequest.parse(with_header(request, "Authorization", line))
    assert caught.value.code == "signature-malformed"


def test_an_unsigned_request_is_told_to_sign(captured: tuple[V4Request, str, int]) -> None:
    request, _, _ = captured
    with pytest.raises(V4Refused) as caught:
        SignedRequest.parse(with_header(request, "Authorization", None))
    assert (caught.value.code, caught.value.status) == ("signature-missing", 401)
    assert caught.value.hint


@pytest.mark.parametrize("date", ["20261123T093440", "yesterday", "20261399T093440Z", "20261123T256060Z"])
def test_a_date_of_another_form_is_refused(captured: tuple[V4Request, str, int], date: str) -> None:
    request, secret, now = captured
    assert refused(with_header(request, "X-Date", date), secret, now=now).code in (
        "signature-malformed",
        "signature-time",
    )


def test_the_query_is_sorted_and_encoded_anew() -> None:
    assert canonical_query("b=2&a=%e7%8e%af+x&c") == "a=%E7%8E%AF%20x&b=2&c="
    assert canonical_query("") == ""
    for bad in ("a=1&a=2", "a=%zz", "a=%4", "a=\xe9", "&".join(f"p{n}=1" for n in range(65)), "a=" + "x" * 9000):
        with pytest.raises(V4Refused):
            canonical_query(bad)


def test_signing_needs_host_and_content_type() -> None:
    bare = V4Request("POST", "/", "", (("Host", "h"),), b"")
    with pytest.raises(LocalError):
        sign(bare, access_key="A", secret="s", service="pcc", region="r", now=0)


@given(st.text(max_size=300), st.text(max_size=40), st.text(max_size=80), st.binary(max_size=40))
def test_any_text_is_refused_by_our_own_error(line: str, date: str, query: str, body: bytes) -> None:
    headers = (("Authorization", line), ("X-Date", date), ("Host", "h"), ("Content-Type", "a"))
    request = V4Request("POST", "/", query, headers, body)
    with pytest.raises((V4Refused, MalformedError)):
        check(request, "secret", now=0)


@given(
    st.text(st.characters(codec="ascii", exclude_characters="&=+%#", categories=("L", "N", "P")), max_size=20),
    st.binary(max_size=100),
    st.integers(0, 4_000_000_000),
)
def test_what_is_signed_verifies(value: str, body: bytes, now: int) -> None:
    headers = (("Host", "tks.example:8443"), ("Content-Type", "application/json"), ("X-Sdk-Invocation-Id", "i"))
    bare = V4Request("POST", "/", f"Action={value}&Version=1", headers, body)
    signed = dataclasses.replace(
        bare, headers=sign(bare, access_key="AK", secret="s", service="pcc", region="cn-beijing", now=now)
    )
    check(signed, "s", now=now)
    assert refused(signed, "t", now=now).code == "signature-mismatch"
