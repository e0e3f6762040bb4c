# SPDX-License-Identifier: Apache-2.0
"""The member `compat` of the key service's configuration, and the door that it opens.

| member | meaning |
| accounts | path of the accounts file, mode 0600; not measured, but its digest is: |
| accounts_sha256 | hex SHA-256 of that file |
| policies | release policies that `policyID` may name, as JSON |
| direct_rest | take calls that only name an account; default false |
| hosts | further names under which clients sign |
| service, region | of the V4 scope; "pcc" and any |
| collateral | folder with what vendors signed (TCB info, certificates, revocation lists), or absent |

All but `accounts` and `collateral` decide who gets a key, so they are measured.
"""

from __future__ import annotations

import hashlib
import hmac
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.wire.canonical import encode
from teehouse_core.wire.fields import HEX64
from teehouse_enclave.keys.compat.accounts import MAX_FILE, Accounts
from teehouse_enclave.keys.compat.actions import Actions
from teehouse_enclave.keys.compat.door import CompatDoor, DoorSettings
from teehouse_enclave.keys.compat.store import Store
from teehouse_enclave.keys.policy import ReleasePolicy
from teehouse_enclave.keys.service import Service
from teehouse_enclave.keys.vault import Vault
from teehouse_enclave.platform.base import Platform

__all__ = ["open_door"]

_MEMBERS: Final = frozenset(
    {"accounts", "accounts_sha256", "policies", "direct_rest", "hosts", "service", "region", "collateral"}
)
MAX_POLICIES: Final = 64
MAX_HOSTS: Final = 8
MAX_COLLATERAL_FILES: Final = 256
MAX_COLLATERAL: Final = 8 * 1024 * 1024  # bytes of one file


def open_door(
    given: Mapping[str, Any],
    service: Service,
    vault: Vault,
    platform: Platform,
    *,
    now: Callable[[], int],
    clock: Callable[[], float],
) -> CompatDoor:
    """The door as configured. Raises `LocalError` (`config-compat`, `accounts`), naming the member."""
    if unknown := set(given) - _MEMBERS:
        raise _wrong(sorted(unknown)[0], "is unknown")
    policies = _policies(given.get("policies", []))
    direct_rest, region = given.get("direct_rest", False), given.get("region", "")
    hosts, name = given.get("hosts", []), given.get("service", "pcc")
    if type(direct_rest) is not bool:
        raise _wrong("direct_rest", "is not true or false")
    if not isinstance(region, str) or not isinstance(name, str) or not name:
        raise _wrong("service", "and region are texts")
    if not isinstance(hosts, list) or len(hosts) > MAX_HOSTS or not all(isinstance(host, str) for host in hosts):
        raise _wrong("hosts", f"is not a list of at most {MAX_HOSTS} names")
    shelf = given.get("collateral")
    if shelf is not None and not isinstance(shelf, str):
        raise _wrong("collateral", "is no path")
    actions = Actions(
        Store(service, vault),
        platform,
        policies,
        clock=clock,
        collateral=(lambda: _collateral(Path(shelf))) if shelf else dict,
    )
    settings = DoorSettings(direct_rest, name, region or None, tuple(hosts))
    return CompatDoor(actions, _accounts(given), settings, now=now, clock=clock)


def _accounts(given: Mapping[str, Any]) -> Accounts:
    path, digest = given.get("accounts"), given.get("accounts_sha256")
    if not isinstance(path, str) or not path:
        raise _wrong("accounts", "is missing: the path of the accounts file")
    if not isinstance(digest, str) or not HEX64.fullmatch(digest):
        raise _wrong("accounts_sha256", "is missing: the SHA-256 of the accounts file in hex")
    try:
        file = Path(path)
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise _wrong("accounts", "names a file that others can read", "chmod 600")
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE + 1)
    except OSError:
        raise _wrong("accounts", "names a file that cannot be read") from None
    if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), digest):
        raise _wrong("accounts_sha256", "is not the digest of the accounts file")
    return Accounts.parse(data)


def _policies(given: Any) -> dict[str, ReleasePolicy]:
    if not isinstance(given, list) or len(given) > MAX_POLICIES:
        raise _wrong("policies", f"is not a list of at most {MAX_POLICIES}")
    found: dict[str, ReleasePolicy] = {}
    for item in given:
        try:
            policy = ReleasePolicy.parse(encode(item))
        except TeehouseError as error:
            raise _wrong("policies", f"holds one that does not read: {error.message}", error.hint) from None
        if policy.id in found:
            raise _wrong("policies", f"holds {policy.id} twice")
        found[policy.id] = policy
    return found


def _collateral(folder: Path) -> dict[str, bytes]:
    """What the folder holds now; nobody believes it before its signatures were checked."""
    files: dict[str, bytes] = {}
    try:
        for path in sorted(folder.iterdir())[:MAX_COLLATERAL_FILES]:
            if path.is_file() and path.stat().st_size <= MAX_COLLATERAL:
                files[path.name] = path.read_bytes()
    except OSError:
        return files  # evidence without collateral is refused, which is what is missing then
    return files


def _wrong(member: str, why: str, hint: str | None = None) -> LocalError:
    return LocalError(f"compat.{member} {why}", code="config-compat", hint=hint)
