# SPDX-License-Identifier: Apache-2.0
"""`teehouse up` with its key service, driven by nothing but the ready file: existing clients, own commands, the log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support_platform import TEEHOUSE, Platform, running_platform
from support_tks import Official, OfficialError, StandInAgent


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("up"), "--engine", "echo") as found:
        yield found


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Official]:
    agent = StandInAgent()
    found = Official(agent, tmp_path_factory.mktemp("official"))
    yield found
    found.close()
    agent.close()


def cli(platform: Platform, *arguments: object, **environment: str) -> dict[str, Any]:
    """A command's JSON; fails with what it said unless it ended well."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TEEHOUSE_")}
    clean |= {"XDG_STATE_HOME": str(platform.root.parent / "state"), **environment}
    done = subprocess.run(
        [str(TEEHOUSE), *map(str, arguments), "--json"],
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("way", ["tks_url", "tks_gateway"])
def test_an_existing_client_exports_a_key_and_finds_it_in_the_log(
    platform: Platform, official: Official, way: str
) -> None:
    ready = platform.ready

    def settings(account: str, pair: str) -> dict[str, Any]:
        top = {"ak": ready[f"{pair}access_key"], "sk": ready[f"{pair}secret_key"], "service": "pcc", "use_tls": False}
        addr = ready[way].removeprefix("http://") if way == "tks_gateway" else ready[way]
        return {"app_id": account, "addr": addr, "top_config": top if way == "tks_gateway" else None}

    def ask(call: str, account: str = "tks_account", **arguments: Any) -> Any:
        pair = "tks_other_" if account == "tks_other_account" else ""
        client = settings(ready[account], pair)
        return official.ask({"client": client, "call": call, "args": arguments})

    ring = ask("create_ring", ring_name=way)["RingID"]
    key = ask("create_key", ring_id=ring, algo="SYMMETRIC_256")["KeyID"]
    rule = {"version": "v1", "type": "RAPolicy", "optional": False, "inversion": False}
    ask("set_key_policy", ring_id=ring, key_id=key, policy=json.dumps([[{**rule, "policyID": ready["tks_policy_id"]}]]))
    assert len(ask("get_key", ring_id=ring, key_id=key)) == 32
    with pytest.raises(OfficialError) as foreign:
        ask("get_key", "tks_other_account", ring_id=ring, key_id=key)
    assert foreign.value.http_status == 404

    listed = cli(
        platform,
        *("audit", "list", "--url", ready["audit_url"], "--pins", ready["audit_pins"]),
        TEEHOUSE_AUDIT_TOKEN=ready["audit_token"],
    )
    mine = [entry for entry in listed["entries"] if entry["ring"] == ring]
    assert [one["op"] for one in mine] == ["ring.create", "key.create", "key.policy", "key.release"]
    assert mine[-1]["decision"] == "granted"
    assert mine[-1]["tier"] == "simulated"


def test_own_commands_need_nothing_but_the_running_platform(platform: Platform) -> None:
    shown = cli(platform, "keys", "show")
    assert shown["tenant"] == platform.ready["tks_tenant"]
    cli(platform, "keys", "ring", "create", "data", "--usage", "data")
    cli(platform, "keys", "create", "data", "one", "--algorithm", "aes256")
    entries = cli(platform, "audit", "list")["entries"]
    assert entries[0]["op"] == "tenant.create"
    assert [(e["op"], e["ring"]) for e in entries if e["ring"] == "data"] == [
        ("ring.create", "data"),
        ("key.create", "data"),
    ]


def test_a_killed_key_service_comes_back_with_its_keys(platform: Platform) -> None:
    before = cli(platform, "keys", "show")
    for name in ("keys", "witness"):
        os.kill(_pid(platform, name), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while True:
        try:
            after = cli(platform, "keys", "show")
            break
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert after == before
    made = cli(platform, "keys", "ring", "create", "after-the-kill", "--usage", "data")
    assert made["entry"]["index"] >= 1


def _pid(platform: Platform, name: str) -> int:
    state = json.loads(Path(platform.root / "platform.json").read_text())
    return int(state["pids"][name])
