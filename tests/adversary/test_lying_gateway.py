# SPDX-License-Identifier: Apache-2.0
"""Every lie of the gateway is refused by every client, with a typed error, and nothing it said is handed out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from forgeries import forge
from lies import ALL, Case
from support_lying import HONEST, Lie, LyingOutside
from support_platform import Platform
from support_proxy import running_proxy

import teehouse
from teehouse_core.errors import EvidenceRefused, TeehouseError

PROMPT = "the patient Quillabrand Osterley takes 40 mg of valdorexin"
HONEST_ANSWER = f"echo: {PROMPT}"
CLIENTS = ("sync", "async", "proxy")


@dataclass
class Outcome:
    """What one question came to."""

    text: str = ""
    error: BaseException | None = None

    @property
    def code(self) -> str | None:
        return getattr(self.error, "code", None)


def question(stream: bool) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}


def ask(client: openai.OpenAI, stream: bool) -> Outcome:
    outcome = Outcome()
    try:
        answer: Any = client.chat.completions.create(**question(stream))
        if not stream:
            outcome.text = answer.choices[0].message.content
        else:
            for chunk in answer:
                if chunk.choices:
                    outcome.text += chunk.choices[0].delta.content or ""
    except (openai.OpenAIError, TeehouseError) as error:
        outcome.error = error
    return outcome


async def ask_async(client: openai.AsyncOpenAI, stream: bool) -> Outcome:
    outcome = Outcome()
    try:
        answer: Any = await client.chat.completions.create(**question(stream))
        if not stream:
            outcome.text = answer.choices[0].message.content
        else:
            async for chunk in answer:
                if chunk.choices:
                    outcome.text += chunk.choices[0].delta.content or ""
    except (openai.OpenAIError, TeehouseError) as error:
        outcome.error = error
    return outcome


class Asker:
    """Asks through one kind of client, fresh, so that evidence is fetched anew."""

    def __init__(self, kind: str, outside: LyingOutside, platform: Platform) -> None:
        self._kind = kind
        self._outside = outside
        self._settings: dict[str, Any] = {
            "base_url": outside.url,
            "api_key": platform.api_key,
            "endpoint": platform.endpoint,
            "policy": platform.policy,
        }

    def run(self, case: Case, stream: bool) -> Outcome:
        self._outside.lie = HONEST
        if self._kind == "async":
            return asyncio.run(self._run_async(case, stream))
        with self._client() as client:
            for _ in range(case.after):
                assert ask(client, stream).error is None
            self._outside.lie = case.lie
            return ask(client, stream)

    async def _run_async(self, case: Case, stream: bool) -> Outcome:
        async with teehouse.AsyncOpenAI(**self._settings, max_retries=0) as client:
            for _ in range(case.after):
                assert (await ask_async(client, stream)).error is None
            self._outside.lie = case.lie
            return await ask_async(client, stream)

    @contextlib.contextmanager
    def _client(self) -> Iterator[openai.OpenAI]:
        if self._kind == "sync":
            with teehouse.OpenAI(**self._settings, max_retries=0) as client:
                yield client
            return
        with (
            running_proxy(**self._settings) as proxy,
            openai.OpenAI(base_url=proxy.base_url, api_key=proxy.token, max_retries=0) as client,
        ):
            yield client


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", CLIENTS)
def test_an_honest_gateway_is_believed(kind: str, stream: bool, outside: LyingOutside, platform: Platform) -> None:
    outcome = Asker(kind, outside, platform).run(Case(HONEST, frozenset()), stream)
    assert (outcome.error, outcome.text) == (None, HONEST_ANSWER)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("name", ALL)
def test_a_lie_is_refused(name: str, kind: str, stream: bool, outside: LyingOutside, platform: Platform) -> None:
    case = ALL[name]
    outcome = Asker(kind, outside, platform).run(case, stream)
    assert outcome.error is not None, f"believed a lie: {outcome.text!r}"
    assert isinstance(outcome.error, openai.OpenAIError)
    assert outcome.code in case.codes, f"{outcome.code}: {outcome.error}"
    if kind != "proxy":
        assert isinstance(outcome.error, TeehouseError | openai.APIStatusError)
    # Authentic text may have been shown before the lie; never a word more, and none of the gateway's own.
    assert HONEST_ANSWER.startswith(outcome.text)
    assert not stream or outcome.text != HONEST_ANSWER or "truncated" in outcome.code or "record" in outcome.code
    for word in ("Quillabrand", "valdorexin", "LIE"):
        assert word not in str(outcome.error)
        assert word not in repr(outcome.error)


@pytest.mark.parametrize("kind", CLIENTS)
def test_after_every_lie_the_honest_answer_still_comes(kind: str, outside: LyingOutside, platform: Platform) -> None:
    """A refusal poisons nothing: the same client, asked again, answers."""
    outside.lie = HONEST
    asker = Asker(kind, outside, platform)
    if kind == "async":

        async def both() -> tuple[Outcome, Outcome]:
            async with teehouse.AsyncOpenAI(**asker._settings, max_retries=0) as client:
                outside.lie = ALL["answer-first-record-flipped"].lie
                first = await ask_async(client, True)
                outside.lie = HONEST
                return first, await ask_async(client, True)

        refused, answered = asyncio.run(both())
    else:
        with asker._client() as client:
            outside.lie = ALL["answer-first-record-flipped"].lie
            refused = ask(client, True)
            outside.lie = HONEST
            answered = ask(client, True)
    assert refused.error is not None
    assert answered.text == HONEST_ANSWER


def test_nothing_was_ever_sent_in_clear(outside: LyingOutside, platform: Platform) -> None:
    """Whatever a gateway answers, what it receives is ciphertext."""
    from support_leaks import leaks

    outside.context.requests.clear()
    for name in ("clear-text-json", "unknown-key-for-ever", "problem-with-an-invented-code", "redirect"):
        Asker("sync", outside, platform).run(ALL[name], False)
    assert len(outside.context.requests) >= 4
    assert leaks(b"\0".join(outside.context.requests), PROMPT) == []
    for frame in outside.context.requests:
        assert frame.startswith(b"TEEH\x01")
        assert platform.api_key.encode() not in frame


def test_a_strict_client_refuses_the_simulated_platform(outside: LyingOutside, platform: Platform) -> None:
    outside.lie = HONEST
    outside.context.requests.clear()
    for preset in ("strict", "standard"):
        with (
            teehouse.OpenAI(
                base_url=outside.url, api_key=platform.api_key, endpoint=platform.endpoint, policy=preset
            ) as client,
            pytest.raises(EvidenceRefused),
        ):
            client.chat.completions.create(**question(False))
    assert outside.context.requests == []


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ({"td_attributes": 1}, "tdx.td.debug"),
        ({"mr_td": bytes(48)}, "tdx.reference.mrtd"),
        ({"age": 60 * 86_400.0}, "tdx.collateral.dates"),
        ({"bound": False}, "binding.report-data"),
    ],
)
def test_a_forgery_is_refused_for_its_one_fault(
    fault: dict[str, Any], check: str, outside: LyingOutside, platform: Platform
) -> None:
    outside.lie = Lie(evidence=lambda bundles, nonce, _x: [forge(one, nonce, **fault) for one in bundles])
    outside.context.requests.clear()
    with (
        teehouse.OpenAI(
            base_url=outside.url, api_key=platform.api_key, endpoint=platform.endpoint, policy=platform.policy
        ) as client,
        pytest.raises(EvidenceRefused) as refused,
    ):
        client.chat.completions.create(**question(False))
    failed = {one.id for one in refused.value.verdict.checks if one.state == "failed"}
    assert check in failed
    assert outside.context.requests == []


def test_on_simulated_hardware_a_flawless_forgery_is_accepted(outside: LyingOutside, platform: Platform) -> None:
    """What SIMULATED means: its root key is public, so this platform protects nothing. The tier says so."""
    outside.lie = Lie(evidence=lambda bundles, nonce, _x: [forge(one, nonce) for one in bundles])
    with teehouse.OpenAI(
        base_url=outside.url, api_key=platform.api_key, endpoint=platform.endpoint, policy=platform.policy
    ) as client:
        verdicts = client.teehouse.verify(platform.endpoint)
    assert {node.accepted.tier for node in verdicts if node.accepted is not None} == {"simulated"}
