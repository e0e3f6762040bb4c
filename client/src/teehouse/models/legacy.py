# SPDX-License-Identifier: Apache-2.0
"""Taking over `enc-part-*`: pieces of one tar, each `iv(12) ‖ ciphertext ‖ tag(16)` under one AES-256-GCM key.

That format has no manifest, no order and no end: each piece authenticates by itself, and nothing says that there was
another. So the pieces are read twice. First: every number from the first to the last is there, all but the last have
one size, every tag is right, the tar holds together to its end, and the files have the published baseline. Then they
are read again, sealed into our format, and must give the same files. Plaintext is in memory only, a few MiB of it.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from teehouse.models.encrypt import Encryption, Facts
from teehouse.models.lanes import Stopped
from teehouse.models.work import Meter, Progress, listing, read_exactly, run_jobs, storing
from teehouse_core.errors import LocalError, RefusedError
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import FILE_LAYOUT, FOLDER_LAYOUT, MAX_FILES, KeyRef, Manifest, check_name
from teehouse_core.weights.plan import CHUNK_SIZE, PART_CHUNKS

__all__ = ["baseline_of", "import_model"]

_PIECE = re.compile(r"enc-part-([0-9]{5})")
_IV, _TAG = 12, 16  # bytes
_BLOCK = 1 << 20  # bytes decrypted at a time
_TAR_END = 1024  # bytes of zeros that end a tar


@dataclass(frozen=True, slots=True)
class _Piece:
    path: Path
    size: int
    stamp: str


@dataclass(frozen=True, slots=True)
class _Found:
    """What the first reading saw, by name."""

    layout: str
    sizes: dict[str, int]
    digests: dict[str, str]


def baseline_of(digests: dict[str, str]) -> str:
    """The published baseline: acc = SHA-256(acc ‖ SHA-256(file)), files sorted by path, acc empty at first; hex."""
    acc = b""
    for _, digest in sorted(digests.items()):
        acc = hashlib.sha256(acc + bytes.fromhex(digest)).digest()
    return acc.hex()


def import_model(
    source: Path,
    out: Path,
    *,
    model: str,
    old_key: bytes,
    baseline: str | None,
    data_key: bytes,
    publisher: Ed25519PrivateKey,
    key: KeyRef | None = None,
    chunk_size: int = CHUNK_SIZE,
    part_chunks: int = PART_CHUNKS,
    progress: Progress = lambda _done, _total: None,
) -> Manifest:
    """Write the model in `source` into `out` in our format; goes on where it was killed.

    `baseline` None means that nobody published one: then nothing shows that the last pieces are not missing beyond
    the tar's own end mark, or that the files are the right ones. Raises RefusedError `baseline-mismatch`, WeightsError
    (`missing-part`, `piece-refused`, `piece-size`, `tar-*`) or LocalError.
    """
    pieces = _pieces(source)
    stop = threading.Event()
    total = sum(piece.size for piece in pieces)
    meter = Meter(2 * total)
    seen: list[_Found] = []
    with storing(out):
        run_jobs([lambda: seen.append(_survey(pieces, old_key, meter.move, stop))], 1, meter, stop, progress)
        found = seen[0]
        if baseline is not None and baseline_of(found.digests) != baseline.lower():
            raise RefusedError(
                "these files are not the ones of the baseline",
                code="baseline-mismatch",
                hint=f"these give {baseline_of(found.digests)}",
            )
        names = sorted(found.sizes)
        facts = Facts(
            model, found.layout, tuple((name, found.sizes[name]) for name in names), tuple(p.stamp for p in pieces)
        )
        with Encryption(
            out, facts, data_key=data_key, publisher=publisher, key=key, chunk_size=chunk_size, part_chunks=part_chunks
        ) as work:

            def seal() -> None:
                for name, reader in _members(_Stream(pieces, old_key, meter.move, stop)):
                    number = names.index(name)
                    if work.is_done(number):
                        continue
                    if work.seal(number, reader, stop, lambda _count: None) != found.digests[name]:
                        raise LocalError(f"{name} changed while it was read", code="source-changed")
                    work.done(number)

            run_jobs([seal], 1, meter, stop, progress)
            return work.finish()


# ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _pieces(source: Path) -> list[_Piece]:
    """All pieces in order; numbers without a gap, sizes as the tool that made them leaves them."""
    numbers = sorted(int(match[1]) for name in listing(source) if (match := _PIECE.fullmatch(name)))
    if not numbers:
        raise LocalError(f"{source} holds no enc-part files", code="model-missing")
    pieces: list[_Piece] = []
    for number in range(numbers[0] if numbers[0] <= 1 else 0, numbers[-1] + 1):
        path = source / f"enc-part-{number:05d}"
        if number not in numbers:
            raise WeightsError(f"{path.name} is missing", code="missing-part", part=path.name)
        stat = path.stat()
        pieces.append(_Piece(path, stat.st_size, f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"))
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        if piece.size <= _IV + _TAG or (piece.size > pieces[0].size if last else piece.size != pieces[0].size):
            raise WeightsError(
                f"{piece.path.name} has a size that does not fit the others",
                code="piece-size",
                hint="all but the last are equally large",
                part=piece.path.name,
            )
    return pieces


class _Stream(RawIOBase):
    """The tar inside the pieces. Its bytes count for nothing until `finish` returned."""

    def __init__(self, pieces: list[_Piece], key: bytes, moved: Callable[[int], None], stop: threading.Event) -> None:
        super().__init__()
        self._blocks = _decrypted(pieces, key, moved, stop)
        self._rest = memoryview(b"")
        self._length = 0  # bytes decrypted
        self._zeros_from = 0  # behind this there were only zeros

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._rest:
            if not self._next():
                return 0
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def finish(self, end: int) -> None:
        """Read to the end: two blocks of zeros at `end`, which `tarfile` itself does not ask for."""
        while self._next():
            pass
        if self._length - end < _TAR_END:
            raise WeightsError("the tar has no end", code="tar-truncated", hint="the last pieces are missing")
        if self._zeros_from > end:
            raise WeightsError("something follows the tar's end", code="tar-form")

    def _next(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        self._rest = block
        if used := len(bytes(block).rstrip(b"\0")):
            self._zeros_from = self._length + used
        self._length += len(block)
        return True


def _decrypted(
    pieces: list[_Piece], key: bytes, moved: Callable[[int], None], stop: threading.Event
) -> Iterator[memoryview]:
    """The tar's bytes, block by block, each valid until the next. A piece's tag is seen after its bytes were given."""
    sealed, plain = bytearray(_BLOCK), bytearray(_BLOCK + 16)
    for piece in pieces:
        with FileIO(piece.path) as file:

            def short(name: str = piece.path.name) -> Exception:
                return WeightsError(f"{name} ends early", code="truncated-part", part=name)

            iv, tag = bytearray(_IV), bytearray(_TAG)
            read_exactly(file, memoryview(iv), short)
            file.seek(piece.size - _TAG)
            read_exactly(file, memoryview(tag), short)
            file.seek(_IV)
            opener = Cipher(AES(key), GCM(bytes(iv), bytes(tag))).decryptor()
            left = piece.size - _IV - _TAG
            while left:
                if stop.is_set():
                    raise Stopped
                view = memoryview(sealed)[: min(left, _BLOCK)]
                read_exactly(file, view, short)
                count = opener.update_into(view, plain)
                left -= len(view)
                moved(len(view))
                yield memoryview(plain)[:count]
            try:
                opener.finalize()
            except InvalidTag:
                raise WeightsError(
                    f"{piece.path.name} does not authenticate",
                    code="piece-refused",
                    hint="another data key, or a damaged piece",
                    part=piece.path.name,
                ) from None


# ── the tar ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _survey(pieces: list[_Piece], key: bytes, moved: Callable[[int], None], stop: threading.Event) -> _Found:
    """First reading: authenticate every piece, walk the tar to its end, hash every file."""
    # A wrong key gives noise, which is no tar: the tag says which of the two it was, and it comes at a piece's end.
    for _ in _decrypted(pieces[:1], key, lambda _count: None, stop):
        pass
    sizes: dict[str, int] = {}
    digests: dict[str, str] = {}
    stream = _Stream(pieces, key, moved, stop)
    nested = False
    for name, reader in _members(stream):
        check_name(name)
        if name in sizes or len(sizes) == MAX_FILES:
            raise WeightsError("the tar holds a file twice, or too many", code="tar-repeated", file=name)
        digest, left = hashlib.sha256(), reader.size
        buffer = bytearray(_BLOCK)
        while left:
            view = memoryview(buffer)[: min(left, _BLOCK)]
            reader.read_into(view)
            digest.update(view)
            left -= len(view)
        sizes[name], digests[name] = reader.size, digest.hexdigest()
        nested = nested or reader.nested
    if not sizes:
        raise WeightsError("the tar holds no file", code="tar-form")
    return _Found(FOLDER_LAYOUT if nested else FILE_LAYOUT, sizes, digests)


@dataclass(slots=True)
class _Member:
    """One file of the tar; implements `Plain`."""

    name: str
    size: int
    nested: bool
    file: Any

    def read_into(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            try:
                data = self.file.read(len(view) - at)
            except tarfile.TarError:
                data = b""
            if not data:
                raise WeightsError(
                    "the tar ends inside a file", code="tar-truncated", file=self.name, hint="a piece is missing"
                )
            view[at : at + len(data)] = data
            at += len(data)

    def skip(self, count: int) -> None:
        buffer = memoryview(bytearray(min(count, _BLOCK)))
        while count:
            self.read_into(buffer[: min(count, len(buffer))])
            count -= min(count, len(buffer))


def _members(stream: _Stream) -> Iterator[tuple[str, _Member]]:
    """The files of the tar by their names below its one folder; reads the stream to its end."""
    tops: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
            for member in tar:
                top, _, below = member.name.partition("/")
                tops.add(top)
                if len(tops) > 1:
                    raise WeightsError("the tar has more than one top", code="tar-form", file=ascii(member.name))
                if member.isdir():
                    continue
                if not member.isreg():
                    raise WeightsError("the tar holds a link or a device", code="tar-form", file=ascii(member.name))
                yield below or top, _Member(below or top, member.size, bool(below), tar.extractfile(member))
            stream.finish(tar.offset)
    except tarfile.TarError:
        raise WeightsError(
            "the pieces do not make a tar", code="tar-form", hint="a piece is missing, or they stand in another order"
        ) from None
