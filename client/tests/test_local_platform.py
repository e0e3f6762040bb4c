# SPDX-License-Identifier: Apache-2.0
"""`teehouse up` as a person and as CI call it: real processes, the echo engine, the ready-file contract."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

TEEHOUSE = Path(sys.executable).with_name("teehouse")
PATIENCE = 90.0  # seconds; two busy cores start a platform in ten


class Home:
    """A home folder of its own, so that no test finds a platform or settings of the person who runs it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TEEHOUSE_", "XDG_"))}
        self.env = kept | {"HOME": str(root), "COLUMNS": "100"}

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(TEEHOUSE), *arguments], env=self.env, capture_output=True, text=True, timeout=PATIENCE, **options
        )

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json", stdin=subprocess.DEVNULL)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


class Up:
    """One `teehouse up` in the foreground."""

    def __init__(self, home: Home, directory: Path, *arguments: str) -> None:
        self.home, self.directory = home, directory
        self.ready_file = directory.with_name(directory.name + ".ready.json")
        command = [str(TEEHOUSE), "up", "--dir", str(directory), "--ready-file", str(self.ready_file)]
        command += ["--engine", "echo", "--port", "0", "--proxy-port", "0", *arguments]
        self.process = subprocess.Popen(
            command, env=home.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ready(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "not ready in time"
            time.sleep(0.05)
        return self.now()

    def now(self) -> dict[str, Any]:
        return json.loads(self.ready_file.read_text())

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        return self.process.returncode


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def platform(home: Home) -> Iterator[Up]:
    up = Up(home, home.root / "platform", "--nodes", "2")
    try:
        up.ready()
        yield up
    finally:
        assert up.stop() == 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Any, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def _ask(state: dict[str, Any], text: str) -> httpx2.Response:
    return httpx2.post(
        f"{state['openai_base_url']}/chat/completions",
        json={"model": state["model"], "messages": [{"role": "user", "content": text}]},
        headers={"authorization": f"Bearer {state['openai_api_key']}"},
        timeout=30.0,
        trust_env=False,
    )


def test_the_ready_file_keeps_its_contract(platform: Up) -> None:
    state = platform.now()
    assert state["version"] == 1
    for name in ("gateway", "openai_base_url", "openai_api_key", "api_key", "policy", "data_dir"):
        assert isinstance(state[name], str)
        assert state[name]
    assert state["gateway"].startswith("http://127.0.0.1:")
    assert state["openai_base_url"].startswith("http://127.0.0.1:")
    assert state["openai_base_url"].endswith("/v1")
    assert set(state["endpoints"]) == {"demo"}
    assert state["endpoints"]["demo"].startswith("ep-")
    assert set(state["pids"]) == {"supervisor", "cloud", "proxy", "keys", "witness", "node-0", "node-1"}
    for name in ("tks_url", "tks_gateway", "audit_url", "tenant_audit_url"):
        assert state[name].startswith("http://127.0.0.1:")
    for name in ("tks_account", "tks_other_account", "tks_policy_id", "access_key", "secret_key", "tks_tenant"):
        assert isinstance(state[name], str)
        assert state[name]
    for name in ("audit_token", "tenant_audit_token"):
        assert state[name].startswith("th-la-")
    for name in ("audit_pins", "tks_admin_key"):
        assert Path(state[name]).is_file()
    assert all(type(pid) is int and _alive(pid) for pid in state["pids"].values())
    assert state["pids"]["supervisor"] == platform.process.pid
    assert state["data_dir"] == str(platform.directory)
    assert state["tier"] == "simulated"
    assert stat.S_IMODE(platform.ready_file.stat().st_mode) == 0o600


def test_nothing_in_the_folder_is_open_to_others(platform: Up) -> None:
    assert stat.S_IMODE(platform.directory.stat().st_mode) == 0o700
    for path in platform.directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o077, path


def test_no_child_can_dump_core(platform: Up) -> None:
    for name, pid in platform.now()["pids"].items():
        if name != "supervisor":
            limits = Path(f"/proc/{pid}/limits").read_text()
            line = next(one for one in limits.splitlines() if one.startswith("Max core file size"))
            assert line.split()[4:6] == ["0", "0"], name


def test_it_answers_through_the_proxy_and_keeps_nothing_of_it(platform: Up) -> None:
    canary = "a heron reads the ledger at dusk"
    reply = _ask(platform.now(), canary)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["content"] == f"echo: {canary}"
    for path in platform.directory.rglob("*"):
        if path.is_file():
            assert canary.encode() not in path.read_bytes(), path


def test_status_and_the_other_commands_find_it(platform: Up, home: Home) -> None:
    said = home.json("status")
    assert said["state"] == "running"
    assert {row["node"]: row["state"] for row in said["nodes"]} == {"node-0": "ready", "node-1": "ready"}
    told = home.run("status").stdout
    assert "SIMULATED" in told
    assert "✓ running" in told
    settings = home.json("config", "show")["settings"]
    for name in ("base_url", "api_key", "endpoint", "policy"):
        assert settings[name]["source"] == f"local platform {platform.directory}"


def test_a_gateway_named_by_the_user_takes_nothing_of_the_local_platform(platform: Up, home: Home) -> None:
    settings = home.json("config", "show", "--gateway", "https://example.org")["settings"]
    assert settings["policy"]["value"].startswith("strict")
    assert settings["api_key"] == {"value": "", "source": "default"}
    assert settings["endpoint"]["value"] == ""


def test_chat_once(platform: Up, home: Home) -> None:
    done = home.run("chat", "-m", "good morning to you", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "echo: good morning to you\n")
    assert "SIMULATED" in done.stderr
    assert "receipt checked" in done.stderr
    said = home.json("chat", "-m", "count 5")
    assert said["content"] == "1 2 3 4 5"
    assert said["receipt"]["usage"]["output_tokens"] == 5
    assert home.json("chat", "-m", "count 50", "--max-tokens", "3")["finish"] == "length"


def test_chat_from_a_pipe_and_as_a_conversation(platform: Up, home: Home) -> None:
    done = home.run("chat", input="what a pipe says\n")
    assert done.stdout == "echo: what a pipe says\n"


def test_chat_under_a_policy_that_refuses_sends_nothing(platform: Up, home: Home) -> None:
    done = home.run("chat", "-m", "hello there", "--policy", "strict", stdin=subprocess.DEVNULL)
    assert done.returncode == 10
    assert done.stdout == ""
    assert "[evidence-refused]" in done.stderr


def test_verify_accepts_refuses_and_explains(platform: Up, home: Home) -> None:
    accepted = home.run("verify")
    assert accepted.returncode == 0
    assert "✓ accepted" in accepted.stdout
    assert "SIMULATED" in accepted.stdout
    assert accepted.stdout.count("node-") >= 2
    refused = home.run("verify", "--policy", "strict")
    assert refused.returncode == 10
    assert "✗ refused" in refused.stdout
    assert "policy.platform" in refused.stdout
    verbose = home.run("verify", "--verbose")
    for word in ("binding.report-data", "claimed", "expected", "clause", "PROTOCOL §2"):
        assert word in verbose.stdout
    said = home.json("verify")
    assert said["result"] == "accepted"
    assert said["tier"] == "simulated"
    assert len(said["nodes"]) == 2
    assert {"id", "group", "state", "claimed", "expected", "source", "clause", "hint"} <= set(said["checks"][0])


def test_a_saved_bundle_is_appraised_without_a_network(platform: Up, home: Home, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.json"
    assert home.run("verify", "--save", str(bundle)).returncode == 0
    assert (tmp_path / "bundle.1.json").exists()
    elsewhere = Home(tmp_path)  # knows of no platform
    done = elsewhere.run("verify", "--file", str(bundle), "--policy", "evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "age of this evidence is unknown" in " ".join(done.stderr.split())
    assert elsewhere.run("verify", "--file", str(bundle)).returncode == 10  # strict by default
    assert elsewhere.run("verify", "ep-other", "--file", str(bundle), "--policy", "evaluate").returncode == 10

    other = json.loads(bundle.read_text())
    other["platform"]["type"] = "arm-cca"
    unknown = tmp_path / "unknown.json"
    unknown.write_text(json.dumps(other))
    assert elsewhere.run("verify", "--file", str(unknown), "--policy", "evaluate").returncode == 20
    garbage = tmp_path / "garbage.json"
    garbage.write_bytes(os.urandom(512))
    done = elsewhere.run("verify", "--file", str(garbage), "--json")
    assert done.returncode == 30
    assert json.loads(done.stdout)["error"]["code"]
    assert elsewhere.run("verify", "--file", str(tmp_path / "absent")).returncode == 2
    assert elsewhere.run("verify", "--file", str(bundle), "--nonce", "zz").returncode == 2
    assert elsewhere.run("verify", "--file", str(bundle), "--at", "yesterday").returncode == 2


def test_verify_where_nobody_answers(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = home.run("verify", "ep-1", "--gateway", f"http://127.0.0.1:{port}", "--policy", "evaluate")
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr


def test_a_second_platform_in_the_same_folder_is_refused(platform: Up, home: Home) -> None:
    done = home.run("up", "--dir", str(platform.directory), "--engine", "echo", "--port", "0")
    assert done.returncode == 2
    assert "[dir-in-use]" in done.stderr
    assert platform.ready_file.exists()
    assert _ask(platform.now(), "still there?").status_code == 200


def test_a_taken_port_is_an_error_with_a_hint(home: Home, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = home.run("up", "--dir", str(tmp_path / "d"), "--engine", "echo", "--port", str(port))
    assert done.returncode == 2
    assert "[port-taken]" in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize("name", ["node-0", "proxy", "cloud"])
def test_what_is_killed_comes_back(platform: Up, name: str) -> None:
    before = platform.now()
    os.kill(before["pids"][name], signal.SIGKILL)
    _until(lambda: platform.now()["pids"].get(name, before["pids"][name]) != before["pids"][name])

    def answers() -> bool:
        try:
            return _ask(platform.now(), "are you back?").status_code == 200
        except httpx2.HTTPError:
            return False

    _until(answers)
    after = platform.now()
    assert {k: v for k, v in after.items() if k != "pids"} == {k: v for k, v in before.items() if k != "pids"}
    if name == "node-0":  # the platform is whole again, not only alive
        _until(lambda: all(n["state"] == "ready" for n in platform.home.json("status")["nodes"]))


def test_the_end_stops_everything_and_nothing_else_and_the_next_start_is_the_same_platform(tmp_path: Path) -> None:
    home = Home(tmp_path)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    directory = home.root / "twice"
    try:
        first = Up(home, directory, "--nodes", "1")
        one = first.ready()
        assert first.stop() == 0
        assert not first.ready_file.exists()
        assert not any(_alive(pid) for pid in one["pids"].values())
        assert bystander.poll() is None

        second = Up(home, directory, "--nodes", "1")
        two = second.ready()
        for name in ("endpoints", "api_key", "openai_api_key", "policy"):
            assert two[name] == one[name], name
        assert _ask(two, "me again").status_code == 200
        second.process.kill()  # without a word: the kernel tells the children
        second.process.communicate()
        _until(lambda: not any(_alive(pid) for pid in two["pids"].values()))
        assert bystander.poll() is None
        assert home.json("status", "--dir", str(directory))["state"] == "stopped"
    finally:
        bystander.kill()
        bystander.wait()


def test_in_the_background_and_down(platform: Up, home: Home) -> None:
    directory = str(home.root / "background")
    state = home.json("up", "--detach", "--dir", directory, "--engine", "echo", "--port", "0", "--nodes", "1")
    try:
        assert home.json("status", "--dir", directory)["state"] == "running"
    finally:
        said = home.json("down", "--dir", directory)
    assert said == {"version": 1, "stopped": True, "supervisor": state["pids"]["supervisor"]}
    _until(lambda: not any(_alive(pid) for pid in state["pids"].values()), 5.0)  # the lock is free a moment earlier
    assert home.json("status")["data_dir"] == str(platform.directory)  # the other one is found again


def test_a_model_that_does_not_load_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    home = Home(tmp_path)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(4096))
    directory = tmp_path / "d"
    done = home.run("up", "--dir", str(directory), "--model", str(broken), "--port", "0", "--nodes", "1", "--json")
    assert done.returncode == 3, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "child-start"
    assert error["message"].startswith("node-0 does not start")
    assert error["hint"]
    assert home.json("status", "--dir", str(directory))["state"] == "stopped"
    assert not (directory / "platform.json").exists()


def test_a_signal_during_the_start_stops_what_was_started(tmp_path: Path) -> None:
    up = Up(Home(tmp_path), tmp_path / "d", "--nodes", "1")
    node = tmp_path / "d" / "run" / "node-0.ready.json"
    _until(lambda: node.exists() or up.process.poll() is not None)
    pid = json.loads(node.read_text())["pid"]
    assert up.stop(signal.SIGINT) == 0
    assert not _alive(pid)
    assert not up.ready_file.exists()
