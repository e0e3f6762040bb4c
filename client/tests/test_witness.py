# SPDX-License-Identifier: Apache-2.0
"""`teehouse-witness` as a real process: what it signs, what it refuses, and that a kill makes it forget nothing."""

from __future__ import annotations

import json
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from witness_support import NAME, TKS, Log, WitnessProcess, first_of

from teehouse.witness.config import load_config
from teehouse.witness.trust import LogTrust, read_pair
from teehouse_core.errors import LocalError
from teehouse_core.log.merkle import EMPTY_ROOT
from teehouse_core.log.note import Note
from teehouse_core.log.signing import cosigner_key, log_key, verify_signature
from teehouse_core.log.witness import AddCheckpoint

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
BELOW = f"{TKS}={log_key(TKS, KEY.public_key()).text}"
SINGLE = log_key("single.example/log", KEY.public_key()).text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WitnessProcess]:
    """One running witness; each test has an origin of its own."""
    witness = WitnessProcess(tmp_path_factory.mktemp("witness"), "--log-prefix", BELOW, "--log", SINGLE)
    witness.start()
    yield witness
    witness.kill()


@pytest.fixture
def log() -> Log:
    return Log(KEY, f"{TKS}/tenant/{secrets.token_hex(4)}")


def fork_of(log: Log) -> Log:
    return Log(log.key, log.origin, "another story")


def test_signs_what_continues(shared: WitnessProcess, log: Log) -> None:
    started = int(time.time())
    times = []
    for old, size in ((0, 1), (1, 2), (2, 7), (7, 7), (7, 300), (300, 1024)):
        _, when = shared.cosigned(log.request(old, size))
        times.append(when)
    assert times == sorted(times)
    assert started <= times[0]
    newest = shared.newest(log.origin)
    assert (newest.size, newest.root) == (1024, log.root(1024))
    note = Note.parse(newest.note)
    assert verify_signature(note, log.vkey) is None
    assert verify_signature(note, shared.vkey) == times[-1]


def test_begins_at_any_size(shared: WitnessProcess, log: Log) -> None:
    assert shared.newest(log.origin).size == 0
    assert shared.newest(log.origin).root == EMPTY_ROOT
    assert shared.newest(log.origin).note == b""
    shared.cosigned(log.request(0, 0))
    shared.cosigned(log.request(0, 50))
    assert shared.newest(log.origin).size == 50


def test_says_which_size_it_knows(shared: WitnessProcess, log: Log) -> None:
    shared.cosigned(log.request(0, 20))
    for old, size in ((0, 20), (0, 30), (10, 30), (19, 20), (21, 30)):
        assert shared.add(log.request(old, size)) == (409, "text/x.tlog.size", b"20\n")


def test_a_rolled_back_log_is_not_signed(shared: WitnessProcess, log: Log) -> None:
    shared.cosigned(log.request(0, 20))
    restored = log.request(10, 15)  # its true past, told as news
    assert shared.add(restored) == (409, "text/x.tlog.size", b"20\n")
    status, _, body = shared.add(b"old 20\n\n" + log.note(15).to_bytes())
    assert (status, json.loads(body)["code"]) == (400, "malformed")
    assert shared.newest(log.origin).size == 20


def test_a_fork_is_not_signed_and_is_kept(shared: WitnessProcess, log: Log) -> None:
    fork = fork_of(log)
    shared.cosigned(log.request(0, 20))
    status, kind, body = shared.add(fork.request(20, 20))
    assert (status, kind, json.loads(body)["code"]) == (409, "application/problem+json", "fork")
    assert shared.add(fork.request(20, 20))[0] == 409
    for size in (21, 40):
        status, _, body = shared.add(fork.request(20, size))
        assert (status, json.loads(body)["code"]) == (422, "proof")
    mixed = AddCheckpoint(20, log.proof(20, 40), fork.note(40)).to_bytes()
    assert shared.add(mixed)[0] == 422
    assert shared.newest(log.origin).root == log.root(20)
    shared.cosigned(log.request(20, 40))
    shown = json.loads(shared.command("show", "--state", shared.state, "--json").stdout)
    (kept,) = [row for row in shown["forks"] if row["origin"] == log.origin]
    assert kept["size"] == 20
    assert "log-misbehaves" in shared.log()


@pytest.mark.parametrize("change", ["none", "short", "long", "flipped", "swapped", "for another size", "from zero"])
def test_wrong_proofs(shared: WitnessProcess, log: Log, change: str) -> None:
    if change == "from zero":
        request = log.request(0, 20, proof=log.proof(5, 20))
    else:
        shared.cosigned(log.request(0, 13))
        proof = log.proof(13, 40)
        request = log.request(
            13,
            40,
            proof={
                "none": (),
                "short": proof[:-1],
                "long": (*proof, proof[0]),
                "flipped": (bytes([proof[0][0] ^ 1]) + proof[0][1:], *proof[1:]),
                "swapped": (proof[1], proof[0], *proof[2:]),
                "for another size": log.proof(12, 40),
            }[change],
        )
    before = shared.newest(log.origin).size
    status, _, body = shared.add(request)
    assert (status, json.loads(body)["code"]) == (422, "proof")
    assert shared.newest(log.origin).size == before


def test_wrong_signatures(shared: WitnessProcess, log: Log) -> None:
    good = log.note(5)
    cut = good.signatures[0]
    flipped = type(cut)(cut.name, cut.key_id, bytes([cut.data[0] ^ 1]) + cut.data[1:])
    moved = Note(log.note(6).text, good.signatures)  # a signature of another size
    for note in (
        log.note(5, key=OTHER),
        log.note(5, name="somebody.example"),
        Note(good.text, (flipped,)),
        Note(good.text, (type(cut)(cut.name, bytes(4), cut.data),)),
        moved,
    ):
        status, _, body = shared.add(AddCheckpoint(0, (), note).to_bytes())
        assert (status, json.loads(body)["code"]) == (403, "log-signature")
    # a bad line beside a good one does no harm, and is not passed on
    shared.cosigned(AddCheckpoint(0, (), Note(good.text, (flipped, *good.signatures))).to_bytes())
    assert len(Note.parse(shared.newest(log.origin).note).signatures) == 2


def test_whose_logs(shared: WitnessProcess) -> None:
    for origin in ("tks.example.org/tenant/a", "tks.exampl", "other.example", "tks.examplf/x"):
        status, _, body = shared.add(Log(KEY, origin).request(0, 1))
        assert (status, json.loads(body)["code"]) == (404, "origin-unknown")
        assert shared.call("GET", f"/newest?origin={origin}&nonce={'A' * 43}")[0] == 404
    shared.cosigned(Log(KEY, "single.example/log").request(0, 1))
    assert shared.add(Log(KEY, "single.example/log/x").request(0, 1))[0] == 404
    # below a prefix the key may sign under its own name, too
    named = Log(KEY, f"{TKS}/public-{secrets.token_hex(4)}")
    shared.cosigned(named.request(0, 3, note=named.note(3, name=TKS)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0\n",
        b"old 0\n\n",
        b"old 00\n\n" + Log(KEY).note(1).to_bytes(),
        b"old -1\n\n" + Log(KEY).note(1).to_bytes(),
        b"new 0\n\n" + Log(KEY).note(1).to_bytes(),
        b"old 0\nAAAA\n\n" + Log(KEY).note(1).to_bytes(),
        b"old 0\n" + b"A" * 43 + b"=\n" * 64 + b"\n" + Log(KEY).note(1).to_bytes(),
        b"old 0\n\n" + Log(KEY).note(1).to_bytes() + b"\n",
        b"old 0\n\n" + Log(KEY).note(1).to_bytes().replace(b"\n", b"\r\n"),
        b"old 2\n\n" + Log(KEY).note(1).to_bytes(),
        b"\xff" * 100,
        b"old 0\n\n" + b"x" * 60_000,
    ],
)
def test_malformed_requests(shared: WitnessProcess, body: bytes) -> None:
    status, kind, answer = shared.add(body)
    assert (status, kind, json.loads(answer)["code"]) == (400, "application/problem+json", "malformed")


def test_bounds_and_paths(shared: WitnessProcess) -> None:
    assert shared.add(b"x" * 200_000)[0] == 413
    assert shared.call("GET", "/add-checkpoint")[0] == 405
    assert shared.call("POST", "/newest", b"")[0] == 405
    assert shared.call("GET", "/")[0] == 404
    assert shared.call("GET", "/healthz")[0] == 200
    nonce = "A" * 43
    for query in ("", f"origin={TKS}", f"nonce={nonce}", f"origin={TKS}&nonce=AA", f"origin={TKS}&nonce={nonce}&x=1"):
        assert shared.call("GET", f"/newest?{query}")[0] == 400
    assert shared.call("GET", f"/newest?origin={TKS}&origin={TKS}&nonce={nonce}")[0] == 400


def test_metrics(shared: WitnessProcess, log: Log) -> None:
    shared.cosigned(log.request(0, 3))
    shared.add(log.request(0, 3))
    _, kind, body = shared.call("GET", "/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    values = {}
    for line in body.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name] = float(value)
    assert values["teehouse_witness_cosigned_total"] >= 1
    assert values['teehouse_witness_refusals_total{reason="other-size"}'] >= 1
    assert values["teehouse_witness_origins"] >= 1
    assert log.origin not in body.decode()


def test_racing_requests_for_two_trees(shared: WitnessProcess, log: Log) -> None:
    """Of many trees of one size, exactly one is signed, whoever comes first; round after round."""
    stories = [log, *(Log(KEY, log.origin, f"story {i}") for i in range(5))]
    for _ in range(10):
        log_now = Log(KEY, f"{TKS}/tenant/{secrets.token_hex(4)}")
        stories = [log_now, *(Log(KEY, log_now.origin, f"story {i}") for i in range(5))]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(shared.add, [story.request(0, 9) for story in stories] * 2))
        signed = {i % 6 for i, answer in enumerate(answers) if answer[0] == 200}
        assert len(signed) == 1
        assert set(first_of(answers)) == {200, 409}
        assert shared.newest(log_now.origin).root == stories[signed.pop()].root(9)


def test_racing_sizes_never_go_back(shared: WitnessProcess, log: Log) -> None:
    shared.cosigned(log.request(0, 10))
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(shared.add, [log.request(10, size) for size in range(11, 35)]))
    assert first_of(answers) == [200] + [409] * 23


def test_two_processes_on_one_state(tmp_path: Path) -> None:
    """A second one started by mistake takes turns with the first: still one tree for each size."""
    one = WitnessProcess(tmp_path, "--log-prefix", BELOW)
    two = WitnessProcess(tmp_path, "--log-prefix", BELOW)
    two.ready = tmp_path / "ready2.json"
    one.start()
    two.start()
    try:
        for i in range(8):
            log = Log(KEY, f"{TKS}/tenant/{i}")
            fork = fork_of(log)
            with ThreadPoolExecutor(4) as pool:
                jobs = [(w, s) for w in (one, two) for s in (log, fork)]
                answers = list(pool.map(lambda job: job[0].add(job[1].request(0, 5)), jobs))
            assert set(first_of(answers)) == {200, 409}
            signed = {story.root(5) for (_, story), answer in zip(jobs, answers, strict=True) if answer[0] == 200}
            assert len(signed) == 1
            assert {one.newest(log.origin).root, two.newest(log.origin).root} == signed
    finally:
        one.kill()
        two.kill()


def test_killed_at_any_moment_it_keeps_what_it_answered(tmp_path: Path) -> None:
    """SIGKILL under load, again and again: no answered size is forgotten, no second tree is ever signed."""
    witness = WitnessProcess(tmp_path, "--log-prefix", BELOW)
    logs = [Log(KEY, f"{TKS}/tenant/{i}") for i in range(4)]
    for log in logs:
        log.grow(4000)
    answered = dict.fromkeys(range(4), 0)
    tried = dict.fromkeys(range(4), 0)
    try:
        for _ in range(12):
            witness.start()
            stop = threading.Event()

            def load(i: int, stop: threading.Event = stop) -> None:
                connection = witness.connect()
                size = witness.newest(logs[i].origin).size
                try:
                    while not stop.is_set() and size < 3990:
                        tried[i] = size + 1 + secrets.randbelow(3)
                        connection.request("POST", "/add-checkpoint", logs[i].request(size, tried[i]))
                        response = connection.getresponse()
                        response.read()
                        assert response.status == 200
                        size = answered[i] = tried[i]
                except OSError:
                    pass  # killed
                finally:
                    connection.close()

            with ThreadPoolExecutor(4) as pool:
                running = [pool.submit(load, i) for i in range(4)]
                time.sleep(0.05 + secrets.randbelow(250) / 1000)
                witness.kill()
                stop.set()
                for job in running:
                    try:
                        job.result(20)
                    except Exception as error:
                        if not isinstance(error, OSError) and type(error).__module__ != "http.client":
                            raise
            witness.start()
            for i, log in enumerate(logs):
                newest = witness.newest(log.origin)
                assert answered[i] <= newest.size <= max(answered[i], tried[i])
                assert newest.root == log.root(newest.size)
                if newest.size:
                    assert witness.add(fork_of(log).request(newest.size, newest.size))[0] == 409
                answered[i] = newest.size
            witness.kill()
        assert all(answered.values())
    finally:
        witness.kill()


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """What cannot be stored is not signed; with room again the witness goes on from what it stored."""
    witness = WitnessProcess(tmp_path, "--log-prefix", BELOW, file_limit=192 * 1024)
    witness.start()
    try:
        logs = [Log(KEY, f"{TKS}/tenant/{i}") for i in range(3)]
        size, refused = 0, b""
        while not refused:
            size += 1
            assert size < 2000, "the limit never bit"
            for log in logs:
                status, _, body = witness.add(log.request(size - 1, size))
                if status != 200:
                    assert status == 503
                    refused = body
                    break
                log_size = size
        assert json.loads(refused)["code"] in ("state", "state-full")
        assert log_size
    finally:
        witness.kill()
    witness.lift_limit()
    witness.start()
    try:
        for log in logs:
            newest = witness.newest(log.origin)
            assert newest.size in (size - 1, size)
            witness.cosigned(log.request(newest.size, size + 5))
    finally:
        witness.kill()


def test_files_and_signals(tmp_path: Path) -> None:
    witness = WitnessProcess(tmp_path, "--log-prefix", BELOW)
    assert stat.S_IMODE(witness.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(witness.state.stat().st_mode) == 0o600
    witness.start()
    facts = json.loads(witness.ready.read_text())
    assert (facts["version"], facts["name"], facts["vkey"]) == (1, NAME, witness.vkey.text)
    witness.cosigned(Log(KEY).request(0, 3))
    assert witness.terminate() == 0
    assert not witness.ready.exists()
    secret = witness.key.read_text().rsplit("+", 1)[1].strip()
    assert secret not in witness.log()
    for line in witness.log().splitlines():
        json.loads(line)
    for again in (witness.key, tmp_path / "new.key"):
        done = witness.command("init", "--key", again, "--state", witness.state, "--name", NAME)
        assert done.returncode == 2
        assert "exists already" in done.stderr
    assert not (tmp_path / "new.key").exists()


@pytest.mark.parametrize("how", ["no state", "other state", "open key", "no key", "broken key", "no log", "listen"])
def test_what_it_does_not_start_with(tmp_path: Path, how: str) -> None:
    witness = WitnessProcess(tmp_path)
    options = ["--key", witness.key, "--state", witness.state, "--log-prefix", BELOW, "--listen", "127.0.0.1:0"]
    if how == "no state":  # gone, with all it had signed: it must not begin anew by itself
        witness.state.unlink()
    elif how == "other state":
        other = tmp_path / "other"
        other.mkdir()
        options[3] = WitnessProcess(other).state
    elif how == "open key":
        witness.key.chmod(0o640)
    elif how == "no key":
        witness.key.unlink()
    elif how == "broken key":
        text = witness.key.read_text()
        witness.key.write_text(text.replace("+w", "+v") if "+w" in text else text.replace(NAME, "other"))
    elif how == "no log":
        del options[4:6]
    else:
        options[-1] = "127.0.0.1:99999"
    done = witness.command("serve", *options)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("teehouse-witness: ")
    assert "Traceback" not in done.stderr
    assert not (how == "no state" and witness.state.exists())
    assert "hint:" in done.stderr or how == "broken key"


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "witness.json"
    document = {
        "key": "w.key",
        "state": os.fspath(tmp_path / "elsewhere" / "w.db"),
        "listen": "[::1]:0",
        "logs": [{"origin": "a.example", "vkey": SINGLE}],
        "log_prefixes": [{"prefix": f"{TKS}/", "vkey": SINGLE}],
        "max_origins": 3,
    }
    path.write_text(json.dumps(document))
    flags = {"key": None, "state": None, "listen": None, "logs": [BELOW], "prefixes": [], "ready_file": None}
    config = load_config(path, **flags)
    assert (config.key, config.state) == (tmp_path / "w.key", tmp_path / "elsewhere" / "w.db")
    assert (config.host, config.port, config.max_origins) == ("::1", 0, 3)
    assert set(config.trust.logs) == {"a.example", TKS}
    assert config.trust.keys_for(f"{TKS}/x")
    assert not config.trust.keys_for("a.example/x")
    for change in ({"more": 1}, {"key": 1}, {"logs": [{"origin": "a", "vkey": "nonsense"}]}, {"max_origins": 0}):
        path.write_text(json.dumps(document | change))
        with pytest.raises(LocalError) as caught:
            load_config(path, **flags)
        assert caught.value.code == "config"
    for text in ("nonsense", "a=b", BELOW + "x"):
        with pytest.raises(LocalError):
            read_pair(text)
    assert read_pair(SINGLE)[0] == "single.example/log"
    with pytest.raises(LocalError):
        LogTrust.of([("a", cosigner_key("a", KEY.public_key()))], [])


def test_logs_by_prefix_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"max_origins": 2}))
    witness = WitnessProcess(tmp_path, "--log-prefix", BELOW, "--config", str(path))
    witness.start()
    try:
        logs = [Log(KEY, f"{TKS}/tenant/{i}") for i in range(3)]
        witness.cosigned(logs[0].request(0, 1))
        witness.cosigned(logs[1].request(0, 1))
        status, _, body = witness.add(logs[2].request(0, 1))
        assert (status, json.loads(body)["code"]) == (507, "origin-limit")
        witness.cosigned(logs[0].request(1, 2))
    finally:
        witness.kill()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    from teehouse.witness.main import main

    for argv in (["--help"], ["serve", "--help"], ["init", "--help"], ["show", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 0
        assert "usage: teehouse-witness" in capsys.readouterr().out
