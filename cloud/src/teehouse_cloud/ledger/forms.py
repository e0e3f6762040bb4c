# SPDX-License-Identifier: Apache-2.0
"""Reading what callers of the ledger send: bodies, queries and paths. Raises `MalformedError`, `LedgerRefusal`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import parse_qs

from teehouse_cloud.errors import ClientGone
from teehouse_cloud.gateway.asgi import Receive, Scope, header
from teehouse_cloud.ledger.answers import LedgerRefusal
from teehouse_cloud.ledger.entries import FILTERS, NewEntry
from teehouse_core.errors import MalformedError
from teehouse_core.log.tiles import MAX_ENTRY
from teehouse_core.wire.canonical import MAX_INTEGER, unb64u

__all__ = [
    "MAX_APPEND",
    "MAX_ENTRIES",
    "Body",
    "cursor_of",
    "filters_of",
    "parse_append",
    "parse_query",
]

MAX_APPEND = 16 * 1024 * 1024  # bytes of one append
MAX_ENTRIES = 4096  # entries of one append
MAX_PRIVATE = 1024 * 1024  # bytes
MAX_OPENING = 16 * 1024  # bytes of JSON
MAX_QUERY = 1024  # bytes
THREAD_BYTES = 256 * 1024  # a larger body is parsed beside the event loop, which would stand still for milliseconds


class Body:
    """The body of one call, read only when it is wanted."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def read(self, scope: Scope, limit: int, seconds: float) -> bytes:
        """All of it. Raises `LedgerRefusal` (413, 408), `ClientGone`."""
        announced = header(scope, b"content-length")
        if announced is not None and (not announced.isdigit() or len(announced) > 12 or int(announced) > limit):
            raise _too_large(limit)
        chunks = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone("client left while sending", code="client-gone")
                    chunks += message.get("body", b"")
                    self.ended = not message.get("more_body", False)
                    if len(chunks) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            raise LedgerRefusal(408, "too-slow", "the request took too long to arrive") from None
        return bytes(chunks)


def _too_large(limit: int) -> LedgerRefusal:
    return LedgerRefusal(413, "too-large", f"this request has at most {limit} bytes", "send fewer entries at once")


async def parse_append(body: bytes) -> tuple[int, list[NewEntry]]:
    """`{"first", "entries": [{"leaf", "opening", "private"}]}`. Raises `MalformedError`."""
    if len(body) > THREAD_BYTES:
        return await asyncio.to_thread(_append, body)
    return _append(body)


def _append(body: bytes) -> tuple[int, list[NewEntry]]:
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise MalformedError("the body is not JSON") from None
    if not isinstance(value, dict) or value.keys() != {"first", "entries"}:
        raise MalformedError("the body has the members first and entries")
    first, items = value["first"], value["entries"]
    if type(first) is not int or not 0 <= first <= MAX_INTEGER - MAX_ENTRIES:
        raise MalformedError("first is no position")
    if not isinstance(items, list) or len(items) > MAX_ENTRIES:
        raise MalformedError(f"entries is no list of at most {MAX_ENTRIES}")
    return first, [_entry(item) for item in items]


def _no_number(_text: str) -> NoReturn:
    raise ValueError


def _entry(item: Any) -> NewEntry:
    if not isinstance(item, dict) or item.keys() != {"leaf", "opening", "private"}:
        raise MalformedError("an entry has the members leaf, opening and private")
    if not isinstance(item["leaf"], str) or not isinstance(item["private"], str):
        raise MalformedError("leaf or private of an entry is no string")
    leaf, private, opening = unb64u(item["leaf"]), unb64u(item["private"]), item["opening"]
    if not 0 < len(leaf) <= MAX_ENTRY:
        raise MalformedError(f"a leaf has 1 to {MAX_ENTRY} bytes")
    if len(private) > MAX_PRIVATE:
        raise MalformedError(f"private has at most {MAX_PRIVATE} bytes")
    if opening is None:
        return NewEntry(leaf, None, private)
    if not isinstance(opening, dict):
        raise MalformedError("opening is no object")
    text = json.dumps(opening, separators=(",", ":"))
    if len(text) > MAX_OPENING:
        raise MalformedError(f"opening has at most {MAX_OPENING} bytes")
    return NewEntry(leaf, text, private)


def parse_query(scope: Scope, names: Sequence[str]) -> dict[str, str]:
    """Parameters of the query, each once and known by `names`. Raises `MalformedError`."""
    raw: bytes = scope["query_string"]
    if len(raw) > MAX_QUERY:
        raise MalformedError("query too long")
    try:
        found = parse_qs(raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), max_num_fields=8)
    except ValueError:
        raise MalformedError("query not readable") from None
    for name, values in found.items():
        if name not in names or len(values) != 1:
            raise MalformedError("a parameter is unknown or repeated")
    return {name: values[0] for name, values in found.items()}


def cursor_of(query: dict[str, str], *, usual: int, most: int) -> tuple[int, int]:
    """`after` (default 0) and `limit`. Raises `MalformedError`."""
    after, limit = query.get("after", "0"), query.get("limit", str(usual))
    if not all(text.isascii() and text.isdigit() and len(text) <= 16 for text in (after, limit)):
        raise MalformedError("after or limit is no number")
    if int(after) > MAX_INTEGER or not 1 <= int(limit) <= most:
        raise MalformedError(f"limit is 1 to {most}")
    return int(after), int(limit)


def filters_of(query: dict[str, str]) -> dict[str, str]:
    """The labels a list is to be narrowed by. Raises `MalformedError`."""
    only = {name: query[name] for name in FILTERS if name in query}
    if not all(0 < len(value) <= 128 and value.isascii() and value.isprintable() for value in only.values()):
        raise MalformedError("a filter is not printable ASCII")
    return only
