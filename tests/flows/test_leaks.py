# SPDX-License-Identifier: Apache-2.0
"""What the path, the logs, the database, the metrics and the disk know of a conversation: nothing."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from support_leaks import leaks
from support_platform import Platform, running_platform
from support_tap import tapped

import teehouse

SECRET_WORDS = "Quillabrand-Osterley-77 owes 4,310 francs to the Vermeil clinic"


def canary() -> str:
    return f"{SECRET_WORDS} {secrets.token_hex(12)}"


def test_the_search_itself_finds_what_it_should() -> None:
    import base64
    import gzip
    import json

    text = canary()
    for leaked in (
        text.encode(),
        base64.b64encode(b"x" + text.encode()),
        base64.urlsafe_b64encode(b"xy" + text.encode()),
        text.encode().hex().encode(),
        text.encode("utf-16-le"),
        json.dumps({"m": text}).encode(),
        b"head" + gzip.compress(text.encode()),
        text[20:32].encode(),
    ):
        assert leaks(b"noise" * 10 + leaked + b"noise" * 10, text), leaked
    assert leaks(secrets.token_bytes(200_000), text) == []


def converse(client: Any, endpoint: str, text: str) -> str:
    answer = client.chat.completions.create(
        model=endpoint, messages=[{"role": "user", "content": text}], max_tokens=60, temperature=0
    )
    streamed: Any = client.chat.completions.create(
        model=endpoint, messages=[{"role": "user", "content": text}], max_tokens=60, temperature=0, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    return (answer.choices[0].message.content or "") + "\n" + "".join(pieces)


def test_taps_on_both_sides_of_the_gateway_see_no_window(either: Platform) -> None:
    text = canary()
    nodes = either.nodes()
    with either.operator() as api, tapped(either.gateway) as front:
        taps = [tapped(node["url"]) for node in nodes]
        backs = [tap.__enter__() for tap in taps]
        try:
            for node, back in zip(nodes, backs, strict=True):
                name = node.get("node") or node["id"]
                put = api.put(f"/api/v1/nodes/{name}", json={"endpoint": either.endpoint, "url": back.url})
                assert put.status_code < 300, put.text
            wait_routed(either, {back.url for back in backs})
            with teehouse.OpenAI(
                base_url=front.url, api_key=either.api_key, endpoint=either.endpoint, policy=either.policy
            ) as client:
                answer = converse(client, either.endpoint, text)
        finally:
            for node in nodes:
                name = node.get("node") or node["id"]
                api.put(f"/api/v1/nodes/{name}", json={"endpoint": either.endpoint, "url": node["url"]})
            wait_routed(either, {node["url"] for node in nodes})
            for tap in taps:
                tap.__exit__(None, None, None)
    assert len(answer) > 10
    behind = b"".join(back.seen for back in backs)
    assert len(front.seen) > 5_000
    assert len(behind) > 5_000
    assert leaks(front.seen, text, answer) == []
    assert leaks(behind, text, answer) == []
    assert either.api_key.encode() not in behind  # the node has no use for it


def wait_routed(platform: Platform, urls: set[str]) -> None:
    """Until the gateway's poller has seen the nodes at their new addresses."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if {node["url"] for node in platform.nodes()} == urls and all(
            node.get("state") == "ready" for node in platform.nodes()
        ):
            return
        time.sleep(0.1)
    raise AssertionError(platform.nodes())


def test_nothing_of_a_conversation_stays_behind(tmp_path: Path) -> None:
    text = canary()
    with running_platform(tmp_path, "--engine", "echo", "--nodes", "2") as own:
        with teehouse.OpenAI(
            base_url=own.gateway, api_key=own.api_key, endpoint=own.endpoint, policy=own.policy
        ) as client:
            answer = converse(client, own.endpoint, text)
            for bad in ({"messages": [], "user": text}, {"messages": [{"role": text, "content": text}]}):
                with pytest.raises(openai.BadRequestError) as refused:
                    client.chat.completions.create(model=own.endpoint, **bad)  # type: ignore[call-overload]
                assert leaks(str(refused.value).encode(), text) == []
        response = httpx2.post(
            own.ready["openai_base_url"] + "/chat/completions",
            json={"model": own.endpoint, "messages": [{"role": "user", "content": text}]},
            headers={"authorization": f"Bearer {own.ready['openai_api_key']}"},
            timeout=30,
        )
        assert response.status_code == 200
        metrics = [httpx2.get(url + "/metrics", timeout=5).content for url in _processes(own)]
        time.sleep(1.5)  # usage records travel to the database
        core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    assert text in answer
    searched = 0
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            assert leaks(path.read_bytes(), text) == [], path
            searched += 1
    assert searched >= 8  # database, logs of five processes, policy, ready file
    assert (tmp_path / "p" / "platform.db").stat().st_size > 4096
    for page in metrics:
        assert leaks(page, text) == []
        assert b"teehouse_" in page
    folder = Path(core_pattern).parent if core_pattern.startswith("/") else own.root
    if folder.is_dir():
        assert not [path for path in folder.iterdir() if re.match(r"core(\.\d+)?$", path.name)]


def _processes(platform: Platform) -> list[str]:
    return [platform.gateway, *(node["url"] for node in platform.nodes())]
