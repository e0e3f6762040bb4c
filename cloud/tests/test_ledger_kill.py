# SPDX-License-Identifier: Apache-2.0
"""`teehouse-cloud serve` killed again and again while it appends: what it answered is there, groups are whole."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ledger_support import LOG, entry, frontier_of, leaf
from postgres_support import on_both_databases

from teehouse_cloud.ledger.tokens import create_ledger_token
from teehouse_cloud.store.database import Database
from teehouse_core.log.merkle import root_of
from teehouse_core.log.tiles import TilePath, parse_bundle, tile_path, tile_source

GROUP = 37  # entries of one append: full tiles fall into the middle of groups
ROUNDS = 6


async def writer_token(url: str) -> str:
    database = Database(url)
    token, _ = await create_ledger_token(database, "writer", "*", "tks", 1)
    await database.close()
    return token


class Served:
    def __init__(self, folder: Path, db_url: str) -> None:
        self.ready = folder / "ready.json"
        self.log = folder / "log"
        self._db = db_url
        self.token = asyncio.run(writer_token(db_url))
        self.process: subprocess.Popen[bytes] | None = None
        self.env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.env["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")  # else each start compiles its libraries anew

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "teehouse_cloud.main", "serve", "--db", self._db, "--port", "0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "--ready-file", str(self.ready)], stderr=log, env=self.env)
        end = time.monotonic() + 30
        while not self.ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def connect(self) -> http.client.HTTPConnection:
        where = urlsplit(json.loads(self.ready.read_text())["url"])
        return http.client.HTTPConnection(where.hostname or "", where.port, timeout=20)

    def call(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}"}
        connection.request(method, f"/ledger/v1/{LOG}{path}", data, headers)
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        return answer


@on_both_databases
def test_killed_while_appending(tmp_path: Path, db_url: str) -> None:
    served = Served(tmp_path, db_url)
    done = 0
    try:
        for _ in range(ROUNDS):
            served.start()
            connection = served.connect()
            if done:
                size = json.loads(served.call(connection, "GET", ""))["size"]
                assert size in (done, done + GROUP)  # the group that was under way is there whole, or not at all
            killer = threading.Timer(0.05 + secrets.randbelow(250) / 1000, served.kill)
            killer.start()
            try:
                while True:  # TKS begins again at what it knows to be stored: a repeat is no conflict
                    group = [entry(leaf(i)) for i in range(done, done + GROUP)]
                    answer = json.loads(served.call(connection, "POST", "/entries", {"first": done, "entries": group}))
                    done += GROUP
                    assert answer == {"size": done}
            except (OSError, http.client.HTTPException):
                pass
            killer.join()
            connection.close()
        assert done > 256
        served.start()
        connection = served.connect()
        size = json.loads(served.call(connection, "GET", ""))["size"]
        leaves = [leaf(i) for i in range(size)]
        kept: list[bytes] = []
        for at in range(0, size, 256):
            width = min(256, size - at)
            suffix = "" if width == 256 else f".p/{width}"
            kept += parse_bundle(served.call(connection, "GET", f"/tile/entries/{at // 256:03d}{suffix}"))
        assert kept == leaves

        def read(path: TilePath) -> bytes:
            tile: bytes = served.call(connection, "GET", "/" + tile_path(path.level, path.index, path.width))
            return tile

        assert root_of(tile_source(read, size), size) == frontier_of(leaves).root()
        connection.close()
    finally:
        served.kill()
