# SPDX-License-Identifier: Apache-2.0
"""The key service with its surroundings, all of them real processes: ledger, witnesses, `teehouse-keys`; and a node.

Every process may be killed and started again where it was. `World.command` speaks for admins, `Requester` for a node on
a SIMULATED machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.appraise.appraise import appraise
from teehouse_core.appraise.policy import Policy
from teehouse_core.evidence.bundle import CHALLENGE_KEY_RELEASE, build_bundle
from teehouse_core.log.checkpoint import Checkpoint
from teehouse_core.log.entry import AuditEntry
from teehouse_core.log.merkle import Frontier, leaf_hash
from teehouse_core.log.note import Note, VerifierKey
from teehouse_core.log.quorum import Witness, WitnessPolicy
from teehouse_core.log.signing import verify_signature
from teehouse_core.seal.commands import seal_import, sign_command
from teehouse_core.seal.grant import open_grant
from teehouse_core.seal.suite import SealingKey, generate_key
from teehouse_core.wire.binding import challenge as challenge_digest
from teehouse_core.wire.binding import devices_digest, report_data
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.commands import AdminKey, AdminSet, Command, CommandRequest, build_command, tenant_id
from teehouse_core.wire.grant import Grant, Release, ReleaseAnswer, ReleaseRequest, challenge_value, parse_challenge
from teehouse_core.wire.keyset import (
    Capabilities,
    HpkeKey,
    Keyset,
    Model,
    SignKey,
    Software,
    build_keyset,
    key_id,
)
from teehouse_enclave.keys.algorithms import read_key_bytes
from teehouse_enclave.keys.policy import ReleasePolicy
from teehouse_enclave.platform.base import InsecurePlatformWarning, measure_workload
from teehouse_enclave.platform.simulated import SimulatedPlatform

ENDPOINT = "ep-20260101000000-tests"
ORIGIN = "tks.example"
START_SECONDS = 60.0
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # all is loopback; making a context costs more than a call
NOTHING_SEALED = {"hpke_kid": "", "payload_sha256": "", "public_sha256": ""}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def evaluate_policy(name: str = "all-nodes", *endpoints: str) -> ReleasePolicy:
    return ReleasePolicy.build(
        id=name, appraisal=Policy.preset("evaluate"), roles=("node",), endpoints=endpoints or (ENDPOINT,)
    )


POOL_APPRAISAL = {"base": "evaluate", "doors": [], "references": {"weights_sha256": ["cc" * 32]}}
POOL_POLICY = ReleasePolicy.build(
    id="pool", appraisal=Policy.load(json.dumps(POOL_APPRAISAL), "json"), roles=("node",), endpoints=(ENDPOINT,)
)


def pool_args() -> dict[str, Any]:
    """A pool for `ENDPOINT` over the key `pool`."""
    return {
        "endpoint": ENDPOINT,
        "key": "pool",
        "active_seconds": 60,
        "overlap_seconds": 60,
        "model": {"name": "tiny", "weights_sha256": "cc" * 32},
        "software": {"release": "1", "image_sha256": "aa" * 32, "config_sha256": "bb" * 32},
        "capabilities": {"egress": "none", "content_logging": "none", "moderation": "none"},
    }


class Process:
    """One command that writes a ready file; started, stopped, killed, started again."""

    def __init__(self, folder: Path, name: str, command: Sequence[object], environment: Mapping[str, str]) -> None:
        self.log = folder / f"{name}.log"
        self.ready_file = folder / f"{name}.ready"
        self._command = [str(part) for part in command]
        self._environment = dict(environment)
        self.popen: subprocess.Popen[bytes] | None = None

    def launch(self, **environment: str) -> subprocess.Popen[bytes]:
        self.ready_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self._command, stdout=log, stderr=log, env={**self._environment, **environment}
            )
        return self.popen

    def wait_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + START_SECONDS
        while not self.ready_file.exists():
            assert self.popen is not None
            assert self.popen.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.01)
        return dict(json.loads(self.ready_file.read_text()))

    def start(self, **environment: str) -> dict[str, Any]:
        self.launch(**environment)
        return self.wait_ready()

    def stop(self) -> int:
        assert self.popen is not None
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=40)

    def kill(self) -> None:
        if self.popen is not None and self.popen.poll() is None:
            self.popen.kill()
        if self.popen is not None:
            self.popen.wait(timeout=20)

    @property
    def alive(self) -> bool:
        return self.popen is not None and self.popen.poll() is None


def python(module: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", module]


@dataclass
class World:
    """A ledger, witnesses, and a key service in one folder. `keys` is the key service."""

    folder: Path
    quorum: int = 1
    witness_count: int = 1
    journal: str = "sqlite"
    limits: dict[str, int] = field(default_factory=dict)
    publish: dict[str, Any] = field(default_factory=dict)
    database: str = ""
    keys_command: list[str] = field(default_factory=lambda: python("teehouse_enclave.keys.main"))
    own_bytecode: bool = True  # compile every module anew in `folder`; a bench has no time for that
    keys_url: str = ""
    witnesses: list[Process] = field(default_factory=list)
    vkeys: list[VerifierKey] = field(default_factory=list)
    admin: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("TEEHOUSE_")}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if self.own_bytecode:
            self.environment["PYTHONPYCACHEPREFIX"] = str(self.folder / "pycache")
        self.ledger_port = free_port()
        self.database = self.database or f"sqlite:///{self.folder}/ledger.db"
        run = [*python("teehouse_cloud.main")]
        self._run(*run, "migrate", "--db", self.database)
        made = self._run(*run, "ledger", "token", "--db", self.database, "--writer", "--label", "tks", "--json")
        self.writer_token = str(json.loads(made)["token"])
        self.ledger = Process(
            self.folder,
            "ledger",
            [
                *(*run, "serve", "--db", self.database, "--port", self.ledger_port, "--ledger-rpm", 10**6),
                *("--ready-file", self.folder / "ledger.ready"),
            ],
            self.environment,
        )
        self.ports = [free_port() for _ in range(self.witness_count)]
        for at in range(self.witness_count):
            made = self._run(
                *python("teehouse.witness.main"),
                *("init", "--key", self.folder / f"w{at}.key", "--state", self.folder / f"w{at}.db"),
                *("--name", f"witness{at}.example/w", "--json"),
            )
            self.vkeys.append(VerifierKey.parse(json.loads(made)["vkey"]))
        self.config_file = self.folder / "keys.json"
        self.write_config()
        self.keys = Process(self.folder, "keys", [*self.keys_command, "--config", self.config_file], self.environment)
        if self.journal == "ledger":  # the root key's sealed form lies there too
            self.ledger.start()
        told = self._run(*python("teehouse_enclave.keys.main"), "--config", self.config_file, "--log-key")
        self.log_key = VerifierKey.parse(json.loads(told)["vkey"])
        for at, port in enumerate(self.ports):
            command = [*python("teehouse.witness.main"), "serve", "--listen", f"127.0.0.1:{port}"]
            command += ["--key", str(self.folder / f"w{at}.key"), "--state", str(self.folder / f"w{at}.db")]
            command += [
                "--log-prefix",
                f"{ORIGIN}={self.log_key.text}",
                "--ready-file",
                str(self.folder / f"w{at}.ready"),
            ]
            self.witnesses.append(Process(self.folder, f"w{at}", command, self.environment))

    def _run(self, *command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=60, env=self.environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def config(self) -> dict[str, Any]:
        journal = (
            {"kind": "sqlite", "path": str(self.folder / "journal.db")}
            if self.journal == "sqlite"
            else {"kind": "ledger"}
        )
        return {
            "name": "tks-1",
            "release": "test",
            "image_sha256": "ab" * 32,
            "platform": {"type": "simulated"},
            "listen": {"host": "127.0.0.1", "port": 0},
            "ready_file": str(self.folder / "keys.ready"),
            "origin": ORIGIN,
            "root": {"kind": "simulated", "path": str(self.folder / "root.key")},
            "journal": journal,
            "ledger": {"url": f"http://127.0.0.1:{self.ledger_port}", "token": self.writer_token},
            "witnesses": [
                {"name": key.name, "vkey": key.text, "url": f"http://127.0.0.1:{port}", "operator": f"operator {at}"}
                for at, (key, port) in enumerate(zip(self.vkeys, self.ports, strict=True))
            ],
            "quorum": self.quorum,
            "limits": self.limits,
            "publish": self.publish,
        }

    def write_config(self) -> None:
        self.config_file.write_text(json.dumps(self.config()))

    @property
    def policy(self) -> WitnessPolicy:
        witnesses = tuple(Witness(key.name, key, f"operator {at}") for at, key in enumerate(self.vkeys))
        return WitnessPolicy(witnesses, self.quorum)

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        for process in (self.ledger, *self.witnesses):
            if not process.alive:
                process.launch()
        for process in (self.ledger, *self.witnesses):
            process.wait_ready()
        self.start_keys()

    def start_keys(self, **environment: str) -> None:
        self.keys_url = str(self.keys.start(**environment)["url"])

    def close(self) -> None:
        for process in (self.keys, *self.witnesses, self.ledger):
            process.kill()

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.keys_url, timeout=40, trust_env=False, verify=NO_TLS)

    # ── admins ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def admins(self) -> AdminSet:
        return AdminSet(1, (AdminKey(self.admin.public_key().public_bytes_raw(), "Ada"),))

    def keyset(self) -> Keyset:
        """The service's keyset, appraised."""
        nonce = secrets.token_bytes(32)
        with self.http() as http:
            bundle = http.get("/v1/evidence", params={"challenge": b64u(nonce)}).content
        policy = Policy.preset("evaluate").for_key_service()
        return appraise(bundle, policy, int(time.time()), endpoint="", nonce=nonce).accept().keyset

    def command(
        self,
        tenant: str,
        ring: str,
        seq: int,
        op: str,
        args: Mapping[str, Any],
        *,
        payload: bytes = b"",
        keyset: Keyset | None = None,
    ) -> CommandRequest:
        raw = build_command(
            tks_keyset_sha256=(keyset or self.keyset()).sha256,
            tenant=tenant,
            ring=ring,
            seq=seq,
            op=op,
            args=args,
            expires_at=int(time.time()) + 300,
        )
        return CommandRequest(Command.parse(raw), (sign_command(raw, self.admin),), payload)

    def send(self, request: CommandRequest) -> httpx2.Response:
        with self.http() as http:
            return http.post("/v1/commands", json=request.to_json())

    def do(self, tenant: str, ring: str, seq: int, op: str, args: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        response = self.send(self.command(tenant, ring, seq, op, args, **how))
        assert response.status_code == 200, response.text
        return dict(response.json())

    def read(self, tenant: str) -> dict[str, Any]:
        return dict(self.do(tenant, "", 0, "state.read", {})["result"])

    def new_tenant(self) -> str:
        args = {"admins": self.admins.to_json(), "nonce": b64u(secrets.token_bytes(16)), "labels": {}}
        tenant = tenant_id(args)
        self.do(tenant, "", 1, "tenant.create", args)
        return tenant

    def new_ring(self, tenant: str, ring: str, usage: str = "data", seq: int = 2) -> None:
        self.do(tenant, "", seq, "ring.create", self.ring_args(ring, usage))

    def ring_args(self, ring: str, usage: str = "data") -> dict[str, Any]:
        return {"ring": ring, "usage": usage, "admins": self.admins.to_json(), "labels": {}}

    def new_key(self, tenant: str, ring: str, key: str, seq: int = 1, **parts: Any) -> None:
        """`parts`: `algorithm`, `policy` (a ReleasePolicy), and members of the command's arguments."""
        self.do(tenant, ring, seq, "key.create", key_args(key, **parts))

    def import_args(
        self, tenant: str, ring: str, key: str, secret: bytes, keyset: Keyset
    ) -> tuple[dict[str, Any], bytes]:
        """Arguments of `key.import` or the sealed part of a rotation, and the payload."""
        to = keyset.hpke[0]
        payload = seal_import(to, secret, tenant=tenant, ring=ring, name=key, algorithm="aes256")
        sealed = {
            "hpke_kid": to.kid,
            "payload_sha256": hashlib.sha256(payload).hexdigest(),
            "public_sha256": read_key_bytes("aes256", secret).public_sha256,
        }
        return {**key_args(key), **sealed}, payload

    # ── the log, as an auditor sees it ───────────────────────────────────────────────────────────────────────────

    def _ledger(self) -> httpx2.Client:
        headers = {"authorization": f"Bearer {self.writer_token}"}
        url = f"http://127.0.0.1:{self.ledger_port}"
        return httpx2.Client(base_url=url, headers=headers, timeout=30, trust_env=False, verify=NO_TLS)

    def records(self, log: str) -> list[dict[str, Any]]:
        return self.records_from(log, 0)

    def records_from(self, log: str, first: int) -> list[dict[str, Any]]:
        """Rows of the ledger from index `first` on."""
        found: list[dict[str, Any]] = []
        headers = {"authorization": f"Bearer {self.writer_token}"}
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{self.ledger_port}", headers=headers, timeout=30, verify=NO_TLS
        ) as http:
            while True:
                page = http.get(f"/ledger/v1/{log}/records", params={"after": first + len(found), "limit": 1000})
                if page.status_code == 404:
                    return []
                assert page.status_code == 200, page.text
                rows = page.json()["records"]
                found += rows
                if not rows:
                    return found

    def checkpoint(self, log: str) -> Note:
        headers = {"authorization": f"Bearer {self.writer_token}"}
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{self.ledger_port}", headers=headers, timeout=30, verify=NO_TLS
        ) as http:
            answer = http.get(f"/ledger/v1/{log}/checkpoint")
        assert answer.status_code == 200, answer.text
        return Note.parse(answer.content)

    def check_note(self, tenant: str, note: Note) -> Checkpoint:
        """Signed by the log, and by the quorum."""
        origin = f"{ORIGIN}/tenant/{tenant}"
        verify_signature(note, VerifierKey(origin, self.log_key.alg, self.log_key.key))
        self.policy.require(note)
        checkpoint = Checkpoint.parse(note.text)
        assert checkpoint.origin == origin
        return checkpoint

    def entries(self, tenant: str) -> list[AuditEntry]:
        """All entries of the tenant's log, proven to be the tree of its cosigned checkpoint."""
        log = f"tenant-{tenant}"
        note = self.checkpoint(log)
        leaves = [unb64u(row["leaf"]) for row in self.records(log)]
        checkpoint = self.check_note(tenant, note)
        covered = leaves[: checkpoint.size]
        assert len(covered) == checkpoint.size
        assert Frontier.empty().extend([leaf_hash(leaf) for leaf in covered]).root() == checkpoint.root
        entries = [AuditEntry.parse(leaf) for leaf in leaves]
        assert len({entry.id for entry in entries}) == len(entries), "an entry stands twice"
        return entries


def key_args(key: str, algorithm: str = "aes256", policy: ReleasePolicy | None = None, **parts: Any) -> dict[str, Any]:
    raw = (policy or evaluate_policy()).raw
    return {"key": key, "algorithm": algorithm, "exportable": False, "policy": b64u(raw), "labels": {}, **parts}


def rotate_args(key: str, overlap: int = 600, **parts: Any) -> dict[str, Any]:
    return {"key": key, "overlap_seconds": overlap, "keep_old": False, **NOTHING_SEALED, **parts}


@dataclass
class Outcome:
    """What a requester saw."""

    status: int
    code: str  # of the problem, "granted" for none
    request_sha256: str
    evidence_sha256: str
    failed: tuple[str, ...] = ()
    entry: dict[str, Any] | None = None
    grant: Grant | None = None
    key: bytes = field(default=b"", repr=False)
    answer: ReleaseAnswer | None = None


class Requester:
    """A node on a SIMULATED machine that asks for keys. Attributes may be changed to make its evidence wrong."""

    def __init__(self, endpoint: str = ENDPOINT, node: str = "node-1") -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecurePlatformWarning)
            self.platform = SimulatedPlatform()
        self.endpoint = endpoint
        self.node = node
        self.software = Software("1", "aa" * 32, "bb" * 32)
        self.model = Model("tiny", "cc" * 32)
        self.capabilities = Capabilities("none", "none", "none", ())
        measure_workload(
            self.platform,
            release=self.software.release,
            image_sha256=self.software.image_sha256,
            config_sha256=self.software.config_sha256,
            weights_sha256=self.model.weights_sha256,
            model=self.model.name,
        )
        self.sign = Ed25519PrivateKey.generate()

    def keyset(self, one_time: SealingKey, **changes: Any) -> Keyset:
        now = int(time.time())
        pk = self.sign.public_key().public_bytes_raw()
        fields: dict[str, Any] = {
            "role": "node",
            "endpoint": self.endpoint,
            "node": self.node,
            "hpke": [HpkeKey(key_id(one_time.suite, one_time.pk), one_time.suite, one_time.pk, now, now + 300)],
            "sign": [SignKey(key_id("ed25519", pk), "ed25519", pk)],
            "model": self.model,
            "software": self.software,
            "capabilities": self.capabilities,
            "not_before": now,
            "not_after": now + 300,
        }
        return Keyset.parse(build_keyset(**{**fields, **changes}))

    def bundle(self, keyset: Keyset, value: bytes, kind: int = CHALLENGE_KEY_RELEASE) -> bytes:
        data = report_data(keyset.digest, devices_digest([]), challenge_digest(kind, value))
        evidence = self.platform.collect(data)
        return build_bundle(
            endpoint=keyset.endpoint,
            node=keyset.node,
            keyset=keyset.raw,
            challenge_kind=kind,
            challenge_value=value,
            platform_type=self.platform.type,
            report=evidence.report,
            workload_log=self.platform.workload_log(),
            collateral=evidence.collateral,
            event_log=evidence.event_log,
            aux=evidence.aux,
        )

    def ask(
        self,
        http: httpx2.Client,
        service: Keyset,
        *,
        tenant: str,
        ring: str,
        key: str,
        version: str = "1",
        pool: str = "",
        changes: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """One whole release against an appraised `service`. Raises httpx2.HTTPError when it dies meanwhile."""
        named, drawn = parse_challenge(http.post("/v1/release/challenge").content)
        assert named == service.sha256
        one_time = generate_key()
        keyset = self.keyset(one_time, **(changes or {}))
        bundle = self.bundle(keyset, challenge_value(service.digest, drawn))
        request = ReleaseRequest(service.sha256, tenant, ring, key, version, pool).encode()
        return self.send(http, service, request, keyset, bundle, one_time)

    def send(
        self,
        http: httpx2.Client,
        service: Keyset,
        request: bytes,
        keyset: Keyset,
        bundle: bytes,
        one_time: SealingKey,
    ) -> Outcome:
        response = http.post("/v1/release", content=Release(request, bundle).encode())
        outcome = Outcome(
            response.status_code, "granted", hashlib.sha256(request).hexdigest(), hashlib.sha256(bundle).hexdigest()
        )
        if response.status_code != 200:
            problem = response.json()
            outcome.code = problem["code"]
            outcome.failed = tuple(check["id"] for check in problem.get("failed_checks", []))
            outcome.entry = problem.get("entry")
            return outcome
        outcome.answer = ReleaseAnswer.parse(response.content)
        outcome.grant, outcome.key = open_grant(
            outcome.answer,
            request=request,
            requester_keyset=keyset,
            evidence_sha256=outcome.evidence_sha256,
            key_service=service,
            one_time=one_time,
            now=int(time.time()),
            digest_of=lambda algorithm, data: read_key_bytes(algorithm, data).public_sha256,
        )
        outcome.entry = outcome.grant.log.to_json()
        return outcome


@contextlib.contextmanager
def running_world(folder: Path, **how: Any) -> Iterator[World]:
    world = World(folder, **how)
    try:
        world.start()
        yield world
    finally:
        world.close()
