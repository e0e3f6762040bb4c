# SPDX-License-Identifier: Apache-2.0
"""Settings: where each value comes from, what is refused, what is masked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from client_support import API_KEY

from teehouse.settings import Settings, config_file, is_loopback, load_policy
from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import LocalError


def test_defaults() -> None:
    settings = Settings.load(environ={})
    assert settings.policy == Policy.preset("strict")
    assert settings.candidates == 2
    assert settings.base_url is None
    assert set(settings.sources.values()) == {"default"}
    assert settings.options.shape == "pad"


def test_order_of_sources(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('base_url = "https://file"\nendpoint = "ep-file"\ncandidates = 3\nallow_http = true\n')
    env = {"TEEHOUSE_BASE_URL": "https://env", "TEEHOUSE_ENDPOINT": "ep-env", "TEEHOUSE_CONFIG": str(file)}
    settings = Settings.load(environ=env, base_url="https://argument/v1/")
    assert (settings.base_url, settings.endpoint, settings.candidates) == ("https://argument", "ep-env", 3)
    assert settings.allow_http is True
    assert settings.sources["base_url"] == "argument"
    assert settings.sources["endpoint"] == "environment TEEHOUSE_ENDPOINT"
    assert settings.sources["candidates"] == f"config file {file}"
    assert settings.sources["shape"] == "default"


def test_the_users_own_file_is_read(tmp_path: Path) -> None:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text('shape = "constant"\n')
    assert Settings.load(environ={}).shape == "constant"


def test_describe_masks_secrets() -> None:
    settings = Settings.load(environ={}, api_key=API_KEY, policy="evaluate")
    rows = {name: (value, source) for name, value, source in settings.describe()}
    assert rows["api_key"] == (f"sk-th-{API_KEY[6:22]}-…", "argument")
    assert rows["policy"][0].startswith("evaluate (sha256 ")
    assert rows["endpoint"] == ("", "default")
    assert API_KEY not in str(settings.describe()) + repr(settings)
    assert ("api_key", "…", "argument") in Settings.load(environ={}, api_key="other secret").describe()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"nothing": 1}, "setting-unknown"),
        ({"base_url": "ftp://x"}, "setting-value"),
        ({"base_url": "https://user:secret@x"}, "setting-value"),
        ({"base_url": "https://x?y"}, "setting-value"),
        ({"base_url": "https://x:99999"}, "setting-value"),
        ({"base_url": 5}, "setting-value"),
        ({"api_key": "new\nline"}, "setting-value"),
        ({"endpoint": "a/b"}, "setting-value"),
        ({"candidates": 0}, "setting-value"),
        ({"candidates": 5}, "setting-value"),
        ({"candidates": "two"}, "setting-value"),
        ({"candidates": True}, "setting-value"),
        ({"shape": "square"}, "setting-value"),
        ({"flush_ms": 5000}, "setting-value"),
        ({"idle_seconds": -1}, "setting-value"),
        ({"idle_seconds": "soon"}, "setting-value"),
        ({"idle_seconds": True}, "setting-value"),
        ({"idle_seconds": float("nan")}, "setting-value"),
        ({"allow_http": "perhaps"}, "setting-value"),
        ({"cache_dir": 5}, "setting-value"),
        ({"policy": 5}, "setting-value"),
        ({"policy": "lenient"}, "policy-preset"),
        ({"policy": "missing.toml"}, "policy-file"),
        ({"file": "missing.toml"}, "config-file"),
    ],
)
def test_wrong_values(given: dict[str, Any], code: str) -> None:
    with pytest.raises(LocalError) as caught:
        Settings.load(environ={}, **given)
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["not toml =", "unknown_setting = 1", "\xff"])
def test_bad_files(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(LocalError):
        Settings.load(environ={}, file=file)
    file.write_bytes(b"#" * 300_000)
    with pytest.raises(LocalError) as caught:
        Settings.load(environ={}, file=file)
    assert caught.value.code == "config-file"


def test_policies(tmp_path: Path) -> None:
    toml, as_json = tmp_path / "p.toml", tmp_path / "p.json"
    toml.write_text('base = "strict"\nmax_evidence_age = 60\n')
    as_json.write_text(json.dumps({"base": "evaluate"}))
    assert load_policy(toml).max_evidence_age == 60
    assert load_policy(str(as_json)).simulated_allowed
    own = Policy.preset("standard")
    assert load_policy(own) is own
    settings = Settings.load(environ={"TEEHOUSE_POLICY": str(toml)})
    assert settings.policy_from == str(toml)
    assert Settings.load(environ={}, policy=own).policy_from == "a Policy object"


def test_the_key_does_not_travel_in_clear_to_other_machines() -> None:
    with pytest.raises(LocalError) as caught:
        Settings.load(environ={}, base_url="http://gateway.example").need_base_url()
    assert caught.value.code == "base-url-insecure"
    for url in ("https://gateway.example", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        assert Settings.load(environ={}, base_url=url).need_base_url() == url
    assert Settings.load(environ={}, base_url="http://gateway.example", allow_http="yes").need_base_url()
    assert not is_loopback("127.0.0.1.example.com")


def test_what_is_needed_and_missing() -> None:
    settings = Settings.load(environ={})
    for need, code in (
        (settings.need_base_url, "base-url-missing"),
        (settings.need_api_key, "api-key-missing"),
        (settings.need_endpoint, "endpoint-missing"),
    ):
        with pytest.raises(LocalError) as caught:
            need()
        assert caught.value.code == code
        assert caught.value.hint
