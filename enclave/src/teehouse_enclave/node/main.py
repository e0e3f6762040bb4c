# SPDX-License-Identifier: Apache-2.0
"""`teehouse-node --config FILE`: measure, make keys, serve, drain. Keeps nothing on disk."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import uvloop

from teehouse_core.errors import LocalError, TeehouseError
from teehouse_core.seal.replay import NodeTime
from teehouse_core.wire.keyset import Capabilities, Model, Software
from teehouse_enclave.engine import make_engine
from teehouse_enclave.engine.base import Engine
from teehouse_enclave.node.app import NodeApp
from teehouse_enclave.node.config import NodeConfig
from teehouse_enclave.node.evidence import EvidenceMaker
from teehouse_enclave.node.exchange import Room
from teehouse_enclave.node.keys import Identity, NodeKeys
from teehouse_enclave.node.ledger import LedgerEvidence
from teehouse_enclave.node.log import log_event
from teehouse_enclave.node.pool import PoolKeys
from teehouse_enclave.node.release import KeyServiceClient, outbound_client
from teehouse_enclave.node.unlock import SealedEngine, released_data_key, start_sealed
from teehouse_enclave.node.usage import UsageRing
from teehouse_enclave.node.weights import SealedWeights
from teehouse_enclave.platform.base import Platform, measure_workload
from teehouse_enclave.platform.detect import PLATFORMS, make_platform
from teehouse_enclave.platform.nvml import NvmlDevices

__all__ = ["main"]

CAPABILITIES = Capabilities(egress="none", content_logging="none", moderation="none", doors=())


class _Server(uvicorn.Server):
    """Uvicorn that says when it listens, and tells the app when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: NodeApp, node: NodeConfig) -> None:
        super().__init__(config)
        self._app = app
        self._node = node

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit or not self.servers:
            raise LocalError("cannot listen", code="listen", hint=f"is port {self._node.port} taken?")
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"http://{self._node.host}:{port}"
        log_event("ready", url=url, node=self._node.node, endpoint=self._node.endpoint)
        if self._node.ready_file:
            _write_ready(Path(self._node.ready_file), url, self._node)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._app.draining = True
            self.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        yield


def _write_ready(path: Path, url: str, node: NodeConfig) -> None:
    document = {"version": 1, "url": url, "pid": os.getpid(), "node": node.node, "endpoint": node.endpoint}
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(document), encoding="utf-8")
    temporary.replace(path)


def _measure(platform: Platform, config: NodeConfig, model: Model) -> Identity:
    """Extend what the keyset will claim, before the first keyset exists."""
    measure_workload(
        platform,
        release=config.release,
        image_sha256=config.image_sha256,
        config_sha256=config.config_sha256,
        weights_sha256=model.weights_sha256,
        model=model.name,
        doors=CAPABILITIES.doors,
        egress=CAPABILITIES.egress,
        content_logging=CAPABILITIES.content_logging,
        moderation=CAPABILITIES.moderation,
    )
    return Identity(
        endpoint=config.endpoint,
        node=config.node,
        model=model,
        software=Software(config.release, config.image_sha256, config.config_sha256),
        capabilities=CAPABILITIES,
    )


async def _rotate(keys: NodeKeys, clock: NodeTime) -> None:
    while True:
        await asyncio.sleep(1)
        if keys.tick(clock.now(time.time(), time.monotonic())):
            log_event("keyset", keyset_sha256=keys.keyset.sha256)


async def _serve(config: NodeConfig) -> None:
    # Encrypted weights need a key, a key needs evidence, and evidence names the weights: so it names those of the
    # signed manifest, and `start_sealed` holds the engine to them before anything is served.
    engine: Engine | None = None
    sealed: SealedWeights | None = None
    running: SealedEngine | None = None
    if config.weights is None:
        engine = make_engine(config.engine)
        info = await engine.start()
        model = Model(info.model, info.weights_sha256)
        log_event("engine", engine=info.engine, version=info.version, weights_sha256=info.weights_sha256)
    else:
        sealed = await asyncio.to_thread(SealedWeights.open, config.weights, config.engine)
        model = Model(config.engine.name, sealed.weights_sha256)
    platform = make_platform(
        config.platform,
        config.platform_root,
        collateral=config.platform_collateral,
        ak_chain=config.platform_ak_chain,
    )
    devices = NvmlDevices() if config.devices else None
    log_event("platform", type=platform.type, attestation_key=getattr(platform, "attestation_key_sha256", ""))
    identity = _measure(platform, config, model)
    clock = NodeTime(time.time(), time.monotonic())

    def now() -> int:
        return clock.now(time.time(), time.monotonic())

    keys = NodeKeys(identity, config.limits, now())
    boot = secrets.token_hex(16)
    evidence = EvidenceMaker(platform, config.limits.evidence_per_second, devices)
    http = outbound_client()
    tasks = [asyncio.create_task(_rotate(keys, clock))]
    pool: PoolKeys | None = None
    ledger: LedgerEvidence | None = None
    if config.key_service is not None:
        client = KeyServiceClient(http, config.key_service, evidence, identity, keys.sign_key, now)
        if sealed is not None:
            running = await start_sealed(sealed, released_data_key(client, config.engine.start_timeout), model)
            engine = running.engine
        if config.pool is not None:
            pool = PoolKeys(client, config.pool, keys.ring, config.endpoint, keys.sign_key, now)
            tasks.append(asyncio.create_task(pool.run()))
        if config.ledger is not None:
            ledger = LedgerEvidence(client, http, config.ledger, keys, evidence)
            tasks.append(asyncio.create_task(ledger.run()))
    if engine is None:
        raise LocalError("encrypted weights need a key service", code="key-service-policy")
    room = Room(engine, model.name, keys, UsageRing(boot), now)
    app = NodeApp(room, evidence, config.limits, boot=boot, pool=pool, ledger=ledger)
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
            timeout_graceful_shutdown=config.limits.drain_s,
        ),
        app,
        config,
    )
    try:
        await server.serve()
    finally:
        for task in tasks:
            task.cancel()
        await http.aclose()
        await (running or engine).close()
        platform.close()
        log_event("stopped")


def _load(path: str, platform: str | None = None) -> NodeConfig:
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LocalError(f"cannot read {path}", code="config-file", hint="a JSON file is wanted") from None
    if not isinstance(raw, dict):
        raise LocalError("configuration is no JSON object", code="config-file")
    if platform is not None:
        given = raw.get("platform", {})
        raw["platform"] = {**given, "type": platform} if isinstance(given, dict) else given
    return NodeConfig.parse(raw)


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 stopped as asked, 2 wrong configuration, 1 could not start."""
    parser = argparse.ArgumentParser(prog="teehouse-node", description="the part of Teehouse that runs inside the TEE")
    parser.add_argument("--config", required=True, metavar="FILE", help="JSON configuration")
    parser.add_argument("--platform", choices=PLATFORMS, help="instead of the configuration's platform.type")
    parser.add_argument("--measure", action="store_true", help="print what the configuration measures to, and stop")
    arguments = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold prompts and keys
    try:
        config = _load(arguments.config, arguments.platform)
        if arguments.measure:
            document = {
                "release": config.release,
                "image_sha256": config.image_sha256,
                "config_sha256": config.config_sha256,
                "config": config.measured().decode("ascii"),
            }
            sys.stdout.write(json.dumps(document) + "\n")
            return 0

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
