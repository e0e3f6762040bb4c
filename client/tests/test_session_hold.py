# SPDX-License-Identifier: Apache-2.0
"""What is shown before the trailer, and what waits for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from client_support import chunk, event, text_chunk
from hypothesis import given
from hypothesis import strategies as st

from teehouse.session.hold import DONE, EventHold, Gathered, error_event
from teehouse_core.errors import MalformedError, TeehouseError

TEXT = event(text_chunk("hi"))
TOOL = event(chunk({"tool_calls": [{"index": 0, "function": {"name": "rm", "arguments": ""}}]}))
END = event(chunk({}, "stop"))


def test_text_passes_and_done_comes_last() -> None:
    hold = EventHold()
    assert hold.feed(TEXT + TEXT) == TEXT + TEXT
    assert hold.finish() == DONE


@pytest.mark.parametrize(
    "value",
    [
        chunk({"tool_calls": [{"index": 0}]}),
        chunk({"function_call": {"name": "f"}}),
        chunk({}, "stop"),
        chunk({"content": "x"}, "length"),
        {"choices": ["odd"]},
        {"type": "response.output_item.added", "item": {"type": "function_call"}},
        {"type": "response.output_item.added"},
        {"type": "response.function_call_arguments.delta", "delta": "{"},
        {"type": "response.output_text.done", "text": "{}"},
        {"type": "response.completed"},
    ],
)
def test_what_waits_with_all_that_follows(value: dict[str, Any]) -> None:
    hold = EventHold()
    held = event(value)
    assert hold.feed(TEXT + held + TEXT) == TEXT
    assert hold.feed(TEXT) == b""
    assert hold.finish() == held + TEXT + TEXT + DONE


@pytest.mark.parametrize(
    "value",
    [
        text_chunk("x"),
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm"}),
        {"choices": [], "usage": {"total_tokens": 1}},
        {"error": {"message": "engine failed"}},
        {"type": "response.created"},
        {"type": "response.output_item.added", "item": {"type": "message"}},
        {"type": "response.content_part.added"},
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.reasoning_text.delta", "delta": "x"},
    ],
)
def test_what_is_shown_at_once(value: dict[str, Any]) -> None:
    assert EventHold().feed(event(value)) == event(value)


def test_unreadable_events_wait() -> None:
    for odd in (b"data: {\n\n", b"data: []\n\n", b"data: " + b"[" * 100_000 + b"\n\n"):
        assert EventHold().feed(odd) == b""


def test_comments_pass_and_done_inside_is_dropped() -> None:
    hold = EventHold()
    assert hold.feed(b": ping\n\ndata: [DONE]\n\n" + TEXT) == b": ping\n\n" + TEXT
    assert hold.finish() == DONE


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_line_ends(end: bytes) -> None:
    data = b"data: " + json.dumps(text_chunk("x")).encode() + end
    assert EventHold().feed(data) == data


def test_an_event_that_is_cut_is_no_end() -> None:
    hold = EventHold()
    hold.feed(b"data: {")
    with pytest.raises(MalformedError) as caught:
        hold.finish()
    assert caught.value.code == "event-cut"


def test_limits() -> None:
    hold = EventHold(limit=1000)
    with pytest.raises(MalformedError):
        hold.feed(b"data: " + b"x" * 2000)
    hold = EventHold(limit=1000)
    hold.feed(TOOL)
    with pytest.raises(MalformedError):
        hold.feed(b"".join([TEXT] * 20))
    gathered = Gathered(3)
    gathered.add(b"abc")
    with pytest.raises(MalformedError):
        gathered.add(b"d")


def test_error_event() -> None:
    assert json.loads(error_event({"error": {"code": "x"}})[6:]) == {"error": {"code": "x"}}


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes(pieces: list[bytes]) -> None:
    hold = EventHold()
    shown = b""
    try:
        for piece in pieces:
            shown += hold.feed(piece)
        hold.finish()
    except TeehouseError:
        pass
    assert shown in b"".join(pieces) or b"[DONE]" in b"".join(pieces)


@given(st.integers(1, 50))
def test_cuts_between_feeds_change_nothing(step: int) -> None:
    data = TEXT + b"data: [DONE]\n\n" + TEXT + TOOL + END
    hold = EventHold()
    shown = b"".join(hold.feed(data[at : at + step]) for at in range(0, len(data), step))
    assert shown == TEXT + TEXT
    assert hold.finish() == TOOL + END + DONE
