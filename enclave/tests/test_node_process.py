# SPDX-License-Identifier: Apache-2.0
"""`teehouse-node` as its own process: start, measure, drain, refusal of bad configuration, nothing on disk."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from teehouse_core.errors import LocalError
from teehouse_enclave.node.config import Limits, NodeConfig

NODE = Path(sys.executable).with_name("teehouse-node")
BASE: dict[str, Any] = {
    "endpoint": "ep-20260101000000-tests",
    "node": "node-p",
    "release": "test",
    "image_sha256": "ab" * 32,
    "engine": {"kind": "echo", "name": "echo"},
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "node.json"
    path.write_text(json.dumps({**BASE, **changes}))
    return path


def wait_ready(path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if path.exists():
            return dict(json.loads(path.read_text()))
        time.sleep(0.02)
    raise AssertionError("node did not become ready")


def test_starts_measures_and_stops_on_sigterm(tmp_path: Path) -> None:
    work = tmp_path / "cwd"
    work.mkdir()
    ready_file = tmp_path / "ready.json"
    config = write(tmp_path, ready_file=str(ready_file))
    process = subprocess.Popen([NODE, "--config", config], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        ready = wait_ready(ready_file)
        assert (ready["version"], ready["pid"], ready["node"]) == (1, process.pid, "node-p")
        with urllib.request.urlopen(ready["url"] + "/readyz", timeout=5) as response:
            document = json.load(response)
        assert document["ready"] is True
        assert len(document["keysets"]) == 1
        cores = Path(f"/proc/{process.pid}/limits").read_text()
        assert [line.split()[4] for line in cores.splitlines() if line.startswith("Max core file")] == ["0"]
        opened = []
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the descriptor of the answer above may just be closing
                opened.append(link.readlink())
        assert not [path for path in opened if str(path).startswith(str(tmp_path))]
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == b""
    assert list(work.iterdir()) == []
    events = [json.loads(line)["event"] for line in err.splitlines() if line.startswith(b"{")]
    assert events[-1] == "stopped"


def test_measure_prints_what_the_process_would_claim(tmp_path: Path) -> None:
    def measure(**changes: Any) -> dict[str, Any]:
        done = subprocess.run(
            [NODE, "--config", write(tmp_path, **changes), "--measure"], capture_output=True, check=True, timeout=30
        )
        return dict(json.loads(done.stdout))

    first = measure()
    assert first["config_sha256"] == NodeConfig.parse(BASE).config_sha256
    assert measure(listen={"host": "127.0.0.1", "port": 1})["config_sha256"] == first["config_sha256"]
    assert measure(limits={"key_active_s": 7200})["config_sha256"] != first["config_sha256"]
    assert measure(engine={"kind": "echo", "name": "echo", "pace": 5.0})["config_sha256"] != first["config_sha256"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"endpoint": "no spaces allowed"}, "config-value"),
        ({"image_sha256": "short"}, "config-value"),
        ({"surprise": 1}, "config-unknown"),
        ({"platform": {"type": "sgx"}}, "platform-unsupported"),
        ({"platform": {"type": "tpm", "rot": "/"}}, "config-unknown"),
        ({"platform": {"type": "tpm", "root": ""}}, "config-value"),
        ({"platform": {"type": "tpm", "devices": 1}}, "config-value"),
        ({"listen": {"host": "127.0.0.1", "port": 99999}}, "config-value"),
        ({"limits": {"max_active": 0}}, "config-value"),
        ({"limits": {"nothing": 1}}, "config-unknown"),
        ({"limits": {"key_active_s": 5, "key_overlap_s": 5}}, "config-value"),
        ({"engine": {"kind": "magic"}}, "engine-spec-invalid"),
        ({"node": ""}, "config-value"),
        ({"listen": 3}, "config-value"),
    ],
)
def test_bad_configuration_is_named(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as refused:
        NodeConfig.parse({**BASE, **changes})
    assert refused.value.code == code


def test_limits_default_to_the_protocol() -> None:
    limits = Limits.parse({})
    assert (limits.key_active_s, limits.key_overlap_s, limits.key_decrypt_only_s) == (3600, 600, 600)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_unreadable_configuration_exits_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    done = subprocess.run([NODE, "--config", path], capture_output=True, timeout=30)
    assert done.returncode == 2
    assert json.loads(done.stderr)["code"] == "config-file"


def test_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    first = subprocess.Popen([NODE, "--config", write(tmp_path, ready_file=str(ready_file))], stderr=subprocess.DEVNULL)
    try:
        port = int(wait_ready(ready_file)["url"].rsplit(":", 1)[1])
        taken = write(tmp_path, listen={"host": "127.0.0.1", "port": port})
        second = subprocess.run([NODE, "--config", taken], capture_output=True, timeout=30)
        assert second.returncode != 0
        assert b"Traceback" not in second.stderr
    finally:
        first.terminate()
        first.wait(timeout=20)
