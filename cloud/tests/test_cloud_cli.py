# SPDX-License-Identifier: Apache-2.0
"""The `teehouse-cloud` process: commands, start, ready file, signals; any bytes at its door give a problem."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from postgres_support import on_both_databases

from teehouse_cloud.ledger.entries import NewEntry, append
from teehouse_cloud.main import main
from teehouse_cloud.settings import Settings
from teehouse_cloud.store.database import Database
from teehouse_cloud.store.endpoints import put_endpoint
from teehouse_cloud.store.keys import create_key
from teehouse_cloud.store.migrate import upgrade
from teehouse_core.wire.frame import REQUEST_TYPE, frame_prefix
from teehouse_core.wire.problem import CODES


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ("--db", f"sqlite:///{tmp_path / 'c.db'}")
    made = run(capsys, "init", *db)
    assert made["operator_token"].startswith("th-op-")
    assert run(capsys, "migrate", *db) == {"revision": made["revision"]}
    assert run(capsys, "endpoint", "put", "ep-1", "--name", "one", *db)["id"] == "ep-1"
    assert [row["id"] for row in run(capsys, "endpoint", "list", *db)["endpoints"]] == ["ep-1"]
    key = run(capsys, "key", "create", "--label", "x", "--endpoint", "ep-1", "--endpoint", "*", *db)
    assert key["endpoints"] == ["*", "ep-1"]
    listed = run(capsys, "key", "list", *db)["keys"]
    assert [row["account"] for row in listed] == [key["account"]]
    assert key["api_key"] not in json.dumps(listed)
    assert run(capsys, "key", "revoke", key["account"], *db)["revoked_at"]
    node = run(capsys, "node", "put", "n1", "--endpoint", "ep-1", "--url", "http://127.0.0.1:9", *db)
    assert node["state"] == "new"
    assert [row["id"] for row in run(capsys, "node", "list", *db)["nodes"]] == ["n1"]
    assert main(["node", "list", *db]) == 0
    assert "id=n1" in capsys.readouterr().out
    assert run(capsys, "node", "delete", "n1", *db) == {"deleted": "n1"}


@on_both_databases
def test_ledger_commands(db_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    db = ("--db", db_url)
    writer = run(capsys, "ledger", "token", "--writer", "--label", "tks", *db)
    assert (writer["kind"], writer["log"], writer["token"][:6]) == ("writer", "*", "th-lw-")
    audit = run(capsys, "ledger", "token", "--log", "tenant-a", *db)
    assert (audit["kind"], audit["log"], audit["token"][:6]) == ("audit", "tenant-a", "th-la-")
    listed = run(capsys, "ledger", "tokens", *db)["tokens"]
    assert [row["id"] for row in listed] == [writer["id"], audit["id"]]
    assert audit["token"] not in json.dumps(listed)
    assert run(capsys, "ledger", "revoke", str(audit["id"]), *db)["revoked_at"]
    assert run(capsys, "ledger", "logs", *db) == {"logs": []}

    async def fill() -> None:
        database = Database(db_url)
        await append(database, "tenant-a", 0, [NewEntry(b"{}", '{"names":["A"]}', b"")], 1)
        await database.close()

    asyncio.run(fill())
    assert [(row["name"], row["size"]) for row in run(capsys, "ledger", "logs", *db)["logs"]] == [("tenant-a", 1)]
    assert run(capsys, "ledger", "forget", "tenant-a", "0", *db) == {"log": "tenant-a", "index": 0}
    assert main(["ledger", "forget", "tenant-a", "1", *db]) == 1
    assert main(["ledger", "token", *db]) == 2
    assert main(["ledger", "token", "--log", "nonsense", *db]) == 2
    assert main(["ledger", "token", "--log", "*", *db]) == 2
    assert main(["ledger", "revoke", "x", *db]) == 2


@pytest.mark.parametrize(
    ("argv", "status", "hint"),
    [
        (["node", "list"], 2, "TEEHOUSE_CLOUD_DB"),
        (["node", "list", "--db", "mysql://x"], 2, "sqlite:///"),
        (["node", "list", "--db", "sqlite:////nonexistent/x.db"], 1, "init"),
        (["init", "--db", "sqlite:////nonexistent/x.db"], 1, "folder"),
        (["serve", "--db", "sqlite:///x.db", "--poll-seconds", "0"], 2, "TEEHOUSE_CLOUD_POLL_SECONDS"),
    ],
)
def test_errors_say_what_to_do(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    status: int,
    hint: str,
) -> None:
    monkeypatch.delenv("TEEHOUSE_CLOUD_DB", raising=False)
    assert main(argv) == status
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "hint: " in seen.err
    assert hint in seen.err


def test_wrong_ids_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ("--db", f"sqlite:///{tmp_path / 'c.db'}")
    assert main(["init", *db]) == 0
    assert main(["endpoint", "put", "ep_1", "--name", "x", *db]) == 2
    assert main(["node", "put", "n", "--endpoint", "ep-1", "--url", "ftp://x", *db]) == 2
    assert main(["key", "revoke", "x", *db]) == 2
    with pytest.raises(SystemExit) as caught:
        main(["nonsense"])
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_environment_and_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from teehouse_cloud.settings import load

    monkeypatch.setenv("TEEHOUSE_CLOUD_KEY_RPM", "7")
    monkeypatch.setenv("TEEHOUSE_CLOUD_PORT", "1")
    assert load(port=2).key_rpm == 7
    assert load(port=2).port == 2
    assert load(port=None).port == 1
    with pytest.raises(Exception, match="frozen"):
        load().port = 5  # type: ignore[misc]
    assert set(Settings.model_fields) == {name for name, field in Settings.model_fields.items() if field.description}


def test_serve_refuses_a_database_that_is_not_migrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.db").touch()
    assert main(["serve", "--db", f"sqlite:///{tmp_path / 'c.db'}", "--port", "0"]) == 1
    assert "teehouse-cloud migrate" in capsys.readouterr().err


async def prepare(url: str) -> str:
    """A database with one endpoint and one key; returns the key."""
    database = Database(url, create=True)
    await upgrade(database)
    await put_endpoint(database, "ep-1", "x", 1)
    key, _ = await create_key(database, "x", ["ep-1"], 1)
    await database.close()
    return key


class Process:
    """A served gateway with one endpoint, one key and no node."""

    def __init__(self, directory: Path, pycache: Path) -> None:
        db = f"sqlite:///{directory / 'c.db'}"
        self.command = [sys.executable, "-m", "teehouse_cloud.main"]
        self.env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.env["PYTHONPYCACHEPREFIX"] = str(pycache)  # else each of these processes compiles its libraries anew
        self.key = asyncio.run(prepare(db))
        self.ready = directory / "ready.json"
        self.token = "t" * 40
        (directory / "token").write_text(self.token + "\n")
        self.log = directory / "log"
        options = ["--db", db, "--port", "0", "--ready-file", str(self.ready), "--key-rpm", "1000000"]
        options += ["--operator-token-file", str(directory / "token")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.command, "serve", *options],
                stderr=log,
                stdout=subprocess.DEVNULL,
                env=self.env,
            )
        end = time.monotonic() + 20
        while not self.ready.exists():
            assert time.monotonic() < end, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.facts = json.loads(self.ready.read_text())
        self.port = int(self.facts["url"].rsplit(":", 1)[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)


@pytest.fixture(scope="module")
def pycache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pycache")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, pycache: Path) -> Iterator[Process]:
    process = Process(tmp_path_factory.mktemp("served"), pycache)
    yield process
    process.process.kill()
    process.process.wait()


def test_ready_file_and_operator_token_file(served: Process) -> None:
    assert served.facts == {"version": 1, "url": served.facts["url"], "pid": served.process.pid}
    connection = served.connect()
    connection.request("GET", "/api/v1/endpoints", headers={"Authorization": f"Bearer {served.token}"})
    response = connection.getresponse()
    assert response.status == 200
    assert json.loads(response.read())["endpoints"][0]["id"] == "ep-1"
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 503
    connection.close()


VALID = (
    b'{"account":"","attempt":0,"body_len":40,"body_sha256":"%b","candidates":[{"commit":"%b","keyset_sha256":"%b",'
    b'"kid":"%b"}],"cek_commit":"%b","endpoint":"ep-1","expires_at":2,"max_tokens_bucket":0,"op":"chat.completions",'
    b'"request_id":"AAAAAAAAAAAAAAAAAAAAAA","sent_at":1,"stream":true,"suite":"mlkem768x25519-hkdfsha256-aes256gcm",'
    b'"v":"sealed/1"}' % (b"0" * 64, b"A" * 43, b"0" * 64, b"0" * 32, b"A" * 43)
)


@st.composite
def near_frames(draw: st.DrawFn) -> bytes:
    """A good frame with a few bytes changed, cut or added."""
    data = bytearray(frame_prefix(VALID) + VALID + bytes(1232 + 40))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(VALID) + 12))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data) - 1)) :]
    return bytes(data) + draw(st.binary(max_size=8))


@given(st.one_of(st.binary(max_size=3000), st.binary(max_size=300).map(lambda x: b"TEEH\x01" + x), near_frames()))
@example(frame_prefix(VALID) + VALID + bytes(1232 + 40))
@example(frame_prefix(b"[" * 16000) + b"[" * 16000)
@example(b"TEEH\x01\xff\xff\xff\xff" + b"{}")
@example(b"TEEH\x01\x00\x00\x00\x02{}")
@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_a_problem_document(served: Process, data: bytes) -> None:
    connection = served.connect()
    try:
        headers = {"Authorization": f"Bearer {served.key}", "Content-Type": REQUEST_TYPE}
        connection.request("POST", "/sealed/v1/ep-1", body=data, headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["status"] == response.status
    assert (response.status, problem["code"]) in {*((s, c) for c, s in CODES.items()), (403, "unavailable")}
    assert problem["code"] in ("malformed", "unknown-key") or problem["reason"] == "account-mismatch"


@given(st.binary(min_size=1, max_size=2000))
@settings(max_examples=50, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_on_the_socket_leave_it_alive(served: Process, data: bytes) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as raw:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        raw.settimeout(5)
        try:
            while raw.recv(65536):
                pass
        except ConnectionResetError:
            pass
    connection = served.connect()
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(tmp_path: Path, pycache: Path, number: int) -> None:
    served = Process(tmp_path, pycache)
    os.kill(served.process.pid, number)
    assert served.process.wait(10) == 0
    assert not served.ready.exists()
    log = served.log.read_text()
    assert "Traceback" not in log
    assert served.key not in log
    for line in log.splitlines():
        json.loads(line)


def test_a_taken_port_is_said(tmp_path: Path, served: Process) -> None:
    db = f"sqlite:///{tmp_path / 'c.db'}"
    asyncio.run(prepare(db))
    result = subprocess.run(
        [*served.command, "serve", "--db", db, "--port", str(served.port)],
        capture_output=True,
        text=True,
        timeout=20,
        env=served.env,
    )
    assert result.returncode == 2
    assert "hint: is the port taken?" in result.stderr
