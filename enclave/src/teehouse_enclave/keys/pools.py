# SPDX-License-Identifier: Apache-2.0
"""Pool keysets: session keys that live here and are signed for a while at a time (PROTOCOL §6).

Each epoch is a version of the pool's key, made by an entry in the tenant's log. A keyset is published anew when the
version, the release policy or the service's own keyset changes; the ones before stay known while their key opens, so
that a member can still be certified for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from teehouse_core.appraise.checks_pool import pool_claims
from teehouse_core.errors import TeehouseError
from teehouse_core.wire import keyset as wire
from teehouse_core.wire.keyset import HpkeKey, Keyset, key_id
from teehouse_core.wire.pool import (
    MemberCertificate,
    SignedPool,
    build_pool_keyset,
    pool_keyset_message,
    pool_member_message,
)
from teehouse_core.wire.suites import DEFAULT_SUITE
from teehouse_enclave.keys.commands import rotate_pool
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.errors import KeysError
from teehouse_enclave.keys.journal import tenant_log
from teehouse_enclave.keys.model import ACTIVE, Change, Key, Pool, State, Version
from teehouse_enclave.keys.policy import ReleasePolicy

__all__ = ["Issued", "PoolDesk"]

_LEAD: Final = 60  # seconds before the end of an epoch at which the next one begins
_RETRY: Final = 10  # seconds after a rotation that did not come out


@dataclass(frozen=True, slots=True)
class Issued:
    """One signed pool keyset. `ends` is when its key opens nothing any more, Unix seconds."""

    tenant: str
    keyset: Keyset
    signed: SignedPool = field(repr=False)
    version: int
    ends: int


class PoolDesk:
    """Issues and rotates; `on_event(event, endpoint, code)` is told of both."""

    def __init__(self, desk: Desk, on_event: Callable[[str, str, str], None]) -> None:
        self._desk = desk
        self._on_event = on_event
        self._issued: list[Issued] = []
        self._rotating: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._not_before: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}  # newest version, and the log's size when it appeared
        self._unfit: dict[tuple[str, str], str] = {}  # policies that no pool keyset can stand for, told once

    def current(self, endpoint: str, tenant: str = "") -> Issued:
        """The newest pool keyset of an endpoint; name the tenant where several have one. Raises `unknown-pool`."""
        self.tick()
        now = self._desk.now()
        found: dict[str, Issued] = {}
        for one in self._issued:  # oldest first
            fits = one.keyset.endpoint == endpoint and tenant in ("", one.tenant)
            if fits and now < one.keyset.not_after:
                found[one.tenant] = one
        if len(found) != 1:
            hint = "several tenants have one: add ?tenant=" if found else None
            raise KeysError("unknown-pool", "no pool keyset for this endpoint", hint=hint)
        return next(iter(found.values()))

    def find(self, keyset_sha256: str) -> Issued | None:
        """A pool keyset issued here whose key still opens."""
        now = self._desk.now()
        return next((one for one in self._issued if one.keyset.sha256 == keyset_sha256 and now < one.ends), None)

    def certify(self, issued: Issued, member: Keyset) -> tuple[bytes, bytes]:
        """Member certificate and its signature for a requester that was accepted; it has a `sign` key."""
        certificate = MemberCertificate(
            pool_keyset_sha256=issued.keyset.sha256,
            node=member.node,
            keyset_sha256=member.sha256,
            sign_pk=member.sign[0].pk,
            not_after=issued.ends,
        ).encode()
        return certificate, self._desk.keys.sign(pool_member_message(certificate))

    def tick(self) -> None:
        """Issue what is missing, start rotations that are due, forget what is over."""
        now = self._desk.now()
        self._issued = [one for one in self._issued if now < one.ends]
        for state in self._desk.service.states():
            for pool in state.pools.values():
                self._tend(state, pool, now)

    async def close(self) -> None:
        """Stop rotations that are under way."""
        for task in self._rotating.values():
            task.cancel()
        await asyncio.gather(*self._rotating.values(), return_exceptions=True)

    def _tend(self, state: State, pool: Pool, now: int) -> None:
        key = state.key(pool.ring, pool.key)
        version = key.current if key is not None else None
        if key is None or version is None or key.state != ACTIVE:
            return
        end = version.created_at + pool.active_seconds
        if now >= end - min(_LEAD, pool.active_seconds // 2):
            self._rotate(state.tenant, pool.endpoint, now)
        fits = now < end and version.policy_sha256 == key.policy_sha256
        if fits and not self._stands(state, pool, version) and self._logged(state.tenant, pool.endpoint, version):
            self._issue(state, pool, key, version)

    def _logged(self, tenant: str, endpoint: str, version: Version) -> bool:
        """Whether a published checkpoint covers what was journaled when this version was first seen: its entry too."""
        service, log = self._desk.service, tenant_log(tenant)
        writer, book = service.writers.get(log), service.books.get(log)
        if writer is None or book is None:
            return False
        number, size = self._seen.get((tenant, endpoint), (0, 0))
        if number != version.number:
            size = book.frontier.size  # never behind the state that showed the version
            self._seen[(tenant, endpoint)] = (version.number, size)
        return writer.published >= size

    def _stands(self, state: State, pool: Pool, version: Version) -> bool:
        said = _said(self._desk, pool, version)
        return any(one.tenant == state.tenant and one.keyset.pool == said for one in self._issued)

    def _issue(self, state: State, pool: Pool, key: Key, version: Version) -> None:
        begin, end = version.created_at, version.created_at + pool.active_seconds
        place = (state.tenant, pool.endpoint)
        try:
            # Not what `pool.create` said but what the policy of now ensures for every member: the two may have parted.
            model, software, capabilities = pool_claims(ReleasePolicy.stored(key.policy).appraisal, pool.model.name)
        except TeehouseError as error:
            if self._unfit.get(place) != key.policy_sha256:
                self._unfit[place] = key.policy_sha256
                self._on_event("pool-policy-unfit", pool.endpoint, error.code)
            return
        raw = build_pool_keyset(
            endpoint=pool.endpoint,
            pool=_said(self._desk, pool, version),
            hpke=[HpkeKey(key_id(DEFAULT_SUITE, version.public), DEFAULT_SUITE, version.public, begin, end)],
            model=model,
            software=software,
            capabilities=capabilities,
            not_before=begin,
            not_after=end,
        )
        keyset = Keyset.parse(raw)
        sig = self._desk.keys.sign(pool_keyset_message(keyset.digest))
        signed = SignedPool(raw, sig, key.policy)
        self._issued.append(Issued(state.tenant, keyset, signed, version.number, end + pool.overlap_seconds))
        self._on_event("pool-keyset", pool.endpoint, keyset.sha256)

    def _rotate(self, tenant: str, endpoint: str, now: int) -> None:
        place = (tenant, endpoint)
        running = self._rotating.get(place)
        if (running is not None and not running.done()) or now < self._not_before.get(place, 0):
            return
        self._not_before[place] = now + _RETRY
        self._rotating[place] = asyncio.create_task(self._rotated(tenant, endpoint))

    async def _rotated(self, tenant: str, endpoint: str) -> None:
        desk = self._desk

        def propose(state: State | None, now: int) -> Change:
            if state is None:
                raise KeysError("unknown-pool", "no such tenant")
            return rotate_pool(state, endpoint, now, desk.tools(tenant))

        try:
            await desk.service.commit(tenant, propose)
        except TeehouseError as error:
            self._on_event("pool-rotation-failed", endpoint, error.code)
        else:
            self._on_event("pool-rotated", endpoint, "")
            self.tick()


def _said(desk: Desk, pool: Pool, version: Version) -> wire.Pool:
    return wire.Pool(desk.keyset.sha256, version.policy_sha256, pool.ring, pool.key, str(version.number))
