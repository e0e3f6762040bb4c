# SPDX-License-Identifier: Apache-2.0
"""Any OpenAI-compatible server inside the same TEE boundary: vLLM, SGLang, llama-server, a router before them.

The server must be on loopback or a Unix socket: plaintext leaves this process only to a place that is measured with
it. Its answers are rebuilt from known members, its error texts (which quote prompts) are never passed on, and what it
sends is bounded. What is not checked: that the server really runs the weights whose digest the keyset names; that is
the measured image's promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2

from teehouse_core.errors import LocalError, OperatorError
from teehouse_enclave.engine.admission import Admission
from teehouse_enclave.engine.base import EngineError, EngineInfo
from teehouse_enclave.engine.chunks import ChunkMaker, clean_logprobs, clean_tool_calls
from teehouse_enclave.engine.digest import weights_digest
from teehouse_enclave.engine.request import Ability, ChatRequest, parse_chat
from teehouse_enclave.engine.spec import EngineSpec

__all__ = ["OpenAIUpstreamEngine"]

MAX_EVENT = 1 << 20  # bytes of one server-sent event; a chunk with 20 log probabilities has ten kilobytes
MAX_ANSWER = 1 << 20  # bytes of an answer that is not a stream
MAX_PIECE = 1 << 19  # characters of text in one chunk
_CONNECT = 5.0  # seconds; the server is on this machine
_PROBE = 2.0  # seconds; a health question must not wait for a busy model
_RETRY = 0.25  # seconds between two tries at start


class OpenAIUpstreamEngine:
    """Forwards checked requests and rebuilds the answers."""

    def __init__(self, spec: EngineSpec) -> None:
        transport, base = _local_transport(spec.url or "", spec.parallel)
        headers = {"accept-encoding": "identity"}  # nothing to inflate
        if spec.api_key is not None:
            headers["authorization"] = f"Bearer {spec.api_key}"
        self._spec = spec
        self._client = httpx2.AsyncClient(
            transport=transport,
            base_url=base,
            headers=headers,
            follow_redirects=False,  # a redirect could point out of the TEE
            trust_env=False,  # so could a proxy variable
            timeout=httpx2.Timeout(spec.stall_timeout, connect=_CONNECT, pool=None),
        )
        self._admission = Admission(spec.parallel, spec.queue)
        self._ability = Ability(
            tools=spec.tools, images=spec.images, json_schema=True, logprobs=True, check_schema=False
        )
        self._model = spec.upstream_model or spec.name
        self._salt_key = secrets.token_bytes(32)  # tenants' names mean nothing to the server, nor after a restart
        self._info: EngineInfo | None = None

    async def start(self) -> EngineInfo:
        """Wait for the server and its model. Raises OperatorError `engine-start-failed` or `weights-*`."""
        spec = self._spec
        digest = spec.weights_sha256
        if spec.path is not None:
            found = await asyncio.to_thread(weights_digest, spec.path)
            if digest not in (None, found):
                raise OperatorError(
                    "the model weights are not the ones expected",
                    code="weights-mismatch",
                    hint=f"expected {digest}, found {found}",
                )
            digest = found
        card = await self._await_model()
        length = card.get("max_model_len")  # vLLM and SGLang say it
        context = length if isinstance(length, int) and not isinstance(length, bool) and length > 0 else spec.context
        features = {"stream", "stop", "seed", "logit_bias", "json_schema", "logprobs"}
        self._info = EngineInfo(
            engine="openai-upstream",
            version=await self._version(),
            model=spec.name,
            weights_sha256=digest or "",
            context=context,
            modalities=frozenset({"text", "image"} if spec.images else {"text"}),
            features=frozenset(features | {"tools"} if spec.tools else features),
        )
        return self._info

    async def ready(self) -> Mapping[str, bool]:
        """True while the server lists the model."""
        if self._info is None:
            return {"upstream": False}
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            return {"upstream": await self._card() is not None}
        return {"upstream": False}

    async def chat(
        self,
        body: dict[str, Any],
        *,
        tenant: bytes,
        request_id: str,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """See `Engine.chat`. Closing the iterator closes the connection, which is how these servers learn to stop."""
        if self._info is None:
            raise EngineError(503, "engine-not-started", "this engine is not running")
        request = parse_chat(body, self._ability)
        upstream = self._upstream_body(request, tenant, request_id)
        maker = ChunkMaker(self._info.model)
        await self._admission.acquire()
        try:
            async with contextlib.aclosing(self._stream(upstream, maker)) as answer:
                async for chunk in answer:
                    yield chunk
        except httpx2.TimeoutException:
            raise EngineError(504, "engine-timeout", "the engine said nothing for too long") from None
        except httpx2.SSEError:
            raise _bad_stream() from None
        except httpx2.ConnectError:
            raise EngineError(503, "engine-unavailable", "the engine does not answer", hint="try again") from None
        except httpx2.HTTPError:
            raise _broken() from None
        finally:
            self._admission.release()

    async def close(self) -> None:
        """Close all connections."""
        self._admission.close()
        self._info = None
        await self._client.aclose()

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _upstream_body(self, request: ChatRequest, tenant: bytes, request_id: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **request.sampling,
        }
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens  # the older name: every server knows it
        if request.stop:
            body["stop"] = list(request.stop)
        if request.logprobs:
            body["logprobs"] = True
            body["top_logprobs"] = request.top_logprobs
        if request.response_format is not None:
            body["response_format"] = request.response_format
        if request.tools:
            body["tools"] = request.tools
            if request.tool_choice is not None:
                body["tool_choice"] = request.tool_choice
            if not request.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if self._spec.cache_salt:
            # vLLM starts its prefix hashes from this: another tenant's timing says nothing. Without a tenant, no
            # two requests share anything.
            who = b"tenant\x00" + tenant if tenant else b"request\x00" + request_id.encode()
            body["cache_salt"] = hmac.new(self._salt_key, who, hashlib.sha256).hexdigest()
        return body

    async def _stream(self, body: dict[str, Any], maker: ChunkMaker) -> AsyncGenerator[dict[str, Any], None]:
        async with self._client.sse("chat/completions", method="POST", json=body, max_event_size=MAX_EVENT) as source:
            if source.response.status_code != 200:
                raise await _status_error(source.response)
            opened = finished = called = False
            async with contextlib.aclosing(_events(source)) as events:
                async for event in events:
                    if "error" in event:
                        raise _upstream_error(event["error"], 500)
                    if not opened:
                        opened = True
                        yield maker.role()
                    for choice in _list(event.get("choices")):
                        if choice.get("index", 0) != 0:
                            raise _bad_stream()
                        delta = _clean_delta(choice.get("delta"))
                        called = called or "tool_calls" in delta
                        if delta:
                            yield maker.delta(delta, clean_logprobs(choice.get("logprobs")))
                        reason = choice.get("finish_reason")
                        if reason is not None and not finished:
                            finished = True
                            yield maker.finish("tool_calls" if called and reason == "stop" else str(reason))
                    usage = event.get("usage")
                    if finished and isinstance(usage, dict):
                        yield _usage(maker, usage)
                        return
        # The answer has no end, or nobody counted it: neither may pass for a whole answer.
        raise _broken()

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _await_model(self) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + self._spec.start_timeout
        seen = False
        while True:
            with contextlib.suppress(httpx2.HTTPError, ValueError):
                card = await self._card()
                if card is not None:
                    return card
                seen = True
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(_RETRY)
        raise OperatorError(
            "the upstream engine does not serve this model" if seen else "the upstream engine does not answer",
            code="engine-start-failed",
            hint="check 'upstream_model'" if seen else "check 'url', and that the server is up",
        )

    async def _card(self) -> dict[str, Any] | None:
        """The model's entry of `GET models`; None if it is not listed."""
        listing = await self._get_json("models")
        for card in _list(listing.get("data")):
            if card.get("id") == self._model:
                return card
        return None

    async def _version(self) -> str:
        with contextlib.suppress(httpx2.HTTPError, ValueError):
            version = (await self._get_json("/version")).get("version")  # vLLM's
            if isinstance(version, str) and version.isascii() and version.isprintable() and len(version) <= 64:
                return version
        return "unknown"

    async def _get_json(self, path: str) -> dict[str, Any]:
        target = self._client.base_url.copy_with(path=path) if path.startswith("/") else path
        async with self._client.stream("GET", target, timeout=_PROBE) as response:
            data = json.loads(await _read(response))
        if response.status_code != 200 or not isinstance(data, dict):
            raise ValueError("not an answer")
        return data


def _local_transport(url: str, parallel: int) -> tuple[httpx2.AsyncHTTPTransport, str]:
    """Transport and base URL. Raises LocalError `engine-not-local` for whatever is not on this machine."""
    # One connection a stream, and a few for health questions, which must not queue behind them.
    limits = httpx2.Limits(max_connections=parallel + 4, max_keepalive_connections=parallel + 4)
    if url.startswith("unix://"):
        path = url.removeprefix("unix://")
        if not path.startswith("/") or "\x00" in path:
            raise _not_local()
        return httpx2.AsyncHTTPTransport(uds=path, limits=limits), "http://localhost/v1/"
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError):
        raise _not_local() from None
    if parsed.scheme != "http" or parsed.userinfo or parsed.query or parsed.fragment:
        raise _not_local()
    # "localhost" is read as 127.0.0.1: a name could be made to mean another machine.
    host = "127.0.0.1" if parsed.host == "localhost" else parsed.host
    try:
        if not ipaddress.ip_address(host).is_loopback:
            raise _not_local()
    except ValueError:
        raise _not_local() from None
    path = parsed.path.rstrip("/") or "/v1"
    return httpx2.AsyncHTTPTransport(limits=limits), str(parsed.copy_with(host=host, path=path + "/"))


def _not_local() -> LocalError:
    return LocalError(
        "an upstream engine must be on loopback or a Unix socket",
        code="engine-not-local",
        hint="http://127.0.0.1:PORT/v1, http://[::1]:PORT/v1 or unix:///path",
    )


async def _events(source: httpx2.EventSource) -> AsyncGenerator[dict[str, Any], None]:
    """Decoded events up to `[DONE]`. Raises EngineError on anything that is not a JSON object."""
    async for event in source:
        if event.data == "[DONE]":
            return
        try:
            decoded = json.loads(event.data)
        except (ValueError, RecursionError):
            raise _bad_stream() from None
        if not isinstance(decoded, dict):
            raise _bad_stream()
        yield decoded


async def _read(response: httpx2.Response) -> bytes:
    data = b""
    async for block in response.aiter_bytes():
        data += block
        if len(data) > MAX_ANSWER:
            raise ValueError("too long")
    return data


async def _status_error(response: httpx2.Response) -> EngineError:
    error: object = None
    with contextlib.suppress(ValueError, RecursionError):
        decoded = json.loads(await _read(response))
        error = decoded.get("error", decoded) if isinstance(decoded, dict) else None
    return _upstream_error(error, response.status_code)


def _upstream_error(error: object, status: int) -> EngineError:
    """Translate by status and structured members. The text may quote the prompt and is dropped."""
    error = error if isinstance(error, dict) else {}
    said = error.get("code")
    if isinstance(said, int) and not isinstance(said, bool) and 400 <= said < 600:
        status = said
    if (
        said == "context_length_exceeded"
        or error.get("type") == "exceed_context_size_error"  # llama-server
        or (status == 400 and error.get("param") == "input_tokens")  # vLLM
    ):
        return EngineError(
            400, "context_length_exceeded", "the messages do not fit into this model's context", param="messages"
        )
    if status in (429, 503):
        return EngineError(503, "engine-overloaded", "the engine is busy", hint="try again")
    if status in (400, 413, 422):
        return EngineError(400, "invalid_value", "the engine refused this request")
    if status in (401, 403, 404, 405) or 300 <= status < 400:
        return EngineError(502, "engine-misconfigured", "this node is not set up for its engine")
    return EngineError(502, "engine-failed", "the engine failed on this request")


def _clean_delta(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        return {}
    delta: dict[str, Any] = {}
    for key in ("content", "reasoning_content", "refusal"):
        text = raw.get(key)
        if isinstance(text, str) and text:
            if len(text) > MAX_PIECE:
                raise _bad_stream()
            delta[key] = text
    calls = clean_tool_calls(raw.get("tool_calls"))
    if calls:
        delta["tool_calls"] = calls
    return delta


def _usage(maker: ChunkMaker, usage: dict[str, Any]) -> dict[str, Any]:
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached or 0)
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 1 << 32:
            raise _bad_stream()
    return maker.usage(*counts)  # type: ignore[arg-type]


def _list(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _bad_stream() -> EngineError:
    return EngineError(502, "engine-bad-stream", "the engine's answer cannot be read")


def _broken() -> EngineError:
    return EngineError(502, "engine-failed", "the engine broke off before the answer was complete", hint="try again")
