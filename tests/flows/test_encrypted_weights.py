# SPDX-License-Identifier: Apache-2.0
"""Encrypted weights from a publisher's machine to an answer, every step as its user takes it.

`teehouse model encrypt` makes a data key, `teehouse keys import` puts it into a real key service under a release
policy, a `teehouse-node` gets it by attested release and answers; a node with another configuration never serves; and
`teehouse audit list` names both decisions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support_cli import call, done
from support_keys import ORIGIN, Process, World, python, running_world

from teehouse.audit.pins import Pins
from teehouse.session import Session
from teehouse.settings import Settings
from teehouse_core.errors import TeehouseError
from teehouse_core.log.note import VerifierKey

pytestmark = pytest.mark.slow

ENDPOINT = "ep-20261101000000-weights"
MODEL = "smollm2"
OTHER = {"key_active_s": 1800, "key_overlap_s": 300}  # limits that nobody's policy lists


@dataclass
class Scene:
    """A key service with one data key in it, and a folder of weights that open under it."""

    world: World
    folder: Path
    source: Path
    tenant: str = ""
    publisher: str = ""
    options: list[str] = field(default_factory=list)
    nodes: list[Process] = field(default_factory=list)

    @property
    def sealed(self) -> Path:
        return self.folder / "sealed"

    def publish(self) -> dict[str, Any]:
        """Tenant and ring, weights under a new data key, the policy, and the key into the service."""
        admin = self.folder / "ada.pem"
        done("keys", "admin", "new", admin, "--name", "ada")
        service = ["--tks", self.world.keys_url, "--policy", "evaluate", "--admin", str(admin)]
        self.tenant = done("keys", "tenant", "create", *service)["result"]["tenant"]
        self.options = [*service, "--tenant", self.tenant]
        done("keys", "ring", "create", "weights", "--usage", "model-encryption", *self.options)
        where = ("--tks", ORIGIN, "--tenant", self.tenant, "--ring", "weights", "--key", MODEL)
        keys = ("--new-key", self.folder / "data.key", "--new-sign-key", self.folder / "publisher.pem")
        made = done("model", "encrypt", self.source, "-o", self.sealed, "--name", MODEL, *keys, *where)
        self.publisher = made["publisher"]
        policy, release = self.folder / "nodes.toml", self.folder / "release.json"
        policy.write_text(
            'name = "nodes"\nbase = "evaluate"\n[references]\n'
            f'weights_sha256 = ["{made["weights_sha256"]}"]\nconfig_sha256 = ["{self.measure()}"]\n'
        )
        done("keys", "policy", "new", release, "--appraisal", policy, "--endpoint", ENDPOINT, "--name", "prod")
        data_key = ("--file", self.folder / "data.key", "--algorithm", "aes256")
        done("keys", "import", "weights", MODEL, *data_key, "--release", release, *self.options)
        return made

    def config(self, name: str, **changes: Any) -> Path:
        document = {
            "endpoint": ENDPOINT,
            "node": name,
            "release": "test",
            "image_sha256": "ab" * 32,
            "engine": {"kind": "llamacpp", "name": MODEL, "context": 512, "parallel": 1},
            "listen": {"host": "127.0.0.1", "port": 0},
            "ready_file": str(self.folder / f"{name}.ready"),
            "key_service": {"url": self.world.keys_url, "policy": {"base": "evaluate", "roles": ["key-service"]}},
            "weights": {"path": str(self.sealed), "publishers": [self.publisher], "allow_swap": True},
            **changes,
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document))
        return path

    def measure(self) -> str:
        """What a node measures to, as its operator tells whoever writes the policy."""
        command = [*python("teehouse_enclave.node.main"), "--config", str(self.config("measured")), "--measure"]
        told = subprocess.run(command, capture_output=True, check=True, timeout=60, env=self.world.environment)
        return str(json.loads(told.stdout)["config_sha256"])

    def node(self, name: str, **changes: Any) -> Process:
        command = [*python("teehouse_enclave.node.main"), "--config", self.config(name, **changes)]
        process = Process(self.folder, name, command, self.world.environment)
        self.nodes.append(process)
        process.launch()
        return process

    def refused(self, name: str, **changes: Any) -> list[dict[str, Any]]:
        """Start a node that must stop by itself without ever serving; returns the events of its log."""
        process = self.node(name, **changes)
        assert process.popen is not None
        assert process.popen.wait(timeout=120) == 1, process.log.read_text()
        assert not process.ready_file.exists()
        return events(process)

    def decisions(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str], str]]:
        """Each release as the tenant's own auditor sees it: node, decision, failed checks, policy."""
        log = f"tenant-{self.tenant}"
        made = self.world._run(
            *python("teehouse_cloud.main"), "ledger", "token", "--db", self.world.database, "--log", log, "--json"
        )
        monkeypatch.setenv("TEEHOUSE_AUDIT_TOKEN", json.loads(made)["token"])
        key = VerifierKey(f"{ORIGIN}/tenant/{self.tenant}", self.world.log_key.alg, self.world.log_key.key)
        pins = self.folder / "pins.json"
        pins.write_text(json.dumps(Pins((key,), self.world.policy).to_json()))
        url = f"http://127.0.0.1:{self.world.ledger_port}/ledger/v1/{log}"
        where = ("--url", url, "--pins", pins, "--state", self.folder / "audit")
        told = done("audit", "list", "--op", "key.release", *where)
        found = []
        for entry in told["entries"]:
            node = next(word for name in entry["names"] for word in name.split() if word.startswith("node-"))
            found.append((node, entry["decision"], entry["failed_checks"], entry["policy_sha256"]))
        return sorted(found)


def events(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]


def codes(said: list[dict[str, Any]], event: str) -> list[tuple[str, str]]:
    return [(one.get("code", ""), one.get("hint", "")) for one in said if one["event"] == event]


@contextlib.contextmanager
def running_scene(folder: Path, source: Path) -> Iterator[Scene]:
    (folder / "world").mkdir()
    with running_world(folder / "world") as world:
        scene = Scene(world, folder, source)
        try:
            yield scene
        finally:
            for node in scene.nodes:
                node.kill()


@pytest.fixture(autouse=True)
def nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No platform of this machine's user is found, and no setting."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("TEEHOUSE_TKS_URL", "TEEHOUSE_TENANT", "TEEHOUSE_ADMIN_KEY", "TEEHOUSE_ADMIN_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def model_path() -> Path:
    """SmolLM2-135M-Instruct, fetched as a user's machine fetches it."""
    from teehouse.local import catalogue, weights

    try:
        return weights.fetch(catalogue.find_model(catalogue.DEFAULT_MODEL))
    except TeehouseError as error:
        pytest.skip(f"missing model: the weights could not be fetched ({error.code})")


def test_only_the_configuration_that_the_policy_lists_gets_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model: the file is no GGUF, so the node that gets the key decrypts it and fails after that."""
    source, content = tmp_path / "m.gguf", b"GGUF" + secrets.token_bytes(3 << 20)
    source.write_bytes(content)
    with running_scene(tmp_path, source) as scene:
        scene.publish()
        right, other = scene.refused("node-right"), scene.refused("node-other", limits=OTHER)
        assert [one["event"] for one in right if one["event"] in ("weights", "start-failed")] == [
            "weights",
            "start-failed",
        ]
        assert codes(right, "start-failed")[0][0] != "tks-refused"
        assert codes(other, "start-failed") == [("tks-refused", "evidence-refused")]
        assert not [one for one in other if one["event"] == "weights"]

        # a key service that is not what the node's measured policy wants gets no evidence, so no decision is logged
        service = {"url": scene.world.keys_url, "policy": {"base": "strict", "roles": ["key-service"]}}
        assert codes(scene.refused("node-strict", key_service=service), "start-failed")[0][0] == "evidence-refused"

        digest = hashlib.sha256((tmp_path / "release.json").read_bytes()).hexdigest()
        assert scene.decisions(monkeypatch) == [
            ("node-other", "refused", ["workload.reference.config-sha256"], digest),
            ("node-right", "granted", [], digest),
        ]
        code, out, _ = call("keys", "dry-run", "weights", MODEL, *scene.options, "--json")
        would = {one["node"]: one["would_receive"] for one in json.loads(out)["results"]}
        assert (code, would) == (10, {"node-other": False, "node-right": True})

        done("keys", "disable", "weights", MODEL, *scene.options)
        assert codes(scene.refused("node-late"), "start-failed") == [("tks-refused", "wrong-state")]

        key = (tmp_path / "data.key").read_bytes()
        for path in (path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("data.key",)):
            data = path.read_bytes()
            assert key not in data, path
            assert path == source or content[64:128] not in data, path


@pytest.mark.model
def test_a_model_answers_from_weights_that_only_its_node_opens(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_scene(tmp_path, model_path) as scene:
        made = scene.publish()
        node = scene.node("node-right")
        ready = node.wait_ready()
        assert codes(scene.refused("node-other", limits=OTHER), "start-failed") == [("tks-refused", "evidence-refused")]
        assert [(name, decision) for name, decision, _, _ in scene.decisions(monkeypatch)] == [
            ("node-other", "refused"),
            ("node-right", "granted"),
        ]
        with session(scene, ready["url"]) as asked:
            body = {"model": ENDPOINT, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
            with asked.request(None, "chat.completions", json.dumps(body).encode()) as answer:
                said = json.loads(answer.read())
            assert said["choices"][0]["message"]["content"].strip()
            assert answer.accepted.keyset.model.weights_sha256 == made["weights_sha256"]
            assert answer.accepted.keyset.software.config_sha256 == scene.measure()
        assert node.stop() == 0


def session(scene: Scene, url: str) -> Session:
    """Through the gateway, which the ledger's process is as well."""
    gateway = f"http://127.0.0.1:{scene.world.ledger_port}"
    cloud = (*python("teehouse_cloud.main"), "{}", "--db", scene.world.database, "--json")

    def run(*arguments: str) -> dict[str, Any]:
        return dict(json.loads(scene.world._run(*cloud[:-4], *arguments, *cloud[-3:])))

    operator = run("init")["operator_token"]
    run("endpoint", "put", ENDPOINT, "--name", MODEL)
    api_key = run("key", "create", "--label", "test", "--endpoint", ENDPOINT)["api_key"]
    headers = {"Authorization": f"Bearer {operator}", "Content-Type": "application/json"}
    wish = json.dumps({"endpoint": ENDPOINT, "url": url}).encode()
    request = urllib.request.Request(f"{gateway}/api/v1/nodes/node-right", wish, headers, method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass
    settings = Settings.load(
        environ={},
        base_url=gateway,
        api_key=api_key,
        endpoint=ENDPOINT,
        policy="evaluate",
        state_dir=str(scene.folder / "state"),
    )
    return Session(settings)
