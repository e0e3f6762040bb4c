# SPDX-License-Identifier: Apache-2.0
"""`teehouse evidence` and `teehouse collateral`: single artifacts and packs, with the exit codes of EVIDENCE §4."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stand_in_services import StandInServices

from teehouse import conformance
from teehouse.cli.main import main
from teehouse_core.appraise.artifacts import dispatch
from teehouse_core.appraise.artifacts.dispatch import ARTIFACTS
from teehouse_core.errors import LocalError
from teehouse_core.evidence.pack import MAX_FILES, Pack, build_pack, describe, parse_pack

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
CODES = (0, 10, 20, 30)


@cache
def manifest() -> dict[str, Any]:
    if not (VECTORS / "manifest.json").exists():
        pytest.skip("missing shared vectors: no ../shared/vectors beside the repository")
    found: dict[str, Any] = json.loads((VECTORS / "manifest.json").read_text("utf-8"))
    return found


def row(result: str, tech: str = "tdx-v4-td10") -> tuple[Path, Path, str]:
    for item in manifest()["tdx"]:
        for verify in item["verify"]:
            if item["tech"] == tech and verify["result"] == result:
                return VECTORS / item["file"], VECTORS / verify["collateral"], verify["at"]
    raise AssertionError(result)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return code, said.out, said.err


def verify(capsys: pytest.CaptureFixture[str], file: Path, collateral: Path | None, at: str, *more: object) -> Any:
    given = ["--collateral", collateral] if collateral else []
    return run(capsys, "evidence", "verify", file, "--type", "tdx-quote", *given, "--at", at, *more)


@pytest.mark.parametrize("tech", ["tdx-v4-td10", "tdx-v5-td15"])
def test_a_genuine_quote_is_accepted(tech: str, capsys, tmp_path: Path) -> None:
    file, collateral, at = row("UpToDate", tech)
    code, out, _ = verify(capsys, file, collateral, at, "--json", "--html", tmp_path / "x.html")
    assert code == 0
    document = json.loads(out)
    assert list(document) == ["result", "tier", "checks", "claims"]
    assert (document["result"], document["tier"]) == ("accepted", "hardware")
    assert document["claims"]["tcb_status"] == "UpToDate"
    text = (tmp_path / "x.html").read_text("utf-8")
    assert "https://" not in text
    assert "<script" not in text
    code, out, err = verify(capsys, file, collateral, at)
    assert code == 0
    assert "accepted" in out
    assert "HARDWARE" in out
    assert at[:10] in err
    assert verify(capsys, file, collateral, at, "--verbose")[0] == 0
    assert verify(capsys, file, VECTORS / "tdx" / "collateral", at)[0] == 0  # a folder, of which one file fits
    assert verify(capsys, file, collateral, at, "--report-data", "aa" * 64)[0] == 10
    assert verify(capsys, file, collateral, at, "--policy", "strict")[0] in (0, 10)
    assert verify(capsys, file, None, at)[0] == 10
    encoded = tmp_path / "quote.b64"
    encoded.write_bytes(base64.encodebytes(file.read_bytes()))
    assert verify(capsys, encoded, collateral, at)[0] == 0
    encoded.write_text(file.read_bytes().hex())
    assert verify(capsys, encoded, collateral, at)[0] == 0


def test_refused_for_its_status_with_the_policy_line(capsys, tmp_path: Path) -> None:
    file, collateral, at = row("OutOfDate")
    code, out, _ = verify(capsys, file, collateral, at)
    assert code == 10
    assert "tdx.tcb.status" in out
    assert "OutOfDate" in out
    policy = tmp_path / "mine.toml"
    claims = json.loads(verify(capsys, file, collateral, at, "--json")[1])["claims"]
    policy.write_text(
        f'tcb_statuses = ["UpToDate", "OutOfDate"]\nadvisories_allowed = {json.dumps(claims["advisories"])}\n'
    )
    assert verify(capsys, file, collateral, at, "--policy", policy)[0] == 0


def test_wrong_use_is_exit_2(capsys) -> None:
    file, collateral, at = row("UpToDate")
    assert verify(capsys, file, collateral, "noon")[0] == 2
    assert verify(capsys, file, collateral, at, "--nonce", "zz")[0] == 2
    assert verify(capsys, file, collateral, at, "--report-data", "00")[0] == 2
    assert verify(capsys, file, Path("/nowhere/at/all"), at)[0] == 2
    assert run(capsys, "evidence", "verify", file)[0] == 2
    assert run(capsys, "evidence", "verify", file, "--type", "potato")[0] == 2
    assert run(capsys, "evidence", "show", "/nowhere/at/all")[0] == 2


def test_what_cannot_be_appraised_here_is_exit_20(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    file, collateral, at = row("UpToDate")
    monkeypatch.setattr(dispatch, "ARTIFACTS", {"tdx-quote": "not_there"})
    code, out, _ = verify(capsys, file, collateral, at, "--json")
    assert code == 20
    assert json.loads(out)["result"] == "unsupported"
    assert json.loads(out)["claims"]["hint"]
    assert verify(capsys, file, collateral, at)[0] == 20

    class NoLxml:
        @staticmethod
        def verify_artifact(*_: object, **__: object) -> None:
            raise LocalError("reading a RIM needs lxml", code="lxml-missing", hint="install it")

    monkeypatch.setattr(dispatch.importlib, "import_module", lambda _name: NoLxml)
    assert verify(capsys, file, collateral, at)[0] == 20


def test_show_knows_every_shared_vector(capsys) -> None:
    told = {0: 0, 20: 0, 30: 0}
    manifest()
    for path in sorted(VECTORS.rglob("*")):
        if path.is_file() and path.stat().st_size < 300_000:
            code, out, _ = run(capsys, "evidence", "show", path, "--json")
            told[code] += 1
            if code == 0:
                assert json.loads(out)["v"] == "parsed/1"
    assert told[0] >= 250


def test_show_prints_a_tree(capsys) -> None:
    file, _, _ = row("UpToDate")
    code, out, _ = run(capsys, "evidence", "show", file)
    assert code == 0
    assert "td_report.mr_td" in out
    assert "0x0000-0x0002" in out
    assert "CN=Intel SGX Root CA" in out


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(ARTIFACTS)), data=st.binary(max_size=2000))
def test_random_bytes_end_in_one_of_the_codes(kind: str, data: bytes, tmp_path: Path, capsys) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert run(capsys, "evidence", "verify", path, "--type", kind)[0] in CODES
    assert run(capsys, "evidence", "show", path)[0] in CODES
    assert run(capsys, "collateral", "show", path)[0] in (0, 30)


@cache
def genuine() -> tuple[tuple[str, bytes], ...]:
    """A few genuine artifacts of each kind."""
    picks = {
        "tdx-quote": "tdx/quotes/*.bin",
        "snp-report": "snp/reports/*.bin",
        "nvidia-gpu": "nvidia/reports/*.bin",
        "rim": "nvidia/rim/*.xml",
        "event-log": "eventlog/*/*.bin",
        "az-vtpm": "tpm/azure/*evidence*.json",
        "tpm-quote": "tpm/azure/*.msg",
    }
    manifest()
    return tuple((kind, path.read_bytes()) for kind, glob in picks.items() for path in sorted(VECTORS.glob(glob))[:3])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_artifacts_end_in_one_of_the_codes(data: st.DataObject, tmp_path: Path, capsys) -> None:
    kind, raw = data.draw(st.sampled_from(genuine()))
    at = data.draw(st.integers(0, len(raw) - 1))
    piece = data.draw(st.binary(max_size=6))
    path = tmp_path / "x"
    path.write_bytes(raw[:at] + piece + raw[at + data.draw(st.integers(0, 6)) :])
    collateral = data.draw(st.sampled_from([[], ["--collateral", str(path)], ["--chain", str(path)]]))
    assert run(capsys, "evidence", "verify", path, "--type", kind, *collateral)[0] in (2, *CODES)
    assert run(capsys, "evidence", "show", path)[0] in CODES


# --- packs -----------------------------------------------------------------------------------------------------------


def test_import_and_show_a_pack(capsys, tmp_path: Path) -> None:
    file, collateral, at = row("UpToDate")
    pack = tmp_path / "pack.json"
    arguments = [collateral, VECTORS / "snp" / "crl", VECTORS / "tdx" / "roots"]
    code, out, _ = run(capsys, "collateral", "import", *arguments, "-o", pack, "--json")
    assert code == 0
    kinds = {item["kind"] for item in json.loads(out)["items"]}
    assert {"tcb-info", "qe-identity", "crl", "certificate"} <= kinds
    assert verify(capsys, file, pack, at)[0] == 0
    code, out, _ = run(capsys, "collateral", "show", pack, "--at", at, "--json")
    assert {i["state"] for i in json.loads(out)["items"] if i["kind"] == "tcb-info"} == {"current"}
    code, out, _ = run(capsys, "collateral", "show", pack, "--at", "2045-01-01T00:00:00Z")
    assert "✗ expired" in out
    assert run(capsys, "collateral", "import", file, "-o", pack)[0] == 0  # adds to it
    assert file.name in parse_pack(pack.read_bytes()).files
    other = tmp_path / "other"
    other.write_text("{}")
    assert run(capsys, "collateral", "import", file, "-o", other)[0] == 2
    pack.write_bytes(pack.read_bytes()[:-40])
    assert run(capsys, "collateral", "show", pack)[0] == 30


def test_packs_are_strict() -> None:
    good = build_pack(Pack(1, {"a/b.der": b"x"}, {"a/b.der": "here"}))
    assert parse_pack(good) == Pack(1, {"a/b.der": b"x"}, {"a/b.der": "here"})
    for name in ("../x", "/x", "a//b", ".", "a/./b", "a b", ""):
        with pytest.raises(LocalError):
            build_pack(Pack(1, {name: b""}))
        with pytest.raises(Exception, match="pack"):
            parse_pack(json.dumps({"v": "collateral-pack/1", "made_at": 1, "files": {name: ""}}).encode())
    with pytest.raises(LocalError):
        build_pack(Pack(1, {f"{n}": b"" for n in range(MAX_FILES + 1)}))
    assert [item.kind for item in describe({"x": b"\x30\x03abc", "y": b"<SoftwareIdentity/>"})] == ["unreadable"] * 2


class Services:
    """Intel's, AMD's and NVIDIA's services on one loopback socket, answering from genuine collateral."""

    def __init__(self, collateral: dict[str, str], rim: bytes, vcek: bytes) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        services = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args: Any) -> None:
                pass

            def do_GET(self) -> None:
                services.asked.append(self.path)
                data, headers = services.answer(self.path)
                self.send_response(404 if data is None else 200)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

        self.c, self.rim, self.vcek = collateral, rim, vcek
        self.crl = next(iter(sorted((VECTORS / "snp" / "crl").glob("*Genoa*.crl")))).read_bytes()
        self.chain = next(iter(sorted((VECTORS / "snp" / "roots").glob("*enoa*.pem")))).read_bytes()
        self.ocsp = StandInServices({}, lambda serial: None)  # answers that it does not know the certificate
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str) -> tuple[bytes | None, dict[str, str]]:
        c = self.c
        if any(word in path for word in self.broken):
            return None, {}
        if "/certification/v4/tcb?" in path:
            body = f'{{"tcbInfo":{c["tcb_info"]},"signature":"{c["tcb_info_signature"]}"}}'
            return body.encode(), {"TCB-Info-Issuer-Chain": quote(c["tcb_info_issuer_chain"])}
        if path.endswith("/qe/identity"):
            body = f'{{"enclaveIdentity":{c["qe_identity"]},"signature":"{c["qe_identity_signature"]}"}}'
            return body.encode(), {"SGX-Enclave-Identity-Issuer-Chain": quote(c["qe_identity_issuer_chain"])}
        if "/pckcrl?" in path:
            return bytes.fromhex(c["pck_crl"]), {"SGX-PCK-CRL-Issuer-Chain": quote(c["pck_crl_issuer_chain"])}
        if path == "/root.der":
            return bytes.fromhex(c["root_ca_crl"]), {}
        if path.startswith("/v1/rim/"):
            return json.dumps({"id": path, "rim": base64.b64encode(self.rim).decode(), "sha256": ""}).encode(), {}
        if path.endswith("/cert_chain"):
            return self.chain, {}
        if path.endswith("/crl"):
            return self.crl, {}
        if path.startswith("/vcek/v1/"):
            return self.vcek, {}
        return None, {}


@pytest.fixture
def services() -> Iterator[Services]:
    _, collateral, _ = row("UpToDate")
    rim = next(iter(sorted((VECTORS / "nvidia" / "rim").glob("*.xml")))).read_bytes()
    vcek = next(iter(sorted((VECTORS / "snp" / "reports").glob("*.leaf.der")))).read_bytes()
    made = Services(json.loads(collateral.read_text("utf-8")), rim, vcek)
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.ocsp.close()


def fetch(capsys: pytest.CaptureFixture[str], services: Services, pack: Path, *files: Path) -> tuple[int, str, str]:
    url = services.url
    where = ["--intel-url", url, "--intel-root-crl-url", f"{url}/root.der", "--amd-url", url, "--rim-url", f"{url}/"]
    where += ["--ocsp-url", services.ocsp.url]
    return run(capsys, "collateral", "fetch", *files, *where, "-o", pack, "--json")


def test_fetch_makes_a_pack_that_verifies(services: Services, capsys, tmp_path: Path) -> None:
    file, _, at = row("UpToDate")
    snp = sorted((VECTORS / "snp" / "reports").glob("snp-v3_Genoa*.bin"))[0]
    gpu = sorted((VECTORS / "nvidia" / "reports").glob("HOPPER-GH100_590*.bin"))[0]
    pack = tmp_path / "pack.json"
    code, out, _ = fetch(capsys, services, pack, file, snp, gpu)
    assert code == 3, out
    # The manifest's signers are genuine, so nobody here can answer for them: test_collateral_fetch has answers.
    assert {"unauthorized" in problem for problem in json.loads(out)["problems"]} == {True}
    names = set(parse_pack(pack.read_bytes()).files)
    assert any(name.startswith("intel/tdx-") for name in names)
    assert any(name.startswith("amd/Genoa-vcek-") for name in names)
    assert any(name.startswith("nvidia/NV_GPU_DRIVER_GH100_590") for name in names)
    assert any(name.startswith("nvidia/NV_GPU_VBIOS_") for name in names)
    assert verify(capsys, file, pack, at)[0] == 0
    assert any("fmspc=" in path for path in services.asked)
    assert any("SPL=" in path for path in services.asked)


def test_fetch_keeps_what_came_and_says_what_did_not(services: Services, capsys, tmp_path: Path) -> None:
    file, _, _ = row("UpToDate")
    snp = sorted((VECTORS / "snp" / "reports").glob("snp-v3_Genoa*.bin"))[0]
    services.broken = {"/vcek/"}
    pack = tmp_path / "pack.json"
    code, out, _ = fetch(capsys, services, pack, file, snp)
    assert code == 3
    assert len(json.loads(out)["problems"]) == 1
    assert any(name.startswith("intel/") for name in parse_pack(pack.read_bytes()).files)
    services.broken = {"/tcb?"}
    assert fetch(capsys, services, tmp_path / "p2.json", file)[0] == 3
    services.broken, services.vcek = set(), b"<html>sign in</html>"
    assert fetch(capsys, services, tmp_path / "p7.json", snp)[0] == 30
    services.c = {**services.c, "tcb_info": "not json"}
    services.broken = set()
    assert fetch(capsys, services, tmp_path / "p3.json", file)[0] == 30
    note = tmp_path / "note.txt"
    note.write_text("hello")
    assert fetch(capsys, services, tmp_path / "p4.json", note)[0] == 2
    assert run(capsys, "collateral", "fetch", file, "--intel-url", "ftp://x", "-o", tmp_path / "p5.json")[0] == 2
    services.server.shutdown()
    services.server.server_close()
    assert fetch(capsys, services, tmp_path / "p6.json", file)[0] == 3


def test_verify_never_fetches(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    file, collateral, at = row("UpToDate")
    assert verify(capsys, file, collateral, at)[0] == 0
    assert verify(capsys, file, None, at)[0] == 10
    assert datetime.fromisoformat(at).year >= 2025


def test_a_wrong_type_is_told_the_right_one(capsys) -> None:
    file, _, _ = row("UpToDate")
    code, _, err = run(capsys, "evidence", "verify", file, "--type", "snp-report")
    assert (code, "--type tdx-quote" in err) == (30, True)


def test_the_conformance_command_explains_itself(capsys) -> None:
    assert conformance.main(["--help"]) == 0
    assert "usage: teehouse-conformance {" in capsys.readouterr().out
    assert conformance.main([]) == 2
    assert capsys.readouterr().out == ""
