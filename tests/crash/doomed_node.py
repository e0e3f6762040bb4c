# SPDX-License-Identifier: Apache-2.0
"""A node on a SIMULATED machine that asks for one key by the node's own code, and writes down what it got.

The diary is a file that outlives it: a line before each request for a release, and one when a key has been opened.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from support_keys import ENDPOINT, Requester

from teehouse_core.appraise.policy import Policy
from teehouse_core.errors import TeehouseError
from teehouse_core.seal.pool import check_member
from teehouse_core.wire.grant import Release
from teehouse_core.wire.keyset import Keyset, SignKey, key_id
from teehouse_core.wire.pool import SignedPool
from teehouse_enclave.keys.algorithms import sealing_key
from teehouse_enclave.node.config import KeyServiceConfig
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.keys import Identity
from teehouse_enclave.node.release import KeyServiceClient, Released, outbound_client

__all__ = ["WAITING", "die_waiting", "live"]

WAITING = "node.waiting:during"  # while the key service decides; the hit counts steps of some milliseconds
_STEP = 0.004  # seconds


def die_waiting(steps: int, die: Callable[[], None]) -> None:
    """Arm: `die` so many steps after a release was asked for."""
    inner = KeyServiceClient._ask

    async def ask(client: KeyServiceClient, method: str, path: str, limit: int, content: bytes = b"") -> bytes:
        if path == "/v1/release":
            asyncio.get_running_loop().call_later(steps * _STEP, die)
        return await inner(client, method, path, limit, content)

    setattr(KeyServiceClient, "_ask", ask)  # noqa: B010  what mypy forbids as an assignment


def live(order: dict[str, Any]) -> int:
    """Ask once, with a few tries where the service is not that far yet; 0 when a key came."""
    diary = os.open(order["diary"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(**line: Any) -> None:
        os.write(diary, json.dumps(line).encode() + b"\n")

    inner = KeyServiceClient._ask

    async def ask(client: KeyServiceClient, method: str, path: str, limit: int, content: bytes = b"") -> bytes:
        if path == "/v1/release":
            write(asked=hashlib.sha256(Release.parse(content).bundle).hexdigest())
        return await inner(client, method, path, limit, content)

    setattr(KeyServiceClient, "_ask", ask)  # noqa: B010  as above
    for _ in range(order["tries"]):
        try:
            released = asyncio.run(_ask_for(order))
        except TeehouseError as error:
            write(error=error.code, hint=error.hint or "")
            time.sleep(0.1)
            continue
        grant = released.grant
        write(
            got=grant.log.to_json(),
            evidence=grant.evidence_sha256,
            key=grant.key,
            version=grant.version,
            digest=hashlib.sha256(released.key).hexdigest(),
        )
        return 0
    return 1


async def _ask_for(order: dict[str, Any]) -> Released:
    node, tenant = Requester(), order["tenant"]
    pk = node.sign.public_key().public_bytes_raw()
    async with outbound_client() as http:
        client = KeyServiceClient(
            http,
            KeyServiceConfig(order["url"], Policy.preset("evaluate").for_key_service()),
            EvidenceMaker(node.platform, 1000),
            Identity(node.endpoint, node.node, node.model, node.software, node.capabilities),
            SignKey(key_id("ed25519", pk), "ed25519", pk),
            lambda: int(time.time()),
        )
        if not order["pool"]:
            return await client.get_data_key(tenant, order["ring"], order["key"], order["version"])
        pool = Keyset.parse(SignedPool.parse(await client.signed_pool(ENDPOINT, tenant)).keyset)
        said = pool.pool
        assert said is not None
        released = await client.release(
            tenant=tenant, ring=said.ring, key=said.key, version=said.version, pool_keyset_sha256=pool.sha256
        )
        key = sealing_key(released.key)
        assert pool.hpke_key(key_id(key.suite, key.pk)) is not None, "the key of another pool"
        assert released.member is not None
        check_member(released.member, service=released.service, pool=pool, at=int(time.time()))
        return released
