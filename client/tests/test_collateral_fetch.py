# SPDX-License-Identifier: Apache-2.0
"""`teehouse collateral fetch` for a GPU: manifests and OCSP answers from stand-ins for NVIDIA's services."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import forge_nvidia as forge
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from stand_in_services import StandInServices

from teehouse.cli.main import main
from teehouse.collateral import sources
from teehouse.collateral.wanted import chain_statuses, rim_statuses
from teehouse_core.evidence.pack import describe, parse_pack

NONCE = bytes(range(32))
AT = datetime.fromtimestamp(forge.NOW, UTC).isoformat()
BELOW_ROOT = 3  # certificates of a device chain that are asked about
OF_SIGNERS = 3  # and of the two manifests' one signer chain


@dataclass
class World:
    services: StandInServices
    device: forge.Device
    report: Path
    chain: Path
    pack: Path
    capsys: pytest.CaptureFixture[str]
    answers: dict[int, bytes]

    def fetch(self, *more: object) -> tuple[int, dict[str, Any]]:
        where = ["--rim-url", self.services.url, "--ocsp-url", f"{self.services.url}/", "--timeout", "0.4"]
        code, out = self.run("collateral", "fetch", self.report, "--chain", self.chain, *where, "-o", self.pack, *more)
        return code, json.loads(out) if out else {}

    def verify(self) -> tuple[int, set[str]]:
        given = ["--chain", self.chain, "--collateral", self.pack, "--nonce", NONCE.hex(), "--at", AT]
        code, out = self.run("evidence", "verify", self.report, "--type", "nvidia-gpu", "--policy", "evaluate", *given)
        checks = json.loads(out)["checks"]
        return code, {c["id"] for c in checks if c["required"] and c["state"] not in ("passed", "not-applicable")}

    def run(self, *arguments: object) -> tuple[int, str]:
        code = main([str(argument) for argument in (*arguments, "--json")])
        said = self.capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out

    @property
    def ocsp_files(self) -> dict[str, bytes]:
        files = parse_pack(self.pack.read_bytes()).files
        return {name: data for name, data in files.items() if name.startswith("nvidia/ocsp-")}


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    device = forge.gpu()
    answers = {
        c.serial_number: forge.ocsp_response(c, hash_algorithm=hashes.SHA384())
        for c in forge.certificates_to_clear([device])
    }
    rims = {
        f"NV_GPU_DRIVER_GH100_{forge.DRIVER}": forge.driver_rim(),
        f"NV_GPU_VBIOS_G520_0200_885_{forge.VBIOS.replace('.', '')}": forge.vbios_rim(),
    }
    services = StandInServices(rims, answers.get)
    report, chain = tmp_path / "gpu.bin", tmp_path / "my chain é.pem"
    report.write_bytes(device.report(NONCE))
    chain.write_text(device.pem)
    yield World(services, device, report, chain, tmp_path / "pack.json", capsys, answers)
    services.close()


def test_what_is_fetched_is_enough_to_accept(world: World) -> None:
    code, told = world.fetch()
    assert (code, told["problems"]) == (0, [])
    assert len(world.ocsp_files) == BELOW_ROOT + OF_SIGNERS
    assert {item.kind for item in describe(world.ocsp_files)} == {"ocsp"}
    assert world.verify() == (0, set())
    kinds = [kind for method, kind in world.services.asked if method == "POST"]
    assert kinds == ["application/ocsp-request"] * (BELOW_ROOT + OF_SIGNERS)
    asked = {request.serial_number for request in world.services.requests}
    assert asked == set(world.answers)
    assert world.device.chain[0].serial_number not in asked  # the device makes its leaf at each start
    assert {request.hash_algorithm.name for request in world.services.requests} == {"sha384"}


def test_a_revoked_certificate_is_stored_and_then_refuses(world: World) -> None:
    device = world.device.chain[1]
    world.answers[device.serial_number] = forge.ocsp_response(device, status=ocsp.OCSPCertStatus.REVOKED)
    assert world.fetch()[0] == 0
    assert world.verify() == (10, {"gpu.certificate.revocation"})


def test_an_answer_by_a_stranger_is_stored_and_then_refuses(world: World) -> None:
    device = world.device.chain[1]
    stranger = forge.certificate("SIMULATED stranger", forge.pki().rim_root, ca=False)
    world.answers[device.serial_number] = forge.ocsp_response(device, signer=stranger)
    assert world.fetch()[0] == 0
    assert world.verify() == (10, {"gpu.certificate.revocation"})


def test_one_certificate_without_answer_is_told_and_the_others_are_kept(world: World) -> None:
    del world.answers[world.device.chain[1].serial_number]
    code, told = world.fetch()
    assert code == 3
    assert len(told["problems"]) == 1
    assert "unauthorized" in told["problems"][0]
    assert len(world.ocsp_files) == BELOW_ROOT + OF_SIGNERS - 1
    assert world.verify() == (10, {"gpu.certificate.revocation"})
    world.answers[world.device.chain[1].serial_number] = forge.ocsp_response(world.device.chain[1])
    assert world.fetch()[0] == 0  # into the same pack
    assert world.verify() == (0, set())


def test_an_answer_about_another_certificate_is_not_stored(world: World) -> None:
    serial, other = world.device.chain[1].serial_number, world.device.chain[2]
    world.answers[serial] = forge.ocsp_response(other)
    code, told = world.fetch()
    assert code == 30
    assert "another certificate" in told["problems"][0]
    assert len(world.ocsp_files) == BELOW_ROOT + OF_SIGNERS - 1


@pytest.mark.parametrize(
    ("mode", "expected", "words"),
    [
        ("error", 3, "status 500"),
        ("elsewhere", 3, "status 302"),
        ("page", 30, "no OCSP response"),
        ("cut", 30, "no OCSP response"),
        ("broken_off", 3, "does not answer"),
        ("packed", 30, "packed"),
        ("silent", 3, "Timeout"),
        ("dripping", 3, "too long"),
        ("endless", 30, "more than"),
    ],
)
def test_a_responder_that_misbehaves(
    world: World, mode: str, expected: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_ANSWER", 1 << 17)
    world.services.mode = mode
    began = time.monotonic()
    code, told = world.fetch()
    assert code == expected
    assert len(told["problems"]) == BELOW_ROOT + OF_SIGNERS
    assert all(words in problem for problem in told["problems"])
    assert world.ocsp_files == {}
    files = parse_pack(world.pack.read_bytes()).files
    assert len(files) == 2  # the manifests are kept
    assert time.monotonic() - began < 30
    assert world.verify()[0] == 10


def test_nobody_at_the_address(world: World) -> None:
    world.services.close()
    code, told = world.fetch()
    assert code == 3
    assert len(told["problems"]) == 2 + BELOW_ROOT  # without manifests nobody asks for their signers


def test_chains_with_and_without_their_root() -> None:
    device, root = forge.gpu(), forge.pki().device_root.certificate
    whole, without = chain_statuses(device.chain, ()), chain_statuses(device.chain[:-1], (root,))
    assert whole == without
    assert [want.issuer for want in whole] == list(device.chain[2:])
    assert len(chain_statuses(device.chain[:-1], ())) == BELOW_ROOT - 1  # the issuer of the last one is not known
    assert len(rim_statuses(forge.driver_rim(), ())) == OF_SIGNERS
    assert rim_statuses(b"<SoftwareIdentity/>", ()) == []
    assert x509.load_der_x509_certificate(root.public_bytes(Encoding.DER)) == root
