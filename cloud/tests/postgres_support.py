# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL for tests: its own cluster in a fresh folder, reached by a Unix socket only, gone afterwards."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

# fsync off: what is under test is the SQL, and killing the machine is not part of it
OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200", "listen_addresses=")
START_SECONDS = 30.0

on_both_databases = pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
"""A test that takes `empty_url`, `db_url` or `world` runs once on each."""


def programs() -> Path:
    """The folder of initdb and postgres; Debian does not put it on PATH. Skips when there is none."""
    found = shutil.which("postgres")
    candidates = [found] if found else sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    if not candidates or not (Path(candidates[-1]).parent / "initdb").exists():
        pytest.skip("missing program: postgres")
    return Path(candidates[-1]).resolve().parent


class PostgresServer:
    """One running cluster. As root it runs under another user, since PostgreSQL refuses root."""

    def __init__(self, options: Sequence[str] = OPTIONS) -> None:
        where = programs()
        # short, and below /tmp: a socket path has 107 characters at most, and the other user must be able to reach it
        self.folder = Path(tempfile.mkdtemp(prefix="th-pg-", dir="/tmp"))
        self._as: dict[str, Any] = {"cwd": self.folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        if os.geteuid() == 0:
            owner = _somebody()
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._as |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        data = self.folder / "data"
        subprocess.run(
            [where / "initdb", "-D", data, "-U", "teehouse", "--auth=trust", "--encoding=UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=60,
            **self._as,
        )
        settings = [word for option in options for word in ("-c", option)]
        self._log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            [where / "postgres", "-D", data, "-k", self.folder, *settings],
            stdout=self._log,
            stderr=self._log,
            **self._as,
        )
        self._where = where
        self._made = 0
        end = time.monotonic() + START_SECONDS
        while subprocess.run([where / "pg_isready", "-q", "-h", self.folder], check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                log = (self.folder / "log").read_text()
                self.stop()
                pytest.fail(f"PostgreSQL did not start: {log}")
            time.sleep(0.05)

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of `template`; returns its URL."""
        self._made += 1
        name = f"t{self._made}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.sql(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def url(self, name: str) -> str:
        return f"postgresql://teehouse@/{name}?host={self.folder}"

    def sql(self, text: str) -> None:
        command = [self._where / "psql", "-X", "-q", "-h", self.folder, "-U", "teehouse", "-d", "postgres", "-c", text]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            self._process.wait(20)
        self._log.close()
        shutil.rmtree(self.folder)


def _somebody() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("missing program: postgres may not run as root, and there is no user postgres or nobody")
