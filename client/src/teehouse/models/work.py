# SPDX-License-Identifier: Apache-2.0
"""What encrypting and decrypting share: folders that one process uses at a time, durable files, progress, jobs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from io import FileIO
from pathlib import Path

from teehouse_core.errors import LocalError
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.plan import MAX_PARTS, SUFFIX

__all__ = [
    "Meter",
    "Progress",
    "default_jobs",
    "folder_lock",
    "listing",
    "read_exactly",
    "replace_durably",
    "run_jobs",
    "storing",
    "sync_folder",
]

Progress = Callable[[int, int], None]  # bytes done, bytes in all; called by the thread that asked for the work
_LOOK = 0.1  # seconds between two looks at how far the jobs are
_MAX_JOBS = 8  # files at a time; each needs about 25 MB of memory


class Meter:
    """Bytes done, counted by any thread."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._done = 0
        self._lock = threading.Lock()

    def move(self, count: int) -> None:
        with self._lock:
            self._done += count

    @property
    def done(self) -> int:
        return min(self._done, self.total)


def default_jobs() -> int:
    """Files at a time. One file keeps about two cores busy: its SHA-256 is the slower half and cannot be divided."""
    return max(1, min(_MAX_JOBS, (os.cpu_count() or 2) // 2))


def run_jobs(
    jobs: Iterable[Callable[[], None]], count: int, meter: Meter, stop: threading.Event, progress: Progress
) -> None:
    """Run all, `count` at a time. The first failure stops the others and is raised."""
    with ThreadPoolExecutor(count, "weights-file") as pool:
        left = {pool.submit(job) for job in jobs}
        try:
            while left:
                done, left = wait(left, timeout=_LOOK, return_when=FIRST_EXCEPTION)
                progress(meter.done, meter.total)
                for future in done:
                    future.result()
        except BaseException:
            stop.set()  # the others end at their next batch, with `Stopped`, which nobody asks for
            for future in left:
                future.cancel()
            raise


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Only one process writes into a folder; the kernel drops the lock when its holder dies. Raises LocalError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LocalError(f"another process writes into {folder}", code="folder-in-use") from None
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Errors of the file system as ours: `disk-full`, or `file-unwritable`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalError(
                f"no room in {folder}", code="disk-full", hint="make room and run the same command again: it goes on"
            ) from None
        raise LocalError(f"cannot work in {folder}: {error.strerror}", code="file-unwritable") from None


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a small file so that a crash leaves the old one or the new one."""
    draft = path.with_name(path.name + ".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def read_exactly(file: FileIO, view: memoryview, what: Callable[[], Exception]) -> None:
    """Fill `view` from an unbuffered file; a file that ends too early is `what()`."""
    at = 0
    while at < len(view):
        got = file.readinto(view[at:])
        if not got:
            raise what()
        at += got


def listing(folder: Path) -> dict[str, int]:
    """Names and sizes of a folder's plain files. Raises LocalError, or WeightsError when it holds far too many."""
    found: dict[str, int] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
                elif entry.name.endswith(SUFFIX):
                    raise WeightsError(f"{entry.name} is no plain file", code="not-a-part", part=entry.name)
                if len(found) > 2 * MAX_PARTS:
                    raise WeightsError("the folder holds too many files", code="extra-part")
    except OSError as error:
        raise LocalError(f"cannot read {folder}: {error.strerror}", code="file-unreadable") from None
    return found
