# SPDX-License-Identifier: Apache-2.0
"""Where a local platform keeps its files: one folder, closed to everybody else (0700), secrets in files of 0600."""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from teehouse_core.errors import LocalError

__all__ = ["Layout", "default_dir", "user_state_dir", "write_private"]

APP = "teehouse"
LOG_LIMIT = 8 * 1024 * 1024  # bytes; a log beyond this is turned over once when its process starts


def default_dir() -> Path:
    """The folder of `teehouse up` without `--dir`."""
    return platformdirs.user_data_path(APP) / "local"


def user_state_dir() -> Path:
    """Where this user's last platform is remembered."""
    return platformdirs.user_state_path(APP)


def write_private(path: Path, text: str) -> None:
    """Replace `path` in one step by a file of mode 0600. Raises `LocalError` (`dir-unusable`)."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as exc:
        part.unlink(missing_ok=True)
        raise LocalError(
            f"cannot write {path}: {exc.strerror}", code="dir-unusable", hint="choose a folder of your own"
        ) from exc


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one platform's folder."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "platform.db"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def policy(self) -> Path:
        return self.root / "policy.toml"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def keys(self) -> Path:
        """What the SIMULATED key service and its witness keep."""
        return self.root / "keys"

    @property
    def run(self) -> Path:
        """Node configurations and ready files of this run."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def state(self) -> Path:
        """What `status` and the other commands read: the ready file's content, kept while the platform runs."""
        return self.root / "platform.json"

    def empty_config(self) -> Path:
        """A config file without settings, for a session that must not be changed by the user's own."""
        path = self.run / "config.toml"
        write_private(path, "")
        return path

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Make the folders. Raises `LocalError` (`dir-unusable`, `dir-not-private`)."""
        try:
            for folder in (self.root, self.logs, self.secrets, self.run, self.keys):
                folder.mkdir(mode=0o700, parents=folder is self.root, exist_ok=True)
            if self.root.stat().st_uid != os.getuid():
                raise LocalError(
                    f"{self.root} belongs to somebody else", code="dir-not-private", hint="choose a folder of your own"
                )
            for folder in (self.root, self.logs, self.secrets, self.run, self.keys):
                if stat.S_IMODE(folder.stat().st_mode) != 0o700:
                    folder.chmod(0o700)
        except OSError as exc:
            raise LocalError(
                f"cannot use {self.root}: {exc.strerror}", code="dir-unusable", hint="choose another --dir"
            ) from exc

    def secret(self, name: str) -> str | None:
        """The content of one secret file, or None when there is none."""
        try:
            return (self.secrets / name).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    def keep_secret(self, name: str, value: str) -> Path:
        """Write one secret file (0600) and return its path."""
        path = self.secrets / name
        write_private(path, value + "\n")
        return path
