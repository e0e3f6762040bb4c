# SPDX-License-Identifier: Apache-2.0
"""Encrypted weights: what was sealed opens as it was, and anything else is refused by name (spec/08-weights.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from teehouse_core.errors import LocalError, MalformedError, RefusedError, TeehouseError
from teehouse_core.weights import Cut, FileEntry, KeyRef, Manifest, Part, PartCipher, WeightsError, build_manifest
from teehouse_core.weights.chunks import key_commit
from teehouse_core.weights.manifest import check_name, weights_root
from teehouse_core.weights.plan import HEADER_SIZE, TAG_SIZE, check_listing, parts_of_file
from teehouse_core.weights.signing import MANIFEST_NAME, parse_signed, sign_manifest
from teehouse_core.weights.whole import open_model, open_part, seal_model, seal_part
from teehouse_core.wire.canonical import encode, parse

KEY = bytes(range(32))
PUBLISHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PK = PUBLISHER.public_key().public_bytes_raw()
ID = b"0123456789abcdef"
CHUNK = 1024

names = st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4}){0,2}\.bin", fullmatch=True)
models = st.dictionaries(
    names, st.one_of(st.binary(max_size=40), st.integers(0, 6 * CHUNK).map(lambda n: bytes(n))), min_size=1, max_size=4
).filter(lambda files: not any(a != b and b.startswith(a + "/") for a in files for b in files))


def salt(part: Part) -> bytes:
    return hashlib.sha256(part.object.encode()).digest()


def seal(files: dict[str, bytes], *, ident: bytes = ID, part_chunks: int = 2, **more: Any) -> dict[str, bytes]:
    return seal_model(
        files,
        data_key=KEY,
        publisher=PUBLISHER,
        ident=ident,
        salts=salt,
        cut=Cut(ident, CHUNK, part_chunks),
        **more,
    )


def reopen(objects: dict[str, bytes], key: bytes = KEY) -> dict[str, bytes]:
    return open_model(objects, publishers={PK}, data_key=key)[1]


@given(models, st.integers(1, 4))
def test_what_was_sealed_opens(files: dict[str, bytes], part_chunks: int) -> None:
    objects = seal(files, part_chunks=part_chunks)
    assert reopen(objects) == files
    manifest, pk = parse_signed(objects[MANIFEST_NAME])
    assert pk == PK
    assert Manifest.parse(manifest.raw) == manifest
    assert manifest.size == sum(map(len, files.values()))
    sizes = {part.object: part.sealed_size for part in manifest.parts()}
    assert sizes == {name: len(data) for name, data in objects.items() if name != MANIFEST_NAME}


@settings(deadline=None)
@given(models, st.data())
def test_no_changed_byte_is_accepted(files: dict[str, bytes], data: st.DataObject) -> None:
    """One byte anywhere, in any part or in the manifest: refused with our own error, and never other files."""
    objects = seal(files)
    name = data.draw(st.sampled_from(sorted(objects)))
    at = data.draw(st.integers(0, len(objects[name]) - 1))
    changed = bytearray(objects[name])
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TeehouseError):
        reopen(objects | {name: bytes(changed)})


@settings(deadline=None)
@given(models, st.data())
def test_no_shuffled_parts_are_accepted(files: dict[str, bytes], data: st.DataObject) -> None:
    objects = seal(files)
    other = seal(files, ident=b"fedcba9876543210")
    parts = sorted(set(objects) - {MANIFEST_NAME})
    name = data.draw(st.sampled_from(parts))
    source = data.draw(st.sampled_from([objects, other]))
    taken = data.draw(st.sampled_from(parts))
    if source is objects and taken == name:
        return
    with pytest.raises(WeightsError) as caught:
        reopen(objects | {name: source[taken]})
    assert caught.value.code in {"other-encryption", "wrong-part", "truncated-part", "part-too-long"}
    assert caught.value.part == name


def test_chunks_open_in_their_place_only() -> None:
    cut = Cut(ID, CHUNK, 3)
    plain = bytes(range(256)) * 14  # 3.5 chunks: two parts
    first, second = parts_of_file(cut, 0, "m", len(plain))
    assert (first.flag(0), first.flag(2), second.flag(0)) == (0, 1, 2)
    sealed = seal_part(KEY, first, salt(first), plain[: first.size])
    size = CHUNK + TAG_SIZE
    chunks = [sealed[HEADER_SIZE + i * size :][:size] for i in range(3)]
    header = sealed[:HEADER_SIZE]
    assert open_part(KEY, first, sealed) == plain[: first.size]
    for order, chunk in (((1, 0, 2), 0), ((0, 0, 2), 1), ((0, 2, 1), 1), ((2, 1, 0), 0)):
        with pytest.raises(WeightsError) as caught:
            open_part(KEY, first, header + b"".join(chunks[i] for i in order))
        assert (caught.value.code, caught.value.file, caught.value.chunk) == ("chunk-refused", "m", chunk)
    for other in (Cut(ID, CHUNK, 4), Cut(b"x" * 16, CHUNK, 3)):
        moved = Part(other, 0, "m", len(plain), 0)
        with pytest.raises(WeightsError):
            open_part(KEY, moved, seal_part(KEY, first, salt(first), plain[: first.size]))
    renamed, resized = Part(cut, 0, "n", len(plain), 0), Part(cut, 0, "m", len(plain) + 1, 0)
    for wrong in (renamed, resized):
        with pytest.raises(WeightsError) as caught:
            open_part(KEY, wrong, sealed)
        assert caught.value.code == "chunk-refused"


@given(st.binary(max_size=300))
def test_any_bytes_give_our_errors(data: bytes) -> None:
    for read in (parse_signed, Manifest.parse):
        with pytest.raises(MalformedError):
            read(data)


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    manifest, _ = parse_signed(seal({"a": b"1", "b/c": bytes(3000)})[MANIFEST_NAME])
    document = parse(manifest.raw, limit=1 << 20)
    change(document)
    return encode(document)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d.update(v="teehouse-weights/2"), "unknown-value"),
        (lambda d: d.update(more=1), "unknown-member"),
        (lambda d: d.pop("key"), "missing-member"),
        (lambda d: d.update(chunk_size=1000), "out-of-range"),
        (lambda d: d.update(chunk_size=3072), "out-of-range"),
        (lambda d: d.update(part_chunks=0), "out-of-range"),
        (lambda d: d.update(layout="file"), "layout-mismatch"),
        (lambda d: d.update(layout="tree"), "unknown-value"),
        (lambda d: d.update(weights_sha256="0" * 64), "weights-root"),
        (lambda d: d.update(key_commit="AA"), "wrong-length"),
        (lambda d: d["files"].reverse(), "files-order"),
        (lambda d: d["files"].append(d["files"][1]), "files-order"),
        (lambda d: d["files"].clear(), "out-of-range"),
        (lambda d: d["files"][1].update(name="a/c"), "wrong-name"),
        (lambda d: d["files"][1].update(name="../c"), "wrong-name"),
        (lambda d: d["files"][1].update(name="/c"), "wrong-name"),
        (lambda d: d["files"][1].update(name="b\\c"), "wrong-name"),
        (lambda d: d["files"][1].update(name="b//c"), "wrong-name"),
        (lambda d: d["files"][1].update(name=""), "wrong-name"),
        (lambda d: d["files"][1].update(chunks=2), "chunks-mismatch"),
        (lambda d: d["files"][1].update(sha256="0" * 64), "weights-root"),
        (lambda d: d["files"][1].update(size=1 << 44, chunks=1 << 34), "out-of-range"),
    ],
)
def test_manifests_that_do_not_hold_together(change: Callable[[dict[str, Any]], object], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Manifest.parse(changed(change))
    assert caught.value.code == code


def test_listing_names_what_is_wrong() -> None:
    objects = seal({"a": b"1", "b": bytes(5000)})
    manifest, _ = parse_signed(objects[MANIFEST_NAME])
    sizes = {name: len(data) for name, data in objects.items()}
    check_listing(manifest.parts(), sizes | {"LICENSE": 3})
    for change, code in (
        ({"00001-00001.thw": 10}, "truncated-part"),
        ({"00001-00001.thw": 10_000}, "part-too-long"),
        ({"00001-00003.thw": 10}, "extra-part"),
        ({"other.thw": 10}, "extra-part"),
    ):
        with pytest.raises(WeightsError) as caught:
            check_listing(manifest.parts(), sizes | change)
        assert caught.value.code == code
        assert {caught.value.part} == set(change)
    del sizes["00001-00002.thw"]
    with pytest.raises(WeightsError) as caught:
        check_listing(manifest.parts(), sizes)
    assert (caught.value.code, caught.value.file) == ("missing-part", "b")


def test_strangers_and_wrong_keys() -> None:
    objects = seal({"a": b"1"})
    with pytest.raises(RefusedError) as refused:
        open_model(objects, publishers={bytes(32)}, data_key=KEY)
    assert refused.value.code == "publisher-unknown"
    with pytest.raises(WeightsError) as caught:
        reopen(objects, bytes(32))
    assert caught.value.code == "wrong-data-key"
    with pytest.raises(LocalError):
        key_commit(b"short", ID)
    with pytest.raises(LocalError):
        PartCipher(KEY, Part(Cut(ID), 0, "a", 1, 0), b"short")
    with pytest.raises(LocalError):
        Cut(ID, 1000)
    manifest, _ = parse_signed(objects[MANIFEST_NAME])
    lying = build_manifest(
        manifest.cut,
        model="m",
        layout="file",
        key=KeyRef(),
        key_commit=manifest.key_commit,
        files=[FileEntry("a", 1, "0" * 64)],
    )
    with pytest.raises(WeightsError) as caught:
        reopen(objects | {MANIFEST_NAME: sign_manifest(lying, PUBLISHER)})
    assert (caught.value.code, caught.value.file) == ("file-sha256", "a")
    with pytest.raises(WeightsError) as caught:
        reopen({})
    assert caught.value.code == "no-manifest"
    with pytest.raises(LocalError):
        build_manifest(manifest.cut, model="m", layout="file", key=KeyRef(), key_commit=bytes(32), files=[])


def test_the_root_is_the_nodes() -> None:
    """EVIDENCE §1; `teehouse_enclave.engine.digest` computes the same, which that wheel's tests show."""
    digests = {"b": "22" * 32, "a/c": "11" * 32}
    lines = b"a/c\0" + b"11" * 32 + b"\nb\0" + b"22" * 32 + b"\n"
    assert weights_root("directory", digests) == hashlib.sha256(lines).hexdigest()
    assert weights_root("file", {"x": "33" * 32}) == "33" * 32


@given(st.text(max_size=30))
def test_no_name_leaves_its_folder(name: str) -> None:
    try:
        check_name(name)
    except WeightsError as error:
        assert error.code == "wrong-name"  # noqa: PT017
        return
    assert name.isascii()
    assert ".." not in name.split("/")
    assert not name.startswith("/")
