# SPDX-License-Identifier: Apache-2.0
"""The parts of the local platform that need no platform: folder, lock, children, reference values, options."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from teehouse.local.children import Child, last_words
from teehouse.local.layout import Layout, write_private
from teehouse.local.lock import DirLock, holder
from teehouse.local.options import UpOptions, make_endpoint_id, need_port, node_config
from teehouse.local.programs import child_environment, find_program, launch_command, wheel_folder
from teehouse.local.reference import ECHO_WEIGHTS_SHA256, ReferenceValues, config_digest, image_digest, policy_text
from teehouse.local.state import find_running, last_dir, remember
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError
from teehouse_core.wire.fields import ENDPOINT

VALUES = ReferenceValues("0.1.0", "a" * 64, "b" * 64, "c" * 64, "echo")


def _child(tmp_path: Path, code: str) -> Child:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-c", code, str(ready)]
    return Child("it", lambda: command, tmp_path / "it.log", ready)


def _until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_folders_and_files_are_private(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "d")
    layout.root.mkdir(mode=0o755)
    layout.create()
    for folder in (layout.root, layout.logs, layout.secrets, layout.run):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    path = layout.keep_secret("api_key", "value")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert layout.secret("api_key") == "value"
    assert layout.secret("other") is None
    write_private(path, "more")
    assert sorted(p.name for p in layout.secrets.iterdir()) == ["api_key"]  # no half-written file stays


def test_one_platform_per_folder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    with DirLock(path):
        assert holder(path) == os.getpid()
        with pytest.raises(LocalError) as caught, DirLock(path):
            pass
        assert caught.value.code == "dir-in-use"
        assert str(os.getpid()) in caught.value.message
    assert holder(path) is None
    path.write_text("4711\n")  # left behind by a machine that lost power
    assert holder(path) is None


def test_the_last_folder_is_remembered_but_only_a_lock_makes_it_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert last_dir() is None
    layout = Layout(tmp_path / "d")
    layout.create()
    remember(layout.root)
    assert last_dir() == layout.root
    assert find_running() is None
    write_private(layout.state, json.dumps({"endpoints": {"demo": "ep-1"}}))
    with DirLock(layout.lock):
        running = find_running()
        assert running is not None
        assert running.endpoint == "ep-1"


def test_endpoint_ids_have_the_documented_form() -> None:
    name = make_endpoint_id()
    assert ENDPOINT.fullmatch(name)
    assert len(name) == len("ep-YYYYMMDDHHMMSS-xxxxx")
    assert make_endpoint_id() != name


@pytest.mark.parametrize("change", [{"engine": "none"}, {"nodes": 0}, {"nodes": 9}, {"engine": "echo", "model": "x"}])
def test_options_that_cannot_be(tmp_path: Path, change: dict) -> None:
    with pytest.raises(LocalError) as caught:
        UpOptions(root=tmp_path, **change).check()
    assert caught.value.code == "option"
    assert caught.value.hint


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LocalError) as caught:
            need_port(port, "--port")
    assert caught.value.code == "port-taken"
    assert "--port" in (caught.value.hint or "")
    need_port(0, "--port")


def test_children_learn_no_secrets_of_the_environment() -> None:
    source = {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "OPENAI_API_KEY": "x", "TEEHOUSE_API_KEY": "y"}
    given = child_environment(source | {"HTTPS_PROXY": "z"})
    assert given == {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "PYTHONUNBUFFERED": "1"}


def test_programs_are_found_beside_the_interpreter() -> None:
    assert find_program("teehouse-node").parent == Path(sys.executable).parent
    with pytest.raises(LocalError) as caught:
        find_program("teehouse-nonsense")
    assert caught.value.code == "wheel-missing"
    with pytest.raises(LocalError, match="not installed"):
        wheel_folder("teehouse_nonsense")


def test_the_launcher_gives_up_core_dumps(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"import resource,os;open({str(out)!r},'w').write(str(resource.getrlimit(resource.RLIMIT_CORE)))"
    child = Child("c", lambda: launch_command(Path(sys.executable), "-c", code), tmp_path / "log", tmp_path / "ready")
    child.start()
    assert child.wait(10)
    child.finish()
    assert out.read_text() == "(0, 0)"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_child_that_dies_is_started_again_after_a_pause(tmp_path: Path) -> None:
    code = "import json,os,sys,time;open(sys.argv[1],'w').write(json.dumps({'pid':os.getpid()}));time.sleep(60)"
    child = _child(tmp_path, code)
    child.start()
    try:
        _until(lambda: child.watch() == "ready")
        first = child.pid
        os.kill(first, signal.SIGKILL)
        _until(lambda: child.watch() == "died")
        assert child.last_exit == -signal.SIGKILL
        assert child.pid is None
        died = time.monotonic()
        _until(lambda: child.watch() == "restarted")
        assert time.monotonic() - died > 0.2
        _until(lambda: child.watch() == "ready")
        assert child.pid != first
        assert child.lives == 2
    finally:
        child.finish()
    assert not child.ready_file.exists()


def test_a_ready_file_of_another_process_does_not_count(tmp_path: Path) -> None:
    child = _child(tmp_path, "import time;time.sleep(60)")
    child.start()
    try:
        child.ready_file.write_text(json.dumps({"pid": 1}))
        assert child.watch() is None
        child.ready_file.write_text("half a docu")
        assert child.watch() is None
    finally:
        child.finish()


def test_finish_kills_the_whole_group_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import subprocess,sys,time;p=subprocess.Popen(['sleep','60']);"
        "open(sys.argv[1]+'.pid','w').write(str(p.pid));time.sleep(60)"
    )
    child = _child(tmp_path, code)
    child.start()
    bystander = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        marker = tmp_path / "ready.json.pid"
        _until(lambda: marker.exists() and marker.read_text())
        grandchild = int(marker.read_text())
        child.finish()
        _until(lambda: not _alive(grandchild))
        assert os.waitpid(bystander, os.WNOHANG) == (0, 0)
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_last_words_are_short_and_readable(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == ""
    log.write_text('first\n{"event": "start-failed", "message": "no weights", "code": "weights-unreadable"}\n')
    assert last_words(log) == "start-failed no weights weights-unreadable"
    log.write_text("x" * 10_000)
    assert len(last_words(log)) == 300


def test_the_policy_pins_every_reference_value() -> None:
    policy = Policy.load(policy_text(VALUES), "toml")
    assert policy.simulated_allowed
    assert policy.platforms == ("simulated",)
    assert policy.references.image_sha256 == ("a" * 64,)
    assert policy.references.rtmr3 == (VALUES.rtmr3,)
    assert set(policy.required_references) == {
        "mrtd",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "release",
        "image_sha256",
        "config_sha256",
        "weights_sha256",
    }


def test_what_is_pinned_is_what_a_node_measures(tmp_path: Path) -> None:
    """The one place where client code meets the enclave's: in a test, to hold the two to each other."""
    from teehouse_core.evidence.tdx import parse_quote
    from teehouse_enclave.engine.echo import ECHO_WEIGHTS_SHA256 as THEIRS
    from teehouse_enclave.node.config import NodeConfig
    from teehouse_enclave.platform.base import measure_workload
    from teehouse_enclave.platform.simulated import SimulatedPlatform

    assert ECHO_WEIGHTS_SHA256 == THEIRS
    config = node_config(
        name="node-0",
        endpoint="ep-1",
        engine={"kind": "echo", "name": "echo"},
        release="0.1.0",
        image_sha256="a" * 64,
        ready_file=tmp_path / "r",
    )
    path = tmp_path / "node.json"
    path.write_text(json.dumps(config))
    parsed = NodeConfig.parse(config)
    assert config_digest(path) == parsed.config_sha256
    values = ReferenceValues("0.1.0", "a" * 64, parsed.config_sha256, THEIRS, "echo")
    with pytest.warns(UserWarning, match="SIMULATED"):
        platform = SimulatedPlatform()
    measure_workload(
        platform,
        release=values.release,
        image_sha256=values.image_sha256,
        config_sha256=values.config_sha256,
        weights_sha256=values.weights_sha256,
        model=values.model,
    )
    report = parse_quote(platform.collect(bytes(64)).report).report
    references = Policy.load(policy_text(values), "toml").references
    assert references.rtmr3 == (report.rtmr[3].hex(),)
    assert references.mrtd == (report.mr_td.hex(),)
    assert [references.rtmr0[0], references.rtmr1[0], references.rtmr2[0]] == [r.hex() for r in report.rtmr[:3]]


def test_a_node_configuration_that_is_refused_is_told(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text("{}")
    with pytest.raises(LocalError) as caught:
        config_digest(path)
    assert caught.value.code == "config-refused"


def test_the_image_digest_is_of_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("teehouse_core", "teehouse_enclave"):
        folder = tmp_path / package
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "a.py").write_text("x = 1\n")
        (folder / "__pycache__" / "a.pyc").write_bytes(os.urandom(8))
    monkeypatch.setattr("teehouse.local.reference.wheel_folder", lambda name: tmp_path / name)
    first = image_digest()
    (tmp_path / "teehouse_core" / "__pycache__" / "b.pyc").write_bytes(os.urandom(8))
    assert image_digest() == first
    (tmp_path / "teehouse_enclave" / "a.py").write_text("x = 2\n")
    assert image_digest() != first
