# SPDX-License-Identifier: Apache-2.0
"""The key service of a local platform, its witness, and who may use it: configurations, secrets, reference values.

All of it is for evaluation: the root key lies in a file beside what it protects (SIMULATED), the one witness is run by
who runs the log, so it proves nothing to anybody else, and existing clients are let in by a name alone on loopback.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from teehouse.keys.admin import admin_of, create_admin_key, load_admin_key
from teehouse.keys.operations import create_tenant
from teehouse.keys.service import KeyService
from teehouse.local.children import Child
from teehouse.local.layout import Layout, write_private
from teehouse.local.operator_api import Operator
from teehouse.local.options import HOST
from teehouse.local.programs import child_environment, find_program, launch_command
from teehouse.local.reference import KeyServiceValues
from teehouse_core.appraise.policy import Policy
from teehouse_core.appraise.release_policy import COCO, ReleasePolicy
from teehouse_core.errors import LocalError
from teehouse_core.log.note import VerifierKey
from teehouse_core.seal.commands import sign_command
from teehouse_core.wire.commands import AdminSet, Command, CommandRequest
from teehouse_core.wire.labels import hash_label

__all__ = ["KEYS_PROGRAMS", "POLICY_ID", "KeysPlan", "port_of"]

KEYS_PROGRAMS: Final = ("teehouse-keys", "teehouse-witness")
ORIGIN: Final = "keys.local.teehouse"
WITNESS: Final = "witness.local.teehouse/1"
OPERATOR: Final = "this machine: counts as none"
POLICY_ID: Final = "simulated-sample"
ACCOUNTS: Final = ("2100000001", "2100000002")  # ids as existing clients name them
_SECONDS: Final = 30.0  # a program that prints one line and stops


@dataclass(frozen=True, slots=True)
class _Pair:
    access_key: str
    secret_key: str


class KeysPlan:
    """`prepare` before the policy is written, `service` once the gateway answers, `settle` once the service does."""

    def __init__(self, layout: Layout, release: str, image_sha256: str) -> None:
        self._layout = layout
        self._release, self._image = release, image_sha256
        self._folder = layout.keys
        self._port = self._witness_port = 0  # 0: any; then the one it had, so that a restart comes back there
        self._vkey = self._log_key = self._gateway = self._writer = ""
        self._pairs: dict[str, _Pair] = {}
        self._tenant = ""
        self._tokens: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The key service's address."""
        return f"http://{HOST}:{self._port}"

    # ── before anything runs ─────────────────────────────────────────────────────────────────────────────────────

    def prepare(self) -> KeyServiceValues:
        """Make keys and configuration that are missing; returns what the service must measure. Raises `LocalError`."""
        key, state = self._folder / "witness.key", self._folder / "witness.db"
        if not key.exists():
            state.unlink(missing_ok=True)
            made = _told("teehouse-witness", "init", "--key", key, "--state", state, "--name", WITNESS, "--json")
            self._layout.keep_secret("witness_vkey", str(made["vkey"]))
        self._vkey = self._layout.secret("witness_vkey") or ""
        for account in ACCOUNTS:
            self._pairs[account] = self._pair(account)
        self._write_accounts()
        self._write_config("http://127.0.0.1:9", "not made yet")  # addresses and tokens are not measured
        measured = _told("teehouse-keys", "--config", self._config, "--measure")
        self._log_key = str(_told("teehouse-keys", "--config", self._config, "--log-key")["vkey"])
        return KeyServiceValues(self._release, self._image, str(measured["config_sha256"]))

    def _pair(self, account: str) -> _Pair:
        names = (f"access_key_{account}", f"secret_key_{account}")
        made = _Pair(
            self._layout.secret(names[0]) or f"AKLT{secrets.token_hex(16)}",
            self._layout.secret(names[1]) or secrets.token_urlsafe(32),
        )
        self._layout.keep_secret(names[0], made.access_key)
        self._layout.keep_secret(names[1], made.secret_key)
        return made

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    def witness(self) -> Child:
        """It knows every log of this service by the one key."""
        ready = self._layout.run / "witness.ready.json"
        vkey = VerifierKey.parse(self._log_key)

        def command() -> list[str]:
            return launch_command(
                find_program("teehouse-witness"),
                *("serve", "--key", str(self._folder / "witness.key"), "--state", str(self._folder / "witness.db")),
                *("--listen", f"{HOST}:{self._witness_port}", "--log-prefix", f"{ORIGIN}={vkey.text}"),
                *("--ready-file", str(ready)),
            )

        return Child("witness", command, self._layout.log("witness"), ready)

    def service(self, witness: Mapping[str, Any], gateway: str, operator: Operator, *, fresh: bool) -> Child:
        """The key service; `witness` is what the witness's ready file says.

        `fresh`: the ledger's database is new, so old tokens are void.
        """
        self._witness_port = port_of(witness)
        token = None if fresh else self._layout.secret("ledger_writer")
        if token is None:
            token = operator.create_ledger_token("writer", "*", "teehouse-keys")
            self._layout.keep_secret("ledger_writer", token)
        self._gateway, self._writer = gateway, token
        self._write_config(gateway, token)
        return Child(
            "keys",
            lambda: launch_command(find_program("teehouse-keys"), "--config", str(self._config)),
            self._layout.log("keys"),
            self._ready,
        )

    # ── once it answers ──────────────────────────────────────────────────────────────────────────────────────────

    def settle(self, service: Mapping[str, Any], policy: Policy, operator: Operator, *, fresh: bool) -> None:
        """Make this user's tenant and the tokens that read its logs, once. Raises `TeehouseError`.

        `service` is what the key service's ready file says.
        """
        self._port = port_of(service)
        self._write_config(self._gateway, self._writer)
        admin = self._admin_file
        if not admin.exists():
            create_admin_key(admin)
            self._layout.keep_secret("tks_tenant", "")
        self._tenant = self._layout.secret("tks_tenant") or ""
        if not self._tenant:
            key = load_admin_key(admin)
            operation = create_tenant(AdminSet(1, (admin_of(key, "local"),)), {})
            with KeyService(self.url, policy) as opened:
                raw = opened.command(operation.tenant, "", 1, operation.op, operation.args)
                opened.send(CommandRequest(Command.parse(raw), (sign_command(raw, key),)))
            self._tenant = operation.tenant
            self._layout.keep_secret("tks_tenant", self._tenant)
        for name, tenant in (("audit_token", _compat_tenant(ACCOUNTS[0])), ("tenant_audit_token", self._tenant)):
            token = None if fresh else self._layout.secret(name)
            self._tokens[name] = token or operator.create_ledger_token("audit", f"tenant-{tenant}", "local")
            self._layout.keep_secret(name, self._tokens[name])
        self._write_pins()

    def state(self, gateway: str) -> dict[str, str]:
        """Members of the ready file."""
        first, other = ACCOUNTS
        return {
            "tks_url": self.url,
            "tks_account": first,
            "tks_other_account": other,
            "tks_policy_id": POLICY_ID,
            "tks_gateway": self.url,
            "access_key": self._pairs[first].access_key,
            "secret_key": self._pairs[first].secret_key,
            "tks_other_access_key": self._pairs[other].access_key,
            "tks_other_secret_key": self._pairs[other].secret_key,
            "audit_url": f"{gateway}/ledger/v1/tenant-{_compat_tenant(first)}",
            "audit_token": self._tokens["audit_token"],
            "audit_pins": str(self._pins),
            "tks_tenant": self._tenant,
            "tks_admin_key": str(self._admin_file),
            "tenant_audit_url": f"{gateway}/ledger/v1/tenant-{self._tenant}",
            "tenant_audit_token": self._tokens["tenant_audit_token"],
        }

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _config(self) -> Path:
        return self._layout.run / "keys.json"

    @property
    def _ready(self) -> Path:
        return self._layout.run / "keys.ready.json"

    @property
    def _accounts(self) -> Path:
        return self._layout.secrets / "accounts.json"

    @property
    def _pins(self) -> Path:
        return self._layout.root / "audit-pins.json"

    @property
    def _admin_file(self) -> Path:
        return self._layout.secrets / "admin.pem"

    def _write_accounts(self) -> None:
        accounts = [
            {"account": name, "access_key": pair.access_key, "secret_key": pair.secret_key, "direct_rest": True}
            for name, pair in self._pairs.items()
        ]
        write_private(self._accounts, json.dumps({"v": "tks-accounts/1", "accounts": accounts}) + "\n")

    def _write_config(self, gateway: str, token: str) -> None:
        policy = ReleasePolicy(
            id=POLICY_ID,
            appraisal=Policy.preset("evaluate"),
            roles=(),
            dialect=COCO,
            coco_tees=("sample",),
            unbound_key=True,
        )
        document = {
            "name": "keys-local",
            "release": self._release,
            "image_sha256": self._image,
            "platform": {"type": "simulated"},
            "listen": {"host": HOST, "port": self._port},
            "ready_file": str(self._ready),
            "origin": ORIGIN,
            "root": {"kind": "simulated", "path": str(self._folder / "SIMULATED-root.key")},
            "journal": {"kind": "sqlite", "path": str(self._folder / "journal.db")},
            "ledger": {"url": gateway, "token": token},
            "witnesses": [
                {
                    "name": WITNESS,
                    "vkey": self._vkey,
                    "url": f"http://{HOST}:{self._witness_port}",
                    "operator": OPERATOR,
                }
            ],
            "quorum": 1,
            "publish": {"policy": "evaluate"},
            "compat": {
                "accounts": str(self._accounts),
                "accounts_sha256": hashlib.sha256(self._accounts.read_bytes()).hexdigest(),
                "policies": [json.loads(policy.encode())],
                "direct_rest": True,
            },
            "limits": {"drain_s": 10},
        }
        write_private(self._config, json.dumps(document, indent=2) + "\n")

    def _write_pins(self) -> None:
        key = VerifierKey.parse(self._log_key)
        origins = [f"{ORIGIN}/public", *(f"{ORIGIN}/tenant/{t}" for t in (_compat_tenant(ACCOUNTS[0]), self._tenant))]
        document = {
            "v": "audit-pins/1",
            "log_keys": [VerifierKey(origin, key.alg, key.key).text for origin in origins],
            "quorum": 1,
            "witnesses": [{"vkey": self._vkey, "operator": OPERATOR}],
        }
        write_private(self._pins, json.dumps(document, indent=2) + "\n")


def port_of(ready: Mapping[str, Any]) -> int:
    """The port of the address in a ready file."""
    return int(str(ready["url"]).rsplit(":", 1)[1])


def _compat_tenant(account: str) -> str:
    """The tenant of an existing client's account (spec/07-keys.md §2)."""
    return "c-" + hash_label("tks compat tenant", account.encode())[:16].hex()


def _told(program: str, *arguments: object) -> Mapping[str, Any]:
    """The JSON that a program prints before it stops. Raises `LocalError` (`wheel-missing`, `keys-config`)."""
    command = [str(find_program(program)), *(str(one) for one in arguments)]
    try:
        done = subprocess.run(  # noqa: S603  our own list, no shell
            command, capture_output=True, text=True, timeout=_SECONDS, env=child_environment(), check=False
        )
        value = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise LocalError(f"{program} does not answer", code="keys-config") from exc
    except ValueError:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise LocalError(f"{program} refuses its configuration", code="keys-config", hint=last[:300] or None) from None
    return dict(value)
