# SPDX-License-Identifier: Apache-2.0
"""A pool with every part as its own process: key service, ledger and gateway, two nodes; kills and restarts.

One of two nodes is killed and the other answers under the same key; then every process is killed and started again, and
the session goes on.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_platform import free_port

from teehouse.keys.admin import admin_of
from teehouse.keys.service import KeyService
from teehouse.session import Session
from teehouse.settings import Settings
from teehouse_core.appraise.checks_pool import pool_claims
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.policy_ledger import LedgerPolicy
from teehouse_core.appraise.policy_pool import PoolPolicy
from teehouse_core.appraise.policy_references import References
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.errors import TeehouseError
from teehouse_core.log.note import ED25519, VerifierKey
from teehouse_core.wire.canonical import b64u
from teehouse_core.wire.commands import AdminSet, tenant_id

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
ENDPOINT = "ep-20261101000000-pools"
EVALUATE = Policy.preset("evaluate")
QUESTION = json.dumps({"model": ENDPOINT, "messages": [{"role": "user", "content": "pooled"}]}).encode()
ORIGIN = "tks.test"


STARTED: list[Process] = []


class Process:
    """One process that is started, killed without warning, and started again with the same arguments."""

    def __init__(self, root: Path, name: str, command: list[str]) -> None:
        self._log = root / f"{name}.log"
        self._command = command
        self._ready = root / f"{name}.ready"
        STARTED.append(self)
        self.facts: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        self._ready.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log)
        until(self._look, lambda: self._log.read_text()[-3000:])
        self.facts = json.loads(self._ready.read_text())

    def _look(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-3000:]
        return self._ready.exists()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(done: Callable[[], Any], why: Callable[[], str] = str, seconds: float = 40) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, why()
        time.sleep(0.1)
    return found


def cloud(root: Path, *arguments: str) -> Any:
    command = [BIN / "teehouse-cloud", *arguments, "--db", f"sqlite:///{root / 'cloud.db'}", "--json"]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


class Platform:
    def __init__(self, root: Path) -> None:
        self.root = root
        made = cloud(root, "init")
        token = cloud(root, "ledger", "token", "--writer")["token"]
        self.api_key = cloud(root, "key", "create", "--label", "x", "--endpoint", ENDPOINT)["api_key"]
        gateway, self.tks_port = free_port(), free_port()
        self.url, self.tks_url = f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{self.tks_port}"
        cloud(root, "endpoint", "put", ENDPOINT, "--name", "pool")
        self.gateway = self.run(
            "cloud",
            *("teehouse-cloud", "serve", "--db", f"sqlite:///{root / 'cloud.db'}", "--port", str(gateway)),
            *("--ready-file", str(root / "cloud.ready")),
        )
        self.operator = made["operator_token"]
        self.tks = self.config(
            "keys",
            name="tks-1",
            release="test",
            image_sha256="ce" * 32,
            platform={"type": "simulated"},
            listen={"host": "127.0.0.1", "port": self.tks_port},
            origin=ORIGIN,
            root={"kind": "simulated", "path": str(root / "root.key")},
            journal={"kind": "sqlite", "path": str(root / "journal.db")},
            ledger={"url": self.url, "token": token},
            witnesses=[],
            quorum=0,
            publish={"policy": "evaluate"},
        )
        self.weights = ""
        self.tenant = self.make_pool()
        self.nodes = [self.node(name) for name in ("node-a", "node-b")]

    def run(self, name: str, program: str, *arguments: str) -> Process:
        return Process(self.root, name, [str(BIN / program), *arguments])

    def config(self, name: str, program: str = "", /, **document: Any) -> Process:
        path = self.root / f"{name}.json"
        path.write_text(json.dumps({**document, "ready_file": str(self.root / f"{name}.ready")}))
        return self.run(name, program or f"teehouse-{name}", "--config", str(path))

    def make_pool(self) -> str:
        """The tenant's own admin makes ring, key and pool; the platform could not."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from teehouse_enclave.engine.echo import ECHO_WEIGHTS_SHA256

        admin = Ed25519PrivateKey.generate()
        admins = AdminSet(1, (admin_of(admin, "owner"),)).to_json()
        args = {"admins": admins, "nonce": b64u(secrets.token_bytes(16)), "labels": {}}
        tenant = tenant_id(args)
        members = replace(
            EVALUATE, name="members", doors=(), references=References(weights_sha256=(ECHO_WEIGHTS_SHA256,))
        )
        self.release = ReleasePolicy("members-1", members, (ENDPOINT,))
        model, software, capabilities = pool_claims(members, "echo")
        with KeyService(self.tks_url, EVALUATE) as service:
            service.run(tenant, "", 1, "tenant.create", args, [admin])
            ring = {"ring": "sessions", "usage": "session", "admins": admins, "labels": {}}
            service.run(tenant, "", 2, "ring.create", ring, [admin])
            key = {
                "key": "pool",
                "algorithm": "mlkem768x25519",
                "exportable": False,
                "policy": b64u(self.release.encode()),
                "labels": {},
            }
            service.run(tenant, "sessions", 1, "key.create", key, [admin])
            pool = {
                "endpoint": ENDPOINT,
                "key": "pool",
                "active_seconds": 900,
                "overlap_seconds": 600,
                "model": {"name": model.name, "weights_sha256": model.weights_sha256},
                "software": {n: getattr(software, n) for n in ("release", "image_sha256", "config_sha256")},
                "capabilities": {n: getattr(capabilities, n) for n in ("egress", "content_logging", "moderation")},
            }
            service.run(tenant, "sessions", 2, "pool.create", pool, [admin])
        wish = json.dumps({"name": "pool", "tks_url": self.tks_url, "tks_tenant": tenant}).encode()
        self.call("PUT", f"/api/v1/endpoints/{ENDPOINT}", wish)
        return tenant

    def node(self, name: str) -> Process:
        process = self.config(
            name,
            "teehouse-node",
            endpoint=ENDPOINT,
            node=name,
            release="test",
            image_sha256="ab" * 32,
            engine={"kind": "echo", "name": "echo"},
            listen={"host": "127.0.0.1", "port": free_port()},
            key_service={"url": self.tks_url, "policy": {"base": "evaluate", "roles": ["key-service"]}},
            pool={"tenant": self.tenant, "ring": "sessions", "key": "pool", "poll_s": 1},
            ledger={"url": self.url, "every_s": 2},
        )
        wish = json.dumps({"endpoint": ENDPOINT, "url": process.facts["url"]}).encode()
        self.call("PUT", f"/api/v1/nodes/{name}", wish)
        return process

    def call(self, method: str, path: str, body: bytes) -> None:
        headers = {"Authorization": f"Bearer {self.operator}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=10):
            pass

    def wait_for_pool(self) -> None:
        """Until every node that lives holds the pool keyset that the key service publishes."""

        def held() -> bool:
            urls = [node.facts["url"] for node in self.nodes if node.process.poll() is None]
            keysets = [set(get_json(f"{url}/readyz")["keysets"]) for url in urls]
            return all(len(one) > 1 for one in keysets) and bool(set.intersection(*keysets))

        until(held, lambda: self.root.joinpath("node-a.log").read_text()[-2000:])
        time.sleep(1.5)  # the gateway asks nodes once a second

    def policy(self, **changes: Any) -> Policy:
        fields = {
            "roles": ("pool",),
            "pool": PoolPolicy((self.release.sha256,), False),
            "key_service": References(image_sha256=("ce" * 32,)),
        }
        return replace(EVALUATE, **{**fields, **changes})

    def session(self, **changes: Any) -> Session:
        settings = Settings.load(
            environ={},
            base_url=self.url,
            api_key=self.api_key,
            endpoint=ENDPOINT,
            policy=self.policy(**changes),
            state_dir=str(self.root / "state"),
        )
        return Session(settings)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    try:
        yield Platform(tmp_path_factory.mktemp("pool"))
    finally:
        for one in STARTED:
            if one.process.poll() is None:
                one.kill()


def ask(session: Session) -> Any:
    with session.request(None, "chat.completions", QUESTION) as answer:
        answer.read()
        return answer


def test_a_pool_lives_through_a_killed_node_and_a_restart_of_everything(platform: Platform) -> None:
    platform.wait_for_pool()
    with platform.session() as session:
        first = ask(session)
        assert first.accepted.keyset.role == "pool"
        assert first.accepted.tier == "simulated"
        platform.nodes[0].kill()
        signers = set()
        for _ in range(4):
            answer = ask(session)
            assert answer.keyset_sha256 == first.keyset_sha256
            signers.add(answer.receipt.receipt.kid)
        assert len(signers) == 1  # the one that is left
        for process in (platform.nodes[1], platform.tks, platform.gateway):
            process.kill()
        for process in (platform.gateway, platform.tks, *platform.nodes):
            process.start()
        platform.wait_for_pool()

        def again() -> Any:
            try:
                return ask(session)
            except TeehouseError:
                time.sleep(0.5)
                return None

        answer = until(again, lambda: platform.root.joinpath("keys.log").read_text()[-3000:])
        assert answer.accepted.keyset.role == "pool"
        assert answer.receipt.receipt.kid not in signers


def test_a_policy_without_the_opt_in_uses_nodes_own_keys(platform: Platform) -> None:
    with platform.session(roles=("node",)) as session:
        assert ask(session).accepted.keyset.role == "node"


def test_evidence_over_the_ledger_comes_with_its_inclusion_proof(platform: Platform) -> None:
    """Without witnesses it proves no age, and the verdict says so; everything else about it holds."""

    def log_key() -> str:
        with KeyService(platform.tks_url, EVALUATE) as service:
            key = service.accepted().keyset.sign[-1]
        return VerifierKey(f"{ORIGIN}/public", ED25519, key.pk).text

    pinned = LedgerPolicy(logs=(log_key(),), quorum=0)
    policy = replace(platform.policy(roles=("node",)), ledger=pinned, freshness_required=False)
    from teehouse_core.appraise.appraise import appraise

    def cached() -> bytes | None:
        url = f"{platform.nodes[1].facts['url']}/v1/evidence/cached"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return bytes(response.read())
        except OSError:
            return None

    bundle = until(cached, lambda: platform.root.joinpath("node-b.log").read_text()[-2000:])
    verdict = appraise(bundle, policy, int(time.time()), endpoint=ENDPOINT)
    states = {check.id: check.state for check in verdict.checks if check.id.startswith("ledger.")}
    assert verdict.result == "accepted", list(verdict.refusing)
    assert states["ledger.checkpoint"] == states["ledger.inclusion"] == "passed"
    assert states["ledger.quorum"] == "not-applicable"
    assert verdict.evidence_time is None
