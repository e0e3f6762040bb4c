# SPDX-License-Identifier: Apache-2.0
"""Decrypting or checking encrypted weights: no byte is used before its chunk authenticates, no file before it is whole.

A file is written below `.unfinished` and gets its name when its SHA-256 is the manifest's. A killed run goes on at the
last whole part, after hashing what is there.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

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
from teehouse_core.weights.chunks import PartCipher, check_key
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import Manifest
from teehouse_core.weights.plan import HEADER_SIZE, Part, check_listing
from teehouse_core.weights.signing import MANIFEST_NAME, MAX_SIGNED, verify_manifest

__all__ = ["Sealed", "check_model", "decrypt_model", "read_signed"]

_UNFINISHED = ".unfinished"
_OF = "manifest"  # in that folder: which manifest the beginnings are of


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted model on this machine whose names and sizes are right and whose data key fits."""

    folder: Path
    manifest: Manifest
    data_key: bytes

    @classmethod
    def open(cls, folder: Path, *, data_key: bytes, publishers: Collection[bytes]) -> Sealed:
        """Raises WeightsError, MalformedError, RefusedError `publisher-unknown` or LocalError."""
        manifest = verify_manifest(read_signed(folder), publishers)
        check_key(data_key, manifest.cut.id, manifest.key_commit)
        check_listing(manifest.parts(), listing(folder))
        return cls(folder, manifest, data_key)

    def part(self, part: Part, lanes: Lanes, write: Callable[[memoryview], None] | None, digest: Any) -> None:
        """Open one part; its plaintext goes to `write` and into the digest."""

        def short() -> Exception:
            return WeightsError(f"{part.object} ends early", code="truncated-part", file=part.name, part=part.object)

        try:
            file = FileIO(self.folder / part.object)
        except OSError as error:
            raise LocalError(f"cannot read {part.object}: {error.strerror}", code="file-unreadable") from None
        with file:
            header = bytearray(HEADER_SIZE)
            read_exactly(file, memoryview(header), short)
            cipher = PartCipher.open(self.data_key, part, bytes(header))
            lanes.open(cipher, lambda view: read_exactly(file, view, short), write, digest)


def read_signed(folder: Path) -> bytes:
    """The signed manifest of a folder. Raises WeightsError `no-manifest`, LocalError."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            return file.read(MAX_SIGNED + 1)
    except FileNotFoundError:
        raise WeightsError(
            f"{folder} has no {MANIFEST_NAME}", code="no-manifest", hint="encryption writes it last: was it finished?"
        ) from None
    except OSError as error:
        raise LocalError(f"cannot read {folder}: {error.strerror}", code="file-unreadable") from None


def check_model(sealed: Sealed, *, jobs: int | None = None, progress: Progress = lambda _done, _total: None) -> None:
    """Open every chunk and compare every digest; write nothing. Raises WeightsError."""
    stop, meter = threading.Event(), Meter(sealed.manifest.size)

    def job(number: int) -> Callable[[], None]:
        def run() -> None:
            digest = sha256()
            with Lanes(sealed.manifest.cut, stop, meter.move) as lanes:
                for part in sealed.manifest.parts_of(number):
                    sealed.part(part, lanes, None, digest)
            sealed.manifest.check_file(number, digest.hexdigest())

        return run

    run_jobs(map(job, range(len(sealed.manifest.files))), jobs or default_jobs(), meter, stop, progress)


def decrypt_model(
    sealed: Sealed, out: Path, *, jobs: int | None = None, progress: Progress = lambda _done, _total: None
) -> None:
    """Write the model's files into the folder `out`, going on if it holds a beginning of the same.

    Raises WeightsError, or LocalError (`output-exists`, `unfinished-other`, `disk-full`, …).
    """
    manifest = sealed.manifest
    stop, meter = threading.Event(), Meter(manifest.size)
    with storing(out):
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        with folder_lock(out):
            drafts = _begin(out, manifest)
            jobs_of = (_File(sealed, number, out, drafts, stop, meter).run for number in range(len(manifest.files)))
            run_jobs(jobs_of, jobs or default_jobs(), meter, stop, progress)
            shutil.rmtree(drafts)
            sync_folder(out)


def _begin(out: Path, manifest: Manifest) -> Path:
    drafts = out / _UNFINISHED
    mark = drafts / _OF
    if mark.exists():
        if mark.read_bytes() != manifest.sha256.encode("ascii"):
            raise LocalError(
                f"{out} holds the beginning of another model",
                code="unfinished-other",
                hint="delete the folder, or name another",
            )
        return drafts
    # A folder of beginnings without its mark is how a run leaves it that was killed at its very start or end: what
    # lies beside it is then compared with the manifest, file by file.
    if not drafts.exists() and any(out.iterdir()):
        raise LocalError(f"{out} is not empty", code="output-exists", hint="name another folder")
    drafts.mkdir(exist_ok=True, mode=0o700)
    replace_durably(mark, manifest.sha256.encode("ascii"), 0o600)
    return drafts


class _File:
    """One file's way from its parts to its place."""

    def __init__(
        self, sealed: Sealed, number: int, out: Path, drafts: Path, stop: threading.Event, meter: Meter
    ) -> None:
        self._sealed = sealed
        self._number = number
        self._entry = sealed.manifest.files[number]
        self._place = out / self._entry.name
        self._draft = drafts / f"{number:05d}"
        self._stop = stop
        self._meter = meter

    def run(self) -> None:
        with Lanes(self._sealed.manifest.cut, self._stop, self._meter.move) as lanes:
            if self._place.exists():  # an earlier run finished it
                with FileIO(self._place) as file:
                    digest = self._hashed(file, os.fstat(file.fileno()).st_size, lanes)
                self._sealed.manifest.check_file(self._number, digest.hexdigest())
                return
            try:
                self._write(lanes, fresh=False)
            except _BadBeginningError:
                self._write(lanes, fresh=True)
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._draft.replace(self._place)

    def _write(self, lanes: Lanes, *, fresh: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if fresh else 0)
        size = self._sealed.manifest.cut.part_size
        with FileIO(os.open(self._draft, flags, 0o600), "r+") as file:
            there = min(os.fstat(file.fileno()).st_size, self._entry.size) // size
            file.truncate(there * size)
            digest = self._hashed(file, there * size, lanes)
            for part in self._sealed.manifest.parts_of(self._number):
                if part.number >= there:
                    self._sealed.part(part, lanes, lambda view: _write_all(file, view), digest)
            os.fsync(file.fileno())
        try:
            self._sealed.manifest.check_file(self._number, digest.hexdigest())
        except WeightsError:
            if there:  # what was there may have been what a crash left
                raise _BadBeginningError from None
            raise

    def _hashed(self, file: FileIO, size: int, lanes: Lanes) -> Any:
        digest = sha256()
        lanes.hash(size, lambda view: read_exactly(file, view, lambda: LocalError("a file shrank")), digest)
        return digest


class _BadBeginningError(Exception):
    """What an earlier run left does not fit."""


def _write_all(file: FileIO, view: memoryview) -> None:
    while view:
        view = view[file.write(view) or 0 :]
