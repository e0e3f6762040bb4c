# SPDX-License-Identifier: Apache-2.0
"""Vectors of encrypted weights, by a writer made from the text of spec/08-weights.md alone."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from kit import Vector, b64u, canonical, kdf, label, seed, sha

__all__ = ["weights"]

DATA_KEY = seed("weights data key")
PUBLISHER = Ed25519PrivateKey.from_private_bytes(seed("weights publisher"))
CHUNK, PART = 1024, 2  # bytes in a chunk, chunks in a part
FILES = {
    "config.json": b'{"model_type":"test"}',
    "empty.txt": b"",
    "shards/one.bin": seed("weights file", 2500),  # three chunks, two parts
}
Objects = dict[str, bytes]
Change = Callable[[dict[str, Any]], Any]


class Writer:
    """One encryption; `number` draws id and salts."""

    def __init__(self, files: dict[str, bytes] = FILES, number: int = 0, *, layout: str = "directory") -> None:
        self.files = files
        self.ident = seed(f"weights id {number}", 16)
        self.number = number
        self.layout = layout

    def part(
        self,
        f: int,
        p: int,
        *,
        flags: dict[int, int] | None = None,
        nonces: dict[int, int] | None = None,
        name: str | None = None,
        plain: bytes | None = None,
        magic: bytes = b"TEEW\1\0\0\0",
    ) -> bytes:
        real, whole = sorted(self.files.items())[f]
        data = whole if plain is None else plain
        salt = seed(f"weights salt {self.number} {f} {p}")
        header = magic + self.ident + struct.pack(">II", f, p) + salt
        context = struct.pack(">IIQ", CHUNK, PART, len(whole)) + (name or real).encode()
        aead = AESGCM(kdf(DATA_KEY, header + context, "weights part", 32))
        mine = data[p * CHUNK * PART : (p + 1) * CHUNK * PART]
        count = max(1, -(-len(mine) // CHUNK))
        parts = max(1, -(-len(whole) // (CHUNK * PART)))
        out = header
        for c in range(count):
            flag = 0 if c < count - 1 else (2 if p == parts - 1 else 1)
            nonce = bytes(7) + struct.pack(">IB", (nonces or {}).get(c, c), (flags or {}).get(c, flag))
            out += aead.encrypt(nonce, mine[c * CHUNK : (c + 1) * CHUNK], None)
        return out

    def document(self) -> dict[str, Any]:
        listed = [
            {
                "name": name,
                "size": len(data),
                "sha256": sha(data).hex(),
                "chunks": max(1, -(-len(data) // CHUNK)),
            }
            for name, data in sorted(self.files.items())
        ]
        return {
            "v": "teehouse-weights/1",
            "id": self.ident.hex(),
            "model": "test",
            "layout": self.layout,
            "weights_sha256": root(listed, self.layout),
            "chunk_size": CHUNK,
            "part_chunks": PART,
            "key": {"tks": "tks.example", "tenant": "t-1", "ring": "weights", "key": "test", "version": "1"},
            "key_commit": b64u(kdf(DATA_KEY, self.ident, "weights key", 32)),
            "files": listed,
        }

    def objects(self) -> Objects:
        made = {"weights.json": signed(canonical(self.document()))}
        for f, (_, data) in enumerate(sorted(self.files.items())):
            for p in range(max(1, -(-len(data) // (CHUNK * PART)))):
                made[f"{f:05d}-{p:05d}.thw"] = self.part(f, p)
        return made


def root(listed: list[dict[str, Any]], layout: str) -> str:
    if layout == "file":
        return str(listed[0]["sha256"])
    return sha(b"".join(f"{one['name']}\0{one['sha256']}\n".encode() for one in listed)).hex()


def signed(manifest: bytes, *, key: Ed25519PrivateKey = PUBLISHER, over: str = "weights manifest") -> bytes:
    return canonical(
        {
            "v": "teehouse-weights/1",
            "manifest": b64u(manifest),
            "pk": b64u(key.public_key().public_bytes_raw()),
            "sig": b64u(key.sign(label(over) + manifest)),
        }
    )


def weights() -> Iterator[Vector]:
    """All vectors of stage `weights`."""
    writer = Writer()
    right = writer.objects()
    first, second = "00002-00000.thw", "00002-00001.thw"
    sealed = CHUNK + 16

    def make(name: str, objects: Objects, expect: str, clause: str, text: str, **more: Any) -> Vector:
        given = {
            "publishers": [b64u(PUBLISHER.public_key().public_bytes_raw())],
            "data_key": b64u(DATA_KEY),
            "objects": {key: b64u(value) for key, value in sorted(objects.items())},
        }
        return Vector(f"weights-{name}", "weights", f"08 §{clause}", text, given | more, expect)

    def put(**parts: bytes | None) -> Objects:
        changed = {**right, **{name.replace("_", "-") + ".thw": value for name, value in parts.items()}}
        return {name: value for name, value in changed.items() if value is not None}

    def with_part(name: str, data: bytes) -> Objects:
        return right | {name: data}

    def manifest(change: Change) -> Objects:
        document = copy.deepcopy(writer.document())
        change(document)
        return right | {"weights.json": signed(canonical(document))}

    def entry(number: int, **values: Any) -> Change:
        return lambda d: d["files"][number].update(values)

    accepted = make("folder", right, "accept", "6.1", "Three files, one of them empty, one in two parts.")
    accepted.given["objects"]["LICENSE"] = b64u(b"free")
    yield accepted
    single = Writer({"model.gguf": FILES["shards/one.bin"]}, 1, layout="file")
    yield make("file", single.objects(), "accept", "2.4", "One file: the root is its SHA-256.")

    manifests: list[tuple[str, Change, str, str, str]] = [
        ("version", lambda d: d.update(v="teehouse-weights/2"), "unknown-value", "2.1", "A version of the future."),
        ("member-more", lambda d: d.update(note=""), "unknown-member", "2.1", "An unknown member."),
        ("member-less", lambda d: d.pop("key"), "missing-member", "2.1", "No key reference."),
        ("chunk-size", lambda d: d.update(chunk_size=1536), "out-of-range", "2.1", "No power of two."),
        ("chunk-size-small", lambda d: d.update(chunk_size=512), "out-of-range", "2.1", "Chunks too small."),
        ("part-chunks", lambda d: d.update(part_chunks=0), "out-of-range", "2.1", "Parts of nothing."),
        ("files-none", lambda d: d.update(files=[]), "out-of-range", "2.1", "No file."),
        ("files-order", lambda d: d["files"].reverse(), "files-order", "2.3", "Files out of order."),
        ("file-twice", lambda d: d["files"].append(d["files"][2]), "files-order", "2.3", "A file twice."),
        ("name-up", entry(0, name="../config.json"), "wrong-name", "2.2", "A name that leaves the folder."),
        ("name-root", entry(0, name="/config.json"), "wrong-name", "2.2", "A name from the root."),
        ("name-backslash", entry(0, name="a\\config.json"), "wrong-name", "2.2", "A name with a backslash."),
        ("name-empty-step", entry(2, name="shards//one.bin"), "wrong-name", "2.2", "A name with an empty step."),
        ("name-empty", entry(0, name=""), "wrong-name", "2.2", "No name."),
        ("name-folder", entry(1, name="shards"), "wrong-name", "2.2", "A file that is also a folder."),
        ("chunks", entry(2, chunks=2), "chunks-mismatch", "2.3", "One chunk less than the size says."),
        ("too-many-parts", entry(2, size=1 << 40, chunks=1 << 30), "out-of-range", "2.3", "Too many parts."),
        ("layout", lambda d: d.update(layout="file"), "layout-mismatch", "2.3", "Layout file with three files."),
        ("root", lambda d: d.update(weights_sha256="00" * 32), "weights-root", "2.4", "Another root."),
        ("digest", entry(2, sha256="00" * 32), "weights-root", "2.4", "Another digest of a file, the root as before."),
    ]
    for name, change, code, clause, text in manifests:
        yield make(f"manifest-{name}", manifest(change), f"reject/{code}", clause, text)

    raw = canonical(writer.document())
    stranger = Ed25519PrivateKey.from_private_bytes(seed("weights stranger"))
    yield make(
        "no-manifest",
        {k: v for k, v in right.items() if k != "weights.json"},
        "reject/no-manifest",
        "6.1",
        "Unfinished: the manifest is not there.",
    )
    other_label = right | {"weights.json": signed(raw, over="receipt")}
    yield make("signature-label", other_label, "reject/manifest-signature", "5.1", "Signed as something else.")
    by_other = right | {"weights.json": signed(raw, key=stranger)}
    yield make("publisher", by_other, "reject/publisher-unknown", "5.2", "Signed by somebody else.")
    spaced = right | {"weights.json": signed(raw.replace(b'"v":', b'"v": '))}
    yield make("manifest-space", spaced, "reject/not-canonical", "2.1", "A signed manifest with a space.")
    yield make("data-key", right, "reject/wrong-data-key", "4.2", "Another data key.", data_key=b64u(bytes(32)))

    yield make("part-missing", put(**{"00002_00001": None}), "reject/missing-part", "6.1", "No second part.")
    yield make("part-cut", with_part(second, right[second][:-1]), "reject/truncated-part", "3.4", "Cut.")
    cut = with_part(first, right[first][:-sealed])
    yield make("part-cut-at-chunk", cut, "reject/truncated-part", "3.4", "Cut at a chunk's border.")
    yield make("part-long", with_part(second, right[second] + b"\0"), "reject/part-too-long", "3.4", "Longer.")
    again = with_part(second, right[second] + right[second][-468:])
    yield make("chunk-twice", again, "reject/part-too-long", "3.4", "The last chunk twice.")
    extra = right | {"00002-00002.thw": writer.part(2, 1)}
    yield make("part-extra", extra, "reject/extra-part", "1.1", "A part too many.")
    yield make("part-odd-name", right | {"x.thw": b""}, "reject/extra-part", "1.1", "A part with an odd name.")
    magic = with_part(second, writer.part(2, 1, magic=b"TEEW\2\0\0\0"))
    yield make("part-magic", magic, "reject/not-a-part", "3.2", "A header of another version.")
    mixed = with_part(second, Writer(number=1).part(2, 1))
    yield make("part-mixed", mixed, "reject/other-encryption", "3.2", "From another encryption of the same.")
    same = {
        **FILES,
        "shards/one.bin": FILES["shards/one.bin"] + seed("more", 1500),
    }  # so that both parts are nearly as large
    twin = Writer(same)
    moved = {**twin.objects(), first: _resized(twin.part(2, 1), len(twin.part(2, 0)))}
    yield make("part-renamed", moved, "reject/wrong-part", "3.2", "The second part under the first one's name.")

    def chunk(name: str, part: str, data: bytes, clause: str, text: str) -> Vector:
        return make(f"chunk-{name}", with_part(part, data), "reject/chunk-refused", clause, text)

    body = right[first][64:]
    yield chunk(
        "flipped", first, right[first][:70] + bytes([right[first][70] ^ 1]) + right[first][71:], "4.3", "A bit."
    )
    yield chunk("tag", first, right[first][:-1] + bytes([right[first][-1] ^ 1]), "4.3", "A bit of a tag.")
    swapped = right[first][:64] + body[sealed:] + body[:sealed]
    yield chunk("swapped", first, swapped, "4.3", "Two chunks in the other order.")
    yield chunk("repeated", first, right[first][:64] + body[:sealed] * 2, "4.3", "A chunk twice, another gone.")
    yield chunk("final-early", first, writer.part(2, 0, flags={1: 2}), "4.3", "The first part says that it is all.")
    yield chunk("final-missing", second, writer.part(2, 1, flags={0: 1}), "4.3", "The last part says that more comes.")
    yield chunk("flag-in-part", first, writer.part(2, 0, flags={0: 1}), "4.3", "A part that ends before its end.")
    yield chunk("counter", first, writer.part(2, 0, nonces={0: 1, 1: 0}), "4.3", "Chunks numbered otherwise.")
    yield chunk("other-file", first, writer.part(2, 0, name="shards/two.bin"), "4.1", "Sealed for another name.")
    salted = right[first][:32] + seed("another salt") + right[first][64:]
    yield chunk("salt", first, salted, "4.1", "Another salt in the header.")
    header = Writer(number=1).part(2, 0)
    pasted = right[first][:32] + header[32:]
    yield chunk("pasted", first, pasted, "4.1", "Another encryption's part behind this one's header.")

    lie = manifest(
        lambda d: (
            d["files"][2].update(sha256=sha(b"other").hex()),
            d.update(weights_sha256=root(d["files"], "directory")),
        )
    )
    yield make("file-digest", lie, "reject/file-sha256", "6.1", "Every chunk opens; the file is another.")


def _resized(data: bytes, size: int) -> bytes:
    return (data + bytes(size))[:size]
