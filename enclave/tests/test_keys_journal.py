# SPDX-License-Identifier: Apache-2.0
"""The journal in a real SQLite file: durable, atomic, idempotent; slots that leave the disk; full and damaged disks."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from keys_support import key_args, new_house, ring_args

from teehouse_core.errors import LocalError
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import Batch, Record, tenant_log
from teehouse_enclave.keys.journal_sqlite import SqliteJournal

LOG = tenant_log("t-1")


def record(index: int, text: bytes = b"leaf") -> Record:
    return Record(index, text + b" %d" % index, b"{}", b"private %d" % index)


def batch(first: int, count: int, text: bytes = b"leaf", **parts: object) -> Batch:
    records = [record(first + n, text) for n in range(count)]
    nodes = [(0, first + n, b"%032d" % (first + n)) for n in range(count)]
    return Batch(**{"log": LOG, "first": first, "records": records, "nodes": nodes, **parts})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@contextmanager
def opened(path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(path)
    try:
        yield journal
    finally:
        journal.close()


def code_of(error: pytest.ExceptionInfo[StorageError]) -> str:
    return error.value.code


def test_what_was_appended_is_there_after_a_restart(path: Path) -> None:
    with opened(path) as journal:
        assert (journal.size(LOG), journal.logs(), journal.read(LOG, 0, 10)) == (0, [], [])
        other = Batch("public", 0, [record(0)])
        journal.append([batch(0, 3, slots={"v-1": b"kek"}), other])
        journal.append([batch(3, 2)])
        journal.put_snapshot(LOG, b"one")
        journal.put_snapshot(LOG, b"two")
        assert path.stat().st_mode & 0o777 == 0o600
        assert Path(f"{path}-wal").stat().st_mode & 0o777 == 0o600
    with opened(path) as journal:
        assert (journal.size(LOG), journal.size("public"), journal.logs()) == (5, 1, ["public", LOG])
        assert journal.read(LOG, 1, 2) == [record(1), record(2)]
        assert journal.node(LOG, 0, 4) == b"%032d" % 4
        assert journal.get_slot(LOG, "v-1") == b"kek"
        assert journal.get_slot(LOG, "v-2") is None
        assert (journal.get_snapshot(LOG), journal.get_snapshot("public")) == (b"two", None)
        with pytest.raises(StorageError) as caught:
            journal.node(LOG, 1, 9)
        assert code_of(caught) == "storage-corrupt"


def test_a_repeat_is_fine_and_a_fork_is_not(path: Path) -> None:
    with opened(path) as journal:
        journal.append([batch(0, 3)])
        journal.append([batch(0, 3)])
        journal.append([batch(1, 4)])  # its beginning is known
        journal.append([batch(0, 2)])
        assert journal.size(LOG) == 5
        for wrong in (batch(2, 3, b"other"), batch(7, 1), batch(4, 3, b"other")):
            with pytest.raises(StorageError) as caught:
                journal.append([batch(5, 1), wrong])
            assert code_of(caught) == "storage-conflict"
        assert journal.size(LOG) == 5, "one bad batch of a group leaves none"


def test_impossible_batches_are_refused(path: Path) -> None:
    with opened(path) as journal:
        for wrong in (
            Batch("../x", 0, [record(0)]),
            Batch(LOG, 0, [record(1)]),
            Batch(LOG, 0, [Record(0, bytes(65536), b"", b"")]),
            batch(0, 1, slots={"v": b""}),
        ):
            with pytest.raises(StorageError):
                journal.append([wrong])
        with pytest.raises(StorageError):
            journal.put_slot(LOG, "v", bytes(65 * 1024))
        assert journal.logs() == []


def test_a_shredded_slot_leaves_every_file(path: Path) -> None:
    keep, gone = secrets.token_bytes(64), secrets.token_bytes(64)
    with opened(path) as journal:
        journal.append([batch(0, 1, slots={"keep": keep, "gone": gone})])
        journal.put_slot(LOG, "gone", gone)
        journal.shred(LOG, ["gone", "never-there"])
        journal.shred(LOG, [])
        assert journal.get_slot(LOG, "gone") is None
        held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert keep in held
    assert gone not in held


def test_the_files_hold_no_key_bytes(path: Path) -> None:
    house = new_house()
    house.do("ring.create", ring_args("r"))
    house.do("key.create", key_args("k"), ring="r")
    house.do("key.create", key_args("l", "aes128"), ring="r")
    secret = [house.secret("r", "k"), house.secret("r", "l")]
    with opened(path) as journal:
        for at, change in enumerate(house.changes):
            assert change.delta is not None
            one = Record(at, b"leaf %d" % at, b"{}", change.delta)  # even the deltas, unsealed, hold none
            journal.append([Batch(LOG, at, [one], slots=change.slots)])
        held = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert held.count(b'"v":"tks-delta/1"') >= len(house.deltas)
    for value in secret:
        assert value not in held
        assert value.hex().encode() not in held


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 192 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("missing right: mounting a tmpfs")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("missing right: mounting a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(journal: SqliteJournal) -> int:
    """Append until the disk is full; how many entries are there."""
    with pytest.raises(StorageError) as caught:
        append_for_ever(journal)
    assert caught.value.code in ("storage-full", "storage")
    assert caught.value.status == 503
    return journal.size(LOG)


def append_for_ever(journal: SqliteJournal) -> None:
    for at in range(journal.size(LOG), 10_000):
        journal.append([Batch(LOG, at, [Record(at, bytes(1000), b"{}", bytes(1000))])])


def read_all(path: Path) -> None:
    with opened(path) as journal:
        journal.read(LOG, 0, 4096)
        journal.size(LOG)
        for at in range(200):
            journal.node(LOG, 0, at)


def test_a_full_disk_changes_nothing_and_heals(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40 * 1024))
    with opened(path) as journal:
        size = fill(journal)
        assert 0 < size < 200
        assert [r.index for r in journal.read(LOG, 0, 4096)] == list(range(size))
        with pytest.raises(StorageError) as caught:
            journal.append([Batch(LOG, size, [Record(size, bytes(1000), b"{}", bytes(30_000))])])
        assert caught.value.code == "storage-full"
        ballast.unlink()
        journal.append([Batch(LOG, size, [Record(size, bytes(1000), b"{}", b"")])])
    with opened(path) as journal:
        assert journal.size(LOG) == size + 1


def test_a_file_size_limit_changes_nothing_and_heals(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(path) as journal:
        journal.append([batch(0, 1)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200 * 1024, hard))
        try:
            size = fill(journal)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [r.index for r in journal.read(LOG, 0, 4096)] == list(range(size))
        journal.append([batch(size, 1)])


def test_a_damaged_file_is_said_to_be_damaged(path: Path) -> None:
    with opened(path) as journal:
        for at in range(200):
            one = Record(at, secrets.token_bytes(500), b"{}", b"")
            journal.append([Batch(LOG, at, [one], [(0, at, bytes(32))])])
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 6] = secrets.token_bytes(4096 * 4)
    path.write_bytes(data)
    with pytest.raises(StorageError) as caught:
        read_all(path)
    assert code_of(caught) == "storage-corrupt"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(StorageError) as caught, opened(path):
        pass
    assert code_of(caught) == "storage-corrupt"


def test_a_gap_is_damage(path: Path) -> None:
    with opened(path) as journal:
        journal.append([batch(0, 3)])
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM entries WHERE idx=1")
    db.close()
    with opened(path) as journal, pytest.raises(StorageError, match="gap"):
        journal.read(LOG, 0, 10)


def test_places_that_cannot_hold_a_journal(tmp_path: Path, path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        SqliteJournal(tmp_path / "missing" / "journal.db")
    assert code_of(caught) == "storage"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(LocalError, match="format 7"):
        SqliteJournal(path)


def test_a_kill_in_the_middle_loses_no_acknowledged_entry(path: Path) -> None:
    """The child prints each size after `append` returned, and is killed while it writes."""
    program = textwrap.dedent("""
        import sys
        from teehouse_enclave.keys.journal import Batch, Record
        from teehouse_enclave.keys.journal_sqlite import SqliteJournal
        journal, log = SqliteJournal(sys.argv[1]), "tenant-t-1"
        first = journal.size(log)
        for at in range(first, 100000):
            journal.append([Batch(log, at, [Record(at, b"leaf %d" % at, b"{}", bytes(300))])])
            print(at + 1, flush=True)
    """)
    acknowledged = 0
    for lines in (1, 5, 17, 40):
        child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(lines):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            if line.endswith("\n"):
                acknowledged = int(line)
        child.wait(10)
        child.stdout.close()
        with opened(path) as journal:
            size = journal.size(LOG)
            assert acknowledged <= size <= acknowledged + 1
            assert [r.leaf for r in journal.read(LOG, 0, 4096)] == [b"leaf %d" % n for n in range(size)]
