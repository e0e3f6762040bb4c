# SPDX-License-Identifier: Apache-2.0
"""Encrypting a model, part by part, so that a process killed at any moment goes on where it was.

A part is written beside its place, made durable and renamed; one that was begun is begun again under a new salt, so no
nonce ever serves two plaintexts. What is finished is opened and hashed on the way, never trusted by its name. The
manifest is written last: a folder without one is unfinished. `unfinished.json` holds no secret.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse.models.lanes import Lanes, sha256
from teehouse.models.work import (
    Meter,
    Progress,
    default_jobs,
    folder_lock,
    listing,
    read_exactly,
    replace_durably,
    run_jobs,
    storing,
    sync_folder,
)
from teehouse_core.errors import LocalError
from teehouse_core.weights.chunks import PartCipher, key_commit
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import (
    FILE_LAYOUT,
    FOLDER_LAYOUT,
    MAX_FILES,
    FileEntry,
    KeyRef,
    Manifest,
    build_manifest,
    check_name,
)
from teehouse_core.weights.plan import (
    CHUNK_SIZE,
    HEADER_SIZE,
    ID_SIZE,
    MAX_PARTS,
    PART_CHUNKS,
    SALT_SIZE,
    SUFFIX,
    Cut,
    Part,
    parts_of_file,
)
from teehouse_core.weights.signing import MANIFEST_NAME, sign_manifest
from teehouse_core.wire.canonical import b64u

__all__ = ["STATE_NAME", "Encryption", "Facts", "Plain", "SourceFile", "encrypt_model", "source_files"]

STATE_NAME = "unfinished.json"
_STATE_VERSION = "teehouse-weights-unfinished/1"


class Plain(Protocol):
    """A file's plaintext, read once from its start."""

    def read_into(self, view: memoryview) -> None:
        """Fill the whole view, or raise."""
        ...

    def skip(self, count: int) -> None:
        """Pass over bytes that are sealed already."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source is; a resumed run must find the same. `stamp` changes when a source file does."""

    model: str
    layout: str
    files: tuple[tuple[str, int], ...]  # name and bytes, sorted by name
    stamp: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the model on this machine."""

    name: str
    path: Path
    size: int
    stamp: str

    def check(self) -> None:
        """Raises LocalError `source-changed`."""
        if _stamp(self.path.stat()) != self.stamp:
            raise _changed(self.name)


class _FilePlain:
    def __init__(self, source: SourceFile) -> None:
        self._name = source.name
        self._file = source.path.open("rb", buffering=0)

    def read_into(self, view: memoryview) -> None:
        read_exactly(self._file, view, lambda: _changed(self._name))

    def skip(self, count: int) -> None:
        self._file.seek(count, os.SEEK_CUR)

    def close(self) -> None:
        self._file.close()


def source_files(source: Path) -> tuple[str, list[SourceFile]]:
    """Layout and files of a model on this machine, as a node would hash it. Raises LocalError, WeightsError."""
    try:
        if source.is_file():
            return FILE_LAYOUT, [_source_file(source.name, source)]
        if not source.is_dir():
            raise LocalError(f"no model at {source}", code="model-missing")
        found: list[SourceFile] = []
        for path in sorted(source.rglob("*")):
            if path.is_dir():
                if path.is_symlink():
                    raise LocalError("the model holds a link to a folder", code="source-link")
                continue
            if not path.is_file():
                raise LocalError("the model holds something that is not a file", code="source-not-file")
            if len(found) == MAX_FILES:
                raise LocalError(f"the model has more than {MAX_FILES} files", code="too-many-files")
            found.append(_source_file(path.relative_to(source).as_posix(), path))
    except OSError as error:
        raise LocalError(f"cannot read {source}: {error.strerror}", code="file-unreadable") from None
    if not found:
        raise LocalError(f"{source} is empty", code="no-files")
    return FOLDER_LAYOUT, sorted(found, key=lambda file: file.name)


def encrypt_model(
    source: Path,
    out: Path,
    *,
    model: str,
    data_key: bytes,
    publisher: Ed25519PrivateKey,
    key: KeyRef | None = None,
    chunk_size: int = CHUNK_SIZE,
    part_chunks: int = PART_CHUNKS,
    jobs: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Encrypt a file or folder into `out`, going on if `out` holds a beginning of the same.

    Raises LocalError (`source-changed`, `output-exists`, `unfinished-other`, `disk-full`, …) or WeightsError.
    """
    layout, files = source_files(source)
    facts = Facts(model, layout, tuple((f.name, f.size) for f in files), tuple(f.stamp for f in files))
    with Encryption(
        out, facts, data_key=data_key, publisher=publisher, key=key, chunk_size=chunk_size, part_chunks=part_chunks
    ) as work:
        stop = threading.Event()
        meter = Meter(sum(file.size for file in files))

        def job(number: int, file: SourceFile) -> Callable[[], None]:
            def run() -> None:
                if work.is_done(number):
                    meter.move(file.size)
                    return
                plain = _FilePlain(file)
                try:
                    work.seal(number, plain, stop, meter.move)
                finally:
                    plain.close()
                file.check()
                work.done(number)

            return run

        with storing(out):
            run_jobs(
                (job(number, file) for number, file in enumerate(files)), jobs or default_jobs(), meter, stop, progress
            )
        return work.finish()


class Encryption:
    """One encryption under way into one folder; a context that holds the folder's lock."""

    def __init__(
        self,
        out: Path,
        facts: Facts,
        *,
        data_key: bytes,
        publisher: Ed25519PrivateKey,
        key: KeyRef | None = None,
        chunk_size: int = CHUNK_SIZE,
        part_chunks: int = PART_CHUNKS,
    ) -> None:
        for name, _ in facts.files:
            check_name(name)
        self._out = out
        self._facts = facts
        self._data_key = data_key
        self._publisher = publisher
        self._key = key or KeyRef()
        self._wanted = (chunk_size, part_chunks)
        self._cut = Cut(secrets.token_bytes(ID_SIZE), chunk_size, part_chunks)
        if sum(self._cut.part_count(size) for _, size in facts.files) > MAX_PARTS:
            raise LocalError("the model has too many parts", code="weights-cut", hint="choose larger parts")
        self._digests: dict[int, str] = {}  # of files that are sealed and durable
        self._sealed: dict[int, str] = {}  # of files that are sealed
        self._guard = threading.Lock()

    def __enter__(self) -> Encryption:
        with storing(self._out):
            self._out.mkdir(parents=True, exist_ok=True)
            self._lock = folder_lock(self._out)
            self._lock.__enter__()
            try:
                self._begin()
            except BaseException:
                self._lock.__exit__(None, None, None)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__(None, None, None)

    @property
    def id(self) -> str:
        return self._cut.id.hex()

    def is_done(self, number: int) -> bool:
        """Whether an earlier run finished this file."""
        return number in self._digests

    def seal(self, number: int, plain: Plain, stop: threading.Event, moved: Callable[[int], None]) -> str:
        """Seal one file; hex SHA-256 of its plaintext. Parts that are there and open are kept."""
        name, size = self._facts.files[number]
        digest = sha256()
        with Lanes(self._cut, stop, moved) as lanes, ThreadPoolExecutor(1, "weights-sync") as syncing:
            last: Future[None] | None = None
            for part in parts_of_file(self._cut, number, name, size):
                before = digest.copy()
                if self._reuse(part, lanes, digest):
                    plain.skip(part.size)
                    continue
                digest = before
                draft = self._write(part, lanes, plain, digest)
                if last is not None:
                    last.result()
                last = syncing.submit(_settle, draft, self._out / part.object)
            if last is not None:
                last.result()
        self._sealed[number] = digest.hexdigest()
        return self._sealed[number]

    def done(self, number: int) -> None:
        """A sealed file is right: remember it durably."""
        with self._guard:
            sync_folder(self._out)
            self._digests[number] = self._sealed[number]
            self._save()

    def finish(self) -> Manifest:
        """Write the signed manifest; from here on the model is whole."""
        manifest = build_manifest(
            self._cut,
            model=self._facts.model,
            layout=self._facts.layout,
            key=self._key,
            key_commit=key_commit(self._data_key, self._cut.id),
            files=(
                FileEntry(name, size, self._digests[number]) for number, (name, size) in enumerate(self._facts.files)
            ),
        )
        with storing(self._out):
            replace_durably(self._out / MANIFEST_NAME, sign_manifest(manifest, self._publisher))
            (self._out / STATE_NAME).unlink(missing_ok=True)
        return manifest

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _reuse(self, part: Part, lanes: Lanes, digest: Any) -> bool:
        """Whether the part is there and opens; its plaintext is then in the digest."""
        path = self._out / part.object
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return False

        def short() -> Exception:
            return WeightsError("a part ends early", code="truncated-part", part=part.object)

        with file:
            if os.fstat(file.fileno()).st_size != part.sealed_size:
                return False
            header = bytearray(HEADER_SIZE)
            try:
                read_exactly(file, memoryview(header), short)
                cipher = PartCipher.open(self._data_key, part, bytes(header))
                lanes.open(cipher, lambda view: read_exactly(file, view, short), None, digest)
            except WeightsError:
                return False
        return True

    def _write(self, part: Part, lanes: Lanes, plain: Plain, digest: Any) -> Path:
        cipher = PartCipher(self._data_key, part, secrets.token_bytes(SALT_SIZE))
        draft = self._out / (part.object + ".new")
        with draft.open("wb", buffering=0) as file:
            _write_all(file, memoryview(cipher.header))
            lanes.seal(cipher, plain.read_into, lambda view: _write_all(file, view), digest)
        return draft

    # ── state ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self) -> None:
        state = _read_state(self._out / STATE_NAME)
        if state is None:
            there = listing(self._out)
            if MANIFEST_NAME in there or any(name.endswith((SUFFIX, SUFFIX + ".new")) for name in there):
                raise LocalError(
                    f"{self._out} holds encrypted weights already", code="output-exists", hint="name another folder"
                )
            self._save()
            return
        ours = self._describe()
        if {name: state.get(name) for name in ours} != ours or not _same_commit(state, self._data_key):
            raise LocalError(
                f"{self._out} holds the beginning of something else",
                code="unfinished-other",
                hint="the source, the key or a setting changed; delete the folder to begin anew",
            )
        self._cut = Cut(bytes.fromhex(state["id"]), *self._wanted)
        self._digests = {int(number): digest for number, digest in state["done"].items()}

    def _describe(self) -> dict[str, Any]:
        return {
            "v": _STATE_VERSION,
            "model": self._facts.model,
            "layout": self._facts.layout,
            "files": [list(file) for file in self._facts.files],
            "stamp": list(self._facts.stamp),
            "cut": list(self._wanted),
            "key": self._key.to_json(),
        }

    def _save(self) -> None:
        commit = b64u(key_commit(self._data_key, self._cut.id))
        done = {str(number): digest for number, digest in sorted(self._digests.items())}
        state = {**self._describe(), "id": self.id, "key_commit": commit, "done": done}
        replace_durably(self._out / STATE_NAME, json.dumps(state).encode(), 0o600)


def _settle(draft: Path, place: Path) -> None:
    """Make a part durable, then give it its name."""
    fd = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.replace(place)


def _write_all(file: Any, view: memoryview) -> None:
    while view:
        view = view[file.write(view) :]


def _source_file(name: str, path: Path) -> SourceFile:
    check_name(name)
    found = path.stat()
    return SourceFile(name, path, found.st_size, _stamp(found))


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _changed(name: str) -> LocalError:
    return LocalError(
        f"{name} changed while it was encrypted", code="source-changed", hint="delete the output and begin anew"
    )


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        state = None
    if not isinstance(state, dict):
        raise LocalError(f"{path} cannot be read", code="unfinished-other", hint="delete the folder to begin anew")
    return state


def _same_commit(state: Mapping[str, Any], data_key: bytes) -> bool:
    try:
        return bool(state["key_commit"] == b64u(key_commit(data_key, bytes.fromhex(state["id"]))))
    except (KeyError, TypeError, ValueError):
        return False
