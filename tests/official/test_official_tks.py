# SPDX-License-Identifier: Apache-2.0
"""The unmodified `bytedance.tks.TKSClient` and `jeddak_secure_channel.Server` against a real `teehouse-keys`."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from support_tks import (
    ACCOUNT,
    OFFICIAL,
    OTHER,
    PAIRS,
    POLICY,
    SIGNED_ONLY,
    STRICT,
    Keys,
    Official,
    OfficialError,
    StandInAgent,
    running_keys,
)

RULES = json.dumps([[{"version": "v1", "type": "RAPolicy", "optional": False, "inversion": False, "policyID": POLICY}]])
TOOL_RULES = json.dumps(
    [[{"tee": "none", "platform": "*", "policyID": POLICY, "type": "RAPolicy", "optional": False, "inverse": False}]]
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    if not OFFICIAL.exists():
        pytest.skip("missing package: the official TKS client (make test installs it)")
    with running_keys(tmp_path_factory.mktemp("tks")) as found:
        yield found


@pytest.fixture(scope="module")
def agent() -> Iterator[StandInAgent]:
    found = StandInAgent()
    yield found
    found.close()


@pytest.fixture(scope="module")
def official(agent: StandInAgent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Official]:
    found = Official(agent, tmp_path_factory.mktemp("official"))
    yield found
    found.close()


@dataclass
class Client:
    """One `TKSClient` by its settings; every call makes it anew, as its users' processes do."""

    official: Official
    settings: dict[str, Any]

    def __call__(self, call: str, **args: Any) -> Any:
        packed = {
            name: {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
            for name, value in args.items()
        }
        return self.official.ask({"client": self.settings, "call": call, "args": packed})

    def refused(self, call: str, **args: Any) -> int | None:
        """The `http_status` of the `TKSError` that the call raises."""
        with pytest.raises(OfficialError) as caught:
            self(call, **args)
        assert caught.value.name == "TKSError", caught.value
        return caught.value.http_status


Door = Callable[..., Client]


@pytest.fixture(params=["plain", "gateway", "rewritten"])
def door(request: pytest.FixtureRequest, keys: Keys, official: Official) -> Door:
    """Clients by account: over plain paths, over the signed gateway, and over its `url_rewrite` variant."""

    def make(account: str = ACCOUNT, *, pair: tuple[str, str] | None = None) -> Client:
        access_key, secret_key = pair or PAIRS[account]
        top: dict[str, Any] = {"ak": access_key, "sk": secret_key, "service": "pcc", "use_tls": False}
        settings: dict[str, Any] = {"app_id": account, "addr": keys.addr, "top_config": top}
        if request.param == "plain":
            settings["top_config"] = None
        if request.param == "rewritten":
            top |= {"url_rewrite": keys.url, "url": "https://pcc.example"}
        return Client(official, settings)

    make.way = request.param  # type: ignore[attr-defined]
    return make


def test_rings_keys_lists_and_an_export_with_evidence(door: Door, agent: StandInAgent) -> None:
    tks = door()
    ring = tks("create_ring", ring_name="环", desc="描述")["RingID"]
    made = tks("create_key", ring_id=ring, algo="SYMMETRIC_256", key_name="k1")
    key = made["KeyID"]
    assert made["Weak"] is True
    assert ring in [row["RingID"] for row in tks("list_ring_id", page_size=100)["RingList"]]
    assert [row["KeyID"] for row in tks("list_key", ring_id=ring)["KeyList"]] == [key]
    info = tks("get_key_info", ring_id=ring, key_id=key)
    assert (info["Version"], info["Algo"], info["Source"]) == (1, "SYMMETRIC_256", "internal")
    assert tks.refused("get_key", ring_id=ring, key_id=key) == 403  # no policy: nobody
    assert tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)["KeyID"] == key
    first = tks("get_key", ring_id=ring, key_id=key)
    assert len(first) == 32
    assert tks("get_key", ring_id=ring, key_id=key, policy_id=POLICY) == first  # and the service's own evidence
    assert agent.asked[-1]["static_report"] == "true"


def test_an_import_comes_back(door: Door) -> None:
    tks = door()
    ring = tks("create_ring", ring_name="imports")["RingID"]
    clear = secrets.token_bytes(32)
    key = tks("import_key", ring_id=ring, algo="SYMMETRIC_256", key=clear, key_name="mine")["KeyID"]
    tks("set_key_policy", ring_id=ring, key_id=key, policy=TOOL_RULES)
    assert tks("get_key", ring_id=ring, key_id=key, attest_gpu=False) == clear
    assert tks("get_key_info", ring_id=ring, key_id=key)["Source"] == "external"


def test_wrong_calls_raise_tks_errors_with_their_status(door: Door, agent: StandInAgent) -> None:
    tks = door()
    ring = tks("create_ring", ring_name="errors")["RingID"]
    key = tks("create_key", ring_id=ring, algo="SYMMETRIC_256")["KeyID"]
    assert tks.refused("create_key", ring_id="no-such-ring", algo="SYMMETRIC_256") == 404
    assert tks.refused("create_key", ring_id=ring, algo="ROT13") == 422
    assert tks.refused("get_key_info", ring_id=ring, key_id="no-such-key") == 404
    assert tks.refused("get_key", ring_id=ring, key_id="no-such-key") == 404
    assert tks.refused("create_ring", ring_name="x" * 300) == 413
    assert tks.refused("set_key_policy", ring_id=ring, key_id=key, policy="[]x") == 400
    assert tks.refused("set_key_policy", ring_id=ring, key_id=key, policy=RULES.replace(POLICY, "nobody-knows")) == 404
    assert tks.refused("set_key_policy", ring_id=ring, key_id="no-such-key", policy=RULES) == 404
    assert tks.refused("import_key", ring_id=ring, algo="SYMMETRIC_256", key=b"short") == 422
    assert tks.refused("import_key", ring_id=ring, algo="SYMMETRIC_256", key=secrets.token_bytes(20_000)) == 413
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    assert tks.refused("get_key", ring_id=ring, key_id=key, need_evidence=False) == 403
    agent.stale = True
    try:
        assert tks.refused("get_key", ring_id=ring, key_id=key) == 403
    finally:
        agent.stale = False
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES.replace(POLICY, STRICT))
    assert tks.refused("get_key", ring_id=ring, key_id=key) == 403
    assert tks.refused("get_key", ring_id=ring, key_id=key, policy_id="nobody-knows") == 404


def test_an_empty_policy_is_nobody_again(door: Door) -> None:
    tks = door()
    ring = tks("create_ring", ring_name="empty")["RingID"]
    key = tks("create_key", ring_id=ring, algo="SYMMETRIC_128")["KeyID"]
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    assert len(tks("get_key", ring_id=ring, key_id=key)) == 16
    tks("set_key_policy", ring_id=ring, key_id=key, policy="[]")
    assert tks.refused("get_key", ring_id=ring, key_id=key) == 403


def test_another_accounts_objects_look_unknown(door: Door) -> None:
    tks, other = door(), door(OTHER)
    ring = tks("create_ring", ring_name="mine")["RingID"]
    key = tks("create_key", ring_id=ring, algo="SYMMETRIC_256")["KeyID"]
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    assert other.refused("get_key_info", ring_id=ring, key_id=key) == 404
    assert other.refused("get_key", ring_id=ring, key_id=key) == 404
    assert other.refused("list_key", ring_id=ring) == 404
    assert other.refused("create_key", ring_id=ring, algo="SYMMETRIC_256") == 404
    assert other.refused("set_key_policy", ring_id=ring, key_id=key, policy=RULES) == 404
    assert key not in json.dumps(other("list_key", page_size=100))


@pytest.mark.parametrize("door", ["gateway", "rewritten"], indirect=True)
def test_wrong_credentials_are_401(door: Door) -> None:
    wrong = door(pair=(PAIRS[ACCOUNT][0], PAIRS[OTHER][1]))
    assert wrong.refused("list_ring_id") == 401
    unknown = door(pair=("AKLTnobody", PAIRS[ACCOUNT][1]))
    assert unknown.refused("list_ring_id") == 401


def test_an_account_that_allows_no_plain_calls(door: Door) -> None:
    tks = door(SIGNED_ONLY)
    if door.way == "plain":  # type: ignore[attr-defined]
        assert tks.refused("list_ring_id") == 403
    else:
        assert tks("list_ring_id")["Total"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("algo", ["RSA_4096", "SYMMETRIC_256"])
def test_the_secure_channel_server_loads_its_rsa_key(
    keys: Keys, official: Official, form: PrivateFormat, algo: str
) -> None:
    """`jeddak_secure_channel.server.Server` with `key_type` tks, over the signed gateway."""
    access_key, secret_key = PAIRS[ACCOUNT]
    top = {"ak": access_key, "sk": secret_key, "service": "pcc", "use_tls": False}
    tks = Client(official, {"app_id": ACCOUNT, "addr": keys.addr, "top_config": top})
    private = rsa.generate_private_key(65537, 4096)
    ring = tks("create_ring", ring_name="channel")["RingID"]
    clear = private.private_bytes(Encoding.PEM, form, NoEncryption())
    key = tks("import_key", ring_id=ring, algo=algo, key=clear)["KeyID"]
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    assert tks("get_key", ring_id=ring, key_id=key) == clear
    settings = {
        "tks_app_id": ACCOUNT,
        "tks_ring_id": ring,
        "tks_key_id": key,
        "tks_url": keys.addr,
        "bytedance_top_info": json.dumps(top),
        "key_type": "tks",
    }
    loaded = official.ask({"call": "server", "args": settings})
    assert loaded is not None
    expected = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert loaded.strip() == expected.strip()


def test_the_secure_channel_server_over_plain_paths_with_a_key_made_inside(keys: Keys, official: Official) -> None:
    tks = Client(official, {"app_id": ACCOUNT, "addr": keys.addr})
    ring = tks("create_ring", ring_name="inside")["RingID"]
    key = tks("create_key", ring_id=ring, algo="RSA_4096")["KeyID"]
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    settings = {
        "tks_app_id": ACCOUNT,
        "tks_ring_id": ring,
        "tks_key_id": key,
        "tks_url": keys.addr,
        "tks_policy_id": POLICY,
        "key_type": "tks",
    }
    assert "BEGIN PUBLIC KEY" in official.ask({"call": "server", "args": settings})


def test_every_decision_stands_in_the_log_and_survives_a_kill(keys: Keys, official: Official) -> None:
    from teehouse_enclave.keys.commands import compat_tenant_id

    tks = Client(official, {"app_id": SIGNED_ONLY, "addr": keys.addr, "top_config": None})
    access_key, secret_key = PAIRS[SIGNED_ONLY]
    tks.settings["top_config"] = {"ak": access_key, "sk": secret_key, "service": "pcc", "use_tls": False}
    ring = tks("create_ring", ring_name="log")["RingID"]
    key = tks("create_key", ring_id=ring, algo="SYMMETRIC_256")["KeyID"]
    assert tks.refused("get_key", ring_id=ring, key_id=key) == 403
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    before = tks("get_key", ring_id=ring, key_id=key)
    log = f"tenant-{compat_tenant_id(SIGNED_ONLY)}"
    seen = keys.entries(log)
    assert [(entry["op"], entry["decision"]) for entry in seen] == [
        ("tenant.create", "done"),
        ("ring.create", "done"),
        ("key.create", "done"),
        ("key.release", "refused"),
        ("key.policy", "done"),
        ("key.release", "granted"),
    ]
    assert seen[-1]["tier"] == "simulated"
    assert all(entry["reason"].startswith("compat, weak") for entry in seen)
    assert before.hex() not in json.dumps(seen)
    keys.kill()
    keys.start()
    tks.settings["addr"] = keys.addr
    assert tks("get_key", ring_id=ring, key_id=key) == before
    assert len(keys.entries(log)) == len(seen) + 1


def test_no_key_is_in_any_file_or_log(keys: Keys, official: Official) -> None:
    access_key, secret_key = PAIRS[ACCOUNT]
    top = {"ak": access_key, "sk": secret_key, "service": "pcc", "use_tls": False}
    tks = Client(official, {"app_id": ACCOUNT, "addr": keys.addr, "top_config": top})
    ring = tks("create_ring", ring_name="search")["RingID"]
    clear = secrets.token_bytes(32)
    key = tks("import_key", ring_id=ring, algo="SYMMETRIC_256", key=clear)["KeyID"]
    tks("set_key_policy", ring_id=ring, key_id=key, policy=RULES)
    assert tks("get_key", ring_id=ring, key_id=key) == clear
    needles = (clear, clear.hex().encode(), base64.b64encode(clear), base64.urlsafe_b64encode(clear).rstrip(b"="))
    for path in keys.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(needle in data for needle in needles), path


def test_a_plain_request_names_what_is_wrong(keys: Keys) -> None:
    """The body of a refusal, as somebody without the official client sees it."""
    answer = httpx2.post(f"{keys.url}/?Action=ListTksRing&Version=2024-12-24", json={})
    assert answer.status_code == 401
    error = answer.json()["ResponseMetadata"]["Error"]
    assert error["Reason"] == "signature-missing"
    assert "hint" in error["Message"]
