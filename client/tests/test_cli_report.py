# SPDX-License-Identifier: Apache-2.0
"""`teehouse report`: raw to parsed to verdict and back, offline, with the exit codes of EVIDENCE §4."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from client_support import ENDPOINT, Node
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teehouse.cli.check_titles import TITLES, texts_of
from teehouse.cli.html_report import page
from teehouse.cli.main import main
from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.catalogue import CATALOGUE
from teehouse_core.appraise.ear import ear_of, trust_tier, trust_vector
from teehouse_core.appraise.policy import Policy
from teehouse_core.evidence.parsed import differing_paths, parse_report
from teehouse_core.wire.canonical import unb64u

NONCE = secrets.token_bytes(32)
FETCHES = re.compile(r"(?i)(?:https?:)?//[^\s/\"'<>]+\.[a-z]|\bsrc\s*=|\burl\(|@import|<link|<iframe|<object|<embed")


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return Node().bundle(NONCE)


@pytest.fixture
def raw(bundle: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "raw.b64"
    path.write_bytes(base64.encodebytes(bundle))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


def test_parse_is_deterministic_and_has_ranges(raw: Path, bundle: bytes, tmp_path: Path, capsys) -> None:
    code, out, _ = run(capsys, "report", "parse", raw)
    assert code == 0
    document = json.loads(out)
    assert document["v"] == "parsed/1"
    assert document["type"] == "bundle"
    quote = next(part for part in document["parts"] if part["at"] == "/platform/report")
    assert quote["type"] == "tdx-quote"
    fields = quote["fields"]
    assert (fields[0]["start"], fields[-1]["end"]) == (0, quote["size"])
    assert all(a["end"] == b["start"] for a, b in pairwise(fields))
    kinds = {inner["type"] for inner in quote["parts"]}
    assert kinds == {"certificate"}
    places = {part["at"] for part in document["parts"]}
    assert {"/collateral/intel/pck_crl", "/collateral/intel/tcb_info"} <= places
    output = tmp_path / "parsed.json"
    assert run(capsys, "report", "parse", raw, "-o", output)[0] == 0
    assert output.read_text("utf-8") == out
    as_json = tmp_path / "bundle.json"
    as_json.write_bytes(bundle)
    assert run(capsys, "report", "parse", as_json)[1] == out


def test_verify_says_accepted_and_writes_every_artifact(raw: Path, tmp_path: Path, capsys) -> None:
    page_file, verdict_file, ear_file = tmp_path / "v.html", tmp_path / "v.json", tmp_path / "ear.json"
    arguments = ["report", "verify", raw, "--policy", "evaluate", "--nonce", NONCE.hex(), "--endpoint", ENDPOINT]
    code, out, _ = run(capsys, *arguments, "--json", "--html", page_file, "--output", verdict_file, "--ear", ear_file)
    assert code == 0
    document = json.loads(out)
    assert list(document) == ["result", "tier", "policy", "at", "checks", "claims"]
    assert (document["result"], document["tier"]) == ("accepted", "simulated")
    names = ["id", "group", "state", "claimed", "expected", "source", "clause", "hint", "required"]
    assert all(list(check) == names for check in document["checks"])
    assert json.loads(verdict_file.read_text("utf-8")) == document
    ear = json.loads(ear_file.read_text("utf-8"))
    assert ear["eat_profile"].startswith("tag:ietf.org,2026:rats/ear#")
    assert set(ear["submods"]) >= {"cpu0", "workload"}
    assert ear["ear_status"] == "warning"
    assert_self_contained(page_file.read_text("utf-8"))
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert "accepted" in out
    assert "SIMULATED" in out + err


def test_refusals_are_explained(raw: Path, capsys, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "report", "verify", raw, "--html", tmp_path / "r.html")
    assert code == 10
    assert "refused" in out
    assert "hint" in out
    assert "expected" in out
    assert "tdx.pck.chain" in out
    shown = (tmp_path / "r.html").read_text("utf-8")
    assert_self_contained(shown)
    assert "Why it is refused" in shown
    assert '<a href="#tdx.pck.chain">' in shown
    assert '<tr id="tdx.pck.chain"' in shown
    assert "<details open><summary>what this checks</summary><p><b>What.</b> " in shown
    assert "docs: checks/tdx.pck.chain.md" in shown
    assert shown.count("<details>") > 30
    code, out, _ = run(capsys, "report", "verify", raw, "--policy", "evaluate", "--nonce", "00" * 32)
    assert code == 10
    assert "challenge.nonce" in out
    code, out, _ = run(capsys, "report", "verify", raw, "--policy", "evaluate", "--at", "2049-01-01T00:00:00Z")
    assert code == 10


def test_an_unknown_platform_is_not_supported(bundle: bytes, tmp_path: Path, capsys) -> None:
    document = json.loads(bundle)
    document["platform"]["type"] = "cca"
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps(document))
    assert run(capsys, "report", "verify", path, "--policy", "evaluate")[0] == 20


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"{}", b"not base64!", b"\xff\xfe", b"AAAA", b"[]", b'{"v":"evidence/1"}', b"{" * 5000, b'{"a":null}'],
)
def test_bytes_that_are_no_report_are_malformed(data: bytes, tmp_path: Path, capsys) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    for command in ("parse", "verify"):
        code, out, err = run(capsys, "report", command, path)
        assert code == 30
        assert err.startswith("error: ")
        assert out == ""
    code, out, _ = run(capsys, "report", "verify", path, "--json")
    assert code == 30
    assert json.loads(out)["error"]["code"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "verify", "/nowhere/at/all"],
        ["report", "verify"],
        ["report", "verify", "RAW", "--policy", "lax"],
        ["report", "verify", "RAW", "--at", "yesterday"],
        ["report", "verify", "RAW", "--at", "2026-01-01T00:00:00"],
        ["report", "verify", "RAW", "--nonce", "xyz"],
        ["report", "verify", "RAW", "--nonce", "00"],
        ["report", "verify", "RAW", "--sign-key", "RAW"],
        ["report", "parse", "RAW", "-o", "/nowhere/at/all"],
        ["report", "nonsense"],
    ],
)
def test_wrong_use_is_exit_2(arguments: list[str], raw: Path, capsys) -> None:
    code, _, err = run(capsys, *(str(raw) if argument == "RAW" else argument for argument in arguments))
    assert code == 2
    assert err.startswith("error: ")


def test_compare(raw: Path, tmp_path: Path, capsys) -> None:
    a, b, verdict = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "v.json"
    run(capsys, "report", "parse", raw, "-o", a)
    run(capsys, "report", "parse", raw, "-o", b)
    code, out, _ = run(capsys, "report", "compare", a, b)
    assert (code, "equal" in out) == (0, True)
    document = json.loads(b.read_text("utf-8"))
    document["parts"][0]["fields"][3]["value"] = "changed"
    del document["sha256"]
    b.write_text(json.dumps(document))
    code, out, _ = run(capsys, "report", "compare", a, b)
    assert code == 10
    assert "/parts/0/fields/3/value" in out
    assert "/sha256" in out
    code, out, _ = run(capsys, "report", "compare", a, b, "--json")
    assert {d["path"] for d in json.loads(out)["differences"]} == {"/parts/0/fields/3/value", "/sha256"}
    run(capsys, "report", "verify", raw, "--policy", "evaluate", "--at", "2026-11-23T00:00:00Z", "--output", verdict)
    assert run(capsys, "report", "compare", verdict, verdict)[0] == 0
    again = tmp_path / "w.json"
    run(capsys, "report", "verify", raw, "--policy", "standard", "--at", "2026-11-23T00:00:00Z", "--output", again)
    code, out, err = run(capsys, "report", "compare", verdict, again)
    assert code == 10
    assert "--policy" in err
    assert run(capsys, "report", "compare", a, verdict)[0] == 30
    b.write_text("{}")
    assert run(capsys, "report", "compare", b, b)[0] == 30
    b.write_text("[1]")
    assert run(capsys, "report", "compare", b, b)[0] == 30


def test_differing_paths_tells_kinds_apart() -> None:
    assert differing_paths({"a": [1, 2]}, {"a": [1, 2]}) == []
    assert differing_paths({"a": 1}, {"a": True}) == [("/a", "1", "true")]
    assert differing_paths({"a/b": 1}, {}) == [("/a~1b", "1", "(absent)")]
    assert differing_paths([1], [1, 2]) == [("/1", "(absent)", "2")]
    assert len(differing_paths(list(range(5000)), [])) == 1000


def test_the_signed_ear_verifies(raw: Path, tmp_path: Path, capsys) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, ear = tmp_path / "key.pem", tmp_path / "ear.jwt"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    arguments = ["report", "verify", raw, "--policy", "evaluate", "--ear", ear, "--sign-key", pem]
    assert run(capsys, *arguments)[0] == 0
    head, body, signature = ear.read_text("ascii").strip().split(".")
    assert json.loads(unb64u(head)) == {"alg": "ES256", "typ": "JWT"}
    value = unb64u(signature)
    der = encode_dss_signature(int.from_bytes(value[:32], "big"), int.from_bytes(value[32:], "big"))
    key.public_key().verify(der, f"{head}.{body}".encode(), ec.ECDSA(hashes.SHA256()))
    assert json.loads(unb64u(body))["teehouse.result"] == "accepted"
    pem.write_bytes(b"no key")
    assert run(capsys, *arguments)[0] == 2
    other = ec.generate_private_key(ec.SECP384R1())
    pem.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert run(capsys, *arguments)[0] == 2


def test_ear_tiers_follow_the_checks(bundle: bytes) -> None:
    now = json.loads(bundle)["keyset"]["not_before"]
    good = ear_of(appraise(bundle, Policy.preset("evaluate"), now, endpoint=ENDPOINT, nonce=NONCE))
    cpu = good["submods"]["cpu0"]
    assert cpu["ear_trustworthiness_vector"]["hardware"] == 32  # simulated: affirmed by nothing
    assert good["exp"] > now
    bad = ear_of(appraise(bundle, Policy.preset("standard"), now, nonce=NONCE))
    assert bad["ear_status"] == "contraindicated"
    assert bad["submods"]["cpu0"]["ear_trustworthiness_vector"]["hardware"] == 99
    assert "exp" not in bad
    assert trust_vector([]) == {}
    assert [trust_tier(v) for v in (0, 2, 32, 96)] == ["none", "affirming", "warning", "contraindicated"]


class Tags(HTMLParser):
    """Which elements and attributes a page has; unbalanced ones are told too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, value in attrs if name != "href" or not (value or "").startswith("#")}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_self_contained(text: str) -> None:
    assert "http://" not in text
    assert "https://" not in text
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not tags.names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not any(name.startswith("on") or name in ("src", "href", "style") for name in tags.attributes)
    assert not FETCHES.search(text)
    assert "prefers-color-scheme" in text
    assert "@media print" in text


def test_every_check_has_its_words() -> None:
    for check_id in CATALOGUE:
        assert set(texts_of(check_id)) == {"what", "why", "attacker"}
        assert check_id in TITLES
    assert texts_of("none") == {}


def test_the_page_escapes_what_others_wrote(bundle: bytes) -> None:
    evil = "<script>alert(1)</script>\x1b[31m\"'&"
    check = {
        "id": evil,
        "group": "quote",
        "state": "failed",
        "claimed": evil,
        "expected": evil,
        "source": evil,
        "clause": evil,
        "hint": evil,
        "required": True,
    }
    document: dict[str, Any] = {"result": "refused", "tier": "none", "checks": [check], "claims": {evil: [evil, {}]}}
    text = page(document, subject=evil, policy=Policy.preset("evaluate"), at=0, parsed=parse_report(bundle))
    assert "<script" not in text
    assert "\x1b" not in text
    assert_self_contained(text)


def test_no_network_and_no_settings_in_a_process_of_its_own(raw: Path, tmp_path: Path) -> None:
    """The whole command in a fresh interpreter: no home, and every socket refused."""
    guard = "import socket, sys\ndef no(*a, **k): raise SystemExit('network')\nsocket.socket.connect = no\n"
    program = guard + "from teehouse.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "report", "verify", str(raw), "--policy", "evaluate", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=60, env={"HOME": str(tmp_path / "none"), "PATH": ""})
    assert done.returncode == 0
    assert json.loads(done.stdout)["result"] == "accepted"
    command[5] = str(tmp_path)  # a folder
    assert subprocess.run(command, capture_output=True, timeout=60, env={"PATH": ""}).returncode == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_reports_end_in_one_of_the_codes(data: st.DataObject, bundle: bytes, tmp_path: Path, capsys) -> None:
    at = data.draw(st.integers(0, len(bundle) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "m"
    path.write_bytes(bundle[:at] + piece + bundle[at + len(piece) :])
    assert run(capsys, "report", "verify", path, "--policy", "evaluate")[0] in (0, 10, 20, 30)
    assert run(capsys, "report", "parse", path)[0] in (0, 30)
