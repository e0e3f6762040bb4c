# SPDX-License-Identifier: Apache-2.0
"""The root key's backends: a real software TPM, a real SoftHSM, the SEV driver's fake, and the SIMULATED file."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_kernel import FakeSevDriver

from teehouse_core.errors import LocalError, OperatorError
from teehouse_enclave.keys.box import OVERHEAD, Box, Root, context
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import PUBLIC_LOG, Batch, Record
from teehouse_enclave.keys.journal_sqlite import SqliteJournal
from teehouse_enclave.keys.root import ROOT_SLOT, RootBackend, open_root
from teehouse_enclave.keys.root_simulated import SimulatedBackend
from teehouse_enclave.keys.root_snp import SnpBackend
from teehouse_enclave.keys.root_tpm import TpmBackend
from teehouse_enclave.platform.base import InsecurePlatformWarning
from teehouse_enclave.platform.sev_guest import SevDevice
from teehouse_enclave.platform.tpm2 import Tpm, open_transport
from teehouse_enclave.platform.tpm2_seal import seal, unseal

SECRET = bytes(range(32))


# The box and the root


def test_boxes_open_in_their_own_place_only() -> None:
    box = Box(Root(SECRET))
    sealed = box.seal("record", context("log", "7"), b"delta")
    assert len(sealed) == len(b"delta") + OVERHEAD
    assert box.open("record", context("log", "7"), sealed) == b"delta"
    assert box.seal("record", context("log", "7"), b"delta") != sealed
    wrong: list[tuple[Box, str, bytes, bytes]] = [
        (Box(Root(bytes(32))), "record", context("log", "7"), sealed),
        (box, "slot", context("log", "7"), sealed),
        (box, "record", context("log", "8"), sealed),
        (box, "record", context("log7"), sealed),
        (box, "record", context("log", "7"), sealed[:-1]),
        (box, "record", context("log", "7"), b"\x02" + sealed[1:]),
        (box, "record", context("log", "7"), b""),
    ]
    wrong += [
        (box, "record", context("log", "7"), sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        for at in range(len(sealed))
    ]
    for other, label, where, data in wrong:
        with pytest.raises(StorageError) as caught:
            other.open(label, where, data)
        assert caught.value.code == "storage-corrupt"


def test_a_root_shows_itself_to_nobody() -> None:
    root = Root(SECRET)
    assert SECRET.hex() not in repr(root)
    assert repr(SECRET)[2:10] not in repr(root)
    with pytest.raises(LocalError):
        pickle.dumps(root)
    with pytest.raises(LocalError):
        Root(b"short")
    assert root.derive("log") == root.derive("log") != root.derive("other")
    assert root.derive("log", b"a") != root.derive("log", b"b")
    assert len(root.derive("log", length=64)) == 64


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "journal.db")
    yield journal
    journal.close()


def simulated(path: Path) -> SimulatedBackend:
    with pytest.warns(InsecurePlatformWarning, match="SIMULATED"):
        return SimulatedBackend(path)


def round_trip(backend: RootBackend, journal: SqliteJournal) -> None:
    """Made once, opened ever after; the store does not hold it."""
    assert isinstance(backend, RootBackend)
    first, again = open_root(backend, journal, random=lambda _n: SECRET), open_root(backend, journal)
    assert first.derive("x") == again.derive("x") == Root(SECRET).derive("x")
    sealed = journal.get_slot(PUBLIC_LOG, ROOT_SLOT)
    assert sealed is not None
    assert SECRET not in sealed
    for spoilt in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        journal.put_slot(PUBLIC_LOG, ROOT_SLOT, spoilt)
        with pytest.raises((LocalError, OperatorError)):
            open_root(backend, journal)


def test_the_simulated_file_is_loud_and_private(tmp_path: Path, journal: SqliteJournal) -> None:
    path = tmp_path / "root.SIMULATED"
    backend = simulated(path)
    assert backend.simulated
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"SIMULATED" in path.read_bytes()
    round_trip(backend, journal)
    sealed = backend.seal(SECRET)
    assert simulated(path).unseal(sealed) == SECRET
    with pytest.raises(LocalError) as caught:
        simulated(tmp_path / "other").unseal(sealed)
    assert caught.value.code == "root-sealed-elsewhere"
    path.chmod(0o640)
    with pytest.raises(LocalError, match="read by others"):
        simulated(path)
    path.chmod(0o600)
    path.write_bytes(b"cut")
    with pytest.raises(LocalError) as caught:
        simulated(path)
    assert caught.value.code == "root-file"
    with pytest.raises(LocalError):
        simulated(tmp_path / "none" / "x")


def test_a_journal_that_lost_its_root_is_not_begun_anew(tmp_path: Path, journal: SqliteJournal) -> None:
    backend = simulated(tmp_path / "root")
    open_root(backend, journal)
    journal.append([Batch("tenant-t-1", 0, [Record(0, b"{}", b"", b"")])])
    journal.shred(PUBLIC_LOG, [ROOT_SLOT])
    with pytest.raises(StorageError) as caught:
        open_root(backend, journal)
    assert caught.value.code == "storage-corrupt"


def test_a_backend_that_does_not_give_back_is_not_used(journal: SqliteJournal) -> None:
    class Forgetful:
        name, simulated = "x", False

        def seal(self, secret: bytes) -> bytes:
            return secret[::-1]

        def unseal(self, sealed: bytes) -> bytes:
            return sealed

        def close(self) -> None:
            pass

    with pytest.raises(LocalError) as caught:
        open_root(Forgetful(), journal)
    assert caught.value.code == "root-backend"
    assert journal.get_slot(PUBLIC_LOG, ROOT_SLOT) is None


# SEV-SNP


def sev(tmp_path: Path, **parts: Any) -> SevDevice:
    (tmp_path / "dev").mkdir(exist_ok=True)
    (tmp_path / "dev" / "sev-guest").touch()
    return SevDevice(str(tmp_path), ioctl=FakeSevDriver(lambda _d, _v: b"", **parts))


def test_snp_derives_for_this_chip_and_this_measurement(tmp_path: Path, journal: SqliteJournal) -> None:
    backend = SnpBackend(sev(tmp_path))
    round_trip(backend, journal)
    sealed = backend.seal(SECRET)
    assert SnpBackend(sev(tmp_path)).unseal(sealed) == SECRET
    for parts in ({"chip": b"\x08" * 32}, {"guest": b"another image"}):
        with pytest.raises(LocalError) as caught:
            SnpBackend(sev(tmp_path, **parts)).unseal(sealed)
        assert caught.value.code == "root-sealed-elsewhere"
    with pytest.raises(LocalError) as caught:
        SnpBackend(sev(tmp_path, status=0x16))
    assert caught.value.code == "sev-report"
    with pytest.raises(LocalError):
        SnpBackend(sev(tmp_path, fails=25))
    with pytest.raises(LocalError):
        SnpBackend(SevDevice(str(tmp_path / "nothing")))


# TPM 2.0


@pytest.fixture
def tpm_device(tmp_path: Path) -> Iterator[str]:
    yield from swtpm(tmp_path, "a")


def swtpm(tmp_path: Path, name: str) -> Iterator[str]:
    if shutil.which("swtpm") is None:
        pytest.skip("missing program: swtpm")
    state, device = tmp_path / f"{name}.state", tmp_path / name
    state.mkdir()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    command += ["--server", f"type=unixio,path={device}", "--ctrl", f"type=unixio,path={device}.ctrl"]
    command += ["--flags", "not-need-init,startup-clear"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not device.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield str(device)
    finally:
        process.terminate()
        process.wait(10)


def extend(device: str, pcr: int, content: bytes) -> None:
    tpm = Tpm(open_transport(device))
    tpm.pcr_extend(pcr, hashlib.sha256(content).digest())
    tpm.close()


def test_a_real_tpm_opens_under_the_same_registers_only(tpm_device: str, journal: SqliteJournal) -> None:
    backend = TpmBackend(tpm_device)
    round_trip(backend, journal)
    sealed = backend.seal(SECRET)
    assert SECRET not in sealed
    for _ in range(5):  # nothing is left behind: a TPM without a resource manager has three places
        assert backend.unseal(sealed) == SECRET
    backend.close()
    extend(tpm_device, 15, b"the workload log")
    backend = TpmBackend(tpm_device)
    assert backend.unseal(sealed) == SECRET, "a changed configuration keeps its root"
    backend.close()
    extend(tpm_device, 9, b"another kernel")
    backend = TpmBackend(tpm_device)
    with pytest.raises(LocalError) as caught:
        backend.unseal(sealed)
    assert caught.value.code == "root-sealed-elsewhere"
    assert backend.unseal(backend.seal(SECRET)) == SECRET, "sealed anew under the new values"
    backend.close()


def test_another_tpm_does_not_open_it(tpm_device: str, tmp_path: Path) -> None:
    backend = TpmBackend(tpm_device)
    sealed = backend.seal(SECRET)
    backend.close()
    for other in swtpm(tmp_path, "b"):
        elsewhere = TpmBackend(other)
        with pytest.raises(LocalError) as caught:
            elsewhere.unseal(sealed)
        assert caught.value.code == "root-sealed-elsewhere"
        elsewhere.close()


def test_sealing_chooses_registers(tpm_device: str) -> None:
    tpm = Tpm(open_transport(tpm_device))
    try:
        sealed = seal(tpm, b"x", (0, 7))
        tpm.pcr_extend(15, bytes(32))
        assert unseal(tpm, sealed) == b"x"
        for secret, pcrs in ((b"", (0,)), (b"x", ()), (bytes(129), (0,))):
            with pytest.raises(LocalError):
                seal(tpm, secret, pcrs)
        for spoilt in (b"", b"\x02" + sealed[1:], sealed[:10]):
            with pytest.raises(LocalError):
                unseal(tpm, spoilt)
    finally:
        tpm.close()


# PKCS#11

SOFTHSM = next(
    (p for p in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so") if Path(p).exists()), ""
)
HSM_PROGRAM = """
import sys
from teehouse_enclave.keys.root_pkcs11 import Pkcs11Backend
from teehouse_core.errors import TeehouseError
library, token, pin, label, command, data = sys.argv[1:]
try:
    backend = Pkcs11Backend(library, token, pin, label=label)
    result = getattr(backend, command)(bytes.fromhex(data))
    backend.close()
    print(result.hex())
except TeehouseError as error:
    print(error.code)
    print(error, error.hint, file=sys.stderr)
"""


@pytest.fixture
def hsm(tmp_path: Path) -> dict[str, str]:
    """A SoftHSM token; the library reads its configuration once per process, so each use is a process."""
    if not SOFTHSM or shutil.which("softhsm2-util") is None:
        pytest.skip("missing program: softhsm2-util")
    pytest.importorskip("pkcs11")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(config)}
    command = ["softhsm2-util", "--init-token", "--free", "--label", "th", "--so-pin", "87654321", "--pin", "12345678"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return environment


def in_hsm(hsm: dict[str, str], command: str, data: bytes, *, pin: str = "12345678", label: str = "root") -> str:
    words = [SOFTHSM, "th", pin, label, command, data.hex()]
    done = subprocess.run(
        [sys.executable, "-c", HSM_PROGRAM, *words], env=hsm, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert pin not in done.stderr
    return done.stdout.strip()


def test_a_real_softhsm_wraps_the_root_under_a_key_that_never_leaves(hsm: dict[str, str], tmp_path: Path) -> None:
    sealed = bytes.fromhex(in_hsm(hsm, "seal", SECRET))
    assert SECRET not in sealed
    assert bytes.fromhex(in_hsm(hsm, "unseal", sealed)) == SECRET, "another process, the same token"
    assert in_hsm(hsm, "unseal", sealed[:-1] + bytes([sealed[-1] ^ 1])) == "root-sealed-elsewhere"
    assert in_hsm(hsm, "unseal", sealed, label="other") == "root-sealed-elsewhere"
    assert in_hsm(hsm, "unseal", sealed, pin="00000000") == "root-hsm"
    held = b"".join(file.read_bytes() for file in (tmp_path / "tokens").rglob("*") if file.is_file())
    assert SECRET not in held


def test_an_hsm_key_that_could_be_read_is_refused(hsm: dict[str, str]) -> None:
    program = """
import sys, pkcs11
session = pkcs11.lib(sys.argv[1]).get_token(token_label="th").open(rw=True, user_pin="12345678")
session.generate_key(pkcs11.KeyType.AES, 256, label="open", store=True,
    template={pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.EXTRACTABLE: True})
session.close()
"""
    subprocess.run([sys.executable, "-c", program, SOFTHSM], env=hsm, check=True, timeout=60)
    assert in_hsm(hsm, "seal", SECRET, label="open") == "root-hsm-key"
