# SPDX-License-Identifier: Apache-2.0
"""Collectors against faithful fakes of the kernel: configfs-tsm races, the two drivers, NVML, detection."""

from __future__ import annotations

import errno
import hashlib
import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fake_kernel import FakeNvml, FakeSevDriver, FakeTsmKernel, fake_tdx_driver
from node_support import ENDPOINT

from teehouse_core.errors import LocalError, OperatorError
from teehouse_core.evidence.bundle import Bundle
from teehouse_core.evidence.replay import event_digest, host_data
from teehouse_core.wire.binding import challenge, device_nonce
from teehouse_core.wire.keyset import Capabilities, Keyset, Model, Software, build_keyset
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.platform import configfs_tsm, tdx_guest
from teehouse_enclave.platform.azure_vtpm import AZURE_ASSET_TAG, is_azure
from teehouse_enclave.platform.base import InsecurePlatformWarning
from teehouse_enclave.platform.configfs_tsm import TsmReports
from teehouse_enclave.platform.detect import detect, make_platform
from teehouse_enclave.platform.nvml import NvmlDevices
from teehouse_enclave.platform.sev_guest import SevDevice, SnpPlatform, certificate_table
from teehouse_enclave.platform.simulated import SimulatedPlatform
from teehouse_enclave.platform.tdx_guest import TdxPlatform, td_report
from teehouse_enclave.platform.workload import CollateralFile, WorkloadLog

DATA = bytes(range(64))


def reports(kernel: FakeTsmKernel, pauses: list[float] | None = None) -> TsmReports:
    return TsmReports("/fake", files=kernel, sleep=(pauses if pauses is not None else []).append)


def test_a_report_is_asked_in_its_own_directory_that_is_removed() -> None:
    kernel = FakeTsmKernel(auxblob=b"table")
    found = reports(kernel).collect(DATA)
    assert (found.provider, found.outblob, found.auxblob) == ("tdx_guest", b"report over " + DATA, b"table")
    assert kernel.entries == {}
    assert len(kernel.removed) == 1
    assert str(kernel.removed[0]).startswith("/fake/sys/kernel/config/tsm/report/teehouse-")
    assert reports(kernel).collect(DATA, privilege_level=1).outblob == found.outblob


def test_a_report_of_another_generation_is_never_used() -> None:
    spoils = [True, True, False]

    def interfere(kernel: FakeTsmKernel, entry: Path) -> None:
        if spoils.pop(0):
            kernel.write(entry / "inblob", b"somebody else's question".ljust(64, b"\0"))

    kernel = FakeTsmKernel(interfere=interfere)
    pauses: list[float] = []
    assert reports(kernel, pauses).collect(DATA).outblob == b"report over " + DATA
    assert len(pauses) == 2
    assert kernel.entries == {}


def test_busy_errors_are_asked_again_and_bounded() -> None:
    few = [("read outblob", errno.EWOULDBLOCK), ("write inblob", errno.EBUSY), ("mkdir", errno.EAGAIN)]
    assert reports(FakeTsmKernel(fail=few)).collect(DATA).outblob
    kernel = FakeTsmKernel(fail=[("read outblob", errno.EAGAIN)] * 99)
    pauses: list[float] = []
    with pytest.raises(OperatorError) as busy:
        reports(kernel, pauses).collect(DATA)
    assert busy.value.code == "tsm-busy"
    assert len(pauses) == configfs_tsm.ATTEMPTS
    assert pauses == sorted(pauses)
    assert kernel.entries == {}  # not one directory is left behind


@pytest.mark.parametrize(
    ("fail", "code"),
    [
        (("read outblob", errno.EFBIG), "tsm-too-large"),
        (("mkdir", errno.ENOENT), "tsm-missing"),
        (("mkdir", errno.ENXIO), "tsm-no-provider"),
        (("read outblob", errno.EIO), "tsm-failed"),
        (("read auxblob", errno.EIO), "tsm-failed"),
    ],
)
def test_other_errors_are_named_and_final(fail: tuple[str, int], code: str) -> None:
    kernel = FakeTsmKernel(fail=[fail], auxblob=b"")
    with pytest.raises(LocalError) as refused:
        reports(kernel).collect(DATA)
    assert refused.value.code == code
    assert kernel.entries == {}


def test_an_empty_report_and_a_wrong_size_of_question() -> None:
    with pytest.raises(LocalError, match="empty or too long"):
        reports(FakeTsmKernel(report=lambda _: b"")).collect(DATA)
    with pytest.raises(LocalError, match="64 bytes"):
        reports(FakeTsmKernel()).collect(DATA[:-1])
    assert reports(FakeTsmKernel(fail=[("rmdir", errno.EBUSY)])).collect(DATA).outblob


def test_the_real_files_are_read_to_their_end(tmp_path: Path) -> None:
    base = tmp_path / configfs_tsm.TSM_REPORT
    base.mkdir(parents=True)
    with pytest.raises(LocalError) as refused:  # a plain directory grows no attributes
        TsmReports(str(tmp_path)).collect(DATA)
    assert refused.value.code == "tsm-missing"
    files = configfs_tsm._RealFiles()
    (tmp_path / "attribute").write_bytes(b"")
    files.write(tmp_path / "attribute", b"x" * 5000)
    assert files.read(tmp_path / "attribute") == b"x" * 5000


def tdx_root(tmp_path: Path) -> Path:
    for name in (tdx_guest.RTMR3, tdx_guest.CCEL, tdx_guest.DEVICE):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_a_td_extends_rtmr3_and_staples_what_it_has(tmp_path: Path) -> None:
    root = tdx_root(tmp_path)
    (root / tdx_guest.CCEL).write_bytes(b"log")
    (root / "collateral.json").write_text(json.dumps({"intel": {"tcb_info": "{}"}}))
    platform = TdxPlatform(str(root), collateral=str(root / "collateral.json"), reports=reports(FakeTsmKernel()))
    platform.extend("release", b"r")
    assert (root / tdx_guest.RTMR3).read_bytes() == event_digest("release", b"r")
    found = platform.collect(DATA)
    assert (found.report, found.event_log) == (b"report over " + DATA, b"log")
    assert found.collateral == {"intel": {"tcb_info": "{}"}}
    assert [entry["event"] for entry in platform.workload_log()] == ["release"]


def test_a_td_without_register_file_or_of_another_provider_refuses(tmp_path: Path) -> None:
    platform = TdxPlatform(str(tmp_path), reports=reports(FakeTsmKernel()))
    with pytest.raises(LocalError) as refused:
        platform.extend("release", b"r")
    assert refused.value.code == "rtmr"
    assert platform.collect(DATA).event_log is None
    with pytest.raises(LocalError) as wrong:
        TdxPlatform(str(tmp_path), reports=reports(FakeTsmKernel(provider="sev_guest")))
    assert wrong.value.code == "platform-provider"


def test_the_tdx_driver_gives_a_td_report(tmp_path: Path) -> None:
    root = str(tdx_root(tmp_path))
    driver = fake_tdx_driver(lambda data: data + bytes(960))
    assert td_report(DATA, root, ioctl=driver) == DATA + bytes(960)
    for number, code in ((errno.EBUSY, "tdx-busy"), (errno.EIO, "tdx-device")):
        with pytest.raises(LocalError) as refused:
            td_report(DATA, root, ioctl=fake_tdx_driver(lambda data: data, fails=number))
        assert refused.value.code == code
        assert "configfs-tsm" in (refused.value.hint or "")
    with pytest.raises(LocalError, match="cannot open"):
        td_report(DATA, str(tmp_path / "nowhere"), ioctl=driver)


def snp_report(report_data: bytes, digests: list[bytes], vmpl: int = 0) -> bytes:
    """An SNP report of version 3 with these 64 bytes and the HOST_DATA of that log; unsigned."""
    raw = bytearray(1184)
    struct.pack_into("<IIQ", raw, 0, 3, 0, 0x30000)
    struct.pack_into("<II", raw, 0x30, vmpl, 1)
    raw[0x50:0x90] = report_data
    raw[0xC0:0xE0] = host_data(digests)
    return bytes(raw)


def table(*entries: tuple[str, bytes], little: bool = True) -> bytes:
    at = 24 * (len(entries) + 1)
    head, body = b"", b""
    for guid, data in entries:
        one = uuid.UUID(guid)
        head += (one.bytes_le if little else one.bytes) + struct.pack("<II", at + len(body), len(data))
        body += data
    return head + bytes(24) + body


VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
ASK = "4ab7b379-bbac-4fe4-a02f-05aef327c782"


def sev_root(tmp_path: Path) -> str:
    path = tmp_path / "dev" / "sev-guest"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    return str(tmp_path)


def test_the_sev_driver_gives_reports_and_a_table_of_any_size(tmp_path: Path) -> None:
    large = table((VCEK, b"v" * 20_000), (ASK, b"a"))
    driver = FakeSevDriver(lambda data, vmpl: snp_report(data, [], vmpl), table=large)
    device = SevDevice(sev_root(tmp_path), ioctl=driver)
    assert device.report(DATA, 1)[0x50:0x90] == DATA
    report, found = device.extended_report(DATA)
    assert report[0x50:0x90] == DATA
    assert certificate_table(found) == {"vcek": b"v" * 20_000, "ask": b"a"}
    assert driver.asked == [0xC0205300, 0xC0205302, 0xC0205302]
    assert certificate_table(table((VCEK, b"v"), little=False)) == {"vcek": b"v"}
    assert certificate_table(b"") == {}
    assert certificate_table(table((str(uuid.uuid4()), b"x"))) == {}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"fails": errno.EIO}, "sev-device"),
        ({"fails": errno.EIO, "exitinfo2": 2 << 32}, "sev-busy"),
        ({"fails": errno.EAGAIN}, "sev-busy"),
        ({"fails": errno.EIO, "exitinfo2": 1 << 32}, "sev-certificates"),
        ({"status": 0x16}, "sev-report"),
    ],
)
def test_what_the_sev_driver_refuses_is_named(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    driver = FakeSevDriver(lambda data, _: snp_report(data, []), **changes)
    with pytest.raises((LocalError, OperatorError)) as refused:
        SevDevice(sev_root(tmp_path), ioctl=driver).extended_report(DATA)
    assert refused.value.code == code
    with pytest.raises(LocalError):
        SevDevice(str(tmp_path / "no"), ioctl=driver).report(DATA)
    with pytest.raises(LocalError, match="outside"):
        certificate_table(uuid.UUID(VCEK).bytes + struct.pack("<II", 4096, 1) + bytes(24))


@pytest.mark.parametrize("through", ["configfs", "device"])
def test_an_snp_node_reports_only_for_its_own_host_data(tmp_path: Path, through: str) -> None:
    root = sev_root(tmp_path)
    digests = [event_digest("release", b"r")]
    certificates = table((VCEK, b"\x30vcek"), (ASK, b"\x30ask"))
    if through == "configfs":
        kernel = FakeTsmKernel(
            provider="sev_guest", report=lambda data: snp_report(data, digests), auxblob=certificates
        )
        platform = SnpPlatform(root, reports=reports(kernel))
    else:
        driver = FakeSevDriver(lambda data, _: snp_report(data, digests), table=certificates)
        missing = reports(FakeTsmKernel(fail=[("mkdir", errno.ENOENT)]))
        platform = SnpPlatform(root, reports=missing, device=SevDevice(root, ioctl=driver))
    with pytest.raises(LocalError) as refused:
        platform.collect(DATA)
    assert refused.value.code == "host-data"
    platform.extend("release", b"r")
    found = platform.collect(DATA)
    assert found.report[0x50:0x90] == DATA
    assert set(found.collateral["amd"]) == {"vcek", "chain"}


def test_detection_goes_down_in_order_and_never_to_simulated(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as none:
        detect(str(tmp_path))
    assert none.value.code == "platform-none"
    with pytest.raises(LocalError):
        make_platform("auto", str(tmp_path))
    tag = tmp_path / "sys/class/dmi/id/chassis_asset_tag"
    tag.parent.mkdir(parents=True)
    for name, expected in (("dev/tpmrm0", "tpm"), ("dev/sev-guest", "sev-snp"), ("dev/tdx_guest", "tdx")):
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        assert detect(str(tmp_path)) == expected
        if expected == "tpm":
            assert not is_azure(str(tmp_path))
            tag.write_text(AZURE_ASSET_TAG + "\n")
            assert detect(str(tmp_path)) == "az-vtpm"
    (tmp_path / configfs_tsm.TSM_REPORT).mkdir(parents=True)
    with pytest.raises(LocalError):  # an interface that is there and does not answer is an error, not a step down
        detect(str(tmp_path))
    with pytest.raises(LocalError, match="no platform"):
        make_platform("sgx", str(tmp_path))
    with pytest.raises(LocalError, match="cannot read"):
        make_platform("tpm", str(tmp_path), ak_chain=str(tmp_path / "no.pem"))
    with pytest.warns(InsecurePlatformWarning):
        assert make_platform("simulated").type == "simulated"


@pytest.mark.parametrize(("provider", "expected"), [("tdx_guest", "tdx"), ("sev_guest", "sev-snp"), ("arm", "")])
def test_configfs_says_who_answers(tmp_path: Path, monkeypatch: Any, provider: str, expected: str) -> None:
    (tmp_path / configfs_tsm.TSM_REPORT).mkdir(parents=True)
    monkeypatch.setattr(configfs_tsm, "_RealFiles", lambda: FakeTsmKernel(provider=provider))
    if expected:
        assert detect(str(tmp_path)) == expected
    else:
        with pytest.raises(LocalError, match="arm"):
            detect(str(tmp_path))
    no_driver = FakeTsmKernel(fail=[("mkdir", errno.ENXIO)])
    monkeypatch.setattr(configfs_tsm, "_RealFiles", lambda: no_driver)
    with pytest.raises(LocalError) as none:
        detect(str(tmp_path))
    assert none.value.code == "platform-none"


def pem_chain() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "TEST GPU")])
    from datetime import UTC, datetime

    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    return (
        builder.not_valid_after(datetime(2036, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA384()).public_bytes(Encoding.PEM)
    )


def keyset() -> Keyset:
    raw = build_keyset(
        role="node",
        endpoint=ENDPOINT,
        node="n",
        hpke=[],
        sign=[],
        model=Model("", ""),
        software=Software("", "", ""),
        capabilities=Capabilities("none", "none", "none", ()),
        not_before=0,
        not_after=1,
    )
    return Keyset.parse(raw)


def test_gpus_answer_the_nodes_nonce_and_stand_in_the_report_data() -> None:
    with pytest.warns(InsecurePlatformWarning):
        platform = SimulatedPlatform()
    devices = NvmlDevices(FakeNvml(2, pem_chain()))
    made = EvidenceMaker(platform, 5, devices).bundle(keyset(), bytes(32), 0.0)
    bundle = Bundle.parse(made)
    nonce = device_nonce(keyset().digest, challenge(1, bytes(32)))
    assert [device.report[4:36] for device in bundle.devices] == [nonce, nonce]
    assert [device.arch for device in bundle.devices] == ["HOPPER", "HOPPER"]
    assert bundle.report_data in bundle.platform.report


def test_gpus_out_of_order_are_named() -> None:
    for changes, code in (({"feature": 0}, "nvml-cc-off"), ({"devtools": 1}, "nvml-devtools")):
        with pytest.raises(LocalError) as refused:
            NvmlDevices(FakeNvml(1, pem_chain(), **changes))
        assert refused.value.code == code
    with pytest.raises(LocalError, match="more than"):
        NvmlDevices(FakeNvml(65, pem_chain())).collect(bytes(32))
    with pytest.raises(LocalError, match="32 bytes"):
        NvmlDevices(FakeNvml(1, pem_chain())).collect(b"")
    with pytest.raises(OperatorError, match="parse"):
        NvmlDevices(FakeNvml(1, b"-----BEGIN CERTIFICATE-----\n!\n")).collect(bytes(32))
    broken = FakeNvml(1, pem_chain())
    devices = NvmlDevices(broken)
    broken.broken = True
    with pytest.raises(OperatorError, match="lost"):
        devices.collect(bytes(32))
    with pytest.raises(LocalError, match="refuses"):
        NvmlDevices(broken)


def test_the_gpu_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(_name: str) -> Any:
        raise ImportError("no")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(LocalError) as refused:
        NvmlDevices()
    assert refused.value.code == "nvml-missing"


def test_collateral_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "collateral.json"
    path.write_text('{"intel":{}}')
    file = CollateralFile(str(path))
    assert file.load() == {"intel": {}}
    path.write_text('{"amd":{"vcek":""}}')
    assert file.load() == {"amd": {"vcek": ""}}
    for text in ("[]", "{", ""):
        path.write_text(text)
        with pytest.raises(LocalError) as refused:
            CollateralFile(str(path)).load()
        assert refused.value.code == "collateral-file"
    assert CollateralFile(None).load() == {}


def test_the_log_is_bounded() -> None:
    log = WorkloadLog()
    for number in range(256):
        log.add(f"event-{number}", b"")
    with pytest.raises(LocalError) as full:
        log.add("one-more", b"")
    assert full.value.code == "log-full"
    assert len(log.digests()) == len(log.entries()) == 256
    assert hashlib.sha384().digest_size == len(log.digests()[0])
