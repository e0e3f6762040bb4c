# SPDX-License-Identifier: Apache-2.0
"""One question over a sealed session, streamed: what `chat` and the demo share."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from teehouse.session.answer import ReceiptRecord
from teehouse.session.sync import Session
from teehouse_core.errors import LocalError, MalformedError, OperatorError, TeehouseError

__all__ = ["Answer", "ask", "chat_body", "image_part"]

MAX_IMAGE: Final = 20 * 1024 * 1024  # bytes; nodes refuse larger ones
_KINDS: Final = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}


@dataclass(slots=True)
class Answer:
    """A whole answer, authenticated to its end; times are seconds."""

    text: str = field(default="", repr=False)
    finish: str = ""
    first_token: float = 0.0  # from sending to the first text
    total: float = 0.0
    pieces: int = 0
    node: str = ""
    record: ReceiptRecord | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Of the part after the first token; None where there is too little to tell."""
        usage = self.record.receipt.usage if self.record is not None else None
        seconds = self.total - self.first_token
        if usage is None or usage.output_tokens < 2 or seconds <= 0:
            return None
        return (usage.output_tokens - 1) / seconds


def image_part(path: Path) -> dict[str, Any]:
    """A picture as a message part. Raises `LocalError` (`image-unreadable`, `image-kind`, `image-too-large`)."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE + 1)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="image-unreadable") from None
    if len(data) > MAX_IMAGE:
        raise LocalError(f"{path} is larger than {MAX_IMAGE >> 20} MiB", code="image-too-large")
    kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
    if kind is None:
        raise LocalError(f"{path} is no picture", code="image-kind", hint="PNG, JPEG, GIF or WebP")
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"}}


def chat_body(
    messages: list[dict[str, Any]], *, model: str, max_tokens: int | None = None, temperature: float | None = None
) -> bytes:
    """The JSON of a streamed chat request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if temperature is not None:
        body["temperature"] = temperature
    return json.dumps(body, ensure_ascii=False).encode()


def ask(session: Session, endpoint: str, body: bytes, show: Callable[[str], None]) -> Answer:
    """Send, show text as it authenticates, return when the receipt was checked.

    Raises whatever the session raises, and `LocalError` or `OperatorError` for an error that the node itself sealed.
    """
    answer = Answer()
    began = time.monotonic()
    with session.request(endpoint, "chat.completions", body) as reply:
        if reply.status >= 400:
            raise _node_error(reply.status, reply.read(1 << 20))
        pending = b""
        for piece in reply:
            pending += piece
            *events, pending = pending.replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                text = _take(event, answer)
                if text:
                    if not answer.pieces:
                        answer.first_token = time.monotonic() - began
                    answer.pieces += 1
                    answer.text += text
                    show(text)
        answer.total = time.monotonic() - began
        answer.node = reply.accepted.keyset.node or "any node of the pool"
        answer.record = reply.receipt
    return answer


def _take(event: bytes, answer: Answer) -> str:
    data = b"\n".join(line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:"))
    if not data or data == b"[DONE]":
        return ""
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise _node_error(500, data)
        choices = chunk.get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        answer.finish = choices[0].get("finish_reason") or answer.finish
        return str(delta.get("content") or "")
    except (ValueError, AttributeError, LookupError, TypeError):
        raise MalformedError("the answer holds an event that is no chat chunk", code="chunk-form") from None


def _node_error(status: int, body: bytes) -> TeehouseError:
    """An error that came sealed: it is the node's own word, and its texts hold no prompt."""
    try:
        error = json.loads(body)["error"]
        message, code = str(error["message"])[:500], str(error.get("code") or "request-refused")[:64]
    except (ValueError, LookupError, TypeError):
        message, code = "the node refused the request", "request-refused"
    return LocalError(message, code=code) if status < 500 else OperatorError(message, code=code)
