# SPDX-License-Identifier: Apache-2.0
"""The manifest (spec/08 §2): which files a model has, how they were cut, and which key opens them.

Parsing checks form and that the whole agrees with itself: names that could leave a folder, repeat or shadow each other
are refused, and `weights_sha256` must be what the files' digests give, as a node computes it (EVIDENCE §1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.plan import (
    MAX_CHUNK_SIZE,
    MAX_FILE_SIZE,
    MAX_PART_CHUNKS,
    MAX_PARTS,
    MIN_CHUNK_SIZE,
    Cut,
    Part,
    parts_of_file,
)
from teehouse_core.wire.canonical import b64u, encode, parse
from teehouse_core.wire.fields import HEX32, HEX64, Fields

__all__ = [
    "FILE_LAYOUT",
    "FOLDER_LAYOUT",
    "MAX_FILES",
    "MAX_MANIFEST",
    "MAX_NAME",
    "VERSION",
    "FileEntry",
    "KeyRef",
    "Manifest",
    "build_manifest",
    "check_name",
    "weights_root",
]

VERSION = "teehouse-weights/1"
MAX_MANIFEST = 4 * 1024 * 1024  # bytes
MAX_FILES = 10_000
MAX_NAME = 512  # characters
FILE_LAYOUT, FOLDER_LAYOUT = "file", "directory"


@dataclass(frozen=True, slots=True)
class KeyRef:
    """Where the data key is: which version of which key in whose ring. All empty: the publisher keeps it.

    `tks` names the key service for people. Which one a node asks is measured in its own configuration.
    """

    tks: str = ""
    tenant: str = ""
    ring: str = ""
    key: str = ""
    version: str = ""

    def to_json(self) -> dict[str, str]:
        return {"tks": self.tks, "tenant": self.tenant, "ring": self.ring, "key": self.key, "version": self.version}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: name relative with `/`, plaintext bytes, hex SHA-256 of the plaintext, number of chunks."""

    name: str
    size: int
    sha256: str

    def to_json(self, cut: Cut) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "sha256": self.sha256, "chunks": _chunks(self.size, cut)}


@dataclass(frozen=True, slots=True)
class Manifest:
    """One parsed manifest; `raw` are the bytes that are signed."""

    raw: bytes = field(repr=False)
    cut: Cut
    model: str
    layout: str
    weights_sha256: str
    key: KeyRef
    key_commit: bytes
    files: tuple[FileEntry, ...]

    @property
    def id(self) -> str:
        """Hex of the encryption's id."""
        return self.cut.id.hex()

    @property
    def size(self) -> int:
        """Plaintext bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str:
        """64 hex digits over `raw`."""
        return hashlib.sha256(self.raw).hexdigest()

    def parts(self) -> Iterator[Part]:
        """All parts, file by file, in order."""
        for number in range(len(self.files)):
            yield from self.parts_of(number)

    def parts_of(self, number: int) -> Iterator[Part]:
        file = self.files[number]
        return parts_of_file(self.cut, number, file.name, file.size)

    def check_file(self, number: int, sha256: str) -> None:
        """Compare a decrypted file's hex SHA-256 with the manifest's. Raises WeightsError `file-sha256`."""
        file = self.files[number]
        if sha256 != file.sha256:
            raise WeightsError(
                f"{file.name} is not the file that the manifest names",
                code="file-sha256",
                hint="its chunks all opened: a part of an earlier attempt, or its publisher signed another digest",
                file=file.name,
            )

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Strict parse of canonical JSON. Raises MalformedError."""
        top = Fields(parse(data, limit=MAX_MANIFEST), "manifest")
        top.one_of("v", VERSION)
        ident = bytes.fromhex(top.text("id", HEX32))
        chunk_size = top.integer("chunk_size", MIN_CHUNK_SIZE, MAX_CHUNK_SIZE)
        if chunk_size & (chunk_size - 1):
            raise MalformedError("manifest.chunk_size is no power of two", code="out-of-range")
        cut = Cut(ident, chunk_size, top.integer("part_chunks", 1, MAX_PART_CHUNKS))
        key = top.fields("key")
        reference = KeyRef(*(key.text(name) for name in ("tks", "tenant", "ring", "key", "version")))
        key.done()
        manifest = cls(
            raw=data,
            cut=cut,
            model=top.text("model"),
            layout=top.one_of("layout", FILE_LAYOUT, FOLDER_LAYOUT),
            weights_sha256=top.text("weights_sha256", HEX64),
            key=reference,
            key_commit=top.octets("key_commit", 32),
            files=tuple(_file(Fields(item, "manifest.files"), cut) for item in top.items("files", 1, MAX_FILES)),
        )
        top.done()
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Names and totals; and the root, so that one digest stands for the whole."""
        names = [file.name for file in self.files]
        if names != sorted(set(names)):
            raise MalformedError("manifest.files are not sorted, or one stands twice", code="files-order")
        folders = {name[:at] for name in names for at, char in enumerate(name) if char == "/"}
        if clash := folders.intersection(names):
            raise WeightsError("a name is a file and a folder", code="wrong-name", file=min(clash))
        if sum(self.cut.part_count(file.size) for file in self.files) > MAX_PARTS:
            raise MalformedError("the model has too many parts", code="out-of-range")
        if self.layout == FILE_LAYOUT and len(self.files) != 1:
            raise MalformedError("a model of layout file has one file", code="layout-mismatch")
        digests = {file.name: file.sha256 for file in self.files}
        if weights_root(self.layout, digests) != self.weights_sha256:
            raise WeightsError("weights_sha256 is not what the files' digests give", code="weights-root")


def weights_root(layout: str, digests: Mapping[str, str]) -> str:
    """`weights_sha256` as a node computes it: of one file its SHA-256, of a directory that of the sorted lines
    `name ‖ 00 ‖ hex SHA-256 ‖ 0A`."""
    if layout == FILE_LAYOUT:
        return next(iter(digests.values()))
    root = hashlib.sha256()
    for name, digest in sorted(digests.items()):
        root.update(name.encode("ascii") + b"\0" + digest.encode("ascii") + b"\n")
    return root.hexdigest()


def check_name(name: str) -> None:
    """A name that stays below the folder it is written to. Raises WeightsError `wrong-name`."""
    good = 0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable() and "\\" not in name
    if not good or any(step in ("", ".", "..") for step in name.split("/")):
        raise WeightsError(
            "a file of the model has a name that cannot be used",
            code="wrong-name",
            hint="printable ASCII, relative, with / and without . and ..",
            file=ascii(name)[1:-1][:MAX_NAME],
        )


def build_manifest(
    cut: Cut, *, model: str, layout: str, key: KeyRef, key_commit: bytes, files: Iterable[FileEntry]
) -> Manifest:
    """A manifest of these facts, parsed as its readers will. Raises what `Manifest.parse` raises, or LocalError."""
    ordered: Sequence[FileEntry] = sorted(files, key=lambda file: file.name)
    if not ordered:
        raise LocalError("a model has at least one file", code="no-files")
    document = {
        "v": VERSION,
        "id": cut.id.hex(),
        "model": model,
        "layout": layout,
        "weights_sha256": weights_root(layout, {file.name: file.sha256 for file in ordered}),
        "chunk_size": cut.chunk_size,
        "part_chunks": cut.part_chunks,
        "key": key.to_json(),
        "key_commit": b64u(key_commit),
        "files": [file.to_json(cut) for file in ordered],
    }
    return Manifest.parse(encode(document))


def _chunks(size: int, cut: Cut) -> int:
    return max(1, -(-size // cut.chunk_size))


def _file(item: Fields, cut: Cut) -> FileEntry:
    name: str = item.take("name", str)
    check_name(name)
    file = FileEntry(name, item.integer("size", 0, MAX_FILE_SIZE), item.text("sha256", HEX64))
    if item.integer("chunks", 1, MAX_FILE_SIZE) != _chunks(file.size, cut):
        raise WeightsError("a file's chunks do not fit its size", code="chunks-mismatch", file=name)
    item.done()
    return file
