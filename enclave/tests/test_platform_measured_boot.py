# SPDX-License-Identifier: Apache-2.0
"""A real measured boot: OVMF firmware in QEMU measures itself into a software TPM, and the tier `vtpm` appraises it.

No guest system is needed. The firmware runs until its boot manager has nothing left but the built-in shell; then the
virtual CPU stops, the firmware's event log is read out of the machine's memory, and QEMU is killed. Killed, not ended:
an orderly end shuts the TPM down. swtpm outlives it with its registers, and the node's own platform code takes over.
Everything is emulated (no KVM), so this runs wherever the programs are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from node_support import ENDPOINT

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_tpm import TpmPolicy
from teehouse_core.errors import MalformedError
from teehouse_core.evidence.eventlog import EV_NO_ACTION, EventLog, parse_event_log, replay
from teehouse_core.wire.keyset import Capabilities, Model, Software
from teehouse_enclave.node.config import Limits
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.keys import Identity, NodeKeys
from teehouse_enclave.platform.base import measure_workload
from teehouse_enclave.platform.tpm import DEVICE, EVENT_LOG, TpmPlatform
from teehouse_enclave.platform.tpm2 import Tpm, open_transport

QEMU: Final = "qemu-system-x86_64"
FIRMWARE: Final = [  # of Debian's and Ubuntu's package ovmf, without System Management Mode, which TCG makes slow
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")),
]
MEMORY: Final = 128  # MiB; the dump of it is searched for the log
BOOT_SECONDS: Final = 50.0  # some 12 on two busy cores
SHELL: Final = b"Shell>"  # what the last boot option says on the serial line
LOG_AREA: Final = 64 * 1024  # bytes that OVMF reserves for its log (edk2's PcdTcgLogAreaMinLen), filled with FF
SPEC_ID: Final = b"Spec ID Event03\0"
SPEC_ID_AT: Final = 32  # bytes of the header event before its data
CMD_SET_DATAFD: Final = struct.pack(">I", 0x10)  # of swtpm's control channel: commands come over this descriptor
SEPARATOR: Final = hashlib.sha256(bytes(32) + hashlib.sha256(bytes(4)).digest()).digest()
"""A register that only saw the separator: firmware that found nothing to measure there (TCG PFP §3.3.4)."""


class Monitor:
    """QEMU's machine protocol over a unix socket: one JSON object a line, with events in between."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(30)
        connection.connect(str(path))
        self._lines = stack.enter_context(connection.makefile("rwb"))
        self._lines.readline()  # the greeting
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> None:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._lines.flush()
        while "return" not in (answer := json.loads(self._lines.readline())):
            assert "event" in answer, answer


@dataclasses.dataclass
class Booted:
    """What a boot left: the firmware's log, and a swtpm that listens for a new owner on its control socket."""

    root: Path
    log: bytes
    control: Path


def wait_for(what: str, ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, f"ended with {process.returncode} before {what}"
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.05)


def start(stack: ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, 10)
    stack.callback(process.kill)
    return process


def find_log(memory: bytes) -> bytes:
    """The longest log area in memory that parses; the firmware may have left earlier copies."""
    found: list[tuple[int, bytes]] = []
    at = memory.find(SPEC_ID)
    while at >= 0:
        area = memory[at - SPEC_ID_AT :][:LOG_AREA] if at >= SPEC_ID_AT else b""
        try:
            parsed = parse_event_log(area)
        except MalformedError:
            parsed = EventLog("none", (), ())
        if parsed.form == "tcg2":
            found.append((len(parsed.events), area[: len(area) - parsed.fill]))
        at = memory.find(SPEC_ID, at + 1)
    assert found, "no event log in the machine's memory"
    return max(found)[1]


def boot(stack: ExitStack, folder: Path, code: Path, variables: Path) -> Booted:
    """Run the firmware to its end, take its log, kill the machine, keep its TPM."""
    root = folder / "r"
    log_file, control, serial, monitor = root / EVENT_LOG, folder / "ctrl", folder / "serial", folder / "qmp"
    (root / DEVICE).parent.mkdir(parents=True)
    log_file.parent.mkdir(parents=True)
    (folder / "state").mkdir()
    shutil.copyfile(variables, folder / "vars.fd")
    tpm_command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder / 'state'}"]
    swtpm = start(stack, [*tpm_command, "--ctrl", f"type=unixio,path={control}"])
    wait_for("control socket", control.exists, swtpm)
    command = [QEMU, "-nodefaults", "-no-user-config", "-machine", "q35,accel=tcg", "-m", str(MEMORY)]
    command += ["-display", "none", "-serial", f"file:{serial}", "-qmp", f"unix:{monitor},server=on,wait=off"]
    command += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"]
    command += ["-drive", f"if=pflash,unit=1,format=raw,file={folder / 'vars.fd'}"]
    command += ["-chardev", f"socket,id=c,path={control}", "-tpmdev", "emulator,id=t,chardev=c"]
    qemu = start(stack, [*command, "-device", "tpm-tis,tpmdev=t"])
    wait_for("first output", lambda: serial.exists() and serial.stat().st_size > 0, qemu, BOOT_SECONDS)
    ask = Monitor(monitor, stack)  # it has listened since before the machine started
    wait_for("end of the boot", lambda: serial.exists() and SHELL in serial.read_bytes(), qemu, BOOT_SECONDS)
    ask("stop")
    memory = folder / "memory"
    ask("pmemsave", val=0, size=MEMORY << 20, filename=str(memory))
    log = find_log(memory.read_bytes())
    memory.unlink()
    qemu.kill()
    qemu.wait(10)
    log_file.write_bytes(log)
    return Booted(root, log, control)


def adopt(stack: ExitStack, booted: Booted) -> Any:
    """The product's own socket transport, its other end handed to the swtpm that QEMU left behind."""
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(booted.root / DEVICE))
    listener.listen(1)
    transport = open_transport(str(booted.root / DEVICE))
    stack.callback(transport.close)
    control = stack.enter_context(socket.socket(socket.AF_UNIX))
    control.settimeout(10)
    control.connect(str(booted.control))
    theirs, _ = listener.accept()
    with theirs:
        socket.send_fds(control, [CMD_SET_DATAFD], [theirs.fileno()])
        assert control.recv(4) == bytes(4)
    return transport


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def booted(stack: ExitStack, tmp_path: Path) -> Booted:
    for program in (QEMU, "swtpm"):
        if shutil.which(program) is None:
            pytest.skip(f"missing program: {program}")
    pair = next((pair for pair in FIRMWARE if pair[0].exists() and pair[1].exists()), None)
    if pair is None:
        pytest.skip("missing program: OVMF (firmware for QEMU, package ovmf)")
    return boot(stack, tmp_path, *pair)


def evidence_of(platform: TpmPlatform) -> Callable[[bytes], bytes]:
    """A node's evidence maker over that platform, as the node process puts it together."""
    measured = {"release": "test", "image_sha256": "cd" * 32, "config_sha256": "ef" * 32}
    measure_workload(platform, **measured, weights_sha256="ab" * 32, model="echo")
    software = Software(measured["release"], measured["image_sha256"], measured["config_sha256"])
    nobody = Capabilities("none", "none", "none", ())
    identity = Identity(ENDPOINT, "node-t", Model("echo", "ab" * 32), software, nobody)
    limits = Limits.parse({"evidence_per_second": 1000})
    keys = NodeKeys(identity, limits, int(time.time()))
    maker = EvidenceMaker(platform, limits.evidence_per_second)
    return lambda nonce: maker.bundle(keys.keyset, nonce, time.monotonic())


def spoiled(log: bytes) -> Iterator[bytes]:
    """The log with one bit of one event's SHA-256 digest flipped, for each event that extends a register."""
    for event in parse_event_log(log).events:
        if event.type != EV_NO_ACTION:
            at = log.index(event.digest("sha256") or b"none", event.start, event.end)
            yield log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]


def test_real_firmware_measures_itself_and_is_appraised(booted: Booted, stack: ExitStack) -> None:
    transport = adopt(stack, booted)
    registers = Tpm(transport).pcr_read(range(16))
    log = parse_event_log(booted.log)
    replayed = replay(log, "sha256")
    assert replayed == {index: registers[index] for index in range(8)}
    assert len({*replayed.values()} - {SEPARATOR, bytes(32)}) >= 4  # firmware, its settings, boot options, Secure Boot
    assert all(registers[index] == bytes(32) for index in range(8, 16))  # nothing came after the firmware
    assert len([event for event in log.events if event.type != EV_NO_ACTION]) >= 8 + 4

    platform = TpmPlatform(str(booted.root), transport=transport)
    collect = evidence_of(platform)
    references = tuple(f"{index}={value.hex()}" for index, value in registers.items() if index < 8)
    policy = dataclasses.replace(
        Policy.preset("standard"),
        name="vtpm",
        platforms=("tpm",),
        required_references=(),
        tpm=TpmPolicy(references=references, attestation_keys=(platform.attestation_key_sha256,), log_required=True),
    )
    nonce, now = secrets.token_bytes(32), int(time.time())
    verdict = appraise(collect(nonce), policy, now, endpoint=ENDPOINT, nonce=nonce)
    assert [check.id for check in verdict.refusing] == []
    assert (verdict.result, verdict.tier, verdict.platform) == ("accepted", "vtpm", "tpm")
    assert verdict.accept().tier == "vtpm"

    for other in spoiled(booted.log):
        (booted.root / EVENT_LOG).write_bytes(other)
        refused = appraise(collect(nonce), policy, now, endpoint=ENDPOINT, nonce=nonce)
        assert refused.result == "refused"
        assert "tpm.log.replay" in [check.id for check in refused.refusing]
    (booted.root / EVENT_LOG).write_bytes(booted.log)
    another_boot = (*references[:-1], f"7={bytes(32).hex()}")
    changed = dataclasses.replace(policy, tpm=dataclasses.replace(policy.tpm, references=another_boot))
    verdict = appraise(collect(nonce), changed, now, endpoint=ENDPOINT, nonce=nonce)
    assert [check.id for check in verdict.refusing] == ["tpm.reference.pcrs"]
    secure = dataclasses.replace(policy, tpm=dataclasses.replace(policy.tpm, secure_boot_required=True))
    verdict = appraise(collect(nonce), secure, now, endpoint=ENDPOINT, nonce=nonce)
    assert [check.id for check in verdict.refusing] == ["tpm.log.secure-boot"]  # no key is enrolled, and it shows
