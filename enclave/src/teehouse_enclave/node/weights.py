# SPDX-License-Identifier: Apache-2.0
"""Encrypted weights on a node: checked, decrypted into memory, handed to the engine. Plaintext touches no disk.

The order (spec/08 §7): the publisher's signature and every size first, then the data key by attested release, then
chunk after chunk straight into memory that only this process (a sealed memfd) or this guest (a folder of a tmpfs) has.
The engine opens nothing before every file's SHA-256 is the manifest's. Parts lie on a disk that the host may change
while they are read: each byte that is used was authenticated after it was copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from teehouse_core.errors import LocalError, MalformedError, OperatorError
from teehouse_core.weights.chunks import PartCipher, check_key
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import KeyRef, Manifest
from teehouse_core.weights.plan import HEADER_SIZE, SUFFIX, TAG_SIZE, Part, check_listing
from teehouse_core.weights.signing import MANIFEST_NAME, MAX_SIGNED, PK_SIZE, verify_manifest
from teehouse_core.wire.canonical import b64u, unb64u
from teehouse_enclave.engine.digest import digest_of_parts
from teehouse_enclave.engine.spec import EngineSpec

__all__ = ["GetDataKey", "OpenWeights", "SealedWeights", "WeightsConfig"]

GetDataKey = Callable[[KeyRef], Awaitable[bytes]]

_BATCH: Final = 4 << 20  # bytes read at a time; one chunk at least
_SLOTS: Final = 3  # batches under way, for each file
_MAX_FILES_AT_A_TIME: Final = 8
_MEMORY_TYPES: Final = frozenset({"tmpfs", "ramfs"})
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ROOM: Final = 64 << 20  # bytes of memory that must stay free beside the weights


@dataclass(frozen=True, slots=True)
class WeightsConfig:
    """The setting `weights` of a node. All but `path` and `memory_dir` is measured.

    `path` is the folder with `weights.json` and the parts. `publishers` are the Ed25519 keys whose signature counts
    (base64url). `model_file` and `mmproj_file` name files of the manifest for llama.cpp; the first may be left out when
    there is only one candidate. `store` is `memfd` (llama.cpp) or `tmpfs`: then `memory_dir` is a folder of a tmpfs,
    below which `model` appears, whole, for an engine that is another process. `allow_swap` lets a machine with swap
    run, on which the kernel may write weights to a disk.
    """

    path: str
    publishers: tuple[bytes, ...]
    store: str = "memfd"
    memory_dir: str | None = None
    model_file: str = ""
    mmproj_file: str = ""
    allow_swap: bool = False

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> WeightsConfig:
        """Check a dictionary. Raises LocalError `weights-config`."""
        if unknown := set(raw) - {one.name for one in fields(cls)}:
            raise _config(f"unknown setting weights.{sorted(unknown)[0]!r}")
        for name in ("path", "memory_dir", "model_file", "mmproj_file", "store"):
            value = raw.get(name, "x")
            if not isinstance(value, str) or not value or "\0" in value:
                raise _config(f"weights.{name} is no text")
        if "path" not in raw:
            raise _config("weights.path is missing")
        if type(raw.get("allow_swap", False)) is not bool:
            raise _config("weights.allow_swap is true or false")
        config = cls(**{**raw, "publishers": _publishers(raw.get("publishers"))})
        if config.store not in ("memfd", "tmpfs"):
            raise _config("weights.store is memfd or tmpfs")
        if (config.store == "tmpfs") != (config.memory_dir is not None):
            raise _config("weights.memory_dir goes with the store tmpfs, and only with it")
        return config

    def measured(self) -> dict[str, Any]:
        """What the node's evidence vouches for, as a member of canonical JSON."""
        return {
            "publishers": sorted(b64u(pk) for pk in self.publishers),
            "store": self.store,
            "model_file": self.model_file,
            "mmproj_file": self.mmproj_file,
            "allow_swap": self.allow_swap,
        }


@dataclass(slots=True)
class OpenWeights:
    """Decrypted weights in memory; `spec` is the engine's, with paths that mean them. `close` when the engine has."""

    spec: EngineSpec
    _undo: contextlib.ExitStack = field(repr=False)

    def close(self) -> None:
        """Give the memory back."""
        self._undo.close()


@dataclass(frozen=True, slots=True)
class SealedWeights:
    """Weights whose manifest is signed by a publisher of the configuration, and whose parts have the right sizes."""

    config: WeightsConfig
    spec: EngineSpec
    manifest: Manifest
    chosen: Mapping[str, int]
    """What the engine opens: its role (`model.gguf`, `mmproj.gguf`, or the file's own name) → number of the file."""

    @classmethod
    def open(cls, config: WeightsConfig, spec: EngineSpec) -> SealedWeights:
        """Check all that can be checked without the data key. Blocks: run it in a thread.

        Raises OperatorError (`weights-swap`, `weights-not-memory`, `weights-choose`, `weights-mismatch`,
        `weights-unreadable`), WeightsError and other MalformedError, RefusedError `publisher-unknown`.
        """
        _check_swap(config)
        if config.memory_dir is not None:
            _check_memory_dir(config.memory_dir)
        folder = Path(config.path)
        try:
            with (folder / MANIFEST_NAME).open("rb") as file:
                signed = file.read(MAX_SIGNED + 1)
            with os.scandir(folder) as entries:
                listing = {entry.name: entry.stat().st_size for entry in entries if entry.name.endswith(SUFFIX)}
        except OSError as error:
            raise OperatorError(
                f"cannot read the encrypted weights: {error.strerror}",
                code="weights-unreadable",
                hint=f"weights.path is a folder with {MANIFEST_NAME}, as `teehouse model encrypt` writes it",
            ) from None
        manifest = verify_manifest(signed, config.publishers)
        check_listing(manifest.parts(), listing)
        sealed = cls(config, spec, manifest, _choose(config, manifest))
        if spec.weights_sha256 not in (None, sealed.weights_sha256):
            raise OperatorError(
                "the model weights are not the ones expected",
                code="weights-mismatch",
                hint=f"expected {spec.weights_sha256}, the manifest has {sealed.weights_sha256}",
            )
        return sealed

    @property
    def weights_sha256(self) -> str:
        """The digest that the engine will find, and the keyset name."""
        if self.config.store == "tmpfs":
            return self.manifest.weights_sha256
        parts = {role: self.manifest.files[number].sha256 for role, number in self.chosen.items()}
        return digest_of_parts(parts) if len(parts) > 1 else parts["model.gguf"]

    async def unlock(self, get_data_key: GetDataKey) -> bytes:
        """The data key, by attested release. Raises what `get_data_key` raises, and WeightsError `wrong-data-key`."""
        data_key = await get_data_key(self.manifest.key)
        check_key(data_key, self.manifest.cut.id, self.manifest.key_commit)
        return data_key

    def load(self, data_key: bytes) -> OpenWeights:
        """Decrypt what the engine needs into memory. Blocks: run it in a thread.

        Raises WeightsError naming file and chunk, OperatorError (`weights-memory`, `weights-unreadable`).
        """
        _check_room(sum(self.manifest.files[number].size for number in self.chosen.values()))
        with contextlib.ExitStack() as undo:
            opened = self._into_folder(data_key, undo) if self.config.memory_dir else self._into_memfds(data_key, undo)
            return OpenWeights(opened, undo.pop_all())

    def _into_memfds(self, data_key: bytes, undo: contextlib.ExitStack) -> EngineSpec:
        paths: dict[str, str] = {}
        targets: dict[int, int] = {}
        for role, number in self.chosen.items():
            fd = os.memfd_create("teehouse-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, fd)
            targets[number], paths[role] = fd, f"/proc/self/fd/{fd}"
        self._decrypt(data_key, targets)
        for fd in targets.values():
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)  # from here on nobody changes it, this process included
        return replace(self.spec, path=paths["model.gguf"], mmproj=paths.get("mmproj.gguf"))

    def _into_folder(self, data_key: bytes, undo: contextlib.ExitStack) -> EngineSpec:
        place = Path(self.config.memory_dir or "") / "model"
        draft = place.with_name("model.new")
        try:
            for old in (draft, place):
                shutil.rmtree(old, ignore_errors=True)
            draft.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, place, ignore_errors=True)
            with contextlib.ExitStack() as files:
                files.callback(shutil.rmtree, draft, ignore_errors=True)
                targets: dict[int, int] = {}
                for name, number in self.chosen.items():
                    path = draft / name
                    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
                    files.callback(os.close, fd)
                    targets[number] = fd
                self._decrypt(data_key, targets)
                draft.rename(place)
        except OSError as error:
            raise OperatorError(
                f"cannot write decrypted weights into memory: {error.strerror}",
                code="weights-memory",
                hint="weights.memory_dir needs room for the whole model",
            ) from None
        only = next(iter(self.chosen)) if self.manifest.layout == "file" else None
        return replace(self.spec, path=str(place / only if only else place))

    def _decrypt(self, data_key: bytes, targets: Mapping[int, int]) -> None:
        """Every chosen file into its descriptor; the first failure stops the rest and is raised."""
        stop = threading.Event()
        count = max(1, min(_MAX_FILES_AT_A_TIME, (os.cpu_count() or 2) // 2, len(targets)))

        def one(number: int, fd: int) -> None:
            try:
                self._decrypt_file(number, fd, data_key, stop)
            except BaseException:
                stop.set()
                raise

        with ThreadPoolExecutor(count, "weights-file") as pool:
            futures = [pool.submit(one, number, fd) for number, fd in targets.items()]
        failures = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(failures, key=lambda error: isinstance(error, _StoppedError)):
            raise error

    def _decrypt_file(self, number: int, fd: int, data_key: bytes, stop: threading.Event) -> None:
        entry = self.manifest.files[number]
        if entry.size:
            _allocate(fd, entry.size)  # memory that is not there is an error here, not in the middle
        with _Streams(Path(self.config.path), fd, self.manifest.cut.chunk_size, stop) as streams:
            for part in self.manifest.parts_of(number):
                streams.open_part(data_key, part)
            self.manifest.check_file(number, streams.digest())


class _StoppedError(Exception):
    """Another file failed."""


class _Slot:
    """One batch under way: ciphertext, plaintext, and what is still done with them."""

    def __init__(self, sealed: int, plain: int) -> None:
        self.sealed = bytearray(sealed)
        self.plain = bytearray(plain)
        self.busy: list[Future[None]] = []

    def wait(self) -> None:
        """Until both buffers are free. Raises what failed."""
        for future in self.busy:
            future.result()
        self.busy = []


class _Streams:
    """One file's way into memory: this thread reads, one opens and writes, one hashes what was opened."""

    def __init__(self, folder: Path, fd: int, chunk_size: int, stop: threading.Event) -> None:
        self._folder = folder
        self._fd = fd
        self._stop = stop
        self._count = max(1, _BATCH // chunk_size)  # chunks in a batch
        sizes = self._count * (chunk_size + TAG_SIZE), self._count * chunk_size
        self._slots = [_Slot(*sizes) for _ in range(_SLOTS)]
        self._sha256 = hashlib.sha256()
        self._opening = ThreadPoolExecutor(1, "weights-open")
        self._hashing = ThreadPoolExecutor(1, "weights-hash")

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._opening.shutdown(cancel_futures=True)
        self._hashing.shutdown(cancel_futures=True)

    def open_part(self, data_key: bytes, part: Part) -> None:
        """Queue all of one part. Raises what an earlier batch raised."""
        with _part_file(self._folder, part) as file:
            header = bytearray(HEADER_SIZE)
            _fill(file, memoryview(header), 0, part)
            cipher = PartCipher.open(data_key, part, bytes(header))
            at = HEADER_SIZE
            for first in range(0, part.chunks, self._count):
                if self._stop.is_set():
                    raise _StoppedError
                count = min(self._count, part.chunks - first)
                slot = self._slots[0]
                self._slots = [*self._slots[1:], slot]
                slot.wait()
                sealed = memoryview(slot.sealed)[: cipher.sealed_length(first, count)]
                _fill(file, sealed, at, part)
                at += len(sealed)
                opened = self._opening.submit(self._open, cipher, first, count, slot)
                slot.busy = [opened, self._hashing.submit(self._hash, opened, cipher.plain_length(first, count), slot)]

    def digest(self) -> str:
        """Hex SHA-256 of the whole file, when all of it is written. Raises what failed."""
        for slot in self._slots:
            slot.wait()
        return self._sha256.hexdigest()

    def _open(self, cipher: PartCipher, first: int, count: int, slot: _Slot) -> None:
        sealed = memoryview(slot.sealed)[: cipher.sealed_length(first, count)]
        plain = memoryview(slot.plain)[: cipher.plain_length(first, count)]
        cipher.open_into(first, count, sealed, plain)
        at = cipher.part.offset + cipher.plain_length(0, first)
        while plain:
            written = os.pwrite(self._fd, plain, at)
            plain, at = plain[written:], at + written

    def _hash(self, opened: Future[None], size: int, slot: _Slot) -> None:
        opened.result()
        self._sha256.update(memoryview(slot.plain)[:size])


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise OperatorError(
            f"no memory for decrypted weights: {error.strerror}",
            code="weights-memory",
            hint=f"{size >> 20} MiB are needed for one file",
        ) from None


@contextlib.contextmanager
def _part_file(folder: Path, part: Part) -> Iterator[int]:
    try:
        fd = os.open(folder / part.object, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise OperatorError(f"cannot read {part.object}: {error.strerror}", code="weights-unreadable") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _fill(fd: int, view: memoryview, at: int, part: Part) -> None:
    """Read exactly `view` from offset `at`. Raises WeightsError `truncated-part`, OperatorError."""
    done = 0
    while done < len(view):
        try:
            got = os.preadv(fd, [view[done:]], at + done)
        except OSError as error:
            raise OperatorError(f"cannot read {part.object}: {error.strerror}", code="weights-unreadable") from None
        if not got:
            raise WeightsError(f"{part.object} ends early", code="truncated-part", file=part.name, part=part.object)
        done += got


def _choose(config: WeightsConfig, manifest: Manifest) -> dict[str, int]:
    """Which files are decrypted, and as what. Raises OperatorError `weights-choose`."""
    numbers = {file.name: number for number, file in enumerate(manifest.files)}
    if config.store == "tmpfs":
        return numbers
    for name in (config.model_file, config.mmproj_file):
        if name and name not in numbers:
            raise _undecided(f"the manifest has no file {name!r}", numbers)
    candidates = [name for name in numbers if name.endswith(".gguf") and name != config.mmproj_file]
    if not config.model_file and len(candidates) != 1:
        raise _undecided("which of the files is the model?", numbers)
    chosen = {"model.gguf": numbers[config.model_file or candidates[0]]}
    if config.mmproj_file:
        chosen["mmproj.gguf"] = numbers[config.mmproj_file]
    return chosen


def _undecided(message: str, numbers: Mapping[str, int]) -> OperatorError:
    some = ", ".join(sorted(numbers)[:8])
    return OperatorError(message, code="weights-choose", hint=f"name it in weights.model_file; there are {some}")


def _check_swap(config: WeightsConfig) -> None:
    """Memory that may be swapped is no memory-backed storage. Raises OperatorError `weights-swap`."""
    try:
        lines = Path("/proc/swaps").read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        lines = ["unknown"]
    if lines and not config.allow_swap:
        raise OperatorError(
            "this machine has swap: the kernel may write decrypted weights to a disk",
            code="weights-swap",
            hint="`swapoff -a`, or weights.allow_swap, which evidence then shows",
        )


def _check_memory_dir(path: str) -> None:
    """`path` lies on a tmpfs, by what the kernel says. Raises OperatorError `weights-not-memory`."""
    try:
        device = os.stat(path).st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise OperatorError(f"weights.memory_dir: {error.strerror}", code="weights-not-memory") from None
    number = f"{os.major(device)}:{os.minor(device)}"
    types = {line.split(" - ", 1)[1].split()[0] for line in mounts if line.split()[2] == number and " - " in line}
    if not types or not types <= _MEMORY_TYPES:
        raise OperatorError(
            "weights.memory_dir is not on a tmpfs: weights would be written to a disk",
            code="weights-not-memory",
            hint="mount one: `mount -t tmpfs -o size=…,mode=0700,noswap tmpfs DIR`",
        )


def _check_room(size: int) -> None:
    """Fail before half of a model was decrypted. Raises OperatorError `weights-memory`."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return
    if free < size + _ROOM:
        raise OperatorError(
            f"{size >> 20} MiB of weights do not fit into {free >> 20} MiB of free memory", code="weights-memory"
        )


def _publishers(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= 16 or not all(isinstance(one, str) for one in value):
        raise _config("weights.publishers names the keys whose signature counts")
    try:
        return tuple(unb64u(one, PK_SIZE) for one in value)
    except MalformedError:
        raise _config("a key of weights.publishers is no Ed25519 public key in base64url") from None


def _config(message: str) -> LocalError:
    return LocalError(message, code="weights-config", hint="docs/en/model-weights.md lists the settings")
