# SPDX-License-Identifier: Apache-2.0
"""`teehouse-keys` over a real ledger as processes, the official clients in their own environment, a stand-in agent."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from teehouse_core.appraise.policy import Policy
from teehouse_enclave.keys.policy import COCO, ReleasePolicy

ROOT = Path(__file__).resolve().parent.parent
OFFICIAL = ROOT / ".cache/official-venv/bin/python"
BIN = Path(sys.executable).parent
AGENT_PORT = 8006  # the official client asks no other
ACCOUNT, OTHER, SIGNED_ONLY = "2100000001", "2100000002", "2100000003"
PAIRS = {
    ACCOUNT: ("AKLTaccountone", "c2VjcmV0LW9mLWFjY291bnQtb25l"),
    OTHER: ("AKLTaccounttwo", "c2VjcmV0LW9mLWFjY291bnQtdHdv"),
    SIGNED_ONLY: ("AKLTaccountthree", "c2VjcmV0LW9mLWFjY291bnQtdGhyZWU"),
}
POLICY, STRICT = "sample-ok", "hardware-only"
_START = 30.0  # seconds


def policies() -> list[dict[str, Any]]:
    """`sample-ok` takes the attestation agent's `sample` evidence, which is SIMULATED; `hardware-only` does not."""
    made = [
        ReleasePolicy.build(
            id=POLICY, appraisal=Policy.preset("evaluate"), dialect=COCO, coco_tees=("sample",), unbound_key=True
        ),
        ReleasePolicy.build(
            id=STRICT, appraisal=Policy.preset("standard"), dialect=COCO, coco_tees=("tdx", "snp"), unbound_key=True
        ),
    ]
    return [json.loads(policy.raw) for policy in made]


@dataclass
class Keys:
    """A running key service with its ledger. `url` changes with a restart."""

    folder: Path
    ledger: str
    token: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def addr(self) -> str:
        return self.url.removeprefix("http://")

    def start(self, **compat: Any) -> None:
        """`teehouse-keys` over the state in `folder`."""
        accounts = [
            {"account": one, "access_key": pair[0], "secret_key": pair[1], "direct_rest": one != SIGNED_ONLY}
            for one, pair in PAIRS.items()
        ]
        file, ready = self.folder / "accounts.json", self.folder / "keys-ready.json"
        file.write_text(json.dumps({"v": "tks-accounts/1", "accounts": accounts}), encoding="utf-8")
        file.chmod(0o600)
        ready.unlink(missing_ok=True)
        config = {
            "name": "keys-test",
            "release": "test",
            "image_sha256": "00" * 32,
            "platform": {"type": "simulated"},
            "listen": {"host": "127.0.0.1", "port": 0},
            "ready_file": str(ready),
            "origin": "tks.test",
            "root": {"kind": "simulated", "path": str(self.folder / "SIMULATED-root")},
            "journal": {"kind": "sqlite", "path": str(self.folder / "journal.db")},
            "ledger": {"url": self.ledger, "token": self.token},
            "witnesses": [],
            "quorum": 0,
            "compat": {
                "accounts": str(file),
                "accounts_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "policies": policies(),
                "direct_rest": True,
                "hosts": ["pcc.example"],
                **compat,
            },
        }
        path = self.folder / "keys.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        log = (self.folder / "keys.log").open("ab")
        command = [sys.executable, "-W", "ignore", "-m", "teehouse_enclave.keys.main", "--config", str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        self.processes.append(process)
        self.url = _wait(ready, process, self.folder / "keys.log")["url"]

    def kill(self) -> None:
        """SIGKILL to the key service, which is the process started last."""
        process = self.processes.pop()
        process.kill()
        process.wait(10)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait(10)

    def entries(self, log: str) -> list[dict[str, Any]]:
        """The audit log's leaves as the ledger shows them to whoever holds its audit token."""
        token = _cloud(self.folder, "ledger", "token", "--log", log, "--label", "test")["token"]
        answer = httpx2.get(
            f"{self.ledger}/ledger/v1/{log}/entries",
            params={"limit": 1000},
            headers={"authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 200, answer.text
        rows = answer.json()
        rows = rows["entries"] if isinstance(rows, dict) else rows
        return [json.loads(base64.urlsafe_b64decode(row["leaf"] + "==")) for row in rows]


@contextlib.contextmanager
def running_keys(folder: Path, **compat: Any) -> Iterator[Keys]:
    """A ledger and a key service below `folder` until the block ends."""
    _cloud(folder, "migrate")
    token = _cloud(folder, "ledger", "token", "--writer", "--label", "tks")["token"]
    ready = folder / "cloud-ready.json"
    log = (folder / "cloud.log").open("wb")
    serve = ["serve", "--port", "0", "--ready-file", str(ready), "--db", f"sqlite:///{folder}/cloud.db"]
    process = subprocess.Popen([BIN / "teehouse-cloud", *serve], stdout=log, stderr=log)
    log.close()
    keys = Keys(folder, "", token, [process])
    try:
        keys.ledger = _wait(ready, process, folder / "cloud.log")["url"]
        keys.start(**compat)
        yield keys
    finally:
        keys.stop()


def _cloud(folder: Path, *arguments: str) -> dict[str, Any]:
    command = [str(BIN / "teehouse-cloud"), *arguments, "--db", f"sqlite:///{folder}/cloud.db", "--json"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _wait(ready: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    end = time.monotonic() + _START
    while not ready.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(ready.read_text())
    return found


class StandInAgent:
    """A STAND-IN for the Confidential Containers attestation agent without a TEE: answers `sample` evidence.

    It listens on a loopback address of its own, so that nothing else on this machine's 127.0.0.1:8006 is in its way.
    """

    def __init__(self) -> None:
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                asked = {name: values[0] for name, values in parse_qs(url.query).items()}
                agent.asked.append(asked)
                body = agent.answer(asked.get("runtime_data", ""))
                self.send_response(200 if url.path == "/aa/evidence" else 404)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                return None

        self.asked: list[dict[str, str]] = []
        self.stale = False
        self.address = f"127.{os.getpid() % 250 + 1}.{int(time.time()) % 250 + 1}.6"
        self._server = ThreadingHTTPServer((self.address, AGENT_PORT), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, runtime_data: str) -> bytes:
        data = "0" * 64 if self.stale else runtime_data
        return json.dumps({"svn": "1", "report_data": base64.b64encode(data.encode()).decode()}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class OfficialError(Exception):
    """What an official client raised."""

    name: str
    http_status: int | None
    text: str


class Official:
    """The official clients behind `official/driver.py`, unmodified, in their own environment."""

    def __init__(self, agent: StandInAgent, folder: Path) -> None:
        if not OFFICIAL.exists():
            pytest.skip("missing package: the official TKS client (make test installs it)")
        environment = {**os.environ, "JPCC_HOST_IP": agent.address, "ENABLE_TLS": "false"}
        for name in ("NEED_EVIDENCE", "ATTEST_GPU", "PYTHONPATH"):
            environment.pop(name, None)
        self._process = subprocess.Popen(
            [OFFICIAL, "-W", "ignore", str(ROOT / "tests/official/driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=folder,  # one of the clients writes a log where it stands
            text=True,
        )

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise OfficialError(answer["error"], answer["http_status"], answer["text"])
        value = answer["ok"]
        return base64.b64decode(value["b64"]) if isinstance(value, dict) and set(value) == {"b64"} else value

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        if self._process.stdout is not None:
            self._process.stdout.close()
