# SPDX-License-Identifier: Apache-2.0
"""RecordReader and ArmorReader: however bytes are cut, the same pieces and the same error; memory stays bounded."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seal_support import bounded

from teehouse_core.errors import MalformedError
from teehouse_core.wire.armor import MAX_LINE, ArmorReader, armor
from teehouse_core.wire.records import MAX_CIPHERTEXT, MIN_CIPHERTEXT, Record, RecordReader, record_prefix

RECORD = st.builds(
    lambda final, ct: record_prefix(final, len(ct)) + ct, st.booleans(), st.binary(min_size=MIN_CIPHERTEXT, max_size=60)
)
BAD_RECORD = st.builds(struct.Struct(">BI").pack, st.integers(0, 3), st.sampled_from([0, 16, 17, 65553, 0xFFFFFFFF]))
RECORDS = st.lists(RECORD | BAD_RECORD | st.binary(max_size=8), max_size=6).map(b"".join)
LINE = st.sampled_from(
    ["data: AAAA", "data:", "data:AA", "data: AB", ":", ": x", "", "\r", "event: a", "data", "data: é", "x", ": \r"]
)
EVENTS = st.lists(LINE, max_size=8).map("\n".join).map(str.encode) | st.binary(max_size=60)
CUTS = st.lists(st.integers(0, 400), max_size=6)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def read_records(pieces: Sequence[bytes]) -> tuple[list[Record], str | None, bool]:
    reader, got = RecordReader(), []
    try:
        for piece in pieces:
            for record in reader.feed(piece):
                got.append(record)
    except MalformedError as error:
        return got, error.code, reader.ended
    return got, None, reader.ended


def read_armor(pieces: Sequence[bytes]) -> tuple[list[bytes], str | None]:
    reader, got = ArmorReader(), []
    try:
        for piece in pieces:
            for inside in reader.feed(piece):
                got.append(inside)
    except MalformedError as error:
        return got, error.code
    return got, None


@bounded
@given(RECORDS, CUTS)
def test_records_do_not_depend_on_cuts(data: bytes, places: list[int]) -> None:
    whole = read_records([data])
    assert read_records(cut(data, places)) == whole
    assert read_records([data[i : i + 1] for i in range(len(data))]) == whole


@bounded
@given(EVENTS, CUTS)
def test_events_do_not_depend_on_cuts(data: bytes, places: list[int]) -> None:
    whole = read_armor([data])
    assert read_armor(cut(data, places)) == whole
    assert read_armor([data[i : i + 1] for i in range(len(data))]) == whole


def test_records_before_a_bad_one_are_given() -> None:
    good = record_prefix(False, 17) + bytes(17)
    got, code, _ = read_records([good + b"\2\0\0\0\x11"])
    assert len(got) == 1
    assert code == "record-flag"


def test_nothing_is_read_after_the_final_record() -> None:
    final = record_prefix(True, 17) + bytes(17)
    got, code, ended = read_records([final + b"\xff" * 100, b"more"])
    assert (len(got), code, ended) == (1, None, True)


@pytest.mark.parametrize("length", [0, 16, MAX_CIPHERTEXT + 1, 0xFFFFFFFF])
def test_a_bad_length_is_refused_at_once(length: int) -> None:
    reader = RecordReader()
    with pytest.raises(MalformedError) as refused:
        list(reader.feed(struct.pack(">BI", 0, length)))
    assert refused.value.code == "record-length"
    assert reader.pending <= 5


@pytest.mark.parametrize("length", [MIN_CIPHERTEXT, MAX_CIPHERTEXT])
def test_edges_of_length(length: int) -> None:
    (record,) = RecordReader().feed(record_prefix(False, length) + bytes(length))
    assert len(record.ciphertext) == length


def test_a_reader_holds_no_more_than_one_record() -> None:
    reader = RecordReader()
    chunk = (record_prefix(False, MAX_CIPHERTEXT) + bytes(MAX_CIPHERTEXT)) * 4
    tracemalloc.start()
    try:
        for _ in range(8):
            for record in reader.feed(chunk):
                assert len(record.ciphertext) == MAX_CIPHERTEXT
        assert tracemalloc.get_traced_memory()[1] < 4 * len(chunk)
    finally:
        tracemalloc.stop()
    assert reader.pending == 0


@bounded
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_armour_round_trip(pieces: list[bytes]) -> None:
    assert read_armor([b"".join(armor(piece) for piece in pieces)]) == (pieces, None)


def test_an_endless_line_is_refused_soon() -> None:
    reader = ArmorReader()
    line = b":" + b"x" * 1023
    for _ in range(MAX_LINE // len(line)):
        assert list(reader.feed(line)) == []
    with pytest.raises(MalformedError) as refused:
        list(reader.feed(line))
    assert refused.value.code == "armor-line-length"
    assert len(reader._buffer) <= MAX_LINE + 1024


@pytest.mark.parametrize(("size", "code"), [(MAX_LINE, None), (MAX_LINE + 1, "armor-line-length")])
@pytest.mark.parametrize("pieces", [1, 3])
def test_the_longest_line(size: int, code: str | None, pieces: int) -> None:
    data = b":" + b"x" * (size - 1) + b"\n"
    assert read_armor(cut(data, [9, size])[:pieces] if pieces == 3 else [data]) == ([], code)


def test_the_largest_record_fits_a_line() -> None:
    record = record_prefix(False, MAX_CIPHERTEXT) + bytes(MAX_CIPHERTEXT)
    event = armor(record).replace(b"\n", b"\r\n")
    assert read_armor([event]) == ([record], None)


@pytest.mark.timeout(20)
def test_feeding_byte_by_byte_takes_no_square_of_time() -> None:
    reader, got = ArmorReader(), []
    event = armor(bytes(MAX_CIPHERTEXT))
    for i in range(len(event)):
        got += reader.feed(event[i : i + 1])
    assert got == [bytes(MAX_CIPHERTEXT)]
