# SPDX-License-Identifier: Apache-2.0
"""The echo engine: no model at all. It repeats what it was told, deterministically and at a set pace.

For tests, and for benches in which the platform is measured and not a model. Its name says so wherever it shows:
`EngineInfo.engine` and the default model name are "echo", and every answer begins with the word. Words count as
tokens. The last user message may be a command:

    count <n>            answers with n words, "1 2 3 …"
    call <name> <json>   makes a tool call, if the request offers a tool of that name
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import islice
from typing import Any

from teehouse_enclave.engine.admission import Admission
from teehouse_enclave.engine.base import EngineError, EngineInfo
from teehouse_enclave.engine.chunks import ChunkMaker
from teehouse_enclave.engine.request import Ability, ChatRequest, parse_chat
from teehouse_enclave.engine.spec import EngineSpec

__all__ = ["ECHO_WEIGHTS_SHA256", "EchoEngine"]

# A digest must stand in the keyset; this one is of a sentence that says what there is.
ECHO_WEIGHTS_SHA256 = hashlib.sha256(b"teehouse echo engine: there are no weights").hexdigest()
MAX_COUNT = 1_000_000  # words of one `count` answer
_BREATH = 32  # words between two turns of the event loop when there is no pace

_WORDS = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+")
_COUNT = re.compile(r"\s*count\s+(\d{1,7})\s*")
_CALL = re.compile(r"\s*call\s+([A-Za-z0-9_-]{1,64})\s*(\{.*\})\s*", re.DOTALL)


class EchoEngine:
    """Answers "echo: " and the last user message."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._admission = Admission(spec.parallel, spec.queue)
        self._ability = Ability(tools=spec.tools, images=spec.images)
        self._open = False

    async def start(self) -> EngineInfo:
        """Nothing to load."""
        self._open = True
        features = {"stream", "stop", "seed"} | ({"tools"} if self._spec.tools else set())
        return EngineInfo(
            engine="echo",
            version="1",
            model=self._spec.name,
            weights_sha256=ECHO_WEIGHTS_SHA256,
            context=self._spec.context,
            modalities=frozenset({"text", "image"} if self._spec.images else {"text"}),
            features=frozenset(features),
        )

    async def ready(self) -> Mapping[str, bool]:
        """Ready between `start` and `close`."""
        return {"engine": self._open}

    async def chat(
        self,
        body: dict[str, Any],
        *,
        tenant: bytes,  # noqa: ARG002  nothing is kept
        request_id: str,  # noqa: ARG002
    ) -> AsyncGenerator[dict[str, Any], None]:
        """See `Engine.chat`."""
        if not self._open:
            raise EngineError(503, "engine-not-started", "this engine is not running")
        request = parse_chat(body, self._ability)
        prompt = _prompt_words(request)
        room = self._spec.context - prompt
        if room < 1:
            raise EngineError(
                400,
                "context_length_exceeded",
                f"this model's context is {self._spec.context} tokens, and the messages came to {prompt} tokens",
                param="messages",
            )
        limit = min(room, request.max_tokens or room)
        maker = ChunkMaker(self._spec.name)
        await self._admission.acquire()
        try:
            await asyncio.sleep(self._spec.first_token_delay)
            yield maker.role()
            call = _tool_call(request)
            if call is not None:
                yield maker.delta({"tool_calls": [call]})
                yield maker.finish("tool_calls")
                yield maker.usage(prompt, 1)
                return
            words = _words(request)
            stop = _Stop(request.stop)
            count = 0
            loop = asyncio.get_running_loop()
            began = loop.time()
            for word in islice(words, limit):
                if self._spec.pace:
                    # Against the clock, not from word to word: lateness does not add up.
                    await asyncio.sleep(max(0.0, began + count / self._spec.pace - loop.time()))
                elif count % _BREATH == 0:
                    await asyncio.sleep(0)
                count += 1
                text = stop.feed(word)
                if text:
                    yield maker.delta({"content": text})
                if stop.hit:
                    break
            rest = stop.rest()
            if rest:
                yield maker.delta({"content": rest})
            cut = not stop.hit and next(words, None) is not None
            yield maker.finish("length" if cut else "stop")
            yield maker.usage(prompt, count)
        finally:
            self._admission.release()

    async def close(self) -> None:
        """Nothing to free."""
        self._open = False
        self._admission.close()


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part["type"] == "text")
    return content or ""


def _asked(request: ChatRequest) -> str:
    for message in reversed(request.messages):
        if message["role"] == "user":
            return _text(message)
    return ""


def _prompt_words(request: ChatRequest) -> int:
    return sum(len(_text(message).split()) for message in request.messages)


def _words(request: ChatRequest) -> Iterator[str]:
    asked = _asked(request)
    count = _COUNT.fullmatch(asked)
    if count is not None:
        total = min(int(count[1]), MAX_COUNT)
        return (f"{n} " if n < total else f"{n}" for n in range(1, total + 1))
    answer = f"echo: {asked}"
    if request.images:
        sizes = ", ".join(f"{image.size} bytes" for image in request.images)
        answer += f" [{len(request.images)} images: {sizes}]"
    return (match[0] for match in _WORDS.finditer(answer))


class _Stop:
    """Cuts a stream of text before the first stop string, also where that spans several words."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._keep = max(map(len, stops), default=1) - 1  # characters that could still become a stop string
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What may be shown now."""
        held = self._held + text
        found = [at for at in (held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit = True
            self._held = ""
            return held[: min(found)]
        cut = max(0, len(held) - self._keep)
        self._held = held[cut:]
        return held[:cut]

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


def _tool_call(request: ChatRequest) -> dict[str, Any] | None:
    match = _CALL.fullmatch(_asked(request)) if request.tools else None
    if match is None or match[1] not in {one["function"]["name"] for one in request.tools}:
        return None
    try:
        json.loads(match[2])
    except ValueError:
        return None
    return {
        "index": 0,
        "id": "call_echo",
        "type": "function",
        "function": {"name": match[1], "arguments": match[2]},
    }
