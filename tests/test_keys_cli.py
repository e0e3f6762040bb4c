# SPDX-License-Identifier: Apache-2.0
"""`teehouse keys …` end to end: the real command line against a real key service, its ledger and its witness."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from support_cli import call
from support_keys import ENDPOINT, Requester, free_port, running_world
from support_keys_cli import Scene
from support_platform import Platform
from support_tap import tapped

from teehouse.keys.admin import load_admin
from teehouse.keys.drafts import Draft
from teehouse.keys.service import KeyService
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import ReleasePolicy
from teehouse_core.seal.commands import sign_command
from teehouse_core.seal.suite import generate_key
from teehouse_core.wire.canonical import b64u, encode, parse, unb64u
from teehouse_core.wire.commands import Command, CommandRequest

REFUSED, UNREACHABLE, USAGE, MALFORMED = 10, 3, 2, 30


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch, running_world(tmp_path_factory.mktemp("keys")) as world:
        for name in [name for name in os.environ if name.startswith("TEEHOUSE_")]:
            patch.delenv(name)
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("COLUMNS", "120")
        patch.setenv("TEEHOUSE_TKS_URL", world.keys_url)
        scene = Scene(world, folder)
        for name in ("ada", "ben", "cleo", "dan"):
            scene.ok("admin", "new", scene.admin(name), "--name", name)
        scene.tenant = scene.ok("tenant", "create", "--label", "team=tea")["result"]["tenant"]
        yield scene


def release(scene: Scene, **parts: str) -> Path:
    """A release policy's file."""
    path = scene.folder / f"{secrets.token_hex(4)}.json"
    scene.ok("policy", "new", path, "--appraisal", parts.get("appraisal", "evaluate"), "--endpoint", ENDPOINT)
    return path


def public_of(scene: Scene, name: str) -> str:
    return str(scene.ok("admin", "show", scene.admin(name))["public"])


# ── admin keys ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_admin_key_stays_in_a_private_file(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "dora.pem"
    made = scene.ok("admin", "new", path, "--name", "Dora [bold]")
    assert path.stat().st_mode & 0o777 == 0o600
    assert made["public"].startswith("th-admin-")
    assert made["public"].endswith(":Dora [bold]")
    assert scene.ok("admin", "show", path)["public"] == made["public"]
    assert made["public"] in scene.say("admin", "show", path).splitlines()
    key = load_pem_private_key(path.read_bytes(), None)
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    assert raw.hex() not in json.dumps(made)
    assert b64u(raw) not in json.dumps(made)
    assert scene.fails("admin", "new", path)[:2] == (USAGE, "admin-key-exists")
    assert scene.fails("admin", "new", tmp_path / "x", "--name", "Dörte")[:2] == (USAGE, "admin-name")
    assert not (tmp_path / "x").exists()
    assert scene.fails("admin", "show", tmp_path / "none")[:2] == (USAGE, "file-unreadable")
    path.chmod(0o640)
    code, name, hint = scene.fails("admin", "show", path)
    assert (code, name) == (USAGE, "admin-key-open")
    assert "chmod 600" in hint

    monkeypatch.setenv("TEEHOUSE_ADMIN_PASSPHRASE", "oolong")
    closed = tmp_path / "closed.pem"
    made = scene.ok("admin", "new", closed, "--name", "Eve")
    assert b"ENCRYPTED" in closed.read_bytes()
    assert scene.ok("admin", "show", closed)["public"] == made["public"]
    monkeypatch.setenv("TEEHOUSE_ADMIN_PASSPHRASE", "assam")
    assert scene.fails("admin", "show", closed)[:2] == (USAGE, "admin-key")
    monkeypatch.delenv("TEEHOUSE_ADMIN_PASSPHRASE")
    code, name, hint = scene.fails("admin", "show", closed)
    assert (code, name) == (USAGE, "admin-passphrase")
    assert "TEEHOUSE_ADMIN_PASSPHRASE" in hint


def test_admins_have_their_names_in_the_tenant(scene: Scene) -> None:
    state = scene.ok("show")
    assert [one["name"] for one in state["admins"]["keys"]] == ["ada"]
    assert unb64u(state["labels"]["team"]) == b"tea"
    assert "1 of 1 admins command it: ada" in scene.say("show")
    ring = scene.ring()
    scene.ok("ring", "admins", ring, "--with", public_of(scene, "ben"), "--threshold", "2")
    found = next(one for one in scene.ok("show")["rings"] if one["id"] == ring)["admins"]
    assert (found["threshold"], [one["name"] for one in found["keys"]]) == (2, ["ada", "ben"])
    assert scene.fails("ring", "admins", ring, "--with", "th-admin-x")[:2] == (USAGE, "admin-public")
    assert scene.fails("ring", "admins", ring, "--threshold", "3")[:2] == (USAGE, "usage")


def test_a_tenant_changes_its_admins(scene: Scene) -> None:
    two = scene.ok(
        "tenant",
        "create",
        "--with",
        public_of(scene, "ben"),
        "--threshold",
        "2",
        "--admin",
        scene.admin("ada"),
        "--admin",
        scene.admin("ben"),
    )["result"]["tenant"]
    assert scene.fails("tenant", "admins", "--tenant", two)[:2] == (REFUSED, "not-enough-signatures")
    both = ("--tenant", two, "--admin", scene.admin("ada"), "--admin", scene.admin("ben"))
    scene.ok("tenant", "admins", "--drop", "--with", public_of(scene, "cleo"), *both)
    state = scene.ok("show", "--tenant", two, "--admin", scene.admin("cleo"))
    assert [one["name"] for one in state["admins"]["keys"]] == ["cleo"]
    assert scene.fails("show", "--tenant", two)[:2] == (REFUSED, "unknown-tenant")


# ── the life of a key ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_life_of_a_key(scene: Scene) -> None:
    ring, policy = scene.ring(), release(scene)
    made = scene.ok("create", ring, "k", "--algorithm", "aes256", "--release", policy, "--label", "for=disks")
    assert (made["version"], made["result"]["version"]) == (1, 1)
    assert made["entry"]["origin"].endswith(scene.tenant)
    assert made["result"]["policy_sha256"] == hashlib.sha256(policy.read_bytes()).hexdigest()
    text = scene.say("rotate", ring, "k", "--overlap", "600")
    assert "✓ key.rotate" in text
    assert "log entry" in text
    key = scene.key(ring, "k")
    assert (key["state"], [one["number"] for one in key["versions"]]) == ("rotating", [1, 2])
    assert "rotating" in scene.say("show")
    assert "1, 2" in scene.say("show")
    scene.ok("rotate", ring, "k", "--keep-old")
    scene.ok("disable", ring, "k")
    assert scene.key(ring, "k")["state"] == "disabled"
    scene.ok("enable", ring, "k")
    assert scene.ok("destroy", ring, "k", "--yes")["result"]["state"] == "scheduled"
    assert "scheduled (ends 2" in scene.say("show")
    assert scene.ok("cancel-destroy", ring, "k")["result"]["state"] == "disabled"


def test_destroying_asks_for_the_name(scene: Scene) -> None:
    ring = scene.ring()
    scene.ok("create", ring, "k", "--algorithm", "aes128")
    assert scene.fails("destroy", ring, "k")[:2] == (USAGE, "not-approved")
    options = scene.missing(("destroy", ring))
    code, _, err = call("keys", "destroy", ring, "k", *options, stdin="q\n")
    assert (code, "[not-approved]" in err) == (USAGE, True)
    assert call("keys", "destroy", ring, "k", *options, stdin="")[0] == 130
    assert scene.key(ring, "k")["state"] == "active"
    code, out, err = call("keys", "destroy", ring, "k", *options, stdin="k\n")
    assert code == 0, err
    assert "destroy_at  2" in out


@pytest.mark.parametrize("algorithm", ["aes256", "aes128", "p256", "rsa4096"])
def test_an_imported_key_is_the_one_in_the_file(scene: Scene, tmp_path: Path, algorithm: str) -> None:
    file = tmp_path / "key"
    ring = scene.ring("data" if algorithm.startswith("aes") else "session")
    scene.ok("import", ring, "k", "--file", own_key(file, algorithm), "--algorithm", algorithm)
    scene.ok("rotate", ring, "k", "--file", own_key(tmp_path / "next", algorithm))
    key = scene.key(ring, "k")
    assert (key["source"], key["algorithm"], len(key["versions"])) == ("imported", algorithm, 2)
    if not algorithm.startswith("aes"):
        private = load_pem_private_key(file.read_bytes(), None)
        public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert unb64u(key["versions"][0]["public"]) == public
    assert scene.fails("rotate", ring, "k")[:2] == (REFUSED, "bad-args")
    other = "p256" if algorithm != "p256" else "rsa4096"
    code, name, _ = scene.fails("import", ring, "x", "--file", file, "--algorithm", other)
    assert (code, name) == (USAGE, "key-file")


def own_key(path: Path, algorithm: str) -> Path:
    if algorithm.startswith("aes"):
        path.write_bytes(secrets.token_bytes(int(algorithm[3:]) // 8))
        return path
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "p256" else rsa.generate_private_key(65537, 4096)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_an_export_opens_to_the_imported_bytes(scene: Scene, tmp_path: Path) -> None:
    ring, secret = scene.ring(), secrets.token_bytes(32)
    (tmp_path / "own").write_bytes(secret)
    scene.ok("import", ring, "k", "--file", tmp_path / "own", "--exportable")
    code, out, err = call("keys", "export", ring, "k", "-o", tmp_path / "out", *scene.common, "--json")
    assert code == 0, err
    assert (tmp_path / "out").read_bytes() == secret
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    assert json.loads(out)["result"]["file"] == str(tmp_path / "out")
    assert secret.hex() not in out + err
    assert b64u(secret) not in out + err
    scene.ok("rotate", ring, "k", "--file", own_key(tmp_path / "next", "aes256"), "--keep-old")
    scene.ok("export", ring, "k", "-o", tmp_path / "one", "--version", "1")
    scene.ok("export", ring, "k", "-o", tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == secret
    assert (tmp_path / "two").read_bytes() == (tmp_path / "next").read_bytes()

    before = len(scene.world.entries(scene.tenant))
    assert scene.fails("export", ring, "k", "-o", tmp_path / "one")[:2] == (USAGE, "file-exists")
    assert (tmp_path / "one").read_bytes() == secret
    assert scene.fails("export", ring, "k", "-o", tmp_path / "no" / "x")[:2] == (USAGE, "file-unwritable")
    assert len(scene.world.entries(scene.tenant)) == before  # nothing was exported that no file could take
    scene.ok("create", ring, "stays", "--algorithm", "aes256")
    assert scene.fails("export", ring, "stays", "-o", tmp_path / "s")[:2] == (REFUSED, "not-exportable")
    assert scene.fails("export", ring, "k", "-o", tmp_path / "s", "--version", "9")[:2] == (REFUSED, "unknown-version")
    assert not (tmp_path / "s").exists()


# ── policies and pools ───────────────────────────────────────────────────────────────────────────────────────────


def test_release_policies(scene: Scene, tmp_path: Path) -> None:
    ring, first = scene.ring(), release(scene)
    scene.ok("create", ring, "k", "--algorithm", "aes256")
    assert ReleasePolicy.parse(scene.ok("policy", "show", ring, "k")["policy"].encode()).endpoints == ()
    scene.ok("policy", "set", ring, "k", first)
    scene.ok("policy", "show", ring, "k", "-o", tmp_path / "shown.json")
    assert (tmp_path / "shown.json").read_bytes() == first.read_bytes()
    assert scene.say("policy", "show", ring, "k").rstrip("\n") == first.read_text()  # byte for byte, unwrapped
    assert scene.fails("policy", "set", ring, "k", first)[:2] == (REFUSED, "wrong-state")

    code, _, err = call("keys", "policy", "new", tmp_path / "nobody.json")
    assert (code, "names no endpoint" in err) == (0, True)
    for bad in (["--endpoint", "not one"], ["--name", ""], ["--endpoint", "*", "--endpoint", ENDPOINT]):
        assert scene.fails("policy", "new", tmp_path / "bad.json", *bad)[:2] == (USAGE, "release-policy")
    assert not (tmp_path / "bad.json").exists()
    (tmp_path / "pretty.json").write_text(json.dumps(json.loads(first.read_text()), indent=1))
    code, name, hint = scene.fails("policy", "set", ring, "k", tmp_path / "pretty.json")
    assert (code, name) == (USAGE, "release-policy")
    assert "canonical" in hint


def test_pools(scene: Scene, tmp_path: Path) -> None:
    ring, endpoint, weights = scene.ring("session"), "ep-20260101000000-pools", "5e" * 32
    pinned = tmp_path / "members.toml"
    pinned.write_text(
        f'name = "members"\nbase = "evaluate"\ndoors = []\n[references]\nweights_sha256 = ["{weights}"]\n'
    )
    policy = tmp_path / "members.json"
    scene.ok("policy", "new", policy, "--appraisal", pinned, "--endpoint", endpoint)
    scene.ok("create", ring, "p", "--release", policy)
    scene.ok("pool", "create", ring, "p", "--endpoint", endpoint, "--active", "60", "--overlap", "60")
    pool = next(one for one in scene.ok("show")["pools"] if one["endpoint"] == endpoint)
    assert pool["model"] == {"name": "p", "weights_sha256": weights}
    assert f"pool {endpoint}: {ring}/p" in scene.say("show")
    with scene.world.http() as http:
        assert http.get(f"/v1/pools/{endpoint}", params={"tenant": scene.tenant}).status_code == 200
    assert scene.fails("destroy", ring, "p", "--yes")[:2] == (REFUSED, "wrong-state")
    scene.ok("pool", "delete", ring, "--endpoint", endpoint)
    assert scene.fails("pool", "delete", ring, "--endpoint", endpoint)[:2] == (REFUSED, "unknown-pool")
    scene.ok("create", ring, "open", "--release", release(scene))
    code, name, hint = scene.fails("pool", "create", ring, "open", "--endpoint", endpoint)
    assert (code, name) == (USAGE, "pool-claims")
    assert "policy set" in hint


# ── several admins ───────────────────────────────────────────────────────────────────────────────────────────────


def ring_of_three(scene: Scene) -> str:
    ring = f"r{secrets.token_hex(4)}"
    others = [part for name in ("ben", "cleo") for part in ("--with", public_of(scene, name))]
    scene.ok("ring", "create", ring, "--usage", "data", *others, "--threshold", "2")
    return ring


def test_two_of_three_agree(scene: Scene, tmp_path: Path) -> None:
    ring, draft = ring_of_three(scene), tmp_path / "draft.json"
    policy = release(scene)
    create = ("create", ring, "k", "--algorithm", "aes256", "--release", policy, "--label", "note=[bold]hidden[/bold]")
    made = scene.ok(*create, "--draft", draft)
    assert (made["signatures"], made["needed"]) == (1, 2)
    assert scene.fails(*create, "--draft", draft)[:2] == (USAGE, "file-exists")
    code, name, hint = scene.fails("send", draft)
    assert (code, name) == (REFUSED, "not-enough-signatures")
    assert "approve" in hint
    assert scene.fails(*create)[:2] == (REFUSED, "not-enough-signatures")

    assert scene.fails("approve", draft, "--admin", scene.admin("ben"))[:2] == (USAGE, "not-approved")
    code, out, err = call("keys", "approve", draft, "--admin", scene.admin("ben"), stdin="n\n")
    assert (code, "[not-approved]" in err) == (USAGE, True)
    code, out, err = call("keys", "approve", draft, "--admin", scene.admin("ben"), stdin="y\n")
    assert code == 0, err
    for said in ("key.create", ring, scene.tenant, '"release-policy/1"', ENDPOINT, "[bold]hidden[/bold]"):
        assert said in out  # what a person signs is what a person sees
    assert scene.ok("approve", draft, "--yes", "--admin", scene.admin("ben"))["signatures"] == 2  # once is enough
    sent = scene.ok("send", draft)
    assert sent["result"]["key"] == "k"
    entry = scene.world.entries(scene.tenant)[sent["entry"]["index"]]
    assert entry.request_sha256 == made["command_sha256"]
    assert scene.fails("send", draft)[:2] == (REFUSED, "replayed")


def test_a_changed_draft_is_worth_nothing(scene: Scene, tmp_path: Path) -> None:
    ring, draft = ring_of_three(scene), tmp_path / "draft.json"
    (tmp_path / "own").write_bytes(secrets.token_bytes(32))
    scene.ok("import", ring, "good", "--file", tmp_path / "own", "--draft", draft)
    scene.ok("approve", draft, "--yes", "--admin", scene.admin("cleo"))
    whole = json.loads(draft.read_text())

    args = dict(parse(unb64u(whole["command"]), limit=1 << 20))
    args["args"] = {**args["args"], "exportable": True}
    draft.write_text(json.dumps({**whole, "command": b64u(encode(args))}))
    code, name, hint = scene.fails("send", draft)
    assert (code, name) == (REFUSED, "unknown-tenant")
    assert "changed after it was signed" in hint
    scene.ok("approve", draft, "--yes", "--admin", scene.admin("ben"))
    assert scene.fails("send", draft)[:2] == (REFUSED, "not-enough-signatures")

    payload = bytearray(unb64u(whole["payload"]))
    payload[-1] ^= 1
    draft.write_text(json.dumps({**whole, "payload": b64u(bytes(payload))}))
    assert scene.fails("send", draft)[:2] == (REFUSED, "import-mismatch")
    for text in ("{}", "no json", json.dumps({**whole, "extra": 1}), json.dumps({**whole, "service": 1})):
        draft.write_text(text)
        assert scene.fails("send", draft)[0] == MALFORMED
        assert scene.fails("approve", draft, "--yes")[0] == MALFORMED
    draft.write_text(json.dumps(whole))
    scene.ok("send", draft)
    assert not scene.key(ring, "good")["exportable"]


def test_drafts_end(scene: Scene, tmp_path: Path) -> None:
    ring = scene.ring()
    for name in ("a", "b"):
        scene.ok("create", ring, name, "--algorithm", "aes128", "--draft", tmp_path / name)
    assert Draft.load(tmp_path / "a").request.command.expires_at <= time.time() + 3700  # with the service's keyset
    scene.ok("send", tmp_path / "a")
    code, name, hint = scene.fails("send", tmp_path / "b")
    assert (code, name) == (REFUSED, "wrong-seq")
    assert "again" in hint

    admin = load_admin(Path(scene.admin("ada"))).key
    with KeyService(scene.world.keys_url, Policy.preset("evaluate")) as service:
        raw = service.command(scene.tenant, ring, 2, "key.disable", {"key": "a"}, life=1)
        other = {**parse(raw, limit=1 << 20), "tks_keyset_sha256": "00" * 32}
    for name, command in (("over", raw), ("other", encode(other))):
        request = CommandRequest(Command.parse(command), (sign_command(command, admin),))
        Draft(request, scene.world.keys_url).save(tmp_path / name)
    assert scene.fails("send", tmp_path / "other")[:2] == (REFUSED, "unknown-keyset")
    time.sleep(2.1)
    assert scene.fails("send", tmp_path / "over")[:2] == (REFUSED, "expired")
    assert scene.fails("approve", tmp_path / "over", "--yes")[:2] == (REFUSED, "expired")
    assert scene.fails("send", tmp_path / "none")[:2] == (USAGE, "file-unreadable")


def test_a_tenant_of_several_begins_as_a_draft(scene: Scene, tmp_path: Path) -> None:
    draft = tmp_path / "tenant.json"
    made = scene.ok("tenant", "create", "--with", public_of(scene, "ben"), "--threshold", "2", "--draft", draft)
    assert (made["signatures"], made["needed"]) == (1, 2)
    assert scene.fails("send", draft)[:2] == (REFUSED, "not-enough-signatures")
    scene.ok("approve", draft, "--yes", "--admin", scene.admin("ben"))
    assert scene.ok("send", draft)["result"]["tenant"] == made["tenant"]


# ── dry run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_dry_run_says_who_would_receive_a_key(scene: Scene, tmp_path: Path) -> None:
    ring = scene.ring()
    scene.ok("create", ring, "k", "--algorithm", "aes256", "--release", release(scene))
    nodes = {"good": Requester(), "other": Requester("ep-20260101000000-others", "node-9")}
    for name, node in nodes.items():
        (tmp_path / name).write_bytes(node.bundle(node.keyset(generate_key()), secrets.token_bytes(32), 1))
    before = len(scene.world.entries(scene.tenant))
    seen = scene.ok("dry-run", ring, "k", "--bundle", tmp_path / "good")
    assert [one["would_receive"] for one in seen["results"]] == [True]
    both = ("dry-run", ring, "k", "--bundle", tmp_path / "good", "--bundle", tmp_path / "other")
    code, out, _ = call("keys", *both, *scene.common, "--json")
    assert code == REFUSED
    failed = {one["node"]: [check["id"] for check in one["failed_checks"]] for one in json.loads(out)["results"]}
    assert failed == {"node-1": [], "node-9": ["binding.endpoint"]}
    code, out, _ = call("keys", *both, *scene.common)
    assert code == REFUSED
    for said in ("node-1", "node-9", "✓ yes", "✗ no", "binding.endpoint", "1 of 2 nodes would receive it"):
        assert said in out
    strict = release(scene, appraisal="strict")
    code, out, _ = call("keys", *both[:5], "--release", strict, *scene.common)
    assert (code, "policy.platform" in out) == (REFUSED, True)
    assert len(scene.world.entries(scene.tenant)) == before

    (tmp_path / "junk").write_bytes(b"{}")
    code, out, _ = call("keys", *both[:3], "--bundle", tmp_path / "junk", *scene.common)
    assert (code, "not an evidence bundle" in out) == (REFUSED, True)
    assert scene.fails("dry-run", ring, "none", "--bundle", tmp_path / "good")[:2] == (REFUSED, "unknown-key")
    wrong = scene.fails("dry-run", ring, "none", "--release", strict, "--bundle", tmp_path / "good")
    assert wrong[:2] == (REFUSED, "unknown-key")
    assert scene.fails("dry-run", ring, "k", "--bundle", tmp_path / "none")[:2] == (USAGE, "file-unreadable")
    assert scene.fails("dry-run", ring, "k", "--gateway", "http://127.0.0.1:1")[:2] == (USAGE, "usage")


def test_a_dry_run_over_who_asked_before(scene: Scene) -> None:
    tenant = scene.ok("tenant", "create")["result"]["tenant"]
    scene.ok("ring", "create", "r", "--usage", "data", "--tenant", tenant)
    scene.ok("create", "r", "k", "--algorithm", "aes256", "--release", release(scene), "--tenant", tenant)
    code, name, hint = scene.fails("dry-run", "r", "k", "--tenant", tenant)
    assert (code, name) == (USAGE, "no-evidence")
    assert "--bundle" in hint
    with scene.world.http() as http:
        outcome = Requester().ask(http, scene.world.keyset(), tenant=tenant, ring="r", key="k")
    assert outcome.code == "granted"
    seen = scene.ok("dry-run", "r", "k", "--tenant", tenant)
    assert (seen["evidence"], seen["results"][0]["would_receive"]) == ("last-seen", True)


def test_a_dry_run_over_an_endpoints_nodes(scene: Scene, platform: Platform, tmp_path: Path) -> None:
    ring = scene.ring()
    policy = tmp_path / "release.json"
    scene.ok("policy", "new", policy, "--appraisal", "evaluate", "--endpoint", platform.endpoint)
    scene.ok("create", ring, "k", "--algorithm", "aes256", "--release", policy)
    scene.ok("create", ring, "nobodys", "--algorithm", "aes256")
    nodes = ("--endpoint", platform.endpoint, "--gateway", platform.gateway)
    seen = scene.ok("dry-run", ring, "k", *nodes)
    assert (seen["evidence"], [one["would_receive"] for one in seen["results"]]) == ("given", [True, True])
    code, out, err = call("keys", "dry-run", ring, "nobodys", *nodes, *scene.common)
    assert (code, "0 of 2 nodes would receive it" in out) == (REFUSED, True), err
    assert scene.fails("dry-run", ring, "k", "--endpoint", "ep-20260101000000-absent", *nodes[2:])[0] == UNREACHABLE
    assert scene.fails("dry-run", ring, "k", "--endpoint", "not one", *nodes[2:])[0] == USAGE


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────


def test_refusals_have_stable_codes(scene: Scene, tmp_path: Path) -> None:
    ring, session = scene.ring(), scene.ring("session")
    scene.ok("create", ring, "k", "--algorithm", "aes256")
    scene.ok("create", session, "s")
    weak = tmp_path / "weak"
    weak.write_bytes(bytes(32))
    for arguments, wanted in (
        (("create", "none", "x"), "unknown-ring"),
        (("rotate", "none", "x"), "unknown-ring"),
        (("rotate", ring, "none"), "unknown-key"),
        (("disable", ring, "none"), "unknown-key"),
        (("destroy", ring, "none", "--yes"), "unknown-key"),
        (("policy", "show", ring, "none"), "unknown-key"),
        (("policy", "set", ring, "none", release(scene)), "unknown-key"),
        (("export", ring, "none", "-o", tmp_path / "x"), "unknown-key"),
        (("pool", "create", session, "none", "--endpoint", ENDPOINT), "unknown-key"),
        (("ring", "create", ring), "ring-exists"),
        (("ring", "create", "x", "--usage", "nothing"), "bad-args"),
        (("ring", "create", "x", "--usage", "compat"), "usage-forbids"),
        (("create", ring, "k", "--algorithm", "aes256"), "key-exists"),
        (("create", ring, "x", "--algorithm", "rot13"), "wrong-algorithm"),
        (("create", ring, "x"), "usage-forbids"),  # a session key
        (("create", session, "x", "--exportable"), "usage-forbids"),
        (("rotate", session, "s", "--keep-old"), "usage-forbids"),
        (("rotate", ring, "k", "--file", weak), "bad-args"),
        (("import", ring, "x", "--file", weak), "weak-key"),
        (("enable", ring, "k"), "wrong-state"),
        (("cancel-destroy", ring, "k"), "wrong-state"),
        (("show", "--tenant", "t-" + "00" * 16), "unknown-tenant"),
        (("show", "--admin", scene.admin("dan")), "unknown-tenant"),
    ):
        assert scene.fails(*arguments)[:2] == (REFUSED, wanted), arguments
    hint = scene.fails("enable", ring, "k")[2]
    assert "disabled" in hint
    assert "keys show" in scene.fails("rotate", ring, "none")[2]
    assert not (tmp_path / "x").exists()


def test_a_foreign_tenant_is_an_unknown_one(scene: Scene) -> None:
    ring = scene.ring()
    scene.ok("create", ring, "k", "--algorithm", "aes256")
    other = scene.ok("tenant", "create", "--admin", scene.admin("dan"))["result"]["tenant"]
    as_dan = ("--admin", scene.admin("dan"))
    told = scene.fails("show", *as_dan)
    assert told == scene.fails("show", *as_dan, "--tenant", "t-" + "ab" * 16)
    assert told[:2] == (REFUSED, "unknown-tenant")
    assert scene.fails("disable", ring, "k", *as_dan, "--tenant", other)[:2] == (REFUSED, "unknown-ring")
    assert scene.fails("disable", ring, "k", *as_dan)[:2] == (REFUSED, "unknown-tenant")
    assert scene.key(ring, "k")["state"] == "active"


def test_usage(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = scene.ring()
    (tmp_path / "short").write_bytes(b"short")
    for arguments, wanted in (
        (("import", ring, "x", "--file", tmp_path / "none"), "file-unreadable"),
        (("import", ring, "x", "--file", tmp_path / "short"), "key-file"),
        (("import", ring, "x", "--file", tmp_path / "short", "--algorithm", "mlkem768x25519"), "key-file"),
        (("create", ring, "x", "--release", tmp_path / "short"), "release-policy"),
        (("create", ring, "x", "--label", "x"), "usage"),
        (("create", ring, "x", "--life", "1"), "usage"),
        (("create", ring), "usage"),
        (("create", ring, "x", "--policy", "loose"), "policy-preset"),
        (("show", "--tks", "ftp://example.org"), "tks-url"),
        (("show", "--tks", "http://keys.example.org"), "tks-url"),
        (("show", "--admin", tmp_path / "short"), "admin-key-open"),
    ):
        assert scene.fails(*arguments)[:2] == (USAGE, wanted), arguments
    ada = scene.admin("ada")
    assert call("keys", "show", "--policy", "evaluate", "--admin", ada, "--json")[0] == USAGE
    assert "tenant-missing" in call("keys", "show", "--admin", ada)[2]
    assert "admin-missing" in call("keys", "show", "--tenant", scene.tenant)[2]
    monkeypatch.delenv("TEEHOUSE_TKS_URL")
    assert "tks-missing" in call("keys", "show", "--tenant", scene.tenant, "--admin", ada)[2]
    monkeypatch.setenv("TEEHOUSE_TKS_URL", scene.world.keys_url)
    monkeypatch.setenv("TEEHOUSE_TENANT", scene.tenant)
    monkeypatch.setenv("TEEHOUSE_ADMIN_KEY", os.pathsep.join((ada, scene.admin("ben"))))
    code, out, _ = call("keys", "show", "--policy", "evaluate", "--json")
    assert (code, json.loads(out)["tenant"]) == (0, scene.tenant)


def test_a_service_that_does_not_answer(scene: Scene) -> None:
    code, name, hint = scene.fails("show", "--tks", f"http://127.0.0.1:{free_port()}")
    assert (code, name) == (UNREACHABLE, "unreachable")
    assert "address" in hint
    ledger = f"http://127.0.0.1:{scene.world.ledger_port}"  # a server, but no key service
    assert scene.fails("show", "--tks", ledger)[0] == REFUSED


def test_a_service_whose_evidence_is_refused_gets_nothing(scene: Scene, tmp_path: Path) -> None:
    """`strict` refuses a SIMULATED service: each command asks for evidence, and nothing else leaves this machine."""
    ring, policy, draft = scene.ring(), release(scene), tmp_path / "draft"
    scene.ok("create", ring, "d", "--algorithm", "aes256", "--draft", draft)
    own_key(tmp_path / "own", "aes256")
    (tmp_path / "bundle").write_bytes(b"{}")
    with tapped(scene.world.keys_url) as tap:
        for arguments in (
            ("show",),
            ("tenant", "create"),
            ("tenant", "create", "--draft", tmp_path / "no"),
            ("tenant", "admins"),
            ("ring", "create", "x"),
            ("ring", "admins", ring),
            ("create", ring, "x"),
            ("create", ring, "x", "--draft", tmp_path / "no"),
            ("import", ring, "x", "--file", tmp_path / "own"),
            ("rotate", ring, "x"),
            ("policy", "show", ring, "x"),
            ("policy", "set", ring, "x", policy),
            ("disable", ring, "x"),
            ("enable", ring, "x"),
            ("destroy", ring, "x", "--yes"),
            ("cancel-destroy", ring, "x"),
            ("export", ring, "x", "-o", tmp_path / "no"),
            ("pool", "create", ring, "x", "--endpoint", ENDPOINT),
            ("pool", "delete", ring, "--endpoint", ENDPOINT),
            ("dry-run", ring, "x", "--bundle", tmp_path / "bundle"),
            ("dry-run", ring, "x", "--endpoint", ENDPOINT, "--gateway", tap.url),
            ("send", draft),
        ):
            full = [part for part in scene.missing(arguments) if part not in ("--policy", "evaluate")]
            # strict is what counts when nothing is said
            code, out, err = call("keys", *arguments, "--tks", tap.url, *full, "--json")
            assert (code, json.loads(out)["error"]["code"]) == (REFUSED, "evidence-refused"), (arguments, err)
        told = scene.fails("show", "--policy", "strict", "--tks", tap.url)
        assert told[:2] == (REFUSED, "evidence-refused")
        assert told[2]
        sent = bytes(tap.to_server)
    lines = [line for line in sent.split(b"\r\n") if line.startswith((b"GET ", b"POST ", b"PUT "))]
    assert len(lines) == 23  # one for each command, and nothing else
    assert all(line.startswith(b"GET /v1/evidence?challenge=") for line in lines)
    assert scene.tenant.encode() not in sent
    assert not (tmp_path / "no").exists()
