# SPDX-License-Identifier: Apache-2.0
"""llama.cpp inside the node's own process, through `xllamacpp`: the default engine.

The library is a server at heart. Its listener is put on a Unix socket in a private directory behind a random key, is
asked once what the model can do, and is then unlinked: nobody can connect, and no TCP port is ever opened. Requests
enter by function call. Nothing is kept between requests: no prompt cache, no checkpoints, no slot choice by similarity.

What remains: the key-value memory of a slot holds the last request's state until the next one overwrites it, inside
the TEE. The callback is asked only once per prefill step (`batch` tokens), so cancelling a prefill takes that long.
Text in the chat template's control syntax (`<|im_end|>`) inside a message is read as control by the tokenizer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from teehouse_core.errors import LocalError, OperatorError
from teehouse_enclave.engine._quiet import mute_native_output
from teehouse_enclave.engine._worker import NativeStream
from teehouse_enclave.engine.admission import Admission
from teehouse_enclave.engine.base import EngineError, EngineInfo
from teehouse_enclave.engine.chunks import ChunkMaker, clean_logprobs, clean_tool_calls
from teehouse_enclave.engine.digest import digest_of_parts, file_digest
from teehouse_enclave.engine.request import Ability, ChatRequest, parse_chat
from teehouse_enclave.engine.spec import EngineSpec

__all__ = ["LlamaCppEngine"]

_MAX_ANSWER = 4 << 20  # bytes of one introspection answer; a chat template has tens of kilobytes
_RENAMED = {"repetition_penalty": "repeat_penalty"}  # what llama.cpp calls it
_SEEDS = 2**32 - 1  # llama.cpp's seed is 32 bits, and the highest value means "random"


class LlamaCppEngine:
    """One GGUF model, `parallel` slots, `context` tokens each."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.path is None:
            raise LocalError("llamacpp needs a path", code="engine-spec-missing")
        self._spec = spec
        self._path = spec.path
        self._admission = Admission(spec.parallel, spec.queue)
        self._pool = ThreadPoolExecutor(spec.parallel, thread_name_prefix="llamacpp")
        self._running: set[NativeStream] = set()
        self._server: Any = None
        self._ability = Ability()
        self._info: EngineInfo | None = None

    async def start(self) -> EngineInfo:
        """Hash, load, ask, unlink. Raises OperatorError `weights-*` or `engine-start-failed`."""
        mute_native_output()
        self._info = await asyncio.to_thread(self._load)
        return self._info

    async def ready(self) -> Mapping[str, bool]:
        """The engine is one part: loaded or not."""
        return {"engine": self._server is not None}

    async def chat(
        self,
        body: dict[str, Any],
        *,
        tenant: bytes,  # noqa: ARG002  requests share nothing here, so there is nothing to keep apart
        request_id: str,  # noqa: ARG002
    ) -> AsyncGenerator[dict[str, Any], None]:
        """See `Engine.chat`."""
        if self._info is None or self._server is None:
            raise EngineError(503, "engine-not-started", "this engine is not running")
        request = parse_chat(body, self._ability)
        native = _native_body(request)
        maker = ChunkMaker(self._info.model)
        await self._admission.acquire()
        stream = self._submit(native)
        try:
            async with contextlib.aclosing(self._answer(stream, maker, request)) as answer:
                async for chunk in answer:
                    yield chunk
        finally:
            stream.cancel()

    async def close(self) -> None:
        """Stop all generations, then free the model."""
        self._admission.close()
        for stream in self._running:
            stream.cancel()
        server, self._server = self._server, None
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=False)
        # The last reference goes in a thread: the destructor joins llama.cpp's own threads.
        holder = [server]
        del server
        await asyncio.to_thread(holder.clear)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _submit(self, native: dict[str, Any]) -> NativeStream:
        server = self._server

        def done() -> None:
            self._running.discard(stream)
            self._admission.release()

        stream = NativeStream(lambda callback: server.handle_chat_completions(native, callback), done)
        self._running.add(stream)
        try:
            stream.start(self._pool)
        except RuntimeError:  # closed while this request waited
            done()
            raise EngineError(503, "engine-closed", "this engine is stopping") from None
        return stream

    async def _answer(
        self, stream: NativeStream, maker: ChunkMaker, request: ChatRequest
    ) -> AsyncGenerator[dict[str, Any], None]:
        opened = called = False
        while True:
            try:
                raw = await stream.next()
            except ValueError:
                raise _refused(request) from None
            except Exception:
                raise _failed(request) from None
            if raw is None:
                # The native call returned and no usage came: it was stopped, or it broke.
                raise EngineError(503, "engine-failed", "the engine stopped before the answer was complete")
            if "error" in raw:
                raise self._native_error(raw["error"], request)
            if not opened:
                opened = True
                yield maker.role()
            usage = raw.get("usage")
            for choice in raw.get("choices", ()):
                delta = _clean_delta(choice.get("delta") or {})
                called = called or "tool_calls" in delta
                if delta:
                    yield maker.delta(delta, clean_logprobs(choice.get("logprobs")))
                reason = choice.get("finish_reason")
                if reason is not None:
                    if request.tools and request.tool_choice not in (None, "auto") and not called:
                        raise EngineError(502, "tool_call_missing", "the model did not make the tool call asked for")
                    yield maker.finish("tool_calls" if called and reason == "stop" else reason)
            if isinstance(usage, dict):
                details = usage.get("prompt_tokens_details") or {}
                yield maker.usage(
                    int(usage["prompt_tokens"]), int(usage["completion_tokens"]), int(details.get("cached_tokens", 0))
                )
                return

    def _native_error(self, error: Any, request: ChatRequest) -> EngineError:
        """Translate by type and number; the engine's text may quote the request and stays here."""
        error = error if isinstance(error, dict) else {}
        if error.get("type") == "exceed_context_size_error":
            limit = self._info.context if self._info else self._spec.context
            count = error.get("n_prompt_tokens")
            tokens = f"{count} tokens" if isinstance(count, int) else "more"
            return EngineError(
                400,
                "context_length_exceeded",
                f"this model's context is {limit} tokens, and the messages came to {tokens}",
                param="messages",
            )
        if error.get("type") == "invalid_request_error":
            return _refused(request)
        return EngineError(500, "engine-failed", "the engine failed on this request")

    # ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> EngineInfo:
        # Read by OpenMP when it is loaded: sleep after a short spin. Costs 8 % on an idle machine; on a busy one it is
        # the difference between 5 tokens/s and 30 (2 threads on 2 cores).
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        try:
            import xllamacpp  # type: ignore[import-untyped,unused-ignore]
        except ImportError as exc:
            raise OperatorError(
                "the llama.cpp engine is not installed",
                code="engine-missing",
                hint="pip install 'teehouse-enclave[llamacpp]'",
            ) from exc
        spec = self._spec
        with contextlib.ExitStack() as stack:
            # The file is opened once, hashed through that descriptor and loaded through it: a path that changes its
            # meaning in between changes nothing. What remains: somebody who can write into this very file while it
            # is mapped, that is, somebody inside the TEE with the node's own rights.
            model = stack.enter_context(_open_gguf(self._path))
            parts = {"model.gguf": file_digest(model)}
            adapter = stack.enter_context(_open_gguf(spec.mmproj)) if spec.mmproj is not None else None
            if adapter is not None:
                parts["mmproj.gguf"] = file_digest(adapter)
            digest = digest_of_parts(parts) if adapter is not None else parts["model.gguf"]
            if spec.weights_sha256 not in (None, digest):
                raise OperatorError(
                    "the model weights are not the ones expected",
                    code="weights-mismatch",
                    hint=f"expected {spec.weights_sha256}, found {digest}",
                )
            room = tempfile.mkdtemp(prefix="teehouse-engine-")  # 0700
            stack.callback(shutil.rmtree, room, ignore_errors=True)
            key = secrets.token_hex(32)
            door = os.path.join(room, "engine.sock")  # the suffix is how llama.cpp knows a Unix socket
            params = _params(xllamacpp, spec, _by_descriptor(model, self._path), door, key)
            if adapter is not None:
                params.mmproj.path = _by_descriptor(adapter, spec.mmproj or "")
            try:
                server = xllamacpp.Server(params)
            except Exception:
                raise OperatorError(
                    "llama.cpp cannot load this model",
                    code="engine-start-failed",
                    hint="is the file whole, of a known architecture, and is there memory for its context?",
                ) from None
            if not str(server.listening_address).startswith("unix://"):
                raise OperatorError("llama.cpp listens elsewhere than told", code="engine-start-failed")
            props, models = _ask(door, key, "/props"), _ask(door, key, "/v1/models")
            os.unlink(door)
        context = _at(props, "default_generation_settings", "n_ctx")
        trained = _at(models, "data", 0, "meta", "n_ctx_train")
        if not isinstance(context, int) or context < spec.context:
            raise OperatorError(f"llama.cpp gave less context than {spec.context} tokens", code="engine-start-failed")
        if isinstance(trained, int) and 0 < trained < spec.context:
            raise OperatorError(
                f"this model was made for a context of {trained} tokens",
                code="engine-start-failed",
                hint="ask for less",
            )
        self._server = server
        caps = _at(props, "chat_template_caps")
        tools = (
            isinstance(caps, dict) and caps.get("supports_tools") is True and caps.get("supports_tool_calls") is True
        )
        images = _at(props, "modalities", "vision") is True
        self._ability = Ability(tools=tools and spec.tools, images=images, json_schema=True, logprobs=True)
        features = {"stream", "stop", "seed", "logit_bias", "json_schema", "logprobs"}
        return EngineInfo(
            engine="llamacpp",
            version=f"xllamacpp/{xllamacpp.__version__}",
            model=spec.name,
            weights_sha256=digest,
            context=context,
            modalities=frozenset({"text", "image"} if images else {"text"}),
            features=frozenset(features | {"tools"} if self._ability.tools else features),
        )


def _params(xllamacpp: Any, spec: EngineSpec, path: str, door: str, key: str) -> Any:
    """Every setting that differs from llama.cpp's defaults, and why."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = spec.context * spec.parallel  # shared out evenly among the slots
    params.n_parallel = spec.parallel
    params.n_batch = params.n_ubatch = spec.batch  # one callback, hence one chance to cancel, per step of a prefill
    # One core stays free for the node itself: llama.cpp's threads wait for each other by spinning, and one that is
    # kept off its core stops them all. Measured on 2 busy cores: 2 threads 5 tokens/s, 1 thread 55.
    threads = spec.threads or max(1, _physical_cores() - 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = spec.gpu_layers
    params.fit_params = False  # would shrink the published context in silence
    params.prefill_assistant = False  # OpenAI answers a trailing assistant message, it does not continue it
    # A listener cannot be left out; this one is on a private Unix socket, behind a key, and unlinked after two reads.
    params.hostnames = [door]
    params.api_keys = [key]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False  # would show prompts
    params.endpoint_props = False
    params.endpoint_metrics = False
    params.cors_origins = ""
    params.offline = True
    # Nothing of a request may be felt by the next one, not even as time saved.
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = 0
    params.slot_prompt_similarity = 0.0
    params.slot_save_path = ""
    params.verbosity = -1
    params.show_timings = False
    return params


def _native_body(request: ChatRequest) -> dict[str, Any]:
    """The request in llama.cpp's words. `cache_prompt` is said again: it is a member of the request there."""
    body: dict[str, Any] = {
        "messages": request.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
        "cache_prompt": False,
    }
    for name, value in request.sampling.items():
        body[_RENAMED.get(name, name)] = value % _SEEDS if name == "seed" else value
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs
    if request.response_format is not None:
        body["response_format"] = request.response_format
    if request.tools:
        choice = request.tool_choice or "auto"
        body["tools"] = request.tools
        if isinstance(choice, dict):  # a function by name: llama.cpp knows only "one of these"
            body["tools"] = [one for one in request.tools if one["function"]["name"] == choice["function"]["name"]]
            choice = "required"
        body["tool_choice"] = choice
        body["parallel_tool_calls"] = request.parallel_tool_calls
    return body


def _clean_delta(raw: dict[str, Any]) -> dict[str, Any]:
    delta = {key: raw[key] for key in ("content", "reasoning_content") if isinstance(raw.get(key), str) and raw[key]}
    calls = clean_tool_calls(raw.get("tool_calls"))
    return {**delta, "tool_calls": calls} if calls else delta


def _refused(request: ChatRequest) -> EngineError:
    """llama.cpp refused; which member it was follows from what the request has, not from its text."""
    if request.response_format is not None:
        return EngineError(
            400, "schema_unsupported", "the engine cannot enforce this response format", param="response_format"
        )
    if request.images:
        return EngineError(400, "invalid_image", "the engine cannot read an image of this request", param="messages")
    return EngineError(400, "invalid_value", "the engine refused this request")


def _failed(request: ChatRequest) -> EngineError:
    if request.images:
        return _refused(request)
    return EngineError(500, "engine-failed", "the engine failed on this request")


def _open_gguf(path: str) -> BinaryIO:
    try:
        file = Path(path).open("rb")  # noqa: SIM115  the caller's stack closes it
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or file.read(4) != b"GGUF":
            file.close()
            raise OperatorError("the model file is not a GGUF file", code="weights-unreadable")
    except OSError as exc:
        raise OperatorError(f"cannot read the model weights: {exc.strerror}", code="weights-unreadable") from exc
    return file


def _by_descriptor(file: BinaryIO, path: str) -> str:
    """A path that means this open file. Linux only; elsewhere the plain path, with the race that comes with it."""
    return f"/proc/self/fd/{file.fileno()}" if sys.platform == "linux" else path


def _ask(door: str, key: str, path: str) -> Any:
    """One GET over the Unix socket, by hand: a whole HTTP client for two reads would be trusted code for nothing."""
    request = f"GET {path} HTTP/1.0\r\nHost: engine\r\nAuthorization: Bearer {key}\r\n\r\n"
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)  # seconds; a loaded model answers at once
            link.connect(door)
            link.sendall(request.encode())
            while (block := link.recv(65_536)) and len(answer) < _MAX_ANSWER:
                answer += block
        return json.loads(answer.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        raise OperatorError("llama.cpp does not say what the model can do", code="engine-start-failed") from None


def _at(value: Any, *path: str | int) -> Any:
    """Walk into an answer of the engine; None where it does not go on."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _physical_cores() -> int:
    """Cores this process may use, hyper-threads counted once: more threads than that make llama.cpp slower."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // 2)
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))
