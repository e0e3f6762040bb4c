# SPDX-License-Identifier: Apache-2.0
"""Tiles, bundles, proofs, entries and what witnesses are sent: strict, bounded, one spelling each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_support import LOG_KEY, ORIGIN, mth, nodes_of, seeded, signed

from teehouse_core.errors import LocalError, MalformedError
from teehouse_core.log.entry import AuditEntry, Opening, PublicEntry, commit, parse_leaf
from teehouse_core.log.errors import LogProofError, LogSignatureError
from teehouse_core.log.merkle import EMPTY_ROOT, consistency_proof, inclusion_proof, leaf_hash, root_of
from teehouse_core.log.note import Note
from teehouse_core.log.proof import TlogProof
from teehouse_core.log.signing import cosigner_key, sign_statement, verify_signature, verify_statement
from teehouse_core.log.tiles import (
    ENTRIES,
    TilePath,
    entries_path,
    format_bundle,
    parse_bundle,
    parse_path,
    tile_path,
    tile_source,
    tiles_between,
    width_at,
)
from teehouse_core.log.witness import AddCheckpoint, NewestStatement, format_size, parse_size
from teehouse_core.wire.canonical import encode

ENTRY = AuditEntry(
    time=1_800_000_000,
    op="key.create",
    id="0123456789abcdef0123456789abcdef",
    decision="done",
    tenant="demo",
    ring="ring-1",
    key="key-1",
    version="1",
    actor=commit(bytes(32), "Ada"),
    failed_checks=("tdx.tcb",),
    witnesses=2,
)
PUBLIC = PublicEntry(time=1_800_000_000, kind="keyset", id="ab" * 16, sha256="cd" * 32, endpoint="ep-demo", node="n1")


def test_published_paths() -> None:
    """The example of c2sp.org/tlog-tiles."""
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(63, 0, 17) == "tile/63/000.p/17"
    assert entries_path(5, 1) == "tile/entries/005.p/1"
    assert parse_path("tile/0/x001/x234/067") == TilePath(0, 1234067, 256)
    assert parse_path("tile/entries/005.p/1") == TilePath(ENTRIES, 5, 1)


def test_published_widths() -> None:
    """A tree of 70,000: 273 full level 0 tiles, a partial one of 112, one full level 1, partial 17, partial 1."""
    made = list(tiles_between(0, 70_000))
    count = [(level, width, sum(t.level == level and t.width == width for t in made)) for level, width in (
        (0, 256), (0, 112), (1, 256), (1, 17), (2, 1))]  # fmt: skip
    assert count == [(0, 256, 273), (0, 112, 1), (1, 256, 1), (1, 17, 1), (2, 1, 1)]
    assert len(made) == 277
    assert [t for t in tiles_between(0, 256)] == [TilePath(0, 0, 256), TilePath(1, 0, 1)]  # noqa: C416
    assert list(tiles_between(70_000, 70_000)) == []


@given(st.integers(0, 3000), st.integers(0, 600))
@settings(max_examples=100, deadline=None)
def test_tiles_between_two_sizes_are_all_that_changed(old: int, more: int) -> None:
    new = old + more
    whole = {(t.level, t.index): t.width for t in tiles_between(0, new)}
    before = {(t.level, t.index): t.width for t in tiles_between(0, old)}
    changed = {(t.level, t.index): t.width for t in tiles_between(old, new)}
    assert changed == {place: width for place, width in whole.items() if before.get(place) != width}
    assert all(width_at(level, index, new) == width for (level, index), width in whole.items())


@given(st.integers(0, 10**15), st.integers(1, 256), st.integers(0, 63))
def test_paths_have_one_spelling(index: int, width: int, level: int) -> None:
    assert parse_path(tile_path(level, index, width)) == TilePath(level, index, width)
    assert parse_path(entries_path(index, width)) == TilePath(ENTRIES, index, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/x01/001",
        "tile/00/001",
        "tile/64/001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/0/001/",
        "/tile/0/001",
        "tile/0/../001",
        "tile/0/x001/x234/x067",
        "tile/0/" + "x999/" * 9 + "999",
        "tile/0/\u0661\u0661\u0661",
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(MalformedError):
        parse_path(path)


def tiled(size: int) -> tuple[Callable[[TilePath], bytes], list[bytes]]:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    _, nodes = nodes_of(leaves)
    tiles = {
        (t.level, t.index, t.width): b"".join(nodes[8 * t.level, t.index * 256 + n] for n in range(t.width))
        for t in tiles_between(0, size)
    }
    return (lambda t: tiles[t.level, t.index, t.width]), leaves


def test_proofs_from_tiles_are_proofs_from_nodes() -> None:
    size = 70_000
    read, leaves = tiled(size)
    plain, _ = nodes_of(leaves)
    source = tile_source(read, size)
    assert root_of(source, size) == root_of(plain, size)
    for index in (0, 255, 256, 65_535, 65_536, 69_999):
        assert inclusion_proof(source, index, size) == inclusion_proof(plain, index, size)
    for old in (1, 256, 65_535, 65_536, 69_632, 69_999):
        assert consistency_proof(source, old, size) == consistency_proof(plain, old, size)
    with pytest.raises(LocalError):
        source(0, size)
    with pytest.raises(MalformedError):
        root_of(tile_source(lambda _tile: b"short", size), size)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
@settings(max_examples=30, deadline=None)
def test_bundles(entries: list[bytes]) -> None:
    data = format_bundle(entries)
    assert parse_bundle(data) == entries
    with pytest.raises(MalformedError):
        parse_bundle(data[:-1] if len(data) > 2 or entries[-1] else data[:1])


def test_bundle_bounds() -> None:
    assert parse_bundle(format_bundle([bytes(65535)])) == [bytes(65535)]
    for bad in ([], [b""] * 257, [bytes(65536)]):
        with pytest.raises(LocalError):
            format_bundle(bad)
    for data in (b"", b"\0", b"\0\1", b"\0\0" * 257):
        with pytest.raises(MalformedError):
            parse_bundle(data)


def proof_of(index: int, size: int, extra: bytes = b"") -> TlogProof:
    entries = [b"%d" % n for n in range(size)]
    source, _ = nodes_of([leaf_hash(entry) for entry in entries])
    note = signed(size, mth(entries))
    return TlogProof(index, tuple(inclusion_proof(source, index, size)), note.to_bytes(), extra)


@pytest.mark.parametrize(("index", "size"), [(0, 1), (3, 8), (6, 7), (99, 100)])
def test_proofs_stand_alone(index: int, size: int) -> None:
    for extra in (b"", b"extra"):
        data = proof_of(index, size, extra).to_bytes()
        proof = TlogProof.parse(data)
        assert proof.to_bytes() == data
        assert proof.extra == extra
        assert verify_signature(proof.note, LOG_KEY) is None
        assert proof.verify_inclusion(leaf_hash(b"%d" % index)).size == size
        with pytest.raises(LogProofError):
            proof.verify_inclusion(leaf_hash(b"lie"))


def test_the_form_of_a_published_proof() -> None:
    """The example of c2sp.org/tlog-proof, its abridged signatures written out."""
    data = (
        "c2sp.org/tlog-proof@v1\nextra YWdlLXYxLjIuMS1kYXJ3aW4tYXJtNjQudGFyLmd6kYXJ3aW4tYXJ\nindex 73894\n"
        "gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=\nB95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=\n\n"
        "example.com/fancylog\n109482\nsFodV/vSp5O8n9a8QpW6PRY97tfOSW5bsc2Xl/EQi08=\n\n"
        "— example.com/fancylog hI2DJw==\n"
    )
    with pytest.raises(MalformedError):  # hI2DJw== is a key id alone
        TlogProof.parse(data.encode())
    assert TlogProof.parse(data.replace("hI2DJw==", "hI2DJwAA").encode()).index == 73894


def test_what_is_no_proof() -> None:
    data = proof_of(3, 8, b"extra").to_bytes()
    lines = data.split(b"\n")
    for bad in (
        b"",
        data[1:],
        data.replace(b"@v1", b"@v2"),
        data.replace(b"index 3", b"index 03"),
        data.replace(b"index 3\n", b""),
        data.replace(b"extra ZXh0cmE=", b"extra "),
        data.replace(b"\n\n", b"\n", 1),
        b"\n".join([*lines[:3], b"AAAA", *lines[3:]]),
        b"\n".join([*lines[:3], *[lines[3]] * 70, *lines[4:]]),
        b"\n".join([lines[0], lines[2], lines[1], *lines[3:]]),
    ):
        with pytest.raises(MalformedError):
            TlogProof.parse(bad)


def test_add_checkpoint_is_strict() -> None:
    note = signed(8, mth([b"%d" % n for n in range(8)]))
    request = AddCheckpoint(6, (bytes(32), b"\1" * 32), note)
    data = request.to_bytes()
    assert data.startswith(b"old 6\nAAAA")
    assert AddCheckpoint.parse(data) == request
    first = AddCheckpoint(0, (), note)
    assert AddCheckpoint.parse(first.to_bytes()) == first
    for bad in (
        data.replace(b"old 6", b"old 06"),
        data.replace(b"old 6", b"old 9"),
        data.replace(b"old 6", b"new 6"),
        data.replace(b"old 6\n", b"old 6\n\n"),
        data[:-1],
        AddCheckpoint(6, (bytes(32),) * 64, note).to_bytes(),
        AddCheckpoint(6, (bytes(31),), note).to_bytes(),
    ):
        with pytest.raises(MalformedError):
            AddCheckpoint.parse(bad)
    assert parse_size(format_size(0)) == 0
    for bad in (b"", b"5", b"05\n", b"-5\n", b"5\n\n", b"9" * 40 + b"\n"):
        with pytest.raises(MalformedError):
            parse_size(bad)


def test_a_statement_answers_one_question() -> None:
    witness = seeded("w1.example")
    key = cosigner_key("w1.example", witness.public_key())
    note = signed(3, b"\7" * 32, witnesses=["w1.example"])
    statement = NewestStatement(ORIGIN, 3, b"\7" * 32, b"n" * 32, 1000, note.to_bytes())
    data, signature = statement.to_bytes(), sign_statement(statement, witness)
    assert verify_statement(data, signature, key, origin=ORIGIN, nonce=b"n" * 32) == statement
    for origin, nonce in ((ORIGIN + "x", b"n" * 32), (ORIGIN, b"m" * 32)):
        with pytest.raises(LogSignatureError) as caught:
            verify_statement(data, signature, key, origin=origin, nonce=nonce)
        assert caught.value.code == "statement-stale"
    with pytest.raises(LogSignatureError):
        verify_statement(data, bytes(64), key, origin=ORIGIN, nonce=b"n" * 32)
    other = dataclasses.replace(statement, time=1001).to_bytes()
    with pytest.raises(LogSignatureError):
        verify_statement(other, signature, key, origin=ORIGIN, nonce=b"n" * 32)
    for spoilt in (
        dataclasses.replace(statement, size=2),
        dataclasses.replace(statement, root=b"\1" * 32),
        dataclasses.replace(statement, note=b""),
        dataclasses.replace(statement, note=b"no note"),
        dataclasses.replace(statement, nonce=b"short"),
        dataclasses.replace(statement, origin=""),
    ):
        with pytest.raises(MalformedError):
            NewestStatement.parse(spoilt.to_bytes())
    never = NewestStatement(ORIGIN, 0, EMPTY_ROOT, b"n" * 32, 1000)
    assert NewestStatement.parse(never.to_bytes()) == never


def test_entries_have_one_spelling() -> None:
    for entry in (ENTRY, PUBLIC):
        data = entry.to_bytes()
        assert parse_leaf(data) == entry
        assert type(entry).parse(data) == entry
        assert entry.leaf_hash() == leaf_hash(data)
    with pytest.raises(MalformedError):
        PublicEntry.parse(ENTRY.to_bytes())
    with pytest.raises(MalformedError):
        parse_leaf(b'{"v":"tks-log/2"}')
    with pytest.raises(MalformedError):
        parse_leaf(b'{"v":{}}')


@pytest.mark.parametrize(
    "change",
    [
        {"op": ""},
        {"op": "Key.Create"},
        {"decision": "maybe"},
        {"id": "00"},
        {"time": -1},
        {"witnesses": 33},
        {"actor": "Ada"},
        {"policy_sha256": "00"},
        {"failed_checks": ("",)},
        {"failed_checks": ("x",) * 65},
        {"ring": "x" * 257},
        {"ring": "é"},
    ],
)
def test_what_is_no_entry(change: dict[str, Any]) -> None:
    with pytest.raises(LocalError):
        dataclasses.replace(ENTRY, **change).to_bytes()
    value = ENTRY.to_json() | change
    if change != {"ring": "é"} and change != {"time": -1}:
        with pytest.raises(MalformedError):
            AuditEntry.parse(encode(value))


def test_an_opening_shows_who() -> None:
    opening = Opening(bytes(32), ("Ada",))
    opening.check(ENTRY)
    assert Opening.read(opening.to_json()) == opening
    with pytest.raises(MalformedError) as caught:
        Opening(bytes(32), ("Bob",)).check(ENTRY)
    assert caught.value.code == "opening"
    with pytest.raises(MalformedError):
        Opening(b"\1" * 32, ("Ada",)).check(ENTRY)
    both = Opening(bytes(32), ("Ada", "李雷"))
    assert both.actor != Opening(bytes(32), ("Ada李雷",)).actor
    for value in (None, {}, {"salt": "", "names": ["a"]}, {"salt": "A" * 43, "names": []},
                  {"salt": "A" * 43, "names": ["a\nb"]}, {"salt": "A" * 43, "names": [1]},
                  {"salt": "A" * 43, "names": ["a"], "more": 1}):  # fmt: skip
        with pytest.raises(MalformedError):
            Opening.read(value)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes(data: bytes) -> None:
    for parse in (
        parse_bundle,
        TlogProof.parse,
        AddCheckpoint.parse,
        NewestStatement.parse,
        parse_leaf,
        parse_size,
        Note.parse,
        lambda raw: parse_path(raw.decode("utf-8", "surrogateescape")),
    ):
        try:
            parse(data)
        except MalformedError:
            continue
