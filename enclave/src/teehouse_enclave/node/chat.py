# SPDX-License-Identifier: Apache-2.0
"""One opened chat request → engine → the bytes an OpenAI-compatible server would send."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from teehouse_core.wire.receipts import Usage
from teehouse_enclave.engine.base import Engine, EngineError

__all__ = ["Answer", "answer_chat", "error_body"]


@dataclass(slots=True)
class Answer:
    """How an answer went so far; the trailer, the receipt and the usage record are made of it."""

    status: int = 200
    finish: str = ""
    usage: Usage = field(default_factory=Usage)
    produced: int = 0  # content chunks, the count to bill when the caller left before `usage` came
    counted: bool = False

    def billable(self) -> Usage:
        """The engine's own count, or what was produced before the caller left."""
        return self.usage if self.counted else Usage(0, self.produced, 0)


def error_body(error: EngineError) -> bytes:
    """The OpenAI error object as JSON."""
    return json.dumps(error.openai(), separators=(",", ":")).encode("ascii")


async def answer_chat(
    engine: Engine, body: dict[str, Any], *, stream: bool, tenant: bytes, request_id: str, answer: Answer
) -> AsyncGenerator[bytes, None]:
    """Bytes of the answer, as they come; `answer` is kept up to date.

    Raises EngineError: before the first bytes it becomes the whole answer, after them the end of the stream.
    """
    options = body.get("stream_options")
    include_usage = isinstance(options, dict) and options.get("include_usage") is True
    chunks = engine.chat(body, tenant=tenant, request_id=request_id)
    async with aclosing(chunks):
        if stream:
            async for piece in _stream(_counted(chunks, answer), include_usage):
                yield piece
        else:
            yield await _join(_counted(chunks, answer))


async def _counted(chunks: AsyncIterator[dict[str, Any]], answer: Answer) -> AsyncIterator[dict[str, Any]]:
    async for chunk in chunks:
        if usage := chunk.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            answer.usage = Usage(
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
                int(details.get("cached_tokens") or 0),
            )
            answer.counted = True
        for choice in chunk.get("choices") or ():
            if choice.get("delta"):
                answer.produced += 1
            if reason := choice.get("finish_reason"):
                answer.finish = str(reason)
        yield chunk
    if not answer.counted:
        raise EngineError(500, "engine-incomplete", "the engine ended without its last chunk")


async def _stream(chunks: AsyncIterator[dict[str, Any]], include_usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events without `[DONE]`: the client's library writes that once the trailer authenticated."""
    last: dict[str, Any] | None = None
    async for chunk in chunks:
        usage = chunk.pop("usage", None)
        if usage and include_usage:
            last = {**chunk, "choices": [], "usage": usage}
        if chunk.get("choices"):
            yield b"data: " + json.dumps(chunk, separators=(",", ":")).encode("ascii") + b"\n\n"
    if last is not None:
        yield b"data: " + json.dumps(last, separators=(",", ":")).encode("ascii") + b"\n\n"


async def _join(chunks: AsyncIterator[dict[str, Any]]) -> bytes:
    """One `chat.completion` out of all chunks."""
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    async for chunk in chunks:
        whole = whole or {key: chunk[key] for key in ("id", "created", "model", "system_fingerprint") if key in chunk}
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            _merge(choices.setdefault(choice.get("index", 0), {"parts": [], "calls": {}, "logprobs": []}), choice)
    document = {
        **whole,
        "object": "chat.completion",
        "choices": [_choice(index, state) for index, state in sorted(choices.items())],
        "usage": usage,
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _merge(state: dict[str, Any], choice: dict[str, Any]) -> None:
    delta = choice.get("delta") or {}
    for name in ("content", "reasoning_content", "refusal"):
        if text := delta.get(name):
            state["parts"].append((name, text))
    for call in delta.get("tool_calls") or ():
        kept = state["calls"].setdefault(
            call.get("index", 0), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        kept["id"] = call.get("id") or kept["id"]
        function = call.get("function") or {}
        kept["function"]["name"] += function.get("name") or ""
        kept["function"]["arguments"] += function.get("arguments") or ""
    if isinstance(logprobs := choice.get("logprobs"), dict):
        state["logprobs"] += logprobs.get("content") or []
    if reason := choice.get("finish_reason"):
        state["finish"] = reason


def _choice(index: int, state: dict[str, Any]) -> dict[str, Any]:
    def text(name: str) -> str | None:
        return "".join(part for kind, part in state["parts"] if kind == name) or None

    calls = [call for _, call in sorted(state["calls"].items())]
    message: dict[str, Any] = {"role": "assistant", "content": text("content"), "refusal": text("refusal")}
    if not calls and message["content"] is None:
        message["content"] = ""
    if reasoning := text("reasoning_content"):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": state["logprobs"]} if state["logprobs"] else None,
        "finish_reason": state.get("finish"),
    }
