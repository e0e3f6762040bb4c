# SPDX-License-Identifier: Apache-2.0
"""What may be handed out before the trailer, and what must wait for it (PROTOCOL §4).

Text is shown as it authenticates. A tool call, a parsed object and a non-streamed answer are acted on, so they wait
until the whole answer has authenticated: a cut stream must not look like a finished decision.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from teehouse_core.errors import MalformedError

__all__ = ["DONE", "EventHold", "Gathered", "error_event"]

DONE: Final = b"data: [DONE]\n\n"
MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes gathered before the trailer; bounds the memory of one answer
_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class Gathered:
    """Bytes kept back until the end, up to a limit."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = MAX_ANSWER if limit is None else limit
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Raises MalformedError (`answer-too-large`)."""
        self._size += len(piece)
        if self._size > self._limit:
            raise MalformedError("the answer is too large to hold", code="answer-too-large")
        self._parts.append(piece)

    def whole(self) -> bytes:
        return b"".join(self._parts)


class EventHold:
    """Passes server-sent events on one by one, until the first that must wait; that one and all later ones wait."""

    def __init__(self, limit: int = MAX_ANSWER) -> None:
        self._partial = bytearray()
        self._held = Gathered(limit)
        self._holding = False
        self._limit = limit

    def feed(self, data: bytes) -> bytes:
        """Whole events that may be shown now. Raises MalformedError (`answer-too-large`)."""
        self._partial += data
        if len(self._partial) > self._limit:
            raise MalformedError("one event is too large", code="answer-too-large")
        shown = bytearray()
        start = 0
        for match in _EVENT_END.finditer(self._partial):
            event = bytes(self._partial[start : match.end()])
            start = match.end()
            if _data(event).startswith(b"[DONE]"):
                continue  # a node sends none; ours is made after the trailer
            if self._holding or _must_wait(event):
                self._holding = True
                self._held.add(event)
            else:
                shown += event
        del self._partial[:start]
        return bytes(shown)

    def finish(self) -> bytes:
        """The trailer has authenticated: everything held back, and `[DONE]`. Raises MalformedError (`event-cut`)."""
        if self._partial.strip():
            raise MalformedError("the answer ends inside an event", code="event-cut")
        return self._held.whole() + DONE


def error_event(error: dict[str, Any]) -> bytes:
    """The event that tells a reader of the stream that it broke; no `[DONE]` follows it."""
    return b"data: " + json.dumps(error, separators=(",", ":")).encode("ascii") + b"\n\n"


def _data(event: bytes) -> bytes:
    lines = [line for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)


def _must_wait(event: bytes) -> bool:
    """Whether somebody might act on this event. One that cannot be read waits too."""
    data = _data(event)
    if not data:
        return False  # a comment
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        return True
    if not isinstance(value, dict):
        return True
    kind = value.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        return not _shown_response_event(kind, value.get("item"))
    choices = value.get("choices")
    return any(_acts(choice) for choice in choices) if isinstance(choices, list) else False


# Events of the Responses API that show text as it comes; all others (calls, finished parts, completion) wait.
_SHOWN: Final = re.compile(
    r"response\.(created|queued|in_progress|content_part\.added|(output_text|refusal|reasoning\w*)\.delta)"
)


def _shown_response_event(kind: str, item: Any) -> bool:
    if kind == "response.output_item.added":
        return isinstance(item, dict) and item.get("type") in ("message", "reasoning")
    return _SHOWN.fullmatch(kind) is not None


def _acts(choice: Any) -> bool:
    """A chunk with a call, or one that says the choice is finished: on the latter, SDK helpers parse what came."""
    if not isinstance(choice, dict):
        return True
    delta = choice.get("delta")
    calls = isinstance(delta, dict) and (delta.get("tool_calls") or delta.get("function_call"))
    return bool(calls) or choice.get("finish_reason") is not None
