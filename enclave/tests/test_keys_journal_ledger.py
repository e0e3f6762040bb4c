# SPDX-License-Identifier: Apache-2.0
"""The journal kept by a real `teehouse-cloud serve`, over SQLite and over PostgreSQL, and by one that misbehaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from teehouse_core.log.merkle import Frontier, leaf_hash, new_nodes
from teehouse_enclave.keys.errors import StorageError
from teehouse_enclave.keys.journal import Batch, Record, tenant_log
from teehouse_enclave.keys.journal_ledger import LedgerJournal

CLOUD = Path(sys.executable).with_name("teehouse-cloud")
LOG = tenant_log("t-1")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'cloud.db'}"
        return
    server = pytest.importorskip("postgres_support").PostgresServer()
    try:
        yield server.create()
    finally:
        server.stop()


@pytest.fixture
def ledger(database: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """URL and writer's token of a running platform."""
    if not CLOUD.exists():
        pytest.skip("missing program: teehouse-cloud")
    environment = {**os.environ, "TEEHOUSE_CLOUD_DB": database}

    def run(*words: str) -> str:
        done = subprocess.run([CLOUD, *words], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("init", "--json")
    token = json.loads(run("ledger", "token", "--writer", "--json"))["token"]
    ready = tmp_path / "ready.json"
    with (tmp_path / "cloud.log").open("wb") as log:
        process = subprocess.Popen(
            [CLOUD, "serve", "--port", "0", "--ready-file", str(ready)], env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None, (tmp_path / "cloud.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield json.loads(ready.read_text())["url"], token
    finally:
        process.terminate()
        process.wait(20)


def batch(first: int, count: int, text: bytes = b"", **parts: Any) -> Batch:
    records = [Record(n, b'{"n":%d}' % n + text, b'{"names":["a"]}', b"p%d" % n) for n in range(first, first + count)]
    return Batch(**{"log": LOG, "first": first, "records": records, **parts})


def test_a_ledger_keeps_what_a_file_keeps(ledger: tuple[str, str]) -> None:
    url, token = ledger
    journal = LedgerJournal(url, token)
    try:
        assert (journal.logs(), journal.size(LOG), journal.read(LOG, 0, 10)) == ([], 0, [])
        assert (journal.get_snapshot(LOG), journal.get_slot(LOG, "v-1")) == (None, None)
        journal.shred(LOG, ["v-0"])
        journal.append([batch(0, 3, slots={"v-1": b"kek", "v-2": b"other"}), Batch("public", 0, batch(0, 1).records)])
        journal.append([batch(0, 3)])
        journal.append([batch(2, 700)])
        assert (journal.size(LOG), journal.logs()) == (702, ["public", LOG])
        assert journal.read(LOG, 600, 50) == list(batch(600, 50).records)
        for wrong in (batch(1, 2, b" "), batch(703, 1)):
            with pytest.raises(StorageError) as caught:
                journal.append([wrong])
            assert caught.value.code == "storage-conflict"
        journal.put_snapshot(LOG, b"one")
        journal.put_snapshot(LOG, b"two")
        assert journal.get_snapshot(LOG) == b"two"
        journal.shred(LOG, ["v-1", "v-9"])
        assert (journal.get_slot(LOG, "v-1"), journal.get_slot(LOG, "v-2")) == (None, b"other")
        nodes = {
            (level, index): value
            for level, index, value in new_nodes(Frontier.empty(), [leaf_hash(r.leaf) for r in batch(0, 702).records])
        }
        for place in ((0, 0), (0, 701), (1, 350), (7, 4), (8, 0), (8, 1), (9, 0)):
            assert journal.node(LOG, *place) == nodes[place]
        for place in ((0, 702), (8, 2), (9, 1), (10, 0)):
            with pytest.raises(StorageError) as caught:
                journal.node(LOG, *place)
            assert caught.value.code == "storage-corrupt"
        with pytest.raises(StorageError) as caught:
            LedgerJournal(url, "no-such-token").append([batch(702, 1)])
        assert caught.value.code == "storage"
    finally:
        journal.close()


def answering(reply: Callable[[httpx2.Request], httpx2.Response]) -> LedgerJournal:
    return LedgerJournal("http://ledger.test", "t", client=httpx2.Client(transport=httpx2.MockTransport(reply)))


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (507, b"{}", "storage-full"),
        (503, b'{"code":"storage-full"}', "storage-full"),
        (500, b"<html>", "storage"),
        (200, b"<html>", "storage-corrupt"),
        (200, b"[]", "storage-corrupt"),
        (200, b'{"size":-1}', "storage-corrupt"),
        (200, b'{"size":0}', "storage-corrupt"),
        (409, b"{}", "storage-conflict"),
        (200, b"x" * 70_000, "storage"),
    ],
)
def test_an_answer_that_is_none_is_typed(status: int, body: bytes, code: str) -> None:
    journal = answering(lambda _request: httpx2.Response(status, stream=httpx2.ByteStream(body)))
    with pytest.raises(StorageError) as caught:
        journal.append([batch(0, 1)])
    assert caught.value.code == code
    journal.close()


def test_records_that_do_not_follow_are_damage() -> None:
    rows = [{"index": 5, "leaf": "e30", "opening": None, "private": ""}]
    for document in ({"records": rows}, {"records": [{}]}, {"records": [None]}, {}):
        journal = answering(
            lambda _request, d=document: httpx2.Response(200, stream=httpx2.ByteStream(json.dumps(d).encode()))
        )  # type: ignore[misc]
        with pytest.raises(StorageError) as caught:
            journal.read(LOG, 0, 10)
        assert caught.value.code == "storage-corrupt"
        journal.close()


def test_silence_is_typed() -> None:
    def nobody(_request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    journal = answering(nobody)
    with pytest.raises(StorageError) as caught:
        journal.size(LOG)
    assert caught.value.code == "storage"
    journal.close()
