# SPDX-License-Identifier: Apache-2.0
"""The store under the key service: old copies, forks, a full disk, missing witnesses; and no key bytes anywhere."""

from __future__ import annotations

import base64
import json
import os
import resource
import secrets
import shutil
import time
from pathlib import Path

import pytest
from support_keys import Requester, World, running_world

from teehouse_core.wire.canonical import b64u

STORE = ("journal.db", "journal.db-wal", "journal.db-shm", "root.key")


def copy_store(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in STORE:
        (target / name).unlink(missing_ok=True)
        if (source / name).exists():
            shutil.copy2(source / name, target / name)


def refused_start(world: World) -> str:
    """Start, which must fail; the code it stopped with."""
    size = world.keys.log.stat().st_size
    assert world.keys.launch().wait(60) == 1
    said = [json.loads(line) for line in world.keys.log.read_text()[size:].splitlines() if line.startswith("{")]
    return str(next(line["code"] for line in said if line["event"] == "start-failed"))


def test_an_old_copy_of_the_store_is_refused(tmp_path: Path) -> None:
    with running_world(tmp_path, witness_count=2, quorum=2) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        assert world.keys.stop() == 0
        copy_store(tmp_path, tmp_path / "old")
        world.start_keys()
        world.new_key(tenant, "data", "disk")
        assert world.keys.stop() == 0
        copy_store(tmp_path, tmp_path / "new")
        copy_store(tmp_path / "old", tmp_path)
        assert refused_start(world) == "rolled-back"
        copy_store(tmp_path / "new", tmp_path)
        world.start_keys()
        assert world.read(tenant)["rings"][0]["keys"][0]["id"] == "disk"


def test_an_empty_store_is_not_the_same_service(tmp_path: Path) -> None:
    with running_world(tmp_path) as world:
        world.new_tenant()
        assert world.keys.stop() == 0
        for name in STORE[:3]:
            (tmp_path / name).unlink(missing_ok=True)
        assert refused_start(world) == "too-few-witnesses"  # they know the origin under another key


def test_too_few_witnesses_stop_the_start(tmp_path: Path) -> None:
    with running_world(tmp_path, witness_count=2, quorum=2) as world:
        assert world.keys.stop() == 0
        world.witnesses[1].kill()
        assert refused_start(world) == "too-few-witnesses"
        world.witnesses[1].start()
        world.start_keys()


def test_without_witnesses_the_ledger_still_shows_an_old_copy(tmp_path: Path) -> None:
    with running_world(tmp_path, witness_count=0, quorum=0) as world:
        tenant = world.new_tenant()
        assert all(entry.witnesses == 0 for entry in world.entries(tenant))
        assert world.keys.stop() == 0
        copy_store(tmp_path, tmp_path / "old")
        world.start_keys()
        world.new_ring(tenant, "data")
        assert world.keys.stop() == 0
        copy_store(tmp_path / "old", tmp_path)
        assert refused_start(world) == "ledger-ahead"


def test_nothing_is_sent_without_the_quorum_and_it_heals_by_itself(tmp_path: Path) -> None:
    limits = {"commit_timeout_s": 3}
    with running_world(tmp_path, witness_count=2, quorum=2, limits=limits) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        world.new_key(tenant, "data", "disk")
        service, node = world.keyset(), Requester()
        for down in (world.witnesses[0], world.ledger):
            down.kill()
            with world.http() as http:
                outcome = node.ask(http, service, tenant=tenant, ring="data", key="disk")
                again = node.ask(http, service, tenant=tenant, ring="data", key="disk")
            assert (outcome.status, outcome.code, outcome.key) == (503, "unavailable", b"")
            assert (again.status, again.code) == (503, "unavailable")
            down.start()
            wait_healed(world)
            with world.http() as http:
                assert node.ask(http, service, tenant=tenant, ring="data", key="disk").code == "granted"
        entries = world.entries(tenant)
        # Granted means: may have been sent. While the log stands still, nothing more is journaled.
        assert [entry.decision for entry in entries if entry.op == "key.release"] == ["granted"] * 4


def wait_healed(world: World) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with world.http() as http:
            if not http.get("/readyz").json()["stalled"] and "log_backlog 0\n" in http.get("/metrics").text:
                return
        time.sleep(0.05)
    raise AssertionError("it did not heal")


def test_a_full_disk_changes_nothing_and_is_survived(tmp_path: Path) -> None:
    with running_world(tmp_path) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        world.new_key(tenant, "data", "disk")
        service, node = world.keyset(), Requester()
        assert world.keys.popen is not None
        pid = world.keys.popen.pid
        used = max((tmp_path / name).stat().st_size for name in STORE[:2])
        no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (used + 60_000, resource.RLIM_INFINITY))
        before = len(world.entries(tenant))
        codes = set()
        with world.http() as http:
            for _ in range(60):
                outcome = node.ask(http, service, tenant=tenant, ring="data", key="disk")
                codes.add((outcome.status, outcome.code))
                if outcome.code != "granted":
                    assert outcome.key == b""
        assert codes <= {(200, "granted"), (503, "storage-full"), (503, "storage")}
        assert len(codes) > 1
        resource.prlimit(pid, resource.RLIMIT_FSIZE, no_limit)
        with world.http() as http:
            assert node.ask(http, service, tenant=tenant, ring="data", key="disk").code == "granted"
        granted = [entry for entry in world.entries(tenant)[before:] if entry.decision == "granted"]
        assert granted
        world.keys.kill()
        world.start_keys()
        wait_healed(world)
        assert len(world.entries(tenant)) == before + len(granted)


def test_no_key_bytes_in_any_file_or_message(tmp_path: Path) -> None:
    """Known key bytes, in any usual spelling, are in no file that a process wrote, nor in what it said."""
    with running_world(tmp_path) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        service, node = world.keyset(), Requester()
        imported = secrets.token_bytes(32)
        args, payload = world.import_args(tenant, "data", "known", imported, service)
        world.do(tenant, "data", 1, "key.import", args, payload=payload)
        world.new_key(tenant, "data", "made", seq=2)
        with world.http() as http:
            made = node.ask(http, service, tenant=tenant, ring="data", key="made").key
            assert node.ask(http, service, tenant=tenant, ring="data", key="known").key == imported
            replies = http.get("/metrics").text + http.get("/readyz").text + json.dumps(world.read(tenant))
        root = (tmp_path / "root.key").read_bytes()
        assert world.keys.popen is not None
        limits = Path(f"/proc/{world.keys.popen.pid}/limits").read_text()
        assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
        assert world.keys.stop() == 0
        world.start_keys()
        world.keys.kill()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "pycache" not in path.parts]
    assert {"journal.db", "ledger.db", "keys.log", "ledger.log", "w0.db"} <= {path.name for path in files}
    for secret in (imported, made):
        spellings = spelled(secret)
        for path in files:
            data = path.read_bytes()
            assert not any(spelling in data for spelling in spellings), path.name
        assert not any(spelling in replies.encode() for spelling in spellings)
    assert root  # the SIMULATED root key lies in a file, as its name says


def spelled(secret: bytes) -> list[bytes]:
    return [
        secret,
        secret[:16],
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"="),
        b64u(secret).encode(),
    ]


def test_the_process_keeps_itself_out_of_dumps(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root sees the files of a process that is not dumpable")
    with running_world(tmp_path, witness_count=0, quorum=0) as world:
        assert world.keys.popen is not None
        status = Path(f"/proc/{world.keys.popen.pid}/status").read_text()
        locked = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmLck"))
        events = [json.loads(line) for line in world.keys.log.read_text().splitlines() if line.startswith("{")]
        said = next(event["locked"] for event in events if event["event"] == "memory")
        assert said == (locked > 0)


def test_a_service_without_a_disk_keeps_its_journal_in_the_ledger(tmp_path: Path) -> None:
    with running_world(tmp_path, journal="ledger") as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        world.new_key(tenant, "data", "disk")
        node = Requester()
        with world.http() as http:
            before = node.ask(http, world.keyset(), tenant=tenant, ring="data", key="disk")
        world.keys.kill()
        world.start_keys()
        with world.http() as http:
            after = node.ask(http, world.keyset(), tenant=tenant, ring="data", key="disk")
        assert (before.code, after.code) == ("granted", "granted")
        assert before.key == after.key
        assert [entry.op for entry in world.entries(tenant)][-2:] == ["key.release", "key.release"]
        world.ledger.kill()
        with world.http() as http:
            lost = node.ask(http, world.keyset(), tenant=tenant, ring="data", key="disk")
        assert (lost.status, lost.key) == (503, b"")
        world.ledger.start()
        wait_healed(world)
        with world.http() as http:
            assert node.ask(http, world.keyset(), tenant=tenant, ring="data", key="disk").code == "granted"
        assert len({entry.id for entry in world.entries(tenant)}) == len(world.entries(tenant))
