# SPDX-License-Identifier: Apache-2.0
"""The one place that builds `chat.completion.chunk` dictionaries, so that all engines answer alike.

Nothing of an engine's own chunk passes through unread: ids, file paths, timings and fingerprints of the software
underneath stay inside. The id is random and says nothing about the request, the slot or the tenant.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from teehouse_enclave.engine.base import EngineError

__all__ = ["ChunkMaker", "clean_logprobs", "clean_tool_calls"]

_FINISH = frozenset({"stop", "length", "tool_calls", "content_filter"})


class ChunkMaker:
    """Chunks of one answer: `role`, then any number of `delta`, then `finish`, then `usage`."""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def role(self) -> dict[str, Any]:
        """The opening chunk."""
        return self.delta({"role": "assistant", "content": ""})

    def delta(self, delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
        """A piece of the answer."""
        choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        return {**self._head, "choices": [choice]}

    def finish(self, reason: str) -> dict[str, Any]:
        """The chunk that says why the answer ended. Raises EngineError on a reason OpenAI does not know."""
        if reason not in _FINISH:
            raise EngineError(502, "engine-bad-stream", "the engine ended the answer for a reason it did not explain")
        return {
            **self._head,
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}],
        }

    def usage(self, prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
        """The last chunk: counts of tokens."""
        return {
            **self._head,
            "choices": [],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
        }


def clean_logprobs(raw: object) -> dict[str, Any] | None:
    """Keep OpenAI's members of a `logprobs` object and drop what an engine adds (token ids, for one)."""
    if not isinstance(raw, dict) or not isinstance(raw.get("content"), list):
        return None
    return {"content": [_logprob(item, top=True) for item in raw["content"] if isinstance(item, dict)], "refusal": None}


def _logprob(item: dict[str, Any], *, top: bool) -> dict[str, Any]:
    kept = {key: item.get(key) for key in ("token", "logprob", "bytes")}
    if top:
        raw = item.get("top_logprobs")
        kept["top_logprobs"] = [_logprob(one, top=False) for one in raw or [] if isinstance(one, dict)]
    return kept


def clean_tool_calls(raw: object) -> list[dict[str, Any]]:
    """Keep OpenAI's members of a `tool_calls` delta."""
    calls: list[dict[str, Any]] = []
    for item in raw if isinstance(raw, list) else []:
        if not isinstance(item, dict) or not isinstance(item.get("index"), int):
            continue
        call: dict[str, Any] = {"index": item["index"]}
        if isinstance(item.get("id"), str):
            call["id"] = item["id"]
            call["type"] = "function"
        function = item.get("function")
        if isinstance(function, dict):
            call["function"] = {k: v for k, v in function.items() if k in ("name", "arguments") and isinstance(v, str)}
        calls.append(call)
    return calls
