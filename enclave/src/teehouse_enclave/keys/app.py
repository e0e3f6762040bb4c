# SPDX-License-Identifier: Apache-2.0
"""The key service's HTTP surface as one bare ASGI callable (spec/07-keys.md §8).

    GET  /v1/evidence?challenge=     bundle over the service's keyset            anybody
    GET  /v1/keyset                  the keyset's bytes                          anybody
    GET  /v1/log?tenant=             origin, verifier key, witnesses, quorum     anybody
    POST /v1/commands                a signed command, also `state.read`         admins
    POST /v1/release/challenge       32 bytes for one release                    nodes
    POST /v1/release                 request and evidence → grant, or no         nodes
    POST /v1/dry-run                 who would get a key, and why not            admins
    GET  /v1/pools/{endpoint}        pool keyset, signature, release policy      anybody
    POST /v1/publish[/challenge]     into the public log                         nodes, publishers
    GET  /healthz /readyz /metrics

Every error is a problem document with a code of `errors.CODES`. Further paths belong to mounts (existing clients).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from teehouse_core.errors import MalformedError, OperatorError, TeehouseError
from teehouse_core.log.signing import log_key
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_core.wire.commands import READ_OP, CommandRequest
from teehouse_core.wire.fields import ENDPOINT
from teehouse_core.wire.frame import EVIDENCE_TYPE
from teehouse_core.wire.grant import MAX_RELEASE
from teehouse_enclave.keys.algorithms import Material, generate
from teehouse_enclave.keys.commands import authorise, authorise_read, parse_command
from teehouse_enclave.keys.config import KeysLimits
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.dryrun import dry_run
from teehouse_enclave.keys.errors import KeysError, StorageError
from teehouse_enclave.keys.http import (
    Receive,
    Scope,
    Send,
    parse_json,
    problem,
    query,
    read_body,
    send_answer,
    send_json,
    send_problem,
)
from teehouse_enclave.keys.journal import PUBLIC_LOG, tenant_log
from teehouse_enclave.keys.metrics import Metrics
from teehouse_enclave.keys.model import Change, State
from teehouse_enclave.keys.pools import PoolDesk
from teehouse_enclave.keys.publish import PublishDesk
from teehouse_enclave.keys.release import ReleaseDesk, ReleaseRefused
from teehouse_enclave.keys.service import origin_of
from teehouse_enclave.keys.views import show_state
from teehouse_enclave.node.evidence import EvidenceMaker, Rate
from teehouse_enclave.node.log import log_event

__all__ = ["KeysApp", "Mount"]

MAX_COMMAND_BODY: Final = 256 * 1024  # bytes: a command, its signatures, a sealed key
MAX_DRY_RUN: Final = 24 * 1024 * 1024
MAX_PUBLICATION: Final = MAX_RELEASE
JSON: Final = b"application/json"

_Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


_RSA: Final = "rsa4096"


class _SlowKey(Exception):  # noqa: N818  a signal
    """A command would make this key now."""


class Mount(Protocol):
    """Another door in the same process: it answers what it `handles`."""

    def handles(self, scope: Scope) -> bool: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class KeysApp:
    """All doors of one key service. `draining` refuses new requests while those under way end."""

    def __init__(
        self,
        desk: Desk,
        evidence: EvidenceMaker,
        releases: ReleaseDesk,
        pools: PoolDesk,
        publications: PublishDesk,
        limits: KeysLimits,
        mounts: Sequence[Mount] = (),
    ) -> None:
        self._desk = desk
        self._evidence = evidence
        self._releases = releases
        self._pools = pools
        self._publications = publications
        self._limits = limits
        self._mounts = tuple(mounts)
        self._rate = Rate(limits.releases_per_second)
        self._inflight = 0
        self.metrics = Metrics()
        self.draining = False
        self._routes: dict[tuple[str, str], _Handler] = {
            ("GET", "/v1/evidence"): self._get_evidence,
            ("GET", "/v1/keyset"): self._get_keyset,
            ("GET", "/v1/log"): self._get_log,
            ("POST", "/v1/commands"): self._command,
            ("POST", "/v1/release/challenge"): self._challenge,
            ("POST", "/v1/release"): self._release,
            ("POST", "/v1/dry-run"): self._dry_run,
            ("POST", "/v1/publish/challenge"): self._publish_challenge,
            ("POST", "/v1/publish"): self._publish,
            ("GET", "/healthz"): self._health,
            ("GET", "/readyz"): self._ready,
            ("GET", "/metrics"): self._metrics_text,
        }
        self._paths = frozenset(path for _, path in self._routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        handler, route = self._handler(scope)
        if self.metrics.active >= self._limits.max_active:
            await self._refuse(send, route, KeysError("over-limit", "too many requests at a time"))
            return
        self.metrics.active += 1
        try:
            await handler(scope, receive, send)
            self.metrics.count(route, "ok")
        except TeehouseError as error:
            await self._refuse(send, route, error)
        except Exception as error:  # whatever it was, the caller learns only that it was ours
            log_event("internal-error", route=route, kind=type(error).__name__)
            await self._refuse(send, route, KeysError("internal", "an error of this service"))
        finally:
            self.metrics.active -= 1

    def _handler(self, scope: Scope) -> tuple[_Handler, str]:
        method, path = scope["method"], scope["path"]
        found = self._routes.get((method, path))
        if found is not None:
            return found, path
        if method == "GET" and path.startswith("/v1/pools/"):
            return self._get_pool, "/v1/pools"
        for mount in self._mounts:
            if mount.handles(scope):
                return mount, "compat"
        return (self._wrong_method if path in self._paths else self._not_found), "none"

    async def _refuse(self, send: Send, route: str, error: TeehouseError) -> None:
        self.metrics.count(route, error.code)
        if isinstance(error, ReleaseRefused):
            status, body = problem(error.code, error.message, error.hint, error.members)
        elif isinstance(error, (KeysError, StorageError)):
            status, body = problem(error.code, error.message, error.hint)
        elif isinstance(error, MalformedError):
            status, body = problem("malformed", error.message, error.hint)
        elif isinstance(error, OperatorError):
            code = "over-limit" if error.wire_code == "over-limit" else "unavailable"
            status, body = problem(code, error.message, error.hint)
        else:
            status, body = problem("internal", "an error of this service")
        await send_problem(send, status, body)

    async def _body(self, scope: Scope, receive: Receive, limit: int) -> bytes:
        """The body, within what all requests together may hold. Raises KeysError."""
        if self.draining:
            raise KeysError("unavailable", "this service is stopping")
        length = dict(scope["headers"]).get(b"content-length", b"")
        size = int(length) if length.isdigit() and len(length) <= 12 else limit
        if self._inflight + min(size, limit) > self._limits.max_inflight_bytes:
            raise KeysError("over-limit", "too much is being received")
        self._inflight += min(size, limit)
        try:
            return await read_body(scope, receive, limit)
        finally:
            self._inflight -= min(size, limit)

    # ── who this is ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _get_evidence(self, scope: Scope, _receive: Receive, send: Send) -> None:
        value = unb64u(query(scope, "challenge"), 32)
        bundle = self._evidence.bundle(self._desk.keyset, value, time.monotonic())
        await send_answer(send, 200, EVIDENCE_TYPE.encode(), bundle)

    async def _get_keyset(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_answer(send, 200, JSON, self._desk.keyset.raw)

    async def _get_log(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Where a log is and who countersigns it. Says nothing about whether the tenant exists."""
        service, tenant = self._desk.service, query(scope, "tenant")
        origin = origin_of(service.origin, tenant_log(tenant) if tenant else PUBLIC_LOG)
        vkey = log_key(origin, service.log_public_key).text
        await send_json(send, {"origin": origin, "vkey": vkey, **service.outside.policy.to_json()})

    async def _health(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_json(send, {"status": "ok"})

    async def _ready(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        service = self._desk.service
        ready = not self.draining and not service.stopping
        document = {
            "ready": ready,
            "draining": self.draining,
            "keyset_sha256": self._desk.keyset.sha256,
            "logs": len(service.writers),
            "stalled": sorted(set(service.stalled.values())),
            "quorum": service.outside.policy.quorum,
        }
        await send_json(send, document, 200 if ready else 503)

    async def _metrics_text(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        text = self.metrics.text(self._desk.service, challenges=self._releases.open_challenges)
        await send_answer(send, 200, b"text/plain; version=0.0.4", text)

    async def _not_found(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeysError("not-found", "there is no such path")

    async def _wrong_method(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        raise KeysError("method-not-allowed", "this path has no such method")

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _command(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse_command(parse_json(await self._body(scope, receive, MAX_COMMAND_BODY)))
        desk, tenant = self._desk, request.command.tenant
        if request.command.op == READ_OP:
            now = desk.now()
            state = authorise_read(desk.service.state(tenant), request, desk.keys.digests(now), now)
            await send_json(send, {"result": show_state(state, now)})
            return

        tools = desk.tools(tenant)
        if (made := await self._slow_key(request)) is not None:
            tools = replace(tools, generate=lambda _algorithm: made)

        def propose(state: State | None, now: int) -> Change:
            return authorise(state, request, desk.keys.digests(now), now, tools)

        committed = await desk.service.commit(tenant, propose)
        self._pools.tick()
        await send_json(send, {"result": dict(committed.result), **committed.to_json()})

    async def _slow_key(self, request: CommandRequest) -> Material | None:
        """An RSA key takes seconds to make, which the journal's thread has not: made before, for a command that holds.

        It is tried on the state of now, so that nobody without the admins' signatures makes this service work.
        """
        desk, command, made = self._desk, request.command, ""

        def wanted(algorithm: str) -> Material:
            nonlocal made
            made = algorithm
            raise _SlowKey

        state, now = desk.service.state(command.tenant), desk.now()
        if command.op not in ("key.create", "key.rotate") or _RSA not in _algorithms(state, request):
            return None
        with contextlib.suppress(_SlowKey):
            tools = replace(desk.tools(command.tenant), generate=wanted)
            await asyncio.to_thread(authorise, state, request, desk.keys.digests(now), now, tools)
        return await asyncio.to_thread(generate, made) if made == _RSA else None

    async def _dry_run(self, scope: Scope, receive: Receive, send: Send) -> None:
        document = parse_json(await self._body(scope, receive, MAX_DRY_RUN))
        await send_json(send, await dry_run(self._desk, self._releases, document))

    # ── releases ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _challenge(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._body(scope, receive, 1024)
        if not self._rate.take(time.monotonic()):
            raise KeysError("over-limit", "too many challenges", hint="try again in a second")
        keyset_sha256, drawn = self._releases.challenge()
        await send_json(send, {"tks_keyset_sha256": keyset_sha256, "challenge": b64u(drawn)})

    async def _release(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._releases.release(await self._body(scope, receive, MAX_RELEASE))
        await send_answer(send, 200, JSON, answer.encode())

    async def _get_pool(self, scope: Scope, _receive: Receive, send: Send) -> None:
        endpoint = scope["path"].removeprefix("/v1/pools/")
        if not ENDPOINT.fullmatch(endpoint):
            raise KeysError("unknown-pool", "no pool keyset for this endpoint")
        issued = self._pools.current(endpoint, query(scope, "tenant"))
        await send_answer(send, 200, JSON, issued.signed.encode())

    # ── the public log ───────────────────────────────────────────────────────────────────────────────────────────

    async def _publish_challenge(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._body(scope, receive, 1024)
        if not self._rate.take(time.monotonic()):
            raise KeysError("over-limit", "too many challenges", hint="try again in a second")
        await send_json(send, {"challenge": self._publications.challenge()})

    async def _publish(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive, MAX_PUBLICATION)
        document: Any = await asyncio.to_thread(parse_json, body)
        await send_json(send, await self._publications.publish(document))


def _algorithms(state: State | None, request: CommandRequest) -> tuple[str, ...]:
    """Of which algorithm a key would be made, as far as arguments and state say."""
    args, ring = request.command.args, request.command.ring
    key = state.key(ring, str(args.get("key", ""))) if state is not None else None
    return (str(args.get("algorithm", "")), key.algorithm if key is not None else "")
