# SPDX-License-Identifier: Apache-2.0
"""A small model sealed or opened at once, in memory: for vectors and the fuzzer, with the checks in spec/08's order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teehouse_core.weights.chunks import PartCipher, check_key, key_commit
from teehouse_core.weights.errors import WeightsError
from teehouse_core.weights.manifest import FILE_LAYOUT, FOLDER_LAYOUT, FileEntry, KeyRef, Manifest, build_manifest
from teehouse_core.weights.plan import HEADER_SIZE, Cut, Part, check_listing, parts_of_file
from teehouse_core.weights.signing import MANIFEST_NAME, sign_manifest, verify_manifest

__all__ = ["open_model", "open_part", "seal_model", "seal_part"]


def seal_part(data_key: bytes, part: Part, salt: bytes, plain: bytes) -> bytes:
    """One whole object."""
    cipher = PartCipher(data_key, part, salt)
    sealed = bytearray(part.sealed_size - HEADER_SIZE)
    cipher.seal_into(0, part.chunks, memoryview(plain), memoryview(sealed))
    return cipher.header + bytes(sealed)


def open_part(data_key: bytes, part: Part, sealed: bytes) -> bytes:
    """The plaintext of one whole object of the right size. Raises WeightsError."""
    cipher = PartCipher.open(data_key, part, sealed[:HEADER_SIZE])
    plain = bytearray(part.size)
    cipher.open_into(0, part.chunks, memoryview(sealed)[HEADER_SIZE:], memoryview(plain))
    return bytes(plain)


def open_model(
    objects: Mapping[str, bytes], *, publishers: Collection[bytes], data_key: bytes
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files. Raises WeightsError, MalformedError, or RefusedError `publisher-unknown`."""
    signed = objects.get(MANIFEST_NAME)
    if signed is None:
        raise WeightsError("there is no manifest", code="no-manifest", hint=f"{MANIFEST_NAME} is written last")
    manifest = verify_manifest(signed, publishers)  # (1) signature and form
    check_key(data_key, manifest.cut.id, manifest.key_commit)  # (2) the right key
    check_listing(manifest.parts(), {name: len(data) for name, data in objects.items()})  # (3) names and sizes
    files: dict[str, bytes] = {}
    for number, file in enumerate(manifest.files):
        # (4) headers, (5) chunks
        plain = b"".join(open_part(data_key, part, objects[part.object]) for part in manifest.parts_of(number))
        manifest.check_file(number, hashlib.sha256(plain).hexdigest())  # (6)
        files[file.name] = plain
    return manifest, files


def seal_model(
    files: Mapping[str, bytes],
    *,
    data_key: bytes,
    publisher: Ed25519PrivateKey,
    ident: bytes,
    salts: Callable[[Part], bytes],
    model: str = "model",
    layout: str | None = None,
    key: KeyRef | None = None,
    cut: Cut | None = None,
) -> dict[str, bytes]:
    """Objects of a small model, with its manifest. `salts` gives 32 random bytes for a part."""
    made = cut or Cut(ident)
    entries: list[FileEntry] = []
    objects: dict[str, bytes] = {}
    for number, (name, plain) in enumerate(sorted(files.items())):
        for part in parts_of_file(made, number, name, len(plain)):
            objects[part.object] = seal_part(data_key, part, salts(part), plain[part.offset : part.offset + part.size])
        entries.append(FileEntry(name, len(plain), hashlib.sha256(plain).hexdigest()))
    manifest = build_manifest(
        made,
        model=model,
        layout=layout or (FILE_LAYOUT if len(entries) == 1 else FOLDER_LAYOUT),
        key=key or KeyRef(),
        key_commit=key_commit(data_key, made.id),
        files=entries,
    )
    objects[MANIFEST_NAME] = sign_manifest(manifest, publisher)
    return objects
