# SPDX-License-Identifier: Apache-2.0
"""How files are cut into parts and parts into chunks (spec/08 §3). Sizes decide it; nothing is read from a part.

A part is one object in a folder or a bucket: 64 bytes of header, then its chunks, each with a tag of 16 bytes. Every
size is known from the signed manifest before a byte of a part is read, so a part that is too short or too long, is
missing or is one too many is refused by its name and size alone.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from teehouse_core.errors import LocalError
from teehouse_core.weights.errors import WeightsError

__all__ = [
    "CHUNK_SIZE",
    "HEADER_SIZE",
    "ID_SIZE",
    "MAX_CHUNK_SIZE",
    "MAX_FILE_SIZE",
    "MAX_PARTS",
    "MAX_PART_CHUNKS",
    "MIN_CHUNK_SIZE",
    "PART_CHUNKS",
    "SALT_SIZE",
    "SUFFIX",
    "TAG_SIZE",
    "Cut",
    "Part",
    "PartHeader",
    "check_listing",
    "parts_of_file",
]

MAGIC = b"TEEW\x01\0\0\0"  # 8 bytes; the fifth is the version
ID_SIZE = 16  # bytes; random, one for each encryption of a model
SALT_SIZE = 32  # bytes; random, one for each attempt to write a part
TAG_SIZE = 16  # bytes, AES-GCM
HEADER_SIZE = 64  # bytes: magic 8, id 16, u32 file, u32 part, salt 32
SUFFIX = ".thw"

CHUNK_SIZE = 1 << 20  # bytes, the default: Python's share of the work is below a percent, and it fits the caches
MIN_CHUNK_SIZE = 1 << 10  # bytes; for tests and vectors
MAX_CHUNK_SIZE = 1 << 24  # bytes; a reader holds some of them at a time
PART_CHUNKS = 256  # chunks, the default: 256 MiB is what a killed encryption does again, and one request of a bucket
MAX_PART_CHUNKS = 1 << 16  # chunks
MAX_FILE_SIZE = 1 << 44  # bytes, 16 TiB
MAX_PARTS = 99_999  # of one file, and of one model

_HEADER = struct.Struct(">8s16sII32s")
_OBJECT = re.compile(r"[0-9]{5}-[0-9]{5}\.thw")


@dataclass(frozen=True, slots=True)
class Cut:
    """One encryption of one model: its id, bytes in a chunk (a power of two), chunks in a part."""

    id: bytes
    chunk_size: int = CHUNK_SIZE
    part_chunks: int = PART_CHUNKS

    def __post_init__(self) -> None:
        size = self.chunk_size
        if (
            len(self.id) != ID_SIZE
            or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE
            or size & (size - 1)
            or not 1 <= self.part_chunks <= MAX_PART_CHUNKS
        ):
            raise LocalError("a model cannot be cut like this", code="weights-cut")

    @property
    def part_size(self) -> int:
        """Plaintext bytes of a full part."""
        return self.chunk_size * self.part_chunks

    def part_count(self, file_size: int) -> int:
        """Parts of a file; an empty file has one, which shows that it is empty."""
        return max(1, -(-file_size // self.part_size))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of one file: which object holds it, which bytes of the file it is."""

    cut: Cut
    file: int  # number of the file in the manifest
    name: str  # of the file
    file_size: int  # bytes
    number: int  # of the part in the file

    @property
    def object(self) -> str:
        """Name of the object: it tells nothing that the manifest does not."""
        return f"{self.file:05d}-{self.number:05d}{SUFFIX}"

    @property
    def offset(self) -> int:
        """Where the part begins in its file, in bytes."""
        return self.number * self.cut.part_size

    @property
    def size(self) -> int:
        """Plaintext bytes."""
        return min(self.cut.part_size, self.file_size - self.offset)

    @property
    def chunks(self) -> int:
        return max(1, -(-self.size // self.cut.chunk_size))

    @property
    def first_chunk(self) -> int:
        """Number in the file of the part's first chunk."""
        return self.number * self.cut.part_chunks

    @property
    def sealed_size(self) -> int:
        """Bytes of the whole object."""
        return HEADER_SIZE + self.size + self.chunks * TAG_SIZE

    @property
    def is_last(self) -> bool:
        return self.number == self.cut.part_count(self.file_size) - 1

    def chunk_size(self, chunk: int) -> int:
        """Plaintext bytes of chunk `chunk` of this part."""
        return min(self.cut.chunk_size, self.size - chunk * self.cut.chunk_size)

    def flag(self, chunk: int) -> int:
        """0 more chunks of this part follow, 1 it is the part's last, 2 it is the file's last."""
        if chunk < self.chunks - 1:
            return 0
        return 2 if self.is_last else 1


@dataclass(frozen=True, slots=True)
class PartHeader:
    """The first 64 bytes of an object. What it says is bound into the part's key."""

    id: bytes
    file: int
    number: int
    salt: bytes

    def encode(self) -> bytes:
        return _HEADER.pack(MAGIC, self.id, self.file, self.number, self.salt)

    @classmethod
    def parse(cls, data: bytes, part: Part) -> PartHeader:
        """Read the header of the object that should hold `part`. Raises WeightsError, naming how it is another."""
        if len(data) < HEADER_SIZE:
            raise WeightsError("a part ends in its header", code="truncated-part", file=part.name, part=part.object)
        magic, ident, file, number, salt = _HEADER.unpack(data[:HEADER_SIZE])
        if magic != MAGIC:
            raise WeightsError(
                f"{part.object} is no part of encrypted weights", code="not-a-part", file=part.name, part=part.object
            )
        if ident != part.cut.id:
            raise WeightsError(
                f"{part.object} belongs to another encryption ({ident.hex()})",
                code="other-encryption",
                hint="parts of two models, or of two encryptions of one, do not fit together",
                file=part.name,
                part=part.object,
            )
        if (file, number) != (part.file, part.number):
            raise WeightsError(
                f"{part.object} holds what belongs into {file:05d}-{number:05d}{SUFFIX}",
                code="wrong-part",
                hint="was it renamed?",
                file=part.name,
                part=part.object,
            )
        return cls(ident, file, number, salt)


def parts_of_file(cut: Cut, file: int, name: str, size: int) -> Iterator[Part]:
    """The parts of one file, in order."""
    for number in range(cut.part_count(size)):
        yield Part(cut, file, name, size, number)


def check_listing(parts: Iterable[Part], listing: Mapping[str, int]) -> None:
    """Compare the objects that are there (name → bytes) with the parts that must be. Raises WeightsError.

    Names that are no part's (`LICENSE`) do not count; one that looks like a part and is none of this model's does.
    """
    wanted: set[str] = set()
    for part in parts:
        name = part.object
        wanted.add(name)
        size = listing.get(name)
        if size is None:
            raise WeightsError(f"{name} is missing", code="missing-part", file=part.name, part=name)
        if size < part.sealed_size:
            raise WeightsError(
                f"{name} has {size} of {part.sealed_size} bytes",
                code="truncated-part",
                hint="fetch it again",
                file=part.name,
                part=name,
                chunk=part.first_chunk + max(0, size - HEADER_SIZE) // (part.cut.chunk_size + TAG_SIZE),
            )
        if size > part.sealed_size:
            raise WeightsError(
                f"{name} has {size - part.sealed_size} bytes too many", code="part-too-long", file=part.name, part=name
            )
    for name in sorted(listing):
        if name not in wanted and (_OBJECT.fullmatch(name) or name.endswith(SUFFIX)):
            raise WeightsError(
                f"{name} is no part of this model", code="extra-part", hint="two models in one folder?", part=name
            )
