# SPDX-License-Identifier: Apache-2.0
"""A log at an untrusted ledger over HTTP. Nothing that comes from here is believed before it was proven."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2

from teehouse.audit.errors import LogRefused
from teehouse.settings import is_loopback
from teehouse_core.errors import LocalError, MalformedError, OperatorError, TeehouseError
from teehouse_core.log.note import MAX_NOTE
from teehouse_core.log.tiles import MAX_ENTRY, TilePath, tile_path
from teehouse_core.wire.canonical import unb64u

__all__ = ["PAGE", "Ledger", "Row"]

PAGE: Final = 1000  # rows asked for at once
MAX_PAGE: Final = 64 * 1024 * 1024  # bytes of an answer
MAX_TILE: Final = 8192  # bytes
TIMEOUT: Final = 60.0  # seconds of silence
MAX_TILES: Final = 512  # kept, 4 MiB


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as the ledger gives it. `opening` is parsed JSON, or None."""

    index: int
    leaf: bytes = field(repr=False)
    opening: Any = field(repr=False)


class Ledger:
    """One log. `url` is that of the log, `…/ledger/v1/<log>`."""

    def __init__(self, url: str, token: str | None, *, allow_http: bool = False) -> None:
        parts = urlsplit(url)
        self.log = parts.path.rstrip("/").rpartition("/")[2]
        hint = "as https://teehouse.example.org/ledger/v1/tenant-<id>"
        if parts.scheme not in ("http", "https") or not parts.hostname or "/ledger/v1/" not in parts.path:
            raise LocalError("the log's address is no URL of a log", code="audit-url", hint=hint)
        if self.log != "public" and not self.log.startswith("tenant-"):
            raise LocalError("the log's address names no log", code="audit-url", hint=hint)
        if parts.scheme == "http" and not (allow_http or is_loopback(parts.hostname)):
            raise LocalError(
                "plain HTTP to another machine would show the audit token", code="audit-url", hint="use https://"
            )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url.rstrip("/")
        self._http = httpx2.Client(timeout=TIMEOUT, headers=headers, trust_env=not is_loopback(parts.hostname))
        self._tiles: dict[TilePath, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def checkpoint(self) -> bytes:
        """The newest checkpoint, as bytes."""
        return self._get("/checkpoint", MAX_NOTE, {"Cache-Control": "no-cache"})

    def tile(self, path: TilePath) -> bytes:
        """The bytes of a tile; kept, since a tile of one width never changes. Has `tile_source`'s signature."""
        if path not in self._tiles:
            while len(self._tiles) >= MAX_TILES:
                self._tiles.pop(next(iter(self._tiles)))
            try:
                self._tiles[path] = self._get("/" + tile_path(path.level, path.index, path.width), MAX_TILE)
            except OperatorError as error:
                if error.code != "tile-unknown":
                    raise
                raise LogRefused(
                    "the ledger does not give a tile that the signed tree has", code="log-hidden"
                ) from None
        return self._tiles[path]

    def rows(self, start: int, end: int) -> Iterator[Row]:
        """What the ledger gives as the entries `start`…`end`, in its order; may be fewer, or others.

        A caller stops at the first that is not the next one.
        """
        after = start
        while after < end:
            page = self._page(after, min(PAGE, end - after))
            for row in page:
                yield row
                after = row.index + 1
            if not page:
                return

    def _page(self, after: int, limit: int) -> list[Row]:
        data = self._get(f"/entries?after={after}&limit={limit}", MAX_PAGE)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise MalformedError("the ledger's answer is not JSON", code="ledger-answer") from None
        rows = value.get("entries") if isinstance(value, dict) else None
        if not isinstance(rows, list) or len(rows) > limit:
            raise MalformedError("the ledger's answer is no page of entries", code="ledger-answer")
        return [_row(item) for item in rows]

    def _get(self, path: str, limit: int, headers: dict[str, str] | None = None) -> bytes:
        try:
            with self._http.stream("GET", self._url + path, headers=headers) as answer:
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > limit:
                        raise MalformedError("the ledger's answer is too large", code="ledger-answer")
                status = answer.status_code
        except httpx2.HTTPError as error:
            raise OperatorError(
                f"no answer from the ledger: {type(error).__name__}", code="unreachable", hint="Is it running?"
            ) from None
        if status != 200:
            raise _refusal(status, path, bytes(data))
        return bytes(data)


def _row(item: Any) -> Row:
    if not isinstance(item, dict) or type(item.get("index")) is not int or type(item.get("leaf")) is not str:
        raise MalformedError("the ledger's answer holds no entry", code="ledger-answer")
    leaf = unb64u(item["leaf"])
    if item["index"] < 0 or len(leaf) > MAX_ENTRY:
        raise MalformedError("the ledger's answer holds an impossible entry", code="ledger-answer")
    return Row(item["index"], leaf, item.get("opening"))


def _refusal(status: int, path: str, data: bytes) -> TeehouseError:
    try:
        code = json.loads(data).get("code", "")
    except (ValueError, RecursionError, AttributeError):
        code = ""
    if status in (401, 403):
        return LocalError("the ledger does not take this token", code="audit-token", hint="set TEEHOUSE_AUDIT_TOKEN")
    if status == 404 and "/tile/" in path:
        return OperatorError("no such tile", code="tile-unknown")
    if status == 404:
        known = code if code == "checkpoint-unknown" else "log-unknown"
        return OperatorError("the ledger has no such thing", code=known, hint="Is the log's name right?")
    return OperatorError(f"the ledger answers with status {status}", code="unavailable")
