# SPDX-License-Identifier: Apache-2.0
"""`teehouse audit` against the real key service, ledger and witnesses; then somebody edits the ledger's database."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support_keys import ORIGIN, Requester, World, python, running_world

from teehouse.audit.pins import Pins
from teehouse.cli import exits
from teehouse.cli.main import main
from teehouse_core.log.note import VerifierKey

WORK = 12  # releases asked for


@dataclass
class Scene:
    world: World
    tenant: str
    folder: Path
    token: str

    def audit(self, capsys: pytest.CaptureFixture[str], *arguments: object, state: str = "state") -> tuple[int, Any]:
        """Exit code and what was said, line by line where it is no single document."""
        where = ["--url", self.url] if arguments[0] != "verify" else []
        more = ["--pins", self.folder / "pins.json", "--state", self.folder / state, *where, "--json"]
        code = main([str(part) for part in ("audit", *arguments, *more)])
        said = capsys.readouterr().out
        try:
            return code, json.loads(said)
        except ValueError:
            return code, [json.loads(line) for line in said.splitlines()]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.world.ledger_port}/ledger/v1/tenant-{self.tenant}"

    @property
    def database(self) -> Path:
        return Path(self.world.database.removeprefix("sqlite:///"))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    folder = tmp_path / "world"
    folder.mkdir()
    with running_world(folder, witness_count=2, quorum=2) as world:
        tenant = world.new_tenant()
        world.new_ring(tenant, "data")
        world.new_key(tenant, "data", "disk")
        service, node = world.keyset(), Requester()
        with world.http() as http:
            for at in range(WORK):
                key = "disk" if at % 3 else "missing"
                node.ask(http, service, tenant=tenant, ring="data", key=key)
        command = [*python("teehouse_cloud.main"), "ledger", "token", "--db", world.database, "--json"]
        made = world._run(*command, "--log", f"tenant-{tenant}")
        token = str(json.loads(made)["token"])
        monkeypatch.setenv("TEEHOUSE_AUDIT_TOKEN", token)
        key = VerifierKey(f"{ORIGIN}/tenant/{tenant}", world.log_key.alg, world.log_key.key)
        (tmp_path / "pins.json").write_text(json.dumps(Pins((key,), world.policy).to_json()))
        yield Scene(world, tenant, tmp_path, token)


def test_an_auditor_needs_nobody(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Every decision is in the export, proven; the names are those of the admins; watch sees what comes next."""
    entries = scene.world.entries(scene.tenant)
    code, said = scene.audit(capsys, "export", scene.folder / "export")
    assert (code, said["entries"]) == (exits.OK, len(entries)), said
    assert said["checkpoint"]["operators"] == ["operator 0", "operator 1"]
    code, said = scene.audit(capsys, "verify", scene.folder / "export", state="elsewhere")
    assert (code, said["entries"], said["complete"]) == (exits.OK, len(entries), True)
    code, said = scene.audit(capsys, "list", "--op", "key.create")
    (names,) = [item["names"] for item in said["entries"]]
    assert names[0].startswith("Ada ")
    code, said = scene.audit(capsys, "show", said["entries"][0]["index"], "--save-proof", scene.folder / "x.tlog-proof")
    assert code == exits.OK
    assert scene.audit(capsys, "verify", scene.folder / "x.tlog-proof")[0] == exits.OK
    scene.world.new_key(scene.tenant, "data", "other", seq=2)
    code, said = scene.audit(capsys, "watch", "--once")
    assert code == exits.OK
    assert [(item["op"], item["key"]) for item in said if item["event"] == "entry"] == [("key.create", "other")]


def test_who_edits_the_database_is_caught(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert scene.audit(capsys, "watch", "--once")[0] == exits.OK
    with sqlite3.connect(scene.database) as database:
        row = database.execute(
            "SELECT rowid, leaf FROM ledger_entries e WHERE position = 4 AND log ="
            " (SELECT id FROM ledger_logs WHERE name = ?)",
            (f"tenant-{scene.tenant}",),
        ).fetchone()
        leaf = row[1].replace(b"key.release", b"key.destroy")
        assert leaf != row[1]
        database.execute("UPDATE ledger_entries SET leaf = ? WHERE rowid = ?", (leaf, row[0]))
    for command in (("export", scene.folder / "one"), ("list",)):
        code, said = scene.audit(capsys, *command)
        assert (code, said["error"]["code"], said["error"]["index"]) == (exits.REFUSED, "log-rewritten", 4)


def test_a_ledger_restored_from_a_backup_is_caught(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    world = scene.world
    world.ledger.stop()
    shutil.copy(scene.database, scene.folder / "backup.db")
    world.ledger.start()
    world.new_key(scene.tenant, "data", "later", seq=2)
    size = len(world.entries(scene.tenant))
    assert scene.audit(capsys, "watch", "--once")[0] == exits.OK
    world.keys.kill()
    world.ledger.stop()
    for path in scene.database.parent.glob(scene.database.name + "*"):
        path.unlink()
    shutil.copy(scene.folder / "backup.db", scene.database)
    world.ledger.start()
    code, said = scene.audit(capsys, "watch", "--once")
    assert (code, said["code"], said["index"]) == (exits.REFUSED, "log-rollback", size - 1)
