# SPDX-License-Identifier: Apache-2.0
"""The key service's configuration: what is named wrong, what is measured, and a process that refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.errors import LocalError
from teehouse_core.log.signing import cosigner_key
from teehouse_enclave.keys.config import KeysConfig, KeysLimits

WITNESS = {
    "name": "w.example/1",
    "vkey": cosigner_key("w.example/1", Ed25519PrivateKey.generate().public_key()).text,
    "url": "http://127.0.0.1:1",
    "operator": "somebody else",
}
BASE: dict[str, Any] = {
    "name": "tks-1",
    "release": "test",
    "image_sha256": "ab" * 32,
    "platform": {"type": "simulated"},
    "origin": "tks.example",
    "root": {"kind": "simulated", "path": "root.key"},
    "journal": {"kind": "sqlite", "path": "journal.db"},
    "ledger": {"url": "http://127.0.0.1:2", "token": "th-lw-secret"},
    "witnesses": [WITNESS],
    "quorum": 1,
}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"surprise": 1}, "config-unknown"),
        ({"image_sha256": "short"}, "config-value"),
        ({"origin": "https://tks example"}, "config-value"),
        ({"origin": "tks/"}, "config-value"),
        ({"platform": {"type": "sgx"}}, "platform-unsupported"),
        ({"platform": {"type": "tpm", "rot": "/"}}, "config-unknown"),
        ({"listen": {"port": 99999}}, "config-value"),
        ({"ledger": {"url": "ftp://x", "token": "x"}}, "config-value"),
        ({"ledger": {"url": "http://x"}}, "config-value"),
        ({"ledger": {"url": "http://x", "token_file": "/does/not/exist"}}, "config-file"),
        ({"quorum": 2}, "witness-policy"),
        ({"quorum": None}, "config-value"),
        ({"witnesses": [{**WITNESS, "vkey": "x"}]}, "config-value"),
        ({"witnesses": [WITNESS, WITNESS]}, "config-value"),
        ({"witnesses": [{**WITNESS, "operator": ""}]}, "config-value"),
        ({"publish": {"keys": ["AA"]}}, "config-value"),
        ({"publish": {"policy": "unheard-of"}}, "policy-preset"),
        ({"publish": {"nobody": 1}}, "config-unknown"),
        ({"limits": {"max_active": 0}}, "config-value"),
        ({"limits": {"nothing": 1}}, "config-unknown"),
        ({"limits": {"key_active_s": 5, "key_overlap_s": 5}}, "config-value"),
    ],
)
def test_bad_configuration_is_named(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as refused:
        KeysConfig.parse({**BASE, **changes})
    assert refused.value.code == code
    assert "th-lw-secret" not in str(refused.value)


def measured(**changes: Any) -> str:
    return KeysConfig.parse({**BASE, **changes}).config_sha256


def test_what_decides_about_keys_is_measured_and_where_things_lie_is_not() -> None:
    same = measured()
    assert measured(ledger={"url": "http://elsewhere", "token": "other"}) == same
    assert measured(witnesses=[{**WITNESS, "url": "http://elsewhere"}]) == same
    assert measured(listen={"host": "127.0.0.1", "port": 9}, ready_file="x") == same
    assert measured(journal={"kind": "sqlite", "path": "elsewhere"}) == same
    others = {
        measured(quorum=0),
        measured(witnesses=[], quorum=0),
        measured(origin="other.example"),
        measured(journal={"kind": "ledger"}),
        measured(publish={"policy": "evaluate"}),
        measured(limits={"max_backlog": 5}),
        measured(compat={"direct_rest": True}),
        measured(witnesses=[{**WITNESS, "operator": "the same one"}]),
    }
    assert len(others) == 8
    assert same not in others


def test_secrets_are_in_no_text_form() -> None:
    config = KeysConfig.parse(BASE)
    assert "th-lw-secret" not in repr(config)
    assert b"th-lw-secret" not in config.measured()
    assert KeysLimits.parse({}) == KeysLimits()


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_unreadable_configuration_exits_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    command = [sys.executable, "-m", "teehouse_enclave.keys.main", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert json.loads(done.stderr.splitlines()[-1])["event"] == "configuration-refused"


def test_measure_and_log_key_print_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    root = {"kind": "simulated", "path": str(tmp_path / "root.key")}
    journal = {"kind": "sqlite", "path": str(tmp_path / "journal.db")}
    path.write_text(json.dumps({**BASE, "root": root, "journal": journal}))
    command = [sys.executable, "-W", "ignore", "-m", "teehouse_enclave.keys.main", "--config", str(path)]
    told = [
        json.loads(subprocess.run([*command, flag], capture_output=True, timeout=60, check=True).stdout)
        for flag in ("--measure", "--log-key", "--log-key")
    ]
    assert told[0]["config_sha256"] == measured(root=root, journal=journal)
    assert told[1] == told[2], "the log's key follows from the root"
    assert told[1]["vkey"].startswith("tks.example+")
