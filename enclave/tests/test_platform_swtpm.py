# SPDX-License-Identifier: Apache-2.0
"""The tier `vtpm` end to end against a real software TPM: quotes, a node process, appraisal, a sealed chat."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from node_support import ENDPOINT

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.errors import LocalError, OperatorError, StaleEvidence
from teehouse_core.evidence import tpm as form
from teehouse_core.evidence.hcl import parse_hcl
from teehouse_core.evidence.replay import event_digest
from teehouse_core.seal.client import AnswerBody, AnswerEnd, ResponseOpener, seal_request
from teehouse_core.seal.inner import InnerOptions
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.frame import REQUEST_TYPE
from teehouse_enclave.platform.azure_vtpm import AzureVtpmPlatform
from teehouse_enclave.platform.tpm import EVENT_LOG, QUOTED, TpmPlatform
from teehouse_enclave.platform.tpm2 import RH_ENDORSEMENT, RH_OWNER, Tpm, TpmError, open_transport

NODE = Path(sys.executable).with_name("teehouse-node")
ACCOUNT = "00112233445566ff"


@dataclasses.dataclass
class Machine:
    """A root directory whose dev/tpmrm0 is a real swtpm on a unix socket."""

    root: Path
    process: subprocess.Popen[bytes]

    @property
    def device(self) -> str:
        return str(self.root / "dev" / "tpmrm0")

    def tools(self, *command: str) -> None:
        """tpm2-tools over the same socket, one at a time: they set up what a fake Azure machine has."""
        if shutil.which(command[0]) is None:
            pytest.skip(f"missing program: {command[0]}")
        environment = {"TPM2TOOLS_TCTI": f"swtpm:path={self.device}", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=30, cwd=self.root)
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if shutil.which("swtpm") is None:
        pytest.skip("missing program: swtpm")
    root = tmp_path / "r"
    (root / "dev").mkdir(parents=True)
    (root / "state").mkdir()
    socket = root / "dev" / "tpmrm0"
    # In the foreground: as a daemon it goes into TPM failure mode on some machines.
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={root / 'state'}"]
    command += ["--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl"]
    command += ["--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not socket.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield Machine(root, process)
    finally:
        process.terminate()
        process.wait(10)


def boot_log(root: Path, tpm: Tpm) -> None:
    """Measure a short boot into the TPM and write the log of it, as firmware does."""
    events = [(i, 0x4, bytes(4)) for i in range(8)] + [(9, 0xD, b"kernel")]
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 1) + struct.pack("<HH", 0xB, 32) + b"\0"
    out = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    for index, kind, data in events:
        digest = hashlib.sha256(data).digest()
        tpm.pcr_extend(index, digest)
        out += struct.pack("<IIIH", index, kind, 1, 0xB) + digest + struct.pack("<I", len(data)) + data
    path = root / EVENT_LOG
    path.parent.mkdir(parents=True)
    path.write_bytes(out)


def test_the_raw_commands_speak_with_a_real_tpm(machine: Machine, request: pytest.FixtureRequest) -> None:
    tpm = Tpm(open_transport(machine.device))
    request.addfinalizer(tpm.close)
    assert len(tpm.get_random(16)) == 16
    handle, public = tpm.create_primary(RH_ENDORSEMENT)
    parsed = form.parse_public(public)
    assert form.parse_public(tpm.read_public(handle)).name == parsed.name
    tpm.pcr_extend(15, hashlib.sha256(b"x").digest())
    expected = hashlib.sha256(bytes(32) + hashlib.sha256(b"x").digest()).digest()
    assert tpm.pcr_read((15,)) == {15: expected}
    tpm.pcr_event(15, b"y")
    assert tpm.pcr_read((15,))[15] == hashlib.sha256(expected + hashlib.sha256(b"y").digest()).digest()
    assert sorted(tpm.pcr_read(QUOTED)) == sorted(QUOTED)
    raw, signature = tpm.quote(handle, b"nonce", QUOTED)
    quote = form.parse_quote(raw)
    assert (quote.extra_data, quote.selections[0].pcrs) == (b"nonce", tuple(sorted(QUOTED)))
    from teehouse_core.appraise.checks_tpm import verify_signature

    assert verify_signature(parsed.key, form.parse_signature(signature), raw)
    assert not verify_signature(parsed.key, form.parse_signature(signature), raw[:-1] + bytes([raw[-1] ^ 1]))
    tpm.flush(handle)
    again, public_again = tpm.create_primary(RH_ENDORSEMENT)
    assert public_again == public  # the same key until the TPM is cleared
    tpm.flush(again)
    other, _ = tpm.create_primary(RH_OWNER)
    tpm.flush(other)
    with pytest.raises(TpmError) as refused:
        tpm.nv_read(0x01400001)
    assert refused.value.rc != 0
    with pytest.raises(TpmError):
        tpm.flush(handle)


def test_a_register_that_is_in_use_stops_the_node(machine: Machine) -> None:
    with closing(Tpm(open_transport(machine.device))) as tpm:
        tpm.pcr_event(15, b"somebody")
    with pytest.raises(LocalError) as refused:
        TpmPlatform(str(machine.root))
    assert refused.value.code == "tpm-register"
    machine.process.terminate()
    machine.process.wait(10)


def test_a_tpm_that_goes_away_is_named(machine: Machine) -> None:
    platform = TpmPlatform(str(machine.root))
    machine.process.terminate()
    machine.process.wait(10)
    with closing(platform), pytest.raises(OperatorError) as gone:
        platform.collect(bytes(64))
    assert gone.value.code == "tpm-device"
    with pytest.raises(LocalError) as missing:
        TpmPlatform(str(machine.root))
    assert missing.value.code == "tpm-open"


class Canned:
    """A transport that gives one answer to everything."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.sent: list[bytes] = []

    def __call__(self, command: bytes) -> bytes:
        self.sent.append(command)
        return self.answer

    def close(self) -> None:
        self.answer = b""


def test_busy_and_broken_answers_are_bounded() -> None:
    pauses: list[float] = []
    busy = Tpm(Canned(struct.pack(">HII", 0x8001, 10, 0x0922)), pauses.append)
    with pytest.raises(OperatorError, match="busy"):
        busy.get_random(4)
    assert len(pauses) == 20
    for answer in (b"", bytes(9), struct.pack(">HII", 0x8001, 11, 0), struct.pack(">HII", 0x8001, 10, 0)):
        with pytest.raises(LocalError) as refused:
            Tpm(Canned(answer)).get_random(4)
        assert refused.value.code == "tpm-answer"


def test_the_command_bytes_are_those_of_the_specification() -> None:
    transport = Canned(struct.pack(">HII", 0x8001, 14, 0) + struct.pack(">H", 2) + b"ab")
    sent = transport.sent
    assert Tpm(transport).get_random(2) == b"ab"
    assert sent[-1].hex() == "80010000000c0000017b0002"
    Tpm(transport).pcr_event(15, b"\x01\x02")
    assert sent[-1].hex() == "80020000001f0000013c0000000f00000009400000090000000000" + "00020102"
    Tpm(transport).pcr_extend(15, b"\xaa" * 32)
    assert sent[-1].hex() == "8002000000410000018200 00000f00000009400000090000000000".replace(" ", "") + (
        "00000001000b" + "aa" * 32
    )
    Tpm(transport).flush(0x80000001)
    assert sent[-1].hex() == "80010000000e0000016580000001"


class NodeProcess:
    """`teehouse-node --platform auto` over that machine, with the echo engine."""

    def __init__(self, machine: Machine, tmp_path: Path, platform: str) -> None:
        config = tmp_path / "node.json"
        self.ready_file = tmp_path / "ready.json"
        document = {
            "endpoint": ENDPOINT,
            "node": "node-t",
            "release": "test",
            "image_sha256": "ab" * 32,
            "engine": {"kind": "echo", "name": "echo"},
            "platform": {"type": "simulated", "root": str(machine.root)},
            "ready_file": str(self.ready_file),
        }
        config.write_text(json.dumps(document))
        command = [str(NODE), "--config", str(config), "--platform", platform]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> str:
        deadline = time.monotonic() + 30
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return str(json.loads(self.ready_file.read_text())["url"])

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.out, self.err = self.process.communicate(timeout=30)


def vtpm_policy(machine: Machine, pin: str) -> Policy:
    with closing(Tpm(open_transport(machine.device))) as tpm:
        values = tpm.pcr_read(range(8))
    references = tuple(f"{i}={v.hex()}" for i, v in values.items())
    return dataclasses.replace(
        Policy.preset("standard"),
        name="vtpm",
        platforms=("tpm",),
        required_references=(),
        tpm=TpmPolicy(references=references, attestation_keys=(pin,), log_required=True),
    )


def test_from_boot_log_to_a_sealed_chat(machine: Machine, tmp_path: Path) -> None:
    with closing(Tpm(open_transport(machine.device))) as tpm:  # swtpm serves one connection at a time
        boot_log(machine.root, tpm)
        handle, public = tpm.create_primary(RH_ENDORSEMENT)
        tpm.flush(handle)
    policy = vtpm_policy(machine, form.spki_sha256(form.parse_public(public).key))
    node = NodeProcess(machine, tmp_path, "auto")
    with node as url:
        nonce = secrets.token_bytes(32)
        with urllib.request.urlopen(f"{url}/v1/evidence?challenge={b64u(nonce)}", timeout=30) as answer:
            bundle = answer.read()
        now = int(time.time())
        verdict = appraise(bundle, policy, now, endpoint=ENDPOINT, nonce=nonce)
        assert [check.id for check in verdict.refusing] == []
        assert (verdict.result, verdict.tier, verdict.platform) == ("accepted", "vtpm", "tpm")
        accepted = verdict.accept()
        assert accepted.tier == "vtpm"
        content = json.dumps(
            {"model": "echo", "messages": [{"role": "user", "content": "hello from a measured machine"}]}
        ).encode()
        sealed = seal_request(
            [accepted],
            endpoint=ENDPOINT,
            op="chat.completions",
            content=content,
            account=ACCOUNT,
            now=now,
            random=secrets.token_bytes,
            cache_secret=bytes(32),
            options=InnerOptions(),
        )
        body = b"".join(sealed.parts)
        request = urllib.request.Request(
            f"{url}/sealed/v1/{ENDPOINT}", data=body, headers={"Content-Type": REQUEST_TYPE}, method="POST"
        )
        opener = ResponseOpener(sealed)
        plain, ended = b"", False
        with urllib.request.urlopen(request, timeout=30) as answer:
            while piece := answer.read(4096):
                for event in opener.feed(piece):
                    if isinstance(event, AnswerBody):
                        plain += event.data
                    ended = ended or isinstance(event, AnswerEnd)
        opener.end()
        assert ended
        assert b"hello from a measured machine" in plain
        # The same bundle later, for another question, or under another policy, opens nothing.
        assert appraise(bundle, policy, now, endpoint=ENDPOINT, nonce=bytes(32)).result == "refused"
        assert appraise(bundle, Policy.preset("evaluate"), now, endpoint=ENDPOINT, nonce=nonce).result == "refused"
        with suppress(StaleEvidence):
            stored = appraise(bundle, policy.for_stored_report(), now, endpoint=ENDPOINT)
            stored.accept()
            raise AssertionError("a stored report was sealed to")
        stranger = dataclasses.replace(policy, tpm=dataclasses.replace(policy.tpm, attestation_keys=()))
        refused = appraise(bundle, stranger, now, endpoint=ENDPOINT, nonce=nonce)
        assert [check.id for check in refused.refusing] == ["tpm.ak.trust"]
    assert node.process.returncode == 0
    started = next(json.loads(line) for line in node.err.splitlines() if b'"platform"' in line)
    assert started["type"] == "tpm"
    assert started["attestation_key"] in policy.tpm.attestation_keys
    second = NodeProcess(machine, tmp_path, "tpm")  # PCR 15 is used up until the machine restarts
    _, err = second.process.communicate(timeout=30)
    assert second.process.returncode == 2
    assert b"tpm-register" in err


def hcl_report(key: Any, chip: bytes, kind: int) -> bytes:
    """An HCL report as the paravisor writes it, padded to 2048 bytes, which is swtpm's largest NV index."""
    numbers = key.public_numbers()
    n = base64.urlsafe_b64encode(numbers.n.to_bytes(256, "big")).decode().rstrip("=")
    runtime = json.dumps(
        {
            "keys": [{"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB", "n": n}],
            "vm-configuration": {"secure-boot": True},
        },
        separators=(",", ":"),
    ).encode()
    body = struct.pack("<IIIII", 20 + len(runtime), 1, kind, 1, len(runtime)) + runtime
    head = b"HCLA" + struct.pack("<IIII", 2, 32 + 1184 + len(body), 2, 0) + bytes(12)
    return (head + chip.ljust(1184, b"\0") + body).ljust(2048, b"\0")


@pytest.mark.parametrize(("kind", "expected"), [(4, "az-tdx-vtpm"), (2, "az-snp-vtpm")])
def test_an_azure_machine_of_swtpm_gives_the_right_shape(
    machine: Machine, kind: int, expected: str, request: pytest.FixtureRequest
) -> None:
    """A fake of Azure over a real TPM: the NV indices and the persistent key are real, the chip's word is not."""
    machine.tools("tpm2_createprimary", "-C", "o", "-G", "rsa2048", "-c", "p.ctx", "-Q")
    machine.tools(
        "tpm2_create", "-C", "p.ctx", "-G", "rsa2048:rsassa-sha256:null", "-u", "k.pub", "-r", "k.priv", "-Q",
        "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign",
    )  # fmt: skip
    machine.tools("tpm2_flushcontext", "-t")
    machine.tools("tpm2_load", "-C", "p.ctx", "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx", "-Q")
    machine.tools("tpm2_flushcontext", "-t")
    machine.tools("tpm2_evictcontrol", "-C", "o", "-c", "k.ctx", "0x81000003", "-Q")
    machine.tools("tpm2_flushcontext", "-t")
    with closing(Tpm(open_transport(machine.device))) as tpm:
        key = form.parse_public(tpm.read_public(0x81000003)).key
    chip = bytes(range(1, 65)) * (1024 // 64) if kind == 4 else bytes(1184)
    (machine.root / "hcl.bin").write_bytes(hcl_report(key, chip, kind))
    machine.tools("tpm2_nvdefine", "0x01400001", "-C", "o", "-s", "2048", "-a", "ownerread|ownerwrite|authread", "-Q")
    for at in range(0, 2048, 1000):
        (machine.root / "part").write_bytes((machine.root / "hcl.bin").read_bytes()[at : at + 1000])
        machine.tools("tpm2_nvwrite", "0x01400001", "-C", "o", "-i", "part", "--offset", str(at))
    asked: list[tuple[str, bytes | None]] = []

    def metadata(address: str, body: bytes | None) -> bytes:
        asked.append((address, body))
        if address.endswith("tdquote"):
            return json.dumps({"quote": base64.urlsafe_b64encode(b"a quote").decode()}).encode()
        pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
        return json.dumps({"vcekCert": pem, "certificateChain": pem}).encode()

    platform = AzureVtpmPlatform(str(machine.root), fetch=metadata)
    request.addfinalizer(platform.close)
    assert platform.type == expected
    platform.extend("release", b"r")
    found = platform.collect(bytes(64))
    assert set(found.aux) >= {"signature", "pcrs", "hcl"}
    assert parse_hcl(base64.b64decode(found.aux["hcl"])).ak.public_numbers() == key.public_numbers()
    pcrs = form.parse_pcrs(found.aux["pcrs"].encode())["sha256"]
    assert pcrs[15] == form.workload_register([event_digest("release", b"r")])
    if kind == 4:
        assert json.loads(asked[0][1] or b"")["report"] == base64.urlsafe_b64encode(chip).decode().rstrip("=")
        assert base64.b64decode(found.aux["td_quote"]) == b"a quote"
    else:
        assert set(found.collateral["amd"]) == {"vcek", "chain"}
    platform.collect(bytes(64))
    assert len(asked) == 1  # the chip speaks for the key once
    from teehouse_core.appraise.checks_tpm import verify_signature

    signature = form.parse_signature(base64.b64decode(found.aux["signature"]))
    assert verify_signature(key, signature, found.report)
