# SPDX-License-Identifier: Apache-2.0
"""HTTP towards the nodes: one aiohttp session without cookies, redirects, proxies, decompression; bounded reads."""

from __future__ import annotations

import json
from typing import Any

import aiohttp

from teehouse_cloud.errors import UpstreamFailed

__all__ = ["NODE_ERRORS", "get_bytes", "get_json", "open_session"]

# seconds an idle connection is kept; below the 5 s after which a node's server closes it, so we rarely write into a
# connection that is just being closed
KEEPALIVE_SECONDS = 4.0
READ_BUFFER = 65536  # bytes of one answer held before reading from the node pauses (backpressure)

NODE_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
"""All that aiohttp raises when a node is absent, slow or broken."""


def open_session() -> aiohttp.ClientSession:
    """A session; must be called in the running loop and closed by the caller."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS, ttl_dns_cache=10),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=READ_BUFFER,
        trust_env=False,
    )


async def get_bytes(session: aiohttp.ClientSession, url: str, *, limit: int, seconds: float) -> tuple[int, str, bytes]:
    """Status, content type and body of a GET. Raises `UpstreamFailed`: connect, timeout, reset, too-large."""
    try:
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with session.get(url, timeout=timeout, allow_redirects=False) as response:
            body = await read_bounded(response, limit)
            return response.status, response.headers.get("Content-Type", ""), body
    except aiohttp.ClientConnectorError as exc:
        raise UpstreamFailed("no connection", code="connect") from exc
    except TimeoutError as exc:
        raise UpstreamFailed("no answer in time", code="timeout") from exc
    except NODE_ERRORS as exc:
        raise UpstreamFailed("connection lost", code="reset") from exc


async def get_json(
    session: aiohttp.ClientSession, url: str, *, limit: int, seconds: float
) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of a GET. Raises `UpstreamFailed` as `get_bytes`, and bad-answer."""
    status, _, body = await get_bytes(session, url, limit=limit, seconds=seconds)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UpstreamFailed("answer is not JSON", code="bad-answer") from exc
    if not isinstance(value, dict):
        raise UpstreamFailed("answer is not a JSON object", code="bad-answer")
    return status, value


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, of at most `limit` bytes. Raises `UpstreamFailed` (too-large)."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            response.close()
            raise UpstreamFailed("answer is too large", code="too-large")
        chunks.append(chunk)
    return b"".join(chunks)
