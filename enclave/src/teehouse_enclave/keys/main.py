# SPDX-License-Identifier: Apache-2.0
"""`teehouse-keys --config FILE`: measure, unseal the root, prove that the store is the newest, serve, drain."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import uvicorn
import uvloop

from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.log.signing import log_key
from teehouse_core.seal.replay import NodeTime
from teehouse_core.wire.keyset import Software
from teehouse_enclave.keys.app import KeysApp, Mount
from teehouse_enclave.keys.box import Box, Root
from teehouse_enclave.keys.challenges import Challenges
from teehouse_enclave.keys.commands import due
from teehouse_enclave.keys.compat.setup import open_door
from teehouse_enclave.keys.config import KeysConfig
from teehouse_enclave.keys.desk import Desk
from teehouse_enclave.keys.hardening import harden
from teehouse_enclave.keys.identity import CAPABILITIES, NO_MODEL, ServiceKeys
from teehouse_enclave.keys.journal import Journal
from teehouse_enclave.keys.logwriter import Outside
from teehouse_enclave.keys.model import Change, State
from teehouse_enclave.keys.outbound import LedgerClient, WitnessClient, outside_client
from teehouse_enclave.keys.pools import PoolDesk
from teehouse_enclave.keys.publish import PublishDesk
from teehouse_enclave.keys.release import ReleaseDesk
from teehouse_enclave.keys.root import open_root
from teehouse_enclave.keys.service import Service, ServiceLimits
from teehouse_enclave.keys.start import log_key_of, open_books
from teehouse_enclave.keys.stores import open_backend, open_journal
from teehouse_enclave.keys.vault import Vault
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.log import log_event
from teehouse_enclave.platform.base import Platform, measure_workload
from teehouse_enclave.platform.detect import detect, make_platform

__all__ = ["main"]

_TICK = 1.0  # seconds between looks at what time has brought about
_DUE = 30.0  # seconds between looks for keys whose grace has ended


class _Server(uvicorn.Server):
    """Uvicorn that says when it listens, and tells the app when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: KeysApp, keys: KeysConfig) -> None:
        super().__init__(config)
        self._app = app
        self._keys = keys

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit or not self.servers:
            raise LocalError("cannot listen", code="listen", hint=f"is port {self._keys.port} taken?")
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"http://{self._keys.host}:{port}"
        log_event("ready", url=url, name=self._keys.name)
        if self._keys.ready_file:
            _write_ready(Path(self._keys.ready_file), url, self._keys)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._app.draining = True
            self.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        yield


def _write_ready(path: Path, url: str, keys: KeysConfig) -> None:
    document = {"version": 1, "url": url, "pid": os.getpid(), "name": keys.name, "origin": keys.origin}
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)


async def _tend(desk: Desk, pools: PoolDesk, publications: PublishDesk) -> None:
    """Keysets, pools and grace periods; failures are tried again at the next look."""
    loop = asyncio.get_running_loop()
    published, next_due = "", loop.time()
    while True:
        if desk.keys.tick(desk.now()):
            log_event("keyset", keyset_sha256=desk.keyset.sha256)
        pools.tick()
        if published != desk.keyset.sha256:
            with contextlib.suppress(TeehouseError):
                await publications.own(desk.keyset)
                published = desk.keyset.sha256
        if loop.time() >= next_due:
            next_due = loop.time() + _DUE
            await _end_what_is_over(desk.service)
        await asyncio.sleep(_TICK)


async def _end_what_is_over(service: Service) -> None:
    for state in service.states():
        for _ in due(state, service.now()):
            with contextlib.suppress(TeehouseError):
                await service.commit(state.tenant, _first_due)


def _first_due(state: State | None, now: int) -> Change:
    """One at a time, under the state of its own place: the list gets shorter as they are done."""
    changes = due(state, now) if state is not None else []
    if not changes:
        raise LocalError("nothing is over any more", code="not-due")
    return changes[0]


async def _serve(config: KeysConfig) -> None:
    platform = make_platform(
        config.platform,
        config.platform_root,
        collateral=config.platform_collateral,
        ak_chain=config.platform_ak_chain,
    )
    log_event("platform", type=platform.type)
    measure_workload(
        platform,
        release=config.release,
        image_sha256=config.image_sha256,
        config_sha256=config.config_sha256,
        weights_sha256=NO_MODEL.weights_sha256,
        model=NO_MODEL.name,
        doors=CAPABILITIES.doors,
        egress=CAPABILITIES.egress,
        content_logging=CAPABILITIES.content_logging,
        moderation=CAPABILITIES.moderation,
    )
    journal = open_journal(config.journal, ledger_url=config.ledger_url, ledger_token=config.ledger_token)
    try:
        root = _unseal(config, platform.type, journal)
        async with outside_client() as client:
            await _run(config, platform, root, journal, client)
    finally:
        journal.close()
        platform.close()
        log_event("stopped")


def _unseal(config: KeysConfig, platform: str, journal: Journal) -> Root:
    backend = open_backend(config.root, platform, config.platform_root)
    try:
        log_event("root", backend=backend.name, simulated=backend.simulated)
        return open_root(backend, journal)
    finally:
        backend.close()


def _show_log_key(config: KeysConfig) -> None:
    """The key under which witnesses take this service's logs; makes the root key when there is none yet."""
    platform = detect(config.platform_root) if config.platform == "auto" else config.platform
    journal = open_journal(config.journal, ledger_url=config.ledger_url, ledger_token=config.ledger_token)
    try:
        key = log_key_of(_unseal(config, platform, journal)).public_key()
    finally:
        journal.close()
    sys.stdout.write(json.dumps({"origin": config.origin, "vkey": log_key(config.origin, key).text}) + "\n")


async def _run(
    config: KeysConfig, platform: Platform, root: Root, journal: Journal, client: httpx2.AsyncClient
) -> None:
    """Check the store, then serve until asked to stop."""
    limits = config.limits
    clock = NodeTime(time.time(), time.monotonic())

    def now() -> int:
        return clock.now(time.time(), time.monotonic())

    box, log_signer = Box(root), log_key_of(root)
    witnesses = {
        one.name: WitnessClient(client, one, config.witness_urls[one.name]) for one in config.witnesses.witnesses
    }
    outside = Outside(LedgerClient(client, config.ledger_url, config.ledger_token), witnesses, config.witnesses)
    service = Service(
        origin=config.origin,
        journal=journal,
        box=box,
        log_key=log_signer,
        outside=outside,
        now=now,
        limits=ServiceLimits(
            max_tenants=limits.max_tenants,
            max_backlog=limits.max_backlog,
            commit_timeout=float(limits.commit_timeout_s),
        ),
        on_event=lambda event, log, code: log_event(event, log=log, code=code),
    )
    await open_books(service, log_signer)
    log_event("store", logs=len(service.books), quorum=config.witnesses.quorum)
    if config.witnesses.quorum == 0:
        log_event("no-witness", hint="quorum 0: nobody would notice an old or a forked store; for evaluation only")
    keys = ServiceKeys(
        config.name,
        Software(config.release, config.image_sha256, config.config_sha256),
        log_signer,
        now(),
        active=limits.key_active_s,
        overlap=limits.key_overlap_s,
        decrypt_only=limits.key_decrypt_only_s,
    )
    desk = Desk(service, keys, Vault(box), now, time.monotonic)
    pools = PoolDesk(desk, lambda event, endpoint, code: log_event(event, endpoint=endpoint, code=code))
    publications = PublishDesk(desk, config.publish, Challenges(limits.open_challenges))
    releases = ReleaseDesk(desk, pools, Challenges(limits.open_challenges))
    evidence = EvidenceMaker(platform, limits.evidence_per_second)
    mounts: list[Mount] = []
    if config.compat:
        mounts.append(open_door(config.compat, service, desk.vault, platform, now=now, clock=time.monotonic))
    app = KeysApp(desk, evidence, releases, pools, publications, limits, mounts)
    server = _Server(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            loop="uvloop",
            http="httptools",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=limits.drain_s,
        ),
        app,
        config,
    )
    line = asyncio.create_task(service.run())
    tending = asyncio.create_task(_tend(desk, pools, publications))
    try:
        await server.serve()
        await service.drain(limits.drain_s)
    finally:
        await pools.close()
        for task in (tending, line):
            task.cancel()
        await asyncio.gather(tending, line, return_exceptions=True)
        service.stop()


def _load(path: str) -> KeysConfig:
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LocalError(f"cannot read {path}", code="config-file", hint="a JSON file is wanted") from None
    if not isinstance(raw, dict):
        raise LocalError("configuration is no JSON object", code="config-file")
    return KeysConfig.parse(raw)


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 stopped as asked, 2 wrong configuration, 1 could not start (an old store, too few witnesses…)."""
    parser = argparse.ArgumentParser(prog="teehouse-keys", description="the Trusted Key Service of Teehouse")
    parser.add_argument("--config", required=True, metavar="FILE", help="JSON configuration")
    parser.add_argument("--measure", action="store_true", help="print what the configuration measures to, and stop")
    parser.add_argument("--log-key", action="store_true", help="print the key of this service's logs, and stop")
    arguments = parser.parse_args(argv)
    locked = harden()
    try:
        config = _load(arguments.config)
        if arguments.measure:
            document = {
                "release": config.release,
                "image_sha256": config.image_sha256,
                "config_sha256": config.config_sha256,
                "config": config.measured().decode("ascii"),
            }
            sys.stdout.write(json.dumps(document) + "\n")
            return 0
        if arguments.log_key:
            _show_log_key(config)
            return 0
        log_event("memory", locked=locked)
        uvloop.run(_serve(config))
    except LocalError as error:
        log_event("configuration-refused", code=error.code, message=error.message, hint=error.hint or "")
        return 2
    except TeehouseError as error:
        log_event("start-failed", code=error.code, message=error.message, hint=error.hint or "")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
