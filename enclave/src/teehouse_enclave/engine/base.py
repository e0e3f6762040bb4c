# SPDX-License-Identifier: Apache-2.0
"""What an engine is to the node: four calls, one error, plain OpenAI chunk dictionaries.

An engine turns one checked chat request into a stream of `chat.completion.chunk` dictionaries. It always streams; the
node joins the chunks when the user asked for one answer. Everything here runs inside the TEE and sees plaintext, so
no error, log line or metric of an engine may hold text of a prompt or an answer.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from teehouse_core.errors import TeehouseError

__all__ = ["Engine", "EngineError", "EngineInfo"]

_PARAM = re.compile(r"[A-Za-z0-9_.\[\]]{1,128}")


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the node publishes about its engine in the keyset; fixed once `Engine.start` has returned.

    `weights_sha256` is 64 hex digits (EVIDENCE §1); `context` is the token limit of one request, prompt plus answer;
    `modalities` is {"text"} or {"text", "image"}; `features` names what the engine honours, for example "tools".
    """

    engine: str
    version: str
    model: str
    weights_sha256: str
    context: int
    modalities: frozenset[str]
    features: frozenset[str]


class EngineError(TeehouseError):
    """A request the engine refuses, or could not finish. Shaped so that it becomes an OpenAI error object as it is.

    `status` is the HTTP status the user's SDK shall see inside the seal; `code` is stable; `param` names the request
    member at fault. `message` never holds prompt or answer text: it is written here, never copied from an engine.
    """

    default_code = "engine-failed"

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type: str | None = None,  # noqa: A002  the OpenAI error object names it so
        param: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status: int = status
        self.type: str = type or ("invalid_request_error" if 400 <= status < 500 else "server_error")
        # A parameter's name comes from the request: pass it on only if it looks like a name.
        self.param: str | None = param if param is not None and _PARAM.fullmatch(param) else None

    def openai(self) -> dict[str, Any]:
        """The body an OpenAI-compatible server answers with."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class Engine(Protocol):
    """One model, loaded once, answering many requests at a time."""

    async def start(self) -> EngineInfo:
        """Hash and load the weights; return only when a request could be answered. Raises `OperatorError`."""
        ...

    async def ready(self) -> Mapping[str, bool]:
        """Health of each part by name; all true means that requests are taken."""
        ...

    def chat(self, body: dict[str, Any], *, tenant: bytes, request_id: str) -> AsyncGenerator[dict[str, Any], None]:
        """Answer one OpenAI chat request, as `chat.completion.chunk` dictionaries.

        The first chunk opens the assistant's message, the last one carries `usage` and no choice; a stream that ends
        without it failed. `aclose()`, or cancelling the task that iterates, stops the generation. `tenant` separates
        whatever the engine may cache between users; `request_id` is never shown in the answer. Raises `EngineError`,
        from the iteration, never from the call.
        """
        ...

    async def close(self) -> None:
        """Stop what runs and give back the memory. May be called twice."""
        ...
